"""Has the process moved away from what the model knows?

A new batch is compared with a reference window of recent wafers by each sensor's population stability index (Siddiqi,
"Credit Risk Scorecards", 2006), in which missing readings count as a bin. Its mean over the sensors is the one score;
what is usual for it is learned from history, as batches of a drifting process always differ somewhat. The limit is a
one-sided prediction limit for one more batch (Hahn and Meeker, "Statistical Intervals", 1991): so long as batches
differ as they used to, a share `FALSE_ALARM_RATE` of them exceeds it, however long the history is.

The AUC of a domain classifier, which tries to tell the two apart, is a second witness (Lopez-Paz and Oquab, "Revisiting
classifier two-sample tests", ICLR 2017), which also sees sensors that change together. It is not the score, because it
tells every batch of the real process apart almost without error: nothing would ever be more than usual.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from wafer.diagnosis.novelty import is_unknown, usual_unknown
from wafer.errors import ModelError
from wafer.learning.features import WaferFeatures, quartiles, spread
from wafer.learning.forests import grow, out_of_bag
from wafer.learning.members import RandomForest
from wafer.records import with_units

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BINS = 10
TREES = 100  # of the classifier
LARGEST = 1e38  # that a forest, which reads single precision, can take
FEWEST = 20  # wafers on each side, below which a score says next to nothing
FEWEST_BATCHES = 3  # past ones below which there is no limit: with two it would lie eight standard deviations above
FALSE_ALARM_RATE = 0.05  # of batches that differ from the window as past ones did
DUST = 1e-9  # of a limit that is rounding alone


@dataclass(frozen=True)
class Drift:
    """How far a batch is from the reference window.

    Attributes:
        score: mean stability index of the sensors beyond chance, see `mean_excess`; 0 means no difference.
        threshold: above which a score is more than usual; None with too little history.
        domain_auc: out-of-bag ROC AUC of a forest that tells the batch from the window; 0.5 means no difference.
        unknown: share of wafers unlike anything seen, or NaN if not asked for.
        sensors: columns sensor, stability_index, missing_before, missing_now, shift; the most responsible first.
    """

    score: float
    threshold: float | None
    domain_auc: float
    unknown: float
    sensors: pd.DataFrame

    @property
    def drifted(self) -> bool:
        """Whether the score is above what is usual; never where nobody knows what that is."""
        return self.threshold is not None and self.score > self.threshold


@dataclass(frozen=True)
class DriftReference:
    """What a model keeps to compare later batches with.

    Attributes:
        readings: of the newest training wafers, shape (wafers, sensors), NaN for missing.
        newest: production order of the last of them.
        threshold: above which a batch's score is more than usual, from `usual_drift`; None with too little history.
        domain_auc: the same of the domain classifier's AUC, from `usual_domain_auc`.
        unknown: usual share of unknown wafers, from `wafer.diagnosis.novelty.usual_unknown`; None without history.
    """

    readings: Floats
    newest: int
    threshold: float | None
    domain_auc: float | None
    unknown: float | None

    @classmethod
    def learn(
        cls,
        readings: Floats,
        order: NDArray[np.int64],
        batches: NDArray[np.object_],
        make_features: Callable[[], WaferFeatures],
        *,
        window: int,
    ) -> "DriftReference | None":
        """From training wafers, shape (wafers, sensors), with a window of so many; None from fewer than `FEWEST`."""
        newest = np.argsort(order, kind="stable")[-window:]
        if len(newest) < FEWEST:
            return None
        frame = pd.DataFrame(readings)
        threshold = usual_drift(frame, order, batches, window=window)
        usual = usual_domain_auc(frame, order, batches, window=window)
        unknown = usual_unknown(readings, order, batches, make_features)
        return cls(readings[newest], int(order[newest[-1]]), threshold, usual, unknown)

    def can_compare(self, wafers: int) -> bool:
        """Whether so many wafers are enough to be compared with the window."""
        return wafers >= FEWEST

    def compare(self, readings: Floats, p_value: Floats, names: Sequence[str]) -> Drift:
        """How far wafers of these readings, shape (wafers, sensors), are from the window; `names` are the sensors'."""
        before, now = (pd.DataFrame(values, columns=list(names)) for values in (self.readings, readings))
        return measure_drift(before, now, threshold=self.threshold, p_value=p_value)


