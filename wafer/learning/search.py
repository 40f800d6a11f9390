"""Which models, with which settings: a small seeded search, judged by out-of-fold ROC AUC in training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from wafer.learning.decision import LogOdds, Sigmoid, fit_sigmoid
from wafer.learning.members import Boosted, Member, derived_seed, fit_bagged, fit_member

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

FORESTS: dict[str, list[Any]] = {
    "min_samples_leaf": [3, 5, 10, 2],
    "max_features": ["sqrt", 0.1, "log2"],
}
BOOSTERS: dict[str, list[Any]] = {
    "max_depth": [2, 3, 4],
    "learning_rate": [0.1, 0.05, 0.2],
    "colsample_bytree": [0.2, 0.5],
    "reg_lambda": [5.0, 1.0, 20.0],
}
ROUNDS = (10, 20, 40)  # where boosting may stop early


@dataclass(frozen=True)
class Recipe:
    """What to train: a kind of `wafer.learning.members.KINDS` and its settings."""

    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """A model trained on all wafers given, and what it says of each of them out of fold.

    Attributes:
        recipe: what was trained.
        member: the fitted model.
        sigmoid: from its score to log-odds, fitted out of fold.
        score_outside: out-of-fold score of the wafers given, shape (wafers,); empty in a loaded model.
        auc: out-of-fold ROC AUC.
    """

    recipe: Recipe
    member: Member
    sigmoid: Sigmoid | LogOdds
    score_outside: Floats
    auc: float

    @property
    def outside(self) -> Floats:
        """Out-of-fold log-odds of the wafers given, shape (wafers,)."""
        return self.sigmoid.logit(self.score_outside)

    def logit(self, F: Floats) -> Floats:
        """Log-odds of a fault for features `F`, shape (wafers,)."""
        return self.sigmoid.logit(self.member.score(F))


def inner_folds(faulty: Bools, folds: int, seed: int) -> Folds:
    """Stratified folds of the training wafers; none where a class has fewer than two wafers."""
    most = min(folds, int(faulty.sum()), int((~faulty).sum()))
    if most < 2:
        return []
    return list(StratifiedKFold(most, shuffle=True, random_state=seed).split(faulty, faulty))


def run(jobs: Sequence[Callable[[], Any]], n_jobs: int) -> list[Any]:
    """The results of independent jobs in their order; threads, as the libraries release Python's lock."""
    if n_jobs == 1 or len(jobs) < 2:
        return [job() for job in jobs]
    return list(Parallel(n_jobs=n_jobs, backend="threading")(delayed(job)() for job in jobs))


def train(
    recipes: Sequence[Recipe], F: Floats, faulty: Bools, folds: Folds, *, seed: int, n_jobs: int
) -> list[Trained]:
    """Train each recipe on all wafers, and find what it says of wafers that it has not seen.

    Forests on bootstrap samples tell that out of bag; all else is trained again on each fold's complement.
    """
    jobs: list[Callable[[], Any]] = []
    for recipe in recipes:
        whole_seed = derived_seed(seed, recipe.kind, recipe.settings, "whole")
        fit_one = fit_bagged if _bagged(recipe) else fit_member
        jobs.append(partial(fit_one, recipe.kind, recipe.settings, F, faulty, seed=whole_seed))
        for number, (inside, outside) in enumerate([] if _bagged(recipe) else folds):
            fold_seed = derived_seed(seed, recipe.kind, recipe.settings, number)
            jobs.append(partial(_fold_score, recipe, F, faulty, inside, outside, fold_seed))
    results = run(jobs, n_jobs)
    trained = []
    for recipe in recipes:
        first, results = results[0], results[1:]
        if _bagged(recipe):
            member, score = first
        else:
            member, score = first, first.score(F)  # with too few wafers for folds, their own scores must do
            for _, outside in folds:
                score[outside], results = results[0], results[1:]
        trained.append(_calibrated(recipe, member, score, faulty))
    return trained


def _bagged(recipe: Recipe) -> bool:
    return recipe.kind == "random_forest" or bool(recipe.settings.get("bootstrap"))


