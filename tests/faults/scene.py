"""A place with a delivery, in which the intake can be run in a process of its own, and looked at afterwards."""

import hashlib
import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymongo

from tests.faults.runner import Run, take_in_all

# its processes are forks of one that has everything imported: real processes that start at once
processes = multiprocessing.get_context("forkserver")
PRELOADED = [
    "tests.faults.runner",
    "tests.working",
    "wafer.steps",
    "wafer.intake.release",
    "wafer.store.snapshot",
    "wafer.reporting.ingest_page",
    "great_expectations.core",
    "great_expectations.expectations.expectation",
]
processes.set_forkserver_preload(PRELOADED)


class Scene:
    """One place with its raw files, and a database of its own."""

    def __init__(self, folder: Path, template: Path, url: str | None) -> None:
        name = "kill_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        self.intake = Run(folder, url, name)
        shutil.copytree(template, folder)

    def run(self, **changed: Any) -> int | None:
        """Run all of the intake; how the process ended."""
        process = processes.Process(target=take_in_all, args=(replace(self.intake, **changed),))
        process.start()
        process.join()
        return process.exitcode

    def told(self, what: str) -> Any:
        """What the last run left word of: its points, or its error."""
        return json.loads(self.intake.told.read_text())[what]

    def state(self, url: str | None = None) -> dict[str, Any]:
        """All that must be the same, whatever happened on the way; times are not in it."""
        data = self.intake.data
        with pymongo.MongoClient(url or self.intake.url) as client:
            found = client[self.intake.database]
            wafers = [repr(d) for d in found.wafers.find().sort("_id", 1)]
            ledger = [{**d, "taken_in": None} for d in found.batches.find().sort("_id", 1)]
        kept = {str(f.relative_to(data)): f.read_bytes() for f in (data / "quarantine").rglob("*") if f.is_file()}
        snapshots = {f.name: (f / "manifest.json").read_bytes() for f in (data / "snapshot").glob("[!.]*")}
        # of several runs of a kind the last one counts
        reports = {f.name: f.read_bytes() for f in sorted((data / "runs").glob("ingest-*/ingest-*.json"))}
        return {"wafers": wafers, "ledger": ledger, "quarantine": kept, "snapshots": snapshots, "reports": reports}

    def clean_up(self) -> None:
        """Leave nothing behind."""
        with pymongo.MongoClient(self.intake.url) as client:
            client.drop_database(self.intake.database)
        shutil.rmtree(self.intake.place)
