import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from wafer.registry.gate import (
    check_calibration,
    check_canary,
    check_comparison,
    check_minimum,
    compare_scores,
    explain,
    forward_by_wafer,
)
from wafer.registry.records import Check, Comparison, Decision, GateRules


def test_equal_scores_differ_by_nothing(make_scores):
    """A version compared with itself differs by exactly nothing, whatever is drawn."""
    scores = make_scores(2.0)
    found = compare_scores(scores, scores, GateRules())
    assert found is not None
    assert (found.auc_difference, found.auc_low, found.auc_high) == (0.0, 0.0, 0.0)
    assert (found.cost_difference, found.cost_low, found.cost_high) == (0.0, 0.0, 0.0)
    assert (found.wafers, found.faulty, found.batches) == (160, 20, 4)


def test_auc_is_the_mean_of_the_batches_weighted_by_their_faults(make_scores):
    """The compared ROC AUC agrees with scikit-learn's, batch by batch, weighted by faulty wafers."""
    scores = make_scores(1.0)
    scores = scores.drop(scores.index[(scores["fold"] == "Wafer_00.csv") & (scores["label"] == 1)][:3])
    parts = [part for _, part in scores.groupby("fold")]
    expected = np.average(
        [roc_auc_score(part["label"], part["probability"]) for part in parts],
        weights=[(part["label"] == 1).sum() for part in parts],
    )
    found = compare_scores(scores, scores, GateRules(draws=100))
    assert found is not None
    assert found.auc_challenger == pytest.approx(expected, abs=1e-12)


def test_cost_counts_missed_faults_and_false_alarms(make_scores):
    """Cost per 1,000 wafers is missed faults and false alarms at their prices."""
    scores = make_scores(1.0)
    faulty, alarm = scores["label"] == 1, scores["alarm"]
    expected = 1000 * (30 * (faulty & ~alarm).sum() + 2 * (~faulty & alarm).sum()) / len(scores)
    found = compare_scores(scores, scores, GateRules(cost_missed_fault=30, cost_false_alarm=2, draws=100))
    assert found is not None
    assert found.cost_champion == pytest.approx(expected)


def test_only_common_wafers_are_compared_and_matched_by_name(make_scores):
    """Versions trained on different snapshots are compared on the wafers that both scored, in any sequence of rows."""
    challenger, champion = make_scores(2.0, first=80), make_scores(1.0).sample(frac=1, random_state=0)
    found = compare_scores(challenger, champion, GateRules(draws=200))
    assert found is not None
    assert (found.wafers, found.faulty, found.batches) == (80, 10, 2)
    assert found.auc_difference is not None
    assert found.auc_difference > 0
    assert found == compare_scores(challenger, champion.sort_values("wafer"), GateRules(draws=200))


def test_nothing_in_common_is_no_comparison(make_scores):
    """Versions without a common wafer cannot be compared, and the gate says so."""
    found = compare_scores(make_scores(2.0, first=80), make_scores(2.0).head(80), GateRules())
    assert found is None
    (check,) = check_comparison(found, GateRules())
    assert (check.name, check.passed) == ("common wafers", False)


def test_a_batch_with_one_label_counts_for_costs_only(make_scores):
    """Where no batch holds both labels the ROC AUC is not defined and its condition fails, without an error."""
    scores = make_scores(2.0)
    good = scores.loc[scores["label"] == -1]
    found = compare_scores(good, good, GateRules(draws=100))
    assert found is not None
    assert (found.auc_challenger, found.auc_low, found.wafers) == (None, None, 140)
    auc, cost = check_comparison(found, GateRules())
    assert (auc.passed, cost.passed) == (False, True)


def test_repeats_of_a_wafer_are_averaged(make_scores):
    """A wafer that was scored twice forward counts once, by its mean."""
    scores = make_scores(2.0).head(2)
    twice = pd.concat([scores, scores.assign(probability=0.5, alarm=True, repeat=1)])
    found = forward_by_wafer(twice)
    assert found["probability"].tolist() == pytest.approx(((scores["probability"] + 0.5) / 2).tolist())
    assert found.index.tolist() == ["Wafer-0", "Wafer-1"]


