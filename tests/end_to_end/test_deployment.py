"""The deployments on a real Prefect server with a real worker, as a data engineer uses them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wafer
from tests.end_to_end.conftest import Run
from wafer import steps
from wafer.params import read_params

pytestmark = [pytest.mark.slow, pytest.mark.invariant]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its children."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def environment(tmp_path: Path, checkout: Path, mongodb_url: str) -> dict[str, str]:
    """The variables of a small production: storage, database, Prefect server."""
    return {
        "WAFER_STORAGE": str(tmp_path / "data"),
        "WAFER_JOBS": "1",
        "MONGODB_URL": mongodb_url,
        "MONGODB_DATABASE": "deployment",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "true",
        "PYTHONPATH": str(checkout),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """A Prefect server of its own."""
    (tmp_path / "prefect").mkdir()
    address = environment["PREFECT_API_URL"]
    port = address.split(":")[2].split("/")[0]
    with (tmp_path / "server.log").open("wb") as log:
        command = [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield
    finally:
        stop(process)


@pytest.fixture
def worker(server: None, environment: dict[str, str], run: Run, checkout: Path, tmp_path: Path) -> Iterator[None]:
    """The deployments of prefect.yaml, and a worker that runs them."""
    run("prefect", "work-pool", "create", "wafer", "--type", "process", **environment)
    run("prefect", "--no-prompt", "deploy", "--all", **environment)
    with (tmp_path / "worker.log").open("wb") as log:
        command = [BIN / "prefect", "worker", "start", "--pool", "wafer"]
        process = subprocess.Popen(
            command,
            cwd=checkout,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        stop(process)


def asked(environment: dict[str, str], what: str, **question: Any) -> Any:
    """What Prefect's server answers."""
    address, body = f"{environment['PREFECT_API_URL']}/{what}", json.dumps(question).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.usefixtures("worker")
def test_deployments_run_on_a_worker(checkout: Path, run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    """Ingest, train and predict as deployments: each run completes, and the predictions are there. The server
    knows what a parameter means, and how runs collide: of two trainings one is cancelled, an ingest waits."""
    workspace = wafer.open(storage_url=str(tmp_path / "data"))
    steps.deliver_where_empty(workspace, read_params(checkout / "params.yaml").deliver)
    for name in ("ingest/wafer", "train/wafer", "predict/wafer"):
        run("prefect", "deployment", "run", name, "--watch", **environment)
    (predictions,) = (tmp_path / "data" / "runs").glob("prediction-*/predictions")
    assert {p.name for p in predictions.iterdir()} == {p.name for p in workspace.raw("prediction").iterdir()}
    schedules = run("prefect", "deployment", "schedule", "ls", "train/wafer", **environment)
    assert "True" not in schedules, "schedules are inactive until somebody switches them on"
    deployments = {d["tags"][1]: d for d in asked(environment, "deployments/filter")}
    assert deployments["train"]["parameter_openapi_schema"]["properties"]["force"]["description"].startswith("make a ")
    for name in ("train", "train", "ingest", "ingest"):
        run("prefect", "deployment", "run", f"{name}/wafer", **environment)
    deadline, states = time.monotonic() + 300, {"SCHEDULED"}
    while {"SCHEDULED", "PENDING", "RUNNING"} & states:
        assert time.monotonic() < deadline, states
        time.sleep(1)
        found = asked(environment, "flow_runs/filter", sort="START_TIME_ASC")
        states = {one["state_type"] for one in found}
    assert Counter(one["state_type"] for one in found) == {"COMPLETED": 6, "CANCELLED": 1}
    *_, first, second = [one for one in found if one["deployment_id"] == deployments["ingest"]["id"]]
    assert first["end_time"] <= second["start_time"]
