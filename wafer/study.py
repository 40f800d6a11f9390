"""Steps apart from production, for `dvc repro` and `make notebooks`: `python -m wafer.steps [NAME ...]`.

Everything lies below one folder. The database is an embedded one that starts empty and is thrown away when the command
ends, whatever MONGODB_URL says, so that a step's outputs depend on its declared inputs alone; the registry is not
touched. Names that need the same database stand in one command.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from wafer import steps
from wafer.errors import ModelError, SnapshotError, WaferError
from wafer.params import DEFAULT_FILE, Params, read_params
from wafer.progress import show_log_lines
from wafer.records import Evaluated, Fitted, Frozen, Ingested, Predicted
from wafer.settings import Settings
from wafer.storage import AnyPath, read_json
from wafer.store.embedded import embedded_server, wait_until_stopped

DEFAULT_STORAGE = Path("data/repro")
NEED_DATABASE = frozenset({"ingest-training", "ingest-prediction", "snapshot", "predict"})
NAMES = (
    "deliver",
    "ingest-training",
    "ingest-prediction",
    "snapshot",
    "fit",
    "evaluate",
    "predict",
    "report-data-quality",
    "report-exploration",
    "report-training",
    "report-prediction",
)


class Study:
    """The steps of one study by name, as in `NAMES`; each finds what it needs where the earlier ones left it."""

    def __init__(self, settings: Settings, params: Params) -> None:
        self.settings = settings
        self.steps: dict[str, Callable[[], object]] = {
            "deliver": lambda: steps.deliver(settings, params.deliver),
            "ingest-training": lambda: steps.ingest(settings, "training"),
            "ingest-prediction": lambda: steps.ingest(settings, "prediction"),
            "snapshot": lambda: steps.snapshot(self._emptied("snapshot")),
            "fit": lambda: steps.fit(self._emptied("models"), params.fit, self._frozen().folder),
            "evaluate": lambda: steps.evaluate(
                settings, params.evaluate, params.fit, self._frozen().folder, self._fitted().folder
            ),
            "predict": lambda: steps.predict(settings, self._ingested().report, self._fitted().folder),
            "report-data-quality": lambda: steps.report_data_quality(settings, self._frozen()),
            "report-exploration": lambda: steps.report_exploration(settings, self._frozen(), self._fitted()),
            "report-training": lambda: steps.report_training(
                settings, self._frozen(), self._fitted(), self._evaluated()
            ),
            "report-prediction": lambda: steps.report_prediction(settings, self._ingested(), self._predicted()),
        }

    def _emptied(self, area: str) -> Settings:
        """The settings, once what an earlier run left in an area is gone: a study holds one snapshot and one model."""
        shutil.rmtree(str(self.settings.area(area)), ignore_errors=True)
        return self.settings

    def _frozen(self) -> Frozen:
        folder = _only_folder(self.settings.area("snapshot"), SnapshotError)
        manifest = read_json(folder / "manifest.json")
        return Frozen(str(folder), manifest["digest"], manifest["wafers"], manifest["faulty"])

    def _fitted(self) -> Fitted:
        from wafer.registry.packaging import model_digest

        folder = _only_folder(self.settings.area("models"), ModelError)
        return Fitted(str(folder), model_digest(Path(str(folder))))

    def _evaluated(self) -> Evaluated:
        return Evaluated(str(self._report("metrics.json")), str(self._report("scores.parquet")))

    def _ingested(self) -> Ingested:
        file = self._report("ingest-prediction.json")
        report = read_json(file)
        return Ingested(
            report=str(file),
            page=str(self._report("ingest-prediction.html")),
            files=report["files"],
            accepted=report["accepted"],
            quarantined=report["quarantined"],
            unread=report["unread"],
            wafers_stored=report["wafers_stored"],
        )

    def _predicted(self) -> Predicted:
        index = read_json(self._report("predictions.json"))
        return Predicted(
            folder=str(self.settings.area("predictions")),
            files=tuple(entry["predictions"] for entry in index),
            wafers=sum(entry["wafers"] for entry in index),
            alarms=sum(entry["alarms"] for entry in index),
            details=str(self._report("prediction")),
            model_folder=self._fitted().folder,
            model_version=steps.UNREGISTERED,
        )

    def _report(self, name: str) -> AnyPath:
        return self.settings.area("reports") / name


def _only_folder(parent: AnyPath, error: type[WaferError]) -> AnyPath:
    """The one folder in `parent`: a study holds one snapshot and one model."""
    found = sorted((p for p in parent.iterdir() if p.is_dir()), key=str) if parent.exists() else []
    if len(found) != 1:
        raise error(f"{parent}: expected exactly one folder, got {len(found)}; run the step that makes it first")
    return found[0]


@contextmanager
def _throwaway_database(storage: Path) -> Iterator[Path]:
    """A state folder with an empty embedded database, gone when the block ends."""
    storage.mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix=".state-", dir=storage))
    try:
        with embedded_server(state / "mongodb"):
            yield state
    finally:
        wait_until_stopped(state / "mongodb")
        shutil.rmtree(state, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named steps in the order given; the exit status is 0, or 2 after an error that was told."""
    show_log_lines()
    parser = argparse.ArgumentParser(prog="python -m wafer.steps", description=__doc__)
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help=f"steps, in the order to run them: {', '.join(NAMES)} (all)"
    )
    parser.add_argument("--storage", type=Path, default=DEFAULT_STORAGE, help="folder of everything (%(default)s)")
    parser.add_argument("--params", type=Path, default=DEFAULT_FILE, help="parameter file (%(default)s)")
    parser.add_argument("--raw", help="folder with training/ and prediction/, instead of the parameter deliver.folder")
    options = parser.parse_args(arguments)
    names = options.name or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"there is no step {unknown[0]!r}, only: {', '.join(NAMES)}")
    try:
        params = read_params(options.params)
        if options.raw is not None:
            params = params.model_copy(update={"deliver": params.deliver.model_copy(update={"folder": options.raw})})
        needs_database = bool(NEED_DATABASE.intersection(names))
        with _throwaway_database(options.storage) if needs_database else nullcontext(options.storage) as state:
            study = Study(Settings.study(options.storage, state), params)
            for name in names:
                study.steps[name]()
    except WaferError as error:
        print(f"wafer: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person gets to read
        return 2
    return 0