def _fold_score(
    recipe: Recipe, F: Floats, faulty: Bools, inside: NDArray[np.int64], outside: NDArray[np.int64], seed: int
) -> Floats:
    return fit_member(recipe.kind, recipe.settings, F[inside], faulty[inside], seed=seed).score(F[outside])


def _calibrated(recipe: Recipe, member: Member, score: Floats, faulty: Bools) -> Trained:
    sigmoid = fit_sigmoid(score, faulty)
    return Trained(recipe, member, sigmoid, score, float(roc_auc_score(faulty, score)))


def candidates(kinds: Sequence[str], budget: int, seed: int, trees: int) -> list[Recipe]:
    """`budget` recipes of each kind: first the plain one, then seeded draws without repetition."""
    chance = np.random.default_rng(seed)
    recipes = []
    for kind in kinds:
        space = BOOSTERS if kind == "xgboost" else FORESTS
        seen: list[dict[str, Any]] = [{name: values[0] for name, values in space.items()}]
        for _ in range(20 * budget):
            if len(seen) >= budget:
                break
            draw = {name: values[int(chance.integers(len(values)))] for name, values in space.items()}
            if draw not in seen:
                seen.append(draw)
        recipes += [Recipe(kind, fixed_settings(kind, trees) | settings) for settings in seen[:budget]]
    return recipes


def fixed_settings(kind: str, trees: int) -> dict[str, Any]:
    """The settings of a kind that are not searched."""
    if kind == "xgboost":
        return {"n_estimators": max(ROUNDS), "subsample": 0.8, "min_child_weight": 1.0, "max_bin": 32}
    # not "balanced", which draws faults into nearly every bootstrap sample and leaves none out of bag
    return {"n_estimators": trees, "class_weight": "balanced_subsample", "bootstrap": True}


def search_best(
    recipes: Sequence[Recipe], F: Floats, faulty: Bools, folds: Folds, *, seed: int, n_jobs: int
) -> tuple[Trained, list[tuple[Recipe, float]]]:
    """The recipe with the best out-of-fold ROC AUC, trained on all wafers given, and every recipe's AUC.

    Boosting is stopped early: each recipe is judged after the numbers of rounds in `ROUNDS`. The first of equals wins.
    """
    jobs: list[Callable[[], Any]] = []
    for recipe in recipes:
        for number, (inside, outside) in enumerate(folds):
            fold_seed = derived_seed(seed, recipe.kind, number)
            jobs.append(partial(_staged, recipe, F, faulty, inside, outside, fold_seed))
    results = run(jobs, n_jobs)
    tried: list[tuple[Recipe, float, Floats]] = []
    for recipe in recipes:
        fold_results, results = results[: len(folds)], results[len(folds) :]
        for stage, settings in enumerate(_stages(recipe)):
            score = np.empty(len(faulty))
            for (_, outside), stages in zip(folds, fold_results, strict=True):
                score[outside] = stages[stage]
            tried.append((Recipe(recipe.kind, settings), float(roc_auc_score(faulty, score)), score))
    best, _, score = max(tried, key=lambda entry: entry[1])
    member = fit_member(best.kind, best.settings, F, faulty, seed=derived_seed(seed, best.kind, "whole"))
    return _calibrated(best, member, score, faulty), [(recipe, auc) for recipe, auc, _ in tried]


def _stages(recipe: Recipe) -> list[dict[str, Any]]:
    settings = dict(recipe.settings)
    if recipe.kind != "xgboost":
        return [settings]
    return [settings | {"n_estimators": rounds} for rounds in ROUNDS]


def _staged(
    recipe: Recipe, F: Floats, faulty: Bools, inside: NDArray[np.int64], outside: NDArray[np.int64], seed: int
) -> list[Floats]:
    member = fit_member(recipe.kind, recipe.settings, F[inside], faulty[inside], seed=seed)
    if not isinstance(member, Boosted):
        return [member.score(F[outside])]
    return [member.score(F[outside], rounds=rounds) for rounds in ROUNDS]
