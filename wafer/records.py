"""What steps hand to each other: small immutable records of keys, digests and counts, never frames; and what the
columns of the frames that people get are called and measured in.

A key is relative to the storage (`wafer.storage.Storage`). Each record is kept as JSON with its run (`wafer.runs.Run`),
under the name of its step, so that any step can be run again alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["training", "prediction"]
WhoseReasons = Literal["none", "alarms", "all"]
"""Of which wafers reasons are given."""
SAME_MODEL = "same model"
"""The kind of a decision on a version that is the champion's model again: nothing is refused, and nothing new."""

NOTEBOOKS = ("data_quality", "exploration", "training", "prediction")
REPORTS = {f"report-{name.replace('_', '-')}": name for name in NOTEBOOKS}
"""The steps that run a notebook each, and its name."""

TABLE = ("wafer", "order", "batch", "label")
"""Columns of a table of wafers beside the sensors, none of which may be called so."""

_WAFER = {"verdict": "label", "probability": "probability", "cluster": "number", "p_value": "probability"}
_WAFER |= {"unknown": "yes or no", "why": "text", "threshold": "probability", "version": "number"}
_REASON = {"rank": "number", "sensor": "name", "together_with": "names", "direction": "text"}
_REASON |= {"percentile": "percent", "reading": "of the sensor", "strength": "log-odds"}
_CONTROL = {"t2": "number", "t2_limit": "number", "spe": "number", "spe_limit": "number"}
_CONTROL |= {"out_of_control": "yes or no"}
_SIGNAL = {"sensor": "name", "rule": "name", "first": "number", "last": "number", "wafers": "number"}
_SIGNAL |= {"strength": "sigma, or readings in a row", "limit": "sigma, or readings in a row"}
_CONTRIBUTION = {"chart": "name", "rank": "number", "sensor": "name", "contribution": "of T² or SPE"}
_MOVED = {"batch": "name", "wafers": "number", "t2": "number", "spe": "number", "shifted": "names"}
UNITS: Mapping[str, Mapping[str, str]] = {
    "Judgement.wafers": _WAFER,
    "Judgement.reasons": {"row": "number", **_REASON},
    "Drift.sensors": {"sensor": "name", "stability_index": "index", "missing_before": "share", "missing_now": "share"}
    | {"shift": "standard deviations"},
    "predictions/<batch>.csv": {"Wafer": "name", "Prediction": "label", "probability": "probability"}
    | {"cluster": "number", "model_version": "number", "unknown": "yes or no", "threshold": "probability"},
    "details/wafers.csv": {"batch": "name", "Wafer": "name", "p_value": "probability", "unknown": "yes or no"}
    | {"why": "text", "label_known": "yes or no"},
    "details/reasons.csv": {"batch": "name", "Wafer": "name", **_REASON},
    "Monitored.wafers": _CONTROL,
    "Monitored.sensors": _SIGNAL,
    "Monitored.contributions": {"row": "number", **_CONTRIBUTION},
    "Monitored.batches": _MOVED,
    "details/monitor_wafers.csv": {"batch": "name", "Wafer": "name", **_CONTROL},
    "details/monitor_sensors.csv": {"batch": "name", **_SIGNAL, "first": "name", "last": "name"},
    "details/monitor_contributions.csv": {"batch": "name", "Wafer": "name", **_CONTRIBUTION},
    "details/monitor_batches.csv": _MOVED,
    "scores.parquet": {"wafer": "name", "protocol": "name", "repeat": "number", "fold": "name", "row": "number"}
    | {"label": "label", "probability": "probability", "alarm": "yes or no", "tail": "share"}
    | dict.fromkeys(("recent_tail", "plain", "t2", "spe", "sensor_charts"), "share"),
    "wafers.parquet": {"wafer": "name", "order": "number", "batch": "name", "label": "label"},
}
"""The columns of each frame in their order, and their units; docs/columns.md says what they mean. A label is -1 (good)
or 1 (faulty). Sensors, the further columns of a table of wafers, are in units of their own."""


