from dataclasses import asdict, fields

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tests.conftest import REPOSITORY
from tests.registry.rules import RULES, rules
from wafer.learning.decision import Policy
from wafer.learning.metrics import compare
from wafer.params import read_params
from wafer.registry.gate import (
    check_calibration,
    check_canary,
    check_comparison,
    check_minimum,
    compare_scores,
    explain,
    forward_by_wafer,
    gate_rules,
)
from wafer.registry.records import Check, Comparison, Decision, GateRules


def test_equal_scores_differ_by_nothing(make_scores):
    """A version compared with itself differs by exactly nothing, whatever is drawn."""
    scores = make_scores(2.0)
    found = compare_scores(scores, scores, RULES)
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
    found = compare_scores(scores, scores, rules(draws=100))
    assert found is not None
    assert found.auc_challenger == pytest.approx(expected, abs=1e-12)


def test_cost_counts_missed_faults_and_false_alarms(make_scores):
    """Cost per 1,000 wafers is missed faults and false alarms at their prices."""
    scores = make_scores(1.0)
    faulty, alarm = scores["label"] == 1, scores["alarm"]
    expected = 1000 * (30 * (faulty & ~alarm).sum() + 2 * (~faulty & alarm).sum()) / len(scores)
    found = compare_scores(scores, scores, rules(policy=Policy(cost_missed_fault=30, cost_false_alarm=2), draws=100))
    assert found is not None
    assert found.cost_champion == pytest.approx(expected)


def test_only_common_wafers_are_compared_and_matched_by_name(make_scores):
    """Versions trained on different snapshots are compared on the wafers that both scored, in any sequence of rows."""
    challenger, champion = make_scores(2.0, first=80), make_scores(1.0).sample(frac=1, random_state=0)
    found = compare_scores(challenger, champion, rules(draws=200))
    assert found is not None
    assert (found.wafers, found.faulty, found.batches) == (80, 10, 2)
    assert found.auc_difference is not None
    assert found.auc_difference > 0
    assert found == compare_scores(challenger, champion.sort_values("wafer"), rules(draws=200))


def test_nothing_in_common_is_no_comparison(make_scores):
    """Versions without a common wafer cannot be compared, and the gate says so."""
    found = compare_scores(make_scores(2.0, first=80), make_scores(2.0).head(80), RULES)
    assert found is None
    (check,) = check_comparison(found, RULES)
    assert (check.name, check.passed) == ("common wafers", False)


def test_a_batch_with_one_label_counts_for_costs_only(make_scores):
    """Where no batch holds both labels the ROC AUC is not defined and its condition fails, without an error."""
    scores = make_scores(2.0)
    good = scores.loc[scores["label"] == -1]
    found = compare_scores(good, good, rules(draws=100))
    assert found is not None
    assert (found.auc_challenger, found.auc_low, found.wafers) == (None, None, 140)
    auc, cost = check_comparison(found, RULES)
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
    assert [check.passed for check in check_comparison(comparison, rules(auc_margin=0.05))] == [passed, True]


@pytest.mark.parametrize(("high", "passed"), [(20.0, True), (20.1, False)])
def test_cost_may_rise_by_the_margin_and_no_more(high, passed):
    """The interval's high end may reach the agreed share of the champion's cost and must not pass it."""
    comparison = Comparison(100, 10, 2, 0.6, 0.6, 0.0, 0.0, 0.0, 110.0, 100.0, 10.0, 0.0, high)
    assert [check.passed for check in check_comparison(comparison, rules(cost_margin=0.2))] == [True, passed]


@pytest.mark.parametrize(
    ("metrics", "minimum", "passed"),
    [({"forward.auc": 0.55}, 0.55, True), ({"forward.auc": 0.54}, 0.55, False), ({}, 0.0, True), ({}, 0.1, False)],
)
def test_a_version_must_reach_the_minimum(metrics, minimum, passed):
    """The minimum counts, however little it is; a training too small for a forward number reaches only zero."""
    assert check_minimum(metrics, rules(minimum_auc=minimum)).passed is passed


def canary_runs(faulty: int, good: int, repeats: int = 1) -> pd.DataFrame:
    """Scores on permuted labels that hold only what is counted."""
    label = np.tile([1] * faulty + [-1] * good, repeats)
    return pd.DataFrame({"protocol": "permuted", "repeat": np.repeat(range(repeats), faulty + good), "label": label})


