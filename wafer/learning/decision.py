"""From a score to a probability, and from a probability to an alarm."""

import reprlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from wafer.errors import ParameterError
from wafer.params import LARGEST_COST, RECENT

Floats = NDArray[np.float64]
Kind = Literal["fixed", "rolling"]
TAILS = {"fixed": "tail", "rolling": "recent_tail"}
"""The column of an evaluation's scores with which any policy's alarms follow, by the kind of threshold."""


@dataclass(frozen=True)
class Policy:
    """What an alarm may cost.

    Attributes:
        cost_missed_fault: cost of a faulty wafer without alarm, above 0, at most 1e9, in any unit.
        cost_false_alarm: cost of an alarm on a good wafer, above 0, same unit.
        alarm_rate_ceiling: largest share of wafers that may raise an alarm, between 0 and 1; of a rolling threshold at
            least 1 / (RECENT + 1), which is the rarest that can be told from so many wafers.
        threshold: "fixed": one for all wafers, by held-out scores; "rolling": one for each wafer, by the scores of the
            RECENT wafers before it.

    Raises:
        ParameterError: an impossible value.
    """

    cost_missed_fault: float = 20.0
    cost_false_alarm: float = 1.0
    alarm_rate_ceiling: float = 0.10
    threshold: Kind = "rolling"

    def __post_init__(self) -> None:
        for name in ("cost_missed_fault", "cost_false_alarm", "alarm_rate_ceiling"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise ParameterError(f"{name} must be a number, got {reprlib.repr(value)}")
            object.__setattr__(self, name, float(value))  # 50 and 50.0 are one policy, also in the bytes of a model
        for name in ("cost_missed_fault", "cost_false_alarm"):
            if not 0 < getattr(self, name) <= LARGEST_COST:
                raise ParameterError(
                    f"{name} must be above 0, at most {LARGEST_COST:,.0f}, got {getattr(self, name)!r}"
                )
        if not 0 < self.alarm_rate_ceiling < 1:
            raise ParameterError(f"alarm_rate_ceiling must lie between 0 and 1, got {self.alarm_rate_ceiling!r}")
        if self.threshold not in get_args(Kind):
            raise ParameterError(f"threshold must be fixed or rolling, got {reprlib.repr(self.threshold)}")
        if self.threshold == "rolling" and self.alarm_rate_ceiling * (RECENT + 1) < 1:
            raise ParameterError(
                f"alarm_rate_ceiling must be at least {1 / (RECENT + 1):.4f} where the threshold is rolling, since it "
                f"follows {RECENT} wafers, got {self.alarm_rate_ceiling!r}: take a fixed threshold for fewer alarms"
            )

    @property
    def worthwhile(self) -> float:
        """The probability from which an alarm is worth its cost: the Bayes rule for two costs.

        Elkan, "The foundations of cost-sensitive learning", IJCAI 2001.
        """
        return self.cost_false_alarm / (self.cost_false_alarm + self.cost_missed_fault)

    def fixed_threshold(self, probability: Floats) -> float:
        """Alarm from this probability on: worthwhile, and no more alarms than the ceiling among `probability`.

        Parameters:
            probability: probabilities of wafers like those to come, not used in training; shape (wafers,).
        """
        ranked = np.sort(probability)[::-1]
        allowed = int(np.floor(self.alarm_rate_ceiling * len(ranked) + 1e-9))
        if allowed >= len(ranked):
            return self.worthwhile
        least = float(np.nextafter(ranked[allowed], np.inf))
        return max(self.worthwhile, least)

    def rolling_thresholds(self, recent: Floats, probability: Floats) -> Floats:
        """Alarm for each wafer from this probability on: worthwhile, and its `recent_tails` within the ceiling.

        Parameters as of `recent_tails`; shape of `probability`. Where too few are known it is above 1.
        """
        windows, known = _windows(recent, probability)
        place = np.floor(self.alarm_rate_ceiling * (known + 1) + 1e-9).astype(int) - 1
        least = np.nextafter(windows[np.arange(len(windows)), np.maximum(place, 0)], np.inf)
        found = np.where(place >= 0, least, np.nextafter(1.0, 2.0))
        return np.asarray(np.maximum(found, self.worthwhile))

    def affordable(self, tail: Floats) -> NDArray[np.bool_]:
        """Which alarms the ceiling leaves room for, by their tail; where that is NaN, all."""
        return ~(tail > self.alarm_rate_ceiling + 1e-12)

    def alarms(self, probability: Floats, tail: Floats) -> NDArray[np.bool_]:
        """Which wafers reach their threshold, by their `tail_share` or `recent_tails` alone; see `TAILS`."""
        return (probability >= self.worthwhile) & self.affordable(tail)

    def cost(self, faulty: NDArray[np.bool_], alarm: NDArray[np.bool_]) -> float:
        """Cost per 1,000 wafers of these alarms."""
        missed = np.sum(faulty & ~alarm) * self.cost_missed_fault
        false = np.sum(~faulty & alarm) * self.cost_false_alarm
        return float(1000 * (missed + false) / len(faulty))


def tail_share(held_out: Floats, probability: Floats) -> Floats:
    """Share of the held-out scores at or above each probability: with it, any policy's alarms follow without them."""
    at_least = len(held_out) - np.searchsorted(np.sort(held_out), probability, side="left")
    return np.asarray(at_least / max(len(held_out), 1))


def recent_tails(recent: Floats, probability: Floats) -> Floats:
    """Share of the RECENT wafers before each one, and itself, with at least its probability, shape of `probability`.

    While nothing changes, it lies within any ceiling for no larger share of the wafers: it is a conformal p-value of a
    high probability (Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005).

    Parameters:
        recent: probabilities of the wafers before, oldest first.
        probability: of wafers in production order. Those without one (NaN) are passed over, here and in `recent`.
    """
    windows, known = _windows(recent, probability)
    return np.asarray((1 + np.sum(windows >= probability[:, None], axis=1)) / (known + 1))


def _windows(recent: Floats, probability: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The RECENT probabilities before each wafer, highest first, -inf for those that are lacking, and their number."""
    known = np.isfinite(probability)
    lacking = np.full(RECENT, -np.inf)
    history = np.concatenate([lacking, recent[np.isfinite(recent)][-RECENT:], probability[known]])
    before = len(history) - int(known.sum()) - RECENT + np.cumsum(known) - known
    windows = -np.sort(-sliding_window_view(history, RECENT)[before], axis=1)
    return windows, np.sum(np.isfinite(windows), axis=1)


def threshold_curve(faulty: NDArray[np.bool_], probability: Floats, policy: Policy) -> pd.DataFrame:
    """Every threshold's consequences: columns threshold, alarm_rate, recall, false_alarm_rate, cost_per_1000."""
    thresholds = np.unique(probability)
    ranked = np.sort(probability)
    ranked_faulty = np.sort(probability[faulty])
    alarms = len(ranked) - np.searchsorted(ranked, thresholds, side="left")
    caught = len(ranked_faulty) - np.searchsorted(ranked_faulty, thresholds, side="left")
    faults, goods = max(len(ranked_faulty), 1), max(len(ranked) - len(ranked_faulty), 1)
    missed = len(ranked_faulty) - caught
    cost = missed * policy.cost_missed_fault + (alarms - caught) * policy.cost_false_alarm
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "alarm_rate": alarms / len(ranked),
            "recall": caught / faults,
            "false_alarm_rate": (alarms - caught) / goods,
            "cost_per_1000": 1000 * cost / len(ranked),
        }
    )


