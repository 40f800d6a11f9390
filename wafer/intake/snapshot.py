"""Snapshots: the training table frozen as Parquet, named by its content.

A snapshot is a folder ``<first 12 digits of the digest>/`` with ``wafers.parquet`` and ``manifest.json``. The digest
is the SHA-256 of the manifest without it, and the manifest holds the SHA-256 of every value of the table, so equal
names mean equal content, whatever release of a Parquet library wrote it.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.errors import SnapshotError
from wafer.intake.store import BatchRecord, Store
from wafer.storage import AnyPath, read_json, write_json, written_folder

FACTS = ("wafer", "order", "batch", "label")


@dataclass(frozen=True)
class Snapshot:
    """A frozen training table.

    `table` has the columns wafer (str), order (int64), batch (str, name of the batch file), label (int8, -1 or +1) and
    one float64 column a sensor, sorted by production order.
    """

    digest: str
    manifest: dict[str, Any]
    table: pd.DataFrame

    @property
    def readings(self) -> pd.DataFrame:
        """(wafers × sensors) float64, NaN for missing."""
        return self.table.drop(columns=list(FACTS))

    @property
    def labels(self) -> NDArray[np.int8]:
        """(wafers,) -1 good, +1 faulty."""
        return self.table["label"].to_numpy(np.int8)

    @property
    def order(self) -> NDArray[np.int64]:
        """(wafers,) production order."""
        return self.table["order"].to_numpy(np.int64)

    @property
    def batches(self) -> NDArray[np.object_]:
        """(wafers,) name of the batch file of each wafer."""
        return self.table["batch"].to_numpy(object)


def freeze(store: Store, sensors: Sequence[str]) -> Snapshot:
    """The table of every labelled wafer that the ledger's training batches list, each once, in production order.

    Raises:
        SnapshotError: there is no labelled wafer.
    """
    records = [r for r in store.batches("training") if r.wafers]
    first_batch: dict[str, BatchRecord] = {}
    for record in records:
        for wafer in record.wafers:
            first_batch.setdefault(wafer, record)
    table = store.read_wafers(list(first_batch), sensors)
    table.insert(2, "batch", pd.Series([first_batch[w].file for w in table["wafer"]], dtype="str"))
    table = table[table["label"].notna()].sort_values(["order", "wafer"], kind="stable", ignore_index=True)
    if table.empty:
        raise SnapshotError("the store holds no labelled wafer: ingest training batches first")
    table["label"] = table["label"].astype(np.int8)
    manifest = {
        "batches": [{"digest": r.digest, "file": r.file, "wafers": len(r.wafers)} for r in records],
        "wafers": len(table),
        "faulty": int((table["label"] == 1).sum()),
        "sensors": list(sensors),
        "values_sha256": _values_digest(table),
    }
    return Snapshot(_manifest_digest(manifest), manifest, table)


def write_snapshot(snapshot: Snapshot, folder: AnyPath) -> AnyPath:
    """Write `snapshot` below `folder` and return its own folder; one that is there already is left alone."""
    target = folder / snapshot.digest[:12]
    if (target / "manifest.json").exists():
        return target
    with written_folder(target) as aside:
        buffer = io.BytesIO()
        snapshot.table.to_parquet(buffer, index=False, compression="zstd")
        (aside / "wafers.parquet").write_bytes(buffer.getvalue())
        write_json(aside / "manifest.json", {"digest": snapshot.digest, **snapshot.manifest})
    return target


def read_snapshot(folder: AnyPath) -> Snapshot:
    """Read the snapshot in `folder`.

    Raises:
        SnapshotError: it is missing, or its values are not those of its manifest.
    """
    try:
        manifest = read_json(folder / "manifest.json")
        table = pd.read_parquet(io.BytesIO((folder / "wafers.parquet").read_bytes()))
    except FileNotFoundError as error:
        raise SnapshotError(f"{folder} is not a snapshot: {error.filename or 'manifest.json'} is not there") from error
    digest = manifest.pop("digest")
    if _manifest_digest(manifest) != digest or _values_digest(table) != manifest["values_sha256"]:
        raise SnapshotError(f"{folder}: the table is not the one that its manifest names ({digest[:12]})")
    return Snapshot(digest, manifest, table)


def _manifest_digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _values_digest(table: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        if name in ("wafer", "batch"):
            data = "\n".join(column).encode()
        else:
            values = column.to_numpy()
            # one bit pattern for every NaN
            data = np.ascontiguousarray(np.where(np.isnan(values), np.nan, values)).tobytes()
        digest.update(name.encode() + b"\0" + data + b"\0")
    return digest.hexdigest()
