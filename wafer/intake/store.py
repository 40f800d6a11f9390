"""Wafers in MongoDB: the only module that talks to it.

Three collections, none of which ever holds a thing twice:

- ``wafers``, one document a wafer: ``{_id: "Wafer-12", order: 12, label: -1, batch: <digest>, file: "wafer_….csv",
  label_batch: <digest>, missing: 27, readings: [3030.93, 2564.0, NaN, …]}``. ``readings[i]`` is sensor ``i + 1``;
  a missing reading is NaN. An array of doubles is exact, can be read and queried by a person, and costs a third of the
  room and time of 590 named fields.
- ``batches``, the ledger: one document a batch file that was taken in, keyed by the SHA-256 of its bytes, written after
  its wafers. Its ``wafers`` are the ids in the file's order.
- ``predictions``, one document a wafer, batch and model version.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pymongo
from numpy.typing import NDArray
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, PyMongoError, ServerSelectionTimeoutError

from wafer.errors import StoreError
from wafer.intake.embedded import embedded_server
from wafer.settings import Settings

Document = dict[str, Any]
DUPLICATE_KEY = 11000
MILLISECONDS_TO_CONNECT = 8000
WAFERS_A_QUERY = 500


@dataclass(frozen=True)
class Conflict:
    """A wafer that came again with other readings or another label than the stored one."""

    wafer: str
    file: str
    stored_file: str
    what: str
    stored: float | int | None
    came: float | int | None


@dataclass(frozen=True)
class BatchRecord:
    """One batch file as the ledger knows it."""

    digest: str
    file: str
    kind: str
    order: int
    wafers: tuple[str, ...]
    repeats: int
    labelled: int
    conflicts: tuple[Conflict, ...]

    @property
    def stored(self) -> int:
        """Wafers that this file brought first."""
        return len(self.wafers) - self.repeats


@dataclass(frozen=True)
class IncomingBatch:
    """The wafers of one accepted batch file, about to be stored.

    `readings` is (wafers × sensors) float64 with NaN for missing, `labels` holds -1 or +1 or is None, `order` is the
    production order of each wafer.
    """

    digest: str
    file: str
    kind: str
    wafers: Sequence[str]
    order: NDArray[np.int64]
    readings: NDArray[np.float64]
    labels: NDArray[np.int8] | None


class Store:
    """Wafers, ledger and predictions in one database; made by `open_store`."""

    def __init__(self, database: Database[Document]) -> None:
        durable = pymongo.WriteConcern(w="majority", j=True)
        self._wafers: Collection[Document] = database.get_collection("wafers", write_concern=durable)
        self._batches: Collection[Document] = database.get_collection("batches", write_concern=durable)
        self._predictions: Collection[Document] = database.get_collection("predictions", write_concern=durable)

    def ensure_indexes(self) -> None:
        """Create the indexes: wafers by production order and by label, the ledger by kind, predictions by batch."""
        self._wafers.create_index([("order", 1), ("_id", 1)], name="by_order")
        self._wafers.create_index([("label", 1), ("order", 1)], name="by_label")
        self._batches.create_index([("kind", 1), ("order", 1)], name="by_kind")
        self._predictions.create_index([("batch", 1)], name="by_batch")

    def known(self, digests: Sequence[str]) -> dict[str, BatchRecord]:
        """The ledger's records of those `digests` that were taken in before."""
        found = self._batches.find({"_id": {"$in": list(digests)}})
        return {d["_id"]: _record(d) for d in found}

    def add(self, batch: IncomingBatch, tolerance: float) -> BatchRecord:
        """Store one batch file's wafers, then its line in the ledger; the same call again changes nothing.

        A wafer that is there already with the same readings (within `tolerance`, relative) is a repeat; a label that it
        lacked is added; other readings or another label are a conflict, and the stored wafer stays as it is.
        """
        documents = _documents(batch)
        clashing = self._insert_new(documents)
        stored = {d["_id"]: d for d in self._wafers.find({"_id": {"$in": clashing}})} if clashing else {}
        conflicts: list[Conflict] = []
        repeats = 0
        labelled: list[Document] = []
        for document in documents:
            old = stored.get(document["_id"])
            if old is None or old["batch"] == batch.digest:
                continue
            conflict = _conflict(old, document, tolerance)
            if conflict is not None:
                conflicts.append(conflict)
                continue
            repeats += 1
            if document["label"] is not None and old["label_batch"] in (None, batch.digest):
                labelled.append(document)
        for document in labelled:
            self._wafers.update_one(
                {"_id": document["_id"], "label": {"$in": [None, document["label"]]}},
                {"$set": {"label": document["label"], "label_batch": batch.digest}},
            )
        turned_away = {c.wafer for c in conflicts}
        record = BatchRecord(
            digest=batch.digest,
            file=batch.file,
            kind=batch.kind,
            order=int(np.min(batch.order)),
            wafers=tuple(w for w in batch.wafers if w not in turned_away),
            repeats=repeats,
            labelled=len(labelled),
            conflicts=tuple(conflicts),
        )
        self._batches.replace_one({"_id": batch.digest}, _ledger_line(record), upsert=True)
        return record

    def _insert_new(self, documents: list[Document]) -> list[str]:
        """Insert what is new; the ids that were there already."""
        try:
            self._wafers.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            problems = (error.details or {}).get("writeErrors", [])
            other = [p for p in problems if p["code"] != DUPLICATE_KEY]
            if other:
                raise StoreError(
                    f"the database refused {len(other)} of {len(documents)} wafers: {other[0]['errmsg'][:200]}"
                ) from None
            return [p["op"]["_id"] for p in problems]
        return []

    def batches(self, kind: str) -> list[BatchRecord]:
        """The ledger's records of one kind, in production order."""
        return [_record(d) for d in self._batches.find({"kind": kind}).sort([("order", 1), ("file", 1), ("_id", 1)])]

    def read_wafers(self, wafers: Sequence[str], sensors: Sequence[str]) -> pd.DataFrame:
        """The stored wafers by id, in the order asked for.

        Columns: wafer (str), order (int64), label (Int8, missing where unknown), then one float64 column a sensor.

        Raises:
            StoreError: a wafer is not in the database.
        """
        found: dict[str, Document] = {}
        for start in range(0, len(wafers), WAFERS_A_QUERY):
            for document in self._wafers.find({"_id": {"$in": list(wafers[start : start + WAFERS_A_QUERY])}}):
                document["readings"] = np.array(document["readings"], dtype=np.float64)
                found[document["_id"]] = document
        lost = [w for w in wafers if w not in found]
        if lost:
            raise StoreError(f"{len(lost)} wafers of the ledger are not in the database, the first is {lost[0]}")
        rows = [found[w] for w in wafers]
        readings = np.array([d["readings"] for d in rows]).reshape(len(rows), len(sensors))
        facts = pd.DataFrame(
            {
                "wafer": pd.Series([d["_id"] for d in rows], dtype="str"),
                "order": np.array([d["order"] for d in rows], dtype=np.int64),
                "label": pd.array([d["label"] for d in rows], dtype="Int8"),
            }
        )
        return pd.concat([facts, pd.DataFrame(readings, columns=list(sensors))], axis=1)

    def add_predictions(self, batch: str, rows: Sequence[Mapping[Hashable, Any]]) -> None:
        """Store one batch's predictions; the same wafer, batch and model version again replaces the earlier row."""
        operations = []
        for row in rows:
            key = f"{batch}:{row['Wafer']}:{row['model_version']}"
            document = {"_id": key, "batch": batch, **{str(name): value for name, value in row.items()}}
            operations.append(pymongo.ReplaceOne({"_id": key}, document, upsert=True))
        if operations:
            self._predictions.bulk_write(operations, ordered=False)

    def predictions(self, batch: str) -> pd.DataFrame:
        """The stored predictions of the batch with this digest."""
        return pd.DataFrame(list(self._predictions.find({"batch": batch}, {"_id": 0})))

    def counts(self) -> dict[str, int]:
        """Documents in each collection."""
        return {
            "wafers": self._wafers.count_documents({}),
            "batches": self._batches.count_documents({}),
            "predictions": self._predictions.count_documents({}),
        }


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """The store that `settings` name: the server at MONGODB_URL, else the embedded one.

    Raises:
        StoreError: the server cannot be reached or started, or fails on the way.
    """
    if settings.mongodb_url is not None:
        with _connected(settings.mongodb_url, settings.mongodb_database) as store:
            yield store
    else:
        with (
            embedded_server(settings.state / "mongodb") as url,
            _connected(url, settings.mongodb_database) as store,
        ):
            yield store


