"""Leases: one holder at a time, whoever dies or sleeps on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scene import processes
from wafer.errors import LeaseError
from wafer.settings import Settings
from wafer.store.leases import Holder, lease, leases, stale_leases
from wafer.store.wafers import Store, open_store

TAKER = """
import sys, time
from pathlib import Path
from wafer.settings import Settings
from wafer.store.leases import lease
from wafer.store.wafers import open_store
seconds, expires, notes = float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
with open_store(Settings.read()) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    with lease(store, "ingest-training", run="theirs", expires=expires, wait=60, tell=print) as held:
        with notes.open("a") as file:
            file.write("in\\n")
        print("holding", flush=True)
        time.sleep(seconds)
        held.check()
        with notes.open("a") as file:
            file.write("out\\n")
"""


@pytest.fixture
def store(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store that the takers use too."""
    monkeypatch.setenv("MONGODB_URL", settings.mongodb_url or "")
    monkeypatch.setenv("MONGODB_DATABASE", settings.mongodb_database)
    monkeypatch.setenv("WAFER_STORAGE", settings.storage_url)
    with open_store(settings) as store:
        yield store


class Taker:
    """Another process that takes the lease, once it is told to go."""

    def __init__(self, seconds: float, expires: float, notes: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKER, str(seconds), str(expires), str(notes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def go(self) -> None:
        """Let it take the lease."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def test_a_lease_is_held_by_one_and_given_back(store: Store) -> None:
    """Whoever comes second is told at once who holds it, and gives up after its time; the first is undisturbed."""
    told: list[str] = []
    with lease(store, "gate", run="r1") as held:
        (holder,) = leases(store)
        assert (holder.name, holder.pid, holder.run) == ("gate", os.getpid(), "r1")
        start = time.monotonic()
        second = lease(store, "gate", run="r2", wait=1, tell=told.append)
        with pytest.raises(LeaseError, match=f"held by process {os.getpid()} on .* for run r1 since"), second:
            pass
        assert time.monotonic() - start < 10
        assert len(told) == 1
        assert "for run r1 since" in told[0]
        held.check()
        with lease(store, "ingest-training", tell=told.append):
            assert [holder.name for holder in leases(store)] == ["gate", "ingest-training"]
    assert leases(store) == []
    assert len(told) == 1


def test_it_is_given_back_after_an_error(store: Store) -> None:
    """The block's own error passes, and the lease is free."""
    with pytest.raises(RuntimeError, match="of the block"), lease(store, "gate"):
        raise RuntimeError("of the block")
    assert leases(store) == []


def test_a_long_work_keeps_its_lease(store: Store) -> None:
    """It is renewed while the block runs, for longer than it lasts by itself."""
    with lease(store, "gate", expires=1.0) as held:
        first = leases(store)[0]
        time.sleep(2.5)
        held.check()
        (later,) = leases(store)
        assert later.since == first.since
        assert later.beat > first.beat


def test_a_holder_killed_on_this_machine_holds_up_nobody(store: Store, tmp_path: Path) -> None:
    """Its process is known to be gone, so nobody waits for the expiry."""
    taker = Taker(60, 3600.0, tmp_path / "notes")
    taker.go()
    assert taker.line() == "holding"
    taker.process.kill()
    taker.process.communicate()
    assert (leases(store), [holder.pid for holder in stale_leases(store)]) == ([], [taker.process.pid])
    told: list[str] = []
    with lease(store, "ingest-training", wait=0, tell=told.append) as held:
        held.check()
        assert [holder.pid for holder in leases(store)] == [os.getpid()]
    assert told == []


@pytest.mark.slow
@pytest.mark.invariant
def test_a_holder_killed_elsewhere_passes_it_on(store: Store, tmp_path: Path) -> None:
    """Not before the lease has expired, and soon after; the waiting one is told who held it."""
    taker = Taker(60, 3.0, tmp_path / "notes")
    taker.go()
    assert taker.line() == "holding"
    taker.process.kill()
    taker.process.communicate()
    store.leases.update_one({"_id": "ingest-training"}, {"$set": {"machine": "another"}})
    told: list[str] = []
    holder = leases(store)[0]
    with lease(store, "ingest-training", expires=3.0, wait=30, tell=told.append):
        assert store.now() >= holder.expires
        assert "for run theirs" in told[0]
        assert (tmp_path / "notes").read_text() == "in\n"


@pytest.mark.slow
@pytest.mark.invariant
def test_a_holder_that_slept_too_long_stops(store: Store, tmp_path: Path) -> None:
    """Stopped for longer than its lease lasts, it finds that another has it, and writes no more."""
    taker = Taker(1.0, 2.0, tmp_path / "notes")
    taker.go()
    assert taker.line() == "holding"
    taker.process.send_signal(signal.SIGSTOP)
    with lease(store, "ingest-training", run="mine", wait=30):
        taker.process.send_signal(signal.SIGCONT)
        _, error = taker.process.communicate(timeout=30)
        assert "LeaseError: lease 'ingest-training' was lost" in error
        (holder,) = leases(store)
        assert isinstance(holder, Holder)
        assert holder.run == "mine"
    assert (tmp_path / "notes").read_text() == "in\n"


@pytest.mark.slow
@pytest.mark.invariant
def test_a_holder_that_slept_and_lost_nothing_goes_on(store: Store, tmp_path: Path) -> None:
    """Stopped for longer than its lease lasts, but nobody wanted it: it is renewed."""
    taker = Taker(1.0, 1.0, tmp_path / "notes")
    taker.go()
    assert taker.line() == "holding"
    taker.process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    assert leases(store) == []
    taker.process.send_signal(signal.SIGCONT)
    _, error = taker.process.communicate(timeout=30)
    assert (taker.process.returncode, error) == (0, "")
    assert (tmp_path / "notes").read_text() == "in\nout\n"


def test_one_of_many_threads_at_a_time(settings: Settings) -> None:
    """Twenty that race, each with its own connection: each gets it, and never two at once."""
    inside, most = 0, 0
    counting = threading.Lock()
    errors: list[BaseException] = []

    def take() -> None:
        nonlocal inside, most
        try:
            with open_store(settings) as store, lease(store, "gate", expires=4.0, tell=lambda _: None) as held:
                with counting:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.05)
                held.check()
                with counting:
                    inside -= 1
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=take) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (errors, most) == ([], 1)


def take_once(settings: Settings, notes: Path) -> None:
    """One process of many."""
    with open_store(settings) as store, lease(store, "gate", expires=10.0, wait=100, tell=lambda _: None):
        for word in ("in", "out"):
            with notes.open("a") as file:
                file.write(f"{word}\n")
            time.sleep(0.05)


@pytest.mark.slow
def test_one_of_many_processes_at_a_time(settings: Settings, tmp_path: Path) -> None:
    """Twenty processes that race: every `in` is followed by its own `out`."""
    notes = tmp_path / "notes"
    takers = [processes.Process(target=take_once, args=(settings, notes)) for _ in range(20)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert [taker.exitcode for taker in takers] == [0] * 20
    assert notes.read_text() == "in\nout\n" * 20
