"""The database server killed under a running intake: one clear error, and the rerun completes."""

import re
from pathlib import Path

import pytest

from tests.faults.scene import Scene
from wafer.store.embedded import embedded_server, wait_until_stopped

pytestmark = pytest.mark.slow
SOME = ["before insert wafers", "before insert batches", "before update wafers"]


@pytest.mark.parametrize("name", [pytest.param(SOME[0], marks=pytest.mark.invariant), *SOME[1:]])
def test_the_rerun_completes(name: str, undisturbed: Scene, template: Path, tmp_path: Path) -> None:
    """Killed with -9 before a write, the server costs one sentence; the next run starts it and goes on."""
    points = undisturbed.told("points")
    last = len(points) - points[::-1].index(name)
    scene = Scene(tmp_path / "scene", template, None)
    assert scene.run(kill_at=last, victim="server") == 2, name
    error = scene.told("error")
    assert re.match(r"the database at \S+ failed", error) or "no MongoDB server answers" in error
    assert "\n" not in error
    assert len(error) < 400
    assert scene.run() == 0
    folder = scene.intake.data / "state" / "mongodb"
    with embedded_server(folder) as url:
        state = scene.state(url)
    assert wait_until_stopped(folder)
    expected = undisturbed.state()
    for part in ("wafers", "ledger", "quarantine", "snapshots"):
        assert state[part] == expected[part]
