import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.impute import KNNImputer

from wafer.learning.features import (
    MedianImputer,
    NeighborImputer,
    ReferenceScaler,
    SensorSelector,
    WaferFeatures,
    quartiles,
    spread,
)


def test_quartiles_agree_with_numpy() -> None:
    """Quartiles leave missing readings out and interpolate as numpy does; an empty column gives NaN."""
    X = np.random.default_rng(0).normal(size=(37, 5))
    X[np.random.default_rng(1).random(X.shape) < 0.3] = np.nan
    assert_allclose(quartiles(X), np.nanpercentile(X, [25, 50, 75], axis=0))
    X[:, 2] = np.nan
    assert np.isnan(quartiles(X)[:, 2]).all()


def test_spread_is_never_zero() -> None:
    """The spread is the IQR's, else the standard deviation, else 1."""
    X = np.array([[1.0, 5.0, 0.0], [2.0, 5.0, 0.0], [3.0, 5.0, 0.0], [4.0, 5.0, 0.0], [5.0, 5.0, 100.0]])
    assert_allclose(spread(X, quartiles(X)), [2 / 1.349, 1.0, 40.0])


def test_selector_drops_constant_and_mostly_missing_sensors() -> None:
    """Only sensors that vary and are there often enough are kept."""
    nan = np.nan
    X = np.array([[1.0, 7.0, nan, 1.0, nan], [2.0, 7.0, nan, nan, nan], [3.0, 7.0, nan, 2.0, 9.0]])
    selector = SensorSelector(max_missing=0.5).fit(X)
    assert_array_equal(selector.kept_, [0, 3])
    assert_array_equal(selector.transform(X), X[:, [0, 3]])


def test_selector_keeps_all_sensors_if_none_qualifies() -> None:
    """With constant sensors alone the model still has something to look at."""
    assert_array_equal(SensorSelector().fit(np.ones((3, 2))).kept_, [0, 1])


def test_median_imputer_fills_with_training_medians() -> None:
    """A missing reading becomes the training median, whatever the batch holds."""
    imputer = MedianImputer().fit(np.array([[1.0, np.nan], [3.0, np.nan], [9.0, np.nan]]))
    assert_array_equal(imputer.transform(np.array([[np.nan, np.nan], [4.0, 2.0]])), [[3.0, 0.0], [4.0, 2.0]])


def test_neighbor_imputer_agrees_with_scikit_learn() -> None:
    """On sensors of one scale the neighbours are those of scikit-learn's KNNImputer."""
    chance = np.random.default_rng(3)
    X = chance.normal(size=(80, 6)) @ chance.normal(size=(6, 6))
    imputer = NeighborImputer(neighbors=3)
    full = imputer.fit(X)
    scale = full.spreads_
    holes = np.where(chance.random(X.shape) < 0.1, np.nan, X)
    mine = imputer.fit(holes).transform(holes)
    theirs = KNNImputer(n_neighbors=3).fit(holes / imputer.spreads_).transform(holes / imputer.spreads_)
    assert scale.shape == (6,)
    assert_allclose(mine, theirs * imputer.spreads_)


def test_reference_window_is_the_one_before_the_wafer() -> None:
    """A wafer is compared with the last window that ended before it, the earliest ones with the first window."""
    X = np.arange(100.0)[:, None]
    scaler = ReferenceScaler(window=40, step=30).fit(X, order=np.arange(100) * 10)
    assert_array_equal(scaler.ends_, [40, 70, 100])
    assert_array_equal(scaler.windows(6, np.array([0, 399, 400, 700, 990, 5000])), [0, 0, 0, 1, 1, 2])
    assert_allclose(scaler.medians_[:, 0], [19.5, 49.5, 79.5])
    assert_array_equal(scaler.windows(2), [2, 2])


def test_reference_window_does_not_depend_on_row_sequence() -> None:
    """Shuffled training rows give the same windows, as production order alone counts."""
    X = np.random.default_rng(0).normal(size=(90, 4))
    order = np.arange(90)
    rows = np.random.default_rng(1).permutation(90)
    one = ReferenceScaler(window=30).fit(X, order=order)
    two = ReferenceScaler(window=30).fit(X[rows], order=order[rows])
    assert_array_equal(one.medians_, two.medians_)
    assert_array_equal(one.spreads_, two.spreads_)


def test_slow_drift_cancels() -> None:
    """A level that moves slowly against the window leaves relative readings centred near zero."""
    chance = np.random.default_rng(0)
    order = np.arange(1000)
    X = (order / 20 + chance.normal(size=1000))[:, None]
    relative = ReferenceScaler(window=50, step=5, limit=100.0).fit(X, order=order).transform(X, order=order)
    assert np.abs(np.median(relative[100:])) < 1.5
    assert np.abs(np.median(X[100:])) > 20


@pytest.mark.parametrize("imputation", ["median", "knn"])
def test_features_of_a_wafer_do_not_depend_on_its_batch(imputation: str) -> None:
    """A wafer has the same features, bit by bit, alone and in any sequence of rows."""
    chance = np.random.default_rng(5)
    X = chance.normal(size=(60, 30))
    X[chance.random(X.shape) < 0.1] = np.nan
    order = chance.permutation(60)
    features = WaferFeatures(imputation=imputation, reference_window=20).fit(X, order=order)
    whole = features.transform(X, order=order)
    rows = chance.permutation(60)
    assert_array_equal(features.transform(X[rows], order=order[rows]), whole[rows])
    for row in range(60):
        assert_array_equal(features.transform(X[row : row + 1], order=order[row : row + 1]), whole[row : row + 1])
    assert np.isfinite(whole).all()
