"""Images and containers of the tests, without an engine that a machine must run: a storage of their own, by buildah."""

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import REPOSITORY
from tests.deploy.tools import ran, tool

CONFIG = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
BASE = "localhost/wafer-base"
SUITE = "bookworm"
AUTHORITIES = Path("/etc/ssl/certs")
"""Whom a build believes, so that it works behind a proxy that inspects TLS."""


@dataclass(frozen=True)
class Engine:
    """Builds and runs; all that it keeps lies in `folder`."""

    folder: Path

    def podman(self, *command: str | Path) -> str:
        """What podman prints."""
        return ran(tool("podman"), *self._places, *command, CONTAINERS_CONF=str(self._config))

    def status(self, *command: str) -> int:
        """How podman ends."""
        told = [tool("podman"), *self._places, *command]
        environment = {**os.environ, "CONTAINERS_CONF": str(self._config)}
        return subprocess.run(told, env=environment, capture_output=True, check=False).returncode

    def build(self, tag: str, *options: str) -> str:
        """The id of the image that the Containerfile makes of dist/, under the name `tag`."""
        command = (tool("buildah"), *self._places, "bud", "--isolation", "chroot", "--network", "host")
        command += ("--format", "docker", "--pull-never", "--timestamp", "0", "--tag", tag, *options)
        command += ("--build-arg", f"BASE={BASE}", "--volume", f"{AUTHORITIES}:{AUTHORITIES}:ro")
        command += ("--ignorefile", "deploy/Containerfile.dockerignore", "--file", "deploy/Containerfile", ".")
        ran(*command, cwd=REPOSITORY, CONTAINERS_CONF=str(self._config))
        return str(self.inspect(tag)["Id"])

    def inspect(self, image: str) -> dict[str, object]:
        """What podman knows of an image."""
        found: dict[str, object] = json.loads(self.podman("image", "inspect", image))[0]
        return found

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """The files of an image."""
        yield Path(self.podman("image", "mount", image).strip())
        self.podman("image", "unmount", image)

    @contextmanager
    def running(self, image: str, *options: str | Path, command: tuple[str, ...] = ()) -> Iterator[str]:
        """The name of a container that runs `command`, or what the image runs, until the block ends."""
        name = f"wafer-{uuid4().hex[:12]}"
        self.podman("run", "--detach", "--name", name, "--no-healthcheck", *options, image, *command)
        try:
            yield name
        finally:
            self.podman("rm", "--force", "--time", "20", name)

    @property
    def _config(self) -> Path:
        return self.folder / "containers.conf"

    @property
    def _places(self) -> tuple[str, ...]:
        return "--root", str(self.folder / "images"), "--runroot", str(self.folder / "run")


def start_engine(folder: Path) -> Engine:
    """An engine with a base image of Debian's own packages, made here."""
    for name in ("buildah", "podman", "runc", "debootstrap"):
        tool(name)
    if os.geteuid() != 0:
        pytest.skip("images are built by root here, and this is another user")
    engine = Engine(folder)
    engine._config.write_text(CONFIG)
    root = folder / "base"
    packages = "--include=ca-certificates,python3,python3-venv"
    ran(tool("debootstrap"), "--variant=minbase", packages, SUITE, root, cwd=folder)
    for litter in ("var/cache/apt/archives", "var/lib/apt/lists"):
        for file in (root / litter).glob("*.*"):
            file.unlink()
    with tarfile.open(folder / "base.tar", "w") as archive:
        archive.add(root, ".")
    engine.podman("import", "--quiet", folder / "base.tar", BASE)
    (folder / "base.tar").unlink()
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)
    return engine
