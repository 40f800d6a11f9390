"""The wafer database, against a real server."""

import datetime
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymongo
import pymongo.monitoring
import pytest
from pymongo.errors import PyMongoError

from tests.intake.storing import add
from wafer.errors import StoreError
from wafer.settings import Settings
from wafer.store.alarms import trails
from wafer.store.embedded import embedded_server
from wafer.store.leases import lease
from wafer.store.wafers import (
    ANY_TIME,
    INDEXES,
    BatchRecord,
    Conflict,
    IncomingBatch,
    Status,
    Store,
    brief,
    open_store,
)

SENSORS = ["Sensor-1", "Sensor-2", "Sensor-3"]
READINGS = np.array([[1.0, np.nan, 3.0], [0.1 + 0.2, -4.0, 1e-300]])


def batch(digest: str = "d1", file: str = "a.csv", **changed: object) -> IncomingBatch:
    values: dict[str, object] = {
        "digest": digest,
        "file": file,
        "kind": "training",
        "wafers": ["Wafer-2", "Wafer-1"],
        "order": np.array([2, 1]),
        "sensors": SENSORS,
        "readings": READINGS,
        "labels": np.array([-1, 1], dtype=np.int8),
    }
    return IncomingBatch(**{**values, **changed})  # type: ignore[arg-type]


def test_readings_come_back_bit_for_bit_in_the_order_asked_for(settings: Settings) -> None:
    """What went in comes out: every double, NaN for missing, the label and the production order."""
    with open_store(settings) as store:
        add(store, batch(), 1e-9)
        frame = store.read_wafers(["Wafer-1", "Wafer-2"], SENSORS)
    assert frame["wafer"].tolist() == ["Wafer-1", "Wafer-2"]
    assert frame["order"].tolist() == [1, 2]
    assert frame["label"].tolist() == [1, -1]
    assert frame[SENSORS].to_numpy().tobytes() == READINGS[::-1].tobytes()


def test_the_same_batch_twice_changes_nothing(settings: Settings) -> None:
    """Storing a batch again gives the same record, collection and ledger."""
    with open_store(settings) as store:
        first = add(store, batch(), 1e-9)
        counts = store.counts()
        again = add(store, batch(), 1e-9)
        assert again == first
        assert store.counts() == counts == {"wafers": 2, "batches": 1, "predictions": 0}
        assert store.batches("training") == [first]
    assert first == BatchRecord("d1", "a.csv", "training", 1, ("Wafer-2", "Wafer-1"), 0, 0, ())


def test_a_wafer_read_back_with_noise_is_a_repeat(settings: Settings) -> None:
    """Readings within the agreed relative tolerance are the same wafer, and the first readings stay."""
    noisy = READINGS * (1 + 1e-12)
    with open_store(settings) as store:
        add(store, batch(), 1e-9)
        record = add(store, batch("d2", "b.csv", readings=noisy), 1e-9)
        kept = store.read_wafers(["Wafer-2", "Wafer-1"], SENSORS)[SENSORS].to_numpy()
    assert (record.repeats, record.conflicts, record.wafers) == (2, (), ("Wafer-2", "Wafer-1"))
    assert kept.tobytes() == READINGS.tobytes()


