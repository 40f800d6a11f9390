"""Snapshots: named by their content, complete, and refused when changed."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.intake.storing import add
from wafer.errors import EmptyError, SnapshotError
from wafer.settings import Settings
from wafer.store.snapshot import find_manifest, freeze, read_snapshot, rebuild, write_csv, write_snapshot
from wafer.store.wafers import IncomingBatch, open_store

SENSORS = ["Sensor-1", "Sensor-2"]


def batch(number: int, kind: str = "training", start: int = 1) -> IncomingBatch:
    wafers = range(start, start + 3)
    random = np.random.default_rng(start)
    return IncomingBatch(
        digest=f"digest-{number}",
        file=f"file-{number}.csv",
        kind=kind,
        wafers=[f"Wafer-{w}" for w in wafers],
        order=np.array(wafers),
        sensors=SENSORS,
        readings=random.normal(size=(3, 2)),
        labels=np.array([1, -1, -1], dtype=np.int8) if kind == "training" else None,
    )


def test_a_snapshot_holds_the_labelled_wafers_in_production_order(settings: Settings, tmp_path: Path) -> None:
    """Batches in any order, repeats and unlabelled batches: each labelled wafer once, by production order, exact."""
    with open_store(settings) as store:
        for incoming in (batch(2, start=4), batch(1), batch(3, "prediction", start=10), batch(4)):
            add(store, incoming, 1e-9)
        frozen = freeze(store, SENSORS)
    assert frozen.table["wafer"].tolist() == [f"Wafer-{w}" for w in range(1, 7)]
    assert frozen.batches.tolist() == ["file-1.csv"] * 3 + ["file-2.csv"] * 3
    assert frozen.labels.tolist() == [1, -1, -1] * 2
    assert frozen.readings.to_numpy()[3:].tobytes() == batch(2, start=4).readings.tobytes()
    folder = write_snapshot(frozen, tmp_path)
    assert folder.name == frozen.digest[:12]
    again = read_snapshot(folder)
    assert again.manifest == frozen.manifest
    pd.testing.assert_frame_equal(again.table, frozen.table)


def test_the_same_content_has_the_same_name(settings: Settings, tmp_path: Path) -> None:
    """Freezing again gives the same digest and leaves the folder alone; a new batch gives another one."""
    with open_store(settings) as store:
        add(store, batch(1), 1e-9)
        first = write_snapshot(freeze(store, SENSORS), tmp_path)
        written = (first / "wafers.parquet").stat().st_mtime_ns
        add(store, batch(1), 1e-9)
        assert write_snapshot(freeze(store, SENSORS), tmp_path) == first
        assert (first / "wafers.parquet").stat().st_mtime_ns == written
        add(store, batch(2, start=4), 1e-9)
        assert write_snapshot(freeze(store, SENSORS), tmp_path) != first


def test_a_changed_table_is_refused(settings: Settings, tmp_path: Path) -> None:
    """A table that is not the one its manifest names is an error."""
    with open_store(settings) as store:
        add(store, batch(1), 1e-9)
        folder = write_snapshot(freeze(store, SENSORS), tmp_path)
    table = pd.read_parquet(folder / "wafers.parquet")
    table.loc[0, "Sensor-2"] += 1e-9
    table.to_parquet(folder / "wafers.parquet")
    with pytest.raises(SnapshotError, match="not the one that its manifest names"):
        read_snapshot(folder)
    (folder / "wafers.parquet").write_bytes(b"PAR1 and then something else")
    with pytest.raises(SnapshotError, match=r"wafers\.parquet cannot be read as a table"):
        read_snapshot(folder)


def test_nothing_to_freeze_is_an_error(settings: Settings, tmp_path: Path) -> None:
    """A store without labelled wafers and a folder without a snapshot are told in one sentence each."""
    with open_store(settings) as store, pytest.raises(EmptyError, match="no labelled wafer"):
        freeze(store, SENSORS)
    with pytest.raises(SnapshotError, match="is not a snapshot"):
        read_snapshot(tmp_path)


def manifest(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def test_any_earlier_snapshot_is_rebuilt(settings: Settings, tmp_path: Path) -> None:
    """Whatever came since (batches, labels, replaced readings, late ones), each manifest gives its own table again."""
    replaced = replace(batch(5), readings=batch(5).readings + 1, labels=np.array([1, 1, -1], dtype=np.int8))
    unlabelled = replace(batch(6, "prediction"), readings=batch(6).readings + 2)
    again = replace(batch(7), readings=batch(7).readings + 3)
    folders = []
    with open_store(settings) as store:
        add(store, batch(3, "prediction", start=10), 1e-9)
        for incoming, replacing in (
            (batch(1), False),
            (batch(4, start=10), False),  # labels for known wafers
            (replaced, True),
            (unlabelled, True),  # another kind of delivery, which is no batch of the snapshot
            (again, False),  # conflicts only
        ):
            add(store, incoming, 1e-9, replacing=replacing)
            folders.append(write_snapshot(freeze(store, SENSORS), tmp_path / "snapshot"))
        tables = [rebuild(store, manifest(folder)).table for folder in folders]
        assert len(set(folders)) == 4, "a batch of conflicts makes no difference"
        assert [t["label"].tolist()[:3] for t in tables] == [[1, -1, -1]] * 2 + [[1, 1, -1]] * 3
        for folder, table in zip(folders, tables, strict=True):
            pd.testing.assert_frame_equal(table, read_snapshot(folder).table)
        first = batch(1).readings
        for table, shift in zip(tables, (0, 0, 1, 2, 2), strict=True):
            assert table[SENSORS].to_numpy()[:3].tobytes() == (first + shift).tobytes()


def test_a_batch_just_being_taken_in_makes_no_difference(settings: Settings) -> None:
    """Replaced readings count from the ledger's line on, not from the moment that a document changes."""
    replaced = replace(batch(2), readings=batch(2).readings + 1)
    with open_store(settings) as store:
        add(store, batch(1), 1e-9)
        before = freeze(store, SENSORS)
        record, _ = store.settle(replaced, store.insert([replaced]), 1e-9, replacing=True)
        assert freeze(store, SENSORS).digest == before.digest
        store.write_ledger([record])
        assert freeze(store, SENSORS).digest != before.digest


