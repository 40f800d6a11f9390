"""`WaferModel`: from readings to cluster, probability and alarm, one scikit-learn classifier."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import Tags, assert_all_finite, check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from wafer.errors import ModelError
from wafer.learning.backtest import held_out
from wafer.learning.checks import check_parameters, checked_order, chosen_sensors, plain_labels, read_classes
from wafer.learning.clusters import ElbowClusters, profile
from wafer.learning.decision import Policy, fit_sigmoid
from wafer.learning.experts import ExpertRules, fit_experts
from wafer.learning.features import WaferFeatures, by_sensor
from wafer.learning.jobs import derived_seed, overflowing, run
from wafer.learning.panel import fit_panel, panel_recipes
from wafer.learning.search import inner_folds
from wafer.learning.thresholds import PolicyThresholds
from wafer.shown import facts_html

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Result = TypeVar("Result")
BLOCK = 1024  # wafers that one thread works on at a time
EXPERT_TREES = 40  # of a cluster's forest, at most: clusters are small
SMALLER = 6  # a backtest's forests have so many times fewer trees


@dataclass(frozen=True)
class Prepared:
    """Wafers as a fitted model sees them.

    Attributes:
        readings: as they came, shape (wafers, sensors), NaN for missing.
        F: features, shape (wafers, features).
        relative: readings of the kept sensors relative to the reference window, 0 for missing, shape (wafers, kept).
        missing: which of those are missing.
        cluster: of each wafer, shape (wafers,).
    """

    readings: Floats
    F: Floats
    relative: Floats
    missing: NDArray[np.bool_]
    cluster: Integers

    def rows(self, chosen: NDArray[np.bool_]) -> "Prepared":
        """Some of the wafers."""
        return Prepared(*(getattr(self, field.name)[chosen] for field in fields(self)))


def joined(parts: Sequence[Prepared]) -> Prepared:
    """The wafers of all parts, one part after the other."""
    return Prepared(*(np.concatenate([getattr(one, field.name) for one in parts]) for field in fields(Prepared)))


class WaferModel(PolicyThresholds, ClassifierMixin, BaseEstimator):
    """Finds faulty wafers: clusters of similar wafers, a model per cluster, blended with a model of all wafers.

    Readings become features on two scales, one relative to recent wafers (`wafer.learning.features`). A pooled panel of
    models learns from all wafers. Each cluster with enough faults gets the better of a tuned random forest and a tuned
    XGBoost, and its log-odds count by `wafer.learning.experts.evidence_weight` against the pooled panel's. One
    sigmoid, fitted out of fold, makes the blend a probability; the threshold follows from costs and alarm ceiling.

    Parameters:
        reference_window: training wafers in a reference window, at least 20.
        max_missing: largest share of missing readings with which a sensor is used, 0 to 1.
        imputation: "median" or "knn".
        neighbors: wafers averaged by "knn", at least 1.
        max_clusters: largest number of clusters tried for the elbow, at least 1 (no clusters).
        min_cluster_faults: with fewer faults (or good wafers) the pooled panel alone serves a cluster, at least 2.
        cluster_prior: faults at which a faultless model of a cluster would weigh as much as the panel, at least 0.
        search_budget: settings tried per candidate and cluster, at least 1.
        search_folds: folds that judge a cluster's candidates, at least 2.
        panel: members of the panel: "all" (two forests and a linear model), "forests" or "linear".
        trees: trees of each of the panel's forests, at least 1.
        calibration_folds: folds for probability and threshold, at least 2.
        members: classifiers of scikit-learn's, not fitted, that join the panel; for a study, as it cannot be saved.
        candidates: the same, tried for each cluster beside forest and XGBoost.
        policy: what an alarm may cost; None: the defaults of `Policy`.
        faulty_label: the label that means faulty; needed where labels are other than -1 and +1, or 0 and 1.
        seed: of everything random; the same data and parameters give the same model.
        n_jobs: threads, of training and of scoring; the result does not depend on it.

    Learned:
        classes_: the two labels, sorted.
        faulty_label_: the one of them that means faulty: the one named, else 1.
        threshold_: probability from which a wafer raises an alarm, where nothing is known of the wafers before it.
        elbow_: frame k, inertia, silhouette, chosen.
        clusters_: frame cluster, wafers, faulty, model, settings, auc, weight; one row per cluster.
        profile_: frame cluster, sensor (position in X), shift; what sets each cluster apart, see `clusters.profile`.
        panel_: frame model, auc; the pooled panel's members and their out-of-fold ROC AUC.
        held_out_: frame protocol, faulty, probability; the scores that the threshold follows from, see
            `wafer.learning.backtest`.
        feature_names_in_, n_features_in_: as everywhere in scikit-learn.

    Example:
        >>> model = WaferModel(trees=100).fit(X, y, order=order)  # doctest: +SKIP
        >>> model.fault_probability(X_new) >= model.threshold_  # doctest: +SKIP
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
        search_budget: int = 2,
        search_folds: int = 3,
        panel: str = "all",
        trees: int = 600,
        calibration_folds: int = 4,
        members: Sequence[Any] = (),
        candidates: Sequence[Any] = (),
        policy: Policy | None = None,
        faulty_label: Any = None,
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
        self.search_budget = search_budget
        self.search_folds = search_folds
        self.panel = panel
        self.trees = trees
        self.calibration_folds = calibration_folds
        self.members = members
        self.candidates = candidates
        self.policy = policy
        self.faulty_label = faulty_label
        self.seed = seed
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: ArrayLike, order: ArrayLike | None = None) -> Self:
        """Learn from labelled wafers.

        Parameters:
            X: readings, shape (wafers, sensors), NaN for missing; a frame's columns are remembered by name.
            y: labels, shape (wafers,): -1 or 0 for good and 1 for faulty, or any two of which `faulty_label` names one.
            order: production order, shape (wafers,), whole numbers; None: all wafers count as equally recent.

        Raises:
            ParameterError: an impossible parameter.
            ModelError: labels of one class alone, labels of which it is not known which one means faulty, or an order
                that does not fit the wafers; labels that are missing or of several kinds.
            ValueError: readings that are not numbers, or infinite.
        """
        check_parameters(self)
        with overflowing():
            readings, labels = validate_data(
                self, X, plain_labels(y), dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2
            )
        self.classes_, self.faulty_label_ = read_classes(labels, self.faulty_label)
        faulty, places = labels == self.faulty_label_, checked_order(order, len(readings))
        with threadpool_limits(1), overflowing():  # sums over several threads would not give the same bits
            probability = self._learn(readings, faulty, places)
            foresee = partial(self._foresee, readings, faulty, places)
            self.held_out_ = held_out(probability, faulty, places, foresee, window=self.reference_window)
        self.threshold_ = self.policy_.fixed_threshold(self.held_out_["probability"].to_numpy())
        return self

    def predict_proba(self, X: ArrayLike, order: ArrayLike | None = None) -> Floats:
        """Probability of each label of `classes_`, shape (wafers, 2); each wafer by its readings and order alone.

        Parameters:
            X: readings, shape (wafers, sensors); a frame's columns are taken by name, in any sequence.
            order: production order; None: now, compared with the newest reference window.

        Raises:
            ModelError: a sensor that the model knows is not among a frame's columns.
        """
        probability = self.fault_probability(X, order)
        columns = [1.0 - probability, probability]
        return np.column_stack(columns if self.classes_[1] == self.faulty_label_ else columns[::-1])

    def fault_probability(self, X: ArrayLike, order: ArrayLike | None = None) -> Floats:
        """Probability that each wafer is faulty, shape (wafers,): the column of `predict_proba` that alarms follow."""
        return np.concatenate(self.by_blocks(X, order, self.probability))

    def predict(self, X: ArrayLike, order: ArrayLike | None = None) -> NDArray[Any]:
        """The label of each wafer by itself, shape (wafers,): faulty where the probability reaches `threshold_`.

        That is the fixed threshold, whichever the policy asks for; `thresholds` gives those that alarms go by.
        """
        alarm = self.fault_probability(X, order) >= self.threshold_
        return np.asarray(self.classes_[(alarm == (self.classes_[1] == self.faulty_label_)).astype(int)])

    def assign_clusters(self, X: ArrayLike, order: ArrayLike | None = None) -> Integers:
        """The cluster of each wafer, shape (wafers,), numbered from 0 as in `clusters_`."""
        return self.prepare(X, order).cluster

    def prepare(self, X: ArrayLike, order: ArrayLike | None = None) -> "Prepared":
        """Wafers as the model sees them, computed once for all that is asked of them; see `predict_proba`."""
        return joined(self.by_blocks(X, order, lambda wafers: wafers))

    def by_blocks(self, X: ArrayLike, order: ArrayLike | None, work: Callable[["Prepared"], Result]) -> list[Result]:
        """What `work` gives for one block of the wafers after the other, `n_jobs` at a time; see `predict_proba`.

        What a block needs fits a processor's own memory, where going through it again costs little.
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        X = chosen_sensors(X, names)
        if names is not None and isinstance(X, pd.DataFrame) and (X.dtypes == np.float64).all():
            readings = check_array(X.to_numpy(), ensure_all_finite=False)  # its columns have been looked at
        else:
            readings = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite=False)
        places = checked_order(order, len(readings))

        def done(rows: slice) -> Result:
            block = np.ascontiguousarray(readings[rows])
            assert_all_finite(block, allow_nan=True, estimator_name=type(self).__name__, input_name="X")
            F = self._features.transform(block, order=None if places is None else places[rows])
            return work(self._prepared(block, F))

        return run([partial(done, slice(row, row + BLOCK)) for row in range(0, len(readings), BLOCK)], self.n_jobs)

    def probability(self, wafers: "Prepared") -> Floats:
        """Probability of a fault, shape (wafers,)."""
        logit = self._panel.logit(wafers.F)
        return self._sigmoid.probability(self._experts.logit(logit, wafers.F, wafers.cluster))

    def contributions(self, wafers: "Prepared") -> Floats:
        """Each sensor's contribution to the log-odds of a fault, shape (wafers, sensors); exact Shapley values."""
        own = self._panel.contributions(wafers.F, self.n_jobs)
        own = self._sigmoid.slope * self._experts.contributions(own, wafers.F, wafers.cluster, self.n_jobs)
        return by_sensor(own, self._features.sensors, self.n_features_in_)

    def with_policy(self, policy: Policy) -> Self:
        """The same fitted model with the threshold of another policy, without training again.

        Raises:
            ModelError: the model keeps no held-out scores, as those saved in format 1.
        """
        check_is_fitted(self)
        if self.held_out_.empty:
            raise ModelError("the model keeps no held-out scores to choose another threshold from: train it again")
        other = copy.copy(self)
        other.policy = policy
        other.threshold_ = policy.fixed_threshold(self.held_out_["probability"].to_numpy())
        return other

    @property
    def sensor_names_(self) -> list[str]:
        """The sensors in the sequence that the model knows; those of a bare array are Sensor-1, Sensor-2, …"""
        known = getattr(self, "feature_names_in_", None)
        return [f"Sensor-{n}" for n in range(1, self.n_features_in_ + 1)] if known is None else [str(n) for n in known]

    @property
    def newest_order_(self) -> int:
        """Production order of the last wafer that it learned from; 0 where that was not known."""
        return int(self._features.scaler_.orders_[-1])

    def make_features(self) -> WaferFeatures:
        """Features of this model's parameters, not fitted."""
        return WaferFeatures(
            max_missing=self.max_missing,
            imputation=self.imputation,
            neighbors=self.neighbors,
            reference_window=self.reference_window,
        )

    def _learn(self, readings: Floats, faulty: NDArray[np.bool_], order: Integers | None) -> Floats:
        """Features, clusters, panel, experts and sigmoid; the training wafers' probabilities, out of fold."""
        self.n_features_in_ = readings.shape[1]
        self._features = self.make_features().fit(readings, order=order)
        F = self._features.transform(readings, order=order)
        self._clusters = ElbowClusters(max_clusters=self.max_clusters, seed=self.seed)
        self._clusters.fit(F[:, self._features.relative])
        wafers = self._prepared(readings, F)
        self.elbow_ = self._clusters.elbow_
        self.profile_ = profile(wafers.relative, wafers.cluster, self._features.selector_.kept_)
        folds = inner_folds(faulty, self.calibration_folds, derived_seed(self.seed, "folds"))
        recipes = panel_recipes(self._features, self.trees, self.panel, self.members)
        self._panel = fit_panel(recipes, F, faulty, folds, seed=self.seed, n_jobs=self.n_jobs)
        members = self._panel.members
        self.panel_ = pd.DataFrame({"model": [one.recipe.kind for one in members], "auc": [one.auc for one in members]})
        rules, clusters = self._expert_rules(), len(self._clusters.centres_)
        self._experts, self.clusters_ = fit_experts(
            F, faulty, self._panel.outside, wafers.cluster, clusters, rules, seed=self.seed, n_jobs=self.n_jobs
        )
        logit = self._experts.outside(self._panel.outside, wafers.cluster)
        self._sigmoid = fit_sigmoid(logit, faulty)
        return self._sigmoid.probability(logit)

    def _foresee(
        self, readings: Floats, faulty: NDArray[np.bool_], order: Integers | None, past: Integers, future: Integers
    ) -> Floats:
        """What a smaller model of the wafers at positions `past` says of those at `future`."""
        seed = derived_seed(self.seed, "backtest")
        smaller = clone(self).set_params(trees=max(1, self.trees // SMALLER), search_budget=1, seed=seed)
        before, after = (None, None) if order is None else (order[past], order[future])
        smaller._learn(readings[past], faulty[past], before)
        F = smaller._features.transform(readings[future], order=after)
        return np.asarray(smaller.probability(smaller._prepared(readings[future], F)))

    def _prepared(self, readings: Floats, F: Floats) -> "Prepared":
        relative = F[:, self._features.relative]
        missing = self._features.missing(readings)
        return Prepared(readings, F, relative, missing, self._clusters.predict(relative))

    def _expert_rules(self) -> ExpertRules:
        return ExpertRules(
            min_cluster_faults=self.min_cluster_faults,
            cluster_prior=self.cluster_prior,
            search_budget=self.search_budget,
            search_folds=self.search_folds,
            trees=min(self.trees, EXPERT_TREES),
            candidates=self.candidates,
        )

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it beside the parameters: nothing before it is fitted."""
        if not self.__sklearn_is_fitted__():
            return {}
        policy = self.policy_
        costs = f"{policy.cost_missed_fault:g} a missed fault, {policy.cost_false_alarm:g} a false alarm"
        return {
            "sensors": self.n_features_in_,
            "alarm from probability": self.told_threshold(),
            "policy": f"{costs}, alarms on at most {100 * policy.alarm_rate_ceiling:g} %",
            "pooled panel": self.panel_.to_dict("records"),
            "clusters": self.clusters_[["cluster", "wafers", "faulty", "model", "weight"]].to_dict("records"),
        }

    def _html_repr(self) -> str:
        """The diagram of every scikit-learn estimator, and once it is fitted what was learned."""
        return f"{super()._html_repr()}{facts_html(self) if self.__sklearn_is_fitted__() else ''}"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "threshold_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = False
        return tags