def test_a_label_that_comes_later_is_added(settings: Settings) -> None:
    """A wafer first delivered without a label takes the label of a later file, also when that file comes twice."""
    with open_store(settings) as store:
        add(store, batch(kind="prediction", labels=None), 1e-9)
        assert store.read_wafers(["Wafer-1"], SENSORS)["label"].isna().all()
        records = [add(store, batch("d2", "b.csv"), 1e-9) for _ in range(2)]
        assert store.read_wafers(["Wafer-2", "Wafer-1"], SENSORS)["label"].tolist() == [-1, 1]
    assert [(r.repeats, r.labelled) for r in records] == [(2, 2), (2, 2)]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"readings": READINGS * [[1, 1, 1], [1, 1.001, 1]]},
            Conflict("Wafer-1", "b.csv", "a.csv", "Sensor-2", -4.0, -4.004),
        ),
        (
            {"readings": np.array([READINGS[0], [np.nan, -4.0, 1e-300]])},
            Conflict("Wafer-1", "b.csv", "a.csv", "Sensor-1", 0.1 + 0.2, None),
        ),
        ({"labels": np.array([-1, -1], dtype=np.int8)}, Conflict("Wafer-1", "b.csv", "a.csv", "label", 1, -1)),
    ],
    ids=["another reading", "a reading gone", "another label"],
)
def test_a_contradiction_turns_away_the_wafer_only(
    settings: Settings, changed: dict[str, object], expected: Conflict
) -> None:
    """A wafer that comes again with another reading or label is named as a conflict, and the stored one stays."""
    with open_store(settings) as store:
        add(store, batch(), 1e-9)
        record = add(store, batch("d2", "b.csv", **changed), 1e-9)
        kept = store.read_wafers(["Wafer-2", "Wafer-1"], SENSORS)
    assert record.conflicts == (expected,)
    assert record.wafers == ("Wafer-2",)
    assert kept[SENSORS].to_numpy().tobytes() == READINGS.tobytes()
    assert kept["label"].tolist() == [-1, 1]


def test_wafers_stored_before_a_crash_count_as_stored_in_the_rerun(settings: Settings) -> None:
    """When the ledger's line is missing because the writer died, the rerun writes the line of an undisturbed run."""
    with open_store(settings) as store:
        undisturbed = add(store, batch(), 1e-9)
        store._batches.delete_many({})
        assert add(store, batch(), 1e-9) == undisturbed


def test_predictions_replace_those_of_the_same_version(settings: Settings) -> None:
    """Scoring a batch again with one version leaves one row a wafer; another version adds its own."""
    row = {"Wafer": "Wafer-1", "Prediction": 1, "probability": 0.7, "cluster": 0, "model_version": 1}
    with open_store(settings) as store:
        for changed in ({}, {"probability": 0.8}, {"model_version": 2}):
            store.add_predictions("d1", [{**row, **changed}])
        found = store.predictions("d1").sort_values("model_version")
    assert found[["model_version", "probability"]].to_numpy().tolist() == [[1.0, 0.8], [2.0, 0.7]]


def test_the_last_probabilities_before_a_wafer_are_found(settings: Settings) -> None:
    """By production order, of one version, each wafer once; rows without probability or place are passed over."""
    said = [(1, 0.1), (2, 0.2), (3, None), (4, 0.4), (5, 0.5), (6, 0.6), (None, 0.9)]
    rows = [{"Wafer": f"Wafer-{place}", "probability": value, "model_version": 1} for place, value in said]
    rows = [row if place is None else {**row, "order": place} for row, (place, _) in zip(rows, said, strict=True)]
    with open_store(settings) as store:
        store.add_predictions("d1", rows)
        store.add_predictions("d2", rows[3:5])
        store.add_predictions("d1", [{**row, "model_version": 2} for row in rows])
        assert store.recent_probabilities(1, 0, 6, most=3) == [0.2, 0.4, 0.5]
        assert store.recent_probabilities(1, 1, 5, most=50) == [0.2, 0.4]
        assert store.recent_probabilities(3, 0, 6, most=50) == []
        store.add_predictions("d0", [{**rows[3], "probability": 0.3}])
        assert store.recent_probabilities(1, 0, 6, most=50) == [0.1, 0.2, 0.3, 0.5], "other readings, scored last"


def test_a_wafer_that_the_database_lost_is_an_error(settings: Settings) -> None:
    """Reading a wafer that is not there names it."""
    with open_store(settings) as store, pytest.raises(StoreError, match="the first is Wafer-9"):
        store.read_wafers(["Wafer-9"], SENSORS)


