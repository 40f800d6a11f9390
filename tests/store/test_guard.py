"""The guard before a training: each rule of `expectations/snapshot.json` can stop it, and nothing else does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wafer.errors import AgreementError, UnfitError
from wafer.fab.simulate import simulate_frame
from wafer.store.guard import check_snapshot, snapshot_facts
from wafer.store.snapshot import Snapshot

EXPECTATIONS = Path(__file__).parents[2] / "expectations"
SENSORS = [f"Sensor-{number}" for number in range(1, 591)]


def as_snapshot(table: pd.DataFrame) -> Snapshot:
    """A snapshot with this table."""
    return Snapshot("0123456789abcdef", {}, table)


def as_table(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The training table of some batches as they are delivered."""
    every = pd.concat(frames, ignore_index=True)
    wafers = every.iloc[:, 0].astype("str")
    facts = {"wafer": wafers, "order": wafers.str.partition("-")[2].astype(np.int64), "batch": "batch.csv"}
    facts["label"] = every.iloc[:, -1].astype(np.int8)
    table = pd.concat([pd.DataFrame(facts), every[SENSORS].astype(np.float64)], axis=1)
    return table.drop_duplicates("wafer").sort_values("order", ignore_index=True)


@pytest.fixture(scope="module")
def fab() -> pd.DataFrame:
    """120 wafers of the synthetic fab, 6 of them faulty."""
    table = as_table([simulate_frame(batch, wafers=40, seed=1) for batch in range(3)])
    table["label"] = np.where(np.arange(120) % 20 == 0, 1, -1).astype(np.int8)
    return table


def test_the_synthetic_fab_is_fit_to_train_on() -> None:
    """Six small batches as they come from the fab pass."""
    check_snapshot(as_snapshot(as_table([simulate_frame(at, wafers=40, seed=7) for at in range(6)])), EXPECTATIONS)


def test_the_real_snapshot_is_fit_to_train_on(real_wafers: Path) -> None:
    """1,237 wafers, 59 faulty: nothing stops the training."""
    table = as_table([pd.read_csv(file) for file in sorted((real_wafers / "training").iterdir())])
    assert (len(table), int((table["label"] == 1).sum())) == (1237, 59)
    check_snapshot(as_snapshot(table), EXPECTATIONS)


