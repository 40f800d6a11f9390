"""What the registry knows of a version and of a decision: small immutable records that go through JSON unchanged."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Version:
    """One registered model.

    Attributes:
        version: its number in the registry, from 1.
        run_id: the MLflow run that logged it.
        uri: `models:/<name>/<version>`.
        digest: SHA-256 of the model's `manifest.json`, which in turn holds the digest of each of its parts.
        stage: `production` (the champion), `staging` (the newest challenger) or `archived`.
        tags: everything that was recorded with it: snapshot digest, git commit, library versions.
        created: when it was registered, ISO 8601, UTC.
    """

    version: int
    run_id: str
    uri: str
    digest: str
    stage: str = "staging"
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    created: str = ""


@dataclass(frozen=True)
class GateRules:
    """When a challenger may become champion; the section `gate` of params.yaml.

    Attributes:
        auc_margin: how far below the champion's the challenger's forward ROC AUC may lie, at most, at the unfavourable
            end of the paired interval.
        cost_margin: how far above the champion's the challenger's forward cost may lie, at most, at the unfavourable
            end of the paired interval, as a share of the champion's cost.
        confidence: of the paired, two-sided bootstrap intervals.
        draws: bootstrap draws.
        seed: of the draws.
        cost_missed_fault: cost of a faulty wafer that raised no alarm.
        cost_false_alarm: cost of an alarm on a good wafer, in the same unit.
        minimum_auc: the forward ROC AUC that the first champion must reach.
        canary_low: the permuted-label ROC AUC must lie at or above this,
        canary_high: and at or below this.
        maximum_calibration_error: the calibration error of the shuffled folds must lie at or below this.
        min_later_faults: faulty wafers that batches after the champion's training must hold, so that the champion is
            compared by its own scores of them.
    """

    auc_margin: float = 0.05
    cost_margin: float = 0.2
    confidence: float = 0.9
    draws: int = 2000
    seed: int = 0
    cost_missed_fault: float = 20.0
    cost_false_alarm: float = 1.0
    minimum_auc: float = 0.0
    canary_low: float = 0.0
    canary_high: float = 1.0
    maximum_calibration_error: float = 1.0
    min_later_faults: int = 20


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same wafers; a difference is challenger minus champion, `low` and `high` bound its interval.

    Costs are per 1,000 wafers. The ROC AUC is the mean over batches, weighted by their faulty wafers; NaN-free: a
    comparison without any batch that holds both labels has `auc_challenger` None.

    `evidence` says which scores were compared: "forward scores", those that were stored with both trainings, or "later
    batches", which came after the champion's training and were scored by the champion itself; `evidence_text` says so
    in words, and why it was not the other.
    """

    wafers: int
    faulty: int
    batches: int
    auc_challenger: float | None
    auc_champion: float | None
    auc_difference: float | None
    auc_low: float | None
    auc_high: float | None
    cost_challenger: float
    cost_champion: float
    cost_difference: float
    cost_low: float
    cost_high: float
    evidence: str = "forward scores"
    evidence_text: str = ""


@dataclass(frozen=True)
class Check:
    """One condition of the gate: what it asks, whether it held, and the number behind it."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether a version became champion, and why: one line of the ledger.

    Attributes:
        kind: `gate` (decided by the rules), `promote` (by hand) or `rollback`.
        challenger: the version that asked to become champion.
        champion: the version that was champion before; None where there was none.
        promoted: whether the alias `champion` moved to the challenger.
        reason: one sentence for people.
        checks: each condition with its number.
        comparison: both versions on their common wafers; None for a first champion.
        rules: the rules that were applied; None for decisions by hand.
        time: when, ISO 8601, UTC.
    """

    kind: str
    challenger: int
    champion: int | None
    promoted: bool
    reason: str
    time: str
    checks: tuple[Check, ...] = ()
    comparison: Comparison | None = None
    rules: GateRules | None = None

    def as_dict(self) -> dict[str, Any]:
        """The decision as plain JSON values."""
        return asdict(self) | {"checks": [asdict(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Decision":
        """The decision that `as_dict` gave."""
        return cls(
            **{
                **values,
                "checks": tuple(Check(**check) for check in values["checks"]),
                "comparison": Comparison(**values["comparison"]) if values["comparison"] else None,
                "rules": GateRules(**values["rules"]) if values["rules"] else None,
            }
        )
