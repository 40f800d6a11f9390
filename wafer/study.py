"""Steps apart from production, for `dvc repro` and `make notebooks`: `wafer study [STEP …]`.

Everything lies below one folder. The database is an embedded one that starts empty and is thrown away when the command
ends, whatever MONGODB_URL says, so that a step's outputs depend on its declared inputs alone; the registry is not
touched. Names that need the same database stand in one command.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from wafer import steps
from wafer.errors import ModelError, SnapshotError, WaferError
from wafer.params import Params
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


def run_study(names: Sequence[str], storage: Path, params: Params) -> None:
    """Run the steps `names` (see `NAMES`; none: all) in the order given, everything below `storage`."""
    needs_database = not names or bool(NEED_DATABASE.intersection(names))
    with _throwaway_database(storage) if needs_database else nullcontext(storage) as state:
        study = Study(Settings.study(storage, state), params)
        for name in names or NAMES:
            study.steps[name]()
