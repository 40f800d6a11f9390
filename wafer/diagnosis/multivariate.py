"""Is a wafer out of control as a whole? Hotelling's T² and SPE of a PCA model of good wafers, with frozen limits.

Jackson and Mudholkar, "Control procedures for residuals associated with principal component analysis", Technometrics
21, 1979; Kourti and MacGregor, "Process analysis, monitoring and diagnosis, using multivariate projection methods",
Chemometrics and Intelligent Laboratory Systems 28, 1995. T² is the distance within the plane in which good wafers vary,
SPE (squared prediction error, also called Q) the squared distance from that plane. What is learned from good wafers
(phase I) stays as it is while new wafers are measured (phase II).

A wafer's values depend on its readings alone: they are the same bits alone and in any batch.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.stats import chi2, f
from threadpoolctl import threadpool_limits

from wafer.learning.features import SensorSelector, quartiles, spread

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FALSE_ALARM_RATE = 0.01  # of each of the two charts
EXPLAINED = 0.5  # share of the variance that components are taken for
MOST_COMPONENTS = 20
WAFERS_A_COMPONENT = 10  # good wafers, at least
LIMIT = 10.0  # standardised readings are cut at ± this, or single ones would own a component
FOLDS = 5  # of the good wafers, of which each is measured once by a model of the others
FEWEST = 20  # good wafers, below which there is no model
DUST = 1e-12  # squared residual of a sensor that is rounding alone
BLOCK = 1024  # wafers measured at a time


class Distances(NamedTuple):
    """How far wafers are from the good ones, each of shape (wafers,)."""

    t2: Floats
    spe: Floats


@dataclass(frozen=True)
class PcaCharts:
    """What T² and SPE charts need, learned from good wafers.

    Readings are standardised by median and robust spread, cut at ± `LIMIT` and centred; a missing one counts as the
    good wafers' mean.

    Attributes:
        sensors: positions of the sensors used, shape (used,): those that vary and are present often enough.
        centre, scale, mean: of the sensors used: median and robust spread of readings, mean of what they make of them.
        loadings: orthonormal, shape (used, components); the entry of each component that is largest is positive.
        variances: of the scores on good wafers, descending, shape (components,).
        t2_limit, spe_limit: above which a wafer is out of control, see `learn`.
    """

    sensors: Integers
    centre: Floats
    scale: Floats
    mean: Floats
    loadings: Floats
    variances: Floats
    t2_limit: float
    spe_limit: float

    @classmethod
    def learn(
        cls, readings: Floats, *, max_missing: float = 0.6, false_alarm_rate: float = FALSE_ALARM_RATE
    ) -> "PcaCharts | None":
        """From good wafers, shape (wafers, sensors), NaN for missing; None from fewer than `FEWEST`, or none that vary.

        There are as few components as explain half of the variance, at most `MOST_COMPONENTS` and one for every
        `WAFERS_A_COMPONENT` wafers. A limit is the one of theory (`t2_limit`, `spe_limit`) or, where that is larger,
        the value that this share of good wafers exceeds when measured by a model of others: readings have heavier
        tails than theory knows, and a model fits its own wafers better than new ones.

        Parameters:
            max_missing: largest share of missing readings with which a sensor is used, 0 to 1.
            false_alarm_rate: share of good wafers that each chart may call out of control.
        """
        if len(readings) < FEWEST:
            return None
        with threadpool_limits(1), np.errstate(over="ignore"):
            model = cls._fitted(readings, max_missing)
            if not len(model.variances):
                return None
            folds = [np.arange(len(readings)) % FOLDS == number for number in range(FOLDS)]
            outside = [cls._fitted(readings[~fold], max_missing).distances(readings[fold]) for fold in folds]
            own = model.distances(readings)
        t2, spe = (np.concatenate(values) for values in zip(*outside, strict=True))
        theory = t2_limit(len(model.variances), len(readings), false_alarm_rate), spe_limit(own.spe, false_alarm_rate)
        found = _exceeded(t2, false_alarm_rate), _exceeded(spe, false_alarm_rate)
        return replace(
            model, t2_limit=max(theory[0], found[0]), spe_limit=max(theory[1], found[1], DUST * len(model.sensors))
        )

    @classmethod
    def _fitted(cls, readings: Floats, max_missing: float) -> "PcaCharts":
        kept = SensorSelector(max_missing=max_missing).fit(readings).kept_
        used = readings[:, kept]
        quarters, blank = quartiles(used), np.zeros(len(kept))
        scale = spread(used, quarters)
        model = cls(kept, np.nan_to_num(quarters[1]), scale, blank, blank[:, None], blank, np.inf, np.inf)
        present = np.maximum((~np.isnan(used)).sum(axis=0), 1)
        model = replace(model, mean=model.standardise(readings).sum(axis=0) / present)
        Z = model.standardise(readings)
        values, vectors = _components(Z.T @ Z / (len(Z) - 1), most=min(MOST_COMPONENTS, len(Z) // WAFERS_A_COMPONENT))
        return replace(model, loadings=vectors, variances=values)

    def standardise(self, readings: Floats) -> Floats:
        """Readings, shape (wafers, sensors), as the model sees them, shape (wafers, used); 0 for a missing one."""
        used = np.ascontiguousarray(readings[:, self.sensors])  # sums follow the layout
        Z = np.clip((used - self.centre) / self.scale, -LIMIT, LIMIT) - self.mean
        return np.where(np.isnan(Z), 0.0, Z)

    def distances(self, readings: Floats) -> Distances:
        """T² and SPE of wafers, shape (wafers, sensors), NaN for missing."""
        found = [np.empty((2, 0))]
        with threadpool_limits(1), np.errstate(over="ignore"):
            for row in range(0, len(readings), BLOCK):
                scores, residuals = self._projected(self.standardise(readings[row : row + BLOCK]))
                found.append(np.stack([(scores**2 / self.variances).sum(axis=1), (residuals**2).sum(axis=1)]))
        return Distances(*np.hstack(found))

    def contributions(self, readings: Floats) -> Distances:
        """What each sensor used adds to T² and SPE of wafers, each of shape (wafers, used); their sums are `distances`.

        That to T² is x_k Σ_a t_a p_ka / λ_a, which may be negative, that to SPE the squared residual (Westerhuis,
        Gurden and Smilde, "Generalized contribution plots in multivariate statistical process monitoring", Chemometrics
        and Intelligent Laboratory Systems 51, 2000).
        """
        with threadpool_limits(1), np.errstate(over="ignore"):
            Z = self.standardise(readings)
            scores, residuals = self._projected(Z)
            return Distances(Z * _product(scores / self.variances, self.loadings.T), residuals**2)

    def _projected(self, Z: Floats) -> tuple[Floats, Floats]:
        scores = _product(Z, self.loadings)
        return scores, Z - _product(scores, self.loadings.T)


def t2_limit(components: int, wafers: int, rate: float) -> float:
    """The T² that a share `rate` of new wafers exceeds, where readings are normal; of a model of so many wafers.

    Tracy, Young and Mason, "Multivariate control charts for individual observations", Journal of Quality Technology 24,
    1992.
    """
    share = components * (wafers - 1) * (wafers + 1) / (wafers * (wafers - components))
    return float(share * f.isf(rate, components, wafers - components))


def spe_limit(spe: Floats, rate: float) -> float:
    """The SPE that a share `rate` of wafers exceeds, from those of the model's own wafers, shape (wafers,).

    A chi-squared variable, weighted so that mean and variance are theirs (Box, Annals of Mathematical Statistics 25,
    1954; Nomikos and MacGregor, "Multivariate SPC charts for monitoring batch processes", Technometrics 37, 1995).
    """
    mean, variance = spe.mean(), spe.var(ddof=1)
    if variance <= 1e-16 * mean**2:
        return float(mean)
    return float(variance / (2 * mean) * chi2.isf(rate, 2 * mean**2 / variance))


def _exceeded(values: Floats, rate: float) -> float:
    """The value that at most a share `rate` of new ones exceeds, so far as so many can tell (a conformal quantile)."""
    rank = int(np.ceil((len(values) + 1) * (1 - rate)))
    return float(np.sort(values)[min(rank, len(values)) - 1])


def _components(covariance: Floats, most: int) -> tuple[Floats, Floats]:
    """Variances, descending, and loadings of as few components as explain enough, at most so many."""
    sensors, total = len(covariance), np.trace(covariance)
    values, vectors = eigh(covariance, subset_by_index=[max(0, sensors - most), sensors - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    enough = int(np.searchsorted(np.cumsum(values), EXPLAINED * total)) + 1
    values, vectors = values[:enough], vectors[:, :enough][:, values[:enough] > 1e-9 * total]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None, :], axis=0)
    return values[values > 1e-9 * total], np.ascontiguousarray(vectors * np.where(largest < 0, -1.0, 1.0))


def _product(rows: Floats, matrix: Floats) -> Floats:
    """`rows @ matrix`, row by row, as the bits of a product of matrices depend on how many rows there are."""
    return np.asarray((rows[:, None, :] @ matrix)[:, 0])
