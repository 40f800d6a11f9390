"""What out-of-fold scores are worth: metrics with bootstrap intervals, and the paired comparison of two models.

Wafers are resampled with replacement within each class (Efron and Tibshirani, "An Introduction to the Bootstrap",
1993); a wafer that was scored in several repeats is drawn with all its scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.errors import ParameterError
from wafer.learning.decision import Policy
from wafer.learning.intervals import percentile_interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Measure = Callable[[pd.DataFrame, Floats], Floats]  # of scores, for each row of weights

DRAWS = 1000
BINS = 10  # of the calibration error
ALARM_RATES = (0.05, 0.10, 0.20)


def summarise(
    scores: pd.DataFrame, policy: Policy | None = None, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Every metric of one protocol's scores, each with the bounds of its 95 % interval as `<metric>_low` and `_high`.

    `auc` and the recalls are taken within each fold or batch, as wafers are ranked there: the AUC averaged over folds
    (shuffled), or weighted by the batches' faults (forward). All else is taken over all scored wafers.

    Parameters:
        scores: columns protocol, repeat, fold, row, label (-1, 1), probability, alarm; see `wafer.learning.evaluation`.
            Wafers without a probability are left out.
        policy: whose costs count.
        draws: bootstrap samples.

    Returns: finite numbers, each within its interval; `confusion` holds tp, fp, tn, fn, summed over repeats.

    Raises:
        ParameterError: no scores, or of wafers of one class alone.
    """
    scores = scores[np.isfinite(scores["probability"].to_numpy(np.float64))].reset_index(drop=True)
    if scores.empty:
        raise ParameterError("there are no scores to summarise")
    if scores["label"].nunique() < 2:
        raise ParameterError(f"scores of one class alone say nothing, all labels are {scores['label'].iloc[0]}")
    if not scores["label"].isin((-1, 1)).all():
        raise ParameterError("the scores' labels must be -1 (good) or 1 (faulty), got others")
    weights = bootstrap_weights(scores, draws, seed)
    values = _metrics(scores, weights, policy or Policy())
    result: dict[str, Any] = {}
    for name, drawn in values.items():
        result[name] = float(drawn[0])
        result[f"{name}_low"], result[f"{name}_high"] = percentile_interval(result[name], drawn[1:])
    faulty, alarm = scores["label"].to_numpy() == 1, scores["alarm"].to_numpy(bool)
    result["confusion"] = {
        "tp": int(np.sum(faulty & alarm)),
        "fp": int(np.sum(~faulty & alarm)),
        "tn": int(np.sum(~faulty & ~alarm)),
        "fn": int(np.sum(faulty & ~alarm)),
    }
    return result


def recall_name(rate: float) -> str:
    """The metric of the recall at an alarm rate."""
    return f"recall_at_alarm_rate_{round(100 * rate)}"


def bootstrap_weights(scores: pd.DataFrame, draws: int, seed: int | tuple[int, ...]) -> NDArray[np.float64]:
    """How often each score counts; the first row is all ones, then one row per bootstrap sample."""
    rows, place = np.unique(scores["row"].to_numpy(), return_inverse=True)
    faulty = np.zeros(len(rows), bool)
    faulty[place] = scores["label"].to_numpy() == 1
    chance = np.random.default_rng(seed)
    counts = np.ones((draws + 1, len(rows)))
    for members in (np.flatnonzero(faulty), np.flatnonzero(~faulty)):
        if len(members):
            drawn = chance.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
            counts[1:, members] = drawn
    return np.asarray(counts[:, place])


def auc_draws(scores: pd.DataFrame, weights: Floats) -> Floats:
    """The protocol's ROC AUC for each row of `weights`; 0.5 where no group holds both classes."""
    by_faults = scores["protocol"].iloc[0] == "forward"
    total, mass = np.zeros(len(weights)), np.zeros(len(weights))
    for positions in groups(scores):
        faulty = scores["label"].to_numpy()[positions] == 1
        score = scores["probability"].to_numpy()[positions]
        wins = _wins(score[faulty], score[~faulty])
        w_faulty, w_good = weights[:, positions[faulty]], weights[:, positions[~faulty]]
        pairs = w_faulty.sum(axis=1) * w_good.sum(axis=1)
        won = ((w_faulty @ wins) * w_good).sum(axis=1)
        share = np.where(pairs > 0, w_faulty.sum(axis=1) if by_faults else 1.0, 0.0)
        total += share * won / np.where(pairs > 0, pairs, 1.0)
        mass += share
    return np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), 0.5)


