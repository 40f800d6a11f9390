"""The reference systems' method, for comparison: an estimator of its own.

Impute by three nearest neighbours, drop constant sensors, cut the wafers into KMeans clusters of the raw readings (k by
the elbow), and in each cluster grid-search a random forest and an XGBoost classifier on accuracy; the one with the
higher ROC AUC on a fifth of the cluster's wafers serves it. Everything is fitted on the training wafers alone.
"""

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from xgboost import XGBClassifier

from wafer.learning.checks import plain_labels, read_classes
from wafer.learning.clusters import in_stable_order, knee
from wafer.learning.features import NeighborImputer
from wafer.lifeline import tie_children

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FOREST = {
    "n_estimators": [10, 50, 100, 130],
    "criterion": ["gini", "entropy"],
    "max_features": ["sqrt", "log2"],
    "max_depth": [2, 3, 4],
}
BOOSTER = {
    "learning_rate": [0.5, 0.1, 0.01, 0.001],
    "max_depth": [3, 5, 10, 20],
    "n_estimators": [10, 50, 100, 200],
}
NEIGHBORS = 3
CLUSTERS = 10
KMEANS_SEED = 42
SPLIT_SEED = 355


class ReferenceModel(ClassifierMixin, BaseEstimator):
    """A model for each cluster; an alarm from a probability of one half.

    Parameters:
        n_jobs: grid points tried at a time; the result does not depend on it.

    Learned: `classes_` (the larger label means faulty), `kept_` (sensors that vary), `centres_` (of the clusters),
    `models_` (a fitted classifier of 0 and 1 for each cluster).
    """

    def __init__(self, *, n_jobs: int = 1) -> None:
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from readings, shape (wafers, sensors), NaN for missing, and labels, -1 or 0 and 1.

        Raises:
            ModelError: labels of one class alone, or others.
        """
        readings, labels = validate_data(self, X, plain_labels(y), dtype=np.float64, ensure_all_finite="allow-nan")
        self.classes_, _ = read_classes(labels, None)
        self.imputer_ = NeighborImputer(neighbors=NEIGHBORS, scaled=False).fit(readings)
        filled = self.imputer_.transform(readings)
        varied = np.flatnonzero(filled.std(axis=0) > 0)
        self.kept_ = varied if len(varied) else np.arange(filled.shape[1])
        F = np.ascontiguousarray(filled[:, self.kept_])
        self.centres_ = _centres(F)
        cluster, faulty = self._nearest(F), (labels == self.classes_[1]).astype(np.int64)
        self.models_ = [
            _best_model(F[cluster == number], faulty[cluster == number], self.n_jobs)
            for number in range(len(self.centres_))
        ]
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Probability of good and of faulty, shape (wafers, 2)."""
        F, cluster = self._prepared(X)
        probability = np.empty(len(F))
        for number, model in enumerate(self.models_):
            rows = cluster == number
            if rows.any():
                probability[rows] = _probability_of_fault(model, F[rows])
        return np.column_stack([1.0 - probability, probability])

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The label of each wafer, shape (wafers,)."""
        return np.asarray(self.classes_[(self.predict_proba(X)[:, 1] >= 0.5).astype(int)])

    def assign_clusters(self, X: ArrayLike) -> Integers:
        """The cluster of each wafer, shape (wafers,), numbered from 0, the largest first."""
        return self._prepared(X)[1]

    def _prepared(self, X: ArrayLike) -> tuple[Floats, Integers]:
        check_is_fitted(self)
        readings = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan")
        F = np.ascontiguousarray(self.imputer_.transform(readings)[:, self.kept_])
        return F, self._nearest(F)

    def _nearest(self, F: Floats) -> Integers:
        apart = np.stack([((F - centre) ** 2).sum(axis=1) for centre in self.centres_], axis=1)
        return np.asarray(np.argmin(apart, axis=1), dtype=np.int64)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = False
        return tags


def _centres(F: Floats) -> Floats:
    numbers = range(1, min(CLUSTERS, len(np.unique(F, axis=0))) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = {k: KMeans(k, random_state=KMEANS_SEED, n_init=10).fit(F) for k in numbers}
    return in_stable_order(fits[knee(list(numbers), [float(fit.inertia_) for fit in fits.values()])])


def _best_model(F: Floats, labels: Integers, n_jobs: int) -> Any:
    if np.bincount(labels, minlength=2).min() < 2:
        return DummyClassifier(strategy="prior").fit(F, labels)
    train, test, train_labels, test_labels = train_test_split(F, labels, test_size=0.2, random_state=SPLIT_SEED)
    found = []
    tie_children()  # the search's processes
    for estimator, grid in (
        (RandomForestClassifier(random_state=0), FOREST),
        (XGBClassifier(n_jobs=1), BOOSTER),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search = GridSearchCV(estimator, grid, cv=4, n_jobs=n_jobs).fit(train, train_labels)
        if len(np.unique(test_labels)) == 1:
            score = accuracy_score(test_labels, search.predict(test))
        else:
            score = roc_auc_score(test_labels, search.predict_proba(test)[:, 1])
        found.append((float(score), search.best_estimator_))
    return max(found, key=lambda entry: entry[0])[1]


def _probability_of_fault(model: Any, F: Floats) -> Floats:
    known = [int(label) for label in model.classes_]
    return np.asarray(model.predict_proba(F)[:, known.index(1)], dtype=np.float64) if 1 in known else np.zeros(len(F))
