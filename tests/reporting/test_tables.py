import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from wafer.errors import ReportError, StorageError
from wafer.learning.curves import precision_recall_points, roc_points
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.reporting import deliveries, findings, model_tables, sensors, sources, tables
from wafer.scoring.bundle import fit_bundle


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
    assert len(roc_points(good)) == len(precision_recall_points(good)) == 0


def test_metrics_are_shown_with_their_intervals():
    """A figure is followed by its interval; shares are percent; what is missing is a dash."""
    metrics = {
        "shuffled": {"auc": 0.7341, "auc_low": 0.7, "auc_high": 0.77, "alarm_rate": 0.1},
        "forward": {"auc": 0.6},
    }
    found = tables.metrics_table(metrics)
    assert found.loc["ROC AUC"].tolist() == ["0.734 [0.700, 0.770]", "0.600"]
    assert found.loc["alarm rate"].tolist() == ["10.0 %", "–"]


def test_rivals_stand_beside_the_model():
    """Each rival's ROC AUC and the paired difference with its interval; a protocol that it lacks is a dash."""
    own = {"auc": 0.735, "auc_low": 0.68, "auc_high": 0.79}
    plain = {"auc": 0.713, "auc_low": 0.66, "auc_high": 0.77, "gain": 0.022, "gain_low": -0.005, "gain_high": 0.05}
    found = tables.rivals_table({"shuffled": own, "plain": {"shuffled": plain}, "t2": {}})
    assert found.to_dict("index") == {
        "this model": {"shuffled": "0.735 [0.680, 0.790]", "forward": "–"},
        "plain balanced forest": {"shuffled": "0.713 [0.660, 0.770]", "forward": "–"},
        "this model less plain balanced forest": {"shuffled": "0.022 [-0.005, 0.050]", "forward": "–"},
    }
    assert tables.rivals_table({"shuffled": own}).empty


def test_equal_alarms_are_compared_by_the_faults_caught():
    """Chance catches as many faults as wafers; a rival's share is followed by what the model catches more."""
    own = {"recall_at_alarm_rate_5": 0.2, "recall_at_alarm_rate_10": 0.3, "recall_at_alarm_rate_20": 0.5}
    rival = {name: value / 2 for name, value in own.items()} | {
        f"gain_{name}": value / 2 for name, value in own.items()
    }
    rival |= {"gain_recall_at_alarm_rate_5_low": -0.05, "gain_recall_at_alarm_rate_5_high": 0.2}
    rival |= {"gain_recall_at_alarm_rate_20": -0.0002}
    found = tables.equal_alarms_table({"forward": own, "spe": {"forward": rival}}, "forward")
    assert found.to_dict("list") == {
        "at 5 % alarms": ["20.0 %", "5.0 %", "10.0 %", "10.0 % [-5.0 %, 20.0 %]"],
        "at 10 % alarms": ["30.0 %", "10.0 %", "15.0 %", "15.0 %"],
        "at 20 % alarms": ["50.0 %", "20.0 %", "25.0 %", "0.0 %"],
    }
    assert list(found.index) == ["this model", "chance", "SPE", "this model less SPE"]
    assert tables.equal_alarms_table({"forward": own}, "forward").empty


def test_the_summary_says_what_became_of_the_version():
    """Promoted, refused with and without a champion, the same model, and no decision each get their own sentence."""
    metrics = {"shuffled": {"auc": 0.7}, "forward": {"auc": 0.6}}
    endings = {
        "Version 2 is **in use** from now on.": {"challenger": 2, "champion": 1, "promoted": True},
        "Version 2 was **refused**; version 1 stays in use.": {"challenger": 2, "champion": 1, "promoted": False},
        "Version 2 was **refused**, and no version is in use.": {"challenger": 2, "champion": None, "promoted": False},
        "Version 2 is the same model as version 1, which stays in use.": {
            **{"kind": "same model", "challenger": 2, "champion": 1, "promoted": False}
        },
        "this training was a study apart from the registry.": None,
    }
    for ending, decision in endings.items():
        found = tables.training_summary(metrics, decision)
        assert found.startswith("ROC AUC is **0.700** shuffled and **0.600** forward. ")
        assert found.endswith(ending)


