"""The commands that do the work: `wafer run`, `ingest`, `train`, `predict` as Prefect flows, and `wafer study` apart.

Prefect reads its settings when it is imported, so flows are imported after the environment is prepared.
"""

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from wafer.cli.params import params_file, params_in_use
from wafer.errors import EXIT_NEGATIVE, WaferError
from wafer.logs import told_as_json
from wafer.records import NOTEBOOKS, REPORTS
from wafer.shown import shown_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from click.decorators import FC

    from flows.entry import Finished
    from wafer.records import Kind
    from wafer.storage import AnyPath
    from wafer.workspace import Workspace

    Folders = Sequence[AnyPath] | Callable[[], Sequence[AnyPath]]

KINDS: "tuple[Kind, Kind]" = ("training", "prediction")


def raw_folder(text: str) -> "Callable[[FC], FC]":
    """The option --raw with its help."""
    return click.option("--raw", metavar="FOLDER", default=None, help=text)


@click.command()
@raw_folder("Folder that holds training/ and prediction/; default: raw/ of the storage, else the synthetic fab's.")
@params_file
def run(raw: str | None, params_file: Path | None) -> None:
    """Do the whole job: ingest, train, predict, and a short summary.

    Training's batch files come from RAW/training, those to predict from RAW/prediction. Without --raw they
    come from the storage's raw/; where that is missing, the synthetic fab delivers once, into a run of its own,
    runs/delivery-<time>/raw. Where there is nothing to train on, the model in use predicts.

    \b
    Examples:
      wafer run
      WAFER_STORAGE=data/mine wafer run --raw path/to/deliveries
    """
    with _opened() as workspace:
        folders: Folders = partial(_stored_deliveries, workspace)
        if raw is not None:
            folders = [workspace.settings.opened(f"{raw}/{kind}") for kind in KINDS]
        params = params_in_use(params_file)
        _get_ready(workspace, raw=folders, params=params, kinds=KINDS, guard=True, notebooks=NOTEBOOKS)
        from flows.ingest import ingest
        from flows.predict import predict
        from flows.train import train
        from wafer import steps
        from wafer.params import read_params

        if raw is None:
            steps.deliver_where_empty(workspace, read_params(params).deliver)
        training, prediction = (None if raw is None else f"{raw}/{kind}" for kind in KINDS)
        finished, negative = [ingest(training, "training")], list[str]()
        try:
            finished.append(train(str(params)))
        except WaferError as error:
            if error.exit_status != EXIT_NEGATIVE:
                raise
            negative += error.sentences
        if negative and workspace.registry.champion() is None:
            negative.append("nothing was predicted, since no model is in use yet")
        else:
            finished.append(predict(prediction))
        _end(workspace, finished, negative, _told_serve(workspace))


@click.command()
@raw_folder("Folder of batch files; default: raw/KIND of the storage, else what the synthetic fab has delivered.")
@click.option("--kind", type=click.Choice(KINDS), default="training", show_default=True, help="Of delivery.")
@click.option(
    "--replace",
    is_flag=True,
    help="Let wafers with other readings replace the stored ones, which stay in their history.",
)
def ingest(raw: str | None, kind: "Kind", replace: bool) -> None:
    """Take in a delivery: check each batch file, store the good ones, quarantine the others with reasons.

    Exit status 1: some file could not be read, or there was none.

    \b
    Examples:
      wafer ingest --raw incoming/training
      wafer ingest --raw incoming/corrected --replace
    """
    with _opened() as workspace:
        folders: Folders = [workspace.settings.opened(raw)] if raw is not None else lambda: [workspace.raw(kind)]
        _get_ready(workspace, raw=folders, kinds=[kind])
        from flows.ingest import ingest as flow

        _end(workspace, [flow(raw, kind, replace)])


@click.command()
@params_file
@click.option("--force", is_flag=True, help="Make a version even where the very same training has made one.")
def train(params_file: Path | None, force: bool) -> None:
    """Train a version on every labelled wafer that is stored, and let the gate decide whether it comes into use.

    \b
    Example:
      wafer train --params params.yaml
    """
    from wafer.preflight import need_labelled_wafers

    with _opened() as workspace:
        params = params_in_use(params_file)
        needs = {"params": params, "kinds": KINDS[:1], "guard": True, "notebooks": NOTEBOOKS[:3]}
        _get_ready(workspace, need_labelled_wafers, **needs)
        from flows.train import train as flow

        _end(workspace, [flow(str(params), force)])


@click.command()
@params_file
def retrain(params_file: Path | None) -> None:
    """Train where it is time to, and let the gate decide: where batches drifted, labels came, or days have passed.

    The section `retrain` of the parameters says from when on, and the summary by which of them. Without a wafer that
    was labelled since the newest training nothing is trained, and it is told why.

    \b
    Example:
      wafer retrain
    """
    from wafer.preflight import need_labelled_wafers

    with _opened() as workspace:
        params = params_in_use(params_file)
        needs = {"params": params, "kinds": KINDS[:1], "guard": True, "notebooks": NOTEBOOKS[:3]}
        _get_ready(workspace, need_labelled_wafers, **needs)
        from flows.retrain import retrain as flow

        _end(workspace, [cast("Finished", flow(str(params)))])


@click.command()
@raw_folder("Folder of batch files; default: raw/prediction of the storage, else what the synthetic fab has delivered.")
@click.option("--new-only", is_flag=True, help="Score only files that no run has scored yet.")
def predict(raw: str | None, new_only: bool) -> None:
    """Score a delivery with the model in use, and report what it says of each wafer.

    \b
    Examples:
      wafer predict --raw incoming/prediction
      wafer predict --new-only
    """
    from wafer.preflight import need_champion

    with _opened() as workspace:
        folders: Folders = (
            [workspace.settings.opened(raw)] if raw is not None else lambda: [workspace.raw("prediction")]
        )
        _get_ready(workspace, need_champion, raw=folders, kinds=KINDS[1:], notebooks=NOTEBOOKS[3:])
        from flows.predict import predict as flow

        _end(workspace, [flow(raw, new_only)])


