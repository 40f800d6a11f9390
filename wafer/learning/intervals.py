"""Intervals of what was measured: of a share, of a ROC AUC, of anything that was drawn anew many times.

Each holds its point estimate and lies where the measure can lie, by construction and not by luck of rounding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

NORMAL_95 = 1.96  # standard deviations to either side
LEVELS = (2.5, 97.5)  # per cent, of a 95 % interval


def wilson(hits: ArrayLike, trials: ArrayLike, z: float = NORMAL_95) -> tuple[Floats, Floats]:
    """Low and high end of the score interval of a share (Wilson, JASA 22, 1927).

    Parameters:
        hits, trials: counts, shapes alike; hits of 0 to trials.
        z: standard deviations to either side, above 0.

    Returns: two arrays of that shape, 0 <= low <= hits / trials <= high <= 1; low is 0 without a hit, high is 1 where
        all are hits, and the interval of the misses is the mirror of that of the hits. No trial says nothing: 0 to 1.
    """
    n, count = np.asarray(trials, np.float64), np.asarray(hits, np.float64)
    return _wilson_low(count, n, z), 1.0 - _wilson_low(n - count, n, z)


def _wilson_low(hits: Floats, trials: Floats, z: float) -> Floats:
    """The low end as hits over what is at least the trials, so that nothing is taken from something nearly equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        half = z * np.sqrt(hits * (trials - hits) / trials + z * z / 4)
        # (hits + z²/2 − half) / (trials + z²), made rational: hits² / (trials · (hits + z²/2 + half))
        low = hits * hits / (trials * (hits + z * z / 2 + half))
    return np.where(hits > 0, np.minimum(low, hits / np.where(trials > 0, trials, 1.0)), 0.0)


def delong(faulty: NDArray[np.bool_], score: Floats) -> tuple[float, float, float]:
    """ROC AUC with the ends of its 95 % interval, within 0 to 1 (DeLong et al., Biometrics 44, 1988).

    Returns: three NaN where one label is missing; 0 and 1 as ends where a label has a single wafer, which says nothing
        about its spread.
    """
    if not faulty.any() or faulty.all():
        return np.nan, np.nan, np.nan
    wins = (np.sign(score[faulty][:, None] - score[~faulty][None, :]) + 1) / 2
    auc = float(wins.mean())
    if min(wins.shape) < 2:
        return auc, 0.0, 1.0
    variance = wins.mean(axis=1).var(ddof=1) / wins.shape[0] + wins.mean(axis=0).var(ddof=1) / wins.shape[1]
    half = NORMAL_95 * float(np.sqrt(variance))
    return auc, max(0.0, auc - half), min(1.0, auc + half)


def percentile_interval(point: float, draws: Any, levels: Sequence[float] = LEVELS) -> tuple[float, float]:
    """The middle of bootstrap `draws`, widened where it must be to hold the point estimate.

    The draws of a measure that is biased, such as the calibration error, can all lie on one side of it.

    Parameters:
        draws: shape (draws,); none, and the interval is the point.
        levels: of both ends, per cent.
    """
    if not len(draws):
        return point, point
    low, high = np.percentile(draws, levels)
    return min(float(low), point), max(float(high), point)


def interval_text(values: Mapping[Any, Any], name: str, form: str) -> str:
    """`<name> [<name>_low, <name>_high]` of some values, each by the format `form`; the first alone where all agree."""
    point, low, high = (f"{values[each]:{form}}" for each in (name, f"{name}_low", f"{name}_high"))
    return point if low == high else f"{point} [{low}, {high}]"
