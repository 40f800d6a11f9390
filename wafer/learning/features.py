"""Readings as features that survive drift: sensor selection, imputation, scaling, reference windows.

Every transformer here scores a wafer by its own readings (and production order) alone: no arithmetic runs across the
rows of a batch, so that a wafer's features are the same bits alone, in any batch and in any sequence of rows.
"""

from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NORMAL_IQR = 1.349  # interquartile range of a standard normal distribution


def quartiles(X: Floats) -> Floats:
    """First quartile, median and third quartile of each column; shape (3, sensors), NaN for empty columns.

    Missing readings are left out; linear interpolation as in `numpy.percentile`.
    """
    ranked = np.sort(X, axis=0)  # NaN goes last
    present = np.sum(~np.isnan(X), axis=0)
    result = np.full((3, X.shape[1]), np.nan)
    columns = np.flatnonzero(present)
    for row, share in enumerate((0.25, 0.5, 0.75)):
        place = share * (present[columns] - 1)
        low = np.floor(place).astype(np.int64)
        high = np.ceil(place).astype(np.int64)
        below, above = ranked[low, columns], ranked[high, columns]
        result[row, columns] = below + (above - below) * (place - low)
    return result


def spread(X: Floats, quarters: Floats) -> Floats:
    """A robust standard deviation per column: IQR / 1.349, else the standard deviation, else 1; never zero or NaN."""
    present = ~np.isnan(X)
    count = np.maximum(present.sum(axis=0), 1)
    filled = np.where(present, X, 0.0)
    mean = filled.sum(axis=0) / count
    deviation = np.sqrt((np.where(present, X - mean, 0.0) ** 2).sum(axis=0) / count)
    robust = (quarters[2] - quarters[0]) / NORMAL_IQR
    result = np.where(robust > 1e-3 * deviation, robust, deviation)
    return np.where((result > 0) & np.isfinite(result), result, 1.0)


class SensorSelector(TransformerMixin, BaseEstimator):
    """Keeps the sensors that vary and are present often enough in the training wafers.

    Parameters:
        max_missing: largest share of missing readings with which a sensor is kept, 0 to 1.

    Learned: `kept_`, positions of the kept sensors (all of them if none qualifies).
    """

    def __init__(self, *, max_missing: float = 0.6) -> None:
        self.max_missing = max_missing

    def fit(self, X: Floats, y: None = None) -> Self:
        """Choose the sensors; `X` has shape (wafers, sensors), NaN for missing."""
        missing = np.isnan(X).mean(axis=0)
        low = np.min(X, axis=0, initial=np.inf, where=~np.isnan(X))
        high = np.max(X, axis=0, initial=-np.inf, where=~np.isnan(X))
        kept = np.flatnonzero((missing <= self.max_missing) & (high > low))
        self.kept_: Integers = kept if len(kept) else np.arange(X.shape[1])
        return self

    def transform(self, X: Floats) -> Floats:
        """The kept sensors of `X`, shape (wafers, kept)."""
        check_is_fitted(self)
        return np.ascontiguousarray(X[:, self.kept_])


class MissingPatterns(TransformerMixin, BaseEstimator):
    """Which readings are missing, one flag for the sensors that come and go together.

    Parameters:
        least: wafers in which a sensor must be missing, and in which it must be there, to be worth a flag.

    Learned: `flagged_`, position of one sensor for each pattern.
    """

    def __init__(self, *, least: int = 5) -> None:
        self.least = least

    def fit(self, X: Floats, y: None = None) -> Self:
        """Find the patterns in `X`, shape (wafers, sensors)."""
        missing = np.isnan(X)
        count = missing.sum(axis=0)
        varied = np.flatnonzero((count >= self.least) & (len(X) - count >= self.least))
        first: dict[bytes, int] = {}
        for sensor in varied.tolist():
            first.setdefault(np.packbits(missing[:, sensor]).tobytes(), sensor)
        self.flagged_: Integers = np.array(sorted(first.values()), dtype=np.int64)
        return self

    def transform(self, X: Floats) -> Floats:
        """1 where the reading is missing, 0 where it is there; shape (wafers, patterns)."""
        check_is_fitted(self)
        return np.isnan(X[:, self.flagged_]).astype(np.float64)


class MedianImputer(TransformerMixin, BaseEstimator):
    """Fills a missing reading with the sensor's training median (0 for a sensor never read).

    Learned: `medians_`, shape (sensors,).
    """

    def fit(self, X: Floats, y: None = None) -> Self:
        """Learn the medians of `X`, shape (wafers, sensors)."""
        self.medians_: Floats = np.nan_to_num(quartiles(X)[1])
        return self

    def transform(self, X: Floats) -> Floats:
        """`X` without missing readings."""
        check_is_fitted(self)
        return np.where(np.isnan(X), self.medians_, X)


