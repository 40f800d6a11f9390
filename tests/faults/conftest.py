from pathlib import Path

import pytest

from tests.faults.delivery import deliver
from tests.faults.scene import Scene


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw files and agreements of a scene."""
    place = tmp_path_factory.mktemp("template") / "place"
    deliver(place)
    return place


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, mongodb_url: str, template: Path) -> Scene:
    """A scene in which everything ran, once."""
    scene = Scene(tmp_path_factory.mktemp("undisturbed") / "place", template, mongodb_url)
    assert scene.run() == 0
    return scene
