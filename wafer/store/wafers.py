"""Wafers in MongoDB: the only module that talks to it.

Three collections, none of which ever holds a thing twice:

- ``wafers``, one document a wafer: ``{_id: "Wafer-12", order: 12, label: -1, batch: <digest>, file: "wafer_….csv",
  label_batch: <digest>, missing: 27, readings: [3030.93, 2564.0, NaN, …]}``. ``readings[i]`` is sensor ``i + 1``;
  a missing reading is NaN. An array of doubles is exact, can be read and queried by a person, and costs a third of the
  room and time of 590 named fields. A wafer whose readings were replaced has the earlier ones in ``earlier``, an array
  of the same fields, oldest first.
- ``batches``, the ledger: one document a batch file that was taken in, keyed by the SHA-256 of its bytes, written after
  its wafers. Its ``wafers`` are the ids in the file's order.
- ``predictions``, one document a wafer, batch and model version.

Beside them lie the ``leases`` and the ``alarms``, which `wafer.store.leases` and `wafer.store.alarms` describe.
"""

import datetime
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from collections.abc import Collection as Many
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pymongo
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from wafer.addresses import knock
from wafer.errors import StoreError
from wafer.settings import Settings
from wafer.shown import masked
from wafer.storage import private_folder
from wafer.store.documents import (
    LABEL,
    LABELS,
    BatchRecord,
    Conflict,
    Document,
    IncomingBatch,
    IncomingLabels,
    Settled,
    ledger_line,
    ledger_record,
    naming_files,
    settle,
    settle_labels,
    version_of,
)
from wafer.store.embedded import embedded_server

__all__ = ["BatchRecord", "Conflict", "IncomingBatch", "Status", "Store", "open_store"]

DUPLICATE_KEY = 11000
FORBIDDEN = (8000, 13, 18)  # codes of errors: Atlas' own, unauthorized, authentication failed
MILLISECONDS_TO_CONNECT = 8000
MILLISECONDS_BETWEEN_LOOKS = 5000  # of the driver at a server; one that hangs is found out by them
SECONDS_TO_CLOSE = 2.0  # which is a courtesy to a server, and waits for one that is gone or stopped
WAFERS_A_QUERY = 500
TIMES_DECIDED = 5  # about stored wafers that others change meanwhile
SAME_VERSION = ("batch", "label_batch")  # what tells one state of a stored wafer from the next
# what an index is scanned for; whether a field exists is asked of every document
ANY_TEXT = {"$gt": ""}
ANY_TIME = {"$gt": datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)}
LAST_MADE_FIRST = [("order", -1), ("Wafer", 1), ("scored", -1)]  # of the same wafer, the row scored last
INDEXES = {
    "wafers": {"by_label": [("label", 1), ("order", 1)]},
    "batches": {
        "by_place": [("kind", 1), ("order", 1), ("file", 1), ("_id", 1)],
        "by_time": [("taken_in", 1)],
        "by_replaced": [("replaced", 1)],
        "by_conflict": [("conflicts.wafer", 1)],
    },
    "predictions": {
        "by_batch": [("batch", 1)],
        "by_production": [("model_version", 1), *LAST_MADE_FIRST],
        "by_wafer": [("Wafer", 1), ("scored", -1)],
        "by_verdict": [("Prediction", 1), ("scored", -1)],
    },
    "alarms": {"by_wafer": [("wafer", 1), ("number", 1)]},
}


@dataclass(frozen=True)
class Status:
    """What a store holds.

    `batches` are numbers by kind, `conflicts` wafers that were turned away, `replaced` wafers with a history, `last`
    the batch that was taken in last.
    """

    wafers: int
    labelled: int
    faulty: int
    batches: dict[str, int]
    conflicts: int
    replaced: int
    predictions: int
    last: BatchRecord | None