@dataclass(frozen=True)
class Sigmoid:
    """Probability 1 / (1 + exp(-(slope * score + offset))).

    Platt, "Probabilistic outputs for support vector machines", 1999.
    """

    slope: float
    offset: float

    def logit(self, score: Floats) -> Floats:
        """Log-odds of a fault, shape of `score`."""
        return self.slope * score + self.offset

    def probability(self, score: Floats) -> Floats:
        """Probability of a fault, shape of `score`."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.logit(score), -500, 500)))


def fit_sigmoid(score: Floats, faulty: NDArray[np.bool_], *, steps: int = 100) -> Sigmoid:
    """The sigmoid that turns scores of wafers outside training into probabilities; its slope is never negative.

    Newton's method on the smoothed targets of Platt (1999), stabilised as by Lin, Lin and Weng, "A note on Platt's
    probabilistic outputs", Machine Learning 68, 2007. The score is standardised meanwhile.
    """
    faults = int(faulty.sum())
    goods = len(faulty) - faults
    target = np.where(faulty, (faults + 1) / (faults + 2), 1 / (goods + 2))
    base = float(np.log((faults + 1) / (goods + 1)))
    centre, scale = float(np.mean(score)), float(np.std(score))
    if not scale > 0:
        return Sigmoid(0.0, base)
    z = (score - centre) / scale
    slope, offset = 0.0, base
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(slope * z + offset, -500, 500)))
        gradient = np.array([np.sum((p - target) * z) + 1e-6 * slope, np.sum(p - target)])
        w = np.maximum(p * (1 - p), 1e-12)
        hessian = np.array([[np.sum(w * z * z) + 1e-6, np.sum(w * z)], [np.sum(w * z), np.sum(w) + 1e-9]])
        move = np.linalg.solve(hessian, gradient)
        move *= min(1.0, 2.0 / max(float(np.max(np.abs(move))), 1e-300))
        slope, offset = slope - float(move[0]), offset - float(move[1])
        if np.max(np.abs(move)) < 1e-10:
            break
    if slope <= 0:
        return Sigmoid(0.0, base)
    return Sigmoid(slope / scale, offset - slope * centre / scale)