def groups(scores: pd.DataFrame) -> list[NDArray[np.int64]]:
    """Positions of the scores of each fold or batch."""
    return [np.asarray(rows) for rows in scores.groupby(["repeat", "fold"], sort=False).indices.values()]


def _wins(faulty: Floats, good: Floats) -> Floats:
    return np.asarray((faulty[:, None] > good[None, :]) + 0.5 * (faulty[:, None] == good[None, :]))


def _recall_draws(scores: pd.DataFrame, weights: Floats, rate: float) -> Floats:
    """Share of faults among the `rate` of wafers with the highest probability in each fold or batch."""
    caught, faults = np.zeros(len(weights)), np.zeros(len(weights))
    for positions in groups(scores):
        ranking = positions[np.argsort(-scores["probability"].to_numpy()[positions], kind="stable")]
        w = weights[:, ranking]
        above = np.cumsum(w, axis=1) - w
        budget = rate * w.sum(axis=1, keepdims=True)
        taken = np.clip(budget - above, 0.0, w)
        faulty = scores["label"].to_numpy()[ranking] == 1
        caught += (taken * faulty).sum(axis=1)
        faults += (w * faulty).sum(axis=1)
    return caught / np.maximum(faults, 1e-12)


def _average_precision_draws(label: Bools, probability: Floats, weights: Floats) -> Floats:
    """Mean precision over the faults, ranked by probability; equal ones count together, as scikit-learn has it."""
    ranking = np.argsort(-probability, kind="stable")
    ranked = probability[ranking]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    w = weights[:, ranking]
    alarms = np.cumsum(w, axis=1)[:, ends]
    caught = np.cumsum(w * label[ranking], axis=1)[:, ends]
    precision = caught / np.maximum(alarms, 1e-12)
    steps = np.diff(caught, axis=1, prepend=0.0)
    mean = (steps * precision).sum(axis=1) / np.maximum(caught[:, -1], 1e-12)
    return np.asarray(np.clip(mean, 0.0, 1.0))  # the sum of steps may round to more than the whole


def _calibration_draws(label: Bools, probability: Floats, weights: Floats) -> Floats:
    """Mean gap between probability and share of faults, over bins of equally many wafers.

    Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
    """
    ranking = np.argsort(probability, kind="stable")
    starts = np.unique(np.linspace(0, len(ranking), BINS + 1).astype(int)[:-1])
    gaps = weights[:, ranking] * (probability - label)[ranking]
    return np.asarray(np.abs(np.add.reduceat(gaps, starts, axis=1)).sum(axis=1) / weights.sum(axis=1))


def _metrics(scores: pd.DataFrame, weights: Floats, policy: Policy) -> dict[str, Floats]:
    faulty = scores["label"].to_numpy() == 1
    alarm = scores["alarm"].to_numpy(bool)
    probability = scores["probability"].to_numpy(float)
    mass = weights.sum(axis=1)
    faults, goods = weights @ faulty, weights @ ~faulty
    missed, false = weights @ (faulty & ~alarm), weights @ (~faulty & alarm)
    miss_rate, false_rate = missed / np.maximum(faults, 1e-12), false / np.maximum(goods, 1e-12)
    share = faults / mass
    brier = weights @ (probability - faulty) ** 2 / mass
    cost = missed * policy.cost_missed_fault + false * policy.cost_false_alarm
    result = {
        "auc": auc_draws(scores, weights),
        "accuracy": 1.0 - (missed + false) / mass,
        "average_precision": _average_precision_draws(faulty, probability, weights),
        "balanced_error_rate": (miss_rate + false_rate) / 2,
        "recall": 1.0 - miss_rate,
        "false_alarm_rate": false_rate,
    }
    for rate in ALARM_RATES:
        result[recall_name(rate)] = _recall_draws(scores, weights, rate)
    result |= {
        "brier": brier,
        "brier_skill": 1.0 - brier / np.maximum(share * (1.0 - share), 1e-12),
        "calibration_error": _calibration_draws(faulty, probability, weights),
        "cost_per_1000": 1000 * cost / mass,
        "alarm_rate": (weights @ alarm) / mass,
    }
    return result


