"""The gate: may a challenger replace the champion? Pure functions on frames of scores; no registry needed.

Both versions are compared on the same wafers, each scored by models that had not seen them; which scores these are is
said by `wafer.registry.tracking.Registry.compare_for_gate`. The burden of proof lies
with the challenger: at the unfavourable end of the paired bootstrap interval it may be worse by no more than a margin
(a non-inferiority test: Piaggio et al., JAMA 308, 2012). A retraining with the same params scores old batches as
before, so its interval is narrow; another model has to show what it can.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.params import FitParams, GateParams
from wafer.registry.records import Check, Comparison, GateRules

Floats = NDArray[np.float64]
BATCH_COLUMNS = ("batch", "fold")


def gate_rules(params: GateParams, recipe: FitParams) -> GateRules:
    """The rules that params.yaml asks for: its section gate, and the costs of its section fit."""
    return GateRules(
        **params.model_dump(), cost_missed_fault=recipe.cost_missed_fault, cost_false_alarm=recipe.cost_false_alarm
    )


def forward_by_wafer(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per wafer that was scored forward in time: batch, label, probability, alarm; indexed by wafer.

    `scores` has the columns protocol, wafer, label, probability, alarm, and batch or fold. Repeats are averaged.
    """
    forward = scores.loc[scores["protocol"] == "forward"]
    batch = next(name for name in BATCH_COLUMNS if name in forward.columns)
    grouped = forward.groupby("wafer", sort=True)
    return pd.DataFrame(
        {
            "batch": grouped[batch].first().astype(str),
            "label": grouped["label"].first().astype(int),
            "probability": grouped["probability"].mean(),
            "alarm": grouped["alarm"].mean().astype(float),
        }
    )


def compare_scores(challenger: pd.DataFrame, champion: pd.DataFrame, rules: GateRules) -> Comparison | None:
    """Both versions' forward scores on their common wafers; None where they have none in common.

    Args:
        challenger, champion: frames of scores with the columns protocol, wafer, label, probability, alarm and batch.
        rules: costs, confidence, draws and seed.
    """
    rival = forward_by_wafer(champion)[["probability", "alarm"]].add_suffix("_champion")
    both = forward_by_wafer(challenger).join(rival, how="inner")
    if both.empty:
        return None
    faulty = both["label"].to_numpy() == 1
    auc, auc_draws, batches = _paired_auc(both, faulty, rules)
    cost, cost_draws = _paired_cost(both, faulty, rules)
    auc_low, auc_high = _interval(auc_draws, rules.confidence) if batches else (None, None)
    cost_low, cost_high = _interval(cost_draws, rules.confidence)
    return Comparison(
        wafers=len(both),
        faulty=int(faulty.sum()),
        batches=int(both["batch"].nunique()),
        auc_challenger=auc[0],
        auc_champion=auc[1],
        auc_difference=auc[0] - auc[1] if auc[0] is not None and auc[1] is not None else None,
        auc_low=auc_low,
        auc_high=auc_high,
        cost_challenger=cost[0],
        cost_champion=cost[1],
        cost_difference=cost[0] - cost[1],
        cost_low=cost_low,
        cost_high=cost_high,
    )


