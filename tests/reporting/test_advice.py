"""The first lines of each report: what to do now, in words that follow from its data."""

import re

import numpy as np
import pandas as pd
import pytest

from wafer.reporting import advice
from wafer.reporting.display import show_advice
from wafer.reporting.findings import Findings
from wafer.scoring.control import Control

REASON = {
    "line": None,
    "column": None,
    "expected": "",
    "got": "",
    "rule": "file_name",
    "message": "no time in its name",
}
AWAY = {"file": "bad<b>.csv", "verdict": "quarantined", "reasons": [REASON], "warnings": []}
REPORT = {"files": 3, "batches": [AWAY, {"file": "good.csv", "verdict": "accepted", "reasons": [], "warnings": []}]}

SIGNALS = ["batch", "sensor", "rule", "first", "last", "wafers", "strength", "limit"]
CALM = Control(pd.DataFrame(), pd.DataFrame(columns=SIGNALS), pd.DataFrame(), pd.DataFrame())


def told(pieces: list[advice.Advice]) -> dict[str, str]:
    return {one.what: one.why for one in pieces}


def found(*, drifted: bool | None = False, unknown: float = 0.0) -> Findings:
    row = {"batch": "b", "together_with": "", "direction": "high", "percentile": 99.0, "reading": 1.0, "strength": 0.5}
    pairs = (("w1", "S-7"), ("w2", "S-7"), ("w2", "S-9"), ("w3", "S-9"), ("w4", "S-7"))
    reasons = pd.DataFrame([{**row, "Wafer": wafer, "rank": 1, "sensor": sensor} for wafer, sensor in pairs])
    batch = {"batch": "b", "wafers": 6, "unknown": unknown, "drifted": drifted}
    drift = {"usual_unknown": 0.01, "reasons": {"shown": True}, "batches": [batch]}
    return Findings(pd.DataFrame(), reasons, drift)


def judged(**changes: object) -> pd.DataFrame:
    """Six wafers: w1 to w4 are alarms, w4's label is known, w5 has no verdict."""
    frame = pd.DataFrame(
        {
            "batch": "b",
            "Wafer": ["w1", "w2", "w3", "w4", "w5", "w6"],
            "Prediction": [1, 1, 1, 1, np.nan, -1],
            "probability": [0.4, 0.9, 0.6, 0.99, np.nan, 0.1],
            "cluster": 0,
            "p_value": 0.5,
            "unknown": False,
            "label_known": [False, False, False, True, False, False],
        }
    )
    return frame.assign(**changes)


def test_a_prediction_names_wafers_sensors_trust_and_files():
    """The alarms by probability without known labels, the sensor that most name, the drift, and what to ask back."""
    strange = judged(unknown=[True, False, False, False, False, False])
    assert told(advice.prediction_advice(strange, found(), REPORT, CALM)) == {
        "Inspect 3 wafers.": "Start with w2 (90 %), w3 (60 %), w1 (40 %), the most probable of a fault, "
        "among 6 scored wafers.",
        "Look at S-7 first.": "Of 3 alarms with reasons these name it: S-7 (2), S-9 (2).",
        "Trust the model as usual.": "The judged batch has not drifted; no new training is due for that.",
        "Have an engineer look at 1 strange wafer.": "w1: unlike anything the model has seen, so its probability "
        "means little there.",
        "Measure 1 wafer again.": "w5 came with too few readings to be judged.",
        "Ask the sender for 1 corrected file.": "Its wafers are in no report: bad<b>.csv (no time in its name).",
    }


def test_a_strange_wafer_whose_label_is_known_asks_for_nobody():
    """It has been tested, and is listed as unknown; only the others need somebody's look."""
    seen = judged(unknown=[True] + 5 * [False], label_known=True)
    assert not any("strange" in one.what for one in advice.prediction_advice(seen, found(), {}, CALM))


def test_what_could_not_be_judged_says_why():
    """Of one batch its reason, of several that of the first."""
    batch = found(drifted=None).drift["batches"][0]
    for batches, instance in ((1, ""), (2, " for instance")):
        unjudged = found(drifted=None)
        unjudged.drift["batches"] = [batch | {"why_not": "It is no newer than the training."}] * batches
        assert told(advice.prediction_advice(judged(), unjudged, {}, CALM))["Take the probabilities with care."] == (
            f"Whether the process has moved could not be judged, of b{instance}: it is no newer than the training."
        )


@pytest.mark.parametrize(
    ("drifted", "unknown", "what"),
    [
        (False, 0.0, "Trust the model as usual."),
        (True, 0.0, "Trust the model less than usual, and train again with newer labels."),
        (False, 0.5, "Trust the model less than usual."),
        (None, 0.0, "Take the probabilities with care."),
    ],
)
def test_drift_and_doubt_say_whether_to_trust_the_model(drifted, unknown, what):
    """Drift asks for a training, many unknown wafers for care; where nothing was judged that is said."""
    assert what in told(advice.prediction_advice(judged(), found(drifted=drifted, unknown=unknown), {}, CALM))


def test_no_alarm_is_good_news():
    """Without an alarm there is nothing to inspect; alarms of known labels are counted apart."""
    calm = judged(Prediction=[-1, -1, -1, 1, -1, -1])
    first = advice.prediction_advice(calm, found(), {}, CALM)[0]
    assert first.what == "No wafer to inspect."
    assert first.why.endswith("1 alarm is of a wafer whose label is known already.")


