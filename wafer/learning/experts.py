"""A model of its own for each cluster that has the faults for it, weighed against the pooled panel by its evidence."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.learning.jobs import derived_seed
from wafer.learning.search import Trained, borrowed, candidates, inner_folds, search_best

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

POOLED = "pooled"
CANDIDATES = ("random_forest", "xgboost")
LEVEL = 0.05  # chance that any expert counts in clusters where none helps


def evidence_weight(faults: int, auc: float, prior: int) -> float:
    """What a cluster's own model weighs against the panel, 0 to 1.

    Parameters:
        faults: in the cluster.
        auc: out-of-fold ROC AUC there; chance and below count nothing.
        prior: faults told without error at which the two weigh the same.
    """
    evidence = faults * max(0.0, 2.0 * auc - 1.0)
    return evidence / (evidence + prior) if evidence > 0 else 0.0


def helps(pooled: Floats, blended: Floats, faulty: Bools, tries: int) -> bool:
    """Whether log-odds with an expert are surely better than the panel's, by their log loss, both out of fold.

    The mean gain must exceed 0 by a one-sided test of 5 %, shared among all that was tried (Bonferroni): the best of
    many candidates in one of many clusters looks useful by chance too.

    Parameters:
        pooled, blended: log-odds of the cluster's wafers, shape (wafers,).
        faulty: which of them are faulty.
        tries: candidates of all clusters, of which this one was picked.
    """
    sign = np.where(faulty, -1.0, 1.0)
    gain = np.logaddexp(0.0, sign * pooled) - np.logaddexp(0.0, sign * blended)
    error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
    return bool(gain.mean() > NormalDist().inv_cdf(1.0 - LEVEL / tries) * error)


@dataclass(frozen=True)
class Experts:
    """The clusters' own models and what each weighs."""

    models: Mapping[int, Trained]
    weights: Mapping[int, float]

    def logit(self, pooled: Floats, F: Floats, cluster: Integers) -> Floats:
        """The panel's log-odds blended with the experts', shape (wafers,)."""
        return self._blend(pooled, cluster, lambda one, rows: one.logit(F[rows]))

    def outside(self, pooled: Floats, cluster: Integers) -> Floats:
        """The same of the training wafers, out of fold."""
        return self._blend(pooled, cluster, lambda one, rows: one.outside)

    def contributions(self, pooled: Floats, F: Floats, cluster: Integers, n_jobs: int = 1) -> Floats:
        """Each feature's contribution to the blended log-odds, shape (wafers, features)."""
        return self._blend(pooled, cluster, lambda one, rows: one.contributions(F[rows], n_jobs))

    def _blend(self, pooled: Floats, cluster: Integers, own: Callable[[Trained, Bools], Floats]) -> Floats:
        result = pooled.copy()
        for number, one in self.models.items():
            rows, weight = cluster == number, self.weights[number]
            if weight and rows.any():
                result[rows] = (1.0 - weight) * pooled[rows] + weight * own(one, rows)
        return result


@dataclass(frozen=True)
class ExpertRules:
    """When a cluster gets a model of its own, and how it is searched; see `WaferModel` for the values."""

    min_cluster_faults: int
    cluster_prior: int
    search_budget: int
    search_folds: int
    trees: int
    candidates: Sequence[Any] = ()  # classifiers of scikit-learn's beside those of `CANDIDATES`


def fit_experts(
    F: Floats,
    faulty: Bools,
    pooled: Floats,
    cluster: Integers,
    clusters: int,
    rules: ExpertRules,
    *,
    seed: int,
    n_jobs: int,
) -> tuple[Experts, pd.DataFrame]:
    """Search, train and weigh a model for each of the `clusters` that has the faults for it.

    An expert that does not surely help, beside the panel's out-of-fold log-odds `pooled`, weighs exactly nothing.

    Returns: the experts, and a table with one row a cluster: cluster, wafers, faulty, model ("pooled" if it has none of
        its own), settings (JSON), auc (out of fold), weight.
    """
    models: dict[int, Trained] = {}
    weights: dict[int, float] = {}
    tries: dict[int, int] = {}
    for number in range(clusters):
        inside = cluster == number
        if clusters > 1 and min(faulty[inside].sum(), (~faulty[inside]).sum()) >= rules.min_cluster_faults:
            own_seed = derived_seed(seed, "cluster", number)
            recipes = candidates(CANDIDATES, rules.search_budget, own_seed, rules.trees) + borrowed(rules.candidates)
            folds = inner_folds(faulty[inside], rules.search_folds, own_seed)
            best, tried = search_best(recipes, F[inside], faulty[inside], folds, seed=own_seed, n_jobs=n_jobs)
            models[number], tries[number] = best, len(tried)
            weights[number] = evidence_weight(int(faulty[inside].sum()), best.auc, rules.cluster_prior)
    blended = Experts(models, weights).outside(pooled, cluster)
    for number in models:
        inside = cluster == number
        if not helps(pooled[inside], blended[inside], faulty[inside], sum(tries.values())):
            weights[number] = 0.0
    return Experts(models, weights), _table(faulty, cluster, clusters, models, weights)


def _table(
    faulty: Bools, cluster: Integers, clusters: int, models: Mapping[int, Trained], weights: Mapping[int, float]
) -> pd.DataFrame:
    rows = []
    for number in range(clusters):
        inside, best = cluster == number, models.get(number)
        row = {"cluster": number, "wafers": int(inside.sum()), "faulty": int(faulty[inside].sum()), "model": POOLED}
        row |= {"settings": "", "auc": np.nan, "weight": 0.0}
        if best is not None:
            settings = json.dumps(dict(best.recipe.settings), sort_keys=True, default=str)
            row |= {"model": best.recipe.kind, "settings": settings, "auc": best.auc, "weight": weights[number]}
        rows.append(row)
    return pd.DataFrame(rows)
