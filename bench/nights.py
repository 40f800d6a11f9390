"""A month of nights on a stack of real servers: `python -m bench.nights --nights 30`; writes bench/nights.json.

A project with a stack of its own is made in an empty folder, a first version trained, and then each night brings what
nights bring: a new batch, some nights a file that is cut off, for a time sensors that drift, labels of the batch of
three nights before, and a process or server that is killed while it works. Whatever was killed is run again, as an
operator would. In the end every file, wafer, verdict and label must be where it belongs, and the memory of the
servers and what each keeps on disk are told.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import click
import numpy as np
import pandas as pd
import psutil
import yaml
from dotenv import dotenv_values

import wafer
from wafer.boundary import bounded
from wafer.fab.simulate import SENSOR_NAMES, simulate_batches, simulate_frame
from wafer.intake.quarantine import Quarantine
from wafer.stack.parts import BUCKETS
from wafer.store.leases import leases

RESULT = Path(__file__).with_name("nights.json")
BIN = Path(sys.executable).parent
WAFERS, SEED, TRAINED = 40, 11, 6
"""Wafers of a batch, the fab, and its batches before the first night."""
LATE = 3  # nights after which the labels of a batch come
DRIFTING = range(12, 20)  # nights
MOVED, BY = 60, 4.0  # sensors that drift, by so many standard deviations
CUT, KILLED = 5, 3
"""Every so many nights a file is cut off, and a run's process killed."""
SERVERS_KILLED = {2: "database", 5: "Prefect worker", 8: "S3 server", 11: "MLflow server"}
"""By night; later the servers go on, so that their memory can be looked at."""
SECONDS_BEFORE = (5.0, 40.0)  # a process or server is killed, by chance
BUSY = 503
LONGEST = 900.0  # seconds to wait for a run
QUICK: dict[str, dict[str, Any]] = {
    "fit": {"trees": 20, "search_budget": 1, "search_folds": 2, "calibration_folds": 2, "max_clusters": 3},
    "evaluate": {"folds": 2, "repeats": 1, "permutations": 1},
    "gate": {"minimum_auc": 0.0, "canary_z": 100.0, "maximum_calibration_error": 1.0},
    "retrain": {"new_labels": 6 * WAFERS},
}
"""Small models, and a gate that lets a first one through: it is the stack that is asked, not the model."""


class Fab:
    """What the fab delivers by night, and what it knows of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good: dict[int, Path] = {}
        self.bad: list[Path] = []
        self.labels: dict[str, int] = {}

    def training(self) -> Path:
        """The labelled batches before the first night."""
        place = self.folder / "training"
        list(simulate_batches(place, batches=TRAINED, wafers=WAFERS, seed=SEED))
        return place

    def night(self, number: int) -> Path:
        """A folder with what a night brings."""
        place = self.folder / f"night-{number:02}"
        (file,) = simulate_batches(
            place, batches=1, wafers=WAFERS, seed=SEED, labelled=False, first_batch=TRAINED + number
        )
        path = Path(str(file))
        if number in DRIFTING:
            _drift(path)
        if number % CUT == CUT - 1:
            cut = path.with_stem(f"{path.stem[:-2]}{(int(path.stem[-2:]) + 1) % 60:02}")
            cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            self.bad.append(cut)
        self.good[number] = path
        return place

    def known_labels(self, number: int) -> Path:
        """A file of the labels of a night's batch."""
        frame = simulate_frame(TRAINED + number, wafers=WAFERS, seed=SEED)
        self.labels |= dict(zip(frame["wafer"], frame["label"].astype(int), strict=True))
        file = self.folder / f"labels-{number:02}.csv"
        frame.rename(columns={"wafer": "Wafer", "label": "Good/Bad"})[["Wafer", "Good/Bad"]].to_csv(file, index=False)
        return file


def _drift(file: Path) -> None:
    table = pd.read_csv(file, dtype=str)
    names = [name for name in SENSOR_NAMES if pd.to_numeric(table[name]).std() > 0][:MOVED]
    for name in names:
        values = pd.to_numeric(table[name])
        table[name] = (values + BY * values.std()).map(lambda value: "" if np.isnan(value) else f"{value:.4f}")
    table.to_csv(file, index=False)


