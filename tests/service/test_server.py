"""A real server process: started with nothing configured, asked by real clients, while models change under load."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.registry.rules import another_model
from tests.service.conftest import batch_file, log_version, make_place, make_readings
from wafer.registry import Registry
from wafer.settings import Settings
from wafer.workspace import Workspace

pytestmark = pytest.mark.slow
BODY = {"wafers": [{"readings": [0.1] * 12}]}


@contextmanager
def served(settings: Settings, *options: str, **environment: str) -> Iterator[tuple[httpx.Client, int]]:
    """A client of `wafer serve` on these settings, and the number of its process."""
    places = {"WAFER_PROJECT": str(settings.project), "WAFER_STORAGE": settings.storage_url, "WAFER_JOBS": "1"}
    if settings.mongodb_url is not None:
        places |= {"MONGODB_URL": settings.mongodb_url, "MONGODB_DATABASE": settings.mongodb_database}
    command = [sys.executable, "-m", "wafer", "serve", "--port", "0", *options]
    path = {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **path, **places, **environment}
    ) as server:
        try:
            assert server.stdout is not None
            told = server.stdout.readline()
            (address,) = re.findall(r"wafer listens on (http://\S+)/", told)
            with httpx.Client(base_url=address, timeout=60) as client:
                yield client, server.pid
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


def until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 120
    while client.get("/readyz").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert client.get("/readyz").status_code == 200


@pytest.fixture
def own_place(tmp_path: Path, empty_database: Path, fitted: Path, mongodb_url: str) -> Settings:
    """A place whose champion the test may replace."""
    return make_place(tmp_path / "fab", empty_database, fitted, mongodb_url, f"served_{os.getpid()}")


def test_with_nothing_configured_it_serves_this_machine(tmp_path: Path) -> None:
    """An empty storage: it listens on loopback, says that no model is in use, and ends in order."""
    settings = Settings.read(project=REPOSITORY, storage_url=str(tmp_path / "data"))
    with served(settings) as (client, process):
        assert client.base_url.host == "127.0.0.1"
        assert client.get("/healthz").text == "ok"
        told = client.post("/v1/score", json=BODY)
        assert (told.status_code, told.headers["Content-Type"]) == (503, "application/problem+json")
        listening = [one.laddr.ip for one in psutil.Process(process).net_connections("tcp") if one.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
    assert not psutil.pid_exists(process)


def test_a_page_that_follows_a_run_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Told to end, the service brings the events of a run that goes on to their end, and is not cut off in them."""
    settings = Settings.read(project=REPOSITORY, storage_url=str(tmp_path / "data"))
    now, job = datetime.now(UTC).isoformat(), str(uuid4())
    owner = {"host": "another", "pid": 1, "born": 1.0}
    told = {"id": job, "kind": "train", "parameters": {}, "who": "somebody", "asked": now, "state": "running"}
    with Workspace(settings) as workspace:
        workspace.storage.write_json(f"service/runs/{job}.json", {**told, "owner": owner, "seen": now})
    with served(settings) as (client, number), client.stream("GET", f"/v1/runs/{job}/events") as events:
        lines = events.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["state"] == "running"
        os.kill(number, signal.SIGTERM)
        assert list(lines) == [""]


def test_real_clients_of_mlflow_are_answered(own_place: Settings) -> None:
    """MLflow's own client of a scoring server: ping, version, and the predictions of the loaded model."""
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient
    from mlflow.version import VERSION

    from wafer.registry.packaging import scored_wafers

    frame = make_readings(10, seed=9)
    with served(own_place) as (client, _):
        until_ready(client)
        real = ScoringServerClient("127.0.0.1", client.base_url.port)
        real.ping()
        assert real.get_version() == VERSION
        found = real.invoke(frame).get_predictions()
    with Workspace(own_place) as workspace:
        expected = scored_wafers(workspace.registry.load(1), frame)
    pd.testing.assert_frame_equal(pd.DataFrame(found).astype(np.float64)[list(expected)], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_real_client_of_the_open_inference_protocol_is_answered(own_place: Settings) -> None:
    """The protocol's own client: health, the server, the model, and what MLflow's model says of the same wafers."""
    from open_inference.openapi.client import OpenInferenceClient
    from open_inference.openapi.core.api_error import ApiError
    from open_inference.openapi.types import InferenceRequest, RequestInput, TensorData

    from wafer.registry.packaging import scored_wafers

    frame = make_readings(10, seed=9).fillna(0.0)
    data = TensorData.parse_obj(frame.to_numpy().ravel().tolist())
    tensor = RequestInput(name="readings", shape=list(frame.shape), datatype="FP64", data=data)
    asked = InferenceRequest(id="one", inputs=[tensor])
    with served(own_place) as (client, _):
        until_ready(client)
        real = OpenInferenceClient(base_url=str(client.base_url))
        real.check_server_liveness()
        real.check_server_readiness()
        real.check_model_readiness("wafer")
        assert real.read_server_metadata().name == "wafer"
        told = real.read_model_metadata("wafer")
        assert [(one.name, one.datatype, one.shape) for one in told.inputs] == [
            ("readings", "FP64", [-1, frame.shape[1]])
        ]
        found = real.model_infer("wafer", request=asked)
        again = real.model_version_infer("wafer", "1", request=asked)
        with pytest.raises(ApiError, match="status_code: 404"):
            real.model_infer("another", request=asked)
    assert (found.model_name, found.model_version, found.id) == ("wafer", "1", "one")
    assert again == found
    outputs = {one.name: one.data.__root__ for one in found.outputs}
    with Workspace(own_place) as workspace:
        expected = scored_wafers(workspace.registry.load(1), frame)
    for ours, column in (("probability", "probability"), ("prediction", "Prediction"), ("cluster", "cluster")):
        np.testing.assert_allclose(np.array(outputs[ours], dtype=float), expected[column])


def test_a_promotion_under_load_loses_no_request(own_place: Settings, fitted: Path, tmp_path: Path) -> None:
    """Each request is answered, by one version or the other, and after some seconds by the new one alone."""
    answers: list[tuple[int, str]] = []
    stop = threading.Event()
    with served(own_place) as (client, _):
        until_ready(client)

        def ask() -> None:
            with httpx.Client(base_url=client.base_url, timeout=60) as own:
                while not stop.is_set():
                    told = own.post("/v1/score", json=BODY)
                    answers.append((told.status_code, told.headers.get("X-Model-Version", "")))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        registry = Registry(own_place.tracking_uri, own_place.artifact_root)
        log_version(registry, another_model(fitted, tmp_path / "other", 1), make_readings())
        registry.promote(2, "under load")
        deadline = time.monotonic() + 60
        while (not answers or answers[-1][1] != "2") and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in answers} == {200}
    versions = [version for _, version in answers]
    assert set(versions) == {"1", "2"}
    assert set(versions[-4:]) == {"2"}


