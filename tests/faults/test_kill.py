"""Killed with -9 at any point and run again, the intake ends as if nothing had happened."""

import json
import signal
from pathlib import Path

import pytest

from tests.faults.scene import Scene

pytestmark = pytest.mark.slow
SAMPLED_POINTS = 3
PARTS = 8


@pytest.mark.invariant
def test_the_scene_has_everything(undisturbed: Scene) -> None:
    """What is cut short below holds each thing that can happen to a wafer, else it would prove little."""
    state = undisturbed.state()
    ledger, points = state["ledger"], undisturbed.told("points")
    assert len(ledger) == 8
    assert sorted(wafer for line in ledger for wafer in line["replaced"]) == ["Wafer-1", "Wafer-16", "Wafer-5"]
    assert sum(line["labelled"] for line in ledger) == 4
    assert sum(line["repeats"] for line in ledger) == 5
    assert [c["wafer"] for line in ledger for c in line["conflicts"]] == ["Wafer-4"]
    records = {name: content for name, content in state["quarantine"].items() if not name.endswith(".csv")}
    told = (
        (json.loads(content.splitlines()[0] if name.endswith("l") else content), name)
        for name, content in records.items()
    )
    assert sorted((record["file"], Path(name).name.removeprefix(record["digest"])) for record, name in told) == [
        ("wafer_02012020_120000.csv", ".dropped.jsonl"),
        ("wafer_04012020_120000.csv", ".dropped.jsonl"),
        ("wafer_05012020_120000.csv", ".reasons.json"),
    ]
    assert len(state["quarantine"]) == 4
    assert len(state["snapshots"]) == 1
    for needed in ("half of insert wafers", "before update wafers", "before update batches", "half of insert batches"):
        assert needed in points
    for needed in ("os.rename", "os.remove", "open"):
        assert any(point.startswith(needed) for point in points)


def strike(points: range, undisturbed: Scene, template: Path, tmp_path: Path) -> None:
    names = undisturbed.told("points")
    expected = undisturbed.state()
    for point in points:
        where = f"killed at point {point}: {names[point - 1]}"
        scene = Scene(tmp_path / f"at-{point}", template, undisturbed.intake.url)
        assert scene.run(kill_at=point) == -signal.SIGKILL, where
        assert scene.run() == 0, where
        state = scene.state()
        for part in ("wafers", "ledger", "quarantine", "snapshots"):
            assert state[part] == expected[part], where
        scene.clean_up()


@pytest.mark.invariant
def test_killed_here_and_there(undisturbed: Scene, template: Path, tmp_path: Path) -> None:
    """At some points, spread over all that there are, the rerun ends in the undisturbed run's state."""
    every = len(undisturbed.told("points"))
    strike(range(every // SAMPLED_POINTS // 2, every + 1, every // SAMPLED_POINTS), undisturbed, template, tmp_path)


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_every_point(part: int, undisturbed: Scene, template: Path, tmp_path: Path) -> None:
    """The same before and in the middle of each single change that lasts, of a file or in the database."""
    strike(range(part + 1, len(undisturbed.told("points")) + 1, PARTS), undisturbed, template, tmp_path)


def test_run_again_nothing_is_left_to_do(undisturbed: Scene, template: Path, tmp_path: Path) -> None:
    """A further run changes nothing that lasts but reports and times, and reports the same as a further one."""
    scene = Scene(tmp_path / "twice", template, undisturbed.intake.url)
    states = []
    for _ in range(3):
        assert scene.run() == 0
        states.append(scene.state())
    assert states[0] == {**undisturbed.state(), "reports": states[0]["reports"]}
    assert states[1] == {**states[0], "reports": states[1]["reports"]}
    assert states[2] == states[1]
    scene.clean_up()
