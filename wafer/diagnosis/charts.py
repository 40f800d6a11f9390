"""Control charts of each sensor, individuals and EWMA, with limits frozen at training from good wafers.

The same rules are asked in two ways. As *published*, of readings in sigma, they are for an engineer who looks at one
sensor: applied to 590 sensors at once they speak of most of them in every batch, though nothing has happened. As
*controlled*, they are for all sensors at once: each rule and sensor has the same small share of the false signals that
are allowed over all of them (Bonferroni's bound), and two things are otherwise.

Readings are taken as normal scores, by their rank among the good training wafers, so that skewed and coarse sensors are
as the rules expect. Beyond the largest training reading the score follows a power tail fitted to the outermost readings
(Hill, Annals of Statistics 3, 1975): seldom is a single reading news among 59,000 of a batch.

And a limit is the largest of the published one, of what independent normal readings exceed with the allowed chance, and
of where an exponential tail, fitted to the strengths that the training wafers themselves showed, falls to it; so a
sensor that is alike from one wafer to the next needs a longer run.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import pi, sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from wafer.diagnosis.runs_rules import EWMA, KINDS, RULES, Floats, strengths
from wafer.errors import ModelError

D2 = 2 / sqrt(pi)  # mean range of two normal readings, in sigma
LARGEST_RANGE = 3.5  # times the mean moving range: a larger one is left out (Nelson, Technometrics 24, 1982, 269)
GROSS = 10.0  # sigma from the median, beyond which a training reading is left out of the centre
FEWEST = 200  # training readings below which a sensor has no controlled limit
TAIL = 0.05  # share of readings, and of strengths, that a tail is fitted to
LIGHTEST, HEAVIEST = 0.2, 2.0  # exponents of the power tail: a normal one has about the first
FARTHEST = 1e6  # times as far out as the training readings, which the power tail goes on to
WAFERS = 100  # for which the false signals are counted
NARROWEST = 1e-4  # variance of normal scores, of which a sensor that is stuck has none
ALL = "all"  # instead of names of rules
DEFAULT_RULES = (*list(RULES)[:8], EWMA)


@dataclass(frozen=True)
class ControlCharts:
    """What training leaves of each sensor's charts: plain numbers, frozen.

    Attributes:
        centre, sigma: of each sensor, shape (sensors,), in its unit; NaN for a sensor that never varied, which has no
            chart.
        ranked: training readings of each sensor, ascending, shape (wafers, sensors), NaN last.
        tails: exponent of the power tail below and above them, shape (2, sensors).
        limits: controlled limits, shape (rules, sensors); infinite where there were too few training readings, NaN
            where the rule is switched off.
        rules: names in `wafer.diagnosis.runs_rules.RULES`, as the rows of `limits`.
        ewma_weight: of the newest reading in the moving average.
        ewma_limit: published limit of the EWMA chart, in sigma of the average.
    """

    centre: Floats
    sigma: Floats
    ranked: Floats
    tails: Floats
    limits: Floats
    rules: tuple[str, ...]
    ewma_weight: float
    ewma_limit: float

    @classmethod
    def learn(
        cls,
        readings: Floats,
        names: Sequence[str],
        *,
        rules: Collection[str] = DEFAULT_RULES,
        without: Mapping[str, Collection[str]] | None = None,
        false_sensors: float = 1.0,
        ewma_weight: float = 0.2,
        ewma_limit: float = 2.86,
    ) -> "ControlCharts":
        """From good wafers in production order, shape (wafers, sensors), NaN for missing.

        Args:
            names: of the sensors.
            rules: which rules are applied, at least one.
            without: names of sensors, and which rules are not applied to each; `all` means all of them.
            false_sensors: how many sensors may signal within `WAFERS` in-control wafers, on average, over all sensors
                and rules; it sets the controlled limits.

        Raises:
            ModelError: a sensor or rule is not known, or there is no rule.
        """
        rules = tuple(dict.fromkeys(rules))
        used = applied(names, rules, without)
        if not len(readings):  # as where no sensor has a reading: none has a chart
            readings = np.full((1, len(names)), np.nan)
        centre, sigma = centre_and_sigma(readings)
        ranked = np.sort(readings, axis=0)
        unlimited = np.where(used, np.inf, np.nan)
        charts = cls(centre, sigma, ranked, _tails(ranked), unlimited, rules, ewma_weight, ewma_limit)
        charted = int((used.any(axis=0) & np.isfinite(sigma)).sum())
        kinds = charts._kinds()
        level = false_sensors / (WAFERS * max(charted, 1) * max(len(kinds), 1))
        limits = _controlled(charts._strengths(charts.normal_scores(readings)), kinds, level)
        return replace(charts, limits=np.where(used, np.fmax(limits[charts._rows()], charts.published), np.nan))

    @property
    def published(self) -> Floats:
        """The limits as published, shape (rules, 1)."""
        return np.array([[self.ewma_limit if name == EWMA else RULES[name].limit] for name in self.rules])

    def scores(self, readings: Floats) -> Floats:
        """Distance of each reading from its sensor's centre, in sigma, shape of `readings`, NaN where there is none."""
        return np.asarray((readings - self.centre) / self.sigma)

    def normal_scores(self, readings: Floats) -> Floats:
        """Scores that are normal where readings come as the training wafers' did; shape of `readings`."""
        return np.where(np.isfinite(self.sigma), self._scored(readings, *self._ranks(readings)), np.nan)

    def change(self, readings: Floats) -> Floats:
        """How much each sensor has changed in some wafers taken together, in multiples of chance, shape (sensors,).

        It is the log-likelihood ratio of normal scores with a mean and a variance of their own to those with 0 and 1,
        the variance's part with one degree of freedom less (Bartlett, Proceedings of the Royal Society A 160, 1937):
        near 1 where nothing has changed, and large where readings have moved, scatter more, or scatter less, as of a
        sensor that is stuck. Each reading stands for all training readings that equal it, so a coarse sensor that stays
        at its most frequent value has not changed much; one without readings has not changed at all.
        """
        low, high, known = self._ranks(readings)
        scores, count = self._scored(readings, low, high, known), np.sum(~np.isnan(readings), axis=0)
        mean = _column_mean(scores)
        tied = _column_mean(_variance_between(low / (known + 1), (high + 1) / (known + 1)))
        scatter = _column_mean((scores - mean) ** 2) * count / np.maximum(count - 1, 1) + tied
        scatter = np.maximum(scatter, NARROWEST)
        enough = count * known / np.maximum(count + known, 1)  # the training's mean is one of few readings as well
        change = enough * mean**2 + np.maximum(enough - 1, 0) * (scatter - 1 - np.log(scatter))
        return np.asarray(np.nan_to_num(change / 2))

    def _ranks(self, readings: Floats) -> tuple[Floats, Floats, Floats]:
        """Training readings below each reading and up to it, NaN for missing; and their number, shape (sensors,)."""
        low, high = np.empty((2, *readings.shape))
        known = np.sum(~np.isnan(self.ranked), axis=0)
        for column, values in enumerate(readings.T):
            own = self.ranked[: known[column], column]
            low[:, column], high[:, column] = own.searchsorted(values, "left"), own.searchsorted(values, "right")
        return low + 0 * readings, high + 0 * readings, known.astype(np.float64)

    def _scored(self, readings: Floats, low: Floats, high: Floats, known: Floats) -> Floats:
        share, rarity = (low + high + 1) / (2 * (known + 1)), self._beyond(readings)
        below = ndtri(np.minimum(share, 0.5) * rarity)
        return np.asarray(np.where(share <= 0.5, below, -ndtri(np.minimum(1 - share, 0.5) * rarity)))

    def _beyond(self, readings: Floats) -> Floats:
        """How many times as rare as the outermost training reading each is, 1 within the training readings' range."""
        low, middle, high = _ends(self.ranked)
        upward = readings >= middle
        with np.errstate(divide="ignore", invalid="ignore"):  # a side on which no training reading lies
            distance = np.where(upward, readings - middle, middle - readings) / np.where(
                upward, high - middle, middle - low
            )
        exponent = np.where(upward, self.tails[1], self.tails[0])
        return np.asarray(np.clip(np.nan_to_num(distance, nan=1.0), 1.0, FARTHEST) ** (-1 / exponent))

    def textbook(self, readings: Floats) -> NDArray[np.bool_]:
        """Where which rule is broken as published, shape (rules, wafers, sensors), at the reading that completes it.

        Args:
            readings: of wafers in production order, shape (wafers, sensors), NaN for missing; charts start anew with
                the first of them.
        """
        off = np.isnan(self.limits)
        return self._by_rule(self._strengths(self.scores(readings)), np.where(off, np.inf, self.published))

    def signals(self, readings: Floats) -> NDArray[np.bool_]:
        """The same with controlled limits, for all sensors at once."""
        return self._by_rule(self._strengths(self.normal_scores(readings)), self.limits)

    def excess(self, readings: Floats) -> Floats:
        """Each wafer's largest strength over its controlled limit, of all rules and sensors, shape (wafers,)."""
        found = self._strengths(self.normal_scores(readings))[self._rows()]
        with np.errstate(invalid="ignore"):  # a sensor without a limit is never beyond it
            found = found / self.limits[:, None, :]
        return np.asarray(np.nan_to_num(found).max(axis=(0, 2), initial=0.0))

    def signal_table(self, readings: Floats, names: Sequence[str], *, after: int = 0) -> pd.DataFrame:
        """A line for each sensor and rule with a controlled signal, those that signal first come first.

        Of the first `after` wafers nothing is told and none is counted: they are the charts' past.

        Returns: columns sensor, rule, first and last (position of a wafer), wafers (that signal), and
            strength beside limit (the largest strength over its limit, both in sigma or readings in a row).
        """
        found = self._strengths(self.normal_scores(readings))
        rule, wafer, sensor = np.nonzero(self._by_rule(found, self.limits))
        strength = found[self._rows()[rule], wafer, sensor]
        lines = pd.DataFrame({"sensor": sensor, "rule": rule, "wafer": wafer - after, "strength": strength})
        lines = lines[lines["wafer"] >= 0]
        grouped = lines.groupby(["sensor", "rule"], sort=True)
        table = grouped.agg(
            first=("wafer", "min"), last=("wafer", "max"), wafers=("wafer", "size"), strength=("strength", "max")
        ).reset_index()
        table["limit"] = self.limits[table["rule"], table["sensor"]]
        table["sensor"] = np.array(list(names), dtype=object)[table["sensor"]]
        table["rule"] = np.array(self.rules, dtype=object)[table["rule"]]
        return table.sort_values("first", kind="stable", ignore_index=True)

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(RULES[name].kind for name in self.rules))

    def _rows(self) -> NDArray[np.int64]:
        """For each rule the row of its kind among the strengths."""
        return np.array([self._kinds().index(RULES[name].kind) for name in self.rules], dtype=np.int64)

    def _strengths(self, scores: Floats) -> Floats:
        return strengths(scores, self._kinds(), self.ewma_weight)

    def _by_rule(self, found: Floats, limits: Floats) -> NDArray[np.bool_]:
        return np.asarray(found[self._rows()] > limits[:, None, :])


