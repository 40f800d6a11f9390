"""A model of its own for each cluster that has the faults for it, weighed against the pooled panel by its evidence."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.learning.jobs import derived_seed
from wafer.learning.search import Trained, candidates, inner_folds, search_best

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

POOLED = "pooled"
CANDIDATES = ("random_forest", "xgboost")


def evidence_weight(faults: int, auc: float, prior: int) -> float:
    """What a cluster's own model weighs against the panel, 0 to 1.

    Parameters:
        faults: in the cluster.
        auc: out-of-fold ROC AUC there; chance and below count nothing.
        prior: faults told without error at which the two weigh the same.
    """
    evidence = faults * max(0.0, 2.0 * auc - 1.0)
    return evidence / (evidence + prior) if evidence > 0 else 0.0


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
            rows = cluster == number
            if rows.any():
                weight = self.weights[number]
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


def fit_experts(
    F: Floats, faulty: Bools, cluster: Integers, clusters: int, rules: ExpertRules, *, seed: int, n_jobs: int
) -> tuple[Experts, pd.DataFrame]:
    """Search, train and weigh a model for each of the `clusters` that has the faults for it.

    Returns: the experts, and a table with one row a cluster: cluster, wafers, faulty, model ("pooled" if it has none of
        its own), settings (JSON), auc (out of fold), weight.
    """
    models: dict[int, Trained] = {}
    weights: dict[int, float] = {}
    rows = []
    for number in range(clusters):
        inside = cluster == number
        faults, goods = int(faulty[inside].sum()), int((~faulty[inside]).sum())
        row = {"cluster": number, "wafers": faults + goods, "faulty": faults, "model": POOLED}
        row |= {"settings": "", "auc": np.nan, "weight": 0.0}
        if clusters > 1 and min(faults, goods) >= rules.min_cluster_faults:
            own_seed = derived_seed(seed, "cluster", number)
            recipes = candidates(CANDIDATES, rules.search_budget, own_seed, rules.trees)
            folds = inner_folds(faulty[inside], rules.search_folds, own_seed)
            best, _ = search_best(recipes, F[inside], faulty[inside], folds, seed=own_seed, n_jobs=n_jobs)
            models[number] = best
            weights[number] = evidence_weight(faults, best.auc, rules.cluster_prior)
            settings = json.dumps(dict(best.recipe.settings), sort_keys=True)
            row |= {"model": best.recipe.kind, "settings": settings, "auc": best.auc, "weight": weights[number]}
        rows.append(row)
    return Experts(models, weights), pd.DataFrame(rows)
