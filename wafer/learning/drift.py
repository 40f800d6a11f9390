"""Has the process moved away from what the model knows?

A new batch is compared with a reference window of recent wafers in three ways: each sensor's population stability index
(Siddiqi, "Credit Risk Scorecards", 2006), changes in what is missing, and a classifier that tries to tell the two apart
(Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017). The classifier's AUC is the one score; what
is usual for it is learned from history, as batches of a drifting process always differ somewhat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from wafer.errors import ModelError
from wafer.learning.features import quartiles, spread
from wafer.learning.members import fit_bagged

Floats = NDArray[np.float64]

BINS = 10
TREES = 100
MARGIN = 0.02  # AUC that a batch may exceed the largest of history by: about one standard error for 100 wafers


@dataclass(frozen=True)
class Drift:
    """How far a batch is from the reference window.

    Attributes:
        score: out-of-bag ROC AUC of a forest that tells the batch from the window; 0.5 means no difference.
        threshold: largest score that is usual.
        unknown: share of wafers unlike anything seen, or NaN if not asked for.
        sensors: columns sensor, stability_index, missing_before, missing_now, shift; the most responsible first.
    """

    score: float
    threshold: float
    unknown: float
    sensors: pd.DataFrame

    @property
    def drifted(self) -> bool:
        """Whether the score is above what is usual."""
        return self.score > self.threshold


def measure_drift(
    reference: pd.DataFrame,
    batch: pd.DataFrame,
    *,
    threshold: float = 1.0,
    conformity: ArrayLike | None = None,
    level: float = 0.01,
    seed: int = 0,
) -> Drift:
    """Compare a batch with the reference window; both hold the same sensors, NaN for missing.

    Parameters:
        threshold: from `usual_drift`.
        conformity: the batch's p-values from `WaferModel.conformity`; those of at most `level` count as unknown.

    Raises:
        ModelError: the two do not hold the same sensors, or too few wafers.
    """
    _check(reference, batch)
    before, now = reference.to_numpy(np.float64), batch[reference.columns].to_numpy(np.float64)
    unknown = float("nan") if conformity is None else float(np.mean(np.asarray(conformity) <= level))
    table = sensor_drift(before, now, list(reference.columns))
    return Drift(_told_apart(before, now, seed), threshold, unknown, table)


def usual_drift(
    readings: pd.DataFrame, order: ArrayLike, batches: ArrayLike, *, window: int = 200, seed: int = 0
) -> float:
    """The threshold from history: the largest score of a past batch against the window before it, and a margin.

    Parameters:
        readings, order, batches: training wafers, their production order and batch names.
        window: wafers in the reference window; batches with fewer than half as many before them are left out.

    Returns: 1 (nothing is unusual) where there is no history.
    """
    places, names = np.asarray(order), np.asarray(batches)
    sequence = np.argsort(places, kind="stable")
    X = readings.to_numpy(np.float64)
    scores = []
    for name in pd.unique(names[sequence]):
        now = names == name
        earlier = sequence[places[sequence] < places[now].min()][-window:]
        if len(earlier) >= window // 2 and now.sum() >= 2:
            scores.append(_told_apart(X[earlier], X[now], seed))
    return min(1.0, max(scores) + MARGIN) if scores else 1.0


def sensor_drift(before: Floats, now: Floats, names: Sequence[str]) -> pd.DataFrame:
    """Each sensor's part in the drift: columns sensor, stability_index, missing_before, missing_now, shift.

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
            "stability_index": [stability_index(before[:, n], now[:, n]) for n in range(before.shape[1])],
            "missing_before": missing[0],
            "missing_now": missing[1],
            "shift": np.nan_to_num(shift),
        }
    )
    return table.sort_values("stability_index", ascending=False, kind="stable").reset_index(drop=True)


def stability_index(before: Floats, now: Floats) -> float:
    """The population stability index of one sensor over the deciles of `before` and a bin for missing readings.

    Shares are smoothed by half a wafer, so that an empty bin does not make it infinite.
    """
    there = before[~np.isnan(before)]
    cuts = np.unique(np.quantile(there, np.linspace(0, 1, BINS + 1)[1:-1])) if len(there) else np.empty(0)
    counts = [
        np.append(np.bincount(np.searchsorted(cuts, x[~np.isnan(x)]), minlength=len(cuts) + 1), np.isnan(x).sum())
        for x in (before, now)
    ]
    shares = [(count + 0.5) / (count.sum() + 0.5 * len(count)) for count in counts]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _told_apart(before: Floats, now: Floats, seed: int) -> float:
    X = np.vstack([before, now])
    filled = np.where(np.isnan(X), np.nan_to_num(quartiles(X)[1]), X)
    flags = np.isnan(X).astype(np.float64)
    is_new = np.arange(len(X)) >= len(before)
    settings = {"n_estimators": TREES, "min_samples_leaf": 2, "class_weight": "balanced_subsample"}
    _, score = fit_bagged("random_forest", settings, np.hstack([filled, flags]), is_new, seed=seed)
    return float(roc_auc_score(is_new, score))


def _check(reference: pd.DataFrame, batch: pd.DataFrame) -> None:
    missing = [name for name in reference.columns if name not in batch.columns]
    if missing:
        raise ModelError(f"the batch lacks {len(missing)} sensors of the reference window, {missing[0]} first")
    if min(len(reference), len(batch)) < 2:
        raise ModelError(f"drift needs two wafers on each side, got {len(reference)} and {len(batch)}")