@contextmanager
def _connected(url: str, database: str) -> Iterator[Store]:
    try:
        client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            url, serverSelectionTimeoutMS=MILLISECONDS_TO_CONNECT, appname="wafer"
        )
    except PyMongoError as error:
        raise StoreError(f"MONGODB_URL is not a usable address: {_brief(error)}") from error
    with client:
        try:
            store = Store(client[database])
            store.ensure_indexes()
            yield store
        except ServerSelectionTimeoutError as error:
            nodes = ", ".join(
                f"{host}:{port}" for host, port in sorted(client.topology_description.server_descriptions())
            )
            raise StoreError(f"no MongoDB server answers at {nodes}: {_brief(error)}") from error
        except PyMongoError as error:
            raise StoreError(f"the database failed: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    """The first part of a driver's message, which may go on with the whole document or topology."""
    return str(error).split(", Timeout:")[0].split(" (configured timeouts")[0][:300]


def _documents(batch: IncomingBatch) -> list[Document]:
    missing = np.isnan(batch.readings).sum(axis=1).tolist()
    labels = [None] * len(batch.wafers) if batch.labels is None else batch.labels.tolist()
    rows = zip(batch.wafers, batch.order.tolist(), labels, missing, batch.readings.tolist(), strict=True)
    return [
        {
            "_id": wafer,
            "order": order,
            "label": label,
            "batch": batch.digest,
            "file": batch.file,
            "label_batch": None if label is None else batch.digest,
            "missing": count,
            "readings": readings,
        }
        for wafer, order, label, count, readings in rows
    ]


def _conflict(old: Document, new: Document, tolerance: float) -> Conflict | None:
    """What of `new` contradicts the stored wafer, or None."""
    then, now = np.array(old["readings"]), np.array(new["readings"])
    if then.shape != now.shape:
        return Conflict(new["_id"], new["file"], old["file"], "number of sensors", len(then), len(now))
    same = np.isclose(then, now, rtol=tolerance, atol=0.0, equal_nan=True)
    if not same.all():
        first = int(np.argmin(same))
        values = [None if np.isnan(v[first]) else float(v[first]) for v in (then, now)]
        return Conflict(new["_id"], new["file"], old["file"], f"Sensor-{first + 1}", *values)
    if new["label"] is not None and old["label"] is not None and new["label"] != old["label"]:
        return Conflict(new["_id"], new["file"], old["file"], "label", old["label"], new["label"])
    return None


def _ledger_line(record: BatchRecord) -> Document:
    line = asdict(record)
    line["_id"] = line.pop("digest")
    line["wafers"] = list(record.wafers)
    line["conflicts"] = [asdict(c) for c in record.conflicts]
    return line


def _record(line: Document) -> BatchRecord:
    return BatchRecord(
        digest=line["_id"],
        file=line["file"],
        kind=line["kind"],
        order=line["order"],
        wafers=tuple(line["wafers"]),
        repeats=line["repeats"],
        labelled=line["labelled"],
        conflicts=tuple(Conflict(**c) for c in line["conflicts"]),
    )
