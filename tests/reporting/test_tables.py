import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from wafer.errors import ReportError
from wafer.reporting import deliveries, sensors, sources, tables


@pytest.fixture
def scores() -> pd.DataFrame:
    """Two forward batches of four wafers, the second all good, and the same eight wafers shuffled."""
    part = pd.DataFrame(
        {
            "repeat": 0,
            "fold": ["b"] * 4 + ["a"] * 4,
            "row": np.arange(8),
            "label": [1, 1, -1, -1, -1, -1, -1, -1],
            "probability": [0.9, 0.2, 0.3, 0.1, 0.1, 0.2, 0.3, 0.4],
            "alarm": [True, False, False, False, False, False, False, True],
        }
    )
    return pd.concat([part.assign(protocol="forward"), part.assign(protocol="shuffled", fold="0")], ignore_index=True)


def test_forward_batches_come_in_production_order(scores):
    """One row per batch in the order in which it was made; a batch with one label has no ROC AUC."""
    found = tables.forward_by_batch(scores)
    assert found[["batch", "wafers", "faulty", "alarm_rate"]].values.tolist() == [["b", 4, 2, 0.25], ["a", 4, 0, 0.25]]
    assert found["auc"].tolist() == pytest.approx([0.75, np.nan], nan_ok=True)
    assert found["recall"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)


def test_the_interval_of_an_auc_covers_it_and_narrows_with_wafers():
    """The interval holds the area, shrinks with more wafers, and says nothing where one label has a single wafer."""
    chance = np.random.default_rng(0)
    faulty = np.arange(2000) % 10 == 0
    probability = chance.normal(size=2000) + faulty
    auc, low, high = tables.auc_interval(faulty, probability)
    assert auc == pytest.approx(roc_auc_score(faulty, probability))
    assert low < auc < high
    few = tables.auc_interval(faulty[:100], probability[:100])
    assert few[2] - few[1] > high - low
    assert tables.auc_interval(np.array([True, False, False]), np.array([3.0, 1.0, 2.0])) == (1.0, 0.0, 1.0)


def test_wilson_gives_the_textbook_interval():
    """Ten of a hundred: 5.5 % to 17.4 %; none of ten reaches from 0 to 27.8 %."""
    low, high = tables.wilson(np.array([10, 0]), np.array([100, 10]))
    assert low.tolist() == pytest.approx([0.0552, 0.0], abs=1e-4)
    assert high.tolist() == pytest.approx([0.1744, 0.2775], abs=1e-4)


def test_calibration_counts_each_wafer_once(scores):
    """A wafer that is scored in two repeats is one wafer, at its mean probability."""
    again = scores.assign(repeat=1, probability=scores["probability"] / 2)
    found = tables.calibration_bins(pd.concat([scores, again]), bins=2)
    shuffled = found.loc[found["protocol"] == "shuffled"]
    assert shuffled["wafers"].tolist() == [4, 4]
    assert shuffled["predicted"].tolist() == pytest.approx([0.1125, 0.35625])
    assert shuffled["observed"].tolist() == [0.25, 0.25]


def test_curves_start_and_end_where_they_must(scores):
    """ROC points run from nothing to everything for both protocols; tables that plots are drawn from are complete."""
    curves = tables.curves(scores)
    assert sorted(curves) == ["calibration", "forward", "precision_recall", "roc"]
    for _, points in curves["roc"].groupby("protocol"):
        ends = points[["false_alarm_rate", "recall"]].iloc[[0, -1]].to_numpy().tolist()
        assert ends == [[0.0, 0.0], [1.0, 1.0]]


def test_curves_of_one_label_are_empty(scores):
    """Scores without a faulty wafer give empty curves, not an error."""
    good = scores.loc[scores["label"] == -1]
    assert len(tables.roc_points(good)) == len(tables.precision_recall_points(good)) == 0


def test_metrics_are_shown_with_their_intervals():
    """A figure is followed by its interval; shares are percent; what is missing is a dash."""
    metrics = {
        "shuffled": {"auc": 0.7341, "auc_low": 0.7, "auc_high": 0.77, "alarm_rate": 0.1},
        "forward": {"auc": 0.6},
    }
    found = tables.metrics_table(metrics)
    assert found.loc["ROC AUC"].tolist() == ["0.734 [0.700, 0.770]", "0.600"]
    assert found.loc["alarm rate"].tolist() == ["10.0 %", "–"]


