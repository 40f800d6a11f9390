"""What a model says of wafers besides its predictions: don't know, reasons of the alarms, drift of the batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.learning.drift import FEWEST
from wafer.learning.model import WaferModel
from wafer.learning.novelty import UNKNOWN_LEVEL, is_unknown
from wafer.storage import AnyPath, write_json, write_text

WAFER_COLUMNS = ["Wafer", "conformity", "unknown", "label_known"]
REASON_COLUMNS = ["Wafer", "rank", "sensor", "together_with", "direction", "percentile", "reading", "strength"]
RESPONSIBLE = 10  # sensors that are named for a batch's drift


class Details:
    """What a model says of several batches, added one by one, as files of one folder.

    `wafers.csv`: batch, and the columns of `judge_wafers`. `reasons.csv`: batch, and the columns of `explain_alarms`.
    `drift.json`: unknown_level, usual_unknown (share of unknown wafers that past batches had), reasons (as of
    `describe_reasons`) and batches, for each its name and what `describe_drift` says.
    """

    def __init__(self, model: WaferModel) -> None:
        self.model = model
        self.wafers: dict[str, pd.DataFrame] = {}
        self.reasons: dict[str, pd.DataFrame] = {}
        self.drift: list[dict[str, Any]] = []

    def add(self, batch: str, wafers: pd.DataFrame, predictions: pd.DataFrame) -> None:
        """Judge one batch; `wafers` as for `judge_wafers`, `predictions` as of `wafer.scoring.batches.score_wafers`."""
        self.wafers[batch] = judge_wafers(self.model, wafers)
        self.reasons[batch] = explain_alarms(self.model, wafers, predictions)
        self.drift.append({"batch": batch, **describe_drift(self.model, wafers)})

    def write(self, folder: AnyPath) -> None:
        """Write the three files into `folder`, each whole or not at all."""
        reference = self.model.drift_reference_
        report = {
            "unknown_level": UNKNOWN_LEVEL,
            "usual_unknown": None if reference is None else reference.unknown,
            "reasons": describe_reasons(self.model),
            "batches": self.drift,
        }
        _write_by_batch(folder / "wafers.csv", self.wafers, WAFER_COLUMNS)
        _write_by_batch(folder / "reasons.csv", self.reasons, REASON_COLUMNS)
        write_json(folder / "drift.json", report)


def judge_wafers(model: WaferModel, wafers: pd.DataFrame) -> pd.DataFrame:
    """How well each row of `wafers` fits what the model has seen, and whether its label is known already.

    Args:
        model: A fitted model.
        wafers: Columns wafer (str), order (production order), label (missing where unknown) and the model's sensors.

    Returns:
        Columns Wafer, conformity (conformal p-value), unknown (unlike anything seen) and label_known (the model has
        probably trained on the wafer, so that its probability repeats what it was told).
    """
    readings, order = _readings(model, wafers)
    conformity = model.conformity(readings, order=order)
    return pd.DataFrame(
        {
            "Wafer": wafers["wafer"],
            "conformity": conformity,
            "unknown": is_unknown(conformity),
            "label_known": wafers["label"].notna(),
        },
        columns=WAFER_COLUMNS,
    )


def explain_alarms(model: WaferModel, wafers: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """The sensors that speak most against each wafer with an alarm, the strongest first.

    Args:
        model: A fitted model.
        wafers: As for `judge_wafers`.
        predictions: What `wafer.scoring.batches.score_wafers` gave for them.

    Returns:
        Columns Wafer, rank (from 1), sensor, together_with, direction, percentile, reading and strength, as of
        `wafer.learning.explain.tell`; no row where the model gives no reasons.
    """
    alarms = wafers.loc[(predictions["Prediction"] == 1).to_numpy()]
    if alarms.empty or model.reasons_ is None:
        return pd.DataFrame(columns=REASON_COLUMNS)
    readings, order = _readings(model, alarms)
    told = model.explain(readings, order=order)
    return told.assign(Wafer=alarms["wafer"].to_numpy()[told["row"].to_numpy(np.int64)])[REASON_COLUMNS]


def describe_drift(model: WaferModel, wafers: pd.DataFrame) -> dict[str, Any]:
    """How far a batch is from the wafers that the model trained on last, without NaN.

    Returns:
        wafers (their number), unknown (share of wafers unlike anything seen), score, threshold, told_apart (AUC of the
        classifier), usual_told_apart, drifted, why_not and sensors, the most responsible first: sensor,
        stability_index, missing_before, missing_now, shift. Where the batch cannot be judged, `drifted` is None and
        `why_not` the sentence that says why.
    """
    readings, order = _readings(model, wafers)
    unknown = float(is_unknown(model.conformity(readings, order=order)).mean())
    record: dict[str, Any] = {"wafers": len(wafers), "unknown": unknown}
    record |= {"score": None, "threshold": None, "told_apart": None, "usual_told_apart": None, "drifted": None}
    reference = model.drift_reference_
    if reference is None:
        return record | {"why_not": "The model was saved without what it needs to tell drift.", "sensors": []}
    record |= {"threshold": reference.threshold, "usual_told_apart": reference.told_apart}
    if len(wafers) < FEWEST:
        few = f"It has {len(wafers)} of the {FEWEST} wafers that drift is told from."
        return record | {"why_not": few, "sensors": []}
    drift = model.drift(readings, order=order)
    sensors = drift.sensors.head(RESPONSIBLE).to_dict("records")
    record |= {"score": drift.score, "told_apart": drift.told_apart, "sensors": sensors}
    if np.median(order) <= reference.newest:
        return record | {"why_not": "It is no newer than the wafers that the model trained on."}
    if reference.threshold is None:
        return record | {"why_not": "The model trained on too few batches to know what is usual."}
    return record | {"drifted": drift.drifted, "why_not": None}


def describe_reasons(model: WaferModel) -> dict[str, Any]:
    """Whether the model shows reasons: shown, strength, floor, and why_not, a sentence where it does not."""
    reasons = model.reasons_
    if reasons is None:
        lacking = (
            "The model was saved without reasons." if model.tells_reasons else "A reference search has no reasons."
        )
        return {"shown": False, "strength": None, "floor": None, "why_not": lacking}
    weak = (
        f"Reasons are withheld: those of this model have a strength of {reasons.strength:.2f}, and models of shuffled "
        f"labels, which know nothing, reach up to {reasons.floor:.2f}."
    )
    why_not = None if reasons.shown else weak
    return {"shown": reasons.shown, "strength": reasons.strength, "floor": reasons.floor, "why_not": why_not}


def _write_by_batch(file: AnyPath, tables: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> None:
    """One CSV of all batches, their names in the first column; a header alone where there is no row."""
    parts = [table.assign(batch=name) for name, table in tables.items() if len(table)]
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["batch", *columns])
    write_text(file, whole[["batch", *columns]].to_csv(index=False, lineterminator="\n"))


def _readings(model: WaferModel, wafers: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    return wafers[list(model.feature_names_in_)], wafers["order"].to_numpy(np.int64)
