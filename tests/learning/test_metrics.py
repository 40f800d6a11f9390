import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from wafer.errors import ParameterError
from wafer.learning.decision import Policy
from wafer.learning.metrics import compare, summarise


def _scores(protocol: str = "shuffled", skill: float = 1.0, seed: int = 0, wafers: int = 400) -> pd.DataFrame:
    chance = np.random.default_rng(seed)
    label = np.where(chance.random(wafers) < 0.2, 1, -1)
    logit = -1.4 + skill * (label == 1) + np.random.default_rng(seed + 1).normal(size=wafers) * 0.8
    probability = 1 / (1 + np.exp(-logit))
    return pd.DataFrame(
        {
            "protocol": protocol,
            "repeat": 0,
            "fold": [str(row % 4) for row in range(wafers)],
            "row": np.arange(wafers),
            "label": label,
            "probability": probability,
            "alarm": probability >= 0.4,
        }
    )


def _tiny() -> pd.DataFrame:
    """One batch of four wafers and one of three without a fault."""
    return pd.DataFrame(
        {
            "protocol": "forward",
            "repeat": 0,
            "fold": ["a"] * 4 + ["b"] * 3,
            "row": range(7),
            "label": [1, -1, 1, -1, -1, -1, -1],
            "probability": [0.9, 0.1, 0.2, 0.3, 0.1, 0.1, 0.6],
            "alarm": [True, False, False, False, False, False, True],
        }
    )


def test_summary_of_few_wafers_is_what_a_hand_counts() -> None:
    """On seven wafers every number can be counted by hand."""
    found = summarise(_tiny(), Policy(10.0, 1.0, 0.1), draws=20)
    values = {name: value for name, value in found.items() if not name.endswith(("_low", "_high"))}
    assert values.pop("confusion") == {"tp": 1, "fp": 1, "tn": 4, "fn": 1}
    assert values == pytest.approx(
        {
            "auc": 0.75,
            "accuracy": 5 / 7,
            "average_precision": (1.0 + 0.5) / 2,
            "balanced_error_rate": (0.5 + 0.2) / 2,
            "recall": 0.5,
            "false_alarm_rate": 0.2,
            "recall_at_alarm_rate_5": 0.1,
            "recall_at_alarm_rate_10": 0.2,
            "recall_at_alarm_rate_20": 0.4,
            "brier": (0.01 + 0.01 + 0.64 + 0.09 + 0.01 + 0.01 + 0.36) / 7,
            "brier_skill": 1 - (1.13 / 7) / (10 / 49),
            "calibration_error": (0.1 + 0.1 + 0.1 + 0.8 + 0.3 + 0.6 + 0.1) / 7,
            "cost_per_1000": 11000 / 7,
            "alarm_rate": 2 / 7,
        }
    )


def test_forward_auc_is_weighted_by_faults() -> None:
    """A batch with three faults counts three times as much as one with a single fault."""
    scores = pd.DataFrame(
        {
            "protocol": "forward",
            "repeat": 0,
            "fold": list("aaaabb"),
            "row": range(6),
            "label": [1, 1, 1, -1, 1, -1],
            "probability": [0.9, 0.8, 0.7, 0.1, 0.2, 0.5],
            "alarm": False,
        }
    )
    assert summarise(scores, draws=5)["auc"] == 0.75
    assert summarise(scores.assign(protocol="shuffled"), draws=5)["auc"] == 0.5


def test_metrics_agree_with_scikit_learn() -> None:
    """ROC AUC and average precision are scikit-learn's."""
    scores = _scores()
    found = summarise(scores, draws=5)
    folds = [roc_auc_score(part["label"], part["probability"]) for _, part in scores.groupby("fold")]
    assert found["auc"] == pytest.approx(np.mean(folds))
    expected = average_precision_score(scores["label"] == 1, scores["probability"])
    assert found["average_precision"] == pytest.approx(expected)


def test_every_metric_has_a_finite_interval_around_it() -> None:
    """Each number comes with bounds, finite, and the AUC lies between them."""
    found = summarise(_scores(), draws=200)
    names = [name for name in found if f"{name}_low" in found]
    assert len(names) == 14
    assert all(np.isfinite([found[n], found[f"{n}_low"], found[f"{n}_high"]]).all() for n in names)
    assert found["auc_low"] < found["auc"] < found["auc_high"]


