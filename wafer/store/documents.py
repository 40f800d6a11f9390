"""What the store keeps, as plain values: batches on their way in, wafers' documents, the ledger's lines.

Nothing here talks to a database. `settle` decides what becomes of wafers that are stored already, `version_of` which of
a wafer's readings were in force when a snapshot was made.
"""

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Document = dict[str, Any]

LABELS = "labels"
"""The kind of a file that brings labels alone, for wafers that are stored."""
LABEL = "label"
"""What a conflict is about that is not about readings."""


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
    """One batch file as the ledger knows it.

    `wafers` are those that it brought, in the file's order, without those of the `conflicts`. `replaced` are wafers
    whose earlier readings it took the place of, `late` those that were conflicts until a later run replaced them.
    `taken_in` is the time of the line in UTC, and `scored` the run that scored its wafers first, None as long as none
    has; no comparison regards them.

    A file of labels is of the kind `LABELS`: its `wafers` are those that have its label, and when it is taken in again
    for wafers that it came too early for, these follow behind.
    """

    digest: str
    file: str
    kind: str
    order: int
    wafers: tuple[str, ...]
    repeats: int
    labelled: int
    conflicts: tuple[Conflict, ...]
    replaced: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    taken_in: datetime.datetime | None = field(default=None, compare=False)
    scored: str | None = field(default=None, compare=False)

    @property
    def stored(self) -> int:
        """Wafers that this file brought first."""
        return len(self.wafers) - self.repeats - len(self.replaced)

    def wafers_when(self, count: int) -> tuple[str, ...] | None:
        """The wafers of the time when it had so many of them; None if it never had."""
        if self.kind == LABELS:
            return self.wafers[:count] if count <= len(self.wafers) else None
        early = tuple(w for w in self.wafers if w not in set(self.late))
        return next((wafers for wafers in (self.wafers, early) if len(wafers) == count), None)


@dataclass(frozen=True)
class IncomingBatch:
    """The wafers of one accepted batch file, about to be stored.

    `readings` is (wafers × sensors) float64 with NaN for missing, `labels` holds -1 or +1 or is None, `order` is the
    production order of each wafer, `sensors` are the names by which a conflict tells of them.
    """

    digest: str
    file: str
    kind: str
    wafers: Sequence[str]
    order: NDArray[np.int64]
    sensors: Sequence[str]
    readings: NDArray[np.float64]
    labels: NDArray[np.int8] | None

    def only(self, wafers: Collection[str]) -> "IncomingBatch":
        """The same batch with some of its wafers."""
        rows = [row for row, wafer in enumerate(self.wafers) if wafer in wafers]
        if len(rows) == len(self.wafers):
            return self
        return replace(
            self,
            wafers=[self.wafers[row] for row in rows],
            order=self.order[rows],
            readings=self.readings[rows],
            labels=None if self.labels is None else self.labels[rows],
        )

    def prepared(self) -> "IncomingBatch":
        """The same batch with its documents made, so that storing it takes no longer than it must."""
        assert len(self.documents) == len(self.wafers)
        return self

    @cached_property
    def documents(self) -> list[Document]:
        """A new document for each wafer; made once."""
        missing = np.isnan(self.readings).sum(axis=1).tolist()
        labels = [None] * len(self.wafers) if self.labels is None else self.labels.tolist()
        rows = zip(self.wafers, self.order.tolist(), labels, missing, self.readings.tolist(), strict=True)
        return [
            {
                "_id": wafer,
                "order": order,
                "label": label,
                "batch": self.digest,
                "file": self.file,
                "label_batch": None if label is None else self.digest,
                "missing": count,
                "readings": readings,
            }
            for wafer, order, label, count, readings in rows
        ]


@dataclass(frozen=True)
class Settled:
    """What became of a batch: its line in the ledger, and stored wafers to be given a label or to be replaced."""

    record: BatchRecord
    labelled: tuple[Document, ...] = ()
    replaced: tuple[Document, ...] = ()


def settle(batch: IncomingBatch, stored: Mapping[str, Document], tolerance: float, *, replacing: bool) -> Settled:
    """Decide about the wafers of `batch`, of which `stored` has those that were in the store by another file.

    The same readings (within `tolerance`, relative) are a repeat, whose label is added where there was none. Anything
    else is a conflict, or where `replacing` takes the stored one's place. What an earlier, broken-off run did for the
    same batch is recognised and counted alike, also where another file has replaced it since.
    """
    conflicts: list[Conflict] = []
    labelled: list[Document] = []
    replaced: list[Document] = []
    done: list[str] = []
    repeats = 0
    for new in batch.only(stored.keys()).documents if stored else ():
        old = stored[new["_id"]]
        if old["batch"] == batch.digest:
            done += [new["_id"]] if "earlier" in old else []
            continue
        conflict = _conflict(old, new, batch.sensors, tolerance)
        history = [version["batch"] for version in old.get("earlier", ())]
        if batch.digest in history and (conflict is None or not replacing):
            done += [new["_id"]] if history[0] != batch.digest else []
        elif conflict is None:
            repeats += 1
            if new["label"] is not None and old["label_batch"] in (None, batch.digest):
                labelled.append({**old, "label": new["label"], "label_batch": batch.digest})
        elif replacing:
            replaced.append(_replacement(old, new))
            done.append(new["_id"])
        else:
            conflicts.append(conflict)
    turned_away = {c.wafer for c in conflicts}
    record = BatchRecord(
        digest=batch.digest,
        file=batch.file,
        kind=batch.kind,
        order=int(np.min(batch.order, initial=np.iinfo(np.int64).max)),
        wafers=tuple(w for w in batch.wafers if w not in turned_away),
        repeats=repeats,
        labelled=len(labelled),
        conflicts=tuple(conflicts),
        replaced=tuple(done),
    )
    return Settled(record, tuple(labelled), tuple(replaced))


