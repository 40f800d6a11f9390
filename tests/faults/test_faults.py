"""Each service that breaks before, in the middle of, and after each flow: it is told, and the rerun completes."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cases import DOCS, OUTCOMES, POINTS, ROWS, VARIABLES, Case, Row, documented, pattern, record
from tests.faults.proxy import Fault
from tests.faults.world import Delivered, Ended, Flow, World

SECONDS = 90.0
"""In which a flow must have told, once a server is gone or silent; half of it is for a busy machine."""
RECORDS = bool(os.environ.get("WAFER_RECORD_FAULTS"))


def every() -> Iterator[Any]:
    """All cases by name; one whose outcome is not recorded yet is run by `make faults` alone."""
    recorded = json.loads(OUTCOMES.read_text())
    for row in ROWS:
        for case in row.cases:
            name = row.name(case)
            skipped = pytest.mark.skipif(
                not RECORDS and name not in recorded, reason=f"not recorded: {name}: make faults"
            )
            yield pytest.param(row, case, id=name, marks=(pytest.mark.slow, pytest.mark.xdist_group("faults"), skipped))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A production with four batches that a version was trained on."""
    world = World(tmp_path_factory.mktemp("faults"))
    try:
        for _ in range(4):
            world.need("ingest", world.deliver("training", 25).folder)
        world.need("train", "")
        yield world
    finally:
        world.close()


@pytest.fixture
def world(servers: World) -> Iterator[World]:
    """The same, whole again after each test."""
    yield servers
    servers.mend()


@pytest.mark.parametrize(("row", "case"), list(every()))
def test_what_breaks_is_told_and_the_rerun_completes(row: Row, case: Case, world: World, tmp_path: Path) -> None:
    """In time, with the cause and what to do; then the same again ends as ever: nothing lost, nothing doubled."""
    delivered = world.deliver("prediction" if case.flow == "predict" else "training")
    if case.flow == "train":
        world.need("ingest", delivered.folder)
    wafers, versions = world.count(delivered)["all wafers"], finished(world)
    with ExitStack() as closing:
        environment: dict[str, str] = {}
        if "full" in row.how:
            environment["WAFER_STORAGE"] = str(small_disk(tmp_path, row.name(case), closing) / "data")
        told = ""
        for ended in strike(row, case, world, delivered, environment, tmp_path):
            told += ended.told
            assert ended.status == (-signal.SIGKILL if "kill" in row.how else 2 if row.told else 0), ended
            assert ended.seconds < SECONDS, ended
        assert re.search(pattern(row.told), told), told
        assert not any(secret in told for secret in world.place.secrets.values())
        world.mend()
        if "full" in row.how:
            subprocess.run(["mount", "-o", "remount,size=300m", str(tmp_path)], check=True)
        world.need(case.flow, delivered.folder, **environment)
    check_whole(world, case.flow, delivered, wafers, versions)
    if RECORDS:
        record(row.name(case), told if row.told else "")


def strike(
    row: Row, case: Case, world: World, delivered: Delivered, environment: dict[str, str], disk: Path
) -> Iterator[Ended]:
    """Let it break, in or beside the flow; how each flow ended in which it did."""
    how = row.how
    if case.moment in ("before", "after"):
        if case.moment == "after":
            yield world.start(case.flow, delivered.folder).end()
        for service in VARIABLES:
            world.signal(service, signal.Signals[how["signal"]])
        if case.moment == "before":  # past the proxies, which would answer for them
            yield world.start(
                case.flow, delivered.folder, **{name: world.real[name] for name in VARIABLES.values()}
            ).end()
        return
    flows: list[Flow] = []
    acts: dict[str, Callable[[], None]] = {
        "signal": lambda: world.signal(row.service, signal.Signals[how["signal"]]),
        "kill": lambda: flows[0].kill(),
        "full": lambda: fill(disk),
    }
    strikes: list[dict[str, Any]] = [
        {"act": "strike", "times": 1, "strike": acts[name]} for name in how if name in acts
    ]
    fault = None
    if strikes or "act" in how:
        service, at = POINTS.get(case.moment, (row.service, b"."))
        fault = world.proxies[service].fault = Fault(at, **(strikes or [how])[0])
    for _ in range(2 if "twice" in how else 1):
        flows.append(world.start(case.flow, delivered.folder, how.get("days", 0), **environment))
    for flow in flows:
        yield flow.end()
    assert fault is None or fault.struck, "the fault was not met"


def small_disk(folder: Path, name: str, closing: ExitStack) -> Path:
    """A disk of 300 MB at the folder; skips where none can be made."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip(f"{name}: only root may mount a small disk")
    closing.callback(subprocess.run, ["umount", str(folder)], check=True)
    return folder


def fill(disk: Path) -> None:
    """Leave no space on a small disk."""
    used = sum(file.stat().st_blocks for file in disk.rglob("*")) * 512
    subprocess.run(["mount", "-o", f"remount,size={max(used, 4096)}", str(disk)], check=True)


def finished(world: World) -> int:
    """How many versions' trainings went through."""
    return len([version for version in world.registry.versions() if version.training == "finished"])


def check_whole(world: World, flow: str, delivered: Delivered, wafers: int, versions: int) -> None:
    """Nothing is lost and nothing doubled, no lease is left, and the version in use is as it was registered."""
    counted = world.count(delivered)
    predicted = delivered.wafers if flow == "predict" else 0
    assert counted == {
        "files": 1,
        "wafers": delivered.wafers,
        "predictions": predicted,
        "predicted": predicted,
        "all wafers": wafers + (0 if flow == "train" else delivered.wafers),
        "leases": 0,
    }
    registry = world.registry
    champion = registry.champion()
    assert champion is not None
    assert all(check.passed for check in registry.verify(champion))
    assert finished(world) == versions + (flow == "train")


def test_the_manual_shows_the_faults_that_are_tested() -> None:
    """Its table is made of the outcomes that `make faults` has recorded, each of a case that there is."""
    outcomes = json.loads(OUTCOMES.read_text())
    told = {row.name(case): row.told for row in ROWS for case in row.cases}
    assert outcomes.keys() <= told.keys()
    for name, outcome in outcomes.items():
        assert re.search(pattern(told[name]), outcome), name
    assert documented(DOCS.read_text()) == DOCS.read_text()
