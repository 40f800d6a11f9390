"""The reference systems' method, for comparison: `WaferModel(search="reference")`.

Impute by three nearest neighbours, drop constant sensors, cut the wafers into KMeans clusters of the raw readings (k by
the elbow), and in each cluster grid-search a random forest and an XGBoost classifier on accuracy; the one with the
higher ROC AUC on a fifth of the cluster's wafers serves it. Everything is fitted on the training wafers alone.
"""

import json
import warnings
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from xgboost import XGBClassifier

from wafer.learning.clusters import ElbowClusters, in_stable_order, knee, silhouette
from wafer.learning.decision import LogOdds, Sigmoid
from wafer.learning.experts import POOLED, Experts
from wafer.learning.features import (
    Integers,
    MedianImputer,
    MissingPatterns,
    NeighborImputer,
    ReferenceScaler,
    SensorSelector,
    WaferFeatures,
)
from wafer.learning.members import Boosted, Forest, Logistic
from wafer.learning.search import Recipe, Trained
from wafer.lifeline import tie_children

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

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


class ReferenceFeatures(WaferFeatures):
    """Raw readings, imputed by nearest neighbours; only sensors that vary then."""

    def fit(self, X: Floats, y: None = None, *, order: Integers | None = None) -> Self:
        """Learn from `X`, shape (wafers, sensors), NaN for missing."""
        self.selector_, self.patterns_, self.imputer_, self.scaler_ = self.steps()
        filled = self.imputer_.fit(X).transform(X)
        varied = np.flatnonzero(filled.std(axis=0) > 0)
        self.selector_.kept_ = varied if len(varied) else np.arange(X.shape[1])
        return self

    def transform(self, X: Floats, *, order: Integers | None = None) -> Floats:
        """Imputed readings of the kept sensors, C order."""
        return self.selector_.transform(self.imputer_.transform(X))

    def steps(self) -> tuple[SensorSelector, MissingPatterns, MedianImputer | NeighborImputer, ReferenceScaler]:
        """As of `WaferFeatures`; flags and windows stay unused."""
        return (
            SensorSelector(),
            MissingPatterns(),
            NeighborImputer(neighbors=NEIGHBORS, scaled=False),
            ReferenceScaler(),
        )

    @property
    def sensors(self) -> Integers:
        """The sensor behind each feature."""
        return self.selector_.kept_

    @property
    def absolute(self) -> slice:
        """All columns."""
        return slice(0, len(self.selector_.kept_))

    @property
    def relative(self) -> slice:
        """All columns."""
        return self.absolute


class ReferenceClusters(ElbowClusters):
    """KMeans on the features as they are."""

    def fit(self, X: Floats, y: None = None) -> Self:
        """Find the clusters of `X`, shape (wafers, features)."""
        numbers = range(1, min(CLUSTERS, len(np.unique(X, axis=0))) + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fits = {k: KMeans(k, random_state=KMEANS_SEED, n_init=10).fit(X) for k in numbers}
        inertia = [float(fit.inertia_) for fit in fits.values()]
        chosen = knee(list(numbers), inertia)
        self.elbow_ = pd.DataFrame(
            {
                "k": list(numbers),
                "inertia": inertia,
                "silhouette": [silhouette(X, fit.labels_, self.seed) for fit in fits.values()],
                "chosen": [k == chosen for k in numbers],
            }
        )
        self.centres_ = in_stable_order(fits[chosen])
        return self

    def _project(self, X: Floats) -> Floats:
        return np.ascontiguousarray(X)


def fit_reference_experts(
    F: Floats, faulty: Bools, cluster: Integers, clusters: int, *, n_jobs: int
) -> tuple[Experts, pd.DataFrame]:
    """A model for each cluster by the reference method; its probability is taken as it is.

    Returns: experts of weight 1, and a table as of `wafer.learning.experts.fit_experts`.
    """
    models: dict[int, Trained] = {}
    rows = []
    for number in range(clusters):
        inside = cluster == number
        one = _reference_model(F[inside], faulty[inside].astype(np.int64), n_jobs)
        models[number] = one
        settings = json.dumps(dict(one.recipe.settings), sort_keys=True)
        row = {"cluster": number, "wafers": int(inside.sum()), "faulty": int(faulty[inside].sum())}
        kind = POOLED if one.recipe.kind == "logistic" else one.recipe.kind
        rows.append(row | {"model": kind, "settings": settings, "auc": one.auc, "weight": 1.0})
    return Experts(models, dict.fromkeys(models, 1.0)), pd.DataFrame(rows)


def _reference_model(F: Floats, labels: Integers, n_jobs: int) -> Trained:
    if np.bincount(labels, minlength=2).min() < 2:
        return _constant(float(labels.mean()), F.shape[1])
    train, test, train_labels, test_labels = train_test_split(F, labels, test_size=0.2, random_state=SPLIT_SEED)
    best: tuple[float, str, Any] | None = None
    tie_children()  # the search's processes
    for kind, estimator, grid in (
        ("random_forest", RandomForestClassifier(random_state=0), FOREST),
        ("xgboost", XGBClassifier(n_jobs=1), BOOSTER),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search = GridSearchCV(estimator, grid, cv=4, n_jobs=n_jobs).fit(train, train_labels)
        if len(np.unique(test_labels)) == 1:
            score = accuracy_score(test_labels, search.predict(test))
        else:
            score = roc_auc_score(test_labels, search.predict_proba(test)[:, 1])
        if best is None or score > best[0]:
            best = float(score), kind, search
    assert best is not None
    return _frozen(*best)


def _frozen(auc: float, kind: str, search: Any) -> Trained:
    recipe = Recipe(kind, search.best_params_)
    if kind == "random_forest":
        return Trained(recipe, Forest.frozen(kind, search.best_estimator_), LogOdds(), np.empty(0), auc)
    member = Boosted(bytes(search.best_estimator_.get_booster().save_raw("json")))
    return Trained(recipe, member, Sigmoid(1.0, 0.0), np.empty(0), auc)


def _constant(share: float, features: int) -> Trained:
    nothing = np.zeros(features)
    member = Logistic(nothing, nothing, float(LogOdds().logit(np.array([share]))[0]), 1.0)
    return Trained(Recipe("logistic", {"share": share}), member, Sigmoid(1.0, 0.0), np.empty(0), 0.5)