def test_interval_covers_the_truth() -> None:
    """About 95 of 100 intervals hold the AUC of the population that the wafers were drawn from."""
    truth = 0.8116  # normal scores 1 apart with spread 0.8: Phi(1 / (0.8 * sqrt(2)))
    found = [summarise(_scores(seed=2 * n), draws=200) for n in range(60)]
    hits = sum(one["auc_low"] <= truth <= one["auc_high"] for one in found)
    assert 53 <= hits <= 60


def test_comparison_finds_the_better_model() -> None:
    """On the same wafers a model with more skill is better beyond doubt, and one compared with itself is equal."""
    strong, weak = _scores(skill=2.0), _scores(skill=0.5)
    better = compare(strong, weak.sample(frac=1, random_state=0))
    assert better.difference_low > 0
    assert better.difference == pytest.approx(better.auc_first - better.auc_second)
    same = compare(weak, weak)
    assert (same.difference, same.difference_low, same.difference_high) == (0.0, 0.0, 0.0)


def test_comparison_of_other_wafers_is_refused() -> None:
    """Two models must have scored the same wafers."""
    with pytest.raises(ParameterError, match="not of the same wafers"):
        compare(_scores(), _scores(wafers=300))


def test_comparison_counts_costs() -> None:
    """Costs per 1,000 wafers at the policy's prices; an alarm may be a share, as of averaged repeats."""
    one = _scores(wafers=200)
    faulty = one["label"].to_numpy() == 1
    silent, half = one.assign(alarm=False), one.assign(alarm=0.5)
    found = compare(silent, half, Policy(cost_missed_fault=30, cost_false_alarm=2), draws=50)
    assert found.cost_first == pytest.approx(30 * faulty.mean() * 1000)
    assert found.cost_second == pytest.approx((15 * faulty.mean() + 1 * (~faulty).mean()) * 1000)
    # with as many faults in each draw the difference cannot vary
    assert (found.cost_low, found.cost_high) == pytest.approx((found.cost_difference, found.cost_difference))


def test_comparison_without_a_ranking_compares_costs_alone() -> None:
    """Where no fold holds both classes there is no ROC AUC, and no error."""
    good = _scores()[lambda scores: scores["label"] == -1]
    found = compare(good, good, draws=50)
    assert (found.auc_first, found.auc_second, found.difference, found.difference_low, found.difference_high) == (
        *(None,) * 5,
    )
    assert found.cost_difference == 0.0


def test_comparison_leaves_out_whom_a_model_did_not_judge() -> None:
    """A wafer that one of the two gave no probability counts for neither."""
    one = _scores()
    partly = one.assign(probability=one["probability"].where(one.index >= 10))
    assert compare(one, partly, draws=50) == compare(one.iloc[10:], one.iloc[10:], draws=50)
    with pytest.raises(ParameterError, match="there are no wafers to compare"):
        compare(one, one.assign(probability=np.nan))


def test_many_draws_are_those_of_few_and_more() -> None:
    """Drawn in slices, a comparison of 1,000 draws stays what it is, and one of 2,500 lies close to it."""
    one, two = _scores(skill=2.0), _scores(skill=1.0, seed=3).assign(label=_scores(skill=2.0)["label"])
    few, many = (compare(one, two, draws=draws) for draws in (1000, 2500))
    assert few.difference == many.difference
    assert many.difference_low == pytest.approx(few.difference_low, abs=0.02)
    assert many.difference_low != few.difference_low


def test_nothing_to_summarise_is_refused() -> None:
    """An empty frame has no metrics."""
    with pytest.raises(ParameterError, match="no scores"):
        summarise(_scores().iloc[:0])


def test_labels_without_meaning_are_not_summarised() -> None:
    """Labels other than -1 and 1 would all count as good, and are refused."""
    for labels in ([0, 1, 0, 1, 0, 0, 0], ["Good", "Bad"] * 3 + ["Good"]):
        with pytest.raises(ParameterError, match=r"labels must be -1 \(good\) or 1 \(faulty\), got others"):
            summarise(_tiny().assign(label=labels), draws=2)
