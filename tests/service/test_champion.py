"""The version that serves: loaded once, and told by its own record."""

import threading
from dataclasses import replace

import pytest

from wafer.registry.records import Version
from wafer.service.champion import Champion
from wafer.settings import Settings
from wafer.workspace import Workspace


def test_two_looks_at_once_load_one_version_by_its_own_record(place: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks second finds it loaded; one that is promoted between naming and fetching keeps its own date."""
    with Workspace(place) as workspace:
        registry = workspace.registry
        real = registry.champion()
        assert real is not None
        before = replace(real, version=99, created="2001-01-01T00:00:00.000+00:00")
        named: list[Version] = [before]
        monkeypatch.setattr(registry, "champion", lambda: named.pop() if named else real)
        champion = Champion(workspace, lambda: registry, lambda: workspace.store, 5.0)
        looks = [threading.Thread(target=champion.look) for _ in range(2)]
        for look in looks:
            look.start()
        for look in looks:
            look.join()
        assert champion.loads == {"loaded": 1, "refused": 0}, champion.why_not
        assert (champion.now().version, champion.now().created) == (real.version, real.created)
