import pickle
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from wafer.errors import ModelError, ParameterError
from wafer.learning.checks import UnfitLabelsError, faulty_of, plain_labels, read_classes
from wafer.learning.decision import Policy
from wafer.learning.jobs import derived_seed
from wafer.learning.model import WaferModel
from wafer.scoring.bundle import Bundle, fit_bundle

MEANINGLESS = "its labels, 1 and 2 or 'one' and 'two', do not say which of them means faulty, so the model refuses them"
EXPECTED_FAILURES = {
    "check_classifiers_train": "predict follows the alarm policy's threshold, not the more probable class",
    "check_classifier_data_not_an_array": MEANINGLESS,
    "check_classifiers_classes": MEANINGLESS,
    "check_estimators_dtypes": MEANINGLESS,
    "check_fit2d_1feature": MEANINGLESS,
}
QUICK = {"trees": 10, "search_budget": 1, "max_clusters": 2, "calibration_folds": 2}


class NamesTheLarger(WaferModel):
    """A caller who knows that the larger label is the faulty one, whatever the check's labels are."""

    def fit(self, X: Any, y: Any, order: Any = None) -> Self:
        """Fit with the larger label named."""
        self.faulty_label = np.unique(np.asarray(y))[-1]
        return super().fit(X, y, order)


@parametrize_with_checks([WaferModel(**QUICK)], expected_failed_checks=lambda _: EXPECTED_FAILURES)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    """The model is an estimator as scikit-learn knows them."""
    check(estimator)


@pytest.mark.parametrize("name", [name for name, reason in EXPECTED_FAILURES.items() if reason == MEANINGLESS])
def test_scikit_learn_checks_of_labels_without_meaning(name: str) -> None:
    """The checks whose labels the model refuses as they are hold as soon as the faulty one is named."""
    checks = [(model, check) for model, check in estimator_checks_generator(NamesTheLarger(**QUICK))]
    [(estimator, check)] = [(model, check) for model, check in checks if check.func.__name__ == name]
    check(estimator)


@pytest.mark.parametrize(
    ("good", "faulty", "named"),
    [
        ("Good", "Bad", "Bad"),
        ("Pass", "Fail", np.str_("Fail")),
        ("Bad", "Good", "Good"),
        (0, 1, None),
        (False, True, None),
        (-1.0, 1.0, None),
        (1, -1, -1),
        (2, 1, np.int64(1)),
    ],
)
def test_the_named_label_is_the_faulty_one(
    fitted: WaferModel, wafers: Any, quick: dict[str, int], tmp_path: Path, good: Any, faulty: Any, named: Any
) -> None:
    """Whatever labels are called and however they sort, the same wafers raise an alarm, also after loading."""
    labels = np.where(wafers.y == 1, faulty, good)
    recipe = WaferModel(faulty_label=named, **quick)
    fit_bundle(recipe, wafers.X, labels, wafers.order, reasons=False).save(tmp_path)
    model = Bundle.load(tmp_path).classifier
    assert model.classes_.tolist() == sorted([good, faulty])
    assert model.faulty_label_ == faulty
    expected = fitted.fault_probability(wafers.X, wafers.order)
    assert_array_equal(model.fault_probability(wafers.X, wafers.order), expected)
    column = model.classes_.tolist().index(faulty)
    assert_array_equal(model.predict_proba(wafers.X, wafers.order)[:, column], expected)
    assert_array_equal(model.predict(wafers.X, wafers.order) == faulty, fitted.predict(wafers.X, wafers.order) == 1)


@pytest.mark.parametrize(
    ("good", "faulty", "named", "message"),
    [
        ("Good", "Bad", None, "labels are 'Bad' and 'Good', which does not say what they mean: name the faulty one as"),
        (0, 2, None, "labels are 0 and 2, which does not say"),
        (-1, 0, None, "labels are -1 and 0, which does not say"),
        ("-1", "1", None, "labels are '-1' and '1', which does not say"),
        ("Good", "Bad", "bad", "faulty_label must be one of the labels, 'Bad' and 'Good', got 'bad'"),
        (-1, 1, "1", "faulty_label must be one of the labels, -1 and 1, got '1'"),
        (-1, 1, [1], r"faulty_label must be one of the labels, -1 and 1, got \[1\]"),
        (-1, 1, pd.NA, "faulty_label must be one of the labels, -1 and 1, got <NA>"),
        ("x" * 9999, "y" * 9999, None, "^.{1,200}$"),
    ],
)
def test_labels_without_meaning_are_refused(wafers: Any, good: Any, faulty: Any, named: Any, message: str) -> None:
    """Labels whose spelling does not say which one means faulty need it named; a name that fits none is refused."""
    with pytest.raises(UnfitLabelsError, match=message):
        WaferModel(faulty_label=named).fit(wafers.X, np.where(wafers.y == 1, faulty, good))