def measure_drift(
    reference: pd.DataFrame,
    batch: pd.DataFrame,
    *,
    threshold: float | None = None,
    p_value: ArrayLike | None = None,
) -> Drift:
    """Compare a batch with the reference window; both hold the same sensors, NaN for missing.

    Parameters:
        threshold: from `usual_drift`.
        p_value: of the batch's wafers, from `wafer.diagnosis.novelty`, whose `is_unknown` counts; None: not asked for.

    Raises:
        ModelError: the two do not hold the same sensors, or fewer than `FEWEST` wafers.
    """
    _check(reference, batch)
    before, now = reference.to_numpy(np.float64), batch[reference.columns].to_numpy(np.float64)
    unknown = float("nan") if p_value is None else float(is_unknown(np.asarray(p_value)).mean())
    index, chance = stability_indices(before, now)
    table = with_units(_sensor_table(before, now, list(reference.columns), index), "Drift.sensors")
    return Drift(float(np.mean(index - chance)), threshold, domain_auc(before, now), unknown, table)


def usual_drift(readings: pd.DataFrame, order: ArrayLike, batches: ArrayLike, *, window: int = 200) -> float | None:
    """The threshold from history: the limit of `drift_limit` from each past batch's score against the window before it.

    Parameters:
        readings, order, batches: training wafers, their production order and batch names.
        window: wafers in the reference window; batches of fewer than `FEWEST` wafers, or with fewer than half a window
            before them, are left out.

    Returns: None from fewer than `FEWEST_BATCHES` past batches.
    """
    X = readings.to_numpy(np.float64)
    past = list(_history(order, batches, window))
    scores = [mean_excess(X[earlier], X[now]) for earlier, now in past]
    return drift_limit(scores, [1 / len(earlier) + 1 / len(now) for earlier, now in past])


def drift_limit(scores: ArrayLike, chance: ArrayLike) -> float | None:
    """The score that one more batch exceeds with the chance `FALSE_ALARM_RATE`, where it differs as past ones did.

    Scores are skewed, as sums of squares are, so the limit is one of their cube roots, which are about normal (Wilson
    and Hilferty, PNAS 17, 1931). They are counted from a third of what chance alone adds to a stability index below 0,
    since the noise of so many sensors never cancels wholly.

    Parameters:
        scores: of past batches, from `mean_excess`.
        chance: 1/m + 1/n of the wafers of each and of its window.

    Returns: None from fewer than `FEWEST_BATCHES`.
    """
    if len(values := np.asarray(scores, np.float64)) < FEWEST_BATCHES:
        return None
    start = BINS / 3 * float(np.mean(np.asarray(chance, np.float64)))
    return _prediction_limit(np.cbrt(values + start)) ** 3 - start + DUST


def usual_domain_auc(
    readings: pd.DataFrame, order: ArrayLike, batches: ArrayLike, *, window: int = 200
) -> float | None:
    """The same of the ROC AUC with which each past batch was told from the window before it, by `domain_limit`."""
    X = readings.to_numpy(np.float64)
    return domain_limit([domain_auc(X[earlier], X[now]) for earlier, now in _history(order, batches, window)])


def domain_limit(aucs: ArrayLike) -> float | None:
    """The AUC that one more batch exceeds with the chance `FALSE_ALARM_RATE`, by arcsines of roots, as of shares.

    It is 1 where past batches, shape (batches,), were told almost without error: then none is more than usual. None
    from fewer than `FEWEST_BATCHES`.
    """
    if len(values := np.asarray(aucs, np.float64)) < FEWEST_BATCHES:
        return None
    return float(np.sin(min(_prediction_limit(np.arcsin(np.sqrt(values))) + DUST, np.pi / 2)) ** 2)


def _prediction_limit(values: Floats) -> float:
    """What one more normal value exceeds with the chance `FALSE_ALARM_RATE`."""
    wide = t.isf(FALSE_ALARM_RATE, len(values) - 1) * np.sqrt(1 + 1 / len(values))
    return float(values.mean() + wide * values.std(ddof=1))


def _history(order: ArrayLike, batches: ArrayLike, window: int) -> Iterator[tuple[Integers, Integers]]:
    """Positions of the window before each past batch, and of the batch, where both are large enough."""
    places, names = np.asarray(order), np.asarray(batches)
    sequence = np.argsort(places, kind="stable")
    for name in pd.unique(names[sequence]):
        now = np.flatnonzero(names == name)
        earlier = sequence[places[sequence] < places[now].min()][-window:]
        if len(earlier) >= window // 2 and len(now) >= FEWEST:
            yield earlier, now


def _sensor_table(before: Floats, now: Floats, names: Sequence[str], indices: Floats) -> pd.DataFrame:
    """Each sensor's share of the drift, see `Drift.sensors`.

    A stability index above 0.25 is usually called a large change, below 0.1 none. `shift` is the change of the median
    in robust standard deviations of the window. Missing readings are a bin of their own.
    """
    quarters = quartiles(before)
    wide = spread(before, quarters)
    shift = (quartiles(now)[1] - quarters[1]) / wide
    missing = np.isnan(before).mean(axis=0), np.isnan(now).mean(axis=0)
    table = pd.DataFrame(
        {
            "sensor": list(names),
            "stability_index": indices,
            "missing_before": missing[0],
            "missing_now": missing[1],
            "shift": np.nan_to_num(shift),
        }
    )
    return table.sort_values("stability_index", ascending=False, kind="stable").reset_index(drop=True)


