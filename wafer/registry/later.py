"""Wafers that the champion has never seen, because they came after its training; pure functions on tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.learning.decision import tail_share
from wafer.scoring.bundle import Bundle
from wafer.scoring.judge import judge
from wafer.store.snapshot import Snapshot


def later_wafers(
    snapshot: Snapshot, trained: Mapping[str, Any], last_order: int | None = None
) -> NDArray[np.bool_] | None:
    """Which wafers of `snapshot` lie in batches that came entirely after a training.

    A batch counts when each of its wafers comes after the training's last one in production order, and no delivery of
    that name belonged to the training's own snapshot.

    Args:
        snapshot: the present one.
        trained: the manifest of the snapshot that was trained on.
        last_order: production order of its last wafer, where that was noted.

    Returns:
        A mask over the wafers; None where it cannot be told when the training ended.
    """
    table = snapshot.table
    known = {batch["digest"] for batch in trained["batches"]}
    seen = {batch["file"] for batch in trained["batches"]}
    seen |= {batch["file"] for batch in snapshot.manifest["batches"] if batch["digest"] in known}
    own = table["batch"].isin(seen)
    ends = [] if last_order is None else [last_order]
    if own.any():
        ends.append(int(table.loc[own, "order"].max()))
    if not ends:
        return None
    first = table.groupby("batch")["order"].transform("min")
    return (~own & (first > max(ends))).to_numpy(bool)


def score_as_champion(bundle: Bundle, snapshot: Snapshot, rows: NDArray[np.bool_]) -> pd.DataFrame:
    """The scores that a model itself gives to some wafers of `snapshot`, alarms by its own threshold.

    A wafer that it cannot judge raises no alarm; one without any reading counts as its least suspicious.

    Returns:
        Columns protocol ("forward"), batch, wafer, label, probability, alarm, tail, recent_tail; a row per wafer of
        `rows`.
    """
    judgement = judge(bundle, snapshot.readings.loc[rows], snapshot.order[rows])
    probability = judgement.wafers["probability"].fillna(0.0).to_numpy()
    return pd.DataFrame(
        {
            "protocol": "forward",
            "batch": snapshot.batches[rows],
            "wafer": snapshot.table.loc[rows, "wafer"].to_numpy(),
            "label": snapshot.labels[rows].astype(int),
            "probability": probability,
            "alarm": judgement.alarms,
            "tail": tail_share(bundle.classifier.held_out_["probability"].to_numpy(float), probability),
            "recent_tail": bundle.classifier.recent_tails(probability, snapshot.order[rows]),
        }
    )
