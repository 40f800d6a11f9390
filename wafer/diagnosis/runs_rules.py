"""The rules by which a control chart speaks, for many sensors at once: Nelson's eight, Western Electric's four, EWMA.

L. S. Nelson, "The Shewhart control chart: tests for special causes", Journal of Quality Technology 16, 1984; Western
Electric, "Statistical Quality Control Handbook", 1956; S. W. Roberts, "Control chart tests based on geometric moving
averages", Technometrics 1, 1959.

Each rule asks whether a *strength* of a kind, a distance in sigma or a run of so many readings, exceeds a limit. So a
rule as published and one with the limit that many sensors need are the same computation with two limits.

A missing reading is no point of the chart: runs, windows and the moving average go on with the next reading that is
there. A reading on the centre line ends a run on one side, and two equal readings end a trend and an alternation.
"""

from collections.abc import Callable
from itertools import count
from math import factorial, pi
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import norm

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

INSIDE = float(norm.cdf(1) - norm.cdf(-1))  # chance of a reading within one sigma


class Kind(NamedTuple):
    """What a rule measures.

    Attributes:
        strength: of each reading, shape of the scores, from scores whose missing ones come last.
        limit: which in-control strengths, of independent normal readings, exceed with at most a given chance.
        runs: whether the strength counts readings.
    """

    strength: Callable[[Floats], Floats]
    limit: Callable[[float], float]
    runs: bool


class Rule(NamedTuple):
    """A rule as published: a signal where the strength of its kind exceeds the limit."""

    kind: str
    limit: float
    text: str


def _runs(hits: Flags) -> Floats:
    """How many hits in a row end at each place, down the columns."""
    total = np.cumsum(hits, axis=0, dtype=np.float64)
    return np.asarray(total - np.maximum.accumulate(np.where(hits, 0.0, total), axis=0))


def _side(Z: Floats) -> Floats:
    return np.maximum(_runs(Z > 0), _runs(Z < 0))


def _steps(Z: Floats) -> Floats:
    """Whether each reading is above (1), below (−1) or as the one before (0), which the first is."""
    return np.sign(np.diff(Z, axis=0, prepend=Z[:1]))


def _trend(Z: Floats) -> Floats:
    return _side(_steps(Z)) + 1  # so many steps join one reading more


def _alternation(Z: Floats) -> Floats:
    steps = _steps(Z)
    turns = np.zeros(Z.shape, dtype=bool)
    turns[1:] = steps[1:] * steps[:-1] < 0
    return _runs(turns) + 2


def _earlier(Z: Floats, back: int) -> Floats:
    """The score so many readings before each."""
    return np.concatenate([np.full((min(back, len(Z)), Z.shape[1]), -np.inf), Z[:-back]])


def _two_of_three(Z: Floats) -> Floats:
    """The distance beyond which a reading and one of the two before it lie, on one side."""
    one, other = (np.minimum(side, np.maximum(_earlier(side, 1), _earlier(side, 2))) for side in (Z, -Z))
    return np.fmax(one, other)


def _four_of_five(Z: Floats) -> Floats:
    """The distance beyond which a reading and three of the four before it lie, on one side."""
    found = []
    for side in (Z, -Z):
        a, b, c, d = (_earlier(side, back) for back in (1, 2, 3, 4))
        of_lower, of_upper = (
            np.maximum(np.minimum(a, b), np.minimum(c, d)),
            np.minimum(np.maximum(a, b), np.maximum(c, d)),
        )
        found.append(np.minimum(side, np.minimum(of_lower, of_upper)))  # the third largest of the four before
    return np.fmax(*found)


def ewma(Z: Floats, weight: float) -> tuple[Floats, Floats]:
    """The exponentially weighted moving average of scores, shape (readings, sensors), from 0, and its exact sigma.

    Missing scores must come last; shape of sigma: (readings, 1).
    """
    number = np.arange(1, len(Z) + 1)[:, None]
    sigma = np.sqrt(weight / (2 - weight) * (1 - (1 - weight) ** (2 * number)))
    return np.asarray(lfilter([weight], [1, weight - 1], Z, axis=0)), sigma


