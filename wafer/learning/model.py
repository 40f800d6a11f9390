"""`WaferModel`: from readings to cluster, probability and alarm, one fitted object that is saved and loaded whole."""

from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from wafer.errors import ModelError
from wafer.learning import parts
from wafer.learning.checks import check_parameters, checked_order, chosen_sensors, faulty_of, read_classes, whole_order
from wafer.learning.clusters import ElbowClusters, profile
from wafer.learning.decision import Policy, Sigmoid, fit_sigmoid
from wafer.learning.drift import Drift, DriftReference
from wafer.learning.experts import ExpertRules, fit_experts
from wafer.learning.explain import Reasons, ReasonTrial, good_percentiles, group_sensors, sensor_parts, tell
from wafer.learning.features import WaferFeatures
from wafer.learning.members import derived_seed
from wafer.learning.novelty import Novelty
from wafer.learning.panel import Panel, fit_panel, panel_recipes
from wafer.learning.reference import ReferenceClusters, ReferenceFeatures, fit_reference_experts
from wafer.learning.rehearsal import Rehearsal
from wafer.learning.search import inner_folds

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
REASON_TREES = 30  # of the forests that only show what reasons are worth
EXPERT_TREES = 40  # of a cluster's forest, at most: clusters are small


class WaferModel(ClassifierMixin, BaseEstimator):
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
        search: "budget", or "reference" for the reference systems' method (`wafer.learning.reference`), whose alarms
            start at one half and which most other parameters do not touch.
        search_budget: settings tried per candidate and cluster, at least 1.
        search_folds: folds that judge a cluster's candidates, at least 2.
        panel: members of the panel: "all" (two forests, two linear models), "forests", "linear", or "absolute" (all but
            those of readings relative to the reference window).
        trees: trees of each of the panel's forests, at least 1.
        calibration_folds: folds for probability and threshold, at least 2.
        cost_missed_fault, cost_false_alarm: above 0, any one unit.
        alarm_rate_ceiling: largest share of alarms, between 0 and 1.
        faulty_label: the label that means faulty; needed where labels are other than -1 and +1, or 0 and 1.
        seed: of everything random; the same data and parameters give the same model.
        n_jobs: threads; the result does not depend on it.

    Learned:
        classes_: the two labels, sorted.
        faulty_label_: the one of them that means faulty: the one named, else 1.
        threshold_: probability from which a wafer raises an alarm.
        elbow_: frame k, inertia, silhouette, chosen.
        clusters_: frame cluster, wafers, faulty, model, settings, auc, weight; one row per cluster.
        profile_: frame cluster, sensor (position in X), shift; what sets each cluster apart, see `clusters.profile`.
        panel_: frame model, auc; the pooled panel's members and their out-of-fold ROC AUC.
        reasons_: what `learn_reasons` learned, with its strength and floor; None before.
        drift_reference_: what `learn_drift` learned, with what is usual; None before.
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
        search: str = "budget",
        search_budget: int = 2,
        search_folds: int = 3,
        panel: str = "all",
        trees: int = 600,
        calibration_folds: int = 4,
        cost_missed_fault: float = 20.0,
        cost_false_alarm: float = 1.0,
        alarm_rate_ceiling: float = 0.10,
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
        self.search = search
        self.search_budget = search_budget
        self.search_folds = search_folds
        self.panel = panel
        self.trees = trees
        self.calibration_folds = calibration_folds
        self.cost_missed_fault = cost_missed_fault
        self.cost_false_alarm = cost_false_alarm
        self.alarm_rate_ceiling = alarm_rate_ceiling
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
                that does not fit the wafers.
            ValueError: readings that are not numbers, or infinite.
        """
        check_parameters(self)
        readings, labels = validate_data(
            self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2
        )
        self.classes_, self.faulty_label_ = read_classes(labels, self.faulty_label)
        with threadpool_limits(1):  # sums over several threads would not give the same bits
            self._learn(readings, labels == self.faulty_label_, checked_order(order, len(readings)))
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
        _, F, cluster = self._prepared(X, order)
        return self._sigmoid.probability(self._experts.logit(self._panel.logit(F), F, cluster))

    def predict(self, X: ArrayLike, order: ArrayLike | None = None) -> NDArray[Any]:
        """The label of each wafer, shape (wafers,): faulty where the probability reaches `threshold_`."""
        alarm = self.fault_probability(X, order) >= self.threshold_
        return np.asarray(self.classes_[(alarm == (self.classes_[1] == self.faulty_label_)).astype(int)])

    def assign_clusters(self, X: ArrayLike, order: ArrayLike | None = None) -> Integers:
        """The cluster of each wafer, shape (wafers,), numbered from 0 as in `clusters_`."""
        return self._prepared(X, order)[2]

    def conformity(self, X: ArrayLike, order: ArrayLike | None = None) -> Floats:
        """How well each wafer fits what was seen: a conformal p-value, shape (wafers,); see `wafer.learning.novelty`.

        `wafer.learning.novelty.is_unknown` says which wafers are unlike anything seen, so that their probability should
        not be trusted.
        """
        readings, F, _ = self._prepared(X, order)
        return self._novelty.p_value(F[:, self._features.relative], self._features.missing(readings))

    def learn_reasons(
        self, X: ArrayLike, y: ArrayLike, order: ArrayLike | None = None, *, permutations: int = 9
    ) -> Self:
        """Learn to give reasons; `X`, `y` and `order` are those of `fit`.

        Models of permuted labels set the floor that the strength of a reason must exceed.

        Parameters:
            permutations: how many of them, at least 2.

        Raises:
            ModelError: the search is "reference", which is too slow to be repeated on permuted labels.
        """
        if not self.tells_reasons:
            raise ModelError('search "reference" gives no reasons: it is too slow to be repeated on permuted labels')
        readings, F, cluster = self._prepared(X, order)
        faulty = faulty_of(y, self.classes_, self.faulty_label_)
        relative = self._features.relative
        with threadpool_limits(1):
            groups = group_sensors(F[:, relative], self._features.selector_.kept_, self.n_features_in_)
            trial = ReasonTrial(
                panel_recipes(self._features, REASON_TREES, self.panel),
                F,
                self._features.sensors,
                groups,
                self.alarm_rate_ceiling,
            )
            strength, floor = trial.judge(faulty, permutations, derived_seed(self.seed, "reasons"), self.n_jobs)
        known = good_percentiles(readings, faulty, cluster, len(self._clusters.centres_))
        self.reasons_: Reasons | None = Reasons(groups, known, floor, strength)
        return self

    @property
    def tells_reasons(self) -> bool:
        """Whether a model with these parameters can learn to give reasons."""
        return self.search != "reference"

    @property
    def reasons_shown_(self) -> bool:
        """Whether this model's reasons are stronger than chance, so that `explain` gives any."""
        return self._known_reasons().shown

    def explain(self, X: ArrayLike, order: ArrayLike | None = None, *, most: int = 5) -> pd.DataFrame:
        """The sensors that speak most against each wafer; columns as of `wafer.learning.explain.tell`.

        Raises:
            ModelError: `learn_reasons` was not called before the model was saved.
        """
        reasons = self._known_reasons()
        readings, F, cluster = self._prepared(X, order)
        parts = self._sigmoid.slope * self._experts.parts(self._panel.parts(F), F, cluster)
        parts = sensor_parts(parts, self._features.sensors, self.n_features_in_)
        return tell(reasons, parts, readings, cluster, self.sensor_names_, most=most)

    @property
    def sensor_names_(self) -> list[str]:
        """The sensors in the sequence that the model knows; those of a bare array are Sensor-1, Sensor-2, …"""
        known = getattr(self, "feature_names_in_", None)
        return [f"Sensor-{n}" for n in range(1, self.n_features_in_ + 1)] if known is None else [str(n) for n in known]

    def good_percentiles(self, sensor: str) -> pd.DataFrame:
        """Readings of a sensor on good training wafers: a row for each percentile 0 to 100, a column for each cluster.

        Raises:
            ModelError: the model has no such sensor, or `learn_reasons` was not called before it was saved.
        """
        names = self.sensor_names_
        if sensor not in names:
            raise ModelError(f"the model has no sensor {sensor!r}, its first is {names[0]}")
        return self._known_reasons().of_sensor(names.index(sensor))

    def learn_drift(self, X: ArrayLike, order: ArrayLike, batches: ArrayLike) -> Self:
        """Learn to tell drift; `X` and `order` are those of `fit`, `batches` the names of the wafers' batches.

        The newest reference window is kept, and what past batches show to be usual; nothing, of very few wafers.
        """
        readings, _, _ = self._prepared(X, order)
        places, names = whole_order(order, len(readings)), np.asarray(batches, dtype=object)
        learn, window = DriftReference.learn, self.reference_window
        self.drift_reference_ = learn(readings, places, names, self._make_features, window=window)
        return self

    def drift(self, X: ArrayLike, order: ArrayLike | None = None) -> Drift:
        """How far a batch, given as for `predict_proba`, is from the newest training wafers; see `learning.drift`.

        Raises:
            ModelError: `learn_drift` was not called before the model was saved, or the batch has too few wafers.
        """
        check_is_fitted(self)
        known = self.drift_reference_
        if known is None:
            raise ModelError("the model cannot tell drift: it was saved without learn_drift, or had too few wafers")
        readings, F, _ = self._prepared(X, order)
        p_value = self._novelty.p_value(F[:, self._features.relative], self._features.missing(readings))
        return known.compare(readings, p_value, self.sensor_names_)

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
        self.profile_ = profile(F[:, self._features.relative], cluster, self._features.selector_.kept_)
        self._novelty = Novelty.of(F[:, self._features.relative], self._features.missing(readings))
        self.reasons_, self.drift_reference_ = None, None
        if self.search == "reference":
            self._learn_as_reference(F, faulty, cluster)
        else:
            probability = self._learn_models(F, faulty, cluster)
            self.threshold_ = self._choose_threshold(probability, readings, faulty, order)

    def _learn_models(self, F: Floats, faulty: NDArray[np.bool_], cluster: Integers) -> Floats:
        """Panel, experts and sigmoid; returns the training wafers' probabilities, out of fold."""
        folds = inner_folds(faulty, self.calibration_folds, derived_seed(self.seed, "folds"))
        recipes = panel_recipes(self._features, self.trees, self.panel)
        self._panel = fit_panel(recipes, F, faulty, folds, seed=self.seed, n_jobs=self.n_jobs)
        members = self._panel.members
        self.panel_ = pd.DataFrame({"model": [one.recipe.kind for one in members], "auc": [one.auc for one in members]})
        rules, clusters = self._expert_rules(), len(self._clusters.centres_)
        self._experts, self.clusters_ = fit_experts(
            F, faulty, cluster, clusters, rules, seed=self.seed, n_jobs=self.n_jobs
        )
        logit = self._experts.outside(self._panel.outside, cluster)
        self._sigmoid = fit_sigmoid(logit, faulty)
        return self._sigmoid.probability(logit)

    def _learn_as_reference(self, F: Floats, faulty: NDArray[np.bool_], cluster: Integers) -> None:
        clusters = len(self._clusters.centres_)
        self._panel = Panel((), Sigmoid(1.0, 0.0), np.empty(0))
        self.panel_ = pd.DataFrame({"model": [], "auc": []})
        self._experts, self.clusters_ = fit_reference_experts(F, faulty, cluster, clusters, n_jobs=self.n_jobs)
        self._sigmoid = Sigmoid(1.0, 0.0)
        self.threshold_ = 0.5

    def _choose_threshold(
        self, probability: Floats, readings: Floats, faulty: NDArray[np.bool_], order: Integers | None
    ) -> float:
        """The policy's threshold for wafers like those to come.

        These are best known from the newest wafers: out of fold, and by a rehearsal in which they lay in the future.
        """
        policy = Policy(self.cost_missed_fault, self.cost_false_alarm, self.alarm_rate_ceiling)
        if order is None:
            return policy.threshold(probability)
        newest = probability[np.argsort(order, kind="stable")[-2 * self.reference_window :]]
        window, trees, panel, folds = self.reference_window, self.trees, self.panel, self.calibration_folds
        rehearsal = Rehearsal(self._make_features, window, trees, panel, folds, self.seed, self.n_jobs)
        return policy.threshold(np.concatenate([newest, *rehearsal.probabilities(readings, faulty, order)]))

    def _make_features(self) -> WaferFeatures:
        kind = ReferenceFeatures if self.search == "reference" else WaferFeatures
        return kind(
            max_missing=self.max_missing,
            imputation=self.imputation,
            neighbors=self.neighbors,
            reference_window=self.reference_window,
        )

    def _make_clusters(self) -> ElbowClusters:
        kind = ReferenceClusters if self.search == "reference" else ElbowClusters
        return kind(max_clusters=self.max_clusters, seed=self.seed)

    def _expert_rules(self) -> ExpertRules:
        return ExpertRules(
            min_cluster_faults=self.min_cluster_faults,
            cluster_prior=self.cluster_prior,
            search_budget=self.search_budget,
            search_folds=self.search_folds,
            trees=min(self.trees, EXPERT_TREES),
        )

    def _known_reasons(self) -> Reasons:
        check_is_fitted(self)
        if self.reasons_ is None:
            raise ModelError("the model gives no reasons: it was saved without learn_reasons")
        return self.reasons_

    def _prepared(self, X: ArrayLike, order: ArrayLike | None) -> tuple[Floats, Floats, Integers]:
        """Readings, features and clusters of wafers given to a fitted model."""
        check_is_fitted(self)
        X = chosen_sensors(X, getattr(self, "feature_names_in_", None))
        readings = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan")
        F = self._features.transform(readings, order=checked_order(order, len(readings)))
        return readings, F, self._clusters.predict(F[:, self._features.relative])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_sigmoid")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = False
        return tags
