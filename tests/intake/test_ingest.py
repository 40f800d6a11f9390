"""Ingest: each delivered file ends in the store or in the quarantine, once, however often it is run."""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests import working
from tests.faults.delivery import agree, line, write
from wafer.contract.facts import Delivery
from wafer.contract.suites import Contract, Verdict
from wafer.errors import StoreError
from wafer.fab.simulate import simulate_batches, simulate_frame
from wafer.intake.ingest import IngestReport, ingest, production_order
from wafer.intake.leftovers import remove_leftovers
from wafer.intake.quarantine import Quarantine
from wafer.learning.model import WaferModel
from wafer.scoring.batches import judge_batch, result_rows
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.settings import Settings
from wafer.storage import read_json
from wafer.store.snapshot import freeze, rebuild
from wafer.store.wafers import Store, open_store


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
    done = working.ingest(settings, "training", delivery)
    assert (done.files, done.accepted, done.quarantined, done.wafers_stored) == (4, 3, 1, 15)
    report = read_json(settings.storage.place(done.report))
    assert report["quarantined_by_rule"] == {"columns_missing": 1}
    assert (report["duplicates"], report["known_batches"], report["conflicts"]) == (0, 0, 0)
    (broken,) = [b for b in report["batches"] if b["verdict"] == "quarantined"]
    (entry,) = Quarantine(settings.storage.place("quarantine") / "training").find(broken["file"])
    assert entry.path.read_bytes() == (delivery / broken["file"]).read_bytes()
    assert (entry.digest, entry.verdict["reasons"]) == (broken["digest"], broken["reasons"])
    frame = simulate_frame(1, wafers=5, seed=1)
    sensors = [c for c in frame.columns if c.startswith("Sensor-")]
    with open_store(settings) as store:
        stored = store.read_wafers([f"Wafer-{n}" for n in range(6, 11)], sensors)
    assert stored[sensors].to_numpy().tobytes() == frame[sensors].to_numpy().tobytes()


@pytest.mark.slow
@pytest.mark.invariant
def test_a_second_run_changes_nothing(settings: Settings, delivery: Path) -> None:
    """The collections, the quarantine and the snapshot's digest stay; the report says that all was known."""
    working.ingest(settings, "training", delivery)
    before = working.snapshot(settings)
    with open_store(settings) as store:
        counts, ledger = store.counts(), store.batches("training")
    quarantine = sorted(Path(str(settings.storage.place("quarantine"))).rglob("*"))
    again = working.ingest(settings, "training", delivery)
    report = read_json(settings.storage.place(again.report))
    assert (again.wafers_stored, report["known_batches"], again.quarantined) == (0, 3, 1)
    with open_store(settings) as store:
        assert (store.counts(), store.batches("training")) == (counts, ledger)
    assert sorted(Path(str(settings.storage.place("quarantine"))).rglob("*")) == quarantine
    assert working.snapshot(settings) == before


def test_a_file_mended_under_its_name_is_taken_in(settings: Settings, delivery: Path) -> None:
    """A redelivery of a quarantined file that keeps the agreement is stored; the broken bytes stay in quarantine."""
    working.ingest(settings, "training", delivery)
    (mended,) = simulate_batches(delivery, batches=1, wafers=5, seed=1, first_batch=3)
    done = working.ingest(settings, "training", delivery)
    assert (done.accepted, done.quarantined, done.wafers_stored) == (4, 0, 5)
    assert [e.file for e in Quarantine(settings.storage.place("quarantine") / "training").entries()] == [mended.name]


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    """Four sensors; bad wafers are dropped."""
    agree(tmp_path / "agreed", BadWafers="drop wafer", MaxDroppedShare=0.5)
    return Contract.load("training", tmp_path / "agreed" / "expectations")


def take_in(
    folder: Path, contract: Contract, store: Store, quarantine: Path, *, replacing: bool = False
) -> IngestReport:
    return ingest([folder], contract, store, Quarantine(quarantine), replacing=replacing)


