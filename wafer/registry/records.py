"""What the registry knows of a version and of a decision: small immutable records that go through JSON unchanged."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from wafer.learning.decision import Policy

TRAINING = "training"
"""The tag of a version that says how far its training came."""
RUNNING, FINISHED, ARCHIVED = "running", "finished", "archived"
RETUNED, WHY = "retuned.from", "retuned.why"
"""The tags of a version that was retuned: the version whose parts it has, and the reason."""


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

    `training` says how far its training came: `running` (or killed on its way), `finished` or `archived`.
    """

    version: int
    run_id: str
    uri: str
    digest: str
    stage: str = "staging"
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    created: str = ""

    @property
    def training(self) -> str:
        """How far its training came; earlier releases did not note it, and theirs count as finished."""
        return self.tags.get(TRAINING, FINISHED)

    @property
    def threshold(self) -> float | None:
        """The probability from which it raises an alarm; earlier releases did not note it."""
        return float(self.tags["threshold"]) if "threshold" in self.tags else None

    @property
    def policy(self) -> dict[str, Any]:
        """What the threshold follows from, by the names of `Policy`; empty where it was not noted."""
        names = (each.name for each in fields(Policy))
        noted = {name: self.tags[f"policy.{name}"] for name in names if f"policy.{name}" in self.tags}
        costs = {name: float(value) for name, value in noted.items() if name != "threshold"}
        return {**costs, "threshold": self.threshold_kind} if costs else {}

    @property
    def threshold_kind(self) -> str:
        """Whether its threshold is fixed, as all were in earlier releases, or rolling."""
        return self.tags.get("policy.threshold", "fixed")

    @property
    def retuned(self) -> int | None:
        """The version whose parts it has with another policy; None of one that was trained."""
        return int(self.tags[RETUNED]) if RETUNED in self.tags else None


@dataclass(frozen=True)
class GateRules:
    """When a challenger may become champion: the section `gate` of params.yaml, and the costs. Nothing has a default.

    Attributes:
        auc_margin: how far below a rival's the challenger's forward ROC AUC may lie, at most, at the unfavourable end
            of the paired interval.
        cost_margin: how far above a rival's the challenger's forward cost may lie, at most, at the unfavourable end of
            the paired interval, as a share of the rival's cost.
        confidence: of the paired, two-sided bootstrap intervals.
        draws: bootstrap draws.
        seed: of the draws.
        minimum_auc: the forward ROC AUC that each version must reach, also where it is better than the champion.
        canary_z: how many standard errors of chance the permuted-label ROC AUC may lie off 0.5.
        maximum_calibration_error: the calibration error of the shuffled folds must lie at or below this.
        min_later_faults: faulty wafers that batches after a rival's training must hold, so that the rival is compared
            by its own scores of them.
        policy: what a missed fault and a false alarm cost.
    """

    auc_margin: float
    cost_margin: float
    confidence: float
    draws: int
    seed: int
    minimum_auc: float
    canary_z: float
    maximum_calibration_error: float
    min_later_faults: int
    policy: Policy


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
        kind: `gate` (decided by the rules), `retune` (the same, of a version with another policy), `same model` (the
            challenger is the champion's model again, so there was nothing to decide), `promote` (by hand), `rollback`.
        challenger: the version that asked to become champion.
        champion: the version that was champion before; None where there was none.
        promoted: whether the alias `champion` moved to the challenger.
        reason: for people.
        time: when, ISO 8601, UTC.
        checks: each condition with its number.
        comparison: challenger and champion on their common wafers; None for a first champion.
        rules: the rules that were applied, by name, as they were called then; None for decisions by hand.
        best: the best version that the gate had promoted before, where the challenger was compared with it too.
        best_comparison: with that one, which stands in the champion's place.
    """

    kind: str
    challenger: int
    champion: int | None
    promoted: bool
    reason: str
    time: str
    checks: tuple[Check, ...] = ()
    comparison: Comparison | None = None
    rules: dict[str, Any] | None = None
    best: int | None = None
    best_comparison: Comparison | None = None

    def as_dict(self) -> dict[str, Any]:
        """The decision as plain JSON values."""
        return asdict(self) | {"checks": [asdict(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Decision":
        """The decision that `as_dict` gave."""
        compared = {name: Comparison(**values[name]) for name in ("comparison", "best_comparison") if values.get(name)}
        return cls(**{**values, "checks": tuple(Check(**check) for check in values["checks"]), **compared})
