import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.registry.rules import RULES, with_canary
from tests.registry.test_ledger import check_chain, run_together
from wafer.errors import RegistryError
from wafer.registry import Registry
from wafer.scoring.bundle import Bundle


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A real MLflow server on a free port of this machine, with its own database and artefacts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "kept")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_for(uri, process)
        yield uri, process
    finally:
        stop(process)


def wait_for(uri: str, process: subprocess.Popen, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"the server at {uri} did not answer within {seconds} s")


def stop(process: subprocess.Popen) -> None:
    """End the server with the workers that it started: they are one session of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(30)


@pytest.mark.slow
def test_a_server_does_what_the_embedded_registry_does(
    server, another_model, model_folder, readings, make_scores, tmp_path, capfd
):
    """On a real server versions are logged, decided, loaded and rolled back as on SQLite, quietly."""
    uri, process = server
    registry = Registry(uri)
    for quality in (1.5, 2.0, 0.0):
        version = registry.log_training(
            params={"fit": {"trees": 5}},
            metrics={"forward": {"auc": 0.7}, "permuted": {"auc": 0.5}},
            scores=with_canary(make_scores(quality)),
            model_folder=another_model(),
            example=readings.head(3),
        )
        registry.decide(version, RULES)
    assert registry.aliases() == {"champion": 2, "previous": 1, "challenger": 3}
    expected = Bundle.load(model_folder).classifier.predict_proba(readings)
    np.testing.assert_array_equal(registry.load("champion").classifier.predict_proba(readings), expected)
    registry.rollback("a test")
    assert [line.promoted for line in registry.ledger()] == [True, True, False, True]
    assert registry.champion().version == 1
    assert capfd.readouterr() == ("", "")
    stop(process)
    start = time.perf_counter()
    with pytest.raises(RegistryError, match=f"the model registry at {uri} could not be read"):
        registry.champion()
    assert time.perf_counter() - start < 20


@pytest.mark.slow
def test_processes_that_decide_at_once_agree_on_a_server_too(server, another_model, readings, make_scores, tmp_path):
    """Through a server as on SQLite: one champion, every line kept, `previous` is the one before."""
    registry = Registry(server[0])
    for _ in range(3):
        registry.log_training(
            params={},
            metrics={"forward": {"auc": 0.7}, "permuted": {"auc": 0.5}},
            scores=with_canary(make_scores(2.0)),
            model_folder=another_model(),
            example=readings.head(3),
        )
    carried_out = run_together(registry, tmp_path, versions=3, times=5)
    assert carried_out == len(registry.ledger()) >= 3
    check_chain(registry)