def test_predictions_are_read_by_batch(outputs, predictions):
    """Batches are found by name, with or without ending; an unknown batch and a missing folder are named."""
    (folder,) = outputs.glob("runs/*/predictions")
    pd.testing.assert_frame_equal(deliveries.read_predictions(folder), predictions, check_dtype=False)
    assert deliveries.read_predictions(folder, ["second.csv"])["batch"].unique().tolist() == ["second"]
    with pytest.raises(ReportError, match="batch third has no predictions"):
        deliveries.read_predictions(folder, ["third"])
    with pytest.raises(ReportError, match="nowhere is not a folder"):
        deliveries.read_predictions(folder / "nowhere")
    assert deliveries.read_predictions(folder / "nowhere", []).empty


def test_a_predictions_file_of_another_shape_is_named(tmp_path):
    """A CSV without an expected column is refused by name."""
    (tmp_path / "odd.csv").write_text("Wafer,Prediction\nWafer-1,1\n")
    with pytest.raises(ReportError, match=r"odd\.csv lacks the column 'probability', got Wafer, Prediction"):
        deliveries.read_predictions(tmp_path)


@pytest.fixture
def found() -> findings.Findings:
    """What was said of five wafers: w5's label is known, w4 is unknown, w3 and w5 have reasons; the batch drifted."""
    wafers = pd.DataFrame(
        {
            "batch": "b",
            "Wafer": ["w1", "w2", "w3", "w4", "w5"],
            "p_value": [0.5, 0.6, 0.7, 0.004, 0.9],
            "unknown": [False, False, False, True, False],
            "why": ["", "", "", "unlike anything seen", ""],
            "label_known": [False, False, False, False, True],
        }
    )
    row = {"batch": "b", "percentile": 99.2, "reading": 7.0, "strength": 0.5, "direction": "high"}
    reasons = [
        {**row, "Wafer": "w3", "rank": 1, "sensor": "Sensor-1", "together_with": "Sensor-2"},
        {**row, "Wafer": "w3", "rank": 2, "sensor": "Sensor-9", "together_with": "", "direction": "missing"},
        {**row, "Wafer": "w5", "rank": 1, "sensor": "Sensor-7", "together_with": ""},
    ]
    sensors = [
        {"sensor": "Sensor-1", "stability_index": 3.0, "missing_before": 0.0, "missing_now": 0.5, "shift": 2.0},
        {"sensor": "Sensor-2", "stability_index": 1.0, "missing_before": 0.0, "missing_now": 0.0, "shift": -1.0},
    ]
    batch = {"wafers": 40, "unknown": 0.2, "threshold": 0.3, "why_not": None, "sensors": sensors}
    batch |= {"domain_auc": 0.97, "usual_domain_auc": 0.99}
    unjudged = dict.fromkeys(("score", "domain_auc", "drifted"))
    drift = {
        "unknown_level": 0.01,
        "usual_unknown": 0.02,
        "reasons": {"shown": True, "strength": 0.4, "floor": 0.1, "why_not": None},
        "batches": [
            {**batch, "batch": "b", "score": 0.9, "drifted": True},
            {**batch, "batch": "calm", "score": 0.1, "drifted": False, "sensors": sensors[1:]},
            {**batch, **unjudged, "batch": "one", "why_not": "Too small.", "sensors": []},
        ],
    }
    return findings.Findings(wafers, pd.DataFrame(reasons), drift)


@pytest.fixture
def judged(found) -> pd.DataFrame:
    """Five scored wafers, four of them alarms, with what was found."""
    frame = pd.DataFrame(
        {
            "batch": "b",
            "Wafer": ["w1", "w2", "w3", "w4", "w5"],
            "Prediction": [1, -1, 1, 1, 1],
            "probability": [0.3, 0.9, 0.7, 0.5, 0.99],
            "cluster": 0,
            "model_version": 1,
            "threshold": [0.2, 0.95, 0.25, 0.3, 0.25],
        }
    )
    return findings.with_findings(frame, found)