def _interval(draws: Floats, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class _Wins:
    """Of one batch and one model: does faulty wafer i score above good wafer j (1, ties 0.5)?"""

    challenger: Floats
    champion: Floats


def _paired_auc(
    both: pd.DataFrame, faulty: NDArray[np.bool_], rules: GateRules
) -> tuple[tuple[float | None, float | None], Floats, int]:
    batches = [
        _Wins(_wins(part["probability"], mask), _wins(part["probability_champion"], mask))
        for part, mask in ((both.loc[rows], faulty[rows.to_numpy()]) for rows in _rows_by_batch(both))
        if mask.any() and not mask.all()
    ]
    if not batches:
        return (None, None), np.empty(0), 0
    weights = np.array([len(wins.challenger) for wins in batches], dtype=np.float64)
    points = np.array([[wins.challenger.mean(), wins.champion.mean()] for wins in batches])
    auc = np.average(points, axis=0, weights=weights)
    rng = np.random.default_rng(rules.seed)
    draws = np.column_stack([_draw_differences(wins, rules.draws, rng) for wins in batches])
    return (float(auc[0]), float(auc[1])), np.average(draws, axis=1, weights=weights), len(batches)


def _rows_by_batch(both: pd.DataFrame) -> list["pd.Series[bool]"]:
    return [both["batch"] == name for name in sorted(both["batch"].unique())]


def _wins(probability: "pd.Series[float]", faulty: NDArray[np.bool_]) -> Floats:
    values = probability.to_numpy(dtype=np.float64)
    difference = values[faulty][:, None] - values[~faulty][None, :]
    return (np.sign(difference) + 1) / 2


def _draw_differences(wins: _Wins, draws: int, rng: np.random.Generator) -> Floats:
    """Bootstrap differences of one batch's ROC AUC: faulty and good wafers drawn apart, the same for both models."""
    difference = wins.challenger - wins.champion
    faulty, good = difference.shape
    weight_faulty = rng.multinomial(faulty, np.full(faulty, 1 / faulty), size=draws) / faulty
    weight_good = rng.multinomial(good, np.full(good, 1 / good), size=draws) / good
    drawn: Floats = ((weight_faulty @ difference) * weight_good).sum(axis=1)
    return drawn


def _paired_cost(both: pd.DataFrame, faulty: NDArray[np.bool_], rules: GateRules) -> tuple[tuple[float, float], Floats]:
    """Costs per 1,000 wafers of both models, and bootstrap draws of their difference."""
    costs = np.column_stack(
        [
            np.where(faulty, rules.cost_missed_fault * (1 - alarm), rules.cost_false_alarm * alarm)
            for alarm in (both["alarm"].to_numpy(), both["alarm_champion"].to_numpy())
        ]
    )
    difference = costs[:, 0] - costs[:, 1]
    rng = np.random.default_rng(rules.seed)
    size = len(difference)
    # in slices, so that memory stays small with many wafers
    slices = [min(100, rules.draws - start) for start in range(0, rules.draws, 100)]
    draws = np.concatenate([difference[rng.integers(size, size=(n, size))].mean(axis=1) for n in slices])
    challenger, champion = 1000 * costs.mean(axis=0)
    return (float(challenger), float(champion)), 1000 * draws


def check_comparison(comparison: Comparison | None, rules: GateRules) -> tuple[Check, ...]:
    """Whether the challenger is not worse and not costlier than the champion, beyond the margins of `rules`."""
    if comparison is None:
        text = "no wafer has a forward score of both versions, so they cannot be compared"
        return (Check("common wafers", False, 0.0, 1.0, text),)
    return _check_auc(comparison, rules), _check_cost(comparison, rules)


def _check_auc(comparison: Comparison, rules: GateRules) -> Check:
    limit = -rules.auc_margin
    if comparison.auc_low is None:
        text = "no common batch holds both faulty and good wafers, so forward ROC AUC cannot be compared"
        return Check("forward ROC AUC", False, None, limit, text)
    passed = comparison.auc_low >= limit
    text = (
        f"forward ROC AUC {comparison.auc_challenger:.3f} against {comparison.auc_champion:.3f}: "
        f"difference {comparison.auc_difference:+.3f} [{comparison.auc_low:+.3f}, {comparison.auc_high:+.3f}], "
        f"low end {'not below' if passed else 'below'} {limit:+.3f}"
    )
    return Check("forward ROC AUC", passed, comparison.auc_low, limit, text)


def _check_cost(comparison: Comparison, rules: GateRules) -> Check:
    limit = rules.cost_margin * comparison.cost_champion
    passed = comparison.cost_high <= limit
    text = (
        f"forward cost per 1,000 wafers {comparison.cost_challenger:.0f} against {comparison.cost_champion:.0f}: "
        f"difference {comparison.cost_difference:+.0f} [{comparison.cost_low:+.0f}, {comparison.cost_high:+.0f}], "
        f"high end {'not above' if passed else 'above'} {limit:+.0f}"
    )
    return Check("forward cost", passed, comparison.cost_high, limit, text)


def check_minimum(metrics: dict[str, float], rules: GateRules) -> Check:
    """Whether a first champion reaches the forward ROC AUC asked for; where it is not defined, only 0 is reached."""
    value = metrics.get("forward.auc")
    passed = rules.minimum_auc <= 0 if value is None else value >= rules.minimum_auc
    shown = "not defined" if value is None else f"{value:.3f}"
    text = f"forward ROC AUC {shown}, asked for is {rules.minimum_auc:.3f}"
    return Check("minimum ROC AUC", passed, value, rules.minimum_auc, text)


def check_canary(metrics: dict[str, float], rules: GateRules) -> Check:
    """Whether the run on permuted labels found nothing, as it must; without such a run only the whole band is kept."""
    value = metrics.get("permuted.auc")
    if value is None:
        passed = rules.canary_low <= 0 and rules.canary_high >= 1
        shown = "was not measured"
    else:
        passed = rules.canary_low <= value <= rules.canary_high
        shown = f"{value:.3f}"
    text = f"permuted-label ROC AUC {shown}, expected within [{rules.canary_low:.2f}, {rules.canary_high:.2f}]"
    return Check("canary", passed, value, rules.canary_high, text)


def check_calibration(metrics: dict[str, float], rules: GateRules) -> Check:
    """Whether probabilities hold what they promise, by the error of shuffled folds; not measured, it only keeps 1."""
    value, limit = metrics.get("shuffled.calibration_error"), rules.maximum_calibration_error
    passed = limit >= 1 if value is None else value <= limit
    shown = "was not measured" if value is None else f"{value:.3f}"
    text = f"shuffled calibration error {shown}, at most {limit:.3f} is allowed"
    return Check("calibration", passed, value, limit, text)


def too_little(comparison: Comparison | None, champion: int, rules: GateRules) -> str | None:
    """Why a comparison on the batches after the champion's training cannot decide; None where it can."""
    faulty = 0 if comparison is None else comparison.faulty
    if faulty < rules.min_later_faults:
        return (
            f"the batches after the training of version {champion} hold {faulty} faulty wafers with a forward score, "
            f"asked for are {rules.min_later_faults}"
        )
    if comparison is None or comparison.auc_low is None:
        return f"no batch after the training of version {champion} holds both faulty and good wafers"
    return None


def explain(
    checks: tuple[Check, ...], challenger: int, champion: int | None, comparison: Comparison | None = None
) -> str:
    """What became of the challenger, which numbers decided it, and which scores were compared."""
    failed = [check.text for check in checks if not check.passed]
    rival = f"version {champion}" if champion is not None else "no version"
    if failed:
        stays = f"{rival} stays champion" if champion is not None else "there is still no champion"
        said = f"Version {challenger} was refused and {stays}: {'; '.join(failed)}."
    elif champion is None:
        said = f"Version {challenger} is the first champion: {checks[-1].text}."
    else:
        compared = [check.text for check in checks if check.name.startswith("forward")]
        said = f"Version {challenger} replaces {rival} as champion: {'; '.join(compared)}."
    if comparison is None or not comparison.evidence_text:
        return said
    return f"{said} Compared on {comparison.wafers:,} wafers of {comparison.evidence_text}."
