"""From delivered files to the store or the quarantine, each file to exactly one of them.

The calling thread reads, judges and prepares; a single other one makes every change that lasts, a group of files after
the other and in the files' order. Whatever happens in between, the same call again ends in the same store and
quarantine:

1. new wafers are inserted, under their ids;
2. for each file, in order: labels are added and readings replaced (only once all files before it stand in the ledger),
   dropped and contradicting wafers go to the quarantine;
3. the file's line in the ledger is written: from here on it is known, and left alone;
4. what an earlier verdict had put into the quarantine under the same bytes is removed.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wafer.intake.batches import Delivery
from wafer.intake.conflicts import conflict_rows
from wafer.intake.contract import Contract, Verdict, check
from wafer.intake.documents import BatchRecord, Document, IncomingBatch, with_late
from wafer.intake.quarantine import Quarantine
from wafer.intake.store import Store
from wafer.progress import Progress
from wafer.storage import AnyPath

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
    """What became of one delivery of files."""

    kind: str
    files: tuple[IngestedFile, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON: totals first, then one entry a file."""
        rules = Counter(rule for f in self.files for rule in sorted({r["rule"] for r in f.reasons}))
        accepted = [f for f in self.files if f.verdict == "accepted"]
        return {
            "kind": self.kind,
            "files": len(self.files),
            "accepted": len(accepted),
            "quarantined": len(self.files) - len(accepted),
            "quarantined_by_rule": dict(sorted(rules.items())),
            "known_batches": sum(f.known for f in accepted),
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
) -> IngestReport:
    """Judge every file of `paths`, store the wafers of the accepted ones and keep the others in the quarantine.

    Files are taken in the order of their names. A file whose bytes the ledger knows is left alone. A wafer that
    contradicts the stored one is quarantined while its file is accepted; with `replacing` it takes the stored one's
    place, which goes into its history, and so do the wafers that an earlier call quarantined for that. `watch` is told
    of each file and its verdict.

    Raises:
        DeliveryError: a path does not exist.
        StoreError: the database fails; the same call again completes the work.
    """
    total = 0

    def count(_: int, files: int) -> None:
        nonlocal total
        total = files

    judged = _watched(check(paths, contract, FILES_JUDGED, count), watch)
    files: list[IngestedFile] = []
    with closing(_taken_in(_groups(judged), _Writer(contract, store, quarantine, replacing))) as groups:
        for group in groups:
            files += group
            if progress is not None:
                progress(len(files), max(total, len(files)))
    return IngestReport(contract.kind, tuple(files))


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


@dataclass(frozen=True)
class _Writer:
    """Makes every change that lasts; `taken` are the digests of this run's files."""

    contract: Contract
    store: Store
    quarantine: Quarantine
    replacing: bool
    taken: set[str] = field(default_factory=set)

    def prepare(self, group: Sequence[Judged]) -> list[_Ready]:
        """What can be done ahead, without changing anything."""
        known = self.store.known(sorted({delivery.digest for delivery, _ in group}))
        ready = []
        for delivery, verdict in group:
            record = known.get(delivery.digest)
            needed = record is None or (self.replacing and bool(record.conflicts))
            batch = self._incoming(delivery) if verdict.accepted and needed else None
            if delivery.table is not None:
                delivery = replace(delivery, table=delivery.table.select(["wafer"]))
            ready.append(_Ready(delivery, verdict, record, batch))
        return ready

    def take_in(self, group: Sequence[_Ready], earlier: "Future[list[IngestedFile]] | None") -> list[IngestedFile]:
        """Store or quarantine a group of files, if the group before it came through."""
        if earlier is not None:
            earlier.result()
        known = {ready.delivery.digest: ready.record for ready in group if ready.record is not None}
        known |= self.store.known(sorted({r.delivery.digest for r in group} & self.taken - known.keys()))
        fresh: dict[str, IncomingBatch] = {}
        for ready in group:
            if ready.batch is not None and ready.batch.digest not in known:
                fresh.setdefault(ready.batch.digest, ready.batch)
        stored = self.store.insert(list(fresh.values()))
        ledger: list[BatchRecord] = []
        files = []
        for ready in group:
            digest = ready.delivery.digest
            if digest in known:
                if self.replacing and known[digest].conflicts and ready.batch is not None:
                    self._write(ledger)
                    known[digest] = self._settle_late(ready.batch, known[digest])
                files.append(_entry(ready.delivery, ready.verdict, known[digest], known_before=True))
            elif ready.verdict.accepted:
                if any(wafer in stored for wafer in fresh[digest].wafers):
                    self._write(ledger)
                known[digest], changed = self._settle(ready, fresh[digest], stored)
                stored |= changed
                ledger.append(known[digest])
                files.append(_entry(ready.delivery, ready.verdict, known[digest], known_before=False))
            else:
                self.quarantine.keep(ready.delivery, ready.verdict)
                files.append(_rejected(ready.delivery, ready.verdict))
        self._write(ledger)
        self.taken.update(known)
        for digest in known:
            self.quarantine.discard(digest)
        return files

    def _settle(
        self, ready: _Ready, batch: IncomingBatch, stored: Mapping[str, Document]
    ) -> tuple[BatchRecord, dict[str, Document]]:
        """Settle a new batch against stored wafers, and quarantine those that are turned away."""
        record, changed = self.store.settle(batch, stored, self.contract.repeat_tolerance, replacing=self.replacing)
        rows = ready.verdict.dropped + conflict_rows(ready.delivery, record.conflicts)
        self.quarantine.keep_rows(ready.delivery, replace(ready.verdict, dropped=rows))
        return record, changed

    def _write(self, ledger: list[BatchRecord]) -> None:
        """Write the lines that are due."""
        self.store.write_ledger(ledger)
        ledger.clear()

    def _settle_late(self, batch: IncomingBatch, record: BatchRecord) -> BatchRecord:
        """Let the wafers that an earlier run turned away as conflicts replace the stored ones."""
        wafers = [conflict.wafer for conflict in record.conflicts]
        late, _ = self.store.settle(
            batch.only(wafers), self.store.find(wafers), self.contract.repeat_tolerance, replacing=True
        )
        settled = with_late(record, late, batch.wafers)
        self.quarantine.forget_conflicts(batch.digest)
        self.store.write_ledger([settled])
        return settled

    def _incoming(self, delivery: Delivery) -> IncomingBatch:
        table, sensors = cast(pa.Table, delivery.table), list(self.contract.sensors)
        wafers = table["wafer"].to_pylist()
        (whole,) = table.select(sensors).combine_chunks().to_batches() or [None]
        readings = np.empty((0, len(sensors))) if whole is None else np.asarray(whole.to_tensor(null_to_nan=True))
        labels = table["label"].to_numpy() if "label" in table.column_names else None
        order = production_order(self.contract.order, self.contract.form.wafer_id, wafers, delivery.file)
        batch = IncomingBatch(delivery.digest, delivery.file, self.contract.kind, wafers, order, readings, labels)
        return batch.prepared()


def _rejected(delivery: Delivery, verdict: Verdict) -> IngestedFile:
    judged = verdict.as_dict()
    return IngestedFile(delivery.file, delivery.digest, "quarantined", judged["reasons"], judged["warnings"])


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
        dropped=len(verdict.dropped),
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