class NeighborImputer(TransformerMixin, BaseEstimator):
    """Fills a missing reading with the mean of the nearest training wafers that have it.

    Distance is Euclidean over the sensors that both wafers have, weighted up for those that they don't (Troyanskaya
    et al., "Missing value estimation methods for DNA microarrays", Bioinformatics 17(6), 2001), as scikit-learn's
    `KNNImputer`, but wafer by wafer without matrix products, so that the result does not depend on the batch.

    Parameters:
        neighbors: wafers averaged, at least 1.
        scaled: whether a sensor's distance counts in its own robust spread, or as it is.

    Learned: `donors_` (training readings), `medians_` (where no donor has the sensor), `spreads_` (units of distance).
    """

    def __init__(self, *, neighbors: int = 5, scaled: bool = True) -> None:
        self.neighbors = neighbors
        self.scaled = scaled

    def fit(self, X: Floats, y: None = None) -> Self:
        """Remember `X`, shape (wafers, sensors), as donors."""
        quarters = quartiles(X)
        self.medians_: Floats = np.nan_to_num(quarters[1])
        self.spreads_: Floats = spread(X, quarters) if self.scaled else np.ones(X.shape[1])
        self.donors_: Floats = np.array(X)
        return self

    def transform(self, X: Floats) -> Floats:
        """`X` without missing readings."""
        check_is_fitted(self)
        donors = (self.donors_ - self.medians_) / self.spreads_
        there = ~np.isnan(donors)
        donors = np.where(there, donors, 0.0)
        filled = np.where(np.isnan(X), self.medians_, X)
        for row in np.flatnonzero(np.isnan(X).any(axis=1)):
            filled[row] = self._fill(X[row], filled[row], donors, there)
        return filled

    def _fill(self, reading: Floats, filled: Floats, donors: Floats, there: NDArray[np.bool_]) -> Floats:
        known = ~np.isnan(reading)
        own = np.where(known, (filled - self.medians_) / self.spreads_, 0.0)
        both = there & known
        shared = both.sum(axis=1)
        gap = donors - own
        gap *= both
        apart = np.einsum("ij,ij->i", gap, gap)
        distance = np.where(shared > 0, apart / np.maximum(shared, 1), np.inf)
        nearest = np.argsort(distance, kind="stable")
        nearest = nearest[np.isfinite(distance[nearest])]
        result = filled.copy()
        for sensor in np.flatnonzero(~known):
            givers = nearest[there[nearest, sensor]][: self.neighbors]
            if len(givers):
                result[sensor] = self.donors_[givers, sensor].mean()
        return result


class ReferenceScaler(TransformerMixin, BaseEstimator):
    """Readings relative to a window of the training wafers before: (reading - median) / robust spread.

    Windows of `window` training wafers end every `step` wafers, counted back from the newest. A wafer is compared with
    the last window that ended before it; the earliest wafers with the first window. Drift that is slow against a
    window thus cancels, the idea of self-starting control charts (Hawkins, "Self-starting CUSUM charts for location and
    scale", The Statistician 36, 1987), with median and interquartile range against outliers.

    Parameters:
        window: training wafers in a window, at least 2.
        step: training wafers between the ends of two windows, at least 1.
        limit: relative readings are cut at ± this.

    Learned: `orders_` (sorted training orders), `ends_` (windows' ends, positions in `orders_`), `medians_` and
    `spreads_`, shape (windows, sensors).
    """

    def __init__(self, *, window: int = 200, step: int = 20, limit: float = 5.0) -> None:
        self.window = window
        self.step = step
        self.limit = limit

    def fit(self, X: Floats, y: None = None, *, order: Integers | None = None) -> Self:
        """Learn the windows of `X`, shape (wafers, sensors); without `order` there is one window, of all wafers."""
        size = len(X) if order is None else min(self.window, len(X))
        sequence = np.arange(len(X)) if order is None else np.argsort(order, kind="stable")
        self.orders_: Integers = np.zeros(len(X), np.int64) if order is None else order[sequence]
        self.ends_: Integers = np.arange(len(X), size - 1, -self.step, dtype=np.int64)[::-1].copy()
        overall = quartiles(X)
        wide = spread(X, overall)
        medians, spreads = [], []
        for end in self.ends_:
            rows = X[sequence[end - size : end]]
            quarters = quartiles(rows)
            seldom = np.isnan(rows).mean(axis=0) > 0.8
            medians.append(np.where(seldom, overall[1], quarters[1]))
            own = spread(rows, quarters)
            spreads.append(np.where(seldom | (own < 1e-3 * wide) | (quarters[2] == quarters[0]), wide, own))
        self.medians_: Floats = np.nan_to_num(np.array(medians))
        self.spreads_: Floats = np.array(spreads)
        return self

    def transform(self, X: Floats, *, order: Integers | None = None) -> Floats:
        """Relative readings of `X`; a missing one is 0. Without `order` the newest window serves all."""
        check_is_fitted(self)
        which = self.windows(len(X), order)
        relative = X - self.medians_[which]
        relative /= self.spreads_[which]
        np.clip(relative, -self.limit, self.limit, out=relative)
        relative[np.isnan(relative)] = 0.0
        return relative

    def windows(self, wafers: int, order: Integers | None = None) -> Integers:
        """The window that each wafer is compared with, shape (wafers,)."""
        if order is None:
            return np.full(wafers, len(self.ends_) - 1)
        before = np.searchsorted(self.orders_, order, side="left")
        return np.clip(np.searchsorted(self.ends_, before, side="right") - 1, 0, len(self.ends_) - 1)