def test_a_conflict_quarantines_its_wafer_only(settings: Settings, contract: Contract, tmp_path: Path) -> None:
    """The contradicting line is kept with a reason that names both files; the rest of its file is stored."""
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw, 1, [line(n, -1) for n in (1, 2)])
    write(raw, 2, [line(3, 1, bad="x"), line(2, -1, shift=0.25), line(1, 1), line(4, -1)])
    with open_store(settings) as store:
        report = take_in(raw, contract, store, tmp_path / "quarantine").as_dict()
        assert sorted(store.find([f"Wafer-{n}" for n in range(5)])) == ["Wafer-1", "Wafer-2", "Wafer-4"]
    assert (report["accepted"], report["conflicts"], report["wafers_stored"], report["replaced"]) == (2, 2, 3, 0)
    assert list(report["batches"][1]["conflicts"]) == [
        {
            "wafer": wafer,
            "file": "wafer_02012020_120000.csv",
            "stored_file": "wafer_01012020_120000.csv",
            "what": what,
            "stored": stored,
            "came": came,
        }
        for wafer, what, stored, came in (("Wafer-2", "Sensor-1", 2.0, 2.25), ("Wafer-1", "label", -1, 1))
    ]
    kept = Quarantine(tmp_path / "quarantine").dropped()
    assert [(row["row"], row["line"], row["text"]) for row in kept] == [
        (0, 2, line(3, 1, bad="x")),
        (1, 3, line(2, -1, shift=0.25)),
        (2, 4, line(1, 1)),
    ]
    assert kept[1]["reasons"] == [
        {
            "rule": "conflict",
            "message": "line 3: Wafer-2 came before in wafer_01012020_120000.csv with Sensor-1 2, "
            "in wafer_02012020_120000.csv it has 2.25",
            "line": 3,
            "column": "Sensor-1",
            "expected": "2",
            "got": "2.25",
        }
    ]


def test_spellings_of_an_id_are_one_wafer(settings: Settings, contract: Contract, tmp_path: Path) -> None:
    """Large or small letters and leading zeros make repeats and conflicts, not further wafers; each is scored once."""
    first, second, later = (tmp_path / name for name in ("first", "second", "later"))
    for folder in (first, second, later):
        folder.mkdir()
    write(first, 1, [line(n, -1) for n in (1, 2)])
    write(second, 2, [spelled("wafer-1", line(1, -1, shift=0.5)), spelled("wafer-2", line(2, -1)), line(3, 1)])
    ids = ["wafer-3", "Wafer-02", "Wafer-1", "wafer-0004"]
    write(later, 3, [spelled(wafer, line(int(wafer[6:]))) for wafer in ids], labelled=False)
    unlabelled = Contract.load("prediction", tmp_path / "agreed" / "expectations")
    with open_store(settings) as store:
        take_in(first, contract, store, tmp_path / "quarantine")
        report = take_in(second, contract, store, tmp_path / "quarantine").as_dict()
        assert (report["wafers_stored"], report["duplicates"], report["conflicts"]) == (1, 1, 1)
        (kept,) = Quarantine(tmp_path / "quarantine").dropped()
        assert kept["text"] == spelled("wafer-1", line(1, -1, shift=0.5))
        assert kept["reasons"][0]["message"].startswith("line 2: Wafer-1 came before in wafer_01012020_120000.csv")
        report = take_in(later, unlabelled, store, tmp_path / "quarantine").as_dict()
        assert (report["wafers_stored"], report["duplicates"]) == (1, 3)
        assert store.counts()["wafers"] == 4
        (record,) = store.batches("prediction")
        assert record.wafers == ("Wafer-3", "Wafer-2", "Wafer-1", "Wafer-4")
        assert {wafer: d["order"] for wafer, d in store.find(record.wafers).items()} == {
            f"Wafer-{n}": n for n in range(1, 5)
        }
        wafers = store.read_wafers(record.wafers, contract.sensors)
    predictions = result_rows(wafers, judge_batch(fit_small_model(contract.sensors), wafers, 1))
    assert predictions["Wafer"].tolist() == ["Wafer-3", "Wafer-2", "Wafer-1", "Wafer-4"]
    assert predictions["probability"].notna().all()


def spelled(wafer: str, text: str) -> str:
    """A line with another spelling of its id."""
    return ",".join([wafer, *text.split(",")[1:]])


def fit_small_model(sensors: Sequence[str]) -> Bundle:
    chance = np.random.default_rng(0)
    wafers = pd.DataFrame(chance.normal(size=(60, len(sensors))), columns=list(sensors))
    recipe = WaferModel(trees=5, search_budget=1, max_clusters=2)
    return fit_bundle(recipe, wafers, np.where(np.arange(60) % 6, -1, 1), reasons=False)


