"""The tools that check and run what lies in deploy/."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
OWN = REPOSITORY / ".venv-deploy" / "bin"
"""Tools that come from deploy/requirements.lock, by `make deploy-test`, `make invariants` or `make test-all`."""
BROUGHT = {
    "buildah": "Debian's package buildah",
    "chromium": "Debian's package chromium",
    "debootstrap": "Debian's package debootstrap",
    "node": "Debian's package nodejs",
    "npm": "Debian's package npm",
    "podman": "Debian's package podman",
    "prometheus": "Debian's package prometheus",
    "prometheus-node-exporter": "Debian's package prometheus-node-exporter",
    "promtool": "Debian's package prometheus",
    "runc": "Debian's package runc",
    "terraform": "Terraform 1.11 or later, from its maker",
}
"""What a machine has or lacks, and where it is to be had."""


def tool(name: str) -> str:
    """The path of a tool; a test that needs one which the machine lacks is skipped by its name."""
    own = OWN / name
    if own.exists():
        return str(own)
    if name not in BROUGHT:
        raise FileNotFoundError(f"{own} is missing: run `make deploy-test`, which installs it")
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine: {BROUGHT[name]}")
    return found


def ran(*command: str | Path, cwd: Path = DEPLOY, **environment: str) -> str:
    """What a tool prints; its complaint fails the test."""
    done = subprocess.run(
        [str(one) for one in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
