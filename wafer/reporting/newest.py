"""The run that a notebook shows where nobody has named one: the newest of its kind, else a simulated one, and said so.

Reports of record name their run, so none of them ever comes here. The simulated run is a small study of the synthetic
fab in the user's cache, apart from every storage; it is kept until the library's code changes.
"""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from IPython.display import display

from wafer.errors import ReportError
from wafer.params import read_params
from wafer.records import Kind
from wafer.runs import Run
from wafer.settings import DEFAULTS, Settings, cache_folder, find_project
from wafer.shown import shown_message, shown_text
from wafer.storage import is_local, read_json, take_lock, write_json, write_text
from wafer.workspace import Workspace

DEMO = "demo"  # below a storage: what `make run` makes of the synthetic fab
STEPS = ("deliver", "ingest-training", "ingest-prediction", "snapshot", "fit", "evaluate", "predict")
SMALL: dict[str, dict[str, Any]] = {
    "deliver": {"folder": None, "training_batches": 4, "prediction_batches": 2, "wafers": 100},
    "fit": {"trees": 30, "search_budget": 1, "search_folds": 2, "calibration_folds": 2, "max_clusters": 3}
    | {"reference_window": 100},
    "evaluate": {"folds": 2, "repeats": 1, "permutations": 1, "first_batch": 3},
}
"""What the simulated run has otherwise than params.yaml: as little as still gives reasons, in about a minute of CPU."""
MADE_FROM = "made-from.json"
SECONDS_FOR_ANOTHER = 600.0  # that makes the same run at the same time


def open_newest(kind: Kind) -> tuple[Workspace, Run]:
    """The newest run of `kind` in the storage that the environment or the project names, and its workspace.

    The project is the one of the working directory, else the checkout that the library is imported from. A storage
    without such a run may hold the one that `make run` has made on the synthetic fab, in `demo/`; where it does not, a
    small one is simulated on the spot. In both cases the notebook says so.

    Raises:
        SettingsError: a variable cannot be used.
        ReportError: no run could be simulated.
    """
    project = find_project() or DEFAULTS
    workspace = Workspace(Settings.read(project=project))
    if (found := workspace.runs.latest(kind)) is not None:
        return workspace, found
    root = workspace.storage.root
    lacking = f"**Simulated wafers, not yours:** `{shown_message(str(root))}` holds no {kind} yet."
    if is_local(root):
        demo = Workspace(Settings.read(project=project, storage_url=str(root / DEMO)))
        if (found := demo.runs.latest(kind)) is not None:
            _tell(f"{lacking} This is `{found.id}` of `{shown_text(demo.storage.root)}`, made on the synthetic fab.")
            return demo, found
    place = cache_folder() / "simulated"
    make_simulated(place, _tell(f"{lacking} This is a small run on the synthetic fab, kept in `{shown_text(place)}`."))
    simulated = Workspace(Settings.study(place, place / "state"))
    return simulated, simulated.runs.study()


def make_simulated(place: Path, tell: Callable[[str], None] = lambda _: None) -> None:
    """Simulate a small training and prediction as a study in the folder `place`, if none by this very code is there.

    `tell` hears how far it has come. Whoever asks for the same at the same time waits and finds it made.

    Raises:
        ReportError: it failed, as where the extra `embedded` is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's progress bars miss a widget, which is nothing to a reader
        from wafer.registry.provenance import source_digest

    wanted = {"source": source_digest(Path(__file__).parents[1]), "params": SMALL}
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("wb") as lock:
        take_lock(lock, place, seconds=SECONDS_FOR_ANOTHER)
        if (place / MADE_FROM).exists() and read_json(place / MADE_FROM) == wanted:
            return
        shutil.rmtree(place, ignore_errors=True)  # of other code, or left half done
        place.mkdir()
        _simulate(place, tell)
        write_json(place / MADE_FROM, wanted)


def _simulate(folder: Path, tell: Callable[[str], None]) -> None:
    """Run the study in a process of its own, which needs rooms above this one, and ends with this one."""
    params = read_params(DEFAULTS / "params.yaml").model_dump()
    small = {section: values | SMALL.get(section, {}) for section, values in params.items()}
    write_text(folder / "params.yaml", yaml.safe_dump(small))
    command = [sys.executable, "-P", "-m", "wafer", "study", "--storage", str(folder)]
    command += ["--params", str(folder / "params.yaml"), *STEPS]
    environment = {**os.environ, "WAFER_PROJECT": str(DEFAULTS)}  # the fab's files keep the library's own agreement
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    last = ""
    with subprocess.Popen(command, env=environment, cwd=folder, text=True, errors="replace", **streams) as study:
        try:
            for line in study.stdout or ():
                last = line.strip() or last
                tell(f"It is being made, which takes about a minute: {shown_message(last)}")
        except BaseException:
            study.terminate()
            raise
    if study.returncode:
        raise ReportError(f"no run could be simulated: {shown_message(last.removeprefix('wafer: '))}")
    tell("")


@dataclass(frozen=True)
class _Told:
    """A paragraph of a notebook; at a terminal the same text."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


def _tell(text: str) -> Callable[[str], None]:
    """Say something in the notebook; what is returned says how it goes on, in the same place."""
    handle = display(_Told(text), display_id=True)  # type: ignore[no-untyped-call]
    return lambda more: None if handle is None else handle.update(_Told(f"{text} {more}".strip()))
