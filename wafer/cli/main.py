"""The command `wafer`: what a person does with deliveries at a terminal. What takes long to import is imported late."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wafer import __version__
from wafer.boundary import bounded
from wafer.cli.labels import labels
from wafer.cli.models import models
from wafer.cli.monitor import monitor
from wafer.cli.params import params
from wafer.cli.runs import ingest, predict, retrain, run, study, train
from wafer.cli.service import serve, token
from wafer.cli.services import automate, doctor, stack
from wafer.cli.store import expectations_folder, own_suites, quarantine, store
from wafer.errors import EXIT_NEGATIVE, EXIT_STATUS
from wafer.shown import shown_text

if TYPE_CHECKING:
    from wafer.contract.suites import Verdict

KINDS = click.Choice(["training", "prediction"])


class _Bounded(click.Group):
    """A group whose every command ends at the boundary, and whose help lists them in the order of the work."""

    def main(self, *arguments: Any, **named: Any) -> NoReturn:
        named["standalone_mode"] = False
        sys.exit(bounded(lambda: super(_Bounded, self).main(*arguments, **named)))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Bounded, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="wafer")
def cli() -> None:
    """Find faulty semiconductor wafers from their 590 sensor readings.

    \b
    A first round:
      wafer init fab && cd fab                    make a project of your own
      wafer simulate --out data/raw/training      make batch files as a fab delivers them
      wafer check data/raw/training               see which of them keep the agreement, and why not
      wafer run                                   ingest, train, predict and report
      wafer models list                           see which version is in use"""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a project of your own into FOLDER: agreement, parameters, notebooks, deployments, stages and a guide.

    Into a project that is there, only files that it lacks are written; nothing is ever overwritten.

    \b
    Example:
      wafer init fab && cd fab && wafer run
    """
    from wafer.project import write_project

    written = write_project(folder)
    for name in written:
        click.echo(f"  {name}")
    click.echo(f"{len(written)} files written to {shown_text(folder)}; its README.md says how to go on")


