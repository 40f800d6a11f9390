"""A small production on real servers, each behind a proxy."""

import hashlib
import json
import os
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pymongo
import yaml

from tests.conftest import REPOSITORY
from tests.faults.cases import VARIABLES
from tests.faults.delivery import agree
from tests.faults.flows import LOADED, work
from tests.faults.proxy import Proxy
from tests.faults.scene import PRELOADED, processes
from tests.stack.servers import free_base
from wafer.registry import Registry
from wafer.stack.keeper import Running, wait_for_buckets
from wafer.stack.parts import Part, Place, mlflow_server, s3_server
from wafer.store.embedded import embedded_server, wait_until_stopped

SENSORS = 4
DATABASE = "faults"
SERVERS = {"MongoDB": "database", "S3": "S3 server", "MLflow": "MLflow server"}


@dataclass(frozen=True)
class Ended:
    """How a flow's process ended: its status, what it said, and after how many seconds."""

    status: int | None
    told: str
    seconds: float


@dataclass(frozen=True)
class Delivered:
    """A batch file that was delivered: its folder's address, and the digest and number of wafers."""

    folder: str
    digest: str
    wafers: int


class World:
    """Servers, proxies and a project; all of it ends with `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.place = Place(folder / "stack", self.project, free_base())
        self.running: dict[str, Running] = {}
        self.proxies: dict[str, Proxy] = {}
        self.day = 0
        processes.set_forkserver_preload([*PRELOADED, *LOADED])
        make_project(self.project)
        with ExitStack() as closing:
            closing.callback(self._stop)
            self._database = closing.enter_context(ExitStack())
            self._start_database()
            for part in (s3_server(self.place), mlflow_server(self.place)):
                self._start(part)
            for name, server in SERVERS.items():
                proxy = Proxy(self.place.port(server), "mongodb" if name == "MongoDB" else "http")
                self.proxies[name] = closing.enter_context(proxy)
            self._closing = closing.pop_all()
        self.real = self.place.variables()
        self.environment = {**self.real, "WAFER_JOBS": "1", "MONGODB_DATABASE": DATABASE}
        del self.environment["PREFECT_API_URL"]
        for name, variable in VARIABLES.items():
            ours = f":{self.place.port(SERVERS[name])}", f":{self.proxies[name].port}"
            self.environment[variable] = self.real[variable].replace(*ours)

    def _start_database(self) -> None:
        self._database.enter_context(embedded_server(self.place.folder / "mongodb", self.place.port("database")))

    def _start(self, part: Part) -> None:
        self.running[part.name] = running = Running(part)
        running.wait()
        if part.name == "S3 server":
            wait_for_buckets(self.place, running)

    def _stop(self) -> None:
        for name in SERVERS:
            self.signal(name, signal.SIGCONT)
        for running in self.running.values():
            running.stop()

    def close(self) -> None:
        """Stop everything."""
        self._closing.close()
        assert wait_until_stopped(self.place.folder / "mongodb")

    def signal(self, service: str, number: signal.Signals) -> None:
        """Kill, stop or continue all processes of a service, if it runs; return when the killed are gone."""
        with suppress(psutil.NoSuchProcess, FileNotFoundError, KeyError):
            if service == "MongoDB":
                pid = json.loads((self.place.folder / "mongodb" / "server.json").read_text())["server"]
            else:
                pid = self.running[SERVERS[service]].pid
            root = psutil.Process(pid)
            family = [root, *root.children(recursive=True)]  # in this order, else it starts a new child
            for process in family:
                process.send_signal(number)
            if number == signal.SIGKILL:
                psutil.wait_procs(family, timeout=30)

    def mend(self) -> None:
        """End what is wrong: no faults, servers that are there and answer."""
        for name, proxy in self.proxies.items():
            proxy.fault = None
            self.signal(name, signal.SIGCONT)
        for running in list(self.running.values()):
            if not running.runs():
                running.stop()
                self._start(running.part)
        self._start_database()

    def deliver(self, kind: str, wafers: int = 10) -> Delivered:
        """A new batch file in a folder of the bucket."""
        self.day += 1
        chance = np.random.default_rng(self.day)
        lines = [",".join(["", *(f"Sensor-{n + 1}" for n in range(SENSORS)), *["Good/Bad"] * (kind == "training")])]
        for number in range(wafers):
            faulty = number == 1 or (number > 1 and chance.random() < 0.15)
            readings = chance.normal(size=SENSORS) + 2 * faulty
            label = [str(1 if faulty else -1)] if kind == "training" else []
            lines.append(",".join([f"Wafer-{self.day * 1000 + number}", *(f"{x:.6f}" for x in readings), *label]))
        data = "".join(f"{line}\n" for line in lines).encode()
        month, day = divmod(self.day, 28)
        key = f"incoming/{self.day}/wafer_{day + 1:02}{month + 1:02}2020_120000.csv"
        self.place.storage.write_bytes(key, data)
        folder = str(self.place.storage.place(f"incoming/{self.day}"))
        return Delivered(folder, hashlib.sha256(data).hexdigest(), wafers)

    def start(self, flow: str, raw: str, days: int = 0, **environment: str) -> "Flow":
        """A flow in a process of its own."""
        return Flow(self, flow, raw, days, {**self.environment, **environment})

    def need(self, flow: str, raw: str, **environment: str) -> None:
        """Run a flow that must go through."""
        ended = self.start(flow, raw, **environment).end()
        assert ended.status == 0, ended.told

    def count(self, one: Delivered) -> dict[str, int]:
        """How often a batch file, its wafers and their predictions are in the database, and how many leases."""
        with pymongo.MongoClient(self.place.variables()["MONGODB_URL"]) as client:
            database = client[DATABASE]
            return {
                "files": database.batches.count_documents({"_id": one.digest}),
                "wafers": database.wafers.count_documents({"batch": one.digest}),
                "predictions": database.predictions.count_documents({"batch": one.digest}),
                "predicted": len(database.predictions.distinct("Wafer", {"batch": one.digest})),
                "all wafers": database.wafers.count_documents({}),
                "leases": database.leases.count_documents({}),
            }

    @property
    def registry(self) -> Registry:
        """The registry, past the proxy."""
        return Registry(self.place.address("MLflow server"))


class Flow:
    """A flow that runs."""

    def __init__(self, world: World, flow: str, raw: str, days: int, environment: dict[str, str]) -> None:
        self._told = world.folder / f"told-{time.monotonic_ns()}.txt"
        self._start = time.monotonic()
        given = (flow, raw, world.project, environment, self._told, days)
        self.process = processes.Process(target=work, args=given)
        self.process.start()

    def end(self) -> Ended:
        """How it ended."""
        self.process.join(300)
        assert self.process.exitcode is not None, "it hangs"
        return Ended(self.process.exitcode, self._told.read_text(), time.monotonic() - self._start)

    def kill(self) -> None:
        """Kill it with -9."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)


def make_project(project: Path) -> None:
    """Agreement and parameters with which everything takes seconds."""
    agree(project)
    (project / "expectations" / "snapshot.json").write_bytes((REPOSITORY / "expectations/snapshot.json").read_bytes())
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    content["fit"] |= {"trees": 10, "search_budget": 1, "search_folds": 2, "calibration_folds": 2, "max_clusters": 1}
    content["fit"] |= {"reference_window": 20, "min_cluster_faults": 4}
    content["evaluate"] |= {"folds": 2, "repeats": 1, "permutations": 1}
    content["gate"] |= {"minimum_auc": 0.0, "canary_z": 100.0, "maximum_calibration_error": 1.0}
    content["gate"] |= {"auc_margin": 1.0, "cost_margin": 1000.0, "min_later_faults": 1}  # each version is promoted
    (project / "params.yaml").write_text(yaml.safe_dump(content))