def with_units(frame: "pd.DataFrame", *names: str) -> "pd.DataFrame":
    """The frame with the units of its columns, as of `UNITS` for frames of these names, in `attrs["units"]`."""
    units = {column: unit for name in names for column, unit in UNITS[name].items()}
    told = frame.copy(deep=False)
    told.attrs = {**frame.attrs, "units": {column: units[column] for column in frame if column in units}}
    return told


@dataclass(frozen=True)
class Delivered:
    """Folders of raw batch files."""

    step: ClassVar[str] = "deliver"
    training: str
    prediction: str


@dataclass(frozen=True)
class Ingested:
    """What a delivery came to; `report` is the whole story as JSON, `page` the one for reviewers, None where it failed.

    `complaints` are sentences about what should not be: no batch file was there, some could not be read.
    """

    report: str
    page: str | None
    files: int
    accepted: int
    quarantined: int
    unread: int
    wafers_stored: int
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """What a file of labels came to; `report` is the whole story as JSON, see `wafer.intake.labels.LabelReport`."""

    step: ClassVar[str] = "labels"
    report: str
    file: str
    wafers: int
    labelled: int
    repeats: int
    conflicts: int
    unknown: int
    complaints: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What came of it, in words."""
        counts = f"{self.labelled:,} labelled by it, {self.repeats:,} had that label"
        return f"{self.wafers:,} wafers: {counts}, {self.conflicts:,} in conflict, {self.unknown:,} unknown"


@dataclass(frozen=True)
class Frozen:
    """A snapshot: its folder and digest."""

    step: ClassVar[str] = "snapshot"
    folder: str
    digest: str
    wafers: int
    faulty: int


@dataclass(frozen=True)
class Due:
    """Whether a training is due, and in words why or why not.

    `cause` is "first", "cut short", "drift", "labels" or "time"; None where none is due.
    """

    step: ClassVar[str] = "due"
    cause: str | None
    told: str


@dataclass(frozen=True)
class Refused:
    """How many versions in a row the gate has refused, this one included, where they are so many that it is told."""

    step: ClassVar[str] = "refused"
    in_a_row: int

    @property
    def told(self) -> str:
        """The same in words."""
        return f"the gate has refused {self.in_a_row} versions in a row: see `wafer models log` for its reasons"


@dataclass(frozen=True)
class Idle:
    """Why a run had nothing to do; it is not the newest of its kind, since it has nothing to show."""

    step: ClassVar[str] = "idle"
    told: str


@dataclass(frozen=True)
class Known:
    """The version that the very same training has made before, if there is one, and whether that went through."""

    step: ClassVar[str] = "look-back"
    version: int | None
    finished: bool

    @property
    def told(self) -> str:
        """What there is to say of a training that has nothing to do."""
        return f"version {self.version} is of the same snapshot, parameters, code and libraries: nothing was trained"


@dataclass(frozen=True)
class Fitted:
    """A saved model: its folder and the digest of its manifest."""

    step: ClassVar[str] = "fit"
    folder: str
    digest: str


@dataclass(frozen=True)
class Evaluated:
    """The metrics, and the out-of-fold scores that they were computed from."""

    step: ClassVar[str] = "evaluate"
    metrics: str
    scores: str


@dataclass(frozen=True)
class Registered:
    """A version in the registry, and the run of its training in MLflow."""

    step: ClassVar[str] = "register"
    version: int
    run_id: str


@dataclass(frozen=True)
class Decided:
    """What the gate said; `decision` holds all its numbers."""

    step: ClassVar[str] = "gate"
    decision: str
    promoted: bool
    reason: str


@dataclass(frozen=True)
class Predicted:
    """What scoring came to: one CSV a batch in `folder`, named by `files`; doubts, reasons and drift in `details`.

    `model_version` is 0 and `run_id`, of the run in MLflow, is None where the model is no registered version.
    """

    step: ClassVar[str] = "predict"
    folder: str
    files: tuple[str, ...]
    wafers: int
    alarms: int
    details: str
    model_folder: str
    model_version: int
    run_id: str | None
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reported:
    """An executed notebook and its page."""

    notebook: str
    page: str