def test_an_unreachable_server_is_told_in_one_sentence() -> None:
    """No server behind MONGODB_URL: the message names the address."""
    settings = Settings.read(mongodb_url="mongodb://127.0.0.1:9/")
    with (
        pytest.raises(StoreError, match=r"no MongoDB server is there: nobody answers at 127\.0\.0\.1:9") as caught,
        open_store(settings),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.slow
def test_a_wrong_password_is_told_briefly(tmp_path: Path) -> None:
    """Without the server's whole answer, and without the password."""
    with embedded_server(tmp_path / "mongodb") as url:
        wrong = Settings.read(mongodb_url=re.sub("//wafer:[^@]+@", "//wafer:h1dden@", url))
        told = r"^the database at 127\.0\.0\.1:\d+ failed: [^{}]*uthentication failed[^{}]*: give the user of"
        with pytest.raises(StoreError, match=told) as caught, open_store(wrong):
            pass
    assert "h1dden" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"), [("bogus=1", "Unknown option: bogus"), ("tls=maybe", "The value of tls must be 'true' or")]
)
@pytest.mark.filterwarnings("error")
def test_an_option_that_no_server_knows_is_told(options: str, told: str) -> None:
    """In the address: one sentence and no warning, before anything is asked of the network."""
    settings = Settings.read(mongodb_url=f"mongodb://127.0.0.1:9/?{options}")
    with pytest.raises(StoreError, match=f"^MONGODB_URL is not a usable address: {told}"), open_store(settings):
        pass


def test_no_half_of_a_secret_is_left_where_a_drivers_message_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is masked first and cut then."""
    monkeypatch.setenv("PREFECT_API_KEY", "h1dden-key")
    assert brief(PyMongoError("x" * 295 + "h1dden-key")) == "x" * 295 + "***"


def test_replacing_keeps_the_earlier_readings(settings: Settings) -> None:
    """A wafer with other readings takes the stored one's place, whose fields go into its history."""
    changed = np.array([READINGS[0], [9.0, -4.0, 1e-300]])
    with open_store(settings) as store:
        add(store, batch(), 1e-9)
        (first,) = store.find(["Wafer-1"]).values()
        record = add(store, batch("d2", "b.csv", readings=changed), 1e-9, replacing=True)
        store._batches.delete_one({"_id": "d2"})
        assert add(store, batch("d2", "b.csv", readings=changed), 1e-9, replacing=True) == record
        wafers = store.find(["Wafer-1", "Wafer-2"])
    assert (record.replaced, record.repeats, record.stored, record.conflicts) == (("Wafer-1",), 1, 0, ())
    now = wafers["Wafer-1"]
    assert (now["readings"], now["batch"], now["label_batch"]) == ([9.0, -4.0, 1e-300], "d2", "d2")
    assert now["earlier"] == [{name: value for name, value in first.items() if name != "_id"}]
    assert "earlier" not in wafers["Wafer-2"]


def test_the_last_batches_of_the_production_are_told(settings: Settings) -> None:
    """In production order, so many of a kind or all."""
    with open_store(settings) as store:
        for number in (3, 1, 2):
            add(store, batch(f"d{number}", "a.csv", order=np.array([number, number + 1])), 1e-9)
        add(store, batch("d9", "b.csv", kind="prediction", labels=None), 1e-9)
        found = [[one.digest for one in store.batches("training", newest)] for newest in (0, 1, 2, 9)]
    assert found == [["d1", "d2", "d3"], ["d3"], ["d2", "d3"], ["d1", "d2", "d3"]]


