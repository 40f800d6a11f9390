"""The flows as their commands run them, in a process of its own, on a machine whose clock may be off."""

import datetime
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import wafer
from wafer import steps
from wafer.boundary import bounded
from wafer.params import read_params
from wafer.preflight import look_ahead
from wafer.records import Registered

LOADED = [
    "tests.faults.flows",
    "mlflow.pyfunc",
    "s3fs",
    "sklearn.ensemble",
    "wafer.intake.ingest",
    "wafer.learning.evaluation",
    "wafer.learning.model",
    "wafer.registry",
    "wafer.reporting.index",
    "wafer.reporting.ingest_page",
    "wafer.scoring.judge",
    "wafer.store.guard",
    "wafer.store.snapshot",
    "xgboost",
]
"""What the process has imported already that these ones are forks of."""


def work(flow: str, raw: str, project: Path, environment: dict[str, str], told: Path, days: int) -> None:
    """Run a flow as a command does, with what it says in the file `told`; ends the process."""
    os.chdir(project)
    os.environ.update(environment)
    set_clock(days)
    with told.open("wb") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(bounded(partial(FLOWS[flow], raw)))


def set_clock(days: int) -> None:
    """Let the library, and the client of S3 that signs with the time, believe that it is some days later."""

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Shifted":
            return super().now(tz) + datetime.timedelta(days=days)

    shifted = SimpleNamespace(**{**vars(datetime), "datetime": Shifted})
    for name, module in list(sys.modules.items()) if days else ():
        held = vars(module).get("datetime") if name.startswith(("wafer.", "botocore.")) else None
        if held in (datetime, datetime.datetime):
            vars(module)["datetime"] = shifted if held is datetime else Shifted


def ingest(raw: str) -> None:
    """As `flows.ingest`, without Prefect."""
    with wafer.open() as workspace:
        look_ahead(workspace.settings)
        with steps.working(workspace, "ingest-training") as run:
            steps.ingest(workspace, run, "training", raw)


def predict(raw: str) -> None:
    """As `flows.predict`, without Prefect and pages."""
    with wafer.open() as workspace:
        look_ahead(workspace.settings)
        with steps.working(workspace, "prediction") as run:
            steps.ingest(workspace, run, "prediction", raw)
            steps.predict(workspace, run)


def train(_: str) -> None:
    """As `flows.train`, without Prefect and figures; the metrics stand for the pages."""
    with wafer.open() as workspace:
        look_ahead(workspace.settings)
        with steps.working(workspace, "training") as run:
            params = read_params(workspace.params_file)
            steps.snapshot(workspace, run)
            known = steps.look_back(workspace, run, params)
            if known.finished:
                return
            if known.version is None:
                steps.fit(workspace, run, params.fit, params.policy, params.monitor)
                steps.evaluate(workspace, run, params.evaluate, params.fit, params.policy)
                steps.register(workspace, run, params)
            steps.gate(workspace, run, params.gate, params.policy)
            run_id = run.read(Registered).run_id
            workspace.registry.log_files(run_id, [run.place("records/register.json")], "reports")
            steps.finish(workspace, run)


FLOWS: dict[str, Callable[[str], None]] = {"ingest": ingest, "train": train, "predict": predict}
