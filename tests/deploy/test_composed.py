"""The composed stack, of containers from the image: a real batch scored by a run, and the service ready for more."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import pytest
import requests

from tests.deploy.composed import SECONDS, Composed, postgresql
from tests.deploy.containers import Engine
from wafer.store.embedded import embedded_server, wait_until_stopped

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("image")]


@pytest.fixture
def composed(engine: Engine, image: str, tmp_path: Path, s3_address: str) -> Iterator[Composed]:
    """The stack without its service, up and healthy in the order that compose.yaml asks for."""
    with embedded_server(tmp_path / "mongodb") as mongodb, ExitStack() as running:
        stack = Composed(engine, image, mongodb, s3_address)
        running.enter_context(postgresql(tmp_path / "postgres", stack.ports[5432]))
        stack.run("buckets")
        running.enter_context(stack.up("prefect-server"))
        running.enter_context(stack.up("mlflow"))
        stack.run("register")
        running.enter_context(stack.up("worker"))
        yield stack
    assert wait_until_stopped(tmp_path / "mongodb")


def test_a_real_batch_is_scored(composed: Composed, real_wafers: Path, small_params: Path, tmp_path: Path) -> None:
    """By a run of the worker, read-only and as another user than root, with a champion of this stack's own."""
    batch = min((real_wafers / "prediction").glob("wafer_*.csv"))
    sent = tmp_path / "sent"
    sent.mkdir()
    shutil.copy(batch, sent)
    params = Path(shutil.copy(small_params, tmp_path))
    brought = f"--volume={sent}:/sent:ro", f"--volume={params}:/params.yaml:ro"
    train = "wafer simulate --batches 4 --wafers 50 --out /tmp/raw && wafer ingest --raw /tmp/raw && "
    train += "wafer train --params /params.yaml && wafer deliver /sent --kind prediction"
    composed.run("worker", "sh", "-c", train, options=brought)
    composed.run("worker", "prefect", "deployment", "run", "predict/wafer", "--watch")
    token = composed.run("worker", "wafer", "token", "create", "test", "--scope", "read").strip()
    with composed.up("service"):
        asked = requests.Session()
        asked.headers["Authorization"] = f"Bearer {token}"
        address = f"http://localhost:{composed.ports[8321]}"
        deadline = time.monotonic() + SECONDS
        while asked.get(f"{address}/readyz", timeout=60).status_code != HTTPStatus.OK:  # it loads the champion
            assert time.monotonic() < deadline
            time.sleep(0.5)
        told = asked.get(f"{address}/v1/batches", timeout=60)
        assert told.status_code == HTTPStatus.OK, told.text
        (known,) = told.json()
        assert known["file"] == batch.name
        rows = asked.get(f"{address}/v1/batches/{known['id']}/predictions", timeout=60).json()
        assert len(rows) == len(batch.read_text().splitlines()) - 1
