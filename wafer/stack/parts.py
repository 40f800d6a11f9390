"""The parts of the stack: which program each is, where it listens, how one sees that it is healthy.

Everything listens on 127.0.0.1, keeps its data in a folder of its own below the stack's, and is told to be quiet and
private. The database is no part in this sense: `wafer.store.embedded` starts it and looks after it.
"""

import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from wafer.addresses import sqlite_address
from wafer.errors import StackError
from wafer.settings import QUIET
from wafer.storage import Storage, private_folder, write_secret
from wafer.store.embedded import SECRET, url_of

POOL = "wafer"
BUCKETS = {"storage": "wafer", "artefacts": "mlflow"}
SERVERS = ("Prefect server", "S3 server", "database", "MLflow server", "PostgreSQL", "service")
"""The servers, in the order of their ports from the first one on."""
OF_S3 = ("s3.port.grpc", *(f"{one}.port{kind}" for one in ("master", "volume", "filer") for kind in ("", ".grpc")))
"""Options of the S3 server, for ports that only itself uses, behind those of the servers."""
POSTGRES = ("initdb", "postgres", "pg_isready")


@dataclass(frozen=True)
class Place:
    """Where a stack lies: its folder, the project that its worker works in, and the first of its ports."""

    folder: Path
    project: Path
    base: int

    def port(self, name: str) -> int:
        """The port of a server or of an option of `OF_S3`."""
        return self.base + (*SERVERS, *OF_S3).index(name)

    def address(self, name: str) -> str:
        """Where a server that speaks HTTP is reached."""
        return f"http://127.0.0.1:{self.port(name)}"

    @cached_property
    def secrets(self) -> dict[str, str]:
        """Keys and passwords of this stack, made at its first start, in a file that only its owner can read."""
        file = self.folder / "secrets.json"
        if not file.exists():
            names = ("s3_key", "s3_secret", "postgres")
            write_secret(file, json.dumps({name: secrets.token_hex(16) for name in names}))
        found: dict[str, str] = json.loads(file.read_text())
        return found

    @property
    def storage_url(self) -> str:
        """Address of all outputs."""
        return f"s3://{BUCKETS['storage']}/data"

    @property
    def storage(self) -> Storage:
        """All outputs, in a bucket of the S3 server."""
        keys = {"key": self.secrets["s3_key"], "secret": self.secrets["s3_secret"]}
        return Storage(self.storage_url, endpoint_url=self.address("S3 server"), **keys)

    @property
    def s3_variables(self) -> dict[str, str]:
        """What a client of the S3 server reads from its environment."""
        return {
            "AWS_ENDPOINT_URL": self.address("S3 server"),
            "AWS_ACCESS_KEY_ID": self.secrets["s3_key"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["s3_secret"],
        }

    def variables(self) -> dict[str, str]:
        """What points all of `wafer`, and Prefect's own commands, to the stack once it runs."""
        password = (self.folder / "mongodb" / SECRET).read_text()
        return {
            "WAFER_STORAGE": self.storage_url,
            "WAFER_STATE": str(self.folder / "state"),
            "MONGODB_URL": url_of(self.port("database"), password),
            "MLFLOW_TRACKING_URI": self.address("MLflow server"),
            "PREFECT_API_URL": f"{self.address('Prefect server')}/api",
            "WAFER_PAGES_URL": f"{self.address('service')}/pages",
            **self.s3_variables,
        }


@dataclass(frozen=True)
class Part:
    """A program of the stack.

    `prepare` is done before it starts, `healthy` says why it is not, or None, and `litter` are files that it leaves.
    """

    name: str
    folder: Path
    address: str
    command: tuple[str | Path, ...]
    healthy: Callable[[], str | None]
    environment: dict[str, str] = field(default_factory=dict)
    working_folder: Path | None = None
    prepare: Callable[[], None] = lambda: None
    end: signal.Signals = signal.SIGTERM
    litter: tuple[Path, ...] = ()

    @property
    def log(self) -> Path:
        """All that it says."""
        return self.folder / "log.txt"


def program(name: str, extra: str) -> Path:
    """A program that came with a library, beside this Python or on the path.

    Raises:
        StackError: it is not installed.
    """
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise StackError(f"the program {name} is not installed: pip install 'wafer[{extra}]'")
    return Path(found)


def servers(place: Place) -> Iterator[Part]:
    """The servers that the service and the worker need, but the database; each before those that need it."""
    postgres = postgres_server(place)
    if postgres is not None:
        yield postgres
    yield s3_server(place)
    yield prefect_server(place, postgres)
    yield mlflow_server(place)


def s3_server(place: Place) -> Part:
    """SeaweedFS, which refuses wrong keys."""
    folder = place.folder / "s3"

    def prepare() -> None:
        private_folder(folder / "data")
        keys = [{"accessKey": place.secrets["s3_key"], "secretKey": place.secrets["s3_secret"]}]
        identities = [{"name": "wafer", "credentials": keys, "actions": ["Admin"]}]
        write_secret(folder / "s3.json", json.dumps({"identities": identities}))

    command = ["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}"]
    command += ["-filer", "-s3", f"-s3.config={folder / 's3.json'}", f"-s3.port={place.port('S3 server')}"]
    command += [f"-{name}={place.port(name)}" for name in OF_S3]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]  # those ports would be fixed
    command += ["-volume.max=50", "-master.volumeSizeLimitMB=256", "-volume.preStopSeconds=0"]
    return Part(
        "S3 server",
        folder,
        place.address("S3 server"),
        (program("weed", "stack"), *command),
        partial(_answers, place.port("S3 server"), "/healthz"),
        prepare=prepare,
        litter=tuple(Path(f"/tmp/seaweedfs-{kind}-{place.port(option)}.sock") for kind, option in _SOCKETS),
    )


