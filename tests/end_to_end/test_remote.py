"""Results travel: pushed to a bucket from one clone, pulled from it in another."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from upath import UPath

from tests.end_to_end.conftest import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a server of the test's own, which the usual variables name."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    UPath("s3://results", endpoint_url=address).fs.mkdir("results")
    yield "s3://results/wafer"
    server.stop()


def commit(checkout: Path) -> None:
    for command in (
        ("git", "add", "-A"),
        ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "A study"),
    ):
        subprocess.run(command, cwd=checkout, check=True)


def test_a_study_is_pushed_pulled_and_varied(checkout: Path, run: Run, bucket: str) -> None:
    """A snapshot made in one place is pulled in another, and an experiment there makes one of another fab."""
    snapshots = checkout / "data" / "repro" / "snapshot"
    run("dvc", "repro", "snapshot")
    commit(checkout)
    run("make", "-o", ".venv/.ready", "remote", f"WAFER_DVC_REMOTE={bucket}", f"BIN={Path(sys.executable).parent}")
    run("dvc", "push", "snapshot")
    (made,) = snapshots.iterdir()
    shutil.rmtree(checkout / "data" / "repro")
    shutil.rmtree(checkout / ".dvc" / "cache")
    run("dvc", "pull", "snapshot")
    assert [p.name for p in snapshots.iterdir()] == [made.name]
    run("dvc", "exp", "run", "-S", "deliver.seed=8", "snapshot")
    assert [p.name for p in snapshots.iterdir()] != [made.name]
    assert "seed" in run("dvc", "params", "diff")
