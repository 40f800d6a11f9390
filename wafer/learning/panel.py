"""Several models whose standardised scores are averaged: what the pooled part of a wafer model is.

Each member's score is standardised by its own out-of-fold mean and deviation, so that all count the same, and one
sigmoid makes their mean a probability. Plain averages of different models are hard to beat where faults are few
(Kuncheva, "Combining Pattern Classifiers", 2nd edition, 2014).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafer.learning.decision import Sigmoid, fit_sigmoid
from wafer.learning.features import WaferFeatures
from wafer.learning.members import member
from wafer.learning.search import Folds, Recipe, Trained, borrowed, train

CHOICES = ("all", "forests", "linear")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Panel:
    """Members, each with the linear scale of its standardised score, and the sigmoid of their mean.

    `outside` holds the out-of-fold log-odds of the training wafers; it is empty in a loaded panel.
    """

    members: tuple[Trained, ...]
    sigmoid: Sigmoid
    outside: Floats

    def logit(self, F: Floats) -> Floats:
        """Log-odds of a fault for features `F`, shape (wafers,)."""
        return self.sigmoid.logit(_mean([one.logit(F) for one in self.members]))

    def contributions(self, F: Floats, n_jobs: int = 1) -> Floats:
        """Each feature's contribution to the log-odds, shape (wafers, features)."""
        return np.asarray(self.sigmoid.slope * _mean([one.contributions(F, n_jobs) for one in self.members]))


def panel_recipes(
    features: WaferFeatures, trees: int, choice: str = "all", members: Sequence[Any] = ()
) -> list[Recipe]:
    """Two forests, which know the eras that they were trained on, and a linear model, which outlasts them.

    Parameters:
        features: fitted; tells which columns are which.
        trees: of each forest.
        choice: one of `CHOICES`: all three, the forests, or the linear model.
        members: classifiers of scikit-learn's that join them, on the same features.
    """
    columns = {"columns": [features.absolute.start, features.absolute.stop]}
    forest = member("extra_trees").fixed(trees) | columns
    forests = [Recipe("extra_trees", forest | {"min_samples_leaf": least}) for least in (2, 5)]
    linear = [Recipe("logistic", {"C": 0.1, "class_weight": "balanced", "max_iter": 500} | columns)]
    chosen = {"all": [*forests, *linear], "forests": forests, "linear": linear}[choice]
    return [*chosen, *borrowed(members, columns)]


def fit_panel(recipes: Sequence[Recipe], F: Floats, faulty: Bools, folds: Folds, *, seed: int, n_jobs: int) -> Panel:
    """Train all members; scales and sigmoid follow from what they say of wafers that they have not seen."""
    members = [_standardised(one) for one in train(recipes, F, faulty, folds, seed=seed, n_jobs=n_jobs)]
    mean = _mean([one.outside for one in members])
    sigmoid = fit_sigmoid(mean, faulty)
    return Panel(tuple(members), sigmoid, sigmoid.logit(mean))


def _standardised(one: Trained) -> Trained:
    centre, scale = float(one.score_outside.mean()), float(one.score_outside.std())
    standard = Sigmoid(1.0 / scale, -centre / scale) if scale > 1e-12 else Sigmoid(0.0, 0.0)
    return replace(one, sigmoid=standard)


def _mean(values: list[Floats]) -> Floats:
    total = values[0].copy()
    for value in values[1:]:
        total += value
    return total / len(values)