_SOCKETS = [("s3", "S3 server"), ("filer", "filer.port")]
_SOCKETS += [(f"{kind}-grpc", f"{kind}.port.grpc") for kind in ("s3", "master", "volume", "filer")]


def make_buckets(place: Place) -> None:
    """Make the buckets that are missing on the S3 server, and see that one can write to them.

    Raises:
        StorageError: nothing can be written yet.
    """
    storage = place.storage
    for bucket in BUCKETS.values():
        if not storage.root.fs.exists(f"/{bucket}"):
            storage.root.fs.call_s3("create_bucket", Bucket=bucket)
    storage.check()


def prefect_server(place: Place, postgres: Part | None) -> Part:
    """Prefect's server, with its database in PostgreSQL or else in a file."""
    folder, port = place.folder / "prefect", place.port("Prefect server")
    environment = {**QUIET, "PREFECT_HOME": str(folder)}
    # else its page asks the server on Prefect's usual port, or that of this shell
    environment["PREFECT_SERVER_UI_API_URL"] = f"{place.address('Prefect server')}/api"
    environment["PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"] = "false"
    if postgres is not None:
        database = {"DRIVER": "postgresql+asyncpg", "HOST": "127.0.0.1", "PORT": str(place.port("PostgreSQL"))}
        database |= {"NAME": "postgres", "USER": "wafer", "PASSWORD": place.secrets["postgres"]}
        environment |= {f"PREFECT_SERVER_DATABASE_{name}": value for name, value in database.items()}
    command = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
    healthy = partial(_answers, port, "/api/health")
    address = place.address("Prefect server")
    return Part("Prefect server", folder, address, (program("prefect", "pipeline"), *command), healthy, environment)


