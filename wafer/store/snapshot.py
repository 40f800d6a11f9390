"""Snapshots: the training table frozen as Parquet, named by its content.

A snapshot is a folder ``<first 12 digits of the digest>/`` with ``wafers.parquet`` and ``manifest.json``. The digest
is the SHA-256 of the manifest without it, and the manifest holds the SHA-256 of every value of the table, so equal
names mean equal content, whatever release of a Parquet library wrote it.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from wafer.errors import EmptyError, SnapshotError
from wafer.records import TABLE, with_units
from wafer.storage import AnyPath, read_json, write_bytes, write_json, written_folder
from wafer.store.documents import LABELS
from wafer.store.wafers import BatchRecord, Store

DIGITS = 12  # of a digest in a folder's name
Listed = tuple[BatchRecord, Sequence[str]]  # of the ledger, with the wafers that count
NOTHING_LABELLED = "the store holds no labelled wafer: ingest training batches first"


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
        return self.table.drop(columns=list(TABLE))

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
    """The table of every labelled wafer that the ledger's training batches and files of labels list, each once.

    It is in production order. A wafer that has its label from a file of labels alone counts to the batch that brought
    its readings first.

    Only what the ledger says counts, so that a batch that is just being taken in makes no difference.

    Raises:
        EmptyError: there is no labelled wafer.
    """
    batches, labels = (
        [(record, record.wafers) for record in store.batches(kind) if record.wafers] for kind in ("training", LABELS)
    )
    return _freeze(store, sensors, batches, labels, store.replacements())


def rebuild(store: Store, manifest: Mapping[str, Any]) -> Snapshot:
    """The snapshot that `manifest` (as it stands in manifest.json) describes, from what the store holds.

    Wafers and labels that came later are left out, and of replaced readings those of that time are taken.

    Raises:
        EmptyError: the store holds no batch at all.
        SnapshotError: the store does not hold what the manifest lists, or not any more.
    """
    digest = manifest["digest"]
    listed = [*manifest["batches"], *manifest.get(LABELS, ())]
    known = store.known([batch["digest"] for batch in listed])
    if not known and not store.counts()["batches"]:
        raise EmptyError(f"the store holds no batch, so snapshot {digest[:DIGITS]} cannot be rebuilt from it")
    batches = []
    for batch in listed:
        record = known.get(batch["digest"])
        wafers = None if record is None else record.wafers_when(batch["wafers"])
        if record is None or wafers is None:
            held = "has no such batch" if record is None else f"has {len(record.wafers)}"
            raise SnapshotError(
                f"snapshot {digest[:DIGITS]} cannot be rebuilt: it lists {batch['wafers']} wafers of {batch['file']} "
                f"({batch['digest'][:DIGITS]}), the store {held}"
            )
        batches.append((record, wafers))
    replacing = store.known(manifest.get("replacing", []))
    count = len(manifest["batches"])
    snapshot = _freeze(store, manifest["sensors"], batches[:count], batches[count:], list(replacing.values()))
    if snapshot.digest != digest:
        raise SnapshotError(
            f"snapshot {digest[:DIGITS]} cannot be rebuilt: its batches now give {snapshot.digest[:DIGITS]}, "
            "so the wafers of the store are not those that it was made of"
        )
    return snapshot


def _freeze(
    store: Store,
    sensors: Sequence[str],
    batches: Sequence[Listed],
    labels: Sequence[Listed],
    replacements: Sequence[BatchRecord],
) -> Snapshot:
    """The snapshot of these batches and files of labels with their wafers, after these replacements."""
    first_file: dict[str, str] = {}
    for record, wafers in batches:
        for wafer in wafers:
            first_file.setdefault(wafer, record.file)
    first_file |= store.first_files([w for _, wafers in labels for w in wafers if w not in first_file])
    replacing = sorted(r.digest for r in replacements if not first_file.keys().isdisjoint(r.replaced))
    table = store.read_wafers(list(first_file), sensors, replacing)
    table.insert(2, "batch", pd.Series([first_file[w] for w in table["wafer"]], dtype="str"))
    table = table[table["label"].notna()].sort_values(["order", "wafer"], kind="stable", ignore_index=True)
    if table.empty:
        raise EmptyError(NOTHING_LABELLED)
    table["label"] = table["label"].astype(np.int8)
    manifest = {
        "batches": _told(batches),
        **({LABELS: _told(labels)} if labels else {}),  # no key of earlier manifests, whose digests stay
        "replacing": replacing,
        "wafers": len(table),
        "faulty": int((table["label"] == 1).sum()),
        "sensors": list(sensors),
        "values_sha256": _values_digest(table),
    }
    return Snapshot(_manifest_digest(manifest), manifest, table)


def _told(listed: Sequence[Listed]) -> list[dict[str, Any]]:
    return [{"digest": r.digest, "file": r.file, "wafers": len(wafers)} for r, wafers in listed]


def write_snapshot(snapshot: Snapshot, folder: AnyPath) -> AnyPath:
    """Write `snapshot` below `folder` and return its own folder; one that is there already is left alone."""
    target = folder / snapshot.digest[:DIGITS]
    if all((target / name).exists() for name in ("manifest.json", "wafers.parquet")):
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
    except pa.ArrowInvalid as error:
        raise SnapshotError(f"{folder / 'wafers.parquet'} cannot be read as a table: {error}") from error
    digest = manifest.pop("digest")
    if _manifest_digest(manifest) != digest or _values_digest(table) != manifest["values_sha256"]:
        raise SnapshotError(f"{folder}: the table is not the one that its manifest names ({digest[:DIGITS]})")
    return Snapshot(digest, manifest, with_units(table, "wafers.parquet"))


def find_manifest(snapshots: AnyPath, name: str) -> dict[str, Any]:
    """The manifest that `name` means: a manifest.json, a snapshot's folder, or the start of a digest in `snapshots`.

    Raises:
        EmptyError: there is no snapshot at all.
        SnapshotError: none is called so, or more than one.
    """
    path = Path(name)
    if path.exists():
        file: AnyPath = path / "manifest.json" if path.is_dir() else path
    else:
        folders: list[AnyPath] = list(snapshots.iterdir()) if snapshots.exists() else []
        if not folders:
            raise EmptyError(f"{snapshots} holds no snapshot yet: a training makes one")
        fits = [f for f in folders if f.name.startswith(name[:DIGITS]) and (f / "manifest.json").exists()]
        fits = [f for f in fits if read_json(f / "manifest.json")["digest"].startswith(name)]
        if len(fits) != 1:
            raise SnapshotError(f"{name}: {len(fits) or 'no'} snapshots in {snapshots} begin so, expected one")
        file = fits[0] / "manifest.json"
    try:
        manifest = read_json(file)
        if _manifest_digest({k: v for k, v in manifest.items() if k != "digest"}) == manifest["digest"]:
            return cast(dict[str, Any], manifest)
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    raise SnapshotError(f"{file} is no manifest of a snapshot, or was changed")


def write_csv(snapshot: Snapshot, folder: AnyPath) -> AnyPath:
    """Write `snapshot` as `<digest>.csv`: wafer, sensors and label, text quoted, missing readings empty; its path.

    This is the export of the systems that came before: one table for all batches, every text in double quotes.
    """
    columns = {"wafer": "Wafer", "label": "Good/Bad"}
    table = snapshot.table[["wafer", *snapshot.readings.columns, "label"]].rename(columns=columns)
    buffer = io.BytesIO()
    pacsv.write_csv(pa.Table.from_pandas(table, preserve_index=False), buffer)
    target = folder / f"{snapshot.digest[:DIGITS]}.csv"
    write_bytes(target, buffer.getvalue())
    return target


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
