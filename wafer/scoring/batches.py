"""Judgements of stored batches as files, and the same rows in the store."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import ArrayLike

from wafer.params import RECENT
from wafer.progress import Progress
from wafer.records import UNITS, with_units
from wafer.scoring.bundle import Bundle
from wafer.scoring.details import Details
from wafer.scoring.judge import Judgement, judge
from wafer.storage import AnyPath, write_text

if TYPE_CHECKING:
    from wafer.store.wafers import Store

COLUMNS = list(UNITS["predictions/<batch>.csv"])


def judge_batch(
    bundle: Bundle,
    wafers: pd.DataFrame,
    model_version: int,
    *,
    recent: ArrayLike | None = None,
    reasons: bool = False,
    drift: bool = False,
) -> Judgement:
    """Judge stored wafers: columns wafer (str), order (production order, integers) and the model's sensors.

    `recent` as of `judge`; `reasons` are given of alarms, where the model has any; `drift` where it can be told.
    """
    readings, order = wafers[bundle.classifier.sensor_names_], wafers["order"].to_numpy()
    asked: Any = "alarms" if reasons and bundle.reasons is not None else "none"
    comparable = drift and bundle.drift is not None and bundle.drift.can_compare(len(wafers))
    return judge(bundle, readings, order, version=model_version, recent=recent, reasons=asked, drift=comparable)


def result_rows(wafers: pd.DataFrame, judgement: Judgement) -> pd.DataFrame:
    """The rows of a result file, one for each of the `wafers` that were judged, in their order.

    Returns:
        Columns Wafer (its id), Prediction (-1 good, 1 faulty; missing for a wafer that nobody can judge), probability
        (of a fault; missing without any reading), cluster, model_version (in the registry; 0 for a model that is not
        registered), unknown (no verdict, or one that should not be trusted) and threshold (the probability from which
        a wafer is an alarm).
    """
    names = {"verdict": "Prediction", "version": "model_version"}
    table = judgement.wafers.rename(columns=names).assign(Wafer=wafers["wafer"].to_numpy())
    return with_units(table[COLUMNS], "predictions/<batch>.csv")


def score_batches(
    bundle: Bundle,
    model_version: int,
    store: "Store",
    sensors: Sequence[str],
    digests: Sequence[str],
    folder: AnyPath,
    details: AnyPath,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Score the batches with these `digests`: `<batch>.csv` in `folder` for each, and the same rows in the store.

    `sensors` names the stored readings in their order.
    Two different files of one name get the start of their digest into theirs. A batch of which no wafer is left, since
    all contradict stored ones, gets a CSV without rows, and nothing else is said of it.
    Batches are scored in production order. A rolling threshold follows what the same version said of the wafers between
    its training and the batch's first, as the store has it: the same batch again gets the same thresholds, unless
    batches that were made before it, or other readings of their wafers, were scored since.
    What else the model says goes to the folder `details`, see `wafer.scoring.details.Details`.

    Returns:
        For each batch its file, digest, order (place in the production), name of the CSV, numbers of wafers, alarms and
        unknown wafers, and what `Details.add` returns.
    """
    known = store.known(digests)
    records = sorted((known[digest] for digest in dict.fromkeys(digests)), key=lambda record: record.order)
    names = Counter(record.file for record in records)
    index = []
    told = Details(bundle)
    for done, record in enumerate(records, 1):
        predictions, counts = pd.DataFrame(columns=COLUMNS), {"wafers": 0, "alarms": 0, "unknown": 0}
        more: dict[str, Any] = {}
        stem = record.file.rsplit(".", 1)[0]
        name = stem if names[record.file] == 1 else f"{stem}.{record.digest[:8]}"
        if record.wafers:
            wafers = store.read_wafers(record.wafers, sensors)
            span = bundle.classifier.newest_order_, int(wafers["order"].min())
            recent = store.recent_probabilities(model_version, *span, most=RECENT)
            judgement = judge_batch(bundle, wafers, model_version, recent=recent, reasons=True, drift=True)
            predictions, counts = result_rows(wafers, judgement), judgement.counts()
            placed = predictions.assign(order=wafers["order"].to_numpy())
            store.add_predictions(record.digest, as_documents(placed))
            more = told.add(name, wafers, judgement)
        write_text(folder / f"{name}.csv", predictions.to_csv(index=False, lineterminator="\n"))
        entry = {"file": record.file, "digest": record.digest, "order": record.order, "predictions": f"{name}.csv"}
        index.append({**entry, **counts, "model_version": model_version, **more})
        if progress is not None:
            progress(done, len(records))
    told.write(details)
    return index


def as_documents(predictions: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows as plain values, None for what is missing."""
    table = predictions.astype(object)
    return table.where(predictions.notna(), None).to_dict("records")
