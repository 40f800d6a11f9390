"""The commands about labels that come later than their wafers: `wafer labels …`."""

import json
import sys
from dataclasses import asdict

import click

from wafer.cli.runs import complain
from wafer.cli.store import as_json
from wafer.errors import EXIT_NEGATIVE
from wafer.shown import shown_text


@click.group()
def labels() -> None:
    """Take in labels that come later than their wafers."""


@labels.command("import")
@click.argument("file")
@as_json
def import_labels(file: str, as_json: bool) -> None:
    """Give stored wafers the labels of FILE: a CSV with the agreed id and label columns alone.

    FILE is a path, an s3:// address, or a key of the storage. The same file again changes nothing. Exit status 1: a
    label contradicts a stored one, which stays, or a wafer is not stored; each is named, and the others have their
    labels. A file that is not as agreed is refused as a whole.

    \b
    Examples:
      wafer labels import inspected.csv
      wafer labels import s3://fab/labels/inspected.csv --json
    """
    import wafer
    from wafer import steps
    from wafer.lifeline import end_in_order
    from wafer.logs import show_log_lines
    from wafer.preflight import look_ahead

    with wafer.open() as workspace:
        look_ahead(workspace.settings)
        end_in_order()
        show_log_lines(workspace.settings.log_format)
        with steps.working(workspace, "labels") as run:
            done = steps.import_labels(workspace, run, file)
    click.echo(json.dumps(asdict(done), indent=2) if as_json else f"{shown_text(done.file)}: {done.told}")
    for complaint in done.complaints:
        complain(complaint)
    sys.exit(EXIT_NEGATIVE if done.complaints else 0)
