"""What the model must beat: monitoring as classifiers that learn from good wafers alone."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from wafer.diagnosis.rivals import CHARTS, RIVALS, MonitoringClassifier, rivals
from wafer.learning.metrics import compare, recall_gains, recall_name, summarise


@pytest.fixture(scope="module")
def wafers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """400 wafers in a shuffled sequence, of which each tenth is faulty: three sensors are eight sigma off."""
    chance = np.random.default_rng(3)
    X, order = chance.normal(size=(400, 12)), chance.permutation(400)
    y = np.where(order % 10 == 4, 1, -1)
    X[y == 1, :3] += 8.0
    X[chance.random(X.shape) < 0.02] = np.nan
    return X, y, order


@pytest.mark.parametrize("chart", CHARTS)
def test_monitoring_ranks_what_is_out_of_control_first(chart, wafers):
    """Wafers far off come first; half means the limit, which good wafers seldom reach."""
    X, y, order = wafers
    known = order < 300
    fitted = MonitoringClassifier(chart).fit(X[known], y[known], order[known])
    told = fitted.predict_proba(X[~known], order[~known])
    assert told.shape == (100, 2)
    np.testing.assert_allclose(told.sum(axis=1), 1.0)
    assert roc_auc_score(y[~known], told[:, 1]) > (
        0.9 if chart == "t2" else 0.95
    )  # T² spreads a fault over its components
    alarms = fitted.predict(X[~known], order[~known]) == 1
    assert alarms[y[~known] == 1].mean() >= 0.3
    assert alarms[y[~known] == -1].mean() <= 0.05


def test_monitoring_learns_from_good_wafers_alone(wafers):
    """Faulty wafers of whatever readings change nothing."""
    X, y, order = wafers
    other = np.where((y == 1)[:, None], 1e3, X)
    for chart in CHARTS:
        one, two = (MonitoringClassifier(chart).fit(each, y, order) for each in (X, other))
        assert np.array_equal(one.predict_proba(X, order), two.predict_proba(X, order))


@pytest.mark.parametrize("chart", CHARTS)
def test_too_few_good_wafers_raise_no_alarm(chart, wafers):
    """From ten wafers nothing is learned, and nothing is called out of control."""
    X, y, order = wafers
    fitted = MonitoringClassifier(chart).fit(X[:10], y[:10], order[:10])
    assert (fitted.predict(X, order) == -1).all()


def test_every_rival_has_a_classifier():
    """The names that the reports know are those that are evaluated; small models are compared with small forests."""
    assert list(rivals(trees=20)) == list(RIVALS)
    assert rivals(trees=20)["plain"].trees == 20


def test_gains_at_equal_alarms_are_paired(wafers):
    """A gain is the difference of both recalls, and nothing over itself."""
    X, y, order = wafers
    head = pd.DataFrame({"protocol": "forward", "repeat": 0, "fold": "a", "row": order, "label": y, "alarm": False})
    one = head.assign(probability=np.nan_to_num(X[:, 0]))
    two = head.assign(probability=np.nan_to_num(X[:, 5]))
    found = recall_gains(one, two)
    for rate in (0.05, 0.1, 0.2):
        name = recall_name(rate)
        assert found[f"gain_{name}"] == pytest.approx(summarise(one)[name] - summarise(two)[name])
        assert found[f"gain_{name}_low"] <= found[f"gain_{name}"] <= found[f"gain_{name}_high"]
    assert set(recall_gains(one, one).values()) == {0.0}
    assert compare(one, one).difference == 0.0