def test_a_later_run_may_replace(settings: Settings, contract: Contract, tmp_path: Path) -> None:
    """With `replacing` the quarantined wafers of known files take the stored ones' place, once."""
    raw, kept = tmp_path / "raw", tmp_path / "quarantine"
    raw.mkdir()
    write(raw, 1, [line(n, -1) for n in (1, 2)])
    second = write(raw, 2, [line(3, 1, bad="x"), line(2, -1, shift=0.25), line(4, -1)])
    third = write(raw, 3, [line(1, -1, shift=0.5), line(5, -1)])
    with open_store(settings) as store:
        take_in(raw, contract, store, kept)
        before = freeze(store, contract.sensors)
        report = take_in(raw, contract, store, kept, replacing=True).as_dict()
        assert [b["replaced"] for b in report["batches"]] == [(), ("Wafer-2",), ("Wafer-1",)]
        assert (report["replaced"], report["conflicts"], report["known_batches"]) == (2, 0, 3)
        stored = store.find(["Wafer-1", "Wafer-2"])
        assert {w: (d["readings"][0], d["file"]) for w, d in stored.items()} == {
            "Wafer-1": (1.5, third.name),
            "Wafer-2": (2.25, second.name),
        }
        assert [e["readings"][0] for d in stored.values() for e in d["earlier"]] == [1.0, 2.0]
        assert [row["line"] for row in Quarantine(kept).dropped()] == [2], "the bad wafer stays"
        ledger = store.batches("training")
        assert [r.wafers for r in ledger] == [
            ("Wafer-1", "Wafer-2"),
            ("Wafer-1", "Wafer-5"),
            ("Wafer-2", "Wafer-4"),
        ]
        assert take_in(raw, contract, store, kept, replacing=True).as_dict() == report
        assert (store.batches("training"), store.find(["Wafer-1", "Wafer-2"])) == (ledger, stored)
        after = freeze(store, contract.sensors)
        for frozen in (before, after):
            manifest = {"digest": frozen.digest, **frozen.manifest}
            assert rebuild(store, manifest).table.equals(frozen.table)
    assert before.table["Sensor-1"].tolist() == [1.0, 2.0, 4.0, 5.0]
    assert after.table["Sensor-1"].tolist() == [1.5, 2.25, 4.0, 5.0]


