"""Is this wafer like any that was seen? A conformal p-value, without any label.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005; Bates et al., "Testing for outliers with
conformal p-values", Annals of Statistics 51, 2023. Of wafers that come from where the training wafers came from, at
most a share `level` has a p-value of `level` or less.

Two degrees are kept apart. A wafer whose readings or gaps are unlike anything seen is *unknown*: it keeps its verdict,
which should not be trusted. A wafer with more missing readings than any that was learned from is *unmeasured*: nobody
can know what a model makes of it, so it gets no verdict at all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.learning.features import WaferFeatures

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

UNKNOWN_LEVEL = 0.01  # a wafer with a p-value of at most this is unlike anything seen; it needs 199 training wafers


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

    def unmeasured(self, missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which wafers lack more readings than any training wafer did, or have none at all, shape (wafers,)."""
        gaps = missing.mean(axis=1)
        return np.asarray((gaps > self.gaps[-1]) | (gaps == 1.0))

    def p_value(self, relative: Floats, missing: NDArray[np.bool_]) -> Floats:
        """The p-value of each wafer, in (0, 1]: small where readings or gaps are unlike those of training wafers."""
        readings = _share_at_least(self.distances, _distance(relative, missing))
        gaps = _share_at_least(self.gaps, missing.mean(axis=1))
        return np.minimum(1.0, 2.0 * np.minimum(readings, gaps))  # Bonferroni's bound for two questions


def is_unknown(p_value: Floats) -> NDArray[np.bool_]:
    """Which wafers are unlike anything seen, so that their verdict should not be trusted; shape of `p_value`."""
    return np.asarray(p_value <= UNKNOWN_LEVEL)


def usual_unknown(
    readings: Floats, order: Integers, batches: NDArray[np.object_], make_features: Callable[[], WaferFeatures]
) -> float | None:
    """The share of unknown wafers in past batches, each told by the wafers before it alone.

    Parameters:
        readings, order, batches: training wafers, shape (wafers, sensors), their production order and batch names.
        make_features: new features, not fitted; their reference window is the fewest wafers before a batch that counts.

    Returns: None where there is no history.
    """
    unknown, wafers = 0, 0
    for name in pd.unique(batches[np.argsort(order, kind="stable")]):
        now = batches == name
        before = order < order[now].min()
        features = make_features()
        if before.sum() < features.reference_window:
            continue
        features.fit(readings[before], order=order[before])
        F = features.transform(readings[before], order=order[before])
        known = Novelty.of(F[:, features.relative], features.missing(readings[before]))
        F = features.transform(readings[now], order=order[now])
        unknown += int(is_unknown(known.p_value(F[:, features.relative], features.missing(readings[now]))).sum())
        wafers += int(now.sum())
    return unknown / wafers if wafers else None


def _distance(relative: Floats, missing: NDArray[np.bool_]) -> Floats:
    present = np.maximum((~missing).sum(axis=1), 1)
    return np.asarray(np.sqrt((np.ascontiguousarray(relative) ** 2).sum(axis=1) / present))


def _share_at_least(known: Floats, value: Floats) -> Floats:
    as_large = len(known) - np.searchsorted(known, value, side="left")
    return np.asarray((1 + as_large) / (1 + len(known)))