def test_a_wafer_that_changed_since_it_was_read_is_judged_as_it_is(settings: Settings) -> None:
    """Where a writer that had lost its lease changes it at the last moment, the line tells what is stored, not less."""
    came = [batch(f"d{number}", f"{number}.csv", readings=READINGS + number) for number in (2, 3, 4)]
    with open_store(settings) as store:
        add(store, batch(), 1e-9)
        read = store.find(["Wafer-1", "Wafer-2"])
        store.settle(came[0], read, 1e-9, replacing=True)
        record, changed = store.settle(came[1], read, 1e-9, replacing=True)
        stored = store.find(["Wafer-1", "Wafer-2"])
        turned_away, _ = store.settle(came[2], read, 1e-9)
        same, _ = store.settle(batch("d5", "5.csv", readings=READINGS + 3), read, 1e-9, replacing=True)
    assert set(record.replaced) == {"Wafer-1", "Wafer-2"} == {w for w, d in changed.items() if d["batch"] == "d3"}
    history = [version["batch"] for version in (*stored["Wafer-1"]["earlier"], stored["Wafer-1"])]
    assert history == ["d1", "d2", "d3"]
    assert {one.stored_file for one in turned_away.conflicts} == {"a.csv"}, "what is only told of is not read again"
    assert (same.repeats, same.replaced) == (2, ())


def test_a_label_that_came_since_the_wafer_was_read_is_no_repeat(settings: Settings) -> None:
    """Another one is a conflict, and readings that are replaced keep the one that came meanwhile."""
    with open_store(settings) as store:
        add(store, batch(kind="prediction", labels=None), 1e-9)
        read = store.find(["Wafer-1", "Wafer-2"])
        store.settle(batch("d2", "b.csv"), read, 1e-9)
        record, _ = store.settle(batch("d3", "c.csv", labels=np.array([1, 1], dtype=np.int8)), read, 1e-9)
        later = batch("d4", "d.csv", kind="prediction", readings=READINGS + 1, labels=None)
        store.settle(later, read, 1e-9, replacing=True)
        stored = store.find(["Wafer-1", "Wafer-2"])
    assert ([one.wafer for one in record.conflicts], record.repeats, record.labelled) == (["Wafer-2"], 1, 0)
    told = {(d["batch"], d["label"], d["label_batch"]) for d in stored.values()}
    assert told == {("d4", 1, "d2"), ("d4", -1, "d2")}


def test_what_a_broken_off_run_brought_and_another_file_replaced_counts_as_brought(settings: Settings) -> None:
    """It was here first, or replaced what was: neither a repeat nor a contradiction, and the stored wafer stays."""
    with open_store(settings) as store:
        first = add(store, batch(), 1e-9)
        second = add(store, batch("d2", "b.csv", readings=READINGS + 1), 1e-9, replacing=True)
        third = batch("d3", "c.csv", readings=READINGS + 2)
        add(store, third, 1e-9, replacing=True)
        fields = ("batch", "label", "earlier.batch", "earlier.label")
        stored = store.find(["Wafer-1", "Wafer-2"], *fields)
        store._batches.delete_many({"_id": {"$in": ["d1", "d2"]}})
        again = [add(store, batch(), 1e-9), add(store, batch("d2", "b.csv", readings=READINGS + 1), 1e-9)]
        assert again == [first, second]
        assert store.find(["Wafer-1", "Wafer-2"], *fields) == stored


def test_a_known_label_outlives_readings_without_one(settings: Settings) -> None:
    """Readings replaced by those of an unlabelled file keep the wafer's label and where it came from."""
    with open_store(settings) as store:
        add(store, batch(), 1e-9)
        add(store, batch("d2", "b.csv", kind="prediction", readings=READINGS + 1, labels=None), 1e-9, replacing=True)
        stored = store.find(["Wafer-1", "Wafer-2"])
    assert {w: (d["label"], d["label_batch"], d["batch"]) for w, d in stored.items()} == {
        "Wafer-1": (1, "d1", "d2"),
        "Wafer-2": (-1, "d1", "d2"),
    }