@dataclass(frozen=True)
class Comparison:
    """Two models on the same wafers; a difference is the first's figure less the second's, with its paired interval.

    The ROC AUC is that of `summarise`; all that concerns it is None where no fold or batch holds both classes. Costs
    are per 1,000 wafers.
    """

    auc_first: float | None
    auc_second: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    cost_first: float
    cost_second: float
    cost_difference: float
    cost_low: float
    cost_high: float


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    policy: Policy | None = None,
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Paired comparison of two models' scores of the same wafers in the same folds.

    Both models are drawn with the same wafers each time; the gate and the model card ask this one function.

    Parameters:
        first, second: as of `summarise`; an alarm may be a share of 1, where repeats were averaged. Wafers that one of
            them gave no probability are left out.
        policy: whose costs count.
        confidence: of the two-sided intervals.
        draws, seed: of the bootstrap.

    Raises:
        ParameterError: the two do not score the same wafers under the same protocol, or there are none.
    """
    one, two = _paired(first, second)
    measures = (auc_draws, partial(_cost_draws, policy or Policy()))
    points, drawn = _figures((one, two), measures, draws, seed)
    levels = (50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence))
    found = []
    for point, figures in zip(points, drawn, strict=True):  # of the ROC AUC, of the cost
        gap = float(point[0] - point[1])
        interval = percentile_interval(gap, figures[:, 0] - figures[:, 1], levels)
        found += [float(point[0]), float(point[1]), gap, *interval]
    faulty = one["label"].to_numpy() == 1
    ranked = any(faulty[rows].any() and not faulty[rows].all() for rows in groups(one))
    return Comparison(*(found[:5] if ranked else [None] * 5), *found[5:])


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both models' scores of the wafers that both gave a probability, in the same sequence."""
    keys = ["protocol", "repeat", "fold", "row"]
    one, two = (scores.sort_values(keys, kind="stable").reset_index(drop=True) for scores in (first, second))
    if len(one) != len(two) or not one[[*keys, "label"]].equals(two[[*keys, "label"]]):
        raise ParameterError("the two models' scores are not of the same wafers in the same folds")
    known = np.isfinite(one["probability"].to_numpy(float)) & np.isfinite(two["probability"].to_numpy(float))
    if not known.any():
        raise ParameterError("there are no wafers to compare the two models on")
    return one[known].reset_index(drop=True), two[known].reset_index(drop=True)


def recall_gains(first: pd.DataFrame, second: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """What the first catches more than the second at equal alarms, with paired intervals; frames as of `compare`.

    Returns: for each of `ALARM_RATES` gain_<name>, gain_<name>_low and gain_<name>_high, <name> as of `recall_name`.
    """
    names = [f"gain_{recall_name(rate)}" for rate in ALARM_RATES]
    measures = [partial(_recall_draws, rate=rate) for rate in ALARM_RATES]
    points, drawn = _figures(_paired(first, second), measures, draws, seed)
    found: dict[str, float] = {}
    for name, point, figures in zip(names, points, drawn, strict=True):
        gap = float(point[0] - point[1])
        ends = percentile_interval(gap, figures[:, 0] - figures[:, 1])
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), (gap, *ends), strict=True))
    return found


def _figures(
    models: tuple[pd.DataFrame, pd.DataFrame], measures: Sequence[Measure], draws: int, seed: int
) -> tuple[Floats, Floats]:
    """Each measure of both models, shape (measures, models), and its bootstrap draws, (measures, draws, models)."""
    slices = []
    for start in range(0, draws, DRAWS):  # so that memory stays small with many wafers
        weights = bootstrap_weights(models[0], min(DRAWS, draws - start), (seed, start))
        slices.append(np.stack([np.column_stack([each(one, weights) for one in models]) for each in measures]))
    return slices[0][:, 0], np.concatenate([drawn[:, 1:] for drawn in slices], axis=1)


def _cost_draws(policy: Policy, scores: pd.DataFrame, weights: Floats) -> Floats:
    """Cost per 1,000 wafers for each row of `weights`."""
    cost = costs_of_alarms(scores["label"].to_numpy() == 1, scores["alarm"].to_numpy(np.float64), policy)
    return np.asarray(1000 * (weights @ cost) / weights.sum(axis=1))


def costs_of_alarms(faulty: Bools, alarm: Floats, policy: Policy) -> Floats:
    """What each wafer costs whose alarm, or share of one, is `alarm`."""
    return np.where(faulty, policy.cost_missed_fault * (1 - alarm), policy.cost_false_alarm * alarm)
