from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression

from wafer.errors import ParameterError
from wafer.learning.decision import Policy, Sigmoid, fit_sigmoid, recent_tails, threshold_curve


def test_costs_alone_set_the_threshold_below_the_ceiling() -> None:
    """Where few wafers are suspicious, an alarm starts where it is worth its cost."""
    policy = Policy(cost_missed_fault=9.0, cost_false_alarm=1.0, alarm_rate_ceiling=0.5)
    assert policy.fixed_threshold(np.array([0.01, 0.02, 0.03, 0.9])) == pytest.approx(0.1)


def test_ceiling_limits_the_alarms() -> None:
    """Where too many wafers would raise an alarm, the ceiling's share of the most suspicious ones does."""
    probability = np.linspace(0.2, 0.9, 100)
    policy = Policy(cost_missed_fault=9.0, cost_false_alarm=1.0, alarm_rate_ceiling=0.1)
    assert np.sum(probability >= policy.fixed_threshold(probability)) == 10


def test_a_rolling_threshold_follows_the_wafers_before() -> None:
    """Within the ceiling of itself and the 50 wafers before; a wafer without probability is passed over."""
    policy = Policy(cost_missed_fault=1e6, alarm_rate_ceiling=0.1)
    recent, new = np.linspace(0.01, 0.60, 60), np.array([0.575, 0.565, np.nan, 0.565])
    found = policy.rolling_thresholds(recent, new)
    # of 51 wafers five may: four of the 50 before may be at least as suspicious, the fifth of them may not
    assert found == pytest.approx([0.56, 0.57, 0.57, 0.57], abs=1e-9)
    assert recent_tails(recent, new)[[0, 1, 3]] == pytest.approx([4 / 51, 6 / 51, 7 / 51])
    assert policy.alarms(new, recent_tails(recent, new)).tolist() == (new >= found).tolist() == [True] + [False] * 3


def test_a_rolling_threshold_keeps_the_ceiling_where_a_fixed_one_does_not() -> None:
    """When all probabilities rise threefold, about a tenth of the wafers stay alarms; nothing of the future counts."""
    chance = np.random.default_rng(0)
    recent, later = chance.uniform(0, 0.2, 200), chance.uniform(0, 0.6, 400)
    policy = Policy(cost_missed_fault=1e6, alarm_rate_ceiling=0.1)
    assert np.mean(later >= policy.fixed_threshold(recent)) > 0.6
    found = policy.rolling_thresholds(recent, later)
    assert 0.08 < np.mean((later >= found)[50:]) < 0.12
    assert_array_equal(policy.rolling_thresholds(recent, later[:100]), found[:100])
    assert_array_equal(policy.rolling_thresholds(np.concatenate([recent, later[:100]]), later[100:]), found[100:])


def test_too_few_wafers_before_raise_no_alarm() -> None:
    """One of nine is more than a tenth, one of ten is not; costs alone still set the least."""
    found = Policy().rolling_thresholds(np.linspace(0, 0.5, 8), np.array([0.9, 1.0]))
    assert found.tolist() == [np.nextafter(1.0, 2.0), np.nextafter(0.9, 1.0)]
    assert Policy(20.0, 1.0, 0.5).rolling_thresholds(np.zeros(50), np.ones(1)).tolist() == [1 / 21]


def test_equal_probabilities_at_the_ceiling_raise_no_alarm() -> None:
    """Wafers that cannot be told apart are all left out rather than the ceiling broken."""
    probability = np.full(50, 0.3)
    policy = Policy(alarm_rate_ceiling=0.1)
    assert np.sum(probability >= policy.fixed_threshold(probability)) == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cost_missed_fault", 0.0, "cost_missed_fault must be above 0, at most 1,000,000,000, got 0.0"),
        ("cost_false_alarm", -1.0, "cost_false_alarm must be above 0, at most 1,000,000,000, got -1.0"),
        ("alarm_rate_ceiling", 1.0, "alarm_rate_ceiling must lie between 0 and 1, got 1.0"),
        ("alarm_rate_ceiling", 0.01, "alarm_rate_ceiling must be at least 0.0196 where the threshold is rolling"),
        ("threshold", "loose", "threshold must be fixed or rolling, got 'loose'"),
    ],
)
def test_impossible_policies_are_refused(name: str, value: Any, message: str) -> None:
    """Each impossible value is refused by its name."""
    with pytest.raises(ParameterError, match=message):
        Policy(**{name: value})


def test_cost_counts_missed_faults_and_false_alarms() -> None:
    """One missed fault and two false alarms among four wafers cost (20 + 2) / 4 each."""
    faulty = np.array([True, False, False, False])
    alarm = np.array([False, True, True, False])
    assert Policy().cost(faulty, alarm) == 5500.0


def test_curve_holds_every_threshold() -> None:
    """Each distinct probability is a threshold, with its alarms, faults caught and cost."""
    curve = threshold_curve(
        np.array([False, True, False, True]), np.array([0.1, 0.2, 0.2, 0.8]), Policy(10.0, 1.0, 0.1)
    )
    assert curve.to_dict("list") == {
        "threshold": [0.1, 0.2, 0.8],
        "alarm_rate": [1.0, 0.75, 0.25],
        "recall": [1.0, 1.0, 0.5],
        "false_alarm_rate": [1.0, 0.5, 0.0],
        "cost_per_1000": [500.0, 250.0, 2500.0],
    }


def test_sigmoid_is_a_logistic_regression_of_the_score() -> None:
    """With many wafers the sigmoid is the plain logistic regression."""
    chance = np.random.default_rng(0)
    score = chance.normal(size=5000)
    faulty = chance.random(5000) < 1 / (1 + np.exp(-(2 * score - 2)))
    plain = LogisticRegression(C=np.inf).fit(score[:, None], faulty)
    found = fit_sigmoid(score, faulty)
    assert_allclose([found.slope, found.offset], [plain.coef_[0, 0], plain.intercept_[0]], rtol=0.01)
    assert found.probability(score).mean() == pytest.approx(faulty.mean(), abs=0.001)


def test_a_score_that_says_nothing_gives_the_base_rate() -> None:
    """A constant score, or one that is higher for good wafers, is worth the smoothed share of faults."""
    faulty = np.arange(100) < 10
    base = np.log(11 / 91)
    assert fit_sigmoid(np.ones(100), faulty) == Sigmoid(0.0, base)
    assert fit_sigmoid(np.arange(100.0), faulty) == Sigmoid(0.0, base)


def test_separable_scores_stay_finite() -> None:
    """A score that tells all faults gives a finite sigmoid with probabilities short of 0 and 1."""
    found = fit_sigmoid(np.array([0.0, 1.0, 2.0, 50.0]), np.array([False, False, False, True]))
    probability = found.probability(np.array([0.0, 50.0]))
    assert 0.0 < probability[0] < 0.4 < probability[1] < 1.0
