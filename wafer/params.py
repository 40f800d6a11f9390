"""Every knob that changes a result: `params.yaml`, a section a stage, read into frozen typed models.

An unknown key, a missing key or an impossible value is refused with the key's name.
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wafer.errors import ParameterError

DEFAULT_FILE = Path("params.yaml")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DeliverParams(_Section):
    """Where the raw batch files of `dvc repro` come from, and the synthetic fab of `make run`."""

    folder: str | None = Field(description="folder with training/ and prediction/; null: the synthetic fab")
    training_batches: int = Field(ge=1, description="labelled batch files of the synthetic fab")
    prediction_batches: int = Field(ge=0, description="unlabelled batch files that follow them in time")
    wafers: int = Field(ge=1, le=10_000, description="wafers a batch file")
    seed: int = Field(ge=0)


class FitParams(_Section):
    """The arguments of `wafer.learning.model.WaferModel`; see there."""

    reference_window: int = Field(ge=20, description="wafers in a reference window")
    max_missing: float = Field(ge=0, le=1, description="a sensor with a larger missing share is not used as a reading")
    imputation: Literal["median", "knn"]
    neighbors: int = Field(ge=1, description="neighbours of the KNN imputation")
    max_clusters: int = Field(ge=1, description="the elbow is looked for among 1 to this many clusters")
    min_cluster_faults: int = Field(ge=2, description="faults below which the pooled model serves a cluster")
    cluster_prior: int = Field(
        ge=0, description="faults at which a cluster's own model weighs as much as the pooled one"
    )
    panel: Literal["all", "forests", "linear", "absolute"]
    search: Literal["budget", "reference"]
    search_budget: int = Field(ge=1, description="configurations tried a candidate and cluster")
    search_folds: int = Field(ge=2)
    trees: int = Field(ge=10, description="trees of each forest")
    calibration_folds: int = Field(ge=2)
    cost_missed_fault: float = Field(gt=0, description="cost of a faulty wafer without alarm, in false alarms")
    cost_false_alarm: float = Field(gt=0)
    alarm_rate_ceiling: float = Field(gt=0, lt=1, description="largest share of wafers that may raise an alarm")
    seed: int = Field(ge=0)


class EvaluateParams(_Section):
    """The two protocols and the canary."""

    folds: int = Field(ge=2)
    repeats: int = Field(ge=1)
    permutations: int = Field(ge=1, description="runs with permuted labels")
    first_batch: int = Field(ge=2, description="the first batch that is scored forward, counted from 1")
    seed: int = Field(ge=0)


class GateParams(_Section):
    """What a challenger must show before it becomes champion; see `wafer.registry.records.GateRules`."""

    auc_margin: float = Field(ge=0, le=1, description="loss of forward AUC that the paired interval may still contain")
    cost_margin: float = Field(
        ge=0, description="rise of forward cost, as a share, that the interval may still contain"
    )
    confidence: float = Field(gt=0, lt=1)
    draws: int = Field(ge=100, description="bootstrap draws")
    seed: int = Field(ge=0)
    minimum_auc: float = Field(ge=0, le=1, description="forward AUC that every champion must reach; chance is 0.5")
    canary_z: float = Field(gt=0, description="standard errors that the permuted-label canary's AUC may lie off 0.5")
    maximum_calibration_error: float = Field(ge=0, le=1, description="largest calibration error of the shuffled folds")
    min_later_faults: int = Field(
        ge=1, description="faulty wafers after the champion's training from which its own scores of them are compared"
    )


class Params(_Section):
    """All of params.yaml."""

    deliver: DeliverParams
    evaluate: EvaluateParams
    fit: FitParams
    gate: GateParams


def read_params(file: str | Path = DEFAULT_FILE) -> Params:
    """Read and check `file`.

    Raises:
        ParameterError: it is missing, is not YAML, or a key is unknown, missing or impossible.
    """
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ParameterError(f"{file} is not a file: expected the parameters of a run") from error
    except yaml.YAMLError as error:
        raise ParameterError(f"{file} is not YAML: {error}") from error
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_problem(p["loc"], p["type"], p["msg"], p["input"]) for p in error.errors())
        raise ParameterError(f"{file}: {problems}") from error


def _problem(location: tuple[int | str, ...], kind: str, message: str, got: object) -> str:
    key = ".".join(map(str, location)) or "the file"
    if kind == "extra_forbidden":
        return f"{key} is not a known key"
    if kind == "missing":
        return f"{key} is missing"
    return f"{key}: {message[0].lower()}{message[1:]}, got {got!r}"