class WaferFeatures(TransformerMixin, BaseEstimator):
    """From raw readings of all sensors to the features that models see.

    The columns are, sensor by sensor, first the readings on a robust scale of the training wafers, then flags of
    missing readings (`MissingPatterns`), then the readings relative to the reference window (`ReferenceScaler`).

    Parameters:
        max_missing: largest share of missing readings with which a sensor is used, 0 to 1.
        imputation: "median" (training median, and the window's median for relative readings) or "knn".
        neighbors: wafers averaged by "knn".
        reference_window: training wafers in a reference window.

    Learned: `selector_`, `patterns_`, `imputer_`, `scaler_`, `medians_`, `spreads_` (of the kept sensors).
    """

    def __init__(
        self, *, max_missing: float = 0.6, imputation: str = "median", neighbors: int = 5, reference_window: int = 200
    ) -> None:
        self.max_missing = max_missing
        self.imputation = imputation
        self.neighbors = neighbors
        self.reference_window = reference_window

    def fit(self, X: Floats, y: None = None, *, order: Integers | None = None) -> Self:
        """Learn from `X`, shape (wafers, sensors), NaN for missing; `order` is the production order."""
        selector, patterns, imputer, scaler = self.steps()
        self.selector_ = selector.fit(X)
        self.patterns_ = patterns.fit(X)
        kept = selector.transform(X)
        self.imputer_ = imputer.fit(kept)
        quarters = quartiles(kept)
        self.medians_: Floats = np.nan_to_num(quarters[1])
        self.spreads_: Floats = spread(kept, quarters)
        self.scaler_ = scaler.fit(kept, order=order)
        return self

    def steps(self) -> tuple[SensorSelector, MissingPatterns, MedianImputer | NeighborImputer, ReferenceScaler]:
        """The transformers that these parameters ask for, not fitted."""
        selector, scaler = SensorSelector(max_missing=self.max_missing), ReferenceScaler(window=self.reference_window)
        knn = self.imputation == "knn"
        return (
            selector,
            MissingPatterns(),
            NeighborImputer(neighbors=self.neighbors) if knn else MedianImputer(),
            scaler,
        )

    def transform(self, X: Floats, *, order: Integers | None = None) -> Floats:
        """Features of `X`, shape (wafers, features), C order."""
        check_is_fitted(self)
        kept = self.selector_.transform(X)
        filled = self.imputer_.transform(kept)
        F = np.empty((len(X), self.relative.stop))
        scaled = F[:, : kept.shape[1]]
        np.subtract(filled, self.medians_, out=scaled)
        scaled /= self.spreads_
        np.clip(scaled, -1e6, 1e6, out=scaled)
        F[:, kept.shape[1] : self.absolute.stop] = self.patterns_.transform(X)
        F[:, self.relative] = self.scaler_.transform(kept if self.imputation == "median" else filled, order=order)
        return F

    def missing(self, X: Floats) -> NDArray[np.bool_]:
        """Which readings of the kept sensors are missing, shape (wafers, kept)."""
        return np.isnan(self.selector_.transform(X))

    @property
    def sensors(self) -> Integers:
        """The sensor (position in the input) behind each feature, shape (features,)."""
        return np.concatenate([self.selector_.kept_, self.patterns_.flagged_, self.selector_.kept_])

    @property
    def absolute(self) -> slice:
        """The columns that hold readings on the training wafers' scale, and flags of missing ones."""
        return slice(0, len(self.selector_.kept_) + len(self.patterns_.flagged_))

    @property
    def relative(self) -> slice:
        """The columns that hold relative readings."""
        start = self.absolute.stop
        return slice(start, start + len(self.selector_.kept_))


def by_sensor(contributions: Floats, sensors: Integers, count: int) -> Floats:
    """Contributions of features summed by the sensor (of `count`) behind each, shape (wafers, count)."""
    return np.stack([np.bincount(sensors, weights=own, minlength=count) for own in contributions])