def test_replacing_that_was_broken_off_loses_no_conflict(
    settings: Settings, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger hears of it first, and the next run, whether it replaces or not, lets go of what is settled."""
    raw, kept = tmp_path / "raw", tmp_path / "quarantine"
    raw.mkdir()
    write(raw, 1, [line(n, -1) for n in (1, 2)])
    write(raw, 2, [line(3, -1, bad="x"), line(2, -1, shift=0.25), line(4, -1)])
    with open_store(settings) as store:
        take_in(raw, contract, store, kept)

        def broken_off(self: Quarantine, digest: str, lines: object) -> None:
            raise OSError("the answer was lost")

        with monkeypatch.context() as patched:
            patched.setattr(Quarantine, "forget_conflicts", broken_off)
            with pytest.raises(OSError, match="the answer was lost"):
                take_in(raw, contract, store, kept, replacing=True)
        second = store.batches("training")[1]
        assert (second.conflicts, second.wafers) == ((), ("Wafer-2", "Wafer-4"))
        assert [row["line"] for row in Quarantine(kept).dropped()] == [2, 3]
        take_in(raw, contract, store, kept)
        assert [row["line"] for row in Quarantine(kept).dropped()] == [2], "the bad wafer stays"
        assert store.batches("training")[1] == second


def test_after_a_failed_group_nothing_more_is_stored(
    settings: Settings, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups are stored in order or not at all, so that who comes first stays first when the run is repeated."""
    monkeypatch.setattr("wafer.intake.ingest.FILES_A_GROUP", 1)
    raw = tmp_path / "raw"
    raw.mkdir()
    for day in range(1, 8):
        write(raw, day, [line(day, -1)])
    with open_store(settings) as store:
        true_insert, calls = store.insert, []

        def insert(batches):  # type: ignore[no-untyped-def]
            calls.append(batches)
            if len(calls) == 3:
                raise StoreError("the database failed")
            return true_insert(batches)

        monkeypatch.setattr(store, "insert", insert)
        with pytest.raises(StoreError):
            take_in(raw, contract, store, tmp_path / "quarantine")
        assert len(calls) == 3
        assert store.counts() == {"wafers": 2, "batches": 2, "predictions": 0}
        monkeypatch.setattr(store, "insert", true_insert)
        assert take_in(raw, contract, store, tmp_path / "quarantine").as_dict()["wafers_stored"] == 5


def test_progress_counts_stored_files_and_each_is_watched(
    settings: Settings, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar goes up to the number of files, group by group, and a watcher sees every file with its verdict."""
    monkeypatch.setattr("wafer.intake.ingest.FILES_A_GROUP", 2)
    raw = tmp_path / "raw"
    raw.mkdir()
    for day in range(1, 6):
        write(raw, day, [line(day, -1)])
    (raw / "note.txt").write_text("hello\n")
    steps_done: list[tuple[int, int]] = []
    seen: list[tuple[str, bool]] = []

    def watch(delivery: Delivery, verdict: Verdict) -> None:
        seen.append((delivery.file, verdict.accepted))

    with open_store(settings) as store:
        place = Quarantine(tmp_path / "quarantine")
        ingest([raw], contract, store, place, lambda done, total: steps_done.append((done, total)), watch=watch)
    assert steps_done == [(2, 6), (4, 6), (6, 6)]
    assert seen == [("note.txt", False), *((f"wafer_0{day}012020_120000.csv", True) for day in range(1, 6))]


def test_leftovers_of_a_killed_run_hurt_nobody(settings: Settings, delivery: Path) -> None:
    """Half-written files among the deliveries are no deliveries; a later run removes its own from the quarantine."""
    (delivery / ".wafer_1.csv.x1.part").write_text("half")
    (delivery / "wafer_2.csv.part").write_text("half")
    place = Path(str(settings.storage.place("quarantine"))) / "training"
    place.mkdir(parents=True)
    for name in (".0123456789abcdef.part", ".wafer.csv.reasons.json.abc.part"):
        (place / name).write_text("half")
    done = working.ingest(settings, "training", delivery)
    assert (done.files, done.accepted, done.quarantined) == (4, 3, 1)
    assert not list(place.glob("*.part"))
    assert sorted(p.name for p in delivery.glob("*.part")) == [".wafer_1.csv.x1.part", "wafer_2.csv.part"]


def test_only_old_leftovers_go_where_others_write(tmp_path: Path) -> None:
    """Files and folders that were being written an hour ago are removed; younger ones and all others stay."""
    hour_ago = time.time() - 3700
    for name in (".old.json.x.part", ".new.json.x.part", "kept.part", ".kept"):
        (tmp_path / name).write_text("half")
    for name in (".old.x.part", ".old.x.part.old", ".new.x.part"):
        (tmp_path / name / "inside").mkdir(parents=True)
    for path in tmp_path.glob(".old*"):
        os.utime(path, (hour_ago, hour_ago))
    assert remove_leftovers(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [".kept", ".new.json.x.part", ".new.x.part", "kept.part"]
    assert remove_leftovers(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("wafer_number", [12, 7]), ("file_time", [202001070410110000, 202001070410110001])],
)
def test_production_order_follows_the_agreement(rule: str, expected: list[int]) -> None:
    """Either the number in the wafer's id or the file's time and the row."""
    wafer_id = re.compile("Wafer-(?P<number>[0-9]+)(-[0-9])?")
    order = production_order(rule, wafer_id, ["Wafer-12-3", "Wafer-7"], "wafer_07012020_041011.csv")
    assert order.tolist() == expected
    assert order.dtype == np.int64


@pytest.mark.slow
@pytest.mark.invariant
def test_the_real_deliveries_are_taken_in_whole(settings: Settings, real_wafers: Path) -> None:
    """13 labelled files with 59 faulty of 1,237 wafers; of 15 unlabelled ones a single one is turned away."""
    training = working.ingest(settings, "training", real_wafers / "training")
    assert (training.files, training.accepted, training.wafers_stored) == (13, 13, 1237)
    frozen = working.snapshot(settings)
    assert (frozen.wafers, frozen.faulty) == (1237, 59)
    prediction = working.ingest(settings, "prediction", real_wafers / "prediction")
    report = read_json(settings.storage.place(prediction.report))
    assert (prediction.files, prediction.accepted, prediction.quarantined) == (15, 14, 1)
    assert report["quarantined_by_rule"] == {"date_stamp": 1}
    assert report["conflicts"] == 0
    assert report["wafers_stored"] + report["duplicates"] == report["wafers"]
