"""Every knob that changes a result: `params.yaml`, a section a stage, read into frozen typed models.

An unknown key, a key that stands twice, a missing one or an impossible value is refused with the key's name; a field
says its meaning, unit, bounds and the value of the file that comes with the project, and `wafer params schema` prints
them.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from wafer.documents import DocumentError, Part, fitted, read_file, read_yaml
from wafer.errors import ParameterError

LARGEST_SEED = 2**32 - 1  # that scikit-learn takes
LARGEST_COST = 1e9  # of an alarm or a missed fault, in any unit
RECENT = 50
"""Wafers that a rolling threshold follows: about half a batch, so that it knows the day but hangs on no single one."""
RuleName = Literal[
    "nelson-1",
    "nelson-2",
    "nelson-3",
    "nelson-4",
    "nelson-5",
    "nelson-6",
    "nelson-7",
    "nelson-8",
    "western-electric-1",
    "western-electric-2",
    "western-electric-3",
    "western-electric-4",
    "ewma",
]
EARLIER_WITHOUT = ({"retrain"}, {"retrain", "monitor"}, {"retrain", "monitor", "policy"})
"""The sections that files of earlier layouts do not have."""
BAND = ("canary_low", "canary_high")
EARLIER_BANDS: dict[tuple[Any, ...], float] = {(0.4, 0.6): 3.0, (0.0, 1.0): 1000.0}
"""Bands of the canary in files of the earlier layout, and the standard errors that they stood for."""


def _knob(default: Any, description: str, **bounds: Any) -> Any:
    """A key that the file must have; `default` is told in the schema, and is what the file of the project says."""
    return Field(description=description, json_schema_extra={"default": default}, **bounds)


def _seed(default: int, description: str) -> Any:
    return _knob(default, description, ge=0, le=LARGEST_SEED)


class DeliverParams(Part):
    """Where the raw batch files of `dvc repro` come from, and the synthetic fab of `make run`."""

    folder: str | None = _knob(
        None,
        "folder with training/ and prediction/; null: the synthetic fab",
        min_length=1,
        max_length=4096,
        pattern=r"^[^\x00]*$",
    )
    training_batches: int = _knob(12, "labelled batch files of the synthetic fab", ge=1, le=10_000)
    prediction_batches: int = _knob(3, "unlabelled batch files that follow them in time", ge=0, le=10_000)
    wafers: int = _knob(100, "wafers a batch file", ge=1, le=10_000)
    seed: int = _seed(7, "names the synthetic fab: the same seed gives the same bytes")


class FitParams(Part):
    """The arguments of `wafer.learning.model.WaferModel`; see there."""

    reference_window: int = _knob(200, "wafers in a reference window", ge=20, le=1_000_000)
    max_missing: float = _knob(0.6, "a sensor with a larger missing share is not used as a reading", ge=0, le=1)
    imputation: Literal["median", "knn"] = _knob("median", "what a missing reading is replaced by")
    neighbors: int = _knob(5, "neighbours of the KNN imputation, in wafers", ge=1, le=10_000)
    max_clusters: int = _knob(8, "the elbow is looked for among 1 to this many clusters", ge=1, le=1_000)
    min_cluster_faults: int = _knob(10, "faults below which the pooled model serves a cluster", ge=2, le=1_000_000)
    cluster_prior: int = _knob(
        60, "faults at which a cluster's own model weighs as much as the pooled one", ge=0, le=1_000_000
    )
    panel: Literal["all", "forests", "linear"] = _knob("all", "members of the pooled model")
    search_budget: int = _knob(2, "configurations tried a candidate and cluster", ge=1, le=10_000)
    search_folds: int = _knob(3, "folds that judge a cluster's candidates", ge=2, le=100)
    trees: int = _knob(600, "trees of each forest", ge=10, le=100_000)
    calibration_folds: int = _knob(4, "folds for probability and threshold", ge=2, le=100)
    seed: int = _seed(0, "of everything random in a training")


class PolicyParams(Part):
    """What an alarm may cost: the arguments of `wafer.learning.decision.Policy`; another policy needs no training."""

    cost_missed_fault: float = _knob(
        20.0, "cost of a faulty wafer without alarm, in false alarms", gt=0, le=LARGEST_COST
    )
    cost_false_alarm: float = _knob(1.0, "cost of an alarm on a good wafer, in the same unit", gt=0, le=LARGEST_COST)
    alarm_rate_ceiling: float = _knob(0.1, "largest share of wafers that may raise an alarm", gt=0, lt=1)
    threshold: Literal["fixed", "rolling"] = _knob(
        "rolling", f"one threshold for all wafers, or for each one by the {RECENT} wafers before it"
    )

    @model_validator(mode="after")
    def _tell_rare_alarms_apart(self) -> "PolicyParams":
        if self.threshold == "rolling" and self.alarm_rate_ceiling * (RECENT + 1) < 1:
            raise ValueError(
                f"alarm_rate_ceiling must be at least {1 / (RECENT + 1):.4f} where the threshold is rolling, "
                f"got {self.alarm_rate_ceiling!r}"
            )
        return self


class EvaluateParams(Part):
    """The two protocols and the canary."""

    folds: int = _knob(5, "folds of the shuffled protocol and of the canary", ge=2, le=100)
    repeats: int = _knob(1, "shuffles of the shuffled protocol", ge=1, le=1_000)
    permutations: int = _knob(1, "runs with permuted labels", ge=1, le=1_000)
    first_batch: int = _knob(4, "the first batch that is scored forward, counted from 1", ge=2, le=1_000_000)
    seed: int = _seed(0, "of folds, permutations and bootstrap draws")


class GateParams(Part):
    """What a challenger must show before it becomes champion; see `wafer.registry.records.GateRules`."""

    auc_margin: float = _knob(0.05, "loss of forward AUC that the paired interval may still contain", ge=0, le=1)
    cost_margin: float = _knob(
        0.2, "rise of forward cost, as a share, that the interval may still contain", ge=0, le=1_000
    )
    confidence: float = _knob(0.9, "confidence of the paired interval", gt=0, lt=1)
    draws: int = _knob(2000, "bootstrap draws", ge=100, le=1_000_000)
    seed: int = _seed(0, "of the bootstrap draws")
    minimum_auc: float = _knob(0.5, "forward AUC that every champion must reach; chance is 0.5", ge=0, le=1)
    canary_z: float = _knob(3.0, "standard errors that the permuted-label canary's AUC may lie off 0.5", gt=0, le=1_000)
    maximum_calibration_error: float = _knob(0.05, "largest calibration error of the shuffled folds", ge=0, le=1)
    min_later_faults: int = _knob(
        20,
        "faulty wafers after the champion's training from which its own scores of them are compared",
        ge=1,
        le=1_000_000,
    )


class MonitorParams(Part):
    """The control charts of each sensor: the arguments of `wafer.diagnosis.charts.ControlCharts.learn`."""

    rules: list[RuleName] = _knob(
        ["nelson-1", "nelson-2", "nelson-3", "nelson-4", "nelson-5", "nelson-6", "nelson-7", "nelson-8", "ewma"],
        "rules that are applied to every sensor",
        min_length=1,
        max_length=100,
    )
    without: dict[str, list[RuleName | Literal["all"]]] = _knob(
        {}, "names of sensors, and the rules that are not applied to each; [all]: it has no chart", max_length=10_000
    )
    false_sensors: float = _knob(
        1.0, "sensors, of all, that may signal in 100 good wafers though nothing has happened", gt=0, le=100
    )
    ewma_weight: float = _knob(0.2, "weight of the newest reading in the moving average", gt=0, le=1)
    ewma_limit: float = _knob(
        2.86,
        "published limit of the moving average, in its sigma; 2.86 signals falsely once in 370 readings",
        gt=0,
        le=100,
    )


class RetrainParams(Part):
    """When `wafer retrain` trains; each counts from the newest training, and needs a wafer that was labelled since."""

    drifted_batches: int = _knob(3, "drifted batches, of the last `drift_window`, from which it trains", ge=1, le=1_000)
    drift_window: int = _knob(10, "batches that are looked at for drift", ge=1, le=1_000)
    new_labels: int = _knob(100, "newly labelled wafers from which it trains", ge=1, le=1_000_000)
    days: float = _knob(1.0, "days after which it trains", ge=0, le=10_000)
    refusals: int = _knob(3, "versions in a row that the gate refuses, from which on this is told", ge=1, le=1_000)

    @model_validator(mode="after")
    def _fit_the_window(self) -> "RetrainParams":
        if self.drifted_batches > self.drift_window:
            raise ValueError(f"drifted_batches must be at most drift_window, got {self.drifted_batches}")
        return self


class Params(Part):
    """All of params.yaml."""

    deliver: DeliverParams
    evaluate: EvaluateParams
    fit: FitParams
    gate: GateParams
    monitor: MonitorParams
    policy: PolicyParams
    retrain: RetrainParams


def read_params(file: str | Path) -> Params:
    """Read and check `file`; one of the layout before `policy` was a section is read as it was meant.

    Raises:
        ParameterError: it is missing, is not YAML, or a key is unknown, missing, there twice or impossible; it names
            the first few keys concerned.
    """
    try:
        return fitted(Params, in_present_layout(read_yaml(read_file(Path(file)))))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ParameterError(f"{file} is not a file: expected the parameters of a run") from error
    except OSError as error:
        raise ParameterError(f"{file}: {error.strerror or error}") from error
    except DocumentError as error:
        raise ParameterError(f"{file}: {error}") from error


def in_present_layout(content: Any) -> Any:
    """The content of a parameter file of an earlier layout as it was meant; any other content as it is.

    The costs stood in `fit` before `policy` was a section; before `monitor` was one, no threshold rolled; without
    `retrain`, the newest, a file means what is shipped. What such a file says beyond the present keys is dropped where
    it is what holds today, and else refused later on.
    """
    known = Params.model_fields.keys()
    if isinstance(content, dict) and any(content.keys() == known - without for without in EARLIER_WITHOUT):
        content = {**content, "retrain": _shipped(RetrainParams)}
    fit, gate = (content.get(name) if isinstance(content, dict) else None for name in ("fit", "gate"))
    if not isinstance(fit, dict) or not isinstance(gate, dict):
        return content
    if "policy" not in content:
        costs = {name: fit[name] for name in PolicyParams.model_fields if name in fit}
        kept = {
            name: value for name, value in fit.items() if name not in costs and (name, value) != ("search", "budget")
        }
        band = tuple(gate.get(name) for name in BAND)
        if all(isinstance(end, float) for end in band) and band in EARLIER_BANDS and "canary_z" not in gate:
            gate = {name: value for name, value in gate.items() if name not in BAND} | {"canary_z": EARLIER_BANDS[band]}
        content = {**content, "fit": kept, "gate": gate, "policy": costs} if costs else content
    policy = content.get("policy")
    if content.keys() != Params.model_fields.keys() - {"monitor"} or not isinstance(policy, dict):
        return content
    return {**content, "monitor": _shipped(MonitorParams), "policy": {"threshold": "fixed", **policy}}


def _shipped(section: type[Part]) -> dict[str, Any]:
    """What the file of the project says in a section."""
    return {name: knob["default"] for name, knob in section.model_json_schema()["properties"].items()}
