"""A project for a stack of its own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.stack.servers import free_base
from wafer.stack.control import down


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose `.env` has a line of the user's own."""
    (tmp_path / "expectations").symlink_to(REPOSITORY / "expectations")
    (tmp_path / ".env").write_text("MONGODB_DATABASE=mine\n# a remark")
    return tmp_path


@pytest.fixture
def environment(project: Path) -> Iterator[dict[str, str]]:
    """What a shell in the project has, with ports of its own; whatever a failed test leaves is stopped."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = project / "home"
    home.mkdir()
    yield {**os.environ, "PYTHONPATH": str(REPOSITORY), "WAFER_PORT_BASE": str(free_base()), "PATH": path} | {
        "HOME": str(home)
    }
    down(project / "stack")