@click.command()
@click.argument("steps", nargs=-1, metavar="[STEP]…")
@click.option(
    "--storage",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of everything; default: data/repro of the project.",
)
@params_file
@raw_folder("Folder that holds training/ and prediction/, instead of the parameter deliver.folder.")
def study(steps: tuple[str, ...], storage: Path | None, params_file: Path | None, raw: str | None) -> None:
    """Run single steps, or all, apart from production: no server, no registry, everything below one folder.

    \b
    STEPs, in the order in which they follow from each other:
      deliver  ingest-training  ingest-prediction  snapshot  fit  evaluate  predict
      report-data-quality  report-exploration  report-training  report-prediction

    Steps that need the same database stand in one command. `dvc repro` runs them as its stages.

    \b
    Examples:
      wafer study --storage data/notebooks/mine --raw path/to/deliveries
      wafer study fit evaluate
    """
    from wafer.lifeline import end_in_order, tie_children
    from wafer.logs import show_log_lines
    from wafer.params import read_params
    from wafer.settings import Settings
    from wafer.study import NAMES, run_study

    if unknown := [name for name in steps if name not in NAMES]:
        raise click.BadParameter(f"there is no step {unknown[0]!r}, only: {', '.join(NAMES)}", param_hint="STEP")
    settings = Settings.read()
    show_log_lines(settings.log_format)
    params = read_params(params_in_use(params_file))
    if raw is not None:
        delivered = params.deliver.model_copy(update={"folder": str(Path(raw).absolute())})
        params = params.model_copy(update={"deliver": delivered})
    if storage is None and settings.project is None:
        raise click.UsageError("no project lies here or above: name a folder for everything by --storage")
    place = storage or settings.of_project("data/repro")
    _look_ahead_of_study(steps or NAMES, place, params.deliver.folder)
    tie_children()
    end_in_order()
    complaints: list[str] = []

    def tell(complaint: str) -> None:
        complaints.append(complaint)
        complain(complaint)

    run_study(steps, place, params, tell)
    sys.exit(EXIT_NEGATIVE if complaints else 0)


def _look_ahead_of_study(steps: "Sequence[str]", storage: Path, folder: str | None) -> None:
    from wafer.preflight import look_ahead
    from wafer.settings import Settings

    settings = Settings.study(storage, storage / "state")
    look_ahead(
        settings,
        raw=[settings.of_project(folder) / kind for kind in KINDS] if folder is not None and "deliver" in steps else (),
        kinds=[kind for kind in KINDS if f"ingest-{kind}" in steps],
        guard="fit" in steps,
        notebooks=[REPORTS[step] for step in steps if step in REPORTS],
        storage="--storage",
    )


def _opened() -> "Workspace":
    """The workspace, once the environment suits Prefect, which reads it when it is imported."""
    from wafer.settings import prepare_environment
    from wafer.workspace import Workspace

    return Workspace(prepare_environment())


def _stored_deliveries(workspace: "Workspace") -> "Sequence[AnyPath]":
    """The storage's folders of batch files, none where both are missing: the synthetic fab delivers then."""
    folders = [workspace.raw(kind) for kind in KINDS]
    return folders if any(folder.exists() for folder in folders) else []


def _get_ready(workspace: "Workspace", *looks: "Callable[[Workspace], None]", **needs: Any) -> None:
    """Look ahead for what the work needs, then make Prefect's home and let only this library talk on the terminal.

    `looks` are those into what earlier work has left; they come last, since they open the store or the registry.
    """
    from wafer.lifeline import end_in_order, tie_children
    from wafer.logs import show_log_lines
    from wafer.preflight import look_ahead
    from wafer.settings import make_prefect_home

    look_ahead(workspace.settings, **needs)
    for look in looks:
        look(workspace)
    tie_children()
    end_in_order()
    make_prefect_home(workspace.settings)
    from flows.entry import make_database, quieten

    show_log_lines(workspace.settings.log_format)
    quieten()
    if workspace.settings.prefect_url is None:
        make_database(workspace.settings.prefect_home)


def _told_serve(workspace: "Workspace") -> str:
    """How to go on with the API, on the same storage."""
    own = os.environ.get("WAFER_STORAGE")
    place = "" if not own else f"WAFER_STORAGE={shlex.quote(str(workspace.storage.root))} "
    return f"to score wafers and work with alarms over an API: {place}wafer serve"


def _end(
    workspace: "Workspace", finished: "Sequence[Finished]", negative: "Sequence[str]" = (), hint: str | None = None
) -> None:
    """Say what came of the runs, what they complain of, and what else was `negative`: then the exit status is 1."""
    from wafer.reporting.summary import summarise_runs

    if runs := [workspace.runs.get(one.run_id) for one in finished if one.run_id is not None]:
        click.echo(summarise_runs(workspace, runs))
    for one in finished:
        if one.told:
            click.echo(shown_message(one.told))
    if hint is not None:
        click.echo(shown_message(hint))
    complaints = [*(complaint for one in finished for complaint in one.complaints), *negative]
    for complaint in complaints:
        complain(complaint)
    sys.exit(EXIT_NEGATIVE if complaints else 0)


def complain(complaint: str) -> None:
    """Tell what should not be: to people in red, or as a line of JSON."""
    if not told_as_json(complaint):
        click.secho(f"wafer: {shown_message(complaint)}", fg="red", err=True)
