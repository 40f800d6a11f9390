"""Several models that vote with equal voices: what the pooled part of a wafer model is.

Each member's score is put on its own out-of-fold scale, so that none is louder than another, and one sigmoid makes the
mean vote a probability. Plain averages of different models are hard to beat where faults are few (Kuncheva, "Combining
Pattern Classifiers", 2nd edition, 2014).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wafer.learning.attribution import contributions
from wafer.learning.decision import Sigmoid, fit_sigmoid
from wafer.learning.features import WaferFeatures
from wafer.learning.search import Folds, Recipe, Trained, fixed_settings, train

CHOICES = ("all", "forests", "linear", "absolute")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Panel:
    """Members, each with its voice (a linear scale), and the sigmoid of their mean vote.

    `outside` holds the out-of-fold log-odds of the training wafers; it is empty in a loaded panel.
    """

    members: tuple[Trained, ...]
    sigmoid: Sigmoid
    outside: Floats

    def logit(self, F: Floats) -> Floats:
        """Log-odds of a fault for features `F`, shape (wafers,)."""
        if not self.members:
            return np.zeros(len(F))
        return self.sigmoid.logit(_mean([one.logit(F) for one in self.members]))

    def probability(self, F: Floats) -> Floats:
        """Probability of a fault by the panel alone, shape (wafers,)."""
        return Sigmoid(1.0, 0.0).probability(self.logit(F))

    def parts(self, F: Floats) -> Floats:
        """Each feature's part in the log-odds, shape (wafers, features)."""
        if not self.members:
            return np.zeros(F.shape)
        parts = _mean([one.sigmoid.slope * contributions(one.member, F) for one in self.members])
        return np.asarray(self.sigmoid.slope * parts)


def panel_recipes(features: WaferFeatures, trees: int, choice: str = "all") -> list[Recipe]:
    """Two forests, which know the eras that they were trained on, and two linear models, which outlast them.

    Parameters:
        features: fitted; tells which columns are which.
        trees: of each forest.
        choice: one of `CHOICES`: all four, the forests, the linear models, or those of absolute readings.
    """
    absolute, relative = features.absolute, features.relative
    forest = fixed_settings("extra_trees", trees) | {"columns": [absolute.start, absolute.stop]}
    linear = {"C": 0.1, "class_weight": "balanced", "max_iter": 500}
    forests = [Recipe("extra_trees", forest | {"min_samples_leaf": least}) for least in (2, 5)]
    level = Recipe("logistic", linear | {"columns": [absolute.start, absolute.stop]})
    change = Recipe("logistic", linear | {"columns": [relative.start, relative.stop]})
    members = {"all": [*forests, level, change], "forests": forests, "linear": [level, change]}
    return members.get(choice, [*forests, level])


def fit_panel(recipes: Sequence[Recipe], F: Floats, faulty: Bools, folds: Folds, *, seed: int, n_jobs: int) -> Panel:
    """Train all members and find voices and sigmoid by what they say of wafers that they have not seen."""
    members = [_standardised(one) for one in train(recipes, F, faulty, folds, seed=seed, n_jobs=n_jobs)]
    votes = _mean([one.outside for one in members])
    sigmoid = fit_sigmoid(votes, faulty)
    return Panel(tuple(members), sigmoid, sigmoid.logit(votes))


def _standardised(one: Trained) -> Trained:
    centre, scale = float(one.score_outside.mean()), float(one.score_outside.std())
    voice = Sigmoid(1.0 / scale, -centre / scale) if scale > 1e-12 else Sigmoid(0.0, 0.0)
    return replace(one, sigmoid=voice)


def _mean(values: list[Floats]) -> Floats:
    total = values[0].copy()
    for value in values[1:]:
        total += value
    return total / len(values)