@click.command()
@click.option("--batches", default=12, show_default=True, type=click.IntRange(1), help="Batch files to make.")
@click.option("--wafers", default=100, show_default=True, type=click.IntRange(1), help="Wafers in each.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0), help="Names the fab.")
@click.option("--first-batch", default=0, show_default=True, type=click.IntRange(0), help="Batches made before.")
@click.option("--unlabelled", is_flag=True, help="Leave out the label, as for prediction.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to fill.")
def simulate(batches: int, wafers: int, seed: int, first_batch: int, unlabelled: bool, out: Path) -> None:
    """Make batch files of a synthetic fab, in the delivered format; the same seed gives the same bytes.

    \b
    Twelve labelled batches and the three that follow them:
      wafer simulate --out raw/training
      wafer simulate --out raw/prediction --batches 3 --first-batch 12 --unlabelled
    """
    from wafer.fab.simulate import simulate_batches
    from wafer.progress import shown

    with shown("simulate") as progress:
        files = simulate_batches(
            out, batches=batches, wafers=wafers, seed=seed, labelled=not unlabelled, first_batch=first_batch
        )
        for done, _ in enumerate(files, 1):
            progress(done, batches)
    click.echo(f"{batches} batch files of {wafers} wafers in {shown_text(out)}")


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to fill.")
@click.option("--url", default=None, help="Another address of the archive (zip).")
def fetch(out: Path, url: str | None) -> None:
    """Download the public SECOM data set (UCI 179, CC BY 4.0), check it and cut it into batch files.

    \b
    Example:
      wafer fetch --out data/secom
    """
    from wafer.fab.fetch import SECOM_URL, fetch_secom
    from wafer.progress import shown

    with shown("fetch") as progress:
        record = fetch_secom(out, url=url or SECOM_URL, progress=progress)
    click.echo(f"{record.files} batch files, {record.wafers} wafers, {record.faulty} faulty, in {shown_text(out)}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--kind", type=KINDS, default="training", show_default=True, help="Of delivery.")
def deliver(folder: Path, kind: str) -> None:
    """Copy the batch files of FOLDER to where runs take them in from: raw/KIND of the storage, a folder or a bucket.

    Those that are there with the same bytes are left alone. Any other program that writes to
    the bucket may do this too.

    \b
    Example:
      wafer deliver path/to/training
      wafer deliver path/to/prediction --kind prediction
    """
    from wafer.fab.delivery import bring_delivery
    from wafer.settings import Settings

    settings = Settings.read()
    settings.storage.need_bucket()
    target = settings.storage.place(f"raw/{kind}")
    brought = bring_delivery(folder, target, settings.link_roots)
    click.echo(f"{len(brought)} batch files brought to {shown_text(target)}")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--kind", type=KINDS, default="training", show_default=True, help="Which agreement applies.")
@expectations_folder
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON and nothing else.")
def check(paths: tuple[Path, ...], kind: str, expectations: Path | None, as_json: bool) -> None:
    """Check batch files against the data sharing agreement, without storing anything.

    PATHS are files or folders; a folder means every file in it, links that stay in it or lead into a folder that
    WAFER_LINK_ROOTS names among them. Exit status: 0 all accepted, 1 some would be quarantined or cannot be read, or
    there is none, 2 wrong use.

    \b
    Examples:
      wafer check incoming/ --kind prediction
      wafer check incoming/wafer_07012020_041011.csv --json
    """
    from wafer.contract.suites import Contract, judge_files
    from wafer.delivered import list_files
    from wafer.progress import shown
    from wafer.settings import Settings

    settings = Settings.read(storage_url=os.devnull)  # nothing is written, so no folder needs a name
    contract = Contract.load(kind, expectations or own_suites())
    listing = list_files(paths, settings.link_roots)
    with shown("check") as progress:
        verdicts = [verdict for _, verdict in judge_files(listing.files, contract, progress=progress)]
    if as_json:
        click.echo(json.dumps([v.as_dict() for v in verdicts], indent=2, allow_nan=False))
    elif verdicts:
        for verdict in verdicts:
            _tell_verdict(verdict)
        words = Counter(verdict.word for verdict in verdicts)
        unread = f", {words['unread']} unread" if words["unread"] else ""
        click.echo(f"{len(verdicts)} files: {words['accepted']} accepted, {words['quarantined']} quarantined{unread}")
    if told := listing.why_empty or listing.left_out:
        click.echo(told, err=as_json)
    sys.exit(0 if verdicts and all(v.accepted for v in verdicts) else EXIT_NEGATIVE)


def _tell_verdict(verdict: "Verdict") -> None:
    click.echo(f"{click.style(verdict.word, fg='green' if verdict.accepted else 'red'):<12} {shown_text(verdict.file)}")
    for reason in verdict.reasons:
        click.echo(f"    {reason.rule}: {reason.message}")
    for warning in verdict.warnings:
        click.secho(f"    {warning.rule} (warning): {warning.message}", dim=True)


@click.group()
def agreement() -> None:
    """Turn the customer's data sharing agreement into the suites that judge deliveries."""


@agreement.command("init")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--kind", type=KINDS, default="training", show_default=True, help="With a label, or without.")
@click.option("--sensors", default=590, show_default=True, type=click.IntRange(1), help="Number of sensors.")
def init_agreement(file: Path, kind: str, sensors: int) -> None:
    """Write a first agreement FILE (JSON) for a new customer, to be edited and imported."""
    from wafer.contract.agreement import init_agreement as write

    write(file, kind=kind, sensors=sensors)
    told = shown_text(file)
    click.echo(f"{told} written; edit it, then: wafer agreement import {told} --kind {kind}")


@agreement.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--kind", type=KINDS, default=None, help="Default: training where the agreement has a label column.")
@click.option(
    "--expectations",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of the suites; default: expectations/ of the project, else of the working directory.",
)
def import_agreement(file: Path, kind: str | None, expectations: Path | None) -> None:
    """Generate the suite from the agreement FILE; rules of your own in the suite stay."""
    from wafer.contract.agreement import import_agreement as convert
    from wafer.settings import find_project

    suite = convert(file, kind, folder=expectations or (find_project() or Path.cwd()) / "expectations")
    click.echo(f"{shown_text(suite)} written")


def _tell_exit_status(command: click.Command) -> None:
    """End the help of `command`, and of those below it, with what its exit status means."""
    told = ", ".join(f"{status} {meaning}" for status, meaning in EXIT_STATUS.items())
    command.epilog = f"Exit status: {told}."
    for below in getattr(command, "commands", {}).values():
        _tell_exit_status(below)


COMMANDS = (
    init,
    simulate,
    fetch,
    agreement,
    params,
    check,
    deliver,
    run,
    ingest,
    quarantine,
    labels,
    store,
    train,
    retrain,
    models,
    predict,
    monitor,
    study,
    serve,
    token,
    stack,
    doctor,
    automate,
)
for command in COMMANDS:
    cli.add_command(command)
_tell_exit_status(cli)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with `arguments` (default: those of the process) and end the process with its exit status."""
    cli.main(arguments, prog_name="wafer")
    raise AssertionError("a command ends the process")
