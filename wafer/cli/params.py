"""`wafer params …`: what the parameter file may say, and whether one says it."""

import json
from pathlib import Path

import click


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
@click.argument("file", default=Path("params.yaml"), type=click.Path(path_type=Path))
def check_file(file: Path) -> None:
    """Check a parameter FILE (params.yaml where none is named), as each run does before it starts."""
    from wafer.params import read_params

    read_params(file)
    click.echo(f"{file} can be used")
