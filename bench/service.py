"""How fast wafers are scored over HTTP, beside `mlflow models serve` with the same version, on this machine.

`python -m bench.service` trains on a synthetic fab, makes the version champion in a storage of its own, and asks both
servers in their turn: 1 and 100 wafers a request, 1 and 16 clients, in MLflow's protocol; then `wafer serve` alone by
its own protocol with reasons, one wafer in ten an alarm. A line of JSON each: requests a second, wafers a second, and
milliseconds at the 50th, 95th and 99th percentile. `--seconds` is for how long each is asked.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from wafer.contract.suites import Contract
from wafer.fab.simulate import simulate_batches
from wafer.intake.tables import read_wafers
from wafer.learning.model import WaferModel
from wafer.params import read_params
from wafer.scoring.bundle import fit_bundle
from wafer.scoring.judge import judge
from wafer.settings import DEFAULTS, Settings
from wafer.workspace import Workspace


def make_champion(settings: Settings, folder: Path) -> tuple[pd.DataFrame, "np.ndarray[Any, Any]"]:
    """Train on a synthetic fab and promote the version; readings of the fab, and which of them are alarms."""
    contract = Contract.load("training")
    known, _ = read_wafers(list(simulate_batches(folder / "raw", batches=12, wafers=100, seed=7)), contract)
    readings = known[list(contract.sensors)]
    recipe = WaferModel(**read_params(DEFAULTS / "params.yaml").fit.model_dump(), n_jobs=2)
    bundle = fit_bundle(recipe, readings, known["label"], known["order"], known["batch"])
    bundle.save(folder / "model")
    columns = {"protocol": "forward", "repeat": 0, "fold": known["batch"], "row": np.arange(len(known))}
    scores = pd.DataFrame({**columns, "label": known["label"].astype(int), "wafer": known["wafer"]})
    with Workspace(settings) as workspace:
        workspace.registry.log_training(
            params={"fit": {}},
            metrics={"forward": {"auc": 0.7}},
            scores=scores.assign(probability=0.1, alarm=False),
            model_folder=folder / "model",
            example=readings.head(4),
            tags={"snapshot": "bench"},
        )
        workspace.registry.promote(1, "bench")
    return readings, judge(bundle, readings, apart=True).alarms


@contextlib.contextmanager
def running(command: Sequence[str], port: int, **environment: str) -> Iterator[None]:
    """A server, once it says that it is ready."""
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                    break
                time.sleep(0.2)
            yield
        finally:
            server.terminate()


async def ask(port: int, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> list[float]:
    """The seconds of each request, asked by so many clients for so long; an answer other than 200 is an error."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            body = bodies[number % len(bodies)]
            began, number = time.perf_counter(), number + clients
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            told = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if " 200 " not in told[:20]:
                raise click.ClickException(f"{path}: {told[:80]}")
            await reader.readexactly(int(told.partition("content-length: ")[2].partition("\r\n")[0]))
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return took


def tell(server: str, port: int, path: str, bodies: Sequence[bytes], wafers: int, clients: int, seconds: float) -> None:
    """Ask and print what it took."""
    asyncio.run(ask(port, path, bodies, clients, min(seconds, 2.0)))
    took = np.array(asyncio.run(ask(port, path, bodies, clients, seconds)))
    found = {"server": server, "path": path, "wafers": wafers, "clients": clients}
    found |= {
        "requests_a_second": round(len(took) / seconds, 1),
        "wafers_a_second": round(wafers * len(took) / seconds, 1),
    }
    print(
        json.dumps(found | {f"ms_{q}": round(1000 * float(np.percentile(took, q)), 1) for q in (50, 95, 99)}),
        flush=True,
    )


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="For which each is asked.")
def main(seconds: float) -> None:
    """Ask both servers."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = Settings.read(storage_url=str(folder / "data"))
        readings, alarms = make_champion(settings, folder)
        rows = readings.astype(object).where(readings.notna(), None).to_numpy().tolist()
        split = {n: [as_split(list(readings), rows[k : k + n]) for k in range(0, 500, n)] for n in (1, 100)}
        good, faulty = np.flatnonzero(~alarms), np.flatnonzero(alarms)
        chosen = [faulty[k // 10 % len(faulty)] if k % 10 == 0 else good[k] for k in range(300)]
        own = [json.dumps({"wafers": [{"readings": rows[k]}]}).encode() for k in chosen]
        ports = free_port(), free_port()
        places = {"WAFER_STORAGE": settings.storage_url, "MLFLOW_TRACKING_URI": settings.tracking_uri}
        serve = [sys.executable, "-m", "wafer", "serve", "--port", str(ports[0]), "--rate", "100000"]
        mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/wafer/1", "--env-manager", "local"]
        for name, command, port, places_of in (
            ("wafer serve", serve, ports[0], {"WAFER_STORAGE": places["WAFER_STORAGE"]}),
            ("mlflow models serve", [*mlflow, "-p", str(ports[1])], ports[1], places),
        ):
            with running(command, port, **places_of):
                for wafers in 1, 100:
                    for clients in 1, 16:
                        tell(name, port, "/invocations", split[wafers], wafers, clients, seconds)
                if name == "wafer serve":
                    tell(name, port, "/v1/score", own, 1, 16, seconds)


def as_split(columns: list[str], rows: list[Any]) -> bytes:
    """Rows as MLflow's protocol has them."""
    return json.dumps({"dataframe_split": {"columns": columns, "data": rows}}).encode()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
