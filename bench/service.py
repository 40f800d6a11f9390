"""How fast wafers are scored over HTTP, beside other servers with the same version: writes bench/service.json.

`python -m bench.service` trains on a synthetic fab, makes the version champion in a storage of its own, and asks `wafer
serve` (by its own protocol and by MLflow's) and `mlflow models serve` with 1 and 100 wafers a request and 1 and 16
clients. `--rivals` adds BentoML and LitServe (`bench/rivals`), each in an environment that is made for it, which needs
internet. They are asked in turn, so that a busy machine is busy for each, while the others stand still. Then `wafer
serve` alone: 100 wafers beside the library's call in this process, and its own protocol with reasons, one wafer in ten
an alarm, for `--steady` seconds with its memory before and after. At the end it tells what was wanted and found.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import psutil
from threadpoolctl import threadpool_limits

from bench.card import fill
from wafer.boundary import bounded
from wafer.contract.suites import Contract
from wafer.fab.simulate import simulate_batches
from wafer.intake.tables import read_wafers
from wafer.learning.model import WaferModel
from wafer.params import read_params
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.judge import judge
from wafer.settings import DEFAULTS, Settings
from wafer.workspace import Workspace

RESULT = Path(__file__).with_name("service.json")
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "service.md"
RIVALS = {"bentoml": "1.4.40", "litserve": "0.2.19"}
COMPUTE = ("numpy", "pandas", "scikit-learn", "scipy", "xgboost-cpu")
"""Of the same releases in all environments."""
TURNS = 5
CASES = [(wafers, clients) for wafers in (1, 100) for clients in (1, 16)]
OWN, ALIKE, MLFLOW = "wafer serve", "wafer serve as mlflow", "mlflow models serve"
WARM = 5.0  # seconds that a server is asked before its memory counts


@dataclass(frozen=True, eq=False)
class Server:
    """How a server is run and asked: `body` makes a request of rows, `ready` answers once it scores."""

    name: str
    port: int
    command: Sequence[str | Path]
    environment: dict[str, str]
    ready: str
    path: str
    body: Callable[[list[Any]], bytes]


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
def running(server: Server, log: Path) -> Iterator[psutil.Process]:
    """A server's process, once it says that it is ready.

    Raises:
        ClickException: it does not.
    """
    with (
        log.open("wb") as told,
        subprocess.Popen(
            server.command, env={**os.environ, **server.environment}, cwd=log.parent, stdout=told, stderr=told
        ) as process,
    ):
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{server.port}{server.ready}", timeout=5).close()
                    break
                if process.poll() is not None:
                    raise click.ClickException(f"{server.name} ended: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            else:
                raise click.ClickException(f"{server.name} is not ready: {log.read_text()[-2000:]}")
            yield psutil.Process(process.pid)
        finally:
            end(process.pid)


def end(pid: int) -> None:
    """End a server and all that it has started, some of which outlives it otherwise."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
        for signal in psutil.Process.resume, psutil.Process.terminate, psutil.Process.kill:
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    signal(one)
            psutil.wait_procs(family, timeout=0 if signal is psutil.Process.resume else 10)


@contextlib.contextmanager
def alone(process: psutil.Process, others: Iterable[psutil.Process]) -> Iterator[None]:
    """All but one server stand still, since some go round in circles while they wait for requests."""
    still = [one for other in others if other != process for one in (other, *other.children(recursive=True))]
    for one in still:
        one.suspend()
    try:
        yield
    finally:
        for one in still:
            one.resume()


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


def compare(servers: Mapping[Server, psutil.Process], rows: list[Any], seconds: float) -> list[dict[str, Any]]:
    """A line for each case and server; they take turns, of which the first does not count."""
    found = []
    for wafers, clients in CASES:
        took: dict[str, list[float]] = {server.name: [] for server in servers}
        spent = dict.fromkeys(took, 0.0)
        bodies = {
            server.name: [server.body(rows[start : start + wafers]) for start in range(0, 500, wafers)]
            for server in servers
        }
        for turn in range(TURNS + 1):
            for server, process in servers.items():
                with alone(process, servers.values()):
                    began = time.perf_counter()
                    asked = ask(server.port, server.path, bodies[server.name], clients, seconds / TURNS)
                    answered = asyncio.run(asked)
                if turn:  # the first one warms up
                    spent[server.name] += time.perf_counter() - began
                    took[server.name] += answered
        for server in servers:
            case = {"server": server.name, "path": server.path, "wafers": wafers, "clients": clients}
            found.append(told(case | figures(took[server.name], spent[server.name])))
    return found


def figures(took: Sequence[float], seconds: float) -> dict[str, float]:
    """Requests a second, and milliseconds at some percentiles."""
    spent = {f"ms_{q}": round(1000 * float(np.percentile(took, q)), 1) for q in (50, 95, 99)}
    return {"requests_a_second": round(len(took) / seconds, 1), **spent}