def test_what_the_store_lost_cannot_be_rebuilt(settings: Settings, tmp_path: Path) -> None:
    """A batch that is gone from the ledger, or a wafer that was changed by hand, is an error."""
    with open_store(settings) as store:
        add(store, batch(1), 1e-9)
        found = manifest(write_snapshot(freeze(store, SENSORS), tmp_path))
        store._wafers.update_one({"_id": "Wafer-1"}, {"$set": {"readings": [1.0, 2.0]}})
        with pytest.raises(SnapshotError, match="cannot be rebuilt: its batches now give"):
            rebuild(store, found)
        add(store, batch(2), 1e-9)
        store._batches.delete_many({"file": "file-1.csv"})
        with pytest.raises(SnapshotError, match=r"lists 3 wafers of file-1\.csv .* has no such batch"):
            rebuild(store, found)
        store._batches.delete_many({})
        with pytest.raises(EmptyError, match=r"the store holds no batch, so snapshot [0-9a-f]{12} cannot be rebuilt"):
            rebuild(store, found)


def test_a_manifest_is_found_by_path_or_digest(settings: Settings, tmp_path: Path) -> None:
    """Folder, file, or the start of the digest; nothing, something else, or a changed manifest is an error."""
    with open_store(settings) as store:
        add(store, batch(1), 1e-9)
        folder = Path(str(write_snapshot(freeze(store, SENSORS), tmp_path)))
    found = manifest(folder)
    digest = str(found["digest"])
    for name in (str(folder), str(folder / "manifest.json"), digest, digest[:20], digest[:5]):
        assert find_manifest(tmp_path, name) == found
    with pytest.raises(SnapshotError, match="no snapshots in"):
        find_manifest(tmp_path, "feedfeed")
    with pytest.raises(EmptyError, match="holds no snapshot yet"):
        find_manifest(tmp_path / "nowhere", "feedfeed")
    (folder / "manifest.json").write_text(json.dumps({**found, "faulty": 99}))
    with pytest.raises(SnapshotError, match="was changed"):
        find_manifest(tmp_path, str(folder))
    with pytest.raises(SnapshotError, match="no manifest"):
        find_manifest(tmp_path, str(folder / "wafers.parquet"))


def test_the_export_quotes_text(settings: Settings, tmp_path: Path) -> None:
    """The CSV has every text in quotes, numbers bare and exact, missing readings empty, and one line a wafer."""
    readings = np.array([[0.1 + 0.2, np.nan], [1e-300, -4.0], [3.0, 7.25]])
    with open_store(settings) as store:
        add(store, replace(batch(1), readings=readings), 1e-9)
        frozen = freeze(store, SENSORS)
        file = Path(str(write_csv(frozen, tmp_path)))
    assert file.name == f"{frozen.digest[:12]}.csv"
    lines = file.read_text().splitlines()
    assert lines[:2] == ['"Wafer","Sensor-1","Sensor-2","Good/Bad"', '"Wafer-1",0.30000000000000004,,1']
    rows = list(csv.reader(lines[1:]))
    assert [row[0] for row in rows] == ["Wafer-1", "Wafer-2", "Wafer-3"]
    assert [[float(cell or "nan") for cell in row[1:3]] for row in rows][1:] == readings[1:].tolist()


def test_a_lost_table_is_written_anew(settings: Settings, tmp_path: Path) -> None:
    """A folder whose manifest outlived its table is completed."""
    with open_store(settings) as store:
        add(store, batch(1), 1e-9)
        frozen = freeze(store, SENSORS)
    folder = write_snapshot(frozen, tmp_path)
    (folder / "wafers.parquet").unlink()
    assert write_snapshot(frozen, tmp_path) == folder
    pd.testing.assert_frame_equal(read_snapshot(folder).table, frozen.table)
