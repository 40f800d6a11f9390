"""Ingest: each delivered file ends in the store or in the quarantine, once, however often it is run."""

import json
from pathlib import Path

import numpy as np
import pytest

from wafer import steps
from wafer.fab.simulate import simulate_batches, simulate_frame
from wafer.intake.ingest import production_order
from wafer.intake.store import open_store
from wafer.settings import Settings
from wafer.storage import read_json


@pytest.fixture
def delivery(tmp_path: Path) -> Path:
    """Three good files of five wafers and one that lacks a column."""
    folder = tmp_path / "delivery"
    files = list(simulate_batches(folder, batches=4, wafers=5, seed=1))
    lines = files[3].read_bytes().split(b"\r\n")
    files[3].write_bytes(b"\r\n".join(line.rpartition(b",")[0] for line in lines))
    return folder


def test_good_files_are_stored_and_others_quarantined(settings: Settings, delivery: Path) -> None:
    """The report counts both, the store has the wafers bit for bit, the quarantine the bytes and reasons."""
    done = steps.ingest(settings, "training", str(delivery))
    assert (done.files, done.accepted, done.quarantined, done.wafers_stored) == (4, 3, 1, 15)
    report = read_json(Path(done.report))
    assert report["quarantined_by_rule"] == {"columns_missing": 1}
    assert (report["duplicates"], report["known_batches"], report["conflicts"]) == (0, 0, 0)
    (broken,) = [b for b in report["batches"] if b["verdict"] == "quarantined"]
    kept = Path(str(settings.area("quarantine"))) / "training" / broken["file"]
    assert kept.read_bytes() == (delivery / broken["file"]).read_bytes()
    assert json.loads(Path(f"{kept}.reasons.json").read_text())["reasons"] == broken["reasons"]
    frame = simulate_frame(1, wafers=5, seed=1)
    sensors = [c for c in frame.columns if c.startswith("Sensor-")]
    with open_store(settings) as store:
        stored = store.read_wafers([f"Wafer-{n}" for n in range(6, 11)], sensors)
    assert stored[sensors].to_numpy().tobytes() == frame[sensors].to_numpy().tobytes()


def test_a_second_run_changes_nothing(settings: Settings, delivery: Path) -> None:
    """The collections, the quarantine and the snapshot's digest stay; the report says that all was known."""
    steps.ingest(settings, "training", str(delivery))
    before = steps.snapshot(settings)
    with open_store(settings) as store:
        counts, ledger = store.counts(), store.batches("training")
    quarantine = sorted(Path(str(settings.area("quarantine"))).rglob("*"))
    again = steps.ingest(settings, "training", str(delivery))
    report = read_json(Path(again.report))
    assert (again.wafers_stored, report["known_batches"], again.quarantined) == (0, 3, 1)
    with open_store(settings) as store:
        assert (store.counts(), store.batches("training")) == (counts, ledger)
    assert sorted(Path(str(settings.area("quarantine"))).rglob("*")) == quarantine
    assert steps.snapshot(settings) == before


def test_a_file_mended_under_its_name_is_taken_in(settings: Settings, delivery: Path) -> None:
    """A redelivery of a quarantined file that keeps the agreement is stored; the broken bytes stay in quarantine."""
    steps.ingest(settings, "training", str(delivery))
    (mended,) = simulate_batches(delivery, batches=1, wafers=5, seed=1, first_batch=3)
    done = steps.ingest(settings, "training", str(delivery))
    assert (done.accepted, done.quarantined, done.wafers_stored) == (4, 0, 5)
    assert (Path(str(settings.area("quarantine"))) / "training" / mended.name).exists()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("wafer_number", [12, 7]), ("file_time", [202001070410110000, 202001070410110001])],
)
def test_production_order_follows_the_agreement(rule: str, expected: list[int]) -> None:
    """Either the number in the wafer's id or the file's time and the row."""
    order = production_order(rule, ["Wafer-12", "Wafer-7"], "wafer_07012020_041011.csv")
    assert order.tolist() == expected
    assert order.dtype == np.int64


def test_the_real_deliveries_are_taken_in_whole(settings: Settings, real_wafers: Path) -> None:
    """13 labelled files with 59 faulty of 1,237 wafers; of 15 unlabelled ones a single one is turned away."""
    training = steps.ingest(settings, "training", str(real_wafers / "training"))
    assert (training.files, training.accepted, training.wafers_stored) == (13, 13, 1237)
    frozen = steps.snapshot(settings)
    assert (frozen.wafers, frozen.faulty) == (1237, 59)
    prediction = steps.ingest(settings, "prediction", str(real_wafers / "prediction"))
    report = read_json(Path(prediction.report))
    assert (prediction.files, prediction.accepted, prediction.quarantined) == (15, 14, 1)
    assert report["quarantined_by_rule"] == {"date_stamp": 1}
    assert report["conflicts"] == 0
    assert report["wafers_stored"] + report["duplicates"] == report["wafers"]