def steady(server: Server, process: psutil.Process, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    """The own protocol with reasons for long, and the server's memory in MB before and after."""
    asyncio.run(ask(server.port, "/v1/score", bodies, 16, min(seconds, WARM)))
    before = process.memory_info().rss / 1e6
    took = asyncio.run(ask(server.port, "/v1/score", bodies, 16, seconds))
    memory = {"mb_before": round(before, 1), "mb_after": round(process.memory_info().rss / 1e6, 1)}
    case = {"server": server.name, "path": "/v1/score", "wafers": 1, "clients": 16, "seconds": seconds}
    return told(case | figures(took, seconds) | memory)


def beside_library(server: Server, bundle: Bundle, readings: pd.DataFrame, seconds: float) -> dict[str, float]:
    """Milliseconds for 100 wafers, medians: by the library's call in one thread of this process, and over HTTP."""
    batch = readings.head(100)
    body = server.body(as_rows(batch))
    call, http = [], []
    with threadpool_limits(1):
        judge(bundle, batch, apart=True)
        for _ in range(TURNS):
            until = time.perf_counter() + seconds / TURNS
            while time.perf_counter() < until:
                began = time.perf_counter()
                judge(bundle, batch, apart=True)
                call.append(time.perf_counter() - began)
            http += asyncio.run(ask(server.port, server.path, [body], 1, seconds / TURNS))
    ms = {"library": 1000 * float(np.median(call)), "http": 1000 * float(np.median(http))}
    return told({f"ms_{name}": round(value, 1) for name, value in ms.items()})


def judged(cases: list[dict[str, Any]], long: dict[str, Any], library: dict[str, float]) -> list[dict[str, Any]]:
    """What was wanted: each with what was found, the limit, and whether it holds.

    MLflow's server is compared with the same requests; the others with the own protocol, as each brings bare readings.
    """

    def case(server: str, wafers: int, clients: int) -> dict[str, Any]:
        return next(one for one in cases if (one["server"], one["wafers"], one["clients"]) == (server, wafers, clients))

    wanted = [
        ("single wafers a second, 16 clients", case(OWN, 1, 16)["requests_a_second"], ">=", 300.0),
        ("the same with reasons, one in ten an alarm", long["requests_a_second"], ">=", 100.0),
        ("ms for 100 wafers, library 1.3 times + 10", library["ms_http"], "<=", 1.3 * library["ms_library"] + 10.0),
        ("memory after to before", long["mb_after"] / long["mb_before"], "<=", 1.05),
    ]
    for rival in dict.fromkeys(one["server"] for one in cases if one["server"] not in (OWN, ALIKE)):
        for wafers, clients in CASES:
            own, other = case(ALIKE if rival == MLFLOW else OWN, wafers, clients), case(rival, wafers, clients)
            of = f"to {rival}, {wafers} wafers, {clients} clients"
            rate = own["requests_a_second"] / other["requests_a_second"]
            wanted += [(f"requests a second {of}", rate, ">=", 1.0)]
            wanted += [(f"99th percentile {of}", own["ms_99"] / other["ms_99"], "<=", 1.0)]
            if rival == MLFLOW:
                wanted += [(f"95th percentile {of}", own["ms_95"] / other["ms_95"], "<=", 0.5)]
    return [
        {
            "what": what,
            "found": round(found, 3),
            "wanted": f"{sign} {round(limit, 2):g}",
            "met": bool(found >= limit if sign == ">=" else found <= limit),
        }
        for what, found, sign, limit in wanted
    ]


def tables(found: dict[str, Any]) -> dict[str, str]:
    """What docs/service.md shows: requests a second and milliseconds by server, and what was wanted.

    Of the comparisons with other servers, those alone that were missed.
    """
    by_server: dict[str, list[str]] = {}
    for one in found["cases"]:
        spent = " / ".join(f"{one[f'ms_{q}']:.0f}" for q in (50, 95, 99))
        by_server.setdefault(one["server"], []).append(f"{one['requests_a_second']:.0f}; {spent}")
    heads = [f"{wafers} wafer{'s' * (wafers > 1)}, {clients} client{'s' * (clients > 1)}" for wafers, clients in CASES]
    servers = [["server", *heads], ["---"] * (len(heads) + 1), *([name, *cells] for name, cells in by_server.items())]
    shown = [one for one in found["targets"] if not one["met"] or " to " not in one["what"] or "memory" in one["what"]]
    wanted = [["wanted", "", "found", ""], ["---"] * 4]
    wanted += [[one["what"], one["wanted"], f"{one['found']:.2f}", "met" if one["met"] else "missed"] for one in shown]
    count = sum(one["met"] for one in found["targets"])
    wanted += [["all, with the comparisons that are not listed", "", f"{count} of {len(found['targets'])}", "met"]]
    named = {"servers": servers, "wanted": wanted}
    return {name: "\n".join(f"| {' | '.join(row)} |" for row in rows) for name, rows in named.items()}


def told(line: dict[str, Any]) -> dict[str, Any]:
    """A line of JSON, printed."""
    print(json.dumps(line), flush=True)
    return line


def make_rival(name: str, folder: Path) -> Server:
    """A server in an environment that is made for it below `folder`, where `model` is what it serves.

    Raises:
        ClickException: the environment cannot be made.
    """
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise click.ClickException("uv makes the environments of --rivals, and is not there: pip install uv")
    place, port = folder / name, free_port()
    same = [f"{one}=={importlib.metadata.version(one)}" for one in COMPUTE]
    python = place / "bin" / "python"
    for words in (
        ["venv", "--quiet", "--python", sys.executable, place],
        ["pip", "install", "--quiet", "--python", python, f"{name}=={RIVALS[name]}", ROOT, *same],
    ):
        if (done := subprocess.run([uv, *words], check=False, capture_output=True, text=True)).returncode:
            raise click.ClickException(f"no environment for {name}: {done.stderr[-2000:]}")
    services = ROOT / "bench" / "rivals"
    commands: dict[str, list[str | Path]] = {
        "bentoml": [
            *(place / "bin" / "bentoml", "serve", "bentoml_wafer:Wafer", "--working-dir", services),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        "litserve": [python, services / "litserve_wafer.py", "--port", str(port)],
    }
    environment = {"WAFER_BUNDLE": str(folder / "model"), "BENTOML_HOME": str(folder / "home")}
    environment |= {"BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": ""}
    ready, path = {"bentoml": ("/readyz", "/score"), "litserve": ("/health", "/predict")}[name]
    return Server(name, port, commands[name], environment, ready, path, as_readings)


@click.command(help=__doc__)
@click.option("--seconds", default=10.0, show_default=True, help="For which each is asked.")
@click.option("--steady", "long", default=60.0, show_default=True, help="Seconds with reasons, for the memory.")
@click.option("--rivals", is_flag=True, help="BentoML and LitServe too, and the tables of docs/service.md.")
def main(seconds: float, long: float, rivals: bool) -> None:
    """Ask all servers, and write down what was found."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        settings = Settings.read(storage_url=str(folder / "data"))
        readings, alarms = make_champion(settings, folder)
        ports = free_port(), free_port()
        place = {"WAFER_STORAGE": settings.storage_url, "PYTHONPATH": str(ROOT)}
        tracked = {**place, "MLFLOW_TRACKING_URI": settings.tracking_uri}
        serve = [sys.executable, "-m", "wafer", "serve", "--port", str(ports[0]), "--rate", "100000"]
        mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/wafer/1", "--env-manager", "local"]

        def as_split(rows: list[Any]) -> bytes:
            return json.dumps({"dataframe_split": {"columns": list(readings), "data": rows}}).encode()

        servers = [
            Server(OWN, ports[0], serve, place, "/ping", "/v1/score?reasons=none", as_wafers),
            Server(MLFLOW, ports[1], [*mlflow, "-p", str(ports[1])], tracked, "/ping", "/invocations", as_split),
            *(make_rival(name, folder) for name in RIVALS if rivals),
        ]
        processes = [stack.enter_context(running(one, folder / f"{one.name}.log")) for one in servers]
        rows = as_rows(readings)
        alike = replace(servers[0], name=ALIKE, path=servers[1].path, body=as_split)
        asked = {servers[0]: processes[0], alike: processes[0], **dict(zip(servers[1:], processes[1:], strict=True))}
        cases = compare(asked, rows, seconds)
        for process in processes[1:]:
            end(process.pid)
        library = beside_library(servers[0], Bundle.load(folder / "model"), readings, seconds)
        good, faulty = np.flatnonzero(~alarms), np.flatnonzero(alarms)
        chosen = [faulty[k // 10 % len(faulty)] if k % 10 == 0 else good[k] for k in range(300)]
        own = [as_wafers([rows[k]]) for k in chosen]
        lasting = steady(servers[0], processes[0], own, long)
    targets = judged(cases, lasting, library)
    found = {"cases": cases, "library": library, "steady": lasting, "targets": targets}
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    if rivals:
        fill(PAGE, tables(found))
    width = max(len(one["what"]) for one in targets)
    for one in targets:
        print(f"{one['what']:<{width}}  {one['found']:>9,.2f}  {one['wanted']:<8} {'' if one['met'] else 'missed'}")


def as_rows(readings: pd.DataFrame) -> list[Any]:
    """Rows as JSON has them."""
    rows: list[Any] = readings.astype(object).where(readings.notna(), None).to_numpy().tolist()
    return rows


def as_wafers(rows: list[Any]) -> bytes:
    """Rows in the own protocol."""
    return json.dumps({"wafers": [{"readings": row} for row in rows]}).encode()


def as_readings(rows: list[Any]) -> bytes:
    """Rows as the rivals take them."""
    return json.dumps({"readings": rows}).encode()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench.service", standalone_mode=False)))
