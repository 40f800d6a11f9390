"""`WaferModel`: from readings to cluster, probability and alarm, one fitted object that is saved and loaded whole."""

import json
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from wafer.errors import ModelError, ParameterError
from wafer.learning import parts
from wafer.learning.clusters import ElbowClusters
from wafer.learning.decision import Policy, fit_sigmoid
from wafer.learning.features import WaferFeatures
from wafer.learning.members import derived_seed
from wafer.learning.search import Recipe, Trained, candidates, fixed_settings, inner_folds, search_best, train

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
POOLED = "pooled"


class WaferModel(ClassifierMixin, BaseEstimator):
    """Finds faulty wafers: clusters of similar wafers, a model per cluster, blended with a model of all wafers.

    Readings become features on two scales, one relative to recent wafers (`wafer.learning.features`). A pooled panel of
    models learns from all wafers. Each cluster with enough faults gets the better of a tuned random forest and a tuned
    XGBoost, and its log-odds count by the weight faults / (faults + cluster_prior) against the pooled panel's. One
    sigmoid, fitted out of fold, makes the blend a probability; the threshold follows from costs and alarm ceiling.

    Parameters:
        reference_window: training wafers in a reference window, at least 20.
        max_missing: largest share of missing readings with which a sensor is used, 0 to 1.
        imputation: "median" or "knn".
        neighbors: wafers averaged by "knn", at least 1.
        max_clusters: largest number of clusters tried for the elbow, at least 1 (no clusters).
        min_cluster_faults: with fewer faults (or good wafers) the pooled panel alone serves a cluster, at least 2.
        cluster_prior: faults at which a cluster's own model weighs as much as the panel, at least 0.
        search: "budget".
        search_budget: settings tried per candidate and cluster, at least 1.
        search_folds: folds that judge a cluster's candidates, at least 2.
        trees: trees of each of the panel's forests, at least 1.
        calibration_folds: folds for probability and threshold, at least 2.
        cost_missed_fault, cost_false_alarm: above 0, any one unit.
        alarm_rate_ceiling: largest share of alarms, between 0 and 1.
        seed: of everything random; the same data and parameters give the same model.
        n_jobs: threads; the result does not depend on it.

    Learned:
        classes_: the two labels; the larger one means faulty (-1 and +1 in this project).
        threshold_: probability from which a wafer raises an alarm.
        elbow_: frame k, inertia, silhouette, chosen.
        clusters_: frame cluster, wafers, faulty, model, settings, auc, weight; one row per cluster.
        panel_: frame model, auc; the pooled panel's members and their out-of-fold ROC AUC.
        feature_names_in_, n_features_in_: as everywhere in scikit-learn.

    Example:
        >>> model = WaferModel(trees=100).fit(X, y, order=order)  # doctest: +SKIP
        >>> model.predict_proba(X_new)[:, 1] >= model.threshold_  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        reference_window: int = 200,
        max_missing: float = 0.6,
        imputation: str = "median",
        neighbors: int = 5,
        max_clusters: int = 8,
        min_cluster_faults: int = 10,
        cluster_prior: int = 60,
        search: str = "budget",
        search_budget: int = 2,
        search_folds: int = 3,
        trees: int = 400,
        calibration_folds: int = 4,
        cost_missed_fault: float = 20.0,
        cost_false_alarm: float = 1.0,
        alarm_rate_ceiling: float = 0.10,
        seed: int = 0,
        n_jobs: int = 1,
    ) -> None:
        self.reference_window = reference_window
        self.max_missing = max_missing
        self.imputation = imputation
        self.neighbors = neighbors
        self.max_clusters = max_clusters
        self.min_cluster_faults = min_cluster_faults
        self.cluster_prior = cluster_prior
        self.search = search
        self.search_budget = search_budget
        self.search_folds = search_folds
        self.trees = trees
        self.calibration_folds = calibration_folds
        self.cost_missed_fault = cost_missed_fault
        self.cost_false_alarm = cost_false_alarm
        self.alarm_rate_ceiling = alarm_rate_ceiling
        self.seed = seed
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: ArrayLike, order: ArrayLike | None = None) -> Self:
        """Learn from labelled wafers.

        Parameters:
            X: readings, shape (wafers, sensors), NaN for missing; a frame's columns are remembered by name.
            y: labels, shape (wafers,); two of them, the larger one means faulty.
            order: production order, shape (wafers,), whole numbers; None: all wafers count as equally recent.

        Raises:
            ParameterError: an impossible parameter.
            ModelError: wafers of one class alone, or an order that does not fit the wafers.
            ValueError: readings that are not numbers, or infinite.
        """
        check_parameters(self)
        readings, labels = validate_data(
            self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2
        )
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) > 2:
            kind = type_of_target(labels)
            raise _UnfitLabelsError(f"Only binary classification is supported. The type of the target is {kind}.")
        if len(self.classes_) < 2:
            only = self.classes_.tolist()
            raise _UnfitLabelsError(f"labels must be of two classes, good and faulty, got one class alone: {only}")
        with threadpool_limits(1):  # sums over several threads would not give the same bits
            self._learn(readings, labels == self.classes_[1], _checked_order(order, len(readings)))
        return self

    def predict_proba(self, X: ArrayLike, order: ArrayLike | None = None) -> Floats:
        """Probability of good and of faulty, shape (wafers, 2); each wafer by its readings and order alone.

        Parameters:
            X: readings, shape (wafers, sensors); a frame's columns are taken by name, in any sequence.
            order: production order; None: now, compared with the newest reference window.

        Raises:
            ModelError: a sensor that the model knows is not among a frame's columns.
        """
        F, cluster = self._features_and_clusters(X, order)
        pooled = _mean_logit([trained.logit(F) for trained in self._panel])
        probability = self._sigmoid.probability(self._blend(F, pooled, cluster))
        return np.column_stack([1.0 - probability, probability])

    def predict(self, X: ArrayLike, order: ArrayLike | None = None) -> NDArray[Any]:
        """The label of each wafer, shape (wafers,): faulty where the probability reaches `threshold_`."""
        alarm = self.predict_proba(X, order)[:, 1] >= self.threshold_
        return np.asarray(self.classes_[alarm.astype(int)])

    def assign_clusters(self, X: ArrayLike, order: ArrayLike | None = None) -> Integers:
        """The cluster of each wafer, shape (wafers,), numbered from 0 as in `clusters_`."""
        return self._features_and_clusters(X, order)[1]

    def save(self, folder: Path) -> dict[str, str]:
        """Write the model's parts and their manifest into `folder`; returns each part's SHA-256.

        Nothing in the parts is executed by `load`, and the same model gives the same bytes.
        """
        check_is_fitted(self)
        return parts.write_parts(Path(folder), parts.to_parts(self))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model that was saved in `folder`.

        Raises:
            ModelError: no model there, or one of another format.
            TamperedError: a part is not what was saved.
        """
        return cast(Self, parts.from_parts(cls, parts.read_parts(Path(folder))))

    def _learn(self, readings: Floats, faulty: NDArray[np.bool_], order: Integers | None) -> None:
        self._features = self._make_features().fit(readings, order=order)
        F = self._features.transform(readings, order=order)
        self._clusters = self._make_clusters().fit(F[:, self._features.relative])
        self.elbow_ = self._clusters.elbow_
        cluster = self._clusters.predict(F[:, self._features.relative])
        folds = inner_folds(faulty, self.calibration_folds, derived_seed(self.seed, "folds"))
        self._panel = train(self._panel_recipes(), F, faulty, folds, seed=self.seed, n_jobs=self.n_jobs)
        self.panel_ = pd.DataFrame({"model": [t.recipe.kind for t in self._panel], "auc": [t.auc for t in self._panel]})
        self._experts, outside = self._learn_clusters(F, faulty, cluster)
        logit = _mean_logit([trained.outside for trained in self._panel])
        for number, own in outside.items():
            logit[cluster == number] = self._mixed(number, logit[cluster == number], own)
        self._sigmoid = fit_sigmoid(logit, faulty)
        policy = Policy(self.cost_missed_fault, self.cost_false_alarm, self.alarm_rate_ceiling)
        self.threshold_ = policy.threshold(self._sigmoid.probability(logit))

    def _make_features(self) -> WaferFeatures:
        return WaferFeatures(
            max_missing=self.max_missing,
            imputation=self.imputation,
            neighbors=self.neighbors,
            reference_window=self.reference_window,
        )

    def _make_clusters(self) -> ElbowClusters:
        return ElbowClusters(max_clusters=self.max_clusters, seed=self.seed)

    def _panel_recipes(self) -> list[Recipe]:
        forest = fixed_settings("extra_trees", self.trees) | {"min_samples_leaf": 3}
        linear = {"C": 0.1, "class_weight": "balanced", "max_iter": 500}
        absolute, relative = self._features.absolute, self._features.relative
        return [
            Recipe("extra_trees", forest | {"columns": [absolute.start, absolute.stop]}),
            Recipe("extra_trees", forest),
            Recipe("logistic", linear | {"columns": [relative.start, relative.stop]}),
        ]

    def _learn_clusters(
        self, F: Floats, faulty: NDArray[np.bool_], cluster: Integers
    ) -> tuple[dict[int, Trained], dict[int, Floats]]:
        """The clusters' own models and their out-of-fold log-odds; writes `clusters_`."""
        experts: dict[int, Trained] = {}
        rows = []
        for number in range(len(self._clusters.centres_)):
            inside = cluster == number
            faults, goods = int(faulty[inside].sum()), int((~faulty[inside]).sum())
            row = {"cluster": number, "wafers": faults + goods, "faulty": faults, "model": POOLED}
            row |= {"settings": "", "auc": np.nan, "weight": 0.0}
            if min(faults, goods) >= self.min_cluster_faults and len(self._clusters.centres_) > 1:
                seed = derived_seed(self.seed, "cluster", number)
                kinds = ("random_forest", "xgboost")
                recipes = candidates(kinds, self.search_budget, seed, min(self.trees, 60))
                folds = inner_folds(faulty[inside], self.search_folds, seed)
                best, _ = search_best(recipes, F[inside], faulty[inside], folds, seed=seed, n_jobs=self.n_jobs)
                experts[number] = best
                row |= {"model": best.recipe.kind, "settings": json.dumps(dict(best.recipe.settings), sort_keys=True)}
                row |= {"auc": best.auc, "weight": faults / (faults + self.cluster_prior)}
            rows.append(row)
        self.clusters_ = pd.DataFrame(rows)
        return experts, {number: expert.outside for number, expert in experts.items()}

    def _mixed(self, number: int, pooled: Floats, own: Floats) -> Floats:
        weight = float(self.clusters_["weight"].iloc[number])
        return np.asarray((1.0 - weight) * pooled + weight * own)

    def _blend(self, F: Floats, pooled: Floats, cluster: Integers) -> Floats:
        logit = pooled.copy()
        for number, expert in self._experts.items():
            rows = cluster == number
            if rows.any():
                logit[rows] = self._mixed(number, pooled[rows], expert.logit(F[rows]))
        return logit

    def _features_and_clusters(self, X: ArrayLike, order: ArrayLike | None) -> tuple[Floats, Integers]:
        check_is_fitted(self)
        readings = validate_data(self, self._by_name(X), reset=False, dtype=np.float64, ensure_all_finite="allow-nan")
        F = self._features.transform(readings, order=_checked_order(order, len(readings)))
        return F, self._clusters.predict(F[:, self._features.relative])

    def _by_name(self, X: ArrayLike) -> ArrayLike:
        known = getattr(self, "feature_names_in_", None)
        if known is None or not isinstance(X, pd.DataFrame):
            return X
        missing = [name for name in known if name not in X.columns]
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise _UnknownSensorsError(f"the model needs {len(known)} sensors, the wafers lack {len(missing)}: {shown}")
        return X[list(known)]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_sigmoid")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = False
        return tags