def test_batches_stored_together_end_as_one_after_the_other(settings: Settings) -> None:
    """Several batches in one insert: of a wafer that stands twice the first is stored."""
    labelled = batch("d2", "b.csv", wafers=["Wafer-1", "Wafer-3"], order=np.array([1, 3]), readings=READINGS[::-1])
    both = [batch("d1", "a.csv", kind="prediction", labels=None), labelled]
    with open_store(settings) as store:
        stored = store.insert(both)
        assert sorted(stored) == ["Wafer-1"]
        records = []
        for one in both:
            record, changed = store.settle(one, stored, 1e-9)
            stored |= changed
            records.append(record)
        store.write_ledger(records)
        assert store.known(["d1", "d2"]) == {"d1": records[0], "d2": records[1]}
        frame = store.read_wafers(["Wafer-1", "Wafer-2", "Wafer-3"], SENSORS)
    assert [(r.stored, r.repeats, r.labelled) for r in records] == [(2, 0, 0), (1, 1, 1)]
    assert frame["label"].tolist() == [-1, pd.NA, 1]


def test_the_status_counts_what_is_there(settings: Settings) -> None:
    """Wafers, labels, batches by kind, conflicts, replaced wafers and the last batch with its time."""
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    with open_store(settings) as store:
        assert store.status() == Status(0, 0, 0, {"training": 0, "prediction": 0, "labels": 0}, 0, 0, 0, None)
        add(store, batch(), 1e-9)
        add(store, batch("d2", "b.csv", readings=READINGS + 1), 1e-9)
        add(store, batch("d3", "c.csv", readings=READINGS + 2), 1e-9, replacing=True)
        last = add(store, batch("d4", "d.csv", kind="prediction", wafers=["W-8", "W-9"], labels=None), 1e-9)
        held = store.status()
    assert held == Status(4, 2, 1, {"training": 3, "prediction": 1, "labels": 0}, 2, 2, 0, last)
    assert held.last is not None
    assert held.last.taken_in is not None
    assert start < held.last.taken_in < datetime.datetime.now(datetime.UTC)


def test_what_changed_while_it_was_scored_is_to_be_scored_again(settings: Settings) -> None:
    """A batch is marked with the run that scored it first; one whose line was written anew meanwhile is not."""
    with open_store(settings) as store:
        lines = [add(store, batch(name, f"{name}.csv"), 1e-9) for name in ("d1", "d2")]
        read = list(store.known(["d1", "d2"]).values())
        store.write_ledger(lines[1:])
        store.mark_scored(read, "one")
        store.mark_scored(read, "two")
        assert {digest: line.scored for digest, line in store.known(["d1", "d2"]).items()} == {"d1": "one", "d2": None}


def test_another_number_of_sensors_is_an_error(settings: Settings) -> None:
    """Wafers that were stored under an agreement on other sensors are named, not cut or padded."""
    with open_store(settings) as store, pytest.raises(StoreError, match="Wafer-2 has 3 readings, expected 2"):
        add(store, batch(), 1e-9)
        store.read_wafers(["Wafer-2", "Wafer-1"], SENSORS[:2])


class Heard(pymongo.monitoring.CommandListener):
    """The searches and counts that a client sends, as searches: collection, filter and sort."""

    def __init__(self) -> None:
        self.searches: list[tuple[str, dict[str, Any], dict[str, int]]] = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        """Note a search or a count."""
        command = event.command
        if event.command_name == "find":
            self.searches.append((command["find"], command["filter"], command.get("sort", {})))
        elif event.command_name == "aggregate":
            self.searches.append((command["aggregate"], command["pipeline"][0]["$match"], {}))

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None:
        """Nothing to note."""

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None:
        """Nothing to note."""


