"""The parts of deploy/compose.yaml that the image runs, in containers on this machine's own network, at free ports.

What other images bring stands beside them: PostgreSQL of this machine, the embedded database, an S3 server.
"""

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.deploy.containers import Engine
from tests.deploy.tools import DEPLOY
from tests.ports import free_port

USER = 10001
DATABASE_USER = pwd.getpwnam("nobody")
"""PostgreSQL refuses root, and needs one whom this machine knows."""
SECONDS = 300.0
"""For a part to be healthy, on a busy machine."""
PASSWORD = "none"
KEYS = dict.fromkeys(("S3_KEY", "S3_SECRET"), "testing")
PORTS = (4200, 5000, 5432, 8080, 8321)


class Composed:
    """The parts, each as compose.yaml has it but for its addresses."""

    def __init__(self, engine: Engine, image: str, mongodb_url: str, s3: str) -> None:
        self.engine, self.image = engine, image
        self.services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
        self.ports = {port: free_port() for port in PORTS}
        self._values = {"MONGODB_PASSWORD": PASSWORD, "POSTGRES_PASSWORD": PASSWORD, **KEYS}
        self._places = {
            f"mongodb://wafer:{PASSWORD}@mongodb:27017/?authSource=admin": mongodb_url,
            "http://s3:8333": s3,
        }

    def text(self, told: str) -> str:
        """What a part is told, filled in as Compose does, with the addresses of here."""
        filled = re.sub(r"\$\{(\w+)(?::\?|:-([^}]*))?\}", lambda one: self._values.get(one[1], one[2] or ""), told)
        for there, here in self._places.items():
            filled = filled.replace(there, here)
        filled = re.sub(r"(?<=[/@])(postgres|prefect-server|mlflow|service)(?=:\d)", "127.0.0.1", filled)
        return re.sub(rf"\b({'|'.join(map(str, PORTS))})\b", lambda one: str(self.ports[int(one[1])]), filled)

    def run(self, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """What a part prints, or another command in its place, once it has ended."""
        told = command or self._command(name)
        return self.engine.podman("run", "--rm", "--no-healthcheck", *self._options(name), *options, self.image, *told)

    @contextmanager
    def up(self, name: str) -> Iterator[None]:
        """A part, healthy by the image's own check, until the block ends."""
        health = self.engine.inspect(self.image)["Healthcheck"]
        assert isinstance(health, dict)
        check = health["Test"][1:]
        with self.engine.running(self.image, *self._options(name), command=self._command(name)) as container:
            deadline = time.monotonic() + SECONDS
            while self.engine.podman("inspect", "--format", "{{.State.Running}}", container).strip() == "true":
                if self.engine.status("exec", container, *check) == 0:
                    break
                assert time.monotonic() < deadline, self.engine.podman("logs", container)
                time.sleep(1)
            else:
                pytest.fail(f"{name} ended: {self.engine.podman('logs', container)}")
            yield

    def _command(self, name: str) -> tuple[str, ...]:
        return tuple(self.text(one) for one in self.services[name]["command"])

    def _options(self, name: str) -> list[str]:
        service = self.services[name]
        told = ["--read-only", "--user", service["user"], "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        told += [f"--tmpfs={folder}" for folder in service["tmpfs"]]
        return told + [f"--env={key}={self.text(value)}" for key, value in service["environment"].items()]


@contextmanager
def postgresql(folder: Path, port: int) -> Iterator[None]:
    """PostgreSQL of this machine with the databases of compose.yaml, run by another user than root, whom it refuses."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("postgresql is not on this machine: Debian's package postgresql")
    bin_ = programs[-1].parent
    folder.mkdir()
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(0o755)
    os.chown(folder, DATABASE_USER.pw_uid, DATABASE_USER.pw_gid)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)

    def run(program: str, *command: str) -> None:
        told = [str(bin_ / program), *command]
        environment = {"PGPASSWORD": PASSWORD, "PATH": os.environ["PATH"], "LC_ALL": "C"}
        done = subprocess.run(
            told,
            user=DATABASE_USER.pw_uid,
            group=DATABASE_USER.pw_gid,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    data, address = str(folder / "data"), ("-h", "127.0.0.1", "-p", str(port), "-U", "wafer")
    run("initdb", "-D", data, "-U", "wafer", "-A", "scram-sha-256", "--pwfile", str(folder / "password"))
    options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories="
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        for database in ("prefect", "mlflow"):
            run("createdb", *address, database)
        yield
    finally:
        run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
