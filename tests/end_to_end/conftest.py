"""A checkout as a newcomer has it, and commands run in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

Run = Callable[..., str]


@pytest.fixture
def checkout(tmp_path: Path, small_params: Path) -> Path:
    """The files of this repository in an empty folder under git, with small parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    target = tmp_path / "checkout"
    for name in filter(None, listed.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, target / name)
    shutil.copyfile(small_params, target / "params.yaml")
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    return target


@pytest.fixture
def run(checkout: Path) -> Run:
    """Run a command in the checkout with the environment's programs first on the path; its output."""

    def run(*command: str, **environment: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # a shell that went there would say so too; prefect.yaml asks for it
        env = {**os.environ, "PATH": path, "PWD": str(checkout), "DVC_NO_ANALYTICS": "1", **environment}
        done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