@pytest.mark.parametrize(
    ("faulty", "good", "repeats", "width"),
    [(104, 1463, 1, 0.08796), (104, 1463, 4, 0.04398), (5, 195, 1, 0.39324), (40, 40, 1, 0.19486)],
)
def test_the_canary_must_find_nothing(faulty, good, repeats, width):
    """A permuted-label ROC AUC fails on either side beyond three standard errors, which few faults make wide."""
    runs = canary_runs(faulty, good, repeats)
    for value, passed in ((0.5 + width - 1e-4, True), (0.5 + width + 1e-4, False)):
        assert check_canary({"permuted.auc": value}, runs, RULES).passed is passed
        assert check_canary({"permuted.auc": 1 - value}, runs, RULES).passed is passed
    narrow = check_canary({"permuted.auc": 0.5 + width / 2}, runs, rules(canary_z=1.0))
    assert (narrow.passed, narrow.limit) == (False, pytest.approx(0.5 + width / 3, abs=1e-4))


def test_the_canary_tells_its_band():
    """Band, standard error and counts stand in the sentence."""
    check = check_canary({"permuted.auc": 0.478}, canary_runs(104, 1463, 2), RULES)
    assert check.text == (
        "permuted-label ROC AUC 0.478, expected within [0.438, 0.562]: 3 standard errors of 0.021 about 0.5, "
        "for 104 faulty and 1,463 good wafers, 2 times"
    )


@pytest.mark.slow
@pytest.mark.invariant
def test_the_band_is_that_of_chance():
    """Rankings that know nothing scatter with the standard error that the band is made of."""
    chance = np.random.default_rng(0)
    label = np.array([1] * 12 + [0] * 108)
    found = [roc_auc_score(label, chance.uniform(size=len(label))) for _ in range(2000)]
    check = check_canary({"permuted.auc": 0.5}, canary_runs(12, 108), rules(canary_z=1.0))
    assert np.std(found) == pytest.approx(check.limit - 0.5, rel=0.05)


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
    check = check_calibration(metrics, rules(maximum_calibration_error=limit))
    assert check.passed is passed
    assert ("was not measured" in check.text) == (not metrics)


@pytest.mark.parametrize(("metrics", "runs"), [({}, canary_runs(5, 5)), ({"permuted.auc": 0.5}, canary_runs(0, 0))])
def test_a_canary_that_did_not_run_is_told(metrics, runs):
    """Without a run on permuted labels, or without its scores, the gate says so and refuses."""
    check = check_canary(metrics, runs, rules(canary_z=1000.0))
    assert (check.passed, check.value) == (False, None)
    assert check.text == "the canary was not measured: the training has no scores on permuted labels of both kinds"


def test_the_sentence_names_what_failed():
    """A refusal's reason names the champion that stays and every condition that failed, and no other."""
    checks = (Check("a", True, 1, 1, "fine"), Check("b", False, 1, 1, "too low"), Check("c", False, 1, 1, "too dear"))
    assert explain(checks, 3, 2) == "Version 3 was refused and version 2 stays champion: too low; too dear."


def test_a_decision_survives_json(make_scores):
    """A decision becomes plain JSON values and comes back equal."""
    scores = make_scores(2.0)
    comparison = compare_scores(scores, scores, rules(draws=100))
    checks = check_comparison(comparison, RULES)
    decision = Decision(
        "gate", 2, 1, True, "why", "2026-01-01T00:00:00", checks, comparison, asdict(RULES), 1, comparison
    )
    assert Decision.from_dict(decision.as_dict()) == decision


def test_a_line_of_an_earlier_release_can_still_be_read():
    """Rules that have other names today, and fields that came later, do not hide an old decision."""
    old = {
        **{"kind": "gate", "challenger": 1, "champion": None, "promoted": True, "reason": "why", "time": "2026"},
        **{"checks": [], "comparison": None, "rules": {"canary_low": 0.4, "canary_high": 0.6}},
    }
    assert Decision.from_dict(old).as_dict() == {**old, "best": None, "best_comparison": None}


def test_rules_are_required():
    """No rule has a default: one that is left out is an error, and params.yaml gives them all."""
    for field in fields(GateRules):
        with pytest.raises(TypeError, match=field.name):
            GateRules(**{name: value for name, value in vars(RULES).items() if name != field.name})
    params = read_params(REPOSITORY / "params.yaml")
    made = gate_rules(params.gate, params.policy)
    assert asdict(made) == {
        **params.gate.model_dump(),
        "policy": {
            name: getattr(params.policy, name)
            for name in ("cost_missed_fault", "cost_false_alarm", "alarm_rate_ceiling", "threshold")
        },
    }
    assert made.minimum_auc >= 0.5


def test_the_gate_and_the_model_card_agree(make_scores):
    """One paired bootstrap: the gate's comparison of two frames is that of `wafer.learning.metrics`."""
    one, two = make_scores(2.0), make_scores(1.0)
    found, expected = compare_scores(one, two, RULES), compare(one, two, RULES.policy, confidence=0.9, draws=2000)
    assert found is not None
    assert (found.auc_difference, found.cost_difference) == pytest.approx(
        (expected.difference, expected.cost_difference)
    )
    # drawn in another sequence of wafers
    assert (found.auc_low, found.auc_high) == pytest.approx(
        (expected.difference_low, expected.difference_high), abs=0.02
    )
