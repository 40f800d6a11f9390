"""What `wafer doctor` tells of each service: found, warned of or failed, with what to do, and never a traceback."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import REPOSITORY
from tests.terminal import wafer
from wafer import doctor
from wafer.doctor import Check
from wafer.settings import Settings
from wafer.store.leases import lease
from wafer.store.wafers import open_store


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty storage, looked at from this repository; the environment is as before afterwards."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command gives Prefect its defaults
    monkeypatch.setenv("WAFER_STORAGE", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def silent() -> Iterator[str]:
    """A host and port at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def states(told: str) -> dict[str, str]:
    return {check["name"]: check["state"] for check in json.loads(told)}


def test_where_nothing_has_run_all_is_well_and_nothing_is_made(place: Path) -> None:
    """The embedded defaults: a line a check, exit status 0, and the folder is as it was."""
    done = wafer("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [
        ["ok", name] for name in ("places", "places", "database", "registry", "Prefect")
    ]
    assert lines[0][2].startswith(f"WAFER_STORAGE is {place}/data: it can be written, ")
    assert lines[2][2] == "embedded, and made by the first run that needs it"
    assert list(place.iterdir()) == []


def test_dead_addresses_are_failures_without_secrets(place: Path, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server by its variable with what to do, exit status 1; what can be looked at is looked at."""
    monkeypatch.setenv("WAFER_STORAGE", "s3://bucket/data")
    monkeypatch.setenv("WAFER_STATE", str(place / "state"))
    monkeypatch.setenv("MONGODB_URL", f"mongodb://me:h1dden@{silent}/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:h1dden@{silent}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:h1dden@{silent}/api")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{silent}")
    monkeypatch.setenv("WAFER_PAGES_URL", f"http://{silent}/pages")
    done = wafer("doctor", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert states(done.stdout) == {
        "places": "ok",
        **dict.fromkeys(("storage", "database", "registry", "Prefect"), "failure"),
        "pages": "warning",
    }
    told = [check["told"] for check in json.loads(done.stdout)]
    assert all(f"nobody answers at {silent}" in one and "start that server" in one for one in told[1:5])
    assert told[5].endswith("links in Prefect do not open")
    assert "h1dden" not in done.stdout
    assert wafer("doctor").stdout.count("\n") == 6


def test_a_variable_that_cannot_be_used_is_a_failure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that lowers what is written, as any other: one line, exit status 1."""
    monkeypatch.setenv("MONGODB_URL", "mongodb://host/?w=1")
    done = wafer("doctor")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (1, "", 1)
    assert done.stdout.startswith("failure  settings        MONGODB_URL holds 'w=1': writes are made by a majority")


def test_a_place_and_a_full_disk_are_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written fails; what is filling up is a warning, with exit status 0."""
    monkeypatch.setattr(doctor, "PLENTY_FREE", 2**60)
    done = wafer("doctor", "--json")
    assert (done.returncode, states(done.stdout)["places"]) == (0, "warning")
    (place / "data").touch()
    done = wafer("doctor", "--json")
    assert (done.returncode, states(done.stdout)["places"]) == (1, "failure")
    assert json.loads(done.stdout)[0]["hint"].startswith("name folders that can be written to")


def test_the_database_is_written_to_and_its_leases_are_told(
    place: Path, settings: Settings, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version, clock, who holds a lease, and whose lease nobody gave back; nothing of the doctor's own is left."""
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    monkeypatch.setenv("MONGODB_DATABASE", settings.mongodb_database)
    with open_store(settings) as store, lease(store, "gate", run="training-1"):
        with lease(store, "training"):
            store.leases.update_one({"_id": "training"}, {"$set": {"born": 1.0}})  # of a process that is gone
            done = wafer("doctor", "--json")
        assert [document["_id"] for document in store.leases.find()] == ["gate"]
    assert done.returncode == 0
    version, clock, stale, held = (check for check in json.loads(done.stdout) if check["name"] in DATABASE)
    assert "a document was written by majority, journalled, and removed again" in version["told"]
    assert urlsplit(mongodb_url).password not in done.stdout
    assert (clock["state"], stale["state"], held["state"]) == ("ok", "warning", "ok")
    assert stale["told"].startswith("lease 'training' is held by process ")
    assert "the next run takes it over" in stale["hint"]
    assert held["told"].startswith(f"lease 'gate' is held by process {os.getpid()} ")


DATABASE = ("database", "clock", "leases")


def test_what_a_server_refuses_is_a_failure_with_a_hint(
    place: Path, mongodb_url: str, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password, and a bucket that is not there."""
    password = urlsplit(mongodb_url).password
    assert password is not None
    monkeypatch.setenv("MONGODB_URL", mongodb_url.replace(password, "wr0ng-password"))
    monkeypatch.setenv("WAFER_STORAGE", "s3://nowhere-at-all/data")
    monkeypatch.setenv("WAFER_STATE", str(place / "state"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    done = wafer("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert (done.returncode, done.stderr) == (1, "")
    assert [checks[name]["state"] for name in ("storage", "database")] == ["failure"] * 2
    assert "there is no bucket 'nowhere-at-all'" in checks["storage"]["told"]
    assert "authentication failed" in checks["database"]["told"]
    assert "see that MONGODB_URL is right" in checks["database"]["hint"]
    assert "wr0ng" not in done.stdout


@pytest.mark.slow
def test_what_is_another_server_is_a_failure_with_a_hint(
    place: Path, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry and a Prefect server that are something else, each by its client, which prints no traceback."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", s3_address)
    monkeypatch.setenv("PREFECT_API_URL", f"{s3_address}/api")
    command = [sys.executable, "-m", "wafer", "doctor", "--json"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert (done.returncode, done.stderr) == (1, "")
    assert [checks[name]["state"] for name in ("registry", "Prefect")] == ["failure"] * 2
    assert "see that MLFLOW_TRACKING_URI is right" in checks["registry"]["hint"]
    assert "PREFECT_API_URL ends with /api" in checks["Prefect"]["hint"]


def test_a_bucket_is_written_to(place: Path, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object is made and removed, and the server's name and time are told."""
    monkeypatch.setenv("WAFER_STORAGE", "s3://doctored/data")
    monkeypatch.setenv("WAFER_STATE", str(place / "state"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    storage = Settings.read().storage
    storage.root.fs.call_s3("create_bucket", Bucket="doctored")
    done = wafer("doctor", "--json")
    assert done.returncode == 0
    checks = [check for check in json.loads(done.stdout) if check["name"] in ("storage", "clock")]
    assert [check["state"] for check in checks] == ["ok", "ok"]
    assert checks[0]["told"].endswith(": an object was written and removed again")
    assert storage.root.fs.find("doctored") == []


@pytest.mark.parametrize(("seconds", "told"), [(-90, "90 s behind"), (3600, "3,600 s ahead of")])
def test_clocks_that_differ_are_a_warning(seconds: int, told: str) -> None:
    """By how much, and which is ahead; half a minute is no matter."""
    check = doctor._clock("database", datetime.now(UTC) + timedelta(seconds=seconds + 0.4))
    assert (check.state, check.told) == ("warning", f"the database's clock is {told} this machine's")
    assert doctor._clock("database", datetime.now(UTC) + timedelta(seconds=25)).state == "ok"


def test_another_release_of_a_server_is_a_warning() -> None:
    """A patch of the same release is none."""
    assert doctor._versions("Prefect", "it", "3.8.9", "3.8.8") == Check("Prefect", "ok", "it")
    told = "it, and 3.8.8 is installed here"
    hint = "bring both to the same release"
    assert doctor._versions("Prefect", "it", "3.9.0", "3.8.8") == Check("Prefect", "warning", told, hint)