class Project:
    """A project with a stack of its own, used as an operator does: by commands."""

    def __init__(self, folder: Path, base: int) -> None:
        self.folder = folder
        self.busy = 0  # times that Prefect's server asked to come later
        self.environment = {
            **os.environ,
            "WAFER_PORT_BASE": str(base),
            "PREFECT_CLI_PROMPT": "false",
            "WAFER_JOBS": "1",
        }
        self.environment["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self.environment |= {"PWD": str(folder), "PREFECT_WORKER_QUERY_SECONDS": "2"}

    def run(self, *words: str | Path, statuses: tuple[int, ...] = (0,)) -> str:
        """What a command prints; it ends the bench where it ends otherwise than it should."""
        done = subprocess.run(
            [BIN / str(words[0]), *words[1:]],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in statuses:
            raise click.ClickException(
                f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr}{done.stdout}"
            )
        return done.stdout

    def ask(self, what: str, question: object = None) -> Any:
        """What Prefect's server answers, at last: while its SQLite is locked it answers with 503 or not at all."""
        body = None if question is None else json.dumps(question).encode()
        address = f"{dotenv_values(self.folder / '.env')['PREFECT_API_URL']}/{what}"
        until = time.monotonic() + LONGEST
        while True:
            try:
                with urlopen(Request(address, body, {"Content-Type": "application/json"}), timeout=60) as answer:
                    return json.load(answer)
            except (HTTPError, TimeoutError) as error:
                if getattr(error, "code", BUSY) != BUSY or time.monotonic() > until:
                    raise
                self.busy += 1
                time.sleep(1.0)

    def start(self, name: str) -> UUID:
        """Start a run of a deployment."""
        deployment = self.ask(f"deployments/name/{name}/wafer")["id"]
        return UUID(self.ask(f"deployments/{deployment}/create_flow_run", {"idempotency_key": str(uuid4())})["id"])

    def end(self, run: UUID) -> str:
        """Wait for the end of a run: its state."""
        until = time.monotonic() + LONGEST
        while time.monotonic() < until:
            state = self.ask(f"flow_runs/{run}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return str(state["name"])
            time.sleep(1.0)
        raise click.ClickException(f"run {run} did not end within {LONGEST:.0f} s")

    def process_of(self, run: UUID) -> psutil.Process:
        """The process of a run, once there is one."""
        until = time.monotonic() + LONGEST
        while time.monotonic() < until:
            for process in psutil.process_iter():
                try:
                    if process.environ().get("PREFECT__FLOW_RUN_ID") == str(run):
                        return process
                except (psutil.Error, OSError):
                    continue
            time.sleep(0.2)
        raise click.ClickException(f"run {run} was not begun within {LONGEST:.0f} s")

    def server(self, name: str) -> psutil.Process:
        """The process of a server."""
        if name != "database":
            return psutil.Process(self._pids()[name])
        config = str(self.folder / "stack" / "mongodb" / "secantusd.toml")
        return next(one for one in psutil.process_iter() if config in _words(one))

    def _pids(self) -> dict[str, int]:
        pids: dict[str, int] = json.loads((self.folder / "stack" / "stack.json").read_text())["pids"]
        return pids

    def memory(self) -> dict[str, float]:
        """Resident memory of each server with what belongs to it, in MB; runs that the worker has started are apart."""
        found = {}
        for name in ("database", *self._pids()):
            server = self.server(name)
            family = [server, *([] if name == "Prefect worker" else server.children(recursive=True))]
            found[name] = sum(one.memory_info().rss for one in family) / 1e6
        return found

    def disk(self) -> dict[str, float]:
        """What each part keeps on disk, in MB."""
        places = sorted(place for place in (self.folder / "stack").iterdir() if place.is_dir())
        return {
            place.name: sum(one.stat().st_size for one in place.rglob("*") if one.is_file()) / 1e6 for place in places
        }


class Month:
    """The nights, one after another, and what came of them."""

    def __init__(self, fab: Fab, project: Project) -> None:
        self.fab, self.project = fab, project
        self.done = Counter[str]()
        self.chance = Random(SEED)
        self.seen: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Set up, and train the first version."""
        params = self.project.folder / "params.yaml"
        content = yaml.safe_load(params.read_text())
        params.write_text(yaml.safe_dump({**content, **{name: content[name] | some for name, some in QUICK.items()}}))
        self.project.run("wafer", "stack", "up")
        self.project.run("prefect", "deploy", "--all")
        self.project.run("wafer", "deliver", self.fab.training())
        for name in ("ingest", "train"):
            self._through(name)

    def night(self, number: int) -> None:
        """A delivery and late labels, something that is killed, and then the work of each night."""
        start = time.monotonic()
        commands: list[tuple[str | Path, ...]] = [("deliver", self.fab.night(number), "--kind", "prediction")]
        if number >= LATE:
            commands.append(("labels", "import", self.fab.known_labels(number - LATE)))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda words: self.project.run("wafer", *words), commands))
        if number in SERVERS_KILLED:
            self._without(SERVERS_KILLED[number])
        elif number % KILLED == 1:
            self._killed(self.chance.choice(["predict", "retrain"]), self.chance.uniform(*SECONDS_BEFORE))
        self._through("predict", "retrain")
        account(self.fab, self.project)
        memory, disk = self.project.memory(), self.project.disk()
        self.seen.append({"night": number, "seconds": time.monotonic() - start, "memory": memory, "disk": disk})
        told = ", ".join(f"{name} {mb:,.0f}" for name, mb in (*memory.items(), ("on disk", sum(disk.values()))))
        click.echo(f"night {number + 1}: {self.seen[-1]['seconds']:.0f} s; MB: {told}")

    def _through(self, *names: str) -> None:
        """Deployments side by side, each of which must come to its end."""
        runs = [(name, self.project.start(name)) for name in names]
        for name, run in runs:
            state = self.project.end(run)
            self.done[f"{name} {state}"] += 1
            if state not in ("Completed", "NothingToDo"):
                raise click.ClickException(f"{name} ended as {state}")

    def _killed(self, name: str, seconds: float) -> None:
        """Kill a run's process so many seconds after it began."""
        run = self.project.start(name)
        process = self.project.process_of(run)
        with suppress(psutil.TimeoutExpired):
            process.wait(seconds)  # where it ends before, nothing is killed
        if process.is_running():
            process.send_signal(signal.SIGKILL)
        self.done[f"{name} killed: {self.project.end(run)}"] += 1

    def _without(self, server: str) -> None:
        """Kill a server under a run, and start the stack anew."""
        run = self.project.start("predict")
        self.project.process_of(run)
        time.sleep(self.chance.uniform(*SECONDS_BEFORE))
        self.project.server(server).send_signal(signal.SIGKILL)
        time.sleep(SECONDS_BEFORE[0])
        self.project.run("wafer", "stack", "down")
        self.project.run("wafer", "stack", "up")
        self.done[f"predict without {server}: {self.project.end(run)}"] += 1


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def account(fab: Fab, project: Project) -> dict[str, Any]:
    """What is where.

    Raises:
        ClickException: something is lost, doubled, or not where it belongs.
    """
    with wafer.open(project=project.folder) as workspace:
        store, registry = workspace.store, workspace.registry
        status, batches = store.status(), [record for record in store.batches("prediction") if record.wafers]
        turned_away = Quarantine(workspace.storage.place("quarantine/prediction")).entries()
        labels = {wafer: found["label"] for wafer, found in store.find(list(fab.labels), "label").items()}
        pairs: dict[str, tuple[Any, Any]] = {
            "wafers": (status.wafers, (TRAINED + len(fab.good)) * WAFERS),
            "labelled wafers": (status.labelled, TRAINED * WAFERS + len(fab.labels)),
            "late labels": (labels, fab.labels),
            "files": (sorted(one.file for one in batches), sorted(one.name for one in fab.good.values())),
            "files in quarantine": (sorted(one.file for one in turned_away), sorted(one.name for one in fab.bad)),
            "leases": (leases(store), []),
        }
        for record in batches:
            made = store.predictions(record.digest)
            pairs[f"wafers of {record.file}"] = (len(set(record.wafers)), WAFERS)
            pairs[f"scored of {record.file}"] = (set(made["Wafer"]), set(record.wafers))
            pairs[f"scored twice of {record.file}"] = (int(made.duplicated(["Wafer", "model_version"]).sum()), 0)
        champion, decisions = registry.champion(), Counter(line.kind for line in registry.ledger())
        runs = Counter(run["state"] for run in workspace.runs.all())
        held = store.counts()
    wrong = [f"{what}: {found}, expected {wanted}" for what, (found, wanted) in pairs.items() if found != wanted]
    if wrong:
        raise click.ClickException("; ".join(wrong))
    version = None if champion is None else champion.version
    return {"held": held, "champion": version, "decisions": decisions, "runs": runs}


def kept(project: Project) -> dict[str, float]:
    """What the buckets hold, by kind, in MB; on the disk lies besides what was written over and is not cleared yet."""
    found = Counter[str]()
    with wafer.open(project=project.folder) as workspace:
        for bucket in BUCKETS.values():
            for key, of in workspace.storage.root.fs.find(f"/{bucket}", detail=True).items():
                parts = [re.sub(r"-\d.*", "", part) for part in key.split("/")]
                what = "/".join(parts[2 : 4 if parts[2] == "runs" else 3])
                found[what if bucket == BUCKETS["storage"] else "MLflow's artefacts"] += of["size"] / 1e6
    return {name: size for name, size in found.most_common() if size > 0.05}


def growth(seen: list[dict[str, Any]], what: str) -> dict[str, float]:
    """By part: MB a night, by a straight line through the second half of the nights."""
    later = seen[len(seen) // 2 :]
    if len(later) < 2:
        return {}
    nights = [one["night"] for one in later]
    names = set.intersection(*(set(one[what]) for one in later))
    return {name: float(np.polyfit(nights, [one[what][name] for one in later], 1)[0]) for name in sorted(names)}


@click.command(help=__doc__)
@click.option("--nights", type=click.IntRange(1), default=30, show_default=True)
@click.option(
    "--base", type=click.IntRange(1024, 65000), default=18300, show_default=True, help="First port of the stack."
)
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the project here; else it is thrown away.")
def main(nights: int, base: int, folder: Path | None) -> None:
    """Play the nights, account for everything, and write down what was seen."""
    with tempfile.TemporaryDirectory() as aside:
        place = folder or Path(aside) / "fab"
        project = Project(place.absolute(), base)
        subprocess.run([BIN / "wafer", "init", place], check=True, stdout=subprocess.DEVNULL)
        (place / ".env").write_text(f"WAFER_PORT_BASE={base}\n")
        month = Month(Fab(Path(aside) / "deliveries"), project)
        try:
            month.begin()
            for number in range(nights):
                month.night(number)
            found = account(month.fab, project) | {"kept": kept(project)}
        finally:
            project.run("wafer", "stack", "down", statuses=(0, 1))
    found |= {"deployments": month.done, "answers of 503 or none": project.busy, "nights": month.seen}
    found |= {f"{what} growth": growth(month.seen, what) for what in ("memory", "disk")}
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    click.echo(f"all is where it belongs: {found['held']}; {dict(month.done)}; champion {found['champion']}")
    for what in ("memory", "disk"):
        told = ", ".join(f"{name} {mb:+.2f}" for name, mb in found[f"{what} growth"].items())
        click.echo(f"{what}, MB a night over the second half: {told}")
    click.echo("in the buckets, MB: " + ", ".join(f"{name} {mb:,.1f}" for name, mb in found["kept"].items()))


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench.nights", standalone_mode=False)))