class Store:
    """Wafers, ledger and predictions in one database; made by `open_store`."""

    def __init__(self, database: Database[Document]) -> None:
        self._wafers: Collection[Document] = database["wafers"]
        self._batches: Collection[Document] = database["batches"]
        self._predictions: Collection[Document] = database["predictions"]
        self.leases: Collection[Document] = database["leases"]
        self.alarms: Collection[Document] = database["alarms"]
        self._admin = database.client.admin

    def ensure_indexes(self) -> None:
        """Create the indexes: wafers by label, the ledger and predictions by what is asked of them, alarms by wafer."""
        for collection in (self._wafers, self._batches, self._predictions, self.alarms):
            for name, keys in INDEXES[collection.name].items():
                collection.create_index(keys, name=name)

    def now(self) -> datetime.datetime:
        """The server's time, which is the same for all who ask it (UTC)."""
        time: datetime.datetime = self._admin.command("hello")["localTime"]
        return time.replace(tzinfo=datetime.UTC)  # the driver gives a command's times without their zone

    def version(self) -> str:
        """The server's version."""
        return str(self._admin.command("buildInfo")["version"])

    def known(self, digests: Sequence[str]) -> dict[str, BatchRecord]:
        """The ledger's records of those `digests` that were taken in before."""
        found = self._batches.find({"_id": {"$in": list(digests)}})
        return {d["_id"]: ledger_record(d) for d in found}

    def insert(self, batches: Sequence[IncomingBatch]) -> dict[str, Document]:
        """Insert the wafers that are new, the first of each id; the stored documents of all the others.

        Each batch is then to be settled and written to the ledger, in the same order.
        """
        new: dict[str, Document] = {}
        twice = []
        for batch in batches:
            for document in batch.documents:
                if new.setdefault(document["_id"], document) is not document:
                    twice.append(document["_id"])
        return self.find(_insert_new(self._wafers, list(new.values())) + twice)

    def settle(
        self, batch: IncomingBatch, stored: dict[str, Document], tolerance: float, *, replacing: bool = False
    ) -> tuple[BatchRecord, dict[str, Document]]:
        """Do what is to be done about those wafers of `batch` that are in `stored`, as `insert` returned it.

        One with the same readings (within `tolerance`, relative) is a repeat; a label that it lacked is added. Other
        readings or another label are a conflict, and the stored wafer stays as it is; where `replacing`, it goes into
        the history of the one that came. A stored wafer that is another by now, since a writer that had lost its lease
        changed it at the last moment, is judged anew as it is.

        Returns:
            The line for the ledger, still to be written, and the documents that changed.

        Raises:
            StoreError: the stored wafers change each time that they are looked at.
        """

        def decided(now: dict[str, Document]) -> Settled:
            settled = settle(batch, now, tolerance, replacing=replacing)
            labels = [now[one.wafer] for one in settled.record.conflicts if one.what == LABEL]
            return naming_files(settled, self.label_files(labels)) if labels else settled

        settled, found = self._changed(stored, decided)
        again = {} if found is stored else found
        return settled.record, {**again, **{d["_id"]: d for d in (*settled.labelled, *settled.replaced)}}

    def _changed(
        self, stored: dict[str, Document], decided: Callable[[dict[str, Document]], Settled]
    ) -> tuple[Settled, dict[str, Document]]:
        """Change stored wafers as is decided of them, each only while it is what that was decided of.

        Returns: what was decided last, and of which documents.
        """
        for _ in range(TIMES_DECIDED):
            settled = decided(stored)
            changes: list[pymongo.UpdateOne | pymongo.ReplaceOne[Document]] = [
                pymongo.UpdateOne(
                    {"_id": d["_id"], "label_batch": {"$in": [None, d["label_batch"]]}},
                    {"$set": {"label": d["label"], "label_batch": d["label_batch"]}},
                )
                for d in settled.labelled
            ]
            changes += [
                pymongo.ReplaceOne({"_id": d["_id"], **{name: d["earlier"][-1][name] for name in SAME_VERSION}}, d)
                for d in settled.replaced
            ]
            if not changes or self._wafers.bulk_write(changes, ordered=False).matched_count == len(changes):
                return settled, stored
            stored = self.find(list(stored))
        raise StoreError("somebody else changes the same wafers all the time: run this again once that has ended")

    def add_labels(self, came: IncomingLabels) -> tuple[BatchRecord, dict[str, Document], bool]:
        """Give the stored wafers that have no label theirs from a file of labels, then write its line in the ledger.

        Returns:
            The line; of the file's wafers those that are stored, as they were before; whether anything has changed.
        """
        stored = self.find(list(came.labels), "label", "label_batch", "file", "order")
        known = self.known([came.digest]).get(came.digest)
        settled, stored = self._changed(stored, lambda now: settle_labels(came, now, known))
        if settled.record != known:
            self.write_ledger([settled.record])
        return settled.record, stored, settled.record != known

    def write_ledger(self, records: Sequence[BatchRecord]) -> None:
        """Write the ledger's lines of batches whose wafers are stored; with that they are taken in."""
        now = datetime.datetime.now(datetime.UTC)
        lines = [{**ledger_line(record), "taken_in": now} for record in records]
        there = set(_insert_new(self._batches, lines))
        again = [pymongo.ReplaceOne({"_id": line["_id"]}, line) for line in lines if line["_id"] in there]
        if again:
            self._batches.bulk_write(again)

    def mark_scored(self, records: Sequence[BatchRecord], run: str) -> None:
        """Note in the ledger that `run` has scored these batches, but of those whose line has changed since."""
        same = ({"_id": one.digest, "scored": None, "taken_in": one.taken_in} for one in records)
        if changes := [pymongo.UpdateOne(line, {"$set": {"scored": run}}) for line in same]:
            self._batches.bulk_write(changes, ordered=False)

    def label_files(self, stored: Sequence[Document]) -> dict[str, str]:
        """By wafer, the file that its label came from; where that one has no line yet, the file of its readings."""
        known = self.known(sorted({old["label_batch"] for old in stored if old["label_batch"]}))
        return {
            old["_id"]: known[old["label_batch"]].file if old["label_batch"] in known else old["file"] for old in stored
        }

    def find(self, wafers: Sequence[str], *fields: str) -> dict[str, Document]:
        """The documents of those `wafers` that are stored, by id; these fields of them, or all."""
        found = {}
        for start in range(0, len(wafers), WAFERS_A_QUERY):
            wanted = {"_id": {"$in": list(wafers[start : start + WAFERS_A_QUERY])}}
            for document in self._wafers.find(wanted, fields or None):
                found[document["_id"]] = document
        return found

    def batches(self, kind: str, newest: int = 0) -> list[BatchRecord]:
        """The ledger's records of one kind, in production order: the `newest` so many at its end, or all."""
        found = self._batches.find({"kind": kind}).sort([(name, -1) for name in ("order", "file", "_id")])
        return [ledger_record(d) for d in found.limit(newest)][::-1]

    def count_labelled(self) -> int:
        """How many wafers a snapshot would have: those of training batches and files of labels in the ledger."""
        found = self._batches.find({"kind": {"$in": ["training", LABELS]}}, {"wafers": 1})
        return len({wafer for line in found for wafer in line["wafers"]})

    def replacements(self) -> list[BatchRecord]:
        """The ledger's records of batches, of any kind, that replaced a wafer's earlier readings."""
        return [ledger_record(d) for d in self._batches.find({"replaced": ANY_TEXT}).sort("_id", 1)]

    def read_wafers(
        self, wafers: Sequence[str], sensors: Sequence[str], replacing: Many[str] | None = None
    ) -> pd.DataFrame:
        """The stored wafers by id, in the order asked for.

        Columns: wafer (str), order (int64), label (Int8, missing where unknown), then one float64 column a sensor.
        With `replacing`, each is as it was when just the batches of these digests had replaced earlier readings.

        Raises:
            StoreError: a wafer is not in the database, or has another number of sensors.
        """
        found = self._versions(wafers, replacing)
        lost = [w for w in wafers if w not in found]
        if lost:
            raise StoreError(f"{len(lost)} wafers of the ledger are not in the database, the first is {lost[0]}")
        rows = [found[w] for w in wafers]
        unfit = next((w for w, d in zip(wafers, rows, strict=True) if len(d["readings"]) != len(sensors)), None)
        if unfit is not None:
            raise StoreError(f"{unfit} has {len(found[unfit]['readings'])} readings, expected {len(sensors)}")
        readings = np.array([d["readings"] for d in rows]).reshape(len(rows), len(sensors))
        facts = pd.DataFrame(
            {
                "wafer": pd.Series(list(wafers), dtype="str"),
                "order": np.array([d["order"] for d in rows], dtype=np.int64),
                "label": pd.array([d["label"] for d in rows], dtype="Int8"),
            }
        )
        return pd.concat([facts, pd.DataFrame(readings, columns=list(sensors))], axis=1)

    def first_files(self, wafers: Sequence[str]) -> dict[str, str]:
        """The batch file that brought each of those `wafers` that are stored first, in the order asked for."""
        found = self.find(wafers, "file", "earlier.file")
        return {wafer: (found[wafer].get("earlier") or [found[wafer]])[0]["file"] for wafer in wafers if wafer in found}

    def _versions(self, wafers: Sequence[str], replacing: Many[str] | None) -> dict[str, Document]:
        """A version of each wafer by id, with its readings as an array, which takes a tenth of a list's room."""
        found = {}
        for start in range(0, len(wafers), WAFERS_A_QUERY):
            for wafer, document in self.find(wafers[start : start + WAFERS_A_QUERY]).items():
                version = document if replacing is None else version_of(document, replacing)
                found[wafer] = {**version, "readings": np.array(version["readings"], dtype=np.float64)}
        return found

    def add_predictions(self, batch: str, rows: Sequence[Mapping[Hashable, Any]]) -> None:
        """Store one batch's predictions; the same wafer, batch and model version again replaces the earlier row."""
        operations, now = [], self.now()
        for row in rows:
            key = f"{batch}:{row['Wafer']}:{row['model_version']}"
            document = {"_id": key, "batch": batch, "scored": now, **{str(name): value for name, value in row.items()}}
            operations.append(pymongo.ReplaceOne({"_id": key}, document, upsert=True))
        if operations:
            self._predictions.bulk_write(operations, ordered=False)

    def predictions(self, batch: str) -> pd.DataFrame:
        """The stored predictions of the batch with this digest."""
        return pd.DataFrame(list(self._predictions.find({"batch": batch}, {"_id": 0, "scored": 0})))

    def verdicts_on(self, wafer: str) -> list[Document]:
        """All stored predictions of one wafer, the one scored last first."""
        return list(self._predictions.find({"Wafer": wafer}, {"_id": 0}).sort([("Wafer", 1), ("scored", -1)]))

    def last_alarms(self, most: int) -> list[Document]:
        """The last prediction of each wafer, where it calls the wafer faulty; of the `most` that were scored last."""
        rows = self._predictions.find({"Prediction": 1}, {"_id": 0}).sort([("Prediction", 1), ("scored", -1)])
        found: dict[str, Document] = {}
        for row in rows.limit(most):
            found.setdefault(row["Wafer"], row)
        last: dict[str, Any] = {}
        for row in self._predictions.find({"Wafer": {"$in": list(found)}}, {"Wafer": 1, "scored": 1}):
            last[row["Wafer"]] = max(row["scored"], last.get(row["Wafer"], row["scored"]))
        return [row for wafer, row in found.items() if row["scored"] >= last[wafer]]

    def conflicts_of(self, wafer: str) -> list[Conflict]:
        """What was turned away because it contradicted this stored wafer."""
        lines = self._batches.find({"conflicts.wafer": wafer}, {"conflicts": 1})
        return [Conflict(**one) for line in lines for one in line["conflicts"] if one["wafer"] == wafer]

    def scored_by(self, model_version: int) -> pd.DataFrame:
        """The last verdict of a version on each wafer that it scored: Wafer, Prediction and probability."""
        wanted = {"model_version": model_version, "order": {"$gte": np.iinfo(np.int64).min}}
        names = ["Wafer", "Prediction", "probability"]
        rows = self._predictions.find(wanted, {**dict.fromkeys(names, 1), "_id": 0}).sort(LAST_MADE_FIRST)
        return pd.DataFrame(list(rows), columns=names).drop_duplicates("Wafer", ignore_index=True)

    def recent_probabilities(self, model_version: int, after: int, before: int, *, most: int) -> list[float]:
        """What a version said of the last wafers between two places of the production order, oldest first.

        A wafer that came in several batches counts once, as it was scored last; one without a probability or a place
        (as those of earlier releases) not at all.
        """
        wanted = {"model_version": model_version, "order": {"$gt": after, "$lt": before}}
        found: dict[str, float] = {}
        for row in self._predictions.find(wanted, {"Wafer": 1, "probability": 1}).sort(LAST_MADE_FIRST):
            if row["probability"] is not None:
                found.setdefault(row["Wafer"], row["probability"])
            if len(found) == most:
                break
        return list(found.values())[::-1]

    def counts(self) -> dict[str, int]:
        """Documents in each collection."""
        return {
            "wafers": self._wafers.count_documents({}),
            "batches": self._batches.count_documents({}),
            "predictions": self._predictions.count_documents({}),
        }

    def status(self) -> Status:
        """What the store holds, in numbers."""
        counts = self.counts()
        batches = {kind: self._batches.count_documents({"kind": kind}) for kind in ("training", "prediction", LABELS)}
        conflicts = self._batches.find({"conflicts.wafer": ANY_TEXT}, {"conflicts": 1})
        last = next(iter(self._batches.find({"taken_in": ANY_TIME}).sort("taken_in", -1).limit(1)), None)
        return Status(
            wafers=counts["wafers"],
            labelled=self._wafers.count_documents({"label": {"$in": [-1, 1]}}),
            faulty=self._wafers.count_documents({"label": 1}),
            batches=batches,
            conflicts=sum(len(d["conflicts"]) for d in conflicts),
            replaced=len({wafer for record in self.replacements() for wafer in record.replaced}),
            predictions=counts["predictions"],
            last=None if last is None else ledger_record(last),
        )


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
        private_folder(settings.state)
        with (
            embedded_server(settings.state / "mongodb") as url,
            _connected(url, settings.mongodb_database) as store,
        ):
            yield store


