"""Whatever a run starts ends with it: no process of it lives on, however it ends."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests import working
from tests.conftest import REPOSITORY
from wafer.fab.simulate import simulate_batches
from wafer.params import read_params
from wafer.settings import Settings
from wafer.store.embedded import wait_until_stopped
from wafer.study import run_study

pytestmark = pytest.mark.slow

MARK = "WAFER_TEST_RUN"
SECONDS_TO_GET_THERE = 600
SECONDS_TO_VANISH = 60
# what a process of the run is called, at a moment of the run
PLACES = {"server": "prefect.server.api", "database": "secantusd-py", "pool": "popen_loky", "notebook": "ipykernel"}
COMMANDS = {
    "ingest": ("ingest", "--raw", "{}/raw/training"),
    "train": ("train", "--force", "--params", "{params}"),
    "predict": ("predict", "--raw", "{}/raw/prediction"),
    "take in": ("study", "ingest-training", "--storage", "{}", "--params", "{params}"),
    "evaluate": ("study", "evaluate", "--storage", "{}", "--params", "{params}"),
    "report": ("study", "report-data-quality", "--storage", "{}", "--params", "{params}"),
}
OFTEN = (  # the mechanism once for each kind of process; single steps get to the late ones in seconds
    ("train", "server", 2.0),
    ("evaluate", "pool", 0.0),
    ("report", "notebook", 0.2),
)
SELDOM = (
    ("ingest", "server", 0.0),
    ("ingest", "database", 0.5),
    ("train", "database", 4.0),
    ("train", "pool", 1.0),
    ("train", "notebook", 2.0),
    ("predict", "server", 4.0),
    ("predict", "notebook", 0.5),
)
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
POINTS = [
    *(pytest.param(*point, KILL, marks=pytest.mark.invariant) for point in OFTEN),
    pytest.param("take in", "database", 0.5, TERM, marks=pytest.mark.invariant),
    pytest.param("evaluate", "pool", 1.0, INT, marks=pytest.mark.invariant),
    *((*point, KILL) for point in SELDOM),
    *((*point, number) for point in SELDOM[1::2] for number in (TERM, INT)),
]


class Started:
    """A command in a process of its own, which can be told, with all that it starts, by a mark."""

    def __init__(self, place: Path, command: str, params: Path) -> None:
        self.mark = secrets.token_hex(8)
        self.said = place / "said.txt"
        environment = {**os.environ, MARK: self.mark, "WAFER_STORAGE": str(place / "data"), "WAFER_JOBS": "2"}
        arguments = [word.format(place / "data", params=params) for word in COMMANDS[command]]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wafer", *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def processes(self) -> list[str]:
        """The command lines of all living processes of the run."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def wait_for(self, there: Callable[[list[str]], bool], seconds: float) -> list[str]:
        """The processes when `there` holds of them, or when the time is over."""
        deadline = time.monotonic() + seconds
        while not there(found := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def go_to(self, place: str) -> None:
        """Wait until the run has a process of that kind, or has ended without."""
        there = PLACES[place]
        found = self.wait_for(
            lambda lines: any(there in line for line in lines) or self.process.poll() is not None, SECONDS_TO_GET_THERE
        )
        assert any(there in line for line in found), self.said.read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_params: Path) -> Path:
    """A storage with an embedded database and a champion, on which a study's single steps can work, too."""
    storage, params = tmp_path_factory.mktemp("trained"), read_params(small_params)
    list(simulate_batches(storage / "raw" / "training", batches=6, wafers=40, seed=7))
    list(simulate_batches(storage / "raw" / "prediction", batches=2, wafers=40, seed=7, first_batch=6, labelled=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        settings = Settings.read(storage_url=str(storage), mongodb_url=None, jobs=1)
        working.ingest(settings, "training")
        working.train(settings, params)
        complaints: list[str] = []
        run_study(["ingest-training", "snapshot", "fit"], storage, params, complaints.append)
        assert complaints == []
    assert wait_until_stopped(storage / "state" / "mongodb")
    return storage


@pytest.mark.parametrize(("command", "place", "later", "number"), POINTS)
def test_what_is_ended_leaves_no_process(
    command: str, place: str, later: float, number: signal.Signals, trained: Path, small_params: Path, tmp_path: Path
) -> None:
    """Some seconds after it has started a process of that kind: after `kill -9`, or after SIGTERM or Ctrl-C, by which
    it ends soon, with the exit status of that signal and no traceback."""
    shutil.copytree(trained, tmp_path / "data")
    started = Started(tmp_path, command, small_params)
    try:
        started.go_to(place)
        time.sleep(later)
        started.process.send_signal(number)
        status = started.process.wait(SECONDS_TO_VANISH)
    finally:
        started.process.kill()
        started.process.wait()
    assert status == (-number if number == KILL else 128 + number), started.said.read_text()
    assert "Traceback" not in started.said.read_text()
    assert started.wait_for(lambda lines: not lines, SECONDS_TO_VANISH) == []