class _UnfitLabelsError(ModelError, ValueError):
    """Labels that nothing can be learned from (also the ValueError that scikit-learn's callers expect)."""


class _UnknownSensorsError(ModelError, ValueError):
    """A frame without some of the model's sensors (also the ValueError that scikit-learn's callers expect)."""


def check_parameters(model: WaferModel) -> None:
    """Refuse impossible parameters.

    Raises:
        ParameterError: names the parameter, what it must be and what came.
    """
    least = {"reference_window": 20, "neighbors": 1, "max_clusters": 1, "min_cluster_faults": 2, "cluster_prior": 0}
    least |= {"search_budget": 1, "search_folds": 2, "trees": 1, "calibration_folds": 2, "seed": 0}
    for name, smallest in least.items():
        value = getattr(model, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
            raise ParameterError(f"{name} must be a whole number of at least {smallest}, got {value!r}")
    choices = {"imputation": ("median", "knn"), "search": ("budget",)}
    for name, allowed in choices.items():
        if getattr(model, name) not in allowed:
            raise ParameterError(f"{name} must be one of {', '.join(allowed)}, got {getattr(model, name)!r}")
    if not 0 <= model.max_missing <= 1:
        raise ParameterError(f"max_missing must lie between 0 and 1, got {model.max_missing!r}")
    Policy(model.cost_missed_fault, model.cost_false_alarm, model.alarm_rate_ceiling)


def _checked_order(order: ArrayLike | None, wafers: int) -> Integers | None:
    if order is None:
        return None
    numbers = np.asarray(order)
    if numbers.shape != (wafers,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ModelError(f"order must be {wafers} whole numbers, got {numbers.dtype} of shape {numbers.shape}")
    return numbers.astype(np.int64)


def _mean_logit(logits: list[Floats]) -> Floats:
    total = logits[0].copy()
    for logit in logits[1:]:
        total += logit
    return total / len(logits)