@pytest.mark.parametrize(("low", "passed"), [(-0.05, True), (-0.0501, False)])
def test_auc_may_fall_by_the_margin_and_no_more(low, passed):
    """The interval's low end may reach the margin and must not pass it."""
    comparison = Comparison(100, 10, 2, 0.6, 0.62, -0.02, low, 0.01, 100.0, 100.0, 0.0, -5.0, 5.0)
    assert [check.passed for check in check_comparison(comparison, GateRules(auc_margin=0.05))] == [passed, True]


@pytest.mark.parametrize(("high", "passed"), [(20.0, True), (20.1, False)])
def test_cost_may_rise_by_the_margin_and_no_more(high, passed):
    """The interval's high end may reach the agreed share of the champion's cost and must not pass it."""
    comparison = Comparison(100, 10, 2, 0.6, 0.6, 0.0, 0.0, 0.0, 110.0, 100.0, 10.0, 0.0, high)
    assert [check.passed for check in check_comparison(comparison, GateRules(cost_margin=0.2))] == [True, passed]


@pytest.mark.parametrize(
    ("metrics", "minimum", "passed"),
    [({"forward.auc": 0.55}, 0.55, True), ({"forward.auc": 0.54}, 0.55, False), ({}, 0.0, True), ({}, 0.1, False)],
)
def test_a_first_champion_must_reach_the_minimum(metrics, minimum, passed):
    """The first champion must reach the minimum; a training too small for a forward number reaches only zero."""
    assert check_minimum(metrics, GateRules(minimum_auc=minimum)).passed is passed


@pytest.mark.parametrize(("value", "passed"), [(0.4, True), (0.39, False), (0.6, True), (0.61, False)])
def test_the_canary_must_find_nothing(value, passed):
    """A permuted-label ROC AUC outside the agreed band fails, on either side."""
    check = check_canary({"permuted.auc": value}, GateRules(canary_low=0.4, canary_high=0.6))
    assert check.passed is passed


@pytest.mark.parametrize(
    ("metrics", "limit", "passed"),
    [
        ({"shuffled.calibration_error": 0.05}, 0.05, True),
        ({"shuffled.calibration_error": 0.051}, 0.05, False),
        ({}, 0.05, False),
        ({}, 1.0, True),
    ],
)
def test_probabilities_must_hold_what_they_promise(metrics, limit, passed):
    """A calibration error above the limit fails, and one that was not measured too, unless anything goes."""
    check = check_calibration(metrics, GateRules(maximum_calibration_error=limit))
    assert check.passed is passed
    assert ("was not measured" in check.text) == (not metrics)


def test_a_canary_that_did_not_run_is_told():
    """Without a run on permuted labels the gate says so, and lets it pass only where any outcome would do."""
    assert check_canary({}, GateRules()).passed
    check = check_canary({}, GateRules(canary_low=0.4, canary_high=0.6))
    assert (check.passed, check.value) == (False, None)
    assert check.text == "permuted-label ROC AUC was not measured, expected within [0.40, 0.60]"


def test_the_sentence_names_what_failed():
    """A refusal's reason names the champion that stays and every condition that failed, and no other."""
    checks = (Check("a", True, 1, 1, "fine"), Check("b", False, 1, 1, "too low"), Check("c", False, 1, 1, "too dear"))
    assert explain(checks, 3, 2) == "Version 3 was refused and version 2 stays champion: too low; too dear."


def test_a_decision_survives_json(make_scores):
    """A decision becomes plain JSON values and comes back equal."""
    scores = make_scores(2.0)
    comparison = compare_scores(scores, scores, GateRules(draws=100))
    checks = check_comparison(comparison, GateRules())
    decision = Decision("gate", 2, 1, True, "why", "2026-01-01T00:00:00", checks, comparison, GateRules())
    assert Decision.from_dict(decision.as_dict()) == decision