@pytest.mark.parametrize(("good", "faulty"), [(-1, 1), (False, True), (0.0, 1), (0, True), (-1.0, np.int8(1))])
def test_numbers_in_an_array_of_objects_are_numbers(good: Any, faulty: Any) -> None:
    """Labels that a frame of mixed columns hands out as objects are learned as the numbers that they are."""
    labels = plain_labels(pd.Series([good, faulty, good], dtype=object))
    assert labels.dtype.kind in "bif"
    assert read_classes(labels, None)[1] == faulty == labels[1]
    assert labels.tolist() == [good, faulty, good]


@pytest.mark.parametrize(
    ("third", "message"),
    [
        (None, r"^each wafer needs a label, 1 of 240 are missing, the first in row 2 \(counted from 0\)$"),
        (pd.NA, "each wafer needs a label, 1 of 240 are missing, the first in row 2"),
        (float("nan"), "each wafer needs a label, 1 of 240 are missing, the first in row 2"),
        (1, "^labels must be of one kind, got numbers and others, as 'good' and 1$"),
    ],
)
def test_missing_and_mixed_labels_are_told(wafers: Any, third: Any, message: str) -> None:
    """Text labels of which one is missing or a number are refused in words, though the faulty one is named."""
    labels = np.where(wafers.y == 1, "bad", "good").astype(object)
    labels[2] = third
    with pytest.raises(UnfitLabelsError, match=message):
        WaferModel(faulty_label="bad").fit(wafers.X, labels)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("imputation", ["median", "knn"])
def test_absurd_readings_overflow_in_silence(wafers: Any, imputation: str) -> None:
    """The largest doubles, in training and in scoring, end at the clip: finite probabilities, and no warning."""
    X = wafers.X.copy()
    X.iloc[::2, 0], X.iloc[1::2, 0], X.iloc[7, :] = 1.7e308, -1.7e308, 1.7e308
    model = WaferModel(**QUICK, imputation=imputation, n_jobs=2).fit(X, wafers.y, wafers.order)
    assert np.isfinite(model.predict_proba(X)).all()


def test_reasons_are_learned_from_the_labels_of_the_fit(fitted: WaferModel, wafers: Any) -> None:
    """Other labels than those that the model was fitted on would all count as good, and are refused."""
    with pytest.raises(UnfitLabelsError, match="labels must be those that were learned, -1 and 1, got others"):
        faulty_of(np.where(wafers.y == 1, "1", "-1"), fitted.classes_, fitted.faulty_label_)


@pytest.fixture(scope="module")
def fitted(wafers: Any, quick: dict[str, int]) -> WaferModel:
    return WaferModel(**quick).fit(wafers.X, wafers.y, wafers.order)


def test_learned_names(fitted: WaferModel, wafers: Any) -> None:
    """Clusters, elbow and panel are told in frames, labels are -1 and 1."""
    assert fitted.classes_.tolist() == [-1, 1]
    assert fitted.clusters_["wafers"].sum() == 240
    assert fitted.clusters_["faulty"].sum() == 30
    assert set(fitted.clusters_["model"]) <= {"pooled", "random_forest", "xgboost"}
    assert fitted.elbow_["k"].tolist() == [1, 2, 3, 4]
    assert fitted.elbow_["chosen"].sum() == 1
    assert 0 < fitted.threshold_ < 1
    labels = fitted.predict(wafers.X, wafers.order)
    alarm = fitted.predict_proba(wafers.X, wafers.order)[:, 1] >= fitted.threshold_
    assert_array_equal(labels, np.where(alarm, 1, -1))
    assert set(fitted.assign_clusters(wafers.X, wafers.order)) == set(fitted.clusters_["cluster"])


@pytest.mark.parametrize("imputation", ["median", "knn"])
def test_score_depends_on_readings_and_order_alone(wafers: Any, quick: dict[str, int], imputation: str) -> None:
    """Alone, in its batch, in a shuffled batch, as numpy or as a frame: a wafer scores the same, bit by bit."""
    model = WaferModel(imputation=imputation, **quick).fit(wafers.X, wafers.y, wafers.order)
    whole = model.predict_proba(wafers.X, wafers.order)
    rows = np.random.default_rng(0).permutation(240)
    assert_array_equal(model.predict_proba(wafers.X.iloc[rows], wafers.order[rows]), whole[rows])
    alone = [model.predict_proba(wafers.X.iloc[[row]], wafers.order[[row]])[0] for row in range(0, 240, 7)]
    assert_array_equal(alone, whole[::7])
    numbers = WaferModel(imputation=imputation, **quick).fit(wafers.X.to_numpy(), wafers.y, wafers.order)
    assert_array_equal(numbers.predict_proba(wafers.X.to_numpy(), wafers.order), whole)
    newest = model.predict_proba(wafers.X)
    assert_array_equal(newest, model.predict_proba(wafers.X, np.full(240, 10**9)))