def stability_indices(before: Floats, now: Floats) -> tuple[Floats, Floats]:
    """The population stability index of each sensor, and what it is on average where nothing has changed.

    Bins are the deciles of `before` and one for missing readings; both are of shape (wafers, sensors). Shares are
    smoothed by half a wafer, so that an empty bin does not make the index infinite.
    """
    cuts = _deciles(before)
    counts = [_bin_counts(X, cuts) for X in (before, now)]
    # equal deciles are one; those of a sensor never read are none, and its readings one bin
    distinct = np.vstack([np.ones(before.shape[1], bool), np.diff(cuts, axis=0) > 0])
    distinct = np.vstack([distinct & ~np.isnan(cuts[0]), np.ones((2, before.shape[1]), bool)])
    index, chance = np.empty((2, before.shape[1]))
    patterns, which = np.unique(distinct, axis=1, return_inverse=True)
    for number, used in enumerate(patterns.T):
        own = np.flatnonzero(which == number)
        index[own], chance[own] = _index_and_chance(*(count[np.ix_(used, own)].T for count in counts))
    return index, chance * (1 / len(before) + 1 / len(now))


def _deciles(X: Floats) -> Floats:
    """The inner deciles of each column, shape (9, sensors), linear as `numpy.quantile`; NaN for empty columns."""
    ranked, present = np.sort(X, axis=0), np.sum(~np.isnan(X), axis=0)
    result = np.full((BINS - 1, X.shape[1]), np.nan)
    columns = np.flatnonzero(present)
    for row, share in enumerate(np.linspace(0, 1, BINS + 1)[1:-1]):
        place = share * (present[columns] - 1)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, present[columns] - 1)
        below, above, rest = ranked[low, columns], ranked[high, columns], place - low
        gap = above - below
        result[row, columns] = np.where(rest >= 0.5, above - gap * (1 - rest), below + gap * rest)
    return result


def _bin_counts(X: Floats, cuts: Floats) -> Integers:
    """Wafers up to each cut and beyond the one before, above the last, and without reading; shape (cuts + 2, sensors).

    Of equal cuts the first counts the wafers and the others none.
    """
    missing = np.isnan(X).sum(axis=0)
    up_to = np.array([(cut >= X).sum(axis=0) for cut in cuts])
    present = len(X) - missing
    return np.vstack([np.diff(up_to, axis=0, prepend=0), present - up_to[-1], missing])


def _index_and_chance(before: Integers, now: Integers) -> tuple[Floats, Floats]:
    """Of sensors with the same bins; wafers in each, shape (sensors, bins)."""
    counts = [np.ascontiguousarray(count) for count in (before, now)]
    shares = [(count + 0.5) / (count.sum(axis=1, keepdims=True) + 0.5 * count.shape[1]) for count in counts]
    index = np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0]), axis=1)
    return index, np.sum(counts[0] + counts[1] > 0, axis=1) - 1.0


def mean_excess(before: Floats, now: Floats) -> float:
    """The mean stability index of all sensors, less what chance gives so many wafers; near 0 where nothing changed.

    Without a change the index is (1/m + 1/n) times a chi-squared variable of one degree of freedom less than there are
    bins (Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model
    Validation 14, 2020), so batches of different size can be compared by what exceeds its mean.
    """
    index, chance = stability_indices(before, now)
    return float(np.mean(index - chance))


def domain_auc(before: Floats, now: Floats) -> float:
    """Out-of-bag ROC AUC of a forest that tells wafers of `now` from those of `before`; 0.5 means it cannot."""
    X = np.vstack([before, now])
    filled = np.clip(np.where(np.isnan(X), np.nan_to_num(quartiles(X)[1]), X), -LARGEST, LARGEST)
    is_new = np.arange(len(X)) >= len(before)
    features = np.hstack([filled, np.isnan(X)]).astype(np.float32)
    grown = grow(
        RandomForest.splitter,
        features,
        is_new,
        seed=0,
        n_estimators=TREES,
        min_samples_leaf=2,
        class_weight="balanced_subsample",
    )
    return float(roc_auc_score(is_new, out_of_bag(grown, features)))


def _check(reference: pd.DataFrame, batch: pd.DataFrame) -> None:
    missing = [name for name in reference.columns if name not in batch.columns]
    if missing:
        raise ModelError(f"the batch lacks {len(missing)} sensors of the reference window, {missing[0]} first")
    if min(len(reference), len(batch)) < FEWEST:
        raise ModelError(f"drift needs {FEWEST} wafers on each side, got {len(reference)} and {len(batch)}")
