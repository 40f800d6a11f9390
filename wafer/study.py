"""Steps apart from production, for `dvc repro` and `make notebooks`: `wafer study [STEP …]`.

Everything lies below one folder. The database is an embedded one that starts empty and is thrown away when the command
ends, whatever MONGODB_URL says, so that a step's outputs depend on its declared inputs alone; the registry is not
touched. Names that need the same database stand in one command.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from wafer import steps
from wafer.params import Params
from wafer.records import REPORTS, Kind
from wafer.settings import Settings
from wafer.store.embedded import embedded_server, wait_until_stopped
from wafer.workspace import Workspace

NEED_DATABASE = frozenset({"ingest-training", "ingest-prediction", "snapshot", "predict"})
NAMES = (
    "deliver",
    "ingest-training",
    "ingest-prediction",
    "snapshot",
    "fit",
    "evaluate",
    "predict",
    *REPORTS,
)


class Study:
    """The steps of one study by name, as in `NAMES`; each finds what it needs where the earlier ones left it."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self.workspace, run = workspace, workspace.runs.study()
        self.steps: dict[str, Callable[[], object]] = {
            "deliver": lambda: steps.deliver(workspace, run, params.deliver),
            "ingest-training": lambda: steps.ingest(self._quarantining("training"), run, "training"),
            "ingest-prediction": lambda: steps.ingest(self._quarantining("prediction"), run, "prediction"),
            "snapshot": lambda: steps.snapshot(self._emptied("snapshot"), run),
            "fit": lambda: steps.fit(self._emptied("models"), run, params.fit, params.policy, params.monitor),
            "evaluate": lambda: steps.evaluate(workspace, run, params.evaluate, params.fit, params.policy),
            "predict": lambda: steps.predict(workspace, run),
            **{step: partial(steps.report, workspace, run, notebook) for step, notebook in REPORTS.items()},
        }

    def _quarantining(self, kind: Kind) -> Workspace:
        """The workspace, with the folder of what is turned away, which DVC expects even where nothing is."""
        self.workspace.storage.place(f"quarantine/{kind}").mkdir(parents=True, exist_ok=True)
        return self.workspace

    def _emptied(self, area: str) -> Workspace:
        """The workspace, once what an earlier run left in an area is gone: a study holds one snapshot and one model."""
        shutil.rmtree(str(self.workspace.storage.place(area)), ignore_errors=True)
        return self.workspace


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


def run_study(names: Sequence[str], storage: Path, params: Params, tell: Callable[[str], None]) -> None:
    """Run the steps `names` (see `NAMES`; none: all) in the order given, everything below `storage`.

    `tell` hears what a step has to complain of; the others go on.
    """
    needs_database = not names or bool(NEED_DATABASE.intersection(names))
    with (
        _throwaway_database(storage) if needs_database else nullcontext(storage) as state,
        Workspace(Settings.study(storage, state)) as workspace,
    ):
        study = Study(workspace, params)
        for name in names or NAMES:
            for complaint in getattr(study.steps[name](), "complaints", ()):
                tell(complaint)
