"""What a whole stack shows and leaves holds no secret but where it must lie."""

import json
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from pymongo import MongoClient

from tests.conftest import REPOSITORY
from tests.receiver import listening
from wafer.stack.parts import BUCKETS, Place
from wafer.storage import private_folder, write_secret

BIN = Path(sys.executable).parent
KEYS = {"s3_key": "H1DDENS3KEY", "s3_secret": "h1dden+s3/secret", "postgres": "h1dden-postgres"}
OF_THE_USER = {
    "WAFER_WEBHOOK_SECRET": "h1dden-signing",
    "PREFECT_API_KEY": "h1dden/key",
    "PREFECT_API_AUTH_STRING": "me:h1dden-auth",
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": "h1dden-password",
}
WRONG = [
    (("wafer", "train"), {"MONGODB_URL": "mongodb://wafer:h1dden-m%2Fongo%40@127.0.0.1:{}/?authSource=admin"}),
    (("wafer", "doctor"), {"MONGODB_URL": "mongodb://wafer:h1dden-m%2Fongo%40@127.0.0.1:{}/?authSource=admin"}),
    (("wafer", "predict"), {"AWS_SECRET_ACCESS_KEY": "h1dden/wrong+key"}),
    (("wafer", "doctor", "--json"), {"AWS_SECRET_ACCESS_KEY": "h1dden/wrong+key"}),
]
"""What must fail, with a secret that the server refuses."""


def in_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, by its path, and every row of those that are SQLite's."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            yield str(file.relative_to(folder)), file.read_bytes()
            if file.suffix == ".db":
                with closing(sqlite3.connect(file)) as database:
                    for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                        rows = database.execute(f'select * from "{table}"').fetchall()
                        yield f"{file.relative_to(folder)}: {table}", str(rows).encode()


def in_servers(place: Place) -> Iterator[tuple[str, bytes]]:
    """Every object of the buckets, every document of the database, and every command line."""
    files = place.storage.root.fs
    for bucket in BUCKETS.values():
        yield from ((key, files.cat_file(key)) for key in files.find(f"/{bucket}"))
    with MongoClient(place.variables()["MONGODB_URL"]) as client:
        for name in {*client.list_database_names()} - {"admin", "local", "config"}:
            for collection in client[name].list_collection_names():
                yield f"{name}.{collection}", str(list(client[name][collection].find())).encode()
    for process in psutil.process_iter(["cmdline"]):
        yield f"process {process.pid}", " ".join(process.info["cmdline"] or []).encode()


@pytest.mark.slow
def test_a_whole_stack_gives_no_secret_away(
    project: Path, environment: dict[str, str], small_params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting holds a marked secret. A stack, deployments, a whole run, runs that fail and `wafer doctor` show it
    nowhere, neither on a terminal nor in a file, object, document, row or message: but in four files of mode 600."""
    shutil.copyfile(small_params, project / "params.yaml")
    shutil.copyfile(REPOSITORY / "prefect.yaml", project / "prefect.yaml")
    place = Place(project / "stack", project, int(environment["WAFER_PORT_BASE"]))
    private_folder(place.folder / "prefect")
    (place.folder / "prefect" / "prefect.db").touch()  # it works on SQLite, whose rows are read here
    write_secret(place.folder / "secrets.json", json.dumps(KEYS))
    said: dict[str, bytes] = {}

    def run(*words: str, status: int = 0, **more: str) -> None:
        env = {
            **environment,
            **OF_THE_USER,
            "WAFER_WEBHOOK_URL": webhook,
            "PWD": str(project),
            "WAFER_JOBS": "1",
            **more,
        }
        command = [BIN / words[0], *words[1:]]
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, check=False)
        said[f"{' '.join(words)} ({len(said)})"] = done.stdout + done.stderr
        assert done.returncode == status, (done.stdout + done.stderr).decode()

    with listening(monkeypatch) as receiver:
        webhook = receiver.address.replace("//", "//me:h1dden-webhook@")
        receiver.answers = [403]  # which the failing ingest tells
        run("wafer", "stack", "up")
        run("prefect", "--no-prompt", "deploy", "--all")
        run("prefect", "deployment", "run", "ingest/wafer", "--watch", status=1)  # where nothing was delivered
        run("wafer", "run")
        run("prefect", "deployment", "run", "predict/wafer", "--param", "new_only=false", "--watch")
        run("wafer", "doctor")
        for words, wrong in WRONG:
            status = 1 if "doctor" in words else 2
            run(*words, status=status, **{name: to.format(place.port("database")) for name, to in wrong.items()})
        asked = dict(in_servers(place))
        run("wafer", "stack", "down")
    assert {"wafer.failure", "wafer.alarms"} <= set(receiver.types)
    said |= {f"message {number}": body for number, (_, body) in enumerate(receiver.told)}
    secret = place.folder / "mongodb" / "secret"
    hidden = re.compile(rb"h1dden|" + re.escape(secret.read_bytes()), re.IGNORECASE)
    found = {where for where, what in (*said.items(), *asked.items(), *in_files(project)) if hidden.search(what)}
    assert found == {".env", "stack/secrets.json", "stack/s3/s3.json", "stack/mongodb/secret"}
    assert {oct(stat.S_IMODE((project / name).stat().st_mode)) for name in found} == {"0o600"}
    files = dict(in_files(project))
    assert b"the webhook (WAFER_WEBHOOK_URL) could not be told" in files["stack/worker/log.txt"]
    assert any(where.endswith("log.jsonl") for where in asked), "else nothing of runs was looked at"
    assert b"no such file or folder" in files["stack/prefect/prefect.db: flow_run_state"]
