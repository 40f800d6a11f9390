from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from wafer.reporting import process, timeline
from wafer.reporting.findings import Findings
from wafer.scoring.bundle import Bundle
from wafer.scoring.control import Control


@pytest.fixture
def control() -> Control:
    """Two batches: w1 is beyond both limits, w4 beyond that of SPE; Sensor-7 leaves control in both, Sensor-9 later."""
    far = {"t2": [8.0, 1.0, 1.0, 1.0], "t2_limit": 4.0, "spe": [3.0, 1.0, 1.0, 9.0], "spe_limit": 2.0}
    batch, ids = ["a", "a", "b", "b"], ["w1", "w2", "w3", "w4"]
    wafers = pd.DataFrame({"batch": batch, "Wafer": ids, **far, "out_of_control": [True, False, False, True]})
    parts = [
        ("a", "w1", "T²", 1, "Sensor-1", 5.0), ("a", "w1", "T²", 2, "Sensor-2", 1.0),
        ("a", "w1", "SPE", 1, "Sensor-2", 2.0), ("b", "w4", "SPE", 1, "Sensor-9", 8.0),
    ]  # fmt: skip
    signals = [
        ("a", "Sensor-7", "nelson-1", "w1", "w2", 2, 9.0, 4.0), ("a", "Sensor-7", "ewma", "w2", "w2", 1, 9.0, 4.0),
        ("b", "Sensor-9", "ewma", "w3", "w3", 1, 9.0, 4.0), ("b", "Sensor-7", "ewma", "w3", "w4", 2, 9.0, 4.0),
        ("b", "Sensor-7", "nelson-2", "w3", "w3", 1, 9.0, 4.0),
    ]  # fmt: skip
    columns = ["batch", "sensor", "rule", "first", "last", "wafers", "strength", "limit"]
    moved = [{"batch": "a", "wafers": 2, "t2": 1, "spe": 1}, {"batch": "b", "wafers": 2, "t2": 0, "spe": 1}]
    return Control(
        wafers,
        pd.DataFrame(signals, columns=columns),
        pd.DataFrame(parts, columns=["batch", "Wafer", "chart", "rank", "sensor", "contribution"]),
        pd.DataFrame(moved).assign(shifted=""),
    )


JUDGED = pd.DataFrame({"batch": ["a", "a", "b", "b"], "Wafer": ["w1", "w2", "w3", "w4"], "Prediction": [1, -1, 1, -1]})
SAID = [("a", "w1", 1, "Sensor-7"), ("a", "w1", 4, "Sensor-8"), ("b", "w3", 1, "Sensor-7"), ("b", "w4", 1, "Sensor-6")]
FOUND = Findings(pd.DataFrame(), pd.DataFrame(SAID, columns=["batch", "Wafer", "rank", "sensor"]), {})


def test_wafers_beyond_a_limit_come_with_what_adds_most(control: Control) -> None:
    """The farthest first, in multiples of the limits; each sensor once, whichever chart names it."""
    shown = process.out_of_control_table(JUDGED, control)
    assert shown.reset_index().to_numpy().tolist() == [
        ["w4", "b", 0.25, 4.5, False, "Sensor-9"],
        ["w1", "a", 2.0, 1.5, True, "Sensor-1, Sensor-2"],
    ]


def test_sensors_that_left_control_are_told_by_when(control: Control) -> None:
    """A line each: its rules, the first and the last wafer, how many wafers by the rule with most in each batch."""
    shown = process.left_control_table(control)
    assert shown.reset_index().to_numpy().tolist() == [
        ["Sensor-7", "nelson-1, ewma, nelson-2", "w1", "a", "w4", 4, 2],
        ["Sensor-9", "ewma", "w3", "b", "w3", 1, 1],
    ]
    later = replace(control, sensors=control.sensors.iloc[[3, 2]].assign(sensor=["Sensor-9", "Sensor-7"]))
    assert process.left_control_table(later).index.tolist() == ["Sensor-9", "Sensor-7"], "by when, not by name"


