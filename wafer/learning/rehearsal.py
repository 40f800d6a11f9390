"""What a model would have said of the newest wafers while they still lay in the future.

Probabilities of wafers to come are not those that a model gives, out of fold, to wafers of its own days. So small
panels of the wafers before say what they think of the newest ones, and the alarm threshold learns from that.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wafer.learning.features import WaferFeatures
from wafer.learning.members import derived_seed
from wafer.learning.panel import fit_panel, panel_recipes
from wafer.learning.search import inner_folds

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SMALLER = 6  # a rehearsal's forests have so many times fewer trees


@dataclass(frozen=True)
class Rehearsal:
    """How the newest wafers are foreseen.

    Attributes:
        make_features: new features, not fitted.
        window: wafers in a reference window; each half of the newest one is foreseen by the wafers before it.
        trees: of the model's own forests.
        panel: one of `wafer.learning.panel.CHOICES`.
        folds: folds for the probability.
        seed, n_jobs: as of the model.
    """

    make_features: Callable[[], WaferFeatures]
    window: int
    trees: int
    panel: str
    folds: int
    seed: int
    n_jobs: int

    def probabilities(self, readings: Floats, faulty: NDArray[np.bool_], order: Integers) -> list[Floats]:
        """Probabilities of the two newest halves of a window; fewer where too little lies before them."""
        sequence, half = np.argsort(order, kind="stable"), self.window // 2
        found = []
        for start in (len(sequence) - 2 * half, len(sequence) - half):
            past, future = sequence[: max(start, 0)], sequence[max(start, 0) : start + half]
            if len(past) < 2 * half or len(np.unique(faulty[past])) < 2:
                continue
            features = self.make_features().fit(readings[past], order=order[past])
            F, seed = features.transform(readings[past], order=order[past]), derived_seed(self.seed, "rehearsal")
            folds = inner_folds(faulty[past], self.folds, seed)
            recipes = panel_recipes(features, max(1, self.trees // SMALLER), self.panel)
            panel = fit_panel(recipes, F, faulty[past], folds, seed=seed, n_jobs=self.n_jobs)
            found.append(panel.probability(features.transform(readings[future], order=order[future])))
        return found