def mlflow_server(place: Place) -> Part:
    """MLflow's server, which keeps artefacts in a bucket, so that its clients need no keys."""
    folder, port = place.folder / "mlflow", place.port("MLflow server")
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", "localhost:*,127.0.0.1:*"]
    command += ["--backend-store-uri", sqlite_address(folder / "mlflow.db")]
    command += ["--artifacts-destination", f"s3://{BUCKETS['artefacts']}"]
    environment = {**QUIET, **place.s3_variables, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Part(
        "MLflow server",
        folder,
        place.address("MLflow server"),
        (program("mlflow", "pipeline"), *command),
        partial(_answers, port, "/health"),
        environment,
    )


def worker(place: Place, since: float = 0.0) -> Part:
    """A Prefect worker on the process pool, which it makes; healthy once it has told the server so after `since`."""
    command = ("worker", "start", "--pool", POOL, "--type", "process", "--name", "stack", "--install-policy", "never")
    address = f"{place.address('Prefect server')}/api"
    bin_folder = program("prefect", "pipeline").parent
    environment = {**QUIET, "PREFECT_HOME": str(place.folder / "prefect"), "PREFECT_API_URL": address}
    environment["PATH"] = f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}"
    return Part(
        "Prefect worker",
        place.folder / "worker",
        f"work pool {POOL}",
        (bin_folder / "prefect", *command),
        partial(_is_online, place.port("Prefect server"), since),
        environment,
        working_folder=place.project,
    )


def service(place: Place) -> Part:
    """`wafer serve` on this stack, for whoever is on this machine; it shows the pages that links in Prefect lead to."""
    port = place.port("service")
    return Part(
        "service",
        place.folder / "service",
        place.address("service"),
        (sys.executable, "-m", "wafer", "serve", "--port", str(port), "--no-tokens"),
        partial(_answers, port, "/healthz"),
        {**place.variables(), "WAFER_PROJECT": str(place.project)},
    )


def postgres_server(place: Place) -> Part | None:
    """PostgreSQL for Prefect's server, where one is installed; a stack that began without one stays without."""
    folder, programs = place.folder / "postgres", _postgres_programs()
    made = (folder / "data").exists()
    if not made and (programs is None or (place.folder / "prefect" / "prefect.db").exists()):
        return None
    if programs is None:
        raise StackError(f"{folder} holds PostgreSQL's data, but no PostgreSQL is installed that this user may run")
    port = str(place.port("PostgreSQL"))
    command = ("-D", folder / "data", "-h", "127.0.0.1", "-p", port, "-c", "unix_socket_directories=")
    ready = (programs / "pg_isready", "-h", "127.0.0.1", "-p", port)
    return Part(
        "PostgreSQL",
        folder,
        f"127.0.0.1:{port}",
        (programs / "postgres", *command),
        lambda: None if subprocess.run(ready, capture_output=True, check=False).returncode == 0 else "it is not ready",
        prepare=(lambda: None) if made else partial(_make_database, programs, folder, place.secrets["postgres"]),
        end=signal.SIGINT,  # which does not wait for clients
    )


def _postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs; None where there is none, or for root, whom it refuses."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = (folder for folder in folders if all((folder / name).exists() for name in POSTGRES))
    return next(found, None) if os.geteuid() != 0 else None


def _make_database(programs: Path, folder: Path, password: str) -> None:
    aside = folder / "data.part"
    shutil.rmtree(aside, ignore_errors=True)
    write_secret(folder / "password", password)
    secured = ("-A", "scram-sha-256", "--pwfile", folder / "password")
    command = (programs / "initdb", "-D", aside, "-U", "wafer", "-E", "UTF8", *secured)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (folder / "password").unlink()
    if done.returncode:
        raise StackError(f"PostgreSQL's database cannot be made in {folder}: {done.stderr.strip()[-300:]}")
    aside.rename(folder / "data")


def _answers(port: int, path: str) -> str | None:
    status, _ = ask(port, path)
    return None if status == 200 else f"it answers with status {status}" if status else "it does not answer"


def _is_online(port: int, since: float) -> str | None:
    status, found = ask(port, f"/api/work_pools/{POOL}/workers/filter", {})
    beats = [one["last_heartbeat_time"] for one in found if one["status"] == "ONLINE"] if status == 200 else []
    heard = any(datetime.fromisoformat(beat).timestamp() >= since for beat in beats)
    return None if heard else "Prefect's server has not heard of it"


def ask(port: int, path: str, body: object = None) -> tuple[int, Any]:
    """The status of an answer from a port of this machine, 0 where there is none, and what it says where it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    data = None if body is None else json.dumps(body)
    try:
        connection.request("GET" if body is None else "POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()
    return answer.status, json.loads(said) if "json" in answer.headers.get("Content-Type", "") else None
