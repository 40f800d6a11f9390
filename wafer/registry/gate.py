"""The gate: may a challenger replace the champion? Pure functions on frames of scores; no registry needed.

Both versions are compared on the same wafers, each scored by models that had not seen them; which scores these are is
said by `wafer.registry.tracking.Registry.compare_for_gate`. The burden of proof lies
with the challenger: at the unfavourable end of the paired bootstrap interval it may be worse by no more than a margin
(a non-inferiority test: Piaggio et al., JAMA 308, 2012). A retraining with the same params scores old batches as
before, so its interval is narrow; another model has to show what it can. Since each margin could be used up again and
again, the best version that the gate ever promoted is a rival too (the "biocreep" of non-inferiority trials:
Everson-Stewart and Emerson, Statistics in Medicine 29, 2010).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from wafer.learning import metrics as paired
from wafer.learning.decision import TAILS, Policy
from wafer.params import GateParams, PolicyParams
from wafer.registry.records import Check, Comparison, GateRules

BATCH_COLUMNS = ("batch", "fold")
MINIMUM = "minimum ROC AUC"


def gate_rules(params: GateParams, policy: PolicyParams) -> GateRules:
    """The rules that params.yaml asks for: its sections gate and policy."""
    return GateRules(**params.model_dump(), policy=Policy(**policy.model_dump()))


def forward_by_wafer(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per wafer that was scored forward in time: batch, label, probability, alarm; indexed by wafer.

    `scores` has the columns protocol, wafer, label, probability, alarm, and batch or fold. Repeats are averaged;
    wafers without a probability are left out.
    """
    forward = scores.loc[(scores["protocol"] == "forward") & scores["probability"].notna()]
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
    own, rival = forward_by_wafer(challenger), forward_by_wafer(champion)[["probability", "alarm"]]
    common = own.index.intersection(rival.index)
    if common.empty:
        return None
    own = own.loc[common].assign(protocol="forward", repeat=0, row=range(len(common)))
    own = own.rename(columns={"batch": "fold"})
    found = paired.compare(
        own,
        own.assign(**rival.loc[common]),
        rules.policy,
        confidence=rules.confidence,
        draws=rules.draws,
        seed=rules.seed,
    )
    return Comparison(
        wafers=len(own),
        faulty=int((own["label"] == 1).sum()),
        batches=int(own["fold"].nunique()),
        auc_challenger=found.auc_first,
        auc_champion=found.auc_second,
        auc_difference=found.difference,
        auc_low=found.difference_low,
        auc_high=found.difference_high,
        cost_challenger=found.cost_first,
        cost_champion=found.cost_second,
        cost_difference=found.cost_difference,
        cost_low=found.cost_low,
        cost_high=found.cost_high,
    )


def within_budget(rival: pd.DataFrame, policy: Policy, kind: str) -> pd.DataFrame:
    """A rival's scores, with those of its alarms that the ceiling of the present policy leaves room for.

    With a lower ceiling than the rival's, any version misses faults that the rival finds by alarms that nobody may
    raise any more. `kind` is that of the rival's own threshold. Scores of earlier releases, which do not tell, are left
    as they are.
    """
    if TAILS[kind] not in rival:
        return rival
    return rival.assign(alarm=rival["alarm"].astype(bool) & policy.affordable(rival[TAILS[kind]].to_numpy(float)))


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
        f"difference {comparison.auc_difference:+z.3f} [{comparison.auc_low:+z.3f}, {comparison.auc_high:+z.3f}], "
        f"low end {'not below' if passed else 'below'} {limit:+z.3f}"
    )
    return Check("forward ROC AUC", passed, comparison.auc_low, limit, text)


def _check_cost(comparison: Comparison, rules: GateRules) -> Check:
    limit = rules.cost_margin * comparison.cost_champion
    passed = comparison.cost_high <= limit
    text = (
        f"forward cost per 1,000 wafers {comparison.cost_challenger:.0f} against {comparison.cost_champion:.0f}: "
        f"difference {comparison.cost_difference:+z.0f} [{comparison.cost_low:+z.0f}, {comparison.cost_high:+z.0f}], "
        f"high end {'not above' if passed else 'above'} {limit:+z.0f}"
    )
    return Check("forward cost", passed, comparison.cost_high, limit, text)


def check_minimum(metrics: dict[str, float], rules: GateRules) -> Check:
    """Whether a version reaches the forward ROC AUC asked for; where it is not defined, only 0 is reached."""
    value = metrics.get("forward.auc")
    passed = rules.minimum_auc <= 0 if value is None else value >= rules.minimum_auc
    shown = "not defined" if value is None else f"{value:.3f}"
    text = f"forward ROC AUC {shown}, asked for is {rules.minimum_auc:.3f}"
    return Check(MINIMUM, passed, value, rules.minimum_auc, text)


