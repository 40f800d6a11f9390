"""From delivered files to the store or the quarantine, each file to exactly one of them.

The calling thread reads, judges and prepares; a single other one makes every change that lasts, a group of files after
the other and in the files' order. Whatever happens in between, the same call again ends in the same store and
quarantine:

1. new wafers are inserted, under their ids;
2. for each file, in order: labels are added and readings replaced (only once all files before it stand in the ledger),
   dropped and contradicting wafers go to the quarantine;
3. the file's line in the ledger is written: from here on it is known, and left alone;
4. what an earlier verdict had put into the quarantine under the same bytes is removed, and so are conflicts of a known
   file that have been settled since.

A file that cannot be read, or is not any more what was judged, is told as unread and holds up no other.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wafer.contract.facts import Delivery
from wafer.contract.suites import Contract, Reason, Verdict, judge_files
from wafer.contract.verdicts import unread_verdict
from wafer.delivered import Listing, list_files
from wafer.errors import UnreadError
from wafer.intake.conflicts import conflict_rows
from wafer.intake.quarantine import Quarantine
from wafer.progress import Progress
from wafer.shown import shown_text
from wafer.storage import AnyPath
from wafer.store.documents import BatchRecord, Document, IncomingBatch, with_late
from wafer.store.wafers import Store

FILES_JUDGED = 50  # in one validation; more cost memory, fewer cost time
WAFERS_A_GROUP = 1000
FILES_A_GROUP = 200
GROUPS_WAITING = 3  # prepared, so that there is enough to store while the next files are judged

Judged = tuple[Delivery, Verdict]


@dataclass(frozen=True)
class IngestedFile:
    """What became of one delivered file."""

    file: str
    digest: str
    verdict: str
    reasons: list[dict[str, Any]]
    warnings: list[dict[str, Any]]
    wafers: int = 0
    stored: int = 0
    repeats: int = 0
    labelled: int = 0
    dropped: int = 0
    known: bool = False
    conflicts: tuple[dict[str, Any], ...] = ()
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class IngestReport:
    """What became of one delivery of files; `listing` says what it was, and what was left out of it."""

    kind: str
    files: tuple[IngestedFile, ...]
    listing: Listing = field(default_factory=lambda: Listing(()))

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON: totals first, then one entry a file.

        `without_wafers` counts accepted files whose wafers were all turned away as conflicts; `why_empty` is a sentence
        where there was no file at all, `left_out` one about entries of the folder that are no batch files, else None.
        """
        rules = Counter(rule for f in self.files for rule in sorted({r["rule"] for r in f.reasons}))
        accepted = [f for f in self.files if f.verdict == "accepted"]
        unread = sum(f.verdict == "unread" for f in self.files)
        return {
            "kind": self.kind,
            "files": len(self.files),
            "accepted": len(accepted),
            "quarantined": len(self.files) - len(accepted) - unread,
            "unread": unread,
            "quarantined_by_rule": dict(sorted(rules.items())),
            "known_batches": sum(f.known for f in accepted),
            "without_wafers": sum(not f.wafers for f in accepted),
            "why_empty": None if self.files else self.listing.why_empty,
            "left_out": self.listing.left_out,
            "wafers": sum(f.wafers for f in accepted),
            "wafers_stored": sum(f.stored for f in accepted),
            "duplicates": sum(f.repeats for f in accepted),
            "labels_added": sum(f.labelled for f in accepted),
            "conflicts": sum(len(f.conflicts) for f in accepted),
            "replaced": sum(len(f.replaced) for f in accepted),
            "wafers_dropped": sum(f.dropped for f in accepted),
            "batches": [asdict(f) for f in self.files],
        }


def ingest(
    paths: Sequence[AnyPath],
    contract: Contract,
    store: Store,
    quarantine: Quarantine,
    progress: Progress | None = None,
    *,
    replacing: bool = False,
    watch: Callable[[Delivery, Verdict], None] | None = None,
    link_roots: Sequence[Path] = (),
    may_write: Callable[[], None] = lambda: None,
) -> IngestReport:
    """Judge every file of `paths`, store the wafers of the accepted ones and keep the others in the quarantine.

    Files are taken in the order of their names. A file whose bytes the ledger knows as one of this kind is left alone;
    one that it knows as one of the other kind is judged like any other, and never taken in twice. A wafer that
    contradicts the stored one is quarantined while its file is accepted; with `replacing` it takes the stored one's
    place, which goes into its history, and so do the wafers that an earlier call quarantined for that. `watch` is told
    of each file and its verdict. Links in a folder may lead into `link_roots` as well as into that folder.
    `may_write` is called before each group of files changes anything, and raises where that is not allowed any more.

    Raises:
        DeliveryError: a path does not exist, or the quarantine cannot be written.
        StoreError: the database fails; the same call again completes the work.
    """
    listing = list_files(paths, link_roots)
    judged = _watched(judge_files(listing.files, contract, FILES_JUDGED), watch)
    files: list[IngestedFile] = []
    with closing(take_in(judged, contract, store, quarantine, replacing=replacing, may_write=may_write)) as groups:
        for group in groups:
            files += group
            if progress is not None:
                progress(len(files), len(listing.files))
    return IngestReport(contract.kind, tuple(files), listing)


