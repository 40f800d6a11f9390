"""What checking and ingesting cost against the least that they could: a bare typed parse, a bare insert.

Each figure is measured in a process of its own, so that peak memory is its own too; both sides of a ratio run one after
the other on the same files.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pymongo
from bson.binary import Binary

from wafer.contract.facts import Delivery
from wafer.contract.suites import Contract, Verdict, check
from wafer.fab.simulate import SENSOR_NAMES, simulate_batches
from wafer.intake.ingest import WAFERS_A_GROUP, ingest
from wafer.intake.quarantine import Quarantine
from wafer.intake.statistics import DeliveryStatistics
from wafer.settings import Settings
from wafer.store.embedded import embedded_server, wait_until_stopped
from wafer.store.wafers import INDEXES, open_store

WAFERS = 100
SEED = 7
PAIRS = 3  # of ingest and insert, one after the other; the one with the median ratio counts
BYTES_A_UNIT = 1 if sys.platform == "darwin" else 1024


def measure(files: int) -> dict[str, float]:
    """All figures for `files` batch files, and for a tenth of them where growth matters."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"simulating {files} files of {WAFERS} wafers", file=sys.stderr)
        every = list(simulate_batches(folder / "all", batches=files, wafers=WAFERS, seed=SEED))
        some = every[: max(files // 10, 1)]
        parse, check_all = _apart(_parse, every), _apart(_check, every)
        check_some = _apart(_check, some)
        pairs = [
            (
                _apart(_ingest, every, folder / f"ingest-{turn}"),
                _apart(_insert, folder / f"ingest-{turn}", folder / f"insert-{turn}"),
            )
            for turn in range(PAIRS)
        ]
        ingest_all, insert = sorted(pairs, key=lambda pair: pair[1]["seconds"] / pair[0]["seconds"])[PAIRS // 2]
        ingest_some = _apart(_ingest, some, folder / "some")
        share = len(some) / len(every)
        return {
            "files": float(files),
            "parse_seconds": parse["seconds"],
            "check_seconds": check_all["seconds"],
            "check_to_parse": check_all["cpu"] / parse["cpu"],
            "check_to_parse_wall": check_all["seconds"] / parse["seconds"],
            "check_growth_to_linear": check_all["seconds"] * share / check_some["seconds"],
            "check_peak_mb": check_all["peak_mb"],
            "check_peak_mb_a_tenth": check_some["peak_mb"],
            "insert_seconds": insert["seconds"],
            "ingest_seconds": ingest_all["seconds"],
            "ingest_speed_to_insert": insert["seconds"] / ingest_all["seconds"],
            "ingest_growth_to_linear": ingest_all["seconds"] * share / ingest_some["seconds"],
            "ingest_peak_mb": ingest_all["peak_mb"],
            "ingest_peak_mb_a_tenth": ingest_some["peak_mb"],
            **_apart(_shapes, folder / "shapes"),
        }


def _apart(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Run `work` in a new process; what it measured."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, arguments)


def _timed(work: Callable[[], object]) -> dict[str, float]:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_A_UNIT / 1e6
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "peak_mb": peak}


def _parse(files: list[Path]) -> dict[str, float]:
    """Read each file and parse it into typed columns, and nothing else."""
    types = {"": pa.string(), **dict.fromkeys(SENSOR_NAMES, pa.float64()), "Good/Bad": pa.int8()}
    read, convert = pacsv.ReadOptions(use_threads=False), pacsv.ConvertOptions(column_types=types)

    def work() -> None:
        for file in files:
            pacsv.read_csv(pa.BufferReader(file.read_bytes()), read_options=read, convert_options=convert)

    return _timed(work)


def _check(files: list[Path]) -> dict[str, float]:
    contract = Contract.load("training")
    list(check(files[:1], contract))  # what a first validation sets up is no cost of a file

    def work() -> None:
        assert all(verdict.accepted for _, verdict in check(files, contract))

    return _timed(work)


def _settings(place: Path, url: str) -> Settings:
    return Settings.read(storage_url=str(place), mongodb_url=url, mongodb_database="bench")


def _ingest(files: list[Path], place: Path) -> dict[str, float]:
    """Take the files in as the step does, statistics for the reviewers' page included."""
    contract = Contract.load("training")
    list(check(files[:1], contract))
    statistics = DeliveryStatistics(contract.sensors, contract.order, contract.form.wafer_id)

    def note(delivery: Delivery, verdict: Verdict) -> None:
        statistics.add(delivery, accepted=verdict.accepted)

    try:
        with embedded_server(place / "db") as url, open_store(_settings(place, url)) as store:
            return _timed(lambda: ingest(files, contract, store, Quarantine(place / "quarantine"), watch=note))
    finally:
        wait_until_stopped(place / "db")


def _insert(ingested: Path, place: Path) -> dict[str, float]:
    """Insert the documents of an ingest, as they are, in batches as large as its own and with its write concern."""
    with embedded_server(ingested / "db") as url, pymongo.MongoClient(url) as client:
        documents = list(client.bench.wafers.find())
    batches = [documents[at : at + WAFERS_A_GROUP] for at in range(0, len(documents), WAFERS_A_GROUP)]
    try:
        with embedded_server(place / "db") as url, pymongo.MongoClient(url) as client:
            durable = pymongo.WriteConcern(w="majority", j=True)
            target = client.bench.get_collection("wafers", write_concern=durable)
            for name, keys in INDEXES["wafers"].items():
                target.create_index(keys, name=name)

            def work() -> None:
                for batch in batches:
                    target.insert_many(batch, ordered=False)

            return _timed(work)
    finally:
        wait_until_stopped(ingested / "db")
        wait_until_stopped(place / "db")


def _shapes(place: Path) -> dict[str, float]:
    """Wafers a second, in and out, for three shapes of a wafer's document."""
    readings = np.random.default_rng(SEED).normal(size=(1000, len(SENSOR_NAMES)))
    shapes: dict[str, Callable[[Any], dict[str, Any]]] = {
        "named_fields": lambda row: dict(zip(SENSOR_NAMES, row.tolist(), strict=True)),
        "array": lambda row: {"readings": row.tolist()},
        "bytes": lambda row: {"readings": Binary(row.tobytes())},
    }
    figures = {}
    try:
        with embedded_server(place) as url, pymongo.MongoClient(url) as client:
            for name, shape in shapes.items():
                target = client.bench.get_collection(name, write_concern=pymongo.WriteConcern(w="majority", j=True))
                documents = [{"_id": number, **shape(row)} for number, row in enumerate(readings)]
                for verb, work in (
                    (
                        "inserted",
                        lambda target=target, documents=documents: target.insert_many(documents, ordered=False),
                    ),
                    ("found", lambda target=target: list(target.find())),
                ):
                    start = time.perf_counter()
                    work()
                    figures[f"{name}_{verb}_per_second"] = len(documents) / (time.perf_counter() - start)
    finally:
        wait_until_stopped(place)
    return figures
