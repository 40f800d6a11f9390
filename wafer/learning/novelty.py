"""Is this wafer like any that was seen? A conformal p-value, without any label.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing for outliers with
conformal p-values", Annals of Statistics 51, 2023. Of wafers that come from where the training wafers came from, at
most a share `level` has a p-value of `level` or less.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Novelty:
    """How unusual the training wafers were, each against the reference window before it.

    Attributes:
        distances: root mean square of each training wafer's relative readings, ascending.
        gaps: share of its readings that are missing, ascending.
    """

    distances: Floats
    gaps: Floats

    @classmethod
    def of(cls, relative: Floats, missing: NDArray[np.bool_]) -> "Novelty":
        """Learn from training wafers: relative readings (0 for missing) and which are missing, (wafers, sensors)."""
        return cls(np.sort(_distance(relative, missing)), np.sort(missing.mean(axis=1)))

    def p_value(self, relative: Floats, missing: NDArray[np.bool_]) -> Floats:
        """The p-value of each wafer, in (0, 1]: small where readings or gaps are unlike those of training wafers."""
        readings = _share_at_least(self.distances, _distance(relative, missing))
        gaps = _share_at_least(self.gaps, missing.mean(axis=1))
        return np.minimum(1.0, 2.0 * np.minimum(readings, gaps))  # Bonferroni's bound for two questions


def _distance(relative: Floats, missing: NDArray[np.bool_]) -> Floats:
    present = np.maximum((~missing).sum(axis=1), 1)
    return np.asarray(np.sqrt((np.ascontiguousarray(relative) ** 2).sum(axis=1) / present))


def _share_at_least(known: Floats, value: Floats) -> Floats:
    as_large = len(known) - np.searchsorted(known, value, side="left")
    return np.asarray((1 + as_large) / (1 + len(known)))