def test_the_summary_says_what_became_of_the_version():
    """Promoted, refused with and without a champion, and no decision each get their own sentence."""
    metrics = {"shuffled": {"auc": 0.7}, "forward": {"auc": 0.6}}
    endings = {
        "Version 2 is **in use** from now on.": {"challenger": 2, "champion": 1, "promoted": True},
        "Version 2 was **refused**; version 1 stays in use.": {"challenger": 2, "champion": 1, "promoted": False},
        "Version 2 was **refused**, and no version is in use.": {"challenger": 2, "champion": None, "promoted": False},
        "this training was a study apart from the registry.": None,
    }
    for ending, decision in endings.items():
        found = tables.training_summary(metrics, decision)
        assert found.startswith("ROC AUC is **0.700** shuffled and **0.600** forward. ")
        assert found.endswith(ending)


def test_predictions_are_read_by_batch(places, predictions):
    """Batches are found by name, with or without ending; an unknown batch and a missing folder are named."""
    folder = places["predictions"]
    pd.testing.assert_frame_equal(deliveries.read_predictions(folder), predictions, check_dtype=False)
    assert deliveries.read_predictions(folder, ["second.csv"])["batch"].unique().tolist() == ["second"]
    with pytest.raises(ReportError, match="batch third has no predictions"):
        deliveries.read_predictions(folder, ["third"])
    with pytest.raises(ReportError, match="nowhere is not a folder"):
        deliveries.read_predictions(f"{folder}/nowhere")


def test_a_predictions_file_of_another_shape_is_named(tmp_path):
    """A CSV without an expected column is refused by name."""
    (tmp_path / "odd.csv").write_text("Wafer,Prediction\nWafer-1,1\n")
    with pytest.raises(ReportError, match=r"odd\.csv lacks the column 'probability', got Wafer, Prediction"):
        deliveries.read_predictions(tmp_path)


def test_alarms_come_first_and_most_probable_on_top():
    """Only alarms are listed, by falling probability, numbered from one, and no more than asked for."""
    frame = pd.DataFrame(
        {
            "batch": "b",
            "Wafer": ["w1", "w2", "w3", "w4"],
            "Prediction": [1, -1, 1, 1],
            "probability": [0.3, 0.9, 0.7, 0.5],
            "cluster": 0,
            "model_version": 1,
        }
    )
    found = deliveries.alarms_table(frame, top=2)
    assert found["wafer"].tolist() == ["w3", "w4"]
    assert found.index.tolist() == [1, 2]
    assert deliveries.batches_table(frame)[["wafers", "alarms", "alarm rate %"]].values.tolist() == [[4, 3, 75.0]]


def test_reasons_are_listed_up_to_a_limit(ingest_report):
    """A file with many reasons lists the first and says how many more there are."""
    found = deliveries.quarantined_table(ingest_report, limit=2)
    assert found["reason"].tolist() == ["reason 0 <b>", "reason 1 <b>", "and 5 more reasons"]
    assert found.index.tolist() == ["bad.csv"] * 3


def test_warnings_are_summed_up(ingest_report):
    """Each rule that warned is listed once, with the number of files and an example."""
    found = deliveries.warnings_table(ingest_report)
    assert found.loc["empty_sensor"].tolist() == [2, 2, "first.csv: Sensor-20 holds no reading"]


def test_sources_that_are_missing_are_named(tmp_path):
    """A record that is not there or not JSON is named; an empty path is no record."""
    with pytest.raises(ReportError, match=r"gone.json is not there"):
        sources.read_record(tmp_path / "gone.json")
    (tmp_path / "odd.json").write_text("{")
    with pytest.raises(ReportError, match=r"odd.json is not JSON"):
        sources.read_record(tmp_path / "odd.json")
    (tmp_path / "good.json").write_text(json.dumps([1]))
    assert (sources.read_record(tmp_path / "good.json"), sources.read_record("")) == ([1], None)


def test_sensors_are_told_apart(wafers):
    """Constant, late, moved and telling sensors of the made-up fab are found by name."""
    table = sensors.sensors_table(wafers)
    assert table.loc["constant (one value only)", "for example"] == "Sensor-5"
    assert table.loc["not there in the first batch, there in the last", "for example"] == "Sensor-20"
    assert sensors.drift_table(wafers, top=1).index.tolist() == ["Sensor-7"]
    telling = sensors.telling_sensors(wafers)
    assert telling.index[0] == "Sensor-3"
    faulty = wafers["label"] == 1
    there = wafers["Sensor-3"].notna()
    expected = roc_auc_score(faulty[there], wafers["Sensor-3"][there])
    assert telling["auc"].iloc[0] == pytest.approx(expected, abs=5e-4)
    correlated = sensors.correlations(wafers)
    assert abs(correlated.loc["Sensor-8", "Sensor-9"]) > 0.9
