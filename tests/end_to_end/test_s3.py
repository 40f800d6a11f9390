"""A whole production in a bucket of a real S3 server, whose address and keys stand in `.env` alone."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import working
from tests.conftest import REPOSITORY
from tests.stack.servers import free_base, running
from tests.test_storage import race
from wafer.fab.simulate import simulate_batches
from wafer.records import Ingested
from wafer.stack.parts import BUCKETS, Place, s3_server
from wafer.workspace import Workspace, open

pytestmark = [pytest.mark.slow, pytest.mark.invariant]
INGEST = (
    "-c",
    "import sys; from tests import working; from wafer.settings import Settings;"
    " working.ingest(Settings.read(), 'training', sys.argv[1])",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The S3 server of a stack, which refuses wrong secrets, with its buckets."""
    place = Place(tmp_path_factory.mktemp("stack"), REPOSITORY, free_base())
    with running(s3_server(place), place):
        yield place


@pytest.fixture
def project(server: Place, small_params: Path, tmp_path: Path) -> Path:
    """A project of its own, whose `.env` names storage, endpoint and keys."""
    shutil.copyfile(small_params, tmp_path / "params.yaml")
    (tmp_path / "expectations").symlink_to(Path(__file__).parents[2] / "expectations")
    lines = {
        "WAFER_STORAGE": f"s3://{BUCKETS['storage']}/{tmp_path.name}",
        "WAFER_STATE": "state",
        **server.s3_variables,
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    return tmp_path


def run(project: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """A command of Python's in the project, whose environment names neither places nor keys."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "WAFER_JOBS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def wafer(project: Path, *arguments: str | Path) -> str:
    done = run(project, "-m", "wafer", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def opened(project: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(project)
    return open()


def test_the_whole_job_in_a_bucket(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder: pages, predictions and models are objects, and two predictions of one file name stay apart."""
    wafer(project, "run")
    workspace = opened(project, monkeypatch)
    training, first = workspace.runs.latest("training"), workspace.runs.latest("prediction")
    assert training is not None
    assert first is not None
    assert workspace.storage.exists(training.key("training.html"))
    assert workspace.storage.exists("reports/index.html")
    name = workspace.storage.children(first.key("predictions"))[0]
    kept = first.place(f"predictions/{name}").read_bytes()

    incoming = project / "incoming"
    (made,) = simulate_batches(incoming, batches=1, wafers=15, seed=9, first_batch=40, labelled=False)
    made.rename(incoming / name)
    working.predict(workspace.settings, incoming)
    second = working.latest(workspace.settings, "prediction")
    assert second.id != first.id
    assert second.place(f"predictions/{name}").read_bytes().count(b"\n") == 16
    assert first.place(f"predictions/{name}").read_bytes() == kept
    assert {path.name for path in project.iterdir()} == {".env", "expectations", "incoming", "params.yaml", "state"}


def test_of_a_hundred_writers_of_one_pointer_one_wins(server: Place) -> None:
    """Each with a connection of its own, all at once, of a new key and of a pointer that they replace: 99 are told."""
    storage, start = server.storage, threading.Barrier(100)

    def put(number: int) -> bool:
        start.wait()
        return storage.put_new("race/new", str(number).encode())

    with ThreadPoolExecutor(100) as threads:
        new = list(threads.map(put, range(100)))
    assert (sum(new), storage.place("race/new").read_bytes()) == (1, str(new.index(True)).encode())
    won = race(storage, "race/pointer.json", 100)
    assert (sum(won), storage.read_json("race/pointer.json")) == (1, won.index(True))


def test_a_second_delivery_with_fewer_files_counts_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `s3://` addresses: what it does not bring is not taken in with it; the commands find what was turned away."""
    workspace = opened(project, monkeypatch)
    good, *others = simulate_batches(project / "incoming", batches=3, wafers=10, seed=3)
    others[0].write_text(others[0].read_text().replace(",", ";", 1))
    for prefix, some in (("one", [good, *others]), ("two", [good])):
        for file in some:
            workspace.storage.write_bytes(f"incoming/{prefix}/{file.name}", file.read_bytes())
        ingested = working.ingest(workspace.settings, "training", workspace.storage.place(f"incoming/{prefix}"))
        assert (ingested.files, ingested.quarantined) == (len(some), len(some) // 3)
    assert others[0].name in wafer(project, "quarantine", "list")
    told = wafer(project, "quarantine", "show", others[0].name)
    assert f"bytes   {workspace.storage.root}/quarantine/training/" in told


def test_two_ingests_at_once_take_in_each_file_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one waits for the other's lease, and then finds every batch known."""
    list(simulate_batches(project / "incoming", batches=6, wafers=40, seed=5))
    workspace = opened(project, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        ingests = [pool.submit(run, project, *INGEST, str(project / "incoming")) for _ in range(2)]
    ended = [(done.returncode, done.stderr) for done in (ingest.result() for ingest in ingests)]
    assert [status for status, _ in ended] == [0, 0], ended
    reports = [workspace.runs.get(note["id"]).read(Ingested, "ingest-training") for note in workspace.runs.all()]
    assert sorted(report.wafers_stored for report in reports) == [0, 240]
    with workspace:
        assert workspace.store.counts()["wafers"] == 240


def test_a_bucket_that_refuses_is_one_sentence(project: Path, server: Place) -> None:
    """Wrong keys, a bucket that is not there, and a server that does not answer: exit status 2, and nothing made."""
    text = (project / ".env").read_text()
    for old, new, told in (
        (f"AWS_SECRET_ACCESS_KEY={server.secrets['s3_secret']}", "AWS_SECRET_ACCESS_KEY=wrong", "WAFER_STORAGE"),
        ("s3://wafer/", "s3://fab-bukket/", "there is no bucket"),
        (
            f"AWS_ENDPOINT_URL={server.address('S3 server')}",
            "AWS_ENDPOINT_URL=http://127.0.0.1:9",
            "AWS_ENDPOINT_URL is http://127.0.0.1:9",
        ),
    ):
        (project / ".env").write_text(text.replace(old, new))
        start = time.monotonic()
        done = run(project, "-m", "wafer", "run")
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert told in done.stderr
        assert "wrong" not in done.stderr
        assert time.monotonic() - start < 120
    assert not (project / "state").exists()