def test_a_training_says_use_trust_and_leak():
    """Promoted or not and why, what inspecting by it finds against a random tenth, and a canary that is not silent."""
    measured = {
        "forward": {"recall_at_alarm_rate_10": 0.38, "recall_at_alarm_rate_10_low": 0.2},
        "plain": {"forward": {"gain": 0.02, "gain_low": -0.01, "gain_high": 0.05}},
        "permuted": {"auc": 0.7},
    }
    decision = {"challenger": 2, "champion": 1, "promoted": True, "reason": "Version 2 replaces 1."}
    assert told(advice.training_advice(measured, decision)) == {
        "Use version 2: it is in use from now on.": "Version 2 replaces 1.",
        "Inspect by its alarms.": "Of the faults of the next batch it finds 38 % where one wafer in ten is inspected, "
        "a random tenth 10 %. By ROC AUC it is not shown to be ahead of a plain forest: difference 0.02 [-0.01, 0.05].",
        "Look for a leak before you rely on these numbers.": "A model of shuffled labels should score 0.5, and scored "
        "0.70.",
    }
    refused = {**decision, "promoted": False, "reason": "Worse."}
    weak = {"forward": {"recall_at_alarm_rate_10": 0.12, "recall_at_alarm_rate_10_low": 0.05}}
    assert list(told(advice.training_advice(weak, refused))) == [
        "Do not use version 2: version 1 stays in use.",
        "Do not rely on it alone.",
    ]
    unmeasured = advice.training_advice({"left_out": {"forward": "too few batches"}}, None)
    assert [one.what for one in unmeasured] == ["Nothing is put into use.", "Do not rely on it yet."]


def test_data_quality_names_files_and_sensors(wafers):
    """Files turned away are asked back; a sensor that fell silent and one that moved far are named."""
    silent = wafers.copy()
    silent.loc[silent["batch"] == silent["batch"].iloc[-1], "Sensor-2"] = np.nan
    said = told(advice.quality_advice(silent, REPORT))
    assert list(said) == [
        "Ask the sender for 1 corrected file.",
        "Ask what became of 1 sensor.",
        "Have 1 sensor checked that moved far.",
    ]
    assert said["Ask what became of 1 sensor."].startswith("Sensor-2: read in the first batch")
    assert said["Have 1 sensor checked that moved far."].startswith("Sensor-7 (+")
    assert "Ask for no file again." in told(advice.quality_advice(wafers, {}))


def test_data_quality_names_a_sensor_that_was_off_for_a_batch(wafers):
    """A sensor that left its level and came back is told with its batch, not as one that never moved far."""
    calm = wafers.drop(columns="Sensor-7")
    assert list(told(advice.quality_advice(calm, {}))) == ["Ask for no file again.", "No sensor has moved far."]
    batch = calm["batch"].unique()[len(calm["batch"].unique()) // 2]
    there = calm["batch"] == batch
    calm.loc[there, "Sensor-4"] += 100 * calm["Sensor-4"].std()
    said = told(advice.quality_advice(calm, {}))
    assert list(said) == ["Ask for no file again.", "Ask what happened to 1 sensor in single batches."]
    why = said["Ask what happened to 1 sensor in single batches."]
    assert why.startswith("Sensor-4 (+") and f" spreads in {batch}): the median of a batch lay far off" in why


def test_exploration_names_the_sensor_that_tells(wafers):
    """The sensor of the faults is named, and the cluster that holds them; without one, that there is none."""
    said = told(advice.exploration_advice(wafers, (wafers["label"] == 1).astype(int).to_numpy()))
    assert said["Look at Sensor-3 first."].startswith("Sensor-3 (high in faulty wafers)")
    assert said["Ask what sets cluster 1 apart."] == "100.0 % of its wafers are faulty, of all wafers 12.5 %."
    noise = wafers.drop(columns="Sensor-3")
    assert "Do not hunt for a single guilty sensor." in told(advice.exploration_advice(noise, np.zeros(len(noise))))


def test_advice_escapes_what_was_delivered():
    """A file name with markup in it cannot change the page."""
    shown = show_advice(advice.prediction_advice(judged(), found(), REPORT, CALM)).data
    assert "bad&lt;b&gt;.csv" in shown
    assert re.findall(r"<(?!/?(?:section|h2|ol|li|b)\b)", shown) == []


def test_sensors_that_left_control_are_to_be_checked():
    """Each is named once, with the wafer at which it first did."""
    rows = [("b", "S-7", "nelson-1", "w2"), ("b", "S-9", "ewma", "w3"), ("c", "S-7", "ewma", "w8")]
    signals = [dict(zip(SIGNALS, (*row, "w9", 3, 5.0, 4.0), strict=True)) for row in rows]
    left = Control(CALM.wafers, pd.DataFrame(signals), CALM.contributions, CALM.batches)
    said = told(advice.prediction_advice(judged(), found(), {}, left))
    assert said["Have 2 sensors checked that left control."] == (
        "By their own charts: S-7 (first at w2), S-9 (first at w3)."
    )
