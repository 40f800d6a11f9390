"""Snapshots: named by their content, complete, and refused when changed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wafer.errors import SnapshotError
from wafer.intake.snapshot import freeze, read_snapshot, write_snapshot
from wafer.intake.store import IncomingBatch, open_store
from wafer.settings import Settings

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
        readings=random.normal(size=(3, 2)),
        labels=np.array([1, -1, -1], dtype=np.int8) if kind == "training" else None,
    )


def test_a_snapshot_holds_the_labelled_wafers_in_production_order(settings: Settings, tmp_path: Path) -> None:
    """Batches in any order, repeats and unlabelled batches: each labelled wafer once, by production order, exact."""
    with open_store(settings) as store:
        for incoming in (batch(2, start=4), batch(1), batch(3, "prediction", start=10), batch(4)):
            store.add(incoming, 1e-9)
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
        store.add(batch(1), 1e-9)
        first = write_snapshot(freeze(store, SENSORS), tmp_path)
        written = (first / "wafers.parquet").stat().st_mtime_ns
        store.add(batch(1), 1e-9)
        assert write_snapshot(freeze(store, SENSORS), tmp_path) == first
        assert (first / "wafers.parquet").stat().st_mtime_ns == written
        store.add(batch(2, start=4), 1e-9)
        assert write_snapshot(freeze(store, SENSORS), tmp_path) != first


def test_a_changed_table_is_refused(settings: Settings, tmp_path: Path) -> None:
    """A table that is not the one its manifest names is an error."""
    with open_store(settings) as store:
        store.add(batch(1), 1e-9)
        folder = write_snapshot(freeze(store, SENSORS), tmp_path)
    table = pd.read_parquet(folder / "wafers.parquet")
    table.loc[0, "Sensor-2"] += 1e-9
    table.to_parquet(folder / "wafers.parquet")
    with pytest.raises(SnapshotError, match="not the one that its manifest names"):
        read_snapshot(folder)


def test_nothing_to_freeze_is_an_error(settings: Settings, tmp_path: Path) -> None:
    """A store without labelled wafers and a folder without a snapshot are told in one sentence each."""
    with open_store(settings) as store, pytest.raises(SnapshotError, match="no labelled wafer"):
        freeze(store, SENSORS)
    with pytest.raises(SnapshotError, match="is not a snapshot"):
        read_snapshot(tmp_path)
