"""The commands that do the work: `wafer run`, `ingest`, `train`, `predict` as Prefect flows, and `wafer study` apart.

Prefect reads its settings when it is imported, so flows are imported after the environment is prepared.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wafer.shown import shown_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from click.decorators import FC

    from flows.entry import Finished
    from wafer.records import Kind
    from wafer.workspace import Workspace

EXIT_COMPLAINTS = 1

params_file = click.option(
    "--params",
    "params_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Parameter file; default: the project's params.yaml.",
)


def raw_folder(text: str) -> "Callable[[FC], FC]":
    """The option --raw with its help."""
    return click.option("--raw", type=click.Path(path_type=Path, file_okay=False), default=None, help=text)


@click.command()
@raw_folder("Folder that holds training/ and prediction/; default: raw/ of the storage, simulated where it is empty.")
@params_file
def run(raw: Path | None, params_file: Path | None) -> None:
    """Do the whole job: ingest, train, predict, and a short summary.

    Training's batch files come from RAW/training, those to predict from RAW/prediction. Without --raw, a synthetic fab
    fills the storage's own raw/ the first time.

    \b
    Examples:
      wafer run
      WAFER_STORAGE=data/mine wafer run --raw path/to/deliveries
    """
    with _ready() as workspace:
        from flows.ingest import ingest
        from flows.predict import predict
        from flows.train import train
        from wafer import steps
        from wafer.params import read_params

        params = params_file or workspace.params_file
        if raw is None:
            steps.deliver_where_empty(workspace, read_params(params).deliver)
        training, prediction = (None if raw is None else str(raw / kind) for kind in ("training", "prediction"))
        _end(workspace, [ingest(training, "training"), train(str(params)), predict(prediction)])


@click.command()
@raw_folder("Folder of batch files; default: raw/KIND of the storage.")
@click.option(
    "--kind", type=click.Choice(["training", "prediction"]), default="training", show_default=True, help="Of delivery."
)
@click.option(
    "--replace",
    is_flag=True,
    help="Let wafers with other readings replace the stored ones, which stay in their history.",
)
def ingest(raw: Path | None, kind: "Kind", replace: bool) -> None:
    """Take in a delivery: check each batch file, store the good ones, quarantine the others with reasons.

    Exit status 1: some file could not be read, or there was none.

    \b
    Examples:
      wafer ingest --raw incoming/training
      wafer ingest --raw incoming/corrected --replace
    """
    with _ready() as workspace:
        from flows.ingest import ingest as flow

        _end(workspace, [flow(None if raw is None else str(raw), kind, replace)])


@click.command()
@params_file
def train(params_file: Path | None) -> None:
    """Train a version on every labelled wafer that is stored, and let the gate decide whether it comes into use.

    \b
    Example:
      wafer train --params params.yaml
    """
    with _ready() as workspace:
        from flows.train import train as flow

        _end(workspace, [flow(str(params_file or workspace.params_file))])


@click.command()
@raw_folder("Folder of batch files; default: raw/prediction of the storage.")
def predict(raw: Path | None) -> None:
    """Score a delivery with the model in use, and report what it says of each wafer.

    \b
    Example:
      wafer predict --raw incoming/prediction
    """
    with _ready() as workspace:
        from flows.predict import predict as flow

        _end(workspace, [flow(None if raw is None else str(raw))])


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
def study(steps: tuple[str, ...], storage: Path | None, params_file: Path | None, raw: Path | None) -> None:
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
    from wafer.params import read_params
    from wafer.progress import show_log_lines
    from wafer.settings import Settings
    from wafer.study import NAMES, run_study

    if unknown := [name for name in steps if name not in NAMES]:
        raise click.BadParameter(f"there is no step {unknown[0]!r}, only: {', '.join(NAMES)}", param_hint="STEP")
    show_log_lines()
    settings = Settings.read()
    params = read_params(params_file or settings.default("params.yaml"))
    if raw is not None:
        params = params.model_copy(update={"deliver": params.deliver.model_copy(update={"folder": str(raw)})})
    run_study(steps, storage or (settings.project or Path.cwd()) / "data" / "repro", params)


def _ready() -> "Workspace":
    """The workspace, once the environment suits Prefect and its home is there."""
    from wafer.progress import show_log_lines
    from wafer.settings import make_prefect_home, prepare_environment
    from wafer.workspace import Workspace

    settings = prepare_environment()
    make_prefect_home(settings)
    from flows.entry import quieten

    show_log_lines()
    quieten()
    return Workspace(settings)


def _end(workspace: "Workspace", finished: "Sequence[Finished]") -> None:
    """Say what came of the runs, and what they have to complain of: then the exit status is 1."""
    from wafer.reporting.summary import summarise_runs

    click.echo(summarise_runs(workspace, [workspace.runs.get(one.run_id) for one in finished]))
    complaints = [complaint for one in finished for complaint in one.complaints]
    for complaint in complaints:
        click.secho(f"wafer: {shown_message(complaint)}", fg="red", err=True)
    sys.exit(EXIT_COMPLAINTS if complaints else 0)