def test_what_nobody_looked_at_is_not_called_well(control: Control, bundle: Bundle) -> None:
    """Without a monitor, without limits, or without a wafer an empty table says so; else that nothing was found."""
    assert bundle.monitor is not None
    ways = process.DISTANCES, process.CHARTS
    none = Control(
        control.wafers.head(0), *(getattr(control, name) for name in ("sensors", "contributions", "batches"))
    )
    blind = replace(bundle, monitor=None)
    few = replace(bundle, monitor=replace(bundle.monitor, pca=None))
    told = [[process.nothing_found(seen, by, way) for way in ways] for seen, by in ((control, bundle), (none, bundle))]
    assert told[0] == ["No wafer lies beyond a limit.", "No sensor left control on its own chart."]
    assert told[1] == ["No wafer was looked at: none was scored."] * 2
    assert [process.nothing_found(control, blind, way)[:36] for way in ways] == [
        "The model was saved without what it "
    ] * 2
    assert process.nothing_found(control, few, ways[0]).startswith("The good wafers were too few")
    assert process.nothing_found(control, few, ways[1]) == told[0][1]
    assert process.control_sentence(none, bundle) == told[1][0]


def test_each_way_names_its_sensors(control: Control) -> None:
    """Alarms by their first reasons, wafers beyond a limit by each sensor once, charts once a batch."""
    named = process.named_by(JUDGED, FOUND, control)
    counts = named.groupby(["way", "sensor"]).size().to_dict()
    assert counts == {
        ("alarms", "Sensor-7"): 2,
        ("T² and SPE", "Sensor-1"): 1, ("T² and SPE", "Sensor-2"): 1, ("T² and SPE", "Sensor-9"): 1,
        ("own charts", "Sensor-7"): 2, ("own charts", "Sensor-9"): 1,
    }  # fmt: skip
    weeks = process.named_by_week(named, pd.Series({"a": "2020-01-05", "b": "2020-01-06"}))
    assert weeks.loc["Sensor-7"].to_dict() == {"2020-W01": 2, "2020-W02": 2, "all weeks": 4}
    assert process.named_by_week(named, pd.Series({"a": None, "b": None}, dtype=object)).empty


def test_chance_names_the_luckiest_sensor_that_often() -> None:
    """Sensors named at random stay below the floor in nearly all of 40 runs; one named far more often does not."""
    chance = np.random.default_rng(1)
    beyond = 0
    for _ in range(40):
        sensors = [f"Sensor-{number}" for number in chance.integers(100, size=300)]
        named = pd.DataFrame({"way": "alarms", "batch": "a", "sensor": sensors})
        beyond += bool(process.named_most(named, 100)["beyond chance"].any())
    assert beyond <= 6  # expected are 2 at most
    guilty = pd.concat([named, pd.DataFrame({"way": ["alarms"] * 15, "batch": "b", "sensor": "Sensor-5"})])
    most = process.named_most(guilty, 100).set_index("sensor")
    assert most.index[0] == "Sensor-5" and most["beyond chance"].tolist()[0]
    assert most.loc["Sensor-5", "batches"] == 2
    assert most["share"].iloc[0] == most["times"].iloc[0] / 315


def test_the_timeline_counts_shares_of_what_there_is() -> None:
    """Newest first; faults among labelled wafers alone; what a model does not tell is missing, not 0."""
    entry = {"predictions": "a.csv", "wafers": 50, "alarms": 5, "unknown": 1, "model_version": 3, "run": "r"}
    entry |= {"t2": 2, "spe": 0, "score": 0.2, "threshold": 0.3, "drifted": False, "labelled": 10, "faulty": 4}
    silent = dict.fromkeys(("t2", "spe", "score", "threshold", "drifted"))
    later = entry | silent | {"predictions": "b.csv", "labelled": 0, "faulty": 0}
    shown = timeline.timeline_table([entry, later])
    assert shown.index.tolist() == ["b", "a"]
    assert shown.loc["a", ["alarm %", "T² %", "faulty %", "drifted"]].tolist() == [10.0, 4.0, 40.0, "no"]
    assert shown.loc["b", ["T² %", "faulty %"]].isna().all()
    assert shown.loc["b", "drifted"] == "not judged"
    assert "2 batches of 1 prediction, with 100 wafers; 10 have" in (timeline.timeline_sentence([entry, later]))