def test_alarms_come_first_and_most_probable_on_top(judged, found):
    """Only alarms without a known label, by falling probability; the others stand apart."""
    assert findings.alarms_table(judged, found).index.tolist() == ["w3", "w4", "w1"]
    assert findings.alarms_table(judged, found, label_known=True).index.tolist() == ["w5"]
    assert deliveries.batches_table(judged)[["wafers", "alarms", "alarm rate %"]].values.tolist() == [[5, 4, 80.0]]


def test_alarms_tell_their_reasons_and_doubts(judged, found):
    """Reasons in words, in their sequence; an alarm without any says so; withheld reasons leave no column."""
    shown = findings.alarms_table(judged, found)
    assert shown["reasons, the strongest first"].map(str).tolist() == [
        "Sensor-1 high (above 99 % of good wafers; with Sensor-2); Sensor-9 without a reading",
        "none above chance",
        "none above chance",
    ]
    assert shown["unknown"].tolist() == [False, True, False]
    assert shown["probability %"].tolist() == [70.0, 50.0, 30.0]
    assert findings.reasons_sentence(judged, found).startswith("2 of 4 alarms have reasons stronger than chance")
    told = {"shown": False, "strength": 0.1, "floor": 0.4, "why_not": "Reasons are withheld: 0.10, 0.40."}
    withheld = findings.Findings(found.wafers, found.reasons.head(0), {**found.drift, "reasons": told})
    assert "reasons, the strongest first" not in findings.alarms_table(judged, withheld)
    assert findings.reasons_sentence(judged, withheld) == "Reasons are withheld: 0.10, 0.40."


@pytest.mark.parametrize(
    ("direction", "percentile", "together", "words"),
    [
        ("high", 100.0, "", "S high (above all good wafers)"),
        ("low", 2.0, "", "S low (below 98 % of good wafers)"),
        ("low", 0.0, "A", "S low (below all good wafers; with A)"),
        ("high", 90.4, "A, B, C, D, E", "S high (above 90 % of good wafers; with A, B, C and 2 more)"),
        ("missing", float("nan"), "A", "S without a reading (with A)"),
    ],
)
def test_a_reason_in_words(direction, percentile, together, words):
    """Direction, share of the good wafers on the other side, and the sensors that move along."""
    reason = {"sensor": "S", "direction": direction, "percentile": percentile, "together_with": together}
    assert findings.reason_text(reason) == words


def test_the_sensors_named_are_those_of_new_wafers(judged, found):
    """Wafers whose label is known count only where there are no others, and the sentence says so."""
    assert findings.named_sensors(judged, found)["alarms"].to_dict() == {"Sensor-1": 1, "Sensor-9": 1}
    assert "without a known label" in findings.telling_sentence(judged, found)
    seen = judged.assign(label_known=True)
    assert findings.named_sensors(seen, found).index.tolist() == ["Sensor-1", "Sensor-7", "Sensor-9"]
    assert "2 wafers **whose labels are known already**" in findings.telling_sentence(seen, found)


def test_the_summary_keeps_known_labels_from_being_findings(judged, found, model):
    """Alarms of wafers whose label is known are counted apart, unknown wafers, drifted batches and files told."""
    said = deliveries.prediction_summary(judged, found, {"files": 3, "quarantined": 1}, model)
    assert (
        "**4 of 5 wafers** raised an alarm, by a threshold that follows the wafers before each: from 20.0 to 95.0 %"
        in said
    )
    assert "**No findings are 1 of these alarms**: the wafers' labels are known already" in said
    assert "That leaves 3." in said
    all_known = deliveries.prediction_summary(
        judged.assign(label_known=True), found, {"files": 3, "quarantined": 1}, model
    )
    assert "**All of these alarms are no findings**" in all_known and "That leaves" not in all_known
    assert "**1 wafer is unlike anything seen**" in said
    assert "**1 of 3 batches** drifted." in said
    assert "**1 of 3 files** was turned away" in said
    totals = deliveries.prediction_totals(judged)[""]
    assert totals["wafers with a known label"] == "1 (20.0 % of wafers)"
    assert totals["alarms of wafers without a known label"] == "3 (75.0 % of those wafers)"


