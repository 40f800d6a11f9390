"""Whether a ceiling of alarms holds batch by batch, by a fixed threshold and by a rolling one, on the same scores."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.learning.decision import TAILS, Policy
from wafer.learning.intervals import percentile_interval
from wafer.learning.metrics import DRAWS, bootstrap_weights, groups

Floats = NDArray[np.float64]
COLUMNS = ("protocol", "threshold", "alarm_rate", "largest", "within_twice", "recall", "cost")
GAINS = ("gain", "gain_low", "gain_high")


def budget(scores: pd.DataFrame, policy: Policy, *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """What both kinds of threshold make of an evaluation's scores.

    Parameters:
        scores: as of `wafer.learning.evaluation.score_splits`, of a model that keeps held-out scores.
        policy: costs and ceiling; its own kind of threshold does not count.
        draws, seed: of the paired bootstrap over wafers.

    Returns: one row per protocol and kind of threshold; columns protocol, threshold, alarm_rate, largest (rate of one
        fold or batch), within_twice (share of these with at most twice the ceiling), recall, cost (per 1,000 wafers),
        and gain, gain_low, gain_high: recall less that of a fixed threshold that raises as many alarms in all. Nothing
        of a protocol that lacks scores of either class, or whose scores do not tell.
    """
    rows: list[dict[str, Any]] = []
    for protocol in ("shuffled", "forward"):
        own = scores[(scores["protocol"] == protocol) & scores["probability"].notna()].reset_index(drop=True)
        faulty = own["label"].to_numpy() == 1
        told = set(TAILS.values()) <= set(own.columns) and own[list(TAILS.values())].notna().all(axis=None)
        if not told or not faulty.any() or faulty.all():
            continue
        weights = bootstrap_weights(own, draws, seed)
        for kind, column in TAILS.items():
            alarm = policy.alarms(own["probability"].to_numpy(float), own[column].to_numpy(float))
            rates = np.array([alarm[positions].mean() for positions in groups(own)])
            gains = (weights @ (faulty & alarm) - weights @ (faulty & _as_many(own, int(alarm.sum())))) / faulty.sum()
            rows.append(
                {
                    **{"protocol": protocol, "threshold": kind, "alarm_rate": float(alarm.mean())},
                    "largest": float(rates.max()),
                    "within_twice": float(np.mean(rates <= 2 * policy.alarm_rate_ceiling + 1e-9)),
                    **{"recall": float(alarm[faulty].mean()), "cost": policy.cost(faulty, alarm)},
                    **dict(zip(GAINS, (float(gains[0]), *percentile_interval(gains[0], gains[1:])), strict=True)),
                }
            )
    return pd.DataFrame(rows, columns=[*COLUMNS, *GAINS])


def _as_many(scores: pd.DataFrame, alarms: int) -> NDArray[np.bool_]:
    """The wafers of so many alarms by a fixed threshold, whatever ceiling that takes."""
    ranked = np.lexsort((-scores["probability"].to_numpy(float), scores["tail"].to_numpy(float)))
    chosen = np.zeros(len(scores), bool)
    chosen[ranked[:alarms]] = True
    return chosen
