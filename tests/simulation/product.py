"""The product on the fakes: which names of its modules are replaced, and by what.

Services and clocks are replaced by fakes, and pure work that takes long is done once and remembered. Everything else is
the product's own code.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from tests.simulation import fab, training
from tests.simulation import world as worlds
from tests.simulation.bucket import Bucket
from tests.simulation.mongo import Client, Server
from tests.simulation.tracking import Tracking, TrackingServer
from tests.simulation.world import Executor, dates, here, threading, time
from wafer.contract.suites import Contract, Verdict, judge_files
from wafer.delivered import list_files
from wafer.records import Kind
from wafer.registry import packaging
from wafer.scoring import batches
from wafer.scoring.bundle import Bundle
from wafer.settings import Settings
from wafer.workspace import Workspace

BUCKET = "fab"
KINDS: tuple[Kind, ...] = ("training", "prediction")


class Services:
    """The servers of one world, which outlast every process."""

    def __init__(self) -> None:
        self.store = Server()
        self.bucket = Bucket(BUCKET)
        self.registry = TrackingServer()
        self.all = (self.store.service, self.bucket.service, self.registry.service)


def settings(project: Path) -> Settings:
    """Settings that name the fakes, and the project whose agreement holds; nothing of them was opened before."""
    return settings_of(project).model_copy()


@cache
def settings_of(project: Path) -> Settings:
    """The same, read once."""
    return Settings.read(
        project=project,
        storage_url=f"s3://{BUCKET}/data",
        state_folder=project / "state",
        mongodb_url="mongodb://sim/",
        mlflow_url="http://sim",
        jobs=1,
    )


class SimulatedWorkspace(Workspace):
    """A workspace whose contracts are read once."""

    def contract(self, kind: Any) -> Contract:
        return contract(kind, self.expectations)


@cache
def contract(kind: Any, folder: Path) -> Contract:
    """The contract of one kind."""
    return Contract.load(kind, folder)


@contextmanager
def installed(services: Services) -> Iterator[None]:
    """Let the product's modules find the fakes."""
    registry = Tracking(services.registry)
    replaced: dict[str, Any] = {
        "pymongo.MongoClient": lambda *_, **__: Client(services.store),
        "wafer.store.wafers.knock": lambda _: "",
        "wafer.store.wafers.datetime": SimpleNamespace(**vars(dates), timezone=None),
        "wafer.storage.bucket_path": services.bucket.path,
        "wafer.settings.bucket_path": services.bucket.path,
        "wafer.runs.datetime": dates.datetime,
        "wafer.runs.time": time,
        "wafer.steps.datetime": dates.datetime,
        "wafer.steps.shown": lambda _: nullcontext(lambda *_: None),
        "wafer.store.leases.time": time,
        "wafer.store.leases.threading": threading,
        "wafer.store.leases.os": SimpleNamespace(getpid=lambda: _process().pid),
        "wafer.store.leases.socket": SimpleNamespace(gethostname=lambda: _process().machine.name),
        "wafer.store.leases._machine": lambda: _process().machine.name,
        "wafer.store.leases._born": _born,
        "wafer.registry.versions.MlflowClient": lambda **_: registry,
        "wafer.registry.versions.prepare_place": lambda *_: None,
        "wafer.registry.versions.mlflow": SimpleNamespace(
            artifacts=SimpleNamespace(
                download_artifacts=lambda artifact_uri, dst_path, **_: registry.download(artifact_uri, Path(dst_path))
            )
        ),
        "wafer.registry.trainings.datetime": dates.datetime,
        "wafer.steps._describe_source": lambda _: {"source.digest": "code"},
        **REMEMBERED,
        "wafer.intake.ingest.ThreadPoolExecutor": Executor,
        "wafer.contract.suites.ThreadPoolExecutor": Executor,
        "wafer.contract.suites.Contract.judge": remembered_verdicts(Contract.judge),
        "wafer.reporting.index.NEWEST": 0,  # runs that the list of runs shows
        "wafer.reporting.ingest_page.write_ingest_page": lambda *_, **__: None,
    }
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(patch(name, value))
        yield


@cache
def verdicts() -> dict[Any, Verdict]:
    """The verdict on each file by each agreement: it follows from agreement, name and bytes, and takes long."""
    found = {}
    for project, kind in product(("strict", "lenient"), KINDS):
        agreed = contract(kind, settings_of(fab.place() / project).default("expectations"))
        for delivery, verdict in judge_files(list_files([fab.place() / "raw" / kind]).files, agreed):
            found[id(agreed), delivery.file, delivery.digest] = verdict
    return found


def remembered_verdicts(judge: Callable[..., list[Verdict]]) -> Callable[..., list[Verdict]]:
    """`Contract.judge`, which asks the real one only about what could not be read."""

    def judged(self: Contract, deliveries: Sequence[Any]) -> list[Verdict]:
        known = [verdicts().get((id(self), one.file, one.digest)) for one in deliveries]
        return [found or judge(self, [one])[0] for found, one in zip(known, deliveries, strict=True)]

    return judged


REMEMBERED: dict[str, Any] = {
    "wafer.scoring.bundle.Bundle.load": training.remembered(Bundle.load, training.parts_key),
    "wafer.registry.packaging.pack": training.pack,
    "wafer.registry.packaging.scored_wafers": training.remembered(packaging.scored_wafers, training.wafers_key),
    "wafer.scoring.batches.judge_batch": training.remembered(batches.judge_batch, training.wafers_key),
}


def _process() -> worlds.Process:
    task = here().me
    assert task is not None
    return task.process


def _born(pid: int) -> float | None:
    process = here().processes.get(pid)
    return float(pid) if process is not None and process.alive else None