def changed(**columns: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.assign(**columns)


def swapped(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(label=-table["label"])


def first(fact: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A change of one cell."""
    return lambda table: table.assign(**{fact: table[fact].where(table.index > 0, value)})


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (
            lambda table: table.drop(columns=["Sensor-7", "Sensor-9"]),
            ["columns_missing: 2 (Sensor-7, Sensor-9) of the agreed columns are missing, expected none"],
        ),
        (changed(x=1.0), ["columns_extra: 1 (x) columns are not agreed, expected none"]),
        (
            changed(**{f"Sensor-{number}": "1.5" for number in range(1, 6)}),
            [
                "columns_mistyped: 5 (Sensor-1, Sensor-2, Sensor-3, …) columns have another type than agreed, "
                "expected none"
            ],
        ),
        (
            lambda table: table.head(0),
            [
                "wafers: the table has 0 wafers, expected are at least 40",
                "good: 0 wafers are good, expected are at least 2",
                "faulty: 0 wafers are faulty, expected are at least 2",
            ],
        ),
        (lambda table: table.head(39), ["wafers: the table has 39 wafers, expected are at least 40"]),
        (
            first("wafer", "Wafer-2"),
            ["wafers_doubled: 1 (Wafer-2) wafers stand in it again, expected none"],
        ),
        (
            first("order", 2**40),
            ["wafers_disordered: 1 (Wafer-2) wafers stand behind later ones, expected production order"],
        ),
        (first("label", 0), ["labels_unknown: 1 (Wafer-1) wafers have no label, expected -1 or 1 for each"]),
        (
            changed(label=np.int8(1)),
            [
                "good: 0 wafers are good, expected are at least 2",
                "fault_rate: the share of faulty wafers is 1, expected 0.005 to 0.3",
            ],
        ),
        (
            changed(label=np.int8(-1)),
            [
                "faulty: 0 wafers are faulty, expected are at least 2",
                "fault_rate: the share of faulty wafers is 0, expected 0.005 to 0.3",
            ],
        ),
        (swapped, ["fault_rate: the share of faulty wafers is 0.95, expected 0.005 to 0.3"]),
        (
            changed(**dict.fromkeys(SENSORS[:295], np.nan)),
            ["missing_share: the share of missing readings is 0.53, expected 0 to 0.25"],
        ),
        (first("Sensor-1", np.inf), ["infinite_readings: 1 readings are infinite, expected none"]),
    ],
)
def test_each_rule_stops_a_training_in_one_sentence(
    fab: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame], reasons: list[str]
) -> None:
    """The sentence names the snapshot and each rule that failed, with what was expected and what came."""
    check_snapshot(as_snapshot(fab), EXPECTATIONS)
    with pytest.raises(UnfitError) as caught:
        check_snapshot(as_snapshot(change(fab)), EXPECTATIONS)
    assert caught.value.exit_status == 1
    assert str(caught.value) == f"snapshot 0123456789ab is not fit to train on; {'; '.join(reasons)}"


def test_a_table_without_wafers_has_facts(fab: pd.DataFrame) -> None:
    """Counts of an empty table are zero, its shares are not known."""
    facts, _ = snapshot_facts(fab.head(0), SENSORS)
    unknown = {"fault_rate": None, "missing_share": None, "empty_sensors": 590}
    assert facts == {fact: unknown.get(fact, 0) for fact in facts}


def write_suites(folder: Path, **changes: Any) -> Path:
    """A folder of suites with some keys of the snapshot's changed; a rule is named by its place."""
    suite = json.loads((EXPECTATIONS / "snapshot.json").read_bytes())
    suite.update(changes)
    (folder / "snapshot.json").write_text(json.dumps(suite))
    (folder / "training.json").write_bytes((EXPECTATIONS / "training.json").read_bytes())
    return folder


def test_thresholds_are_those_of_the_file(fab: pd.DataFrame, tmp_path: Path) -> None:
    """Another bound in the suite is another decision, without touching code."""
    rules = json.loads((EXPECTATIONS / "snapshot.json").read_bytes())["expectations"]
    next(rule for rule in rules if rule["meta"]["rule"] == "wafers")["kwargs"]["min_value"] = 1000
    with pytest.raises(UnfitError, match="the table has 120 wafers, expected are at least 1000"):
        check_snapshot(as_snapshot(fab), write_suites(tmp_path, expectations=rules))


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        (3, "type", "expect_nothing", "rule wafers: expect_nothing is no known expectation"),
        (3, "kwargs", {"column": "wafer"}, "rule wafers: 'wafer' is no fact"),
        (3, "kwargs", {"column": "good", "min_value": 1}, "no rule guards 'wafers'"),
        (3, "type", "expect_column_mean_to_be_between", "rule wafers: .* does not judge each row by itself"),
        (3, "kwargs", {"column": "wafers", "minimum": 1}, "rule wafers: .* refuses its kwargs"),
        (3, "extra", 1, r"expectations\[3\].extra: unknown key"),
        (
            0,
            "kwargs",
            {"column": "columns_missing", "max_value": 10**9},
            "a rule about 'columns_missing' needs max_value 0",
        ),
        (6, "kwargs", {"column": "labels_unknown", "min_value": 0}, "a rule about 'labels_unknown' needs max_value 0"),
        (8, "kwargs", {"column": "faulty", "min_value": 0}, "a rule about 'faulty' needs min_value 1 or more"),
    ],
)
def test_a_suite_that_cannot_be_used_is_refused(
    fab: pd.DataFrame, tmp_path: Path, place: int, key: str, value: Any, message: str
) -> None:
    """Unknown expectations, facts and keys, and a fact without a guard or with room, are errors with file and rule."""
    rules = json.loads((EXPECTATIONS / "snapshot.json").read_bytes())["expectations"]
    rules[place][key] = value
    with pytest.raises(AgreementError, match=f"snapshot.json: .*{message}"):
        check_snapshot(as_snapshot(fab), write_suites(tmp_path, expectations=rules))


def test_a_suite_that_is_none_is_refused(fab: pd.DataFrame, tmp_path: Path) -> None:
    """A missing file, broken JSON, another kind, a rule that stands twice and a severity of files are errors."""
    with pytest.raises(AgreementError, match="a suite was expected"):
        check_snapshot(as_snapshot(fab), tmp_path)
    with pytest.raises(AgreementError, match="expected 'snapshot', got 'training'"):
        check_snapshot(as_snapshot(fab), write_suites(tmp_path, meta={"kind": "training"}))
    rules = json.loads((EXPECTATIONS / "snapshot.json").read_bytes())["expectations"]
    with pytest.raises(AgreementError, match="rule columns_missing: stands twice"):
        check_snapshot(as_snapshot(fab), write_suites(tmp_path, expectations=[*rules, rules[0]]))
    rules[0]["meta"]["severity"] = "warn"
    with pytest.raises(AgreementError, match=r"meta\.severity is 'stop training', got 'warn'"):
        check_snapshot(as_snapshot(fab), write_suites(tmp_path, expectations=rules))
    (tmp_path / "snapshot.json").write_text("{")
    with pytest.raises(AgreementError, match="no JSON document"):
        check_snapshot(as_snapshot(fab), tmp_path)
