"""From delivered files to the store or the quarantine, each file to exactly one of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wafer.intake.batches import Delivery
from wafer.intake.contract import Contract, Verdict, check
from wafer.intake.quarantine import Quarantine
from wafer.intake.store import BatchRecord, IncomingBatch, Store
from wafer.progress import Progress
from wafer.storage import AnyPath


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
            "wafers_dropped": sum(f.dropped for f in accepted),
            "batches": [asdict(f) for f in self.files],
        }


def ingest(
    paths: Sequence[AnyPath],
    contract: Contract,
    store: Store,
    quarantine: Quarantine,
    progress: Progress | None = None,
) -> IngestReport:
    """Judge every file of `paths`, store the wafers of the accepted ones and keep the others in the quarantine.

    Files are taken in the order of their names. A file whose bytes the ledger knows is left alone.

    Raises:
        DeliveryError: a path does not exist.
        StoreError: the database fails; the same call again completes the work.
    """
    files = []
    for delivery, verdict in check(paths, contract, progress=progress):
        known = store.known([delivery.digest]).get(delivery.digest)
        if known is not None:
            files.append(_entry(delivery, verdict, known, known_before=True))
        elif verdict.accepted:
            record = store.add(_incoming(delivery, delivery.table, contract), contract.repeat_tolerance)
            quarantine.keep_rows(delivery, verdict)
            quarantine.discard(delivery.digest)
            files.append(_entry(delivery, verdict, record, known_before=False))
        else:
            quarantine.keep(delivery, verdict)
            judged = verdict.as_dict()
            files.append(
                IngestedFile(delivery.file, delivery.digest, "quarantined", judged["reasons"], judged["warnings"])
            )
    return IngestReport(contract.kind, tuple(files))


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
    )


def _incoming(delivery: Delivery, table: pa.Table, contract: Contract) -> IncomingBatch:
    wafers = table["wafer"].to_pylist()
    readings = np.column_stack([table[s].to_numpy(zero_copy_only=False) for s in contract.sensors])
    labels = table["label"].to_numpy() if "label" in table.column_names else None
    order = production_order(contract.order, wafers, delivery.file)
    return IncomingBatch(delivery.digest, delivery.file, contract.kind, wafers, order, readings, labels)


def production_order(rule: str, wafers: Sequence[str], file: str) -> NDArray[np.int64]:
    """The place of each wafer in the production, by the agreement's `rule`.

    "wafer_number": the number at the end of the wafer's id. "file_time": the date and time in the file's name
    (…_DDMMYYYY_HHMMSS.csv) as a number that sorts by time, times 10,000, plus the row.
    """
    if rule == "wafer_number":
        return np.array([int(w.rsplit("-", 1)[1]) for w in wafers], dtype=np.int64)
    date, time = file.rsplit(".", 1)[0].split("_")[-2:]
    moment = int(date[4:] + date[2:4] + date[:2] + time)
    return moment * 10_000 + np.arange(len(wafers), dtype=np.int64)