def test_each_query_of_the_store_uses_an_index(settings: Settings, mongodb_url: str) -> None:
    """All that the store asks by a field scans the index meant for it, and every index serves a query."""
    heard = Heard()
    with open_store(settings) as store:
        add(store, batch(), 1e-9)
        add(store, batch("d2", "b.csv", kind="prediction", labels=None), 1e-9)
        store.add_predictions("d1", [{"Wafer": "Wafer-1", "model_version": 1}])
    with pymongo.MongoClient(mongodb_url, event_listeners=[heard], tz_aware=True) as client:
        database = client[settings.mongodb_database]
        store = Store(database)
        for ask in (
            store.status,
            store.replacements,
            lambda: store.batches("training"),
            lambda: store.batches("training", 2),
            lambda: store.predictions("d1"),
            lambda: store.recent_probabilities(1, 0, 9, most=5),
            lambda: store.last_alarms(5),
            lambda: store.verdicts_on("Wafer-1"),
            lambda: store.conflicts_of("Wafer-1"),
            lambda: trails(store, ["Wafer-1"]),
        ):
            ask()
        used = set()
        for collection, query, order in [search for search in heard.searches if search[1]]:
            plan = database[collection].find(query).sort(list(order.items()) or "_id").explain()
            stages = list(stages_of(plan["queryPlanner"]["winningPlan"]))
            names = [stage["indexName"] for stage in stages if stage["stage"] == "IXSCAN"]
            figures = plan["executionStats"]
            assert len(names) == 1, (collection, query, stages)
            assert figures["totalDocsExamined"] == figures["nReturned"], (collection, query)
            used.update(names)
    assert used == {name for indexes in INDEXES.values() for name in indexes}


def test_all_is_written_by_majority_and_journalled(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes a change, the commands that make indexes and take leases too, says so to the server."""
    concerns: dict[str, Any] = {}

    class Listening(Heard):
        def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
            if event.command_name in ("insert", "update", "delete", "findAndModify", "createIndexes"):
                concerns[event.command_name] = event.command.get("writeConcern")

    client = pymongo.MongoClient
    monkeypatch.setattr(pymongo, "MongoClient", lambda *a, **named: client(*a, **named, event_listeners=[Listening()]))
    with open_store(settings) as store, lease(store, "a"):
        add(store, batch(), 1e-9)
        store.add_predictions("d1", [{"Wafer": "Wafer-1", "model_version": 1}])
    durable = {"w": "majority", "j": True}
    assert concerns == dict.fromkeys(["insert", "update", "delete", "findAndModify", "createIndexes"], durable)


def test_the_last_batch_is_found_without_a_sort(settings: Settings, mongodb_url: str) -> None:
    """The status takes the last batch from the end of the index by time, however long the ledger is."""
    with open_store(settings) as store:
        for number in range(5):
            add(store, batch(f"d{number}", f"{number}.csv"), 1e-9)
    with pymongo.MongoClient(mongodb_url) as client:
        ledger = client[settings.mongodb_database]["batches"]
        plan = (
            ledger.find({"taken_in": ANY_TIME}).sort("taken_in", -1).limit(1).explain()["queryPlanner"]["winningPlan"]
        )
    assert "SORT" not in [stage["stage"] for stage in stages_of(plan)]


def stages_of(plan: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The stages of a plan, from the outermost inwards."""
    while plan is not None:
        yield plan
        plan = plan.get("inputStage")


@pytest.mark.slow
def test_a_server_that_hangs_is_told_within_half_a_minute(settings: Settings, tmp_path: Path) -> None:
    """A stopped server still takes connections; a run that holds a lease and two stores ends all the same."""
    with embedded_server(tmp_path / "mongodb") as url:
        server = json.loads((tmp_path / "mongodb" / "server.json").read_text())["server"]
        own = settings.model_copy(update={"mongodb_url": url})
        try:
            with (
                pytest.raises(
                    StoreError, match=r"^no MongoDB server answers at 127\.0\.0\.1:\d+ \([^)]+\): see that it runs"
                ),
                open_store(own) as outer,
                lease(outer, "training"),
                open_store(own) as store,
            ):
                os.kill(server, signal.SIGSTOP)
                start = time.monotonic()
                store.find(["Wafer-1"])
        finally:
            os.kill(server, signal.SIGCONT)
    assert time.monotonic() - start < 35