def test_unknown_wafers_are_told_against_the_usual(judged, found):
    """The unknown wafers, with the share that past batches had."""
    assert findings.unknown_table(judged).index.tolist() == ["w4"]
    said = "**1 of 5 wafers** (20.0 %) is unlike anything that the model has seen. In past batches it was 2.0 %."
    assert findings.unknown_sentence(judged, found) == said


def test_drift_is_told_by_batch_with_the_sensors_responsible(found):
    """Drifted, usual and unjudged batches each get their word; the sensors are those of the drifted batches."""
    verdicts = findings.drift_table(found)["verdict"].to_dict()
    assert verdicts == {"b": "has drifted", "calm": "as usual", "one": "not judged. Too small."}
    assert findings.drift_table(found).loc["b", ["domain AUC", "AUC usual up to"]].tolist() == [0.97, 0.99]
    table = findings.drift_sensors_table(found)
    assert table["stability index"].to_dict() == {"Sensor-1": 3.0, "Sensor-2": 1.0}
    assert table.loc["Sensor-1", ["batches", "missing now %", "shift of the median"]].tolist() == [1, 50.0, 2.0]
    said = findings.drift_sentence(found)
    assert said.startswith("**1 of 2 judged batches drifted** beyond what is usual: b.")
    assert said.endswith("1 could not be judged; the table says why.")


def test_what_was_made_differently_is_listed():
    """One row a change, a dash for what one version did not have; nothing where no decision was taken."""
    changes = [
        {"name": "params.fit.trees", "first": "600", "second": "300"},
        {"name": "library.shap", "first": None, "second": "0.51"},
    ]
    table = tables.changes_table({"changes": changes})
    assert table.to_dict("index") == {
        "params.fit.trees": {"champion": "600", "this version": "300"},
        "library.shap": {"champion": "–", "this version": "0.51"},
    }
    assert tables.changes_table(None).empty


def test_findings_of_another_run_are_refused(judged, found, tmp_path):
    """Findings that lack scored wafers, or a file or column, are named."""
    other = judged[["batch", "Wafer", "Prediction", "probability", "cluster", "model_version"]].assign(batch="c")
    with pytest.raises(ReportError, match=r"wafers\.csv lacks 5 of the 5 scored wafers, w1 first"):
        findings.with_findings(other, found)
    with pytest.raises(ReportError, match=r"wafers\.csv is not there"):
        findings.read_findings(tmp_path)
    (tmp_path / "wafers.csv").write_text("batch,Wafer\n")
    with pytest.raises(ReportError, match=r"wafers\.csv lacks the column 'p_value'"):
        findings.read_findings(tmp_path)


def test_the_threshold_policy_is_told_in_words(model):
    """Costs, the probability that is worth an alarm, the ceiling, and which of the two decides."""
    said = model_tables.policy_text(model)
    assert "A missed fault costs 20, a false alarm 1" in said
    assert "from a probability of **4.8 %** on" in said
    assert "no more than **10 %** of the wafers" in said
    assert "among the most suspicious 10 % of itself and the 50 wafers made before it" in said
    assert said.endswith(f"alarms started at about **{100 * model.threshold_:.1f} %**.")
    said = model_tables.policy_text(model.with_policy(Policy(threshold="fixed")))
    assert f"It is the ceiling that decides: alarms start at **{100 * model.threshold_:.1f} %**." in said


def test_every_alarm_rate_is_told_with_its_threshold(scores):
    """Of four wafers in ten no more alarm than the rate allows; the last row is what the decisions did."""
    table = model_tables.threshold_table(scores, Policy())
    assert table.index.tolist() == ["1 %", "2 %", "5 %", "10 %", "15 %", "20 %", "30 %", "50 %", "as decided"]
    assert table.loc["10 %"].tolist() == ["–"] * 6
    assert table.loc["15 %", ["forward from", "forward finds", "forward costs"]].tolist() == ["90.0 %", "50 %", "2,500"]
    assert table.loc["as decided"].tolist() == ["25.0 % alarms", "50 %", "2,625"] * 2
    assert model_tables.threshold_table(scores.loc[scores["label"] == -1], Policy()).empty