def check_canary(metrics: dict[str, float], scores: pd.DataFrame, rules: GateRules) -> Check:
    """Whether the run on permuted labels found nothing, as it must; a version without such a run does not pass.

    The ROC AUC of a ranking that knows nothing scatters about 0.5 with the variance (m + n + 1) / 12mn of m faulty and
    n good wafers (Mann and Whitney, Annals of Mathematical Statistics 18, 1947), a share of it with several runs.

    Args:
        metrics: of the training; permuted.auc counts.
        scores: all of its evaluation's scores, which tell how many wafers the canary ranked, and how often.
        rules: how many standard errors it may lie off.
    """
    value, runs = metrics.get("permuted.auc"), scores.loc[scores["protocol"] == "permuted"]
    faulty, good = (int((runs["label"] == label).sum()) for label in (1, -1))
    if value is None or not faulty or not good:
        text = "the canary was not measured: the training has no scores on permuted labels of both kinds"
        return Check("canary", False, None, None, text)
    repeats = runs["repeat"].nunique()
    faulty, good = faulty // repeats, good // repeats
    error = math.sqrt((faulty + good + 1) / (12 * faulty * good * repeats))
    width = rules.canary_z * error
    low, high = max(0.0, 0.5 - width), min(1.0, 0.5 + width)
    text = (
        f"permuted-label ROC AUC {value:.3f}, expected within [{low:.3f}, {high:.3f}]: {rules.canary_z:g} standard "
        f"errors of {error:.3f} about 0.5, for {faulty:,} faulty and {good:,} good wafers"
        + (f", {repeats} times" if repeats > 1 else "")
    )
    return Check("canary", abs(value - 0.5) <= width, value, 0.5 + width, text)


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


@dataclass(frozen=True)
class Best:
    """How a challenger stands to the best version that the gate had promoted before, as a decision keeps it."""

    version: int | None = None
    comparison: Comparison | None = None
    checks: tuple[Check, ...] = ()
    text: str = ""

    @classmethod
    def found(
        cls, version: int, auc: float | None, gone: Sequence[str], comparison: Comparison | None, rules: GateRules
    ) -> "Best":
        """After a comparison, or None where this is champion or challenger itself.

        Args:
            version: the best that can be compared,
            auc: and its own forward ROC AUC.
            gone: better ones that cannot be compared, and why.
            comparison: of the challenger with it.
            rules: what it must show.
        """
        told, own = _told(gone), named_with_auc(version, auc)
        left = ", of those that can still be compared" if gone else ""
        if comparison is None:
            itself = Check("best", True, auc, None, f"{own} is itself the best that the gate has promoted{left}")
            return cls(None, None, (*told, itself), " ".join(_sentences(gone)))
        checks = tuple(
            replace(check, name=f"best: {check.name}", text=f"against {own}, the best so far{left}, {check.text}")
            for check in check_comparison(comparison, rules)
        )
        evidence = f"compared with version {version} on {comparison.wafers:,} wafers of {comparison.evidence_text}"
        return cls(version, comparison, (*told, *checks), " ".join(_sentences([*gone, evidence])))

    @classmethod
    def nobody(cls, gone: Sequence[str]) -> "Best":
        """No version that the gate promoted can be compared; `gone` says why."""
        return cls(checks=_told(gone), text=" ".join(_sentences(gone)))


def named_with_auc(version: int, auc: float | None) -> str:
    """A version with its own forward ROC AUC, for a sentence."""
    return f"version {version} (forward ROC AUC {'not known' if auc is None else f'{auc:.3f}'})"


def _told(gone: Sequence[str]) -> tuple[Check, ...]:
    return tuple(Check("best: gone", True, None, None, text) for text in gone)


def _sentences(texts: Sequence[str]) -> list[str]:
    return [f"{text[0].upper()}{text[1:]}." for text in texts]


def explain(
    checks: tuple[Check, ...],
    challenger: int,
    champion: int | None,
    comparison: Comparison | None = None,
    best: str | None = None,
) -> str:
    """What became of the challenger, which numbers decided it, and which scores were compared.

    Args:
        checks: all that were made.
        challenger, champion: numbers of versions.
        comparison: of the two.
        best: what there is to say of the best version ever promoted.
    """
    failed = [check.text for check in checks if not check.passed]
    rival = f"version {champion}" if champion is not None else "no version"
    if failed:
        stays = f"{rival} stays champion" if champion is not None else "there is still no champion"
        said = f"Version {challenger} was refused and {stays}: {'; '.join(failed)}."
    elif champion is None:
        (minimum,) = (check.text for check in checks if check.name == MINIMUM)
        said = f"Version {challenger} is the first champion: {minimum}."
    else:
        compared = [check.text for check in checks if check.name.startswith(("forward", "best: forward"))]
        said = f"Version {challenger} replaces {rival} as champion: {'; '.join(compared)}."
    if comparison is not None and comparison.evidence_text:
        said = f"{said} Compared on {comparison.wafers:,} wafers of {comparison.evidence_text}."
    return f"{said} {best}" if best else said