def take_in(
    judged: Iterator[Judged],
    contract: Contract,
    store: Store,
    quarantine: Quarantine,
    *,
    replacing: bool = False,
    may_write: Callable[[], None] = lambda: None,
) -> Generator[list[IngestedFile]]:
    """What becomes of files that `contract` has judged, group by group, see `ingest`."""
    return _taken_in(_groups(judged), _Writer(contract, store, quarantine, replacing, may_write))


def _watched(judged: Iterator[Judged], watch: Callable[[Delivery, Verdict], None] | None) -> Iterator[Judged]:
    """The same files, of each of which `watch` is told."""
    for delivery, verdict in judged:
        if watch is not None:
            watch(delivery, verdict)
        yield delivery, verdict


def _groups(judged: Iterator[Judged]) -> Iterator[list[Judged]]:
    """Files to be stored together."""
    group: list[Judged] = []
    wafers = 0
    for delivery, verdict in judged:
        group.append((delivery, verdict))
        wafers += 0 if delivery.table is None else delivery.table.num_rows
        if wafers >= WAFERS_A_GROUP or len(group) >= FILES_A_GROUP:
            yield group
            group, wafers = [], 0
    if group:
        yield group


def _taken_in(groups: Iterator[list[Judged]], writer: "_Writer") -> Generator[list[IngestedFile]]:
    """What became of the files of each group, in order; while one is being stored, the next few are made ready."""
    waiting: deque[Future[list[IngestedFile]]] = deque()
    with ThreadPoolExecutor(1, "store") as thread:
        try:
            for group in groups:
                ready = writer.prepare(group)
                waiting.append(thread.submit(writer.take_in, ready, waiting[-1] if waiting else None))
                while len(waiting) > GROUPS_WAITING:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Ready:
    """A judged file with all that can be prepared: its line in the ledger if it has one, its wafers if they matter."""

    delivery: Delivery
    verdict: Verdict
    record: BatchRecord | None
    batch: IncomingBatch | None


@dataclass
class _Group:
    """A group of files while it is being stored.

    `known` are lines of the ledger by digest, `fresh` the batches that have none, `stored` the documents that other
    files had brought, `due` the lines still to be written.
    """

    known: dict[str, BatchRecord]
    fresh: dict[str, IncomingBatch]
    stored: dict[str, Document]
    due: list[BatchRecord] = field(default_factory=list)