def test_attacks_leave_it_alive_and_small(own_place: Settings) -> None:
    """A body of 10 GB, one without end, clients that send nothing, and many requests: refused, within memory."""
    with served(own_place, "--rate", "10") as (client, number):
        until_ready(client)
        process, port = psutil.Process(number), client.base_url.port
        assert port is not None
        before = process.memory_info().rss
        head = b"POST /v1/batches?name=a.csv HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/csv\r\n"
        assert b" 413 " in talk(port, head + b"Content-Length: 10737418240\r\n\r\n")
        endless = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        assert b" 413 " in talk(port, endless, b"100000\r\n" + b"x" * 2**20 + b"\r\n")
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for one in slow:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        statuses = [client.get("/healthz").status_code for _ in range(300)]
        assert set(statuses) == {200, 429}
        time.sleep(1.0)
        assert client.get("/healthz").status_code == 200
        assert process.memory_info().rss - before < 300 * 2**20
        for one in slow:  # each is let go of
            one.settimeout(30)
            assert one.recv(1000) == b""
            one.close()
        assert client.post("/v1/score", json=BODY).status_code == 200


def talk(port: int, first: bytes, again: bytes = b"") -> bytes:
    """What a server answers to bytes, followed by others as long as it takes them, at most 200 times."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            connection.sendall(first)
            for _ in range(200):
                if not again or select.select([connection], [], [], 0)[0]:
                    break
                connection.sendall(again)
        except (BrokenPipeError, ConnectionResetError):
            pass
        connection.settimeout(30)
        return connection.recv(65536)


def test_a_run_is_started_watched_and_told(own_place: Settings) -> None:
    """From a delivered batch to its predictions: 202, then running, then finished with the run that it made."""
    with served(own_place) as (client, _):
        until_ready(client)
        sent = {"content": batch_file(1), "headers": {"Content-Type": "text/csv"}}
        told = client.post("/v1/batches?name=wafer_31012026_083000.csv", **sent)
        assert told.status_code == 201, told.text
        started = client.post("/v1/runs", json={"kind": "predict"})
        assert (started.status_code, started.json()["state"]) == (202, "starting")
        assert client.post("/v1/runs", json={"kind": "predict"}).status_code == 409
        now = until_ended(client, started.headers["Location"])
        assert (now["state"], now["error"]) == ("finished", None), now
        assert now["work"]["state"] == "finished"
        rows = client.get(f"/v1/batches/{told.json()['id']}/predictions").json()
        assert [one["Wafer"] for one in rows] == [f"Wafer-{n}" for n in range(1, 9)]
        assert [one["id"] for one in client.get("/v1/alarms").json()] == ["Wafer-1"]
        again = client.post("/v1/runs", json={"kind": "predict"})
        cancelled = client.post(f"{again.headers['Location']}/cancel")
        assert cancelled.status_code == 202, cancelled.text
        assert until_ended(client, again.headers["Location"])["state"] == "cancelled"


def until_ended(client: httpx.Client, address: str) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    now: dict[str, Any] = client.get(address).json()
    while now["state"] in ("starting", "running") and time.monotonic() < deadline:
        time.sleep(0.5)
        now = client.get(address).json()
    return now


def test_lines_of_the_log_are_json_where_asked_for(own_place: Settings, tmp_path: Path) -> None:
    """Each request's line is JSON with the request's name."""
    with (tmp_path / "log").open("w") as log:
        before = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            with served(own_place, WAFER_LOG_FORMAT="json") as (client, _):
                number = client.get("/healthz").headers["X-Request-Id"]
        finally:
            os.dup2(before, 2)
            os.close(before)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert number in [one.get("request") for one in lines]