def naming_files(settled: Settled, files: Mapping[str, str]) -> Settled:
    """The same, with conflicts about labels naming the file, by wafer, that the stored label came from."""
    record = settled.record
    named = (replace(one, stored_file=files[one.wafer]) if one.what == LABEL else one for one in record.conflicts)
    return replace(settled, record=replace(record, conflicts=tuple(named)))


@dataclass(frozen=True)
class IncomingLabels:
    """A file of labels (-1, +1) by wafer, in its order, about to be stored."""

    digest: str
    file: str
    labels: Mapping[str, int]


def settle_labels(came: IncomingLabels, stored: Mapping[str, Document], known: BatchRecord | None) -> Settled:
    """Decide about labels of which `stored` has the wafers, after `known`, the line of the same file, if it has one.

    A label is added where there was none. A wafer that has another one stays as it is, and out of the line; so does one
    that is not stored. What an earlier, broken-off run did for the same file is recognised and counted alike.
    """
    done = known or BatchRecord(came.digest, came.file, LABELS, np.iinfo(np.int64).max, (), 0, 0, ())
    held = set(done.wafers)
    agreed = [
        stored[wafer]
        for wafer, label in came.labels.items()
        if wafer in stored and wafer not in held and stored[wafer]["label"] in (None, label)
    ]
    labelled = [old for old in agreed if old["label_batch"] in (None, came.digest)]
    record = replace(
        done,
        order=min([done.order, *(old["order"] for old in agreed)]),
        wafers=(*done.wafers, *(old["_id"] for old in agreed)),
        repeats=done.repeats + len(agreed) - len(labelled),
        labelled=done.labelled + len(labelled),
    )
    changed = ({**old, "label": came.labels[old["_id"]], "label_batch": came.digest} for old in labelled)
    return Settled(record, tuple(changed))


def with_late(record: BatchRecord, late: BatchRecord, wafers: Sequence[str]) -> BatchRecord:
    """`record` after its conflicts were settled as `late` says.

    It counts as not scored, since its late wafers were not. No wafer leaves it: `wafers`, which give the late ones
    their place, are those of the file by today's agreement, which may drop some that it had then.
    """
    held, came = set(record.wafers), set(late.wafers)
    there = held | came
    behind: dict[str | None, list[str]] = {}
    before = None
    for wafer in wafers:
        if wafer in held:
            before = wafer
        elif wafer in came:
            behind.setdefault(before, []).append(wafer)
    merged = behind.get(None, [])
    for wafer in record.wafers:
        merged += [wafer, *behind.get(wafer, ())]
    return replace(
        record,
        wafers=tuple(merged),
        repeats=record.repeats + late.repeats,
        labelled=record.labelled + late.labelled,
        conflicts=tuple(c for c in record.conflicts if c.wafer not in there),
        replaced=record.replaced + late.replaced,
        late=record.late + late.wafers,
        scored=None,
    )


def version_of(document: Document, replacing: Collection[str]) -> Document:
    """The wafer as it was when just the batches `replacing` had replaced readings."""
    versions = [*document.get("earlier", ()), document]
    later = (version for version in reversed(versions[1:]) if version["batch"] in replacing)
    return next(later, versions[0])


def ledger_line(record: BatchRecord) -> Document:
    """The record as the ledger keeps it."""
    line = asdict(record)
    line["_id"] = line.pop("digest")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in line.items()}


def ledger_record(line: Document) -> BatchRecord:
    """The record that a line of the ledger holds."""
    return BatchRecord(
        digest=line["_id"],
        file=line["file"],
        kind=line["kind"],
        order=line["order"],
        wafers=tuple(line["wafers"]),
        repeats=line["repeats"],
        labelled=line["labelled"],
        conflicts=tuple(Conflict(**c) for c in line["conflicts"]),
        replaced=tuple(line.get("replaced", ())),
        late=tuple(line.get("late", ())),
        taken_in=line.get("taken_in"),
        scored=line.get("scored"),
    )


def _replacement(old: Document, new: Document) -> Document:
    """`new` in the place of `old`, which goes into its history; a label is kept where none came."""
    earlier = [*old.get("earlier", ()), {name: value for name, value in old.items() if name not in ("_id", "earlier")}]
    kept = {name: old[name] for name in ("label", "label_batch")} if new["label"] is None else {}
    return {**new, **kept, "earlier": earlier}


def _conflict(old: Document, new: Document, sensors: Sequence[str], tolerance: float) -> Conflict | None:
    """What of `new` contradicts the stored wafer, or None."""
    then, now = np.array(old["readings"]), np.array(new["readings"])
    if then.shape != now.shape:
        return Conflict(new["_id"], new["file"], old["file"], "number of sensors", len(then), len(now))
    same = np.isclose(then, now, rtol=tolerance, atol=0.0, equal_nan=True)
    if not same.all():
        first = int(np.argmin(same))
        values = [None if np.isnan(v[first]) else float(v[first]) for v in (then, now)]
        return Conflict(new["_id"], new["file"], old["file"], sensors[first], *values)
    if new["label"] is not None and old["label"] is not None and new["label"] != old["label"]:
        return Conflict(new["_id"], new["file"], old["file"], LABEL, old["label"], new["label"])
    return None
