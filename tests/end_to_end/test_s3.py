"""A whole production in a bucket of a real S3 server, whose address and keys stand in `.env` alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from wafer.fab.simulate import simulate_batches
from wafer.workspace import Workspace, open

pytestmark = [pytest.mark.slow, pytest.mark.invariant, pytest.mark.timeout(1200)]
BIN = Path(sys.executable).parent
KEY, SECRET, BUCKET = "fabkey", "fabsecret", "fab-bucket"
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
    content = yaml.safe_load(small_params.read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
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


def start(project: Path, *arguments: str | Path) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "wafer", *arguments],
        cwd=project,
        env={**environment, "WAFER_JOBS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wafer(project: Path, *arguments: str | Path, status: int = 0) -> str:
    process = start(project, *arguments)
    said, error = process.communicate()
    assert process.returncode == status, error
    assert "Traceback" not in error
    return said


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
    wafer(project, "predict", "--raw", incoming)
    second = workspace.runs.latest("prediction")
    assert second is not None
    assert second.id != first.id
    assert second.place(f"predictions/{name}").read_bytes().count(b"\n") == 16
    assert first.place(f"predictions/{name}").read_bytes() == kept
    assert {path.name for path in project.iterdir()} == {".env", "expectations", "incoming", "params.yaml", "state"}


def test_a_second_delivery_with_fewer_files_counts_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries by `s3://` addresses: what a later one does not bring is not taken in with it."""
    workspace = opened(project, monkeypatch)
    files = list(simulate_batches(project / "incoming", batches=3, wafers=10, seed=3))
    for prefix, some in (("one", files), ("two", files[:1])):
        for file in some:
            workspace.storage.write_bytes(f"incoming/{prefix}/{file.name}", file.read_bytes())
        wafer(project, "ingest", "--raw", str(workspace.storage.place(f"incoming/{prefix}")))
        run = workspace.runs.latest("ingest-training")
        assert run is not None
        assert workspace.storage.read_json(run.key("ingest-training.json"))["files"] == len(some)


def test_two_ingests_at_once_take_in_each_file_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one waits for the other's lease, says so, and then finds every batch known."""
    list(simulate_batches(project / "incoming", batches=6, wafers=40, seed=5))
    processes = [start(project, "ingest", "--raw", project / "incoming") for _ in range(2)]
    ended = [(process.communicate()[1], process.returncode) for process in processes]
    assert [status for _, status in ended] == [0, 0], ended
    workspace = opened(project, monkeypatch)
    runs = [workspace.runs.get(note["id"]) for note in workspace.runs.all()]
    reports = [workspace.storage.read_json(run.key("ingest-training.json")) for run in runs]
    assert sorted(report["wafers_stored"] for report in reports) == [0, 240]
    with workspace:
        assert workspace.store.counts()["wafers"] == 240


def test_a_bucket_that_refuses_is_one_sentence(project: Path) -> None:
    """Wrong keys, a bucket that is not there, and a server that does not answer: exit status 2, and nothing made."""
    text = (project / ".env").read_text()
    for old, new, told in (
        (f"AWS_SECRET_ACCESS_KEY={SECRET}", "AWS_SECRET_ACCESS_KEY=wrong", "WAFER_STORAGE"),
        (f"s3://{BUCKET}/", "s3://fab-bukket/", "there is no bucket"),
        ("AWS_ENDPOINT_URL=http://127.0.0.1:", "AWS_ENDPOINT_URL=http://127.0.0.1:1", "AWS_ENDPOINT_URL"),
    ):
        (project / ".env").write_text(text.replace(old, new))
        process = start(project, "run")
        _, error = process.communicate(timeout=120)
        assert process.returncode == 2, error
        assert told in error
        assert "Traceback" not in error
        assert "wrong" not in error.replace("wrong use", "")
    assert not (project / "state").exists()