def test_a_fitted_model_can_be_pickled(fitted: WaferModel, wafers: Any) -> None:
    """As joblib sends it to other processes."""
    expected = fitted.predict_proba(wafers.X, wafers.order)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(wafers.X, wafers.order), expected)


def test_another_policy_needs_no_training(fitted: WaferModel, wafers: Any, quick: dict[str, int]) -> None:
    """The threshold from the held-out scores is the one that a training with that policy would give."""
    policy = Policy(cost_missed_fault=3.0, alarm_rate_ceiling=0.4)
    other, trained = fitted.with_policy(policy), WaferModel(policy=policy, **quick)
    trained.fit(wafers.X, wafers.y, wafers.order)
    assert other.threshold_ == trained.threshold_ != fitted.threshold_
    assert (other.policy_, fitted.policy_) == (policy, Policy())
    assert_array_equal(other.predict(wafers.X, wafers.order), trained.predict(wafers.X, wafers.order))


def test_held_out_scores_are_of_the_whole_model(fitted: WaferModel, wafers: Any, quick: dict[str, int]) -> None:
    """The newest two windows out of fold, and the newest half window foreseen by a smaller model of those before."""
    found = fitted.held_out_
    assert found["protocol"].value_counts().to_dict() == {"out_of_fold": 120, "backtest": 60}
    last, half = slice(-30, None), slice(None, -30)
    settings = {**quick, "trees": 3, "search_budget": 1, "seed": derived_seed(0, "backtest")}
    smaller = WaferModel(**settings).fit(wafers.X.iloc[half], wafers.y[half], wafers.order[half])
    expected = smaller.predict_proba(wafers.X.iloc[last], wafers.order[last])[:, 1]
    assert_array_equal(found["probability"].to_numpy()[last], expected)
    assert_array_equal(found["faulty"].to_numpy()[last], wafers.y[last] == 1)


def test_sensors_are_matched_by_name(fitted: WaferModel, wafers: Any) -> None:
    """Sensors in another sequence, with other columns between them, give the same probabilities."""
    expected = fitted.predict_proba(wafers.X, wafers.order)
    other = wafers.X[wafers.X.columns[::-1]].assign(note=1.0)
    assert_array_equal(fitted.predict_proba(other, wafers.order), expected)


def test_missing_sensors_are_named(fitted: WaferModel, wafers: Any) -> None:
    """A frame that lacks sensors is refused with their names."""
    with pytest.raises(ModelError, match=r"needs 24 sensors, the wafers lack 2: Sensor-2, Sensor-9$"):
        fitted.predict_proba(wafers.X.drop(columns=["Sensor-2", "Sensor-9"]))
    with pytest.raises(ModelError, match=r"lack 7: Sensor-1, Sensor-2, Sensor-3, Sensor-4, Sensor-5 and 2 more$"):
        fitted.predict_proba(wafers.X.iloc[:, 7:])


def test_one_class_is_refused(wafers: Any) -> None:
    """Good wafers alone teach nothing about faults."""
    with pytest.raises(ModelError, match=r"got one class alone: -1"):
        WaferModel().fit(wafers.X, np.full(240, -1))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"reference_window": 5}, "reference_window must be a whole number of at least 20, got 5"),
        ({"trees": 0}, "trees must be a whole number of at least 1, got 0"),
        ({"imputation": "mean"}, "imputation must be one of median, knn, got 'mean'"),
        ({"max_missing": 1.5}, "max_missing must lie between 0 and 1, got 1.5"),
        ({"policy": 0.5}, "policy must be a wafer.learning.decision.Policy or None, got 0.5"),
    ],
)
def test_impossible_parameters_are_refused(parameters: dict[str, Any], message: str, wafers: Any) -> None:
    """Each impossible parameter is named with what it must be."""
    with pytest.raises(ParameterError, match=message):
        WaferModel(**parameters).fit(wafers.X, wafers.y)


@pytest.mark.parametrize("order", [[1, 2, 3], np.linspace(0, 1, 240)])
def test_an_order_that_does_not_fit_is_refused(order: Any, wafers: Any, quick: dict[str, int]) -> None:
    """Production order is one whole number per wafer."""
    with pytest.raises(ModelError, match="order must be 240 whole numbers"):
        WaferModel(**quick).fit(wafers.X, wafers.y, order)


def test_two_wafers_are_enough(quick: dict[str, int]) -> None:
    """One good and one faulty wafer make a model, which claims little."""
    model = WaferModel(**quick).fit(np.array([[0.0, 1.0], [2.0, np.nan]]), [-1, 1], [1, 2])
    probability = model.predict_proba(np.array([[0.0, 1.0], [np.nan, np.nan]]))[:, 1]
    assert ((probability > 0.1) & (probability < 0.9)).all()
