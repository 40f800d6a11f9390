"""Frames and a model in, predictions out."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from wafer.learning.model import WaferModel
from wafer.progress import Progress
from wafer.scoring.details import Details
from wafer.storage import AnyPath, write_text
from wafer.store.wafers import Store

COLUMNS = ["Wafer", "Prediction", "probability", "cluster", "model_version"]


def score_wafers(model: WaferModel, wafers: pd.DataFrame, model_version: int) -> pd.DataFrame:
    """The verdict of `model` on each row of `wafers`, in their order.

    Args:
        model: A fitted model.
        wafers: Columns wafer (str), order (production order, integers) and the sensors that the model knows.
        model_version: The registry's version of the model; 0 for one that is not registered.

    Returns:
        Columns Wafer, Prediction (-1 good, 1 faulty), probability (of a fault), cluster and model_version.
    """
    readings, order = wafers[list(model.feature_names_in_)], wafers["order"].to_numpy()
    probability = model.fault_probability(readings, order=order)
    return pd.DataFrame(
        {
            "Wafer": wafers["wafer"],
            "Prediction": np.where(probability >= model.threshold_, 1, -1),
            "probability": probability,
            "cluster": model.assign_clusters(readings, order=order),
            "model_version": model_version,
        },
        columns=COLUMNS,
    )


def score_batches(
    model: WaferModel,
    model_version: int,
    store: Store,
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
    What else the model says goes to the folder `details`, see `wafer.scoring.details.Details`.

    Returns:
        For each batch its file, digest, name of the CSV, and numbers of wafers and alarms.
    """
    known = store.known(digests)
    records = [known[digest] for digest in dict.fromkeys(digests)]
    names = Counter(record.file for record in records)
    index = []
    told = Details(model)
    for done, record in enumerate(records, 1):
        if record.wafers:
            wafers = store.read_wafers(record.wafers, sensors)
            predictions = score_wafers(model, wafers, model_version)
        else:
            predictions = pd.DataFrame(columns=COLUMNS)
        stem = record.file.rsplit(".", 1)[0]
        name = stem if names[record.file] == 1 else f"{stem}.{record.digest[:8]}"
        write_text(folder / f"{name}.csv", predictions.to_csv(index=False, lineterminator="\n"))
        if record.wafers:
            store.add_predictions(record.digest, predictions.to_dict("records"))
            told.add(name, wafers, predictions)
        counts = {"wafers": len(predictions), "alarms": int((predictions["Prediction"] == 1).sum())}
        entry = {"file": record.file, "digest": record.digest, "predictions": f"{name}.csv"}
        index.append({**entry, **counts, "model_version": model_version})
        if progress is not None:
            progress(done, len(records))
    told.write(details)
    return index
