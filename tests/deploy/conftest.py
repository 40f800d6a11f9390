"""An image of this checkout, built once for all tests that need it."""

import subprocess

import pytest

from tests.conftest import REPOSITORY
from tests.deploy.containers import Engine, start_engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """What builds and runs images here."""
    return start_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The name of the image."""
    subprocess.run(["make", "wheel"], cwd=REPOSITORY, check=True)
    engine.build("wafer:test", "--build-arg", "COMMIT=0123abc")
    return "localhost/wafer:test"
