"""Whatever a run starts ends with it: no process of it lives on, however it ends."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import working
from tests.conftest import REPOSITORY
from wafer.fab.simulate import simulate_batches
from wafer.settings import Settings
from wafer.store.embedded import wait_until_stopped

pytestmark = [pytest.mark.slow, pytest.mark.invariant, pytest.mark.timeout(900)]

MARK = "WAFER_TEST_RUN"
SECONDS_TO_GET_THERE = 600
SECONDS_TO_VANISH = 60
# what a process of the run is called, at a moment of the run
PLACES = {"server": "prefect.server.api", "database": "secantusd-py", "pool": "popen_loky", "notebook": "ipykernel"}

POINTS = (
    ("server", 0.0),
    ("server", 2.0),
    ("database", 0.5),
    ("database", 6.0),
    ("pool", 0.0),
    ("pool", 1.5),
    ("notebook", 0.2),
    ("notebook", 3.0),
)


class Flow:
    """A training in a process of its own, which can be told, with all that it starts, by a mark."""

    def __init__(self, place: Path, params: Path) -> None:
        self.mark = secrets.token_hex(8)
        self.said = place / "said.txt"
        environment = {**os.environ, MARK: self.mark, "WAFER_STORAGE": str(place / "data"), "WAFER_JOBS": "2"}
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wafer", "train", "--params", str(params)],
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
            time.sleep(0.05)
        return found

    def go_to(self, place: str) -> None:
        """Wait until the run has a process of that kind."""
        found = self.wait_for(lambda lines: any(PLACES[place] in line for line in lines), SECONDS_TO_GET_THERE)
        assert any(PLACES[place] in line for line in found), self.said.read_text()


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with its embedded database, ready for a training."""
    storage = tmp_path_factory.mktemp("ingested")
    list(simulate_batches(storage / "raw" / "training", batches=6, wafers=40, seed=7))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        working.ingest(Settings.read(storage_url=str(storage), mongodb_url=None), "training")
    assert wait_until_stopped(storage / "state" / "mongodb")
    return storage


@pytest.fixture
def flow(tmp_path: Path, ingested: Path, small_params: Path) -> Iterator[Flow]:
    """A run that has just been started."""
    shutil.copytree(ingested, tmp_path / "data")
    flow = Flow(tmp_path, small_params)
    yield flow
    flow.process.kill()
    flow.process.wait()


@pytest.mark.parametrize(("place", "later"), POINTS)
def test_a_killed_run_leaves_no_process(flow: Flow, place: str, later: float) -> None:
    """After `kill -9` some seconds after it has started a process of that kind."""
    flow.go_to(place)
    time.sleep(later)
    flow.process.kill()
    flow.process.wait()
    assert flow.wait_for(lambda lines: not lines, SECONDS_TO_VANISH) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", ["server", "pool"])
def test_a_run_that_is_asked_to_end_does_so(flow: Flow, place: str, number: signal.Signals) -> None:
    """After SIGTERM or Ctrl-C it ends soon, with the exit status of that signal, no traceback, and no process left."""
    flow.go_to(place)
    flow.process.send_signal(number)
    assert flow.process.wait(SECONDS_TO_VANISH) == 128 + number
    assert "Traceback" not in flow.said.read_text()
    assert flow.wait_for(lambda lines: not lines, SECONDS_TO_VANISH) == []