@contextmanager
def _connected(url: str, database: str) -> Iterator[Store]:
    try:
        parse_uri(url, warn=False)  # an option that is not known is an error, not a warning
        if why := knock(url):  # known at once, where the driver would go on trying for seconds
            raise StoreError(f"no MongoDB server is there: {why}") from ConnectionError(why)
        client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            url,
            serverSelectionTimeoutMS=MILLISECONDS_TO_CONNECT,
            connectTimeoutMS=MILLISECONDS_TO_CONNECT,  # in which a server must answer such a look, too
            heartbeatFrequencyMS=MILLISECONDS_BETWEEN_LOOKS,
            appname="wafer",
            tz_aware=True,
            w="majority",
            journal=True,
        )
    except (PyMongoError, ValueError) as error:
        raise StoreError(f"MONGODB_URL is not a usable address: {brief(error)}") from error
    try:
        store = Store(client[database])
        store.ensure_indexes()
        yield store
    except PyMongoError as error:
        nodes = ", ".join(f"{host}:{port}" for host, port in sorted(client.topology_description.server_descriptions()))
        if isinstance(error, AutoReconnect):
            told = f"no MongoDB server answers at {nodes} ({brief(error)}): see that it runs and run this again"
        else:
            told = f"the database at {nodes} failed: {brief(error)}"
        if isinstance(error, OperationFailure) and error.code in FORBIDDEN:
            told += ": give the user of MONGODB_URL the role readWrite"
        raise StoreError(told) from error
    finally:
        with pymongo.timeout(SECONDS_TO_CLOSE):
            client.close()


def _insert_new(collection: Collection[Document], documents: list[Document]) -> list[str]:
    """Insert what is new, which is much cheaper than a replacement or update; the ids that were there already."""
    if not documents:
        return []
    try:
        collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        problems = (error.details or {}).get("writeErrors", [])
        other = [p for p in problems if p["code"] != DUPLICATE_KEY]
        if other or not problems:
            what = other[0]["errmsg"][:200] if other else brief(error)
            refused = f"{len(other) or 'some'} of {len(documents)} documents"
            raise StoreError(f"the database refused {refused} for {collection.name}: {what}") from None
        return [p["op"]["_id"] for p in problems]
    return []


def brief(error: Exception) -> str:
    """The first part of a driver's message, which may go on with a whole document, answer or topology; no secrets."""
    told = masked(str(error))
    for rest in (", Timeout:", " (configured timeouts", ", full error: "):
        told = told.partition(rest)[0]
    return told[:300]
