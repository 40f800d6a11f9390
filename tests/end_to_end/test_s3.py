"""A whole production in a bucket of a real S3 server, whose address and keys stand in `.env` alone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import working
from tests.conftest import REPOSITORY
from wafer.fab.simulate import simulate_batches
from wafer.records import Ingested
from wafer.workspace import Workspace, open

pytestmark = [pytest.mark.slow, pytest.mark.invariant]
BIN = Path(sys.executable).parent
KEY, SECRET, BUCKET = "fabkey", "fabsecret", "fab-bucket"
INGEST = (
    "-c",
    "import sys; from tests import working; from wafer.settings import Settings;"
    " working.ingest(Settings.read(), 'training', sys.argv[1])",
)
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a SeaweedFS server that refuses wrong secrets, with one bucket."""
    import boto3

    folder = tmp_path_factory.mktemp("seaweed")
    rights = {"name": "fab", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [rights]}))
    (folder / "data").mkdir()
    s3, s3_grpc, *others = free_ports(2 + len(PORTS))
    command = [
        BIN / "weed",
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
    ]
    command += ["-master.telemetry=false", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # else at fixed ports, of which a machine has one each
    command += [f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.config={folder / 's3.json'}"]
    command += [f"-{name}={port}" for name, port in zip(PORTS, others, strict=True)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    address = f"http://127.0.0.1:{s3}"
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="probe", Body=b"")
                break
            except Exception:  # noqa: BLE001 - whatever it says until it is ready
                assert time.monotonic() < deadline, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def project(server: str, small_params: Path, tmp_path: Path) -> Path:
    """A project of its own, whose `.env` names storage, endpoint and keys."""
    shutil.copyfile(small_params, tmp_path / "params.yaml")
    (tmp_path / "expectations").symlink_to(Path(__file__).parents[2] / "expectations")
    lines = {
        "WAFER_STORAGE": f"s3://{BUCKET}/{tmp_path.name}",
        "WAFER_STATE": "state",
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
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


def test_a_bucket_that_refuses_is_one_sentence(project: Path, server: str) -> None:
    """Wrong keys, a bucket that is not there, and a server that does not answer: exit status 2, and nothing made."""
    text = (project / ".env").read_text()
    for old, new, told in (
        (f"AWS_SECRET_ACCESS_KEY={SECRET}", "AWS_SECRET_ACCESS_KEY=wrong", "WAFER_STORAGE"),
        (f"s3://{BUCKET}/", "s3://fab-bukket/", "there is no bucket"),
        (f"AWS_ENDPOINT_URL={server}", "AWS_ENDPOINT_URL=http://127.0.0.1:9", "AWS_ENDPOINT_URL is http://127.0.0.1:9"),
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
