"""Steps apart from production, for `dvc repro` and `make notebooks`: `python -m wafer.study [NAME ...]`.

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
from functools import partial
from pathlib import Path

from wafer import steps
from wafer.errors import WaferError
from wafer.params import DEFAULT_FILE, Params, read_params
from wafer.progress import show_log_lines
from wafer.settings import Settings
from wafer.store.embedded import embedded_server, wait_until_stopped
from wafer.workspace import Workspace

DEFAULT_STORAGE = Path("data/repro")
NOTEBOOKS = ("data_quality", "exploration", "training", "prediction")
NEED_DATABASE = frozenset({"ingest-training", "ingest-prediction", "snapshot", "predict"})
NAMES = (
    "deliver",
    "ingest-training",
    "ingest-prediction",
    "snapshot",
    "fit",
    "evaluate",
    "predict",
    *(f"report-{name.replace('_', '-')}" for name in NOTEBOOKS),
)


class Study:
    """The steps of one study by name, as in `NAMES`; each finds what it needs where the earlier ones left it."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self.workspace, run = workspace, workspace.runs.study()
        self.steps: dict[str, Callable[[], object]] = {
            "deliver": lambda: steps.deliver(workspace, run, params.deliver),
            "ingest-training": lambda: steps.ingest(workspace, run, "training"),
            "ingest-prediction": lambda: steps.ingest(workspace, run, "prediction"),
            "snapshot": lambda: steps.snapshot(self._emptied("snapshot"), run),
            "fit": lambda: steps.fit(self._emptied("models"), run, params.fit),
            "evaluate": lambda: steps.evaluate(workspace, run, params.evaluate, params.fit),
            "predict": lambda: steps.predict(workspace, run),
            **{f"report-{name.replace('_', '-')}": partial(steps.report, workspace, run, name) for name in NOTEBOOKS},
        }

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named steps in the order given; the exit status is 0, or 2 after an error that was told."""
    show_log_lines()
    parser = argparse.ArgumentParser(prog="python -m wafer.study", description=__doc__)
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
        with (
            _throwaway_database(options.storage) if needs_database else nullcontext(options.storage) as state,
            Workspace(Settings.study(options.storage, state)) as workspace,
        ):
            study = Study(workspace, params)
            for name in names:
                study.steps[name]()
    except WaferError as error:
        print(f"wafer: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person gets to read
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