def test_clusters_are_told_with_silhouette_and_profile(model):
    """Each number of clusters with its silhouette, the one taken marked; each cluster with its sensors in words."""
    elbow = pd.DataFrame({"k": [1, 2], "inertia": [9.0, 4.0], "silhouette": [0.0, 0.31], "chosen": [False, True]})
    assert model_tables.elbow_table(elbow).values.tolist() == [["9", "–", ""], ["4", "0.310", "taken"]]
    two = WaferModel.__new__(WaferModel)
    two.clusters_ = pd.DataFrame({"cluster": [0, 1], "wafers": [7, 5]})
    two.profile_ = pd.DataFrame({"cluster": [0, 0, 1], "sensor": [2, 0, 1], "shift": [1.24, -0.5, 0.1]})
    two.n_features_in_ = 3
    told = model_tables.profile_table(two)
    assert told["differs in"].tolist() == ["Sensor-3 higher by 1.2, Sensor-1 lower by 0.5", "Sensor-2 higher by 0.1"]


def test_a_models_abilities_are_told_in_figures_and_words(bundle):
    """Whether reasons are stronger than chance, what drift is usual, how many wafers were unknown."""
    table, said = model_tables.abilities_table(bundle)[""], model_tables.abilities_text(bundle)
    reference, reasons = bundle.drift, bundle.reasons
    assert table["strength of a first reason, log-odds"] == f"{reasons.strength:.3f}"
    assert table["drift score is usual up to"] == f"{reference.threshold:.3f}"
    assert "**Reasons are shown**" in said
    assert f"a batch has drifted when it scores more than {reference.threshold:.2f}" in said
    bare = fit_bundle(WaferModel(trees=5, max_clusters=1), np.eye(40), np.repeat([-1, 1], 20), reasons=False)
    assert "**No reasons are shown.** The model was saved without reasons." in model_tables.abilities_text(bare)
    assert "**Drift is not judged**" in model_tables.abilities_text(bare)
    assert set(model_tables.abilities_table(bare)[""]) == {"–", "0.01"}


def test_reasons_are_listed_up_to_a_limit(ingest_report):
    """A file with many reasons lists the first and says how many more there are."""
    found = deliveries.quarantined_table(ingest_report, limit=2)
    assert found["reason"].tolist() == ["reason 0 <b>", "reason 1 <b>", "and 5 more reasons"]
    assert found.index.tolist() == ["bad.csv"] * 3
    assert list(found) == ["rule", "reason"], "no reason has a place"
    away = ingest_report["batches"][0] | {
        "reasons": [{"rule": "cells", "message": "no number", "line": 3, "column": "B"}]
    }
    assert deliveries.quarantined_table({"batches": [away | {"verdict": "quarantined"}]})["place"].tolist() == [
        "line 3, B"
    ]


def test_warnings_are_summed_up(ingest_report):
    """Each rule that warned is listed once, with the number of files and an example."""
    found = deliveries.warnings_table(ingest_report)
    assert found.loc["empty_sensor"].tolist() == [2, 2, "first.csv: Sensor-20 holds no reading"]


def test_a_storage_without_a_run_says_so(tmp_path):
    """Reports are made from a run: where there is none of the kind, or none of that name, it is told."""
    with pytest.raises(ReportError, match=r"holds no run of the kind 'training' yet"):
        sources.TrainingSources(storage=str(tmp_path))
    with pytest.raises(StorageError, match=r"runs has no run 'training-1'"):
        sources.TrainingSources("training-1", str(tmp_path))


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
    assert telling["times chance"].is_monotonic_decreasing and telling["times chance"].iloc[0] > 1
    correlated = sensors.correlations(wafers)
    assert abs(correlated.loc["Sensor-8", "Sensor-9"]) > 0.9


def test_sensors_are_those_of_any_name():
    """All columns of a training table but its own four, whatever the agreement calls them."""
    table = pd.DataFrame([["Wafer-1", 1, "a.csv", -1, 0.5, None, 2.0]])
    table.columns = ["wafer", "order", "batch", "label", "probability", "Druck 3", "Sensor-1"]
    assert sensors.sensor_names(table) == ["probability", "Druck 3", "Sensor-1"]
    assert list(sensors.missing_by_batch(table).loc["a.csv"]) == [0, 1, 0]
