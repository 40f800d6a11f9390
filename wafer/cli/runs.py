"""The commands that do the work: `wafer run`, `ingest`, `train`, `predict` as Prefect flows, and `wafer study` apart.

Prefect reads its settings when it is imported, so flows are imported after the environment is prepared.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.decorators import FC

    from wafer.settings import Settings

EXIT_UNREAD = 1
KINDS = ("training", "prediction")
NOTEBOOKS = ("data_quality", "exploration", "training", "prediction")

params_file = click.option(
    "--params",
    "params_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("params.yaml"),
    show_default=True,
    help="Parameter file.",
)


def raw_folder(text: str) -> "Callable[[FC], FC]":
    """The option --raw with its help."""
    return click.option("--raw", type=click.Path(path_type=Path, file_okay=False), default=None, help=text)


@click.command()
@raw_folder("Folder that holds training/ and prediction/; default: raw/ of the storage, simulated where it is empty.")
@params_file
def run(raw: Path | None, params_file: Path) -> None:
    """Do the whole job: ingest, train, predict, and a short summary.

    Training's batch files come from RAW/training, those to predict from RAW/prediction. Without --raw, a synthetic fab
    fills the storage's own raw/ the first time.

    \b
    Examples:
      wafer run
      WAFER_STORAGE=data/mine wafer run --raw path/to/deliveries
    """
    settings = _settings()
    places = settings.area("raw") if raw is None else raw
    delivered = [places / kind for kind in KINDS]
    if raw is None and not any(folder.exists() for folder in delivered):
        delivered = []  # the synthetic fab will fill them
    _get_ready(settings, raw=delivered, params=params_file, kinds=KINDS, guard=True, notebooks=NOTEBOOKS)
    from flows.ingest import ingest
    from flows.predict import predict
    from flows.train import train
    from wafer import steps
    from wafer.params import read_params
    from wafer.reporting.summary import summarise_run

    folder = Path(steps.deliver_where_empty(settings, read_params(params_file).deliver) if raw is None else raw)
    ingest(str(folder / "training"), "training")
    reported = [train(str(params_file)), predict(str(folder / "prediction"))]
    click.echo(summarise_run(settings, reported))


@click.command()
@raw_folder("Folder of batch files; default: raw/KIND of the storage.")
@click.option("--kind", type=click.Choice(KINDS), default="training", show_default=True, help="Of delivery.")
@click.option(
    "--replace",
    is_flag=True,
    help="Let wafers with other readings replace the stored ones, which stay in their history.",
)
def ingest(raw: Path | None, kind: Literal["training", "prediction"], replace: bool) -> None:
    """Take in a delivery: check each batch file, store the good ones, quarantine the others with reasons.

    Exit status 1: some file could not be read.

    \b
    Examples:
      wafer ingest --raw incoming/training
      wafer ingest --raw incoming/corrected --replace
    """
    settings = _settings()
    _get_ready(settings, raw=[settings.area("raw") / kind if raw is None else raw], kinds=[kind])
    from flows.ingest import ingest as flow

    ingested = flow(None if raw is None else str(raw), kind, replace)
    sys.exit(EXIT_UNREAD if ingested.unread else 0)


@click.command()
@params_file
def train(params_file: Path) -> None:
    """Train a version on every labelled wafer that is stored, and let the gate decide whether it comes into use.

    \b
    Example:
      wafer train --params params.yaml
    """
    _get_ready(_settings(), params=params_file, kinds=KINDS[:1], guard=True, notebooks=NOTEBOOKS[:3])
    from flows.train import train as flow

    flow(str(params_file))


@click.command()
@raw_folder("Folder of batch files; default: raw/prediction of the storage.")
def predict(raw: Path | None) -> None:
    """Score a delivery with the model in use, and report what it says of each wafer.

    \b
    Example:
      wafer predict --raw incoming/prediction
    """
    settings = _settings()
    folder = settings.area("raw") / "prediction" if raw is None else raw
    _get_ready(settings, raw=[folder], kinds=KINDS[1:], notebooks=NOTEBOOKS[3:])
    from flows.predict import predict as flow

    flow(None if raw is None else str(raw))


@click.command()
@click.argument("steps", nargs=-1, metavar="[STEP]…")
@click.option(
    "--storage",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/repro"),
    show_default=True,
    help="Folder of everything.",
)
@params_file
@raw_folder("Folder that holds training/ and prediction/, instead of the parameter deliver.folder.")
def study(steps: tuple[str, ...], storage: Path, params_file: Path, raw: Path | None) -> None:
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
    from wafer.study import NAMES, run_study

    if unknown := [name for name in steps if name not in NAMES]:
        raise click.BadParameter(f"there is no step {unknown[0]!r}, only: {', '.join(NAMES)}", param_hint="STEP")
    show_log_lines()
    params = read_params(params_file)
    if raw is not None:
        params = params.model_copy(update={"deliver": params.deliver.model_copy(update={"folder": str(raw)})})
    _look_ahead_of_study(steps or NAMES, storage, params.deliver.folder)
    run_study(steps, storage, params)


def _look_ahead_of_study(steps: Sequence[str], storage: Path, folder: str | None) -> None:
    from wafer.preflight import look_ahead
    from wafer.settings import Settings

    look_ahead(
        Settings.study(storage, storage / "state"),
        raw=[Path(folder) / kind for kind in KINDS] if folder is not None and "deliver" in steps else (),
        kinds=[kind for kind in KINDS if f"ingest-{kind}" in steps],
        guard="fit" in steps,
        notebooks=[name for name in NOTEBOOKS if f"report-{name.replace('_', '-')}" in steps],
        storage="--storage",
    )


def _settings() -> "Settings":
    """The settings, once the environment suits Prefect, which reads it when it is imported."""
    from wafer.settings import prepare_environment

    return prepare_environment()


def _get_ready(settings: "Settings", **needs: Any) -> None:
    """Look ahead for what the work needs, then make Prefect's home and let only this library talk on the terminal."""
    from wafer.preflight import look_ahead
    from wafer.progress import show_log_lines
    from wafer.settings import make_prefect_home

    look_ahead(settings, **needs)
    make_prefect_home(settings)
    from flows.entry import quieten

    show_log_lines()
    quieten()
