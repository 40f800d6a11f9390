"""What a model says of batches besides their results: don't know, reasons of the alarms, drift."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.diagnosis.drift import FEWEST
from wafer.diagnosis.novelty import UNKNOWN_LEVEL, is_unknown
from wafer.records import UNITS, with_units
from wafer.scoring.bundle import Bundle
from wafer.scoring.control import ControlLog
from wafer.scoring.judge import Judgement
from wafer.storage import AnyPath, write_json, write_text

WAFER_COLUMNS, REASON_COLUMNS = (list(UNITS[f"details/{name}.csv"])[1:] for name in ("wafers", "reasons"))
RESPONSIBLE = 10  # sensors that are named for a batch's drift


class Details:
    """What a model says of several batches, added one by one in production order, as files of one folder.

    `wafers.csv`: batch, and the columns of `doubts`. `reasons.csv`: batch, Wafer, and the columns of
    `wafer.diagnosis.reasons.tell` without `row`; of alarms alone. `drift.json`: unknown_level, usual_unknown (share of
    unknown wafers that past batches had), reasons (as of `describe_reasons`) and batches, for each its name and what
    `describe_drift` says. `monitor_….csv`: the frames of `wafer.scoring.control.Control`.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.wafers: dict[str, pd.DataFrame] = {}
        self.reasons: dict[str, pd.DataFrame] = {}
        self.drift: list[dict[str, Any]] = []
        self.control = ControlLog(bundle)

    def add(self, batch: str, wafers: pd.DataFrame, judgement: Judgement) -> dict[str, Any]:
        """Take in one batch; `wafers` with the columns wafer, order, label (missing where unknown) and the sensors.

        Returns: of its drift score, threshold and drifted, and how many wafers are beyond the limits, t2 and spe.
        """
        self.wafers[batch] = doubts(wafers, judgement)
        if judgement.reasons is not None:
            ids = wafers["wafer"].to_numpy()[judgement.reasons["row"].to_numpy(np.int64)]
            self.reasons[batch] = judgement.reasons.assign(Wafer=ids)[REASON_COLUMNS]
        drift = describe_drift(self.bundle, judgement, wafers["order"].to_numpy())
        self.drift.append({"batch": batch, **drift})
        return {name: drift[name] for name in ("score", "threshold", "drifted")} | self.control.add(batch, wafers)

    def write(self, folder: AnyPath) -> None:
        """Write the files into `folder`, each whole or not at all."""
        known = self.bundle.drift
        report = {
            "unknown_level": UNKNOWN_LEVEL,
            "usual_unknown": None if known is None else known.unknown,
            "reasons": describe_reasons(self.bundle),
            "batches": self.drift,
        }
        _write_by_batch(folder / "wafers.csv", self.wafers, WAFER_COLUMNS)
        _write_by_batch(folder / "reasons.csv", self.reasons, REASON_COLUMNS)
        write_json(folder / "drift.json", report)
        self.control.control().write(folder)


def doubts(wafers: pd.DataFrame, judgement: Judgement) -> pd.DataFrame:
    """How well each wafer fits what the model has seen, and whether its label is known already.

    Returns:
        Columns Wafer, p_value, unknown and why as of `Judgement`, and label_known (the model has probably trained on
        the wafer, so that its probability repeats what it was told).
    """
    known = {"Wafer": wafers["wafer"].to_numpy(), "label_known": wafers["label"].notna().to_numpy()}
    return with_units(judgement.wafers.assign(**known)[WAFER_COLUMNS], "details/wafers.csv")


def describe_drift(bundle: Bundle, judgement: Judgement, order: NDArray[np.int64]) -> dict[str, Any]:
    """How far a batch is from the wafers that the model trained on last, without NaN.

    Returns:
        wafers (their number), unknown (share of wafers unlike anything seen), score, threshold, domain_auc (of the
        classifier that tells the batch from the window), usual_domain_auc, drifted, why_not and sensors, the most
        responsible first: sensor, stability_index, missing_before, missing_now, shift. Where the batch cannot be
        judged, `drifted` is None and `why_not` the sentence that says why.
    """
    wafers = judgement.wafers
    record: dict[str, Any] = {"wafers": len(wafers), "unknown": float(is_unknown(wafers["p_value"].to_numpy()).mean())}
    record |= {"score": None, "threshold": None, "domain_auc": None, "usual_domain_auc": None, "drifted": None}
    known, drift = bundle.drift, judgement.drift
    if known is None:
        return record | {"why_not": "The model was saved without what it needs to tell drift.", "sensors": []}
    record |= {"threshold": known.threshold, "usual_domain_auc": known.domain_auc}
    if drift is None:
        few = f"It has {len(wafers)} of the {FEWEST} wafers that drift is told from."
        return record | {"why_not": few, "sensors": []}
    sensors = drift.sensors.head(RESPONSIBLE).to_dict("records")
    record |= {"score": drift.score, "domain_auc": drift.domain_auc, "sensors": sensors}
    if np.median(order) <= known.newest:
        return record | {"why_not": "It is no newer than the training."}
    if known.threshold is None:
        return record | {"why_not": "The model trained on too few batches to know what is usual."}
    return record | {"drifted": drift.drifted, "why_not": None}


def describe_reasons(bundle: Bundle) -> dict[str, Any]:
    """Whether the model shows reasons: shown, strength, floor, and why_not, a sentence where it does not."""
    reasons = bundle.reasons
    if reasons is None:
        lacking = "The model was saved without reasons."
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