@dataclass(frozen=True)
class _Writer:
    """Makes every change that lasts; `taken` are the digests of this run's files."""

    contract: Contract
    store: Store
    quarantine: Quarantine
    replacing: bool
    may_write: Callable[[], None]
    taken: set[str] = field(default_factory=set)

    def prepare(self, group: Sequence[Judged]) -> list[_Ready]:
        """What can be done ahead, without changing anything."""
        known = self.store.known(sorted({delivery.digest for delivery, _ in group}))
        ready = []
        for delivery, verdict in group:
            record = known.get(delivery.digest)
            if record is not None and record.kind != self.contract.kind:
                verdict = _of_other_kind(verdict, record)
                record = None
            needed = record is None or (self.replacing and bool(record.conflicts))
            batch = self._incoming(delivery) if verdict.accepted and needed else None
            if delivery.table is not None:
                delivery = replace(delivery, table=delivery.table.select(["wafer"]))
            ready.append(_Ready(delivery, verdict, record, batch))
        return ready

    def take_in(self, ready: Sequence[_Ready], earlier: "Future[list[IngestedFile]] | None") -> list[IngestedFile]:
        """Store or quarantine a group of files, if the group before it came through."""
        if earlier is not None:
            earlier.result()
        self.may_write()
        known = {one.delivery.digest: one.record for one in ready if one.record is not None}
        known |= self.store.known(sorted({one.delivery.digest for one in ready} & self.taken - known.keys()))
        fresh: dict[str, IncomingBatch] = {}
        for one in ready:
            if one.batch is not None and one.batch.digest not in known:
                fresh.setdefault(one.batch.digest, one.batch)
        group = _Group(known, fresh, self.store.insert(list(fresh.values())))
        files = [self._take_in_one(one, group) for one in ready]
        self._write(group)
        self.taken.update(known)
        for digest in known:
            self.quarantine.discard(digest)
        return files

    def _take_in_one(self, ready: _Ready, group: _Group) -> IngestedFile:
        """What becomes of one file, now that the new wafers of its group are stored."""
        delivery, verdict = ready.delivery, ready.verdict
        known = group.known.get(delivery.digest)
        if known is not None:
            if self.replacing and known.conflicts and ready.batch is not None:
                self._write(group)
                group.known[delivery.digest] = known = self._settle_late(ready.batch, known)
            if known.late and delivery.table is not None:  # also where a run was broken off before it could
                lines = zip(delivery.table["wafer"].to_pylist(), delivery.lines, strict=True)
                self.quarantine.forget_conflicts(known.digest, {line for wafer, line in lines if wafer in known.late})
            return _entry(delivery, verdict, known, known_before=True)
        try:
            if verdict.accepted:
                record = self._settle(ready, group)
                return _entry(delivery, verdict, record, known_before=False)
            if not verdict.unread:
                self.quarantine.keep(delivery, verdict)
        except UnreadError as error:
            verdict = unread_verdict(delivery.file, str(error))
        return _rejected(delivery, verdict)

    def _settle(self, ready: _Ready, group: _Group) -> BatchRecord:
        """Settle a new batch against stored wafers, and quarantine those that are turned away; its line is due then.

        Raises:
            UnreadError: the lines to be quarantined cannot be had; without its line the file is not taken in.
        """
        batch = group.fresh[ready.delivery.digest]
        if any(wafer in group.stored for wafer in batch.wafers):
            self._write(group)
        record, changed = self.store.settle(
            batch, group.stored, self.contract.repeat_tolerance, replacing=self.replacing
        )
        group.stored |= changed
        rows = ready.verdict.dropped + conflict_rows(ready.delivery, record.conflicts)
        self.quarantine.keep_rows(ready.delivery, replace(ready.verdict, dropped=rows))
        group.known[record.digest] = record
        group.due.append(record)
        return record

    def _write(self, group: _Group) -> None:
        """Write the lines that are due."""
        self.store.write_ledger(group.due)
        group.due.clear()

    def _settle_late(self, batch: IncomingBatch, record: BatchRecord) -> BatchRecord:
        """Let the wafers that an earlier run turned away as conflicts replace the stored ones, and tell the ledger."""
        stored = self.store.find([conflict.wafer for conflict in record.conflicts])
        late, _ = self.store.settle(batch.only(stored.keys()), stored, self.contract.repeat_tolerance, replacing=True)
        settled = with_late(record, late, batch.wafers)
        self.store.write_ledger([settled])
        return settled

    def _incoming(self, delivery: Delivery) -> IncomingBatch:
        table, sensors = cast(pa.Table, delivery.table), list(self.contract.sensors)
        wafers = table["wafer"].to_pylist()
        (whole,) = table.select(sensors).combine_chunks().to_batches() or [None]
        readings = np.empty((0, len(sensors))) if whole is None else np.asarray(whole.to_tensor(null_to_nan=True))
        labels = table["label"].to_numpy() if "label" in table.column_names else None
        order = production_order(self.contract.order, self.contract.form.wafer_id, wafers, delivery.file)
        return IncomingBatch(
            digest=delivery.digest,
            file=delivery.file,
            kind=self.contract.kind,
            wafers=wafers,
            order=order,
            sensors=sensors,
            readings=readings,
            labels=labels,
        ).prepared()


def _of_other_kind(verdict: Verdict, record: BatchRecord) -> Verdict:
    """The verdict on a file whose bytes are in the ledger as a file of the other kind."""
    if not verdict.accepted:
        return verdict
    first = shown_text(record.file)
    said = f"the same bytes were taken in for {record.kind} before, as {first}, and are taken in for one kind only"
    return Verdict(verdict.file, False, (Reason("other_kind", said),), verdict.warnings)


def _rejected(delivery: Delivery, verdict: Verdict) -> IngestedFile:
    judged = verdict.as_dict()
    return IngestedFile(delivery.file, delivery.digest, judged["verdict"], judged["reasons"], judged["warnings"])


def _entry(delivery: Delivery, verdict: Verdict, record: BatchRecord, *, known_before: bool) -> IngestedFile:
    return IngestedFile(
        file=delivery.file,
        digest=delivery.digest,
        verdict="accepted",
        reasons=[],
        warnings=verdict.as_dict()["warnings"],
        wafers=len(record.wafers),
        stored=0 if known_before else record.stored,
        repeats=0 if known_before else record.repeats,
        labelled=0 if known_before else record.labelled,
        dropped=0 if known_before else len(verdict.dropped),
        known=known_before,
        conflicts=tuple(asdict(c) for c in record.conflicts),
        replaced=record.replaced,
    )


def production_order(rule: str, wafer_id: re.Pattern[str], wafers: Sequence[str], file: str) -> NDArray[np.int64]:
    """The place of each wafer in the production, by the agreement's `rule`.

    "wafer_number": what the agreed `wafer_id` calls the number of an id. "file_time": the date and time in the file's
    name (…_DDMMYYYY_HHMMSS.csv) as a number that sorts by time, times 10,000, plus the row.

    Raises:
        ValueError: an id or the file's name is not as agreed.
    """
    if rule == "wafer_number":
        return np.array([_number(wafer_id, wafer) for wafer in wafers], dtype=np.int64)
    date, time = file.rsplit(".", 1)[0].split("_")[-2:]
    moment = int(date[4:] + date[2:4] + date[:2] + time)
    return moment * 10_000 + np.arange(len(wafers), dtype=np.int64)


def _number(wafer_id: re.Pattern[str], wafer: str) -> int:
    found = wafer_id.fullmatch(wafer)
    if found is None:
        raise ValueError(f"{wafer!r} is no wafer id of the form {wafer_id.pattern}")
    return int(found["number"])