def _shortest(chance: Callable[[int], float]) -> Callable[[float], float]:
    """The limit of a run: of lengths up to it, the next one has at most the level as its chance."""
    return lambda level: next(length for length in count(1) if chance(length) <= level) - 1.0


def _two_sided(level: float) -> float:
    return float(norm.isf(level / 2))


KINDS = {
    "beyond": Kind(np.abs, _two_sided, runs=False),
    "side": Kind(_side, _shortest(lambda n: 0.5 ** (n - 1)), runs=True),
    "trend": Kind(_trend, _shortest(lambda n: 2 / factorial(n)), runs=True),
    "alternation": Kind(_alternation, _shortest(lambda n: 4 * (2 / pi) ** (n + 1)), runs=True),
    "two of three": Kind(_two_of_three, lambda p: float(norm.isf((p / 4) ** (1 / 2))), runs=False),
    "four of five": Kind(_four_of_five, lambda p: float(norm.isf((p / 8) ** (1 / 4))), runs=False),
    "near": Kind(lambda Z: _runs(np.abs(Z) < 1), _shortest(lambda n: INSIDE**n), runs=True),
    "far": Kind(lambda Z: _runs(np.abs(Z) > 1), _shortest(lambda n: (1 - INSIDE) ** n), runs=True),
}
"""The chance of an alternation is that of so many independent readings in zigzag, 2 E(n) / n!, by the asymptote of
Euler's zigzag numbers E, which is right to 1e-7 from n = 14 on; those of windows are bounds that lie close."""

EWMA = "ewma"
RULES = {
    "nelson-1": Rule("beyond", 3, "a reading beyond 3 sigma"),
    "nelson-2": Rule("side", 8, "9 readings in a row on one side of the centre line"),
    "nelson-3": Rule("trend", 5, "6 readings in a row rising or falling"),
    "nelson-4": Rule("alternation", 13, "14 readings in a row going up and down in turn"),
    "nelson-5": Rule("two of three", 2, "2 of 3 readings in a row beyond 2 sigma on one side"),
    "nelson-6": Rule("four of five", 1, "4 of 5 readings in a row beyond 1 sigma on one side"),
    "nelson-7": Rule("near", 14, "15 readings in a row within 1 sigma"),
    "nelson-8": Rule("far", 7, "8 readings in a row beyond 1 sigma, on whichever side"),
    "western-electric-1": Rule("beyond", 3, "a reading beyond 3 sigma"),
    "western-electric-2": Rule("two of three", 2, "2 of 3 readings in a row beyond 2 sigma on one side"),
    "western-electric-3": Rule("four of five", 1, "4 of 5 readings in a row beyond 1 sigma on one side"),
    "western-electric-4": Rule("side", 7, "8 readings in a row on one side of the centre line"),
    EWMA: Rule(EWMA, 2.86, "the moving average beyond its limit"),
}
"""A run's limit is one reading less than the rule asks for."""


def strengths(Z: Floats, kinds: list[str], weight: float) -> Floats:
    """The strength of each kind at each wafer, shape (kinds, wafers, sensors), NaN where the reading is missing.

    Args:
        Z: scores, (reading − centre) / sigma, of wafers in production order, shape (wafers, sensors), NaN for missing.
        kinds: names in `KINDS`, or `EWMA`: the moving average over its exact sigma.
        weight: of the newest reading in the moving average, in (0, 1].
    """
    missing = np.isnan(Z)
    place = np.argsort(missing, axis=0, kind="stable")  # the readings that are there, in their sequence, come first
    packed = np.take_along_axis(Z, place, axis=0)
    result = np.full((len(kinds), *Z.shape), np.nan)
    for own, kind in zip(result, kinds, strict=True):
        if kind == EWMA:
            average, sigma = ewma(packed, weight)
            found = np.abs(average) / sigma
        else:
            found = KINDS[kind].strength(packed)
        np.put_along_axis(own, place, found, axis=0)
        own[missing] = np.nan
    return result
