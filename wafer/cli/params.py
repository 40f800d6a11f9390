"""`wafer params …`: what the parameter file may say, and whether one says it."""

import json
from pathlib import Path

import click

from wafer.shown import shown_text

params_file = click.option(
    "--params",
    "params_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Parameter file; default: the project's params.yaml.",
)


def params_in_use(named: Path | None) -> Path:
    """The parameter file that a person has named, else the project's own."""
    from wafer.settings import Settings

    return named or Settings.read().default("params.yaml")


@click.group()
def params() -> None:
    """Say what params.yaml may hold, and check one before a run."""


@params.command("schema")
def print_schema() -> None:
    """Print the JSON schema of params.yaml: each key's meaning, unit, bounds and the project's own value.

    \b
    Example:
      wafer params schema > params.schema.json     an editor completes and checks keys by it
    """
    from wafer.params import Params

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
    click.echo(json.dumps(schema, indent=2, ensure_ascii=False, allow_nan=False))


@params.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check_file(file: Path | None) -> None:
    """Check a parameter FILE (the project's params.yaml where none is named), as each run does before it starts."""
    from wafer.params import read_params

    file = params_in_use(file)
    read_params(file)
    click.echo(f"{shown_text(file)} can be used")
