"""Which models, with which settings: a small seeded search, judged by out-of-fold ROC AUC in training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from wafer.learning.decision import Sigmoid, fit_sigmoid
from wafer.learning.jobs import derived_seed, run
from wafer.learning.members import Member, member

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True)
class Recipe:
    """What to train: a kind of `wafer.learning.members.MEMBERS` and its settings."""

    kind: str
    settings: Mapping[str, Any]

    def fit(self, F: Floats, faulty: Bools, *, seed: int) -> Member:
        """The member of these settings that is trained on these wafers."""
        return member(self.kind).fit(self.settings, F, faulty, seed=seed)

    @property
    def named(self) -> dict[str, Any]:
        """The settings that seeds are drawn from: what an estimator is called may differ from process to process."""
        return {name: value for name, value in self.settings.items() if not hasattr(value, "get_params")}

    @property
    def bagged(self) -> bool:
        """Whether bootstrap samples tell what it says of wafers that it has not seen."""
        return member(self.kind).bagged(self.settings)


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
    sigmoid: Sigmoid
    score_outside: Floats
    auc: float

    @property
    def outside(self) -> Floats:
        """Out-of-fold log-odds of the wafers given, shape (wafers,)."""
        return self.sigmoid.logit(self.score_outside)

    def logit(self, F: Floats) -> Floats:
        """Log-odds of a fault for features `F`, shape (wafers,)."""
        return self.sigmoid.logit(self.member.score(F))

    def contributions(self, F: Floats, n_jobs: int = 1) -> Floats:
        """Each feature's contribution to the log-odds, shape (wafers, features)."""
        return np.asarray(self.sigmoid.slope * self.member.contributions(F, n_jobs))


def inner_folds(faulty: Bools, folds: int, seed: int) -> Folds:
    """Stratified folds of the training wafers; none where a class has fewer than two wafers."""
    most = min(folds, int(faulty.sum()), int((~faulty).sum()))
    if most < 2:
        return []
    return list(StratifiedKFold(most, shuffle=True, random_state=seed).split(faulty, faulty))


def train(
    recipes: Sequence[Recipe], F: Floats, faulty: Bools, folds: Folds, *, seed: int, n_jobs: int
) -> list[Trained]:
    """Train each recipe on all wafers, and find what it says of wafers that it has not seen.

    Forests on bootstrap samples tell that out of bag; all else is trained again on each fold's complement.
    """
    jobs: list[Callable[[], Any]] = []
    for recipe in recipes:
        whole_seed = derived_seed(seed, recipe.kind, recipe.named, "whole")
        fit_one = partial(member(recipe.kind).fit_bagged, recipe.settings) if recipe.bagged else recipe.fit
        jobs.append(partial(fit_one, F, faulty, seed=whole_seed))
        for number, (inside, outside) in enumerate([] if recipe.bagged else folds):
            fold_seed = derived_seed(seed, recipe.kind, recipe.named, number)
            jobs.append(partial(_fold_score, recipe, F, faulty, inside, outside, fold_seed))
    results = run(jobs, n_jobs)
    trained = []
    for recipe in recipes:
        first, results = results[0], results[1:]
        if recipe.bagged:
            fitted, score = first
        else:
            fitted, score = first, first.score(F)  # with too few wafers for folds, their own scores must do
            for _, outside in folds:
                score[outside], results = results[0], results[1:]
        trained.append(_calibrated(recipe, fitted, score, faulty))
    return trained


def _fold_score(
    recipe: Recipe, F: Floats, faulty: Bools, inside: NDArray[np.int64], outside: NDArray[np.int64], seed: int
) -> Floats:
    return recipe.fit(F[inside], faulty[inside], seed=seed).score(F[outside])


def _calibrated(recipe: Recipe, fitted: Member, score: Floats, faulty: Bools) -> Trained:
    sigmoid = fit_sigmoid(score, faulty)
    return Trained(recipe, fitted, sigmoid, score, float(roc_auc_score(faulty, score)))


def borrowed(classifiers: Sequence[Any], settings: Mapping[str, Any] | None = None) -> list[Recipe]:
    """A recipe for each of these classifiers of scikit-learn's, with other settings besides."""
    return [
        Recipe("classifier", {"place": place, **(settings or {}), "classifier": one})
        for place, one in enumerate(classifiers)
    ]


def candidates(kinds: Sequence[str], budget: int, seed: int, trees: int) -> list[Recipe]:
    """`budget` recipes of each kind: first the plain one, then seeded draws without repetition."""
    chance = np.random.default_rng(seed)
    recipes = []
    for kind in kinds:
        space, fixed = member(kind).space, member(kind).fixed(trees)
        seen: list[dict[str, Any]] = [{name: values[0] for name, values in space.items()}]
        for _ in range(20 * budget):
            if len(seen) >= budget:
                break
            draw = {name: values[int(chance.integers(len(values)))] for name, values in space.items()}
            if draw not in seen:
                seen.append(draw)
        recipes += [Recipe(kind, fixed | settings) for settings in seen[:budget]]
    return recipes


def search_best(
    recipes: Sequence[Recipe], F: Floats, faulty: Bools, folds: Folds, *, seed: int, n_jobs: int
) -> tuple[Trained, list[tuple[Recipe, float]]]:
    """The recipe with the best out-of-fold ROC AUC, trained on all wafers given, and every recipe's AUC.

    Each recipe is judged at all of its stages, as boosting may stop early. The first of equals wins.
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
        for stage, settings in enumerate(member(recipe.kind).stages(recipe.settings)):
            score = np.empty(len(faulty))
            for (_, outside), stages in zip(folds, fold_results, strict=True):
                score[outside] = stages[stage]
            tried.append((Recipe(recipe.kind, settings), float(roc_auc_score(faulty, score)), score))
    best, _, score = max(tried, key=lambda entry: entry[1])
    fitted = best.fit(F, faulty, seed=derived_seed(seed, best.kind, "whole"))
    return _calibrated(best, fitted, score, faulty), [(recipe, auc) for recipe, auc, _ in tried]


def _staged(
    recipe: Recipe, F: Floats, faulty: Bools, inside: NDArray[np.int64], outside: NDArray[np.int64], seed: int
) -> list[Floats]:
    return recipe.fit(F[inside], faulty[inside], seed=seed).staged_scores(F[outside])