def centre_and_sigma(readings: Floats) -> tuple[Floats, Floats]:
    """Centre line and sigma of an individuals chart for each column, shape (sensors,) each; NaN where none varies.

    Sigma is the mean moving range of readings that follow each other, missing ones left out, over 2 / sqrt(pi). Moving
    ranges larger than 3.5 times their mean are left out, and readings farther than ten sigma from the median are left
    out of the mean, so that a few gross errors among the training wafers do not widen the chart.
    """
    ranked = np.take_along_axis(readings, np.argsort(np.isnan(readings), axis=0, kind="stable"), axis=0)
    ranges = np.abs(np.diff(ranked, axis=0))
    usual = _column_mean(np.where(ranges <= LARGEST_RANGE * _column_mean(ranges), ranges, np.nan))
    sigma = np.where(usual > 0, usual / D2, np.nan)
    middle = _ends(np.sort(readings, axis=0))[1]
    centre = _column_mean(np.where(np.abs(readings - middle) <= GROSS * sigma, readings, np.nan))
    return centre, np.where(np.isnan(centre), np.nan, sigma)


def _column_mean(X: Floats) -> Floats:
    present = ~np.isnan(X)
    count = present.sum(axis=0)
    return np.where(count > 0, np.where(present, X, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _ends(ranked: Floats) -> Floats:
    """Smallest, middle and largest value of each ascending column with NaN last, shape (3, sensors)."""
    last = np.maximum(np.sum(~np.isnan(ranked), axis=0) - 1, 0)
    return np.asarray(ranked[np.array([0 * last, last // 2, last]), np.arange(ranked.shape[1])])


def _variance_between(low: Floats, high: Floats) -> Floats:
    """Variance of a standard normal variable between two of its quantiles, given as shares, 0 to 1."""
    with np.errstate(invalid="ignore"):
        ends = ndtri([low, high])
        density, share = np.exp(-(ends**2) / 2) / sqrt(2 * pi), high - low
        slopes = np.where(np.isinf(ends), 0.0, ends) * density
    return np.asarray(1 - (slopes[1] - slopes[0]) / share - ((density[1] - density[0]) / share) ** 2)


def _tails(ranked: Floats) -> Floats:
    """Exponent of the power tail of each side's distances from the middle, by Hill's estimator, shape (2, sensors)."""
    middle = _ends(ranked)[1]
    present = np.sum(~np.isnan(ranked), axis=0)
    outer = np.maximum((TAIL / 2 * present).astype(np.int64), 1)
    found = []
    for side in (middle - ranked, ranked - middle):
        ordered = np.sort(np.where(np.isnan(side), -np.inf, side), axis=0)[::-1]
        start = ordered[np.minimum(outer, len(ordered) - 1), np.arange(ranked.shape[1])]
        first = np.arange(len(ordered))[:, None] < outer
        ratio = np.where(first, ordered, np.nan) / np.where(start > 0, start, np.nan)
        found.append(np.nan_to_num(_column_mean(np.log(ratio)), nan=HEAVIEST))
    return np.clip(found, LIGHTEST, HEAVIEST)


def _controlled(found: Floats, kinds: Sequence[str], level: float) -> Floats:
    """What strengths exceed with at most the chance `level`, shape (kinds, sensors), by both tails; see the module."""
    few = np.sum(~np.isnan(found), axis=1) < FEWEST
    own = np.array(
        [_tail_limit(own, kind != EWMA and KINDS[kind].runs, level) for own, kind in zip(found, kinds, strict=True)]
    )
    normal = np.array([(KINDS["beyond"] if kind == EWMA else KINDS[kind]).limit(level) for kind in kinds])
    return np.where(few, np.inf, np.fmax(own, normal[:, None]))


def _tail_limit(found: Floats, runs: bool, level: float) -> Floats:
    """Where each column's exponential tail, a geometric one for runs, falls to `level`; at least its largest value."""
    present = np.maximum(np.sum(~np.isnan(found), axis=0), 1)
    ranked = np.sort(found, axis=0)
    start = ranked[((1 - TAIL) * (present - 1)).astype(np.int64), np.arange(found.shape[1])]
    start = np.where(np.isneginf(start), 0.0, start)  # where most wafers complete no run
    above = found > start
    share = above.sum(axis=0) / present
    excess = np.nan_to_num(_column_mean(np.where(above, found - start, np.nan)), nan=0.0)
    if runs:  # of a geometric tail with this mean, one more is so many times as rare as an e-th of it
        excess = np.where(excess > 1, -1 / np.log1p(-1 / np.maximum(excess, 1.0 + 1e-9)), 0.0)
    stretches = above[:1].sum(axis=0) + (above[1:] & ~above[:-1]).sum(axis=0)
    excess = excess * (1 + 1 / np.sqrt(np.maximum(stretches, 1)))  # by its standard error: they are few
    reached = start + excess * np.log(np.maximum(share / level, 1.0))
    return np.asarray(np.fmax(reached, np.fmax.reduce(found, axis=0)))


def applied(
    names: Sequence[str], rules: Collection[str] = DEFAULT_RULES, without: Mapping[str, Collection[str]] | None = None
) -> NDArray[np.bool_]:
    """Which rule is applied to which sensor, shape (rules, sensors); parameters as of `ControlCharts.learn`.

    Raises:
        ModelError: a sensor or rule is not known, or there is no rule.
    """
    if not rules:
        raise ModelError("the monitor's parameters name no rule: expected at least one")
    columns, off = {name: column for column, name in enumerate(names)}, without or {}
    for what, given, known in (("sensor", off, columns), ("rule", [*rules, *chain(*off.values())], RULES)):
        strange = [name for name in given if name not in known and (what, name) != ("rule", ALL)]
        if strange:
            raise ModelError(f"the monitor's parameters name a {what} that is not there: {strange[0]}")
    used = np.ones((len(rules), len(names)), dtype=bool)
    for sensor, fewer in off.items():
        used[[ALL in fewer or rule in fewer for rule in rules], columns[sensor]] = False
    return used
