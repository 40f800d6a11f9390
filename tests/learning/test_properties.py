from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from wafer.errors import ModelError
from wafer.learning.decision import Policy, fit_sigmoid
from wafer.learning.features import ReferenceScaler, WaferFeatures
from wafer.learning.model import WaferModel

QUICK = {"trees": 5, "search_budget": 1, "max_clusters": 3, "calibration_folds": 2, "reference_window": 20}
readings = st.one_of(st.just(np.nan), st.floats(-1e6, 1e6))
some = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
many = settings(some, max_examples=60)


@st.composite
def tables(draw: Any, least: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readings of up to 30 wafers and 6 sensors with constant columns and gaps, labels of both classes, an order."""
    wafers, sensors = draw(st.integers(least, 30)), draw(st.integers(1, 6))
    X = draw(arrays(np.float64, (wafers, sensors), elements=readings))
    if draw(st.booleans()):
        X[:, draw(st.integers(0, sensors - 1))] = 3.0
    if draw(st.booleans()):
        X[draw(st.integers(0, wafers - 1))] = np.nan
    y = np.where(draw(arrays(np.bool_, wafers)), 1, -1)
    y[:2] = (1, -1)
    return X, y, np.array(draw(st.permutations(range(wafers))))


@pytest.mark.slow
@pytest.mark.invariant
@some
@given(tables())
def test_any_table_makes_a_model_of_probabilities(table: Any) -> None:
    """Whatever is constant, missing or small: probabilities between 0 and 1, the same alone as in the batch."""
    X, y, order = table
    model = WaferModel(**QUICK).fit(X, y, order)
    probability = model.predict_proba(X, order)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert_array_equal(probability.sum(axis=1), np.ones(len(X)))
    assert_array_equal(model.predict_proba(X[-1:], order[-1:]), probability[-1:])


@some
@given(tables(least=4), st.randoms(use_true_random=False))
def test_sensors_in_any_sequence_give_the_same(table: Any, chance: Any) -> None:
    """Frames are read by name: shuffled sensors give the same bits."""
    X, y, order = table
    frame = pd.DataFrame(X, columns=[f"Sensor-{n}" for n in range(X.shape[1])])
    model = WaferModel(**QUICK).fit(frame, y, order)
    names = list(frame.columns)
    chance.shuffle(names)
    assert_array_equal(model.predict_proba(frame[names], order), model.predict_proba(frame, order))


@some
@given(tables(), st.sampled_from([-1, 1]))
def test_one_class_is_always_refused(table: Any, label: int) -> None:
    """Wafers of one class alone never make a model."""
    X, y, order = table
    with pytest.raises(ModelError, match="one class alone"):
        WaferModel(**QUICK).fit(X, np.full(len(y), label), order)


def test_a_cluster_may_disappear_and_sensors_vanish(wafers: Any, quick: dict[str, int]) -> None:
    """Wafers of one cluster alone, and wafers whose sensors are suddenly all missing, are scored as any other."""
    model = WaferModel(**quick).fit(wafers.X, wafers.y, wafers.order)
    cluster = model.assign_clusters(wafers.X, wafers.order)
    whole = model.predict_proba(wafers.X, wafers.order)
    one = cluster == cluster[0]
    assert_array_equal(model.predict_proba(wafers.X[one], wafers.order[one]), whole[one])
    for sensor in wafers.X.columns:
        gone = wafers.X.assign(**{sensor: np.nan})
        assert np.isfinite(model.predict_proba(gone, wafers.order)).all()


@many
@given(tables(), st.booleans())
def test_features_are_finite_and_independent(table: Any, knn: bool) -> None:
    """Features are finite and do not depend on the other rows."""
    X, _, order = table
    features = WaferFeatures(imputation="knn" if knn else "median", reference_window=20).fit(X, order=order)
    whole = features.transform(X, order=order)
    assert np.isfinite(whole).all()
    assert_array_equal(features.transform(X[::-1], order=order[::-1]), whole[::-1])


@many
@given(tables(), st.integers(-100, 200))
def test_windows_come_from_the_past(table: Any, moment: int) -> None:
    """A wafer's window ends no later than the wafer, unless it is the first window."""
    X, _, order = table
    scaler = ReferenceScaler(window=5, step=2).fit(X, order=order)
    window = int(scaler.windows(1, np.array([moment]))[0])
    before = int(np.sum(order < moment))
    assert window == 0 or scaler.ends_[window] <= before


@many
@given(arrays(np.float64, st.integers(2, 60), elements=st.floats(-1e3, 1e3)), st.data())
def test_sigmoids_rise_and_thresholds_keep_the_ceiling(score: np.ndarray, data: Any) -> None:
    """A higher score never has a lower probability, and never more wafers alarm than the ceiling allows."""
    faulty = data.draw(arrays(np.bool_, len(score)))
    ceiling = data.draw(st.floats(0.01, 0.99))
    probability = fit_sigmoid(score, faulty).probability(score)
    ranking = np.argsort(score, kind="stable")
    assert (np.diff(probability[ranking]) >= -1e-12).all()
    threshold = Policy(alarm_rate_ceiling=ceiling, threshold="fixed").fixed_threshold(probability)
    assert np.mean(probability >= threshold) <= ceiling + 1e-9
