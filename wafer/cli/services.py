"""The commands about servers: `wafer stack …` starts them here, `wafer doctor` sees whether they can be used."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wafer.cli.store import as_json
from wafer.errors import EXIT_NEGATIVE
from wafer.shown import shown_message, shown_text

if TYPE_CHECKING:
    from click.decorators import FC

    from wafer.stack.control import Seen

COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


def stack_folder() -> "Callable[[FC], FC]":
    """The option --folder of the stack's commands."""
    return click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="Folder of the stack's data, logs and keys; default: stack/ of the project.",
    )


@click.group()
def stack() -> None:
    """Run the servers of a small production on this machine: Prefect with a worker, S3, MongoDB's protocol, MLflow.

    \b
    From nothing to a deployment that has run:
      wafer stack up
      prefect deploy --all
      prefect deployment run ingest/wafer --watch
      wafer stack status
      wafer stack down
    """


@stack.command()
@stack_folder()
def up(folder: Path | None) -> None:
    """Start what does not run yet, wait until all of it is healthy, and let .env point to it.

    All listens on 127.0.0.1, on ports from WAFER_PORT_BASE on (default 17300). Data, logs and generated passwords
    stay in the folder. In the project's .env a marked block names the servers; variables that have a line of your
    own there are left out of it. `make stack` is the same.

    \b
    Examples:
      wafer stack up
      WAFER_PORT_BASE=18300 wafer stack up --folder /srv/wafer-stack
    """
    from wafer.lifeline import end_in_order
    from wafer.settings import Settings
    from wafer.stack.control import running, status, up, write_variables
    from wafer.stack.parts import Place

    end_in_order()  # what was started until then is stopped
    settings = Settings.read()
    project = settings.project or Path.cwd()
    folder, exit_status, began = (folder or project / "stack").absolute(), 0, None
    if (place := running(folder)) is None:
        began = datetime.now(UTC)
        up(place := Place(folder, project, settings.port_base), _tell_part)
    else:
        click.echo(f"the stack in {shown_text(folder)} is up already")
        exit_status = _tell_seen(status(folder))
    kept = write_variables(project / ".env", place.variables())
    click.echo(f"{shown_text(project / '.env')} points to them; data and logs are in {shown_text(place.folder)}")
    os.environ |= {"PREFECT_API_URL": place.variables()["PREFECT_API_URL"], "PREFECT_HOME": str(folder / "prefect")}
    if exit_status == 0:  # else Prefect's server may be what does not answer
        _install_automations()
    if began is not None:
        _end_what_is_left(began)
    for name in kept:
        _warn(f"{name} is set in .env or the environment already, so the stack's is not in use")
    if not (place.folder / "postgres").exists():
        _warn(
            "Prefect's server works on SQLite, which holds for a worker or two; for more install PostgreSQL before the "
            "first start of a stack, and start it as another user than root"
        )
    sys.exit(exit_status)


def _install_automations() -> None:
    from flows.automations import install

    for name in install():
        click.echo(f"automation of Prefect's server: {name}")


def _end_what_is_left(before: datetime) -> None:
    from flows.automations import end_what_is_left

    for name in end_what_is_left(before):
        click.echo(f"ended, since the stack was stopped in the middle of it: {shown_text(name)}")


@click.command()
def automate() -> None:
    """Let Prefect's server end runs whose process or worker is gone, which would stay Running for ever.

    Installs the automations of this library on the server of PREFECT_API_URL, or brings them to their present form.
    A run of a deployment in prefect.yaml is then Crashed within three minutes of its last sign of life.
    `wafer stack up` does so by itself.

    \b
    Example:
      wafer automate
    """
    from wafer.settings import prepare_environment

    if prepare_environment().prefect_url is None:
        raise click.UsageError("no Prefect server is named: set PREFECT_API_URL")
    _install_automations()


@stack.command()
@stack_folder()
def down(folder: Path | None) -> None:
    """Stop all of the stack and leave nothing running; its data, and the block in .env, stay.

    \b
    Example:
      wafer stack down
    """
    from wafer.stack.control import down

    folder = _folder(folder)
    told = "stopped; .env still points to it" if down(folder) else "no stack runs"
    click.echo(f"{told} ({shown_text(folder)})")


@stack.command("status")
@stack_folder()
@as_json
def status_of_stack(folder: Path | None, as_json: bool) -> None:
    """Name each part of the stack, and whether it is healthy. Exit status 1: a part is not, or no stack runs.

    \b
    Example:
      wafer stack status --json
    """
    from wafer.stack.control import status

    folder = _folder(folder)
    seen = status(folder)
    if as_json:
        click.echo(json.dumps([{**asdict(one), "log": str(one.log)} for one in seen], indent=2))
        sys.exit(EXIT_NEGATIVE if not seen or any(one.why for one in seen) else 0)
    if not seen:
        click.echo(f"no stack runs in {shown_text(folder)}: wafer stack up")
    sys.exit(_tell_seen(seen))


def _tell_seen(seen: "Sequence[Seen]") -> int:
    for one in seen:
        if one.why is None:
            _tell_part(one.name, one.address)
        else:
            _tell_line("failure", one.name, f"{one.why}; its log is {one.log}")
    return EXIT_NEGATIVE if not seen or any(one.why for one in seen) else 0


def _folder(folder: Path | None) -> Path:
    from wafer.settings import find_project

    return (folder or (find_project() or Path.cwd()) / "stack").absolute()


def _tell_part(name: str, address: str) -> None:
    _tell_line("ok", name, address)


def _tell_line(state: str, name: str, told: str) -> None:
    click.echo(f"{click.style(f'{state:<8}', fg=COLOURS[state])} {name:<15} {shown_message(told)}")


def _warn(told: str) -> None:
    click.secho(f"wafer: {shown_message(told)}", fg="yellow", err=True)


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """See whether each service that is configured can be used, and say what to do where it cannot.

    A line a check: places and their free space, database (version, a document written and removed, clock, leases),
    storage, model registry, Prefect. Nothing is made where nothing has run yet. Exit status: 0 no failure, 1 some.

    \b
    Examples:
      wafer doctor
      wafer doctor --json
    """
    from wafer.doctor import examine

    failed, found = False, []
    for check in examine():
        failed |= check.state == "failure"
        found.append(asdict(check))
        if not as_json:
            _tell_line(check.state, check.name, f"{check.told}: {check.hint}" if check.hint else check.told)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    sys.exit(EXIT_NEGATIVE if failed else 0)
