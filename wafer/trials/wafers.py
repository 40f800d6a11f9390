"""Which wafers a trial works with: a snapshot of the storage, batch files, or simulated ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from joblib import hash as joblib_hash
from numpy.typing import NDArray

from wafer.contract.suites import judge_files
from wafer.delivered import list_files
from wafer.errors import EmptyError
from wafer.fab.simulate import batch_file_name, simulate_frame
from wafer.intake.ingest import production_order
from wafer.records import Frozen
from wafer.workspace import Workspace

SIMULATED = {"batches": 6, "wafers": 80, "seed": 7}
"""The small fab that stands in where nothing was trained yet."""


@dataclass(frozen=True)
class Wafers:
    """Labelled wafers in production order.

    Attributes:
        told: where they come from, as a sentence.
        readings: (wafers × sensors) float64, NaN for missing.
        labels: (wafers,) -1 good, +1 faulty.
        order: (wafers,) production order.
        batches: (wafers,) name of each wafer's batch.
        names: (wafers,) id of each wafer.
        digest: of all of this: equal for equal wafers.
        frozen: the snapshot that they are; None where the storage holds none of them.
    """

    told: str
    readings: pd.DataFrame
    labels: NDArray[np.int64]
    order: NDArray[np.int64]
    batches: NDArray[np.object_]
    names: NDArray[np.object_]
    digest: str
    frozen: Frozen | None = None

    @property
    def simulated(self) -> bool:
        """Whether they come from the synthetic fab, made on the spot."""
        return self.frozen is None and self.told.startswith("Simulated")


def choose_wafers(workspace: Workspace, run: str = "", files: Sequence[str] = ()) -> Wafers:
    """The wafers of a trial.

    Args:
        workspace: whose storage holds snapshots, and whose agreement judges files.
        run: id of the training whose snapshot is meant; empty: the newest, and where there is none, simulated wafers.
        files: batch files with labels, or folders of them, that are taken instead.

    Raises:
        StorageError: there is no such run.
        DeliveryError: one of the files is not there.
        EmptyError: no file holds a labelled wafer that keeps the agreement.
    """
    if files:
        return _from_files(workspace, files)
    training = workspace.runs.get(run) if run else workspace.runs.latest("training")
    if training is None:
        return _simulated(str(workspace.storage.root))
    frozen = training.read(Frozen)
    table = workspace.snapshot(frozen.folder).table
    return _of_table(f"The snapshot {frozen.digest[:12]} of the run {training.id}", table, frozen)


def _simulated(place: str) -> Wafers:
    wafers, seed = SIMULATED["wafers"], SIMULATED["seed"]
    frames = [
        simulate_frame(number, wafers=wafers, seed=seed).assign(batch=batch_file_name(number, seed))
        for number in range(SIMULATED["batches"])
    ]
    table = pd.concat(frames, ignore_index=True)
    table.insert(1, "order", np.arange(1, len(table) + 1))
    return _of_table(f"Simulated wafers, made on the spot, because {place} holds no training", table)


def _from_files(workspace: Workspace, files: Sequence[str]) -> Wafers:
    contract = workspace.contract("training")
    listing = list_files([workspace.settings.opened(file) for file in files], workspace.settings.link_roots)
    frames, refused = [], 0
    for delivery, verdict in judge_files(listing.files, contract):
        if delivery.table is None or not verdict.accepted:
            refused += 1
            continue
        frame = delivery.table.to_pandas()
        order = production_order(contract.order, contract.form.wafer_id, frame["wafer"].tolist(), delivery.file)
        frames.append(frame.assign(order=order, batch=delivery.file).dropna(subset="label"))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"label": []})
    told = f"{len(frames)} of {len(frames) + refused} files keep the agreement"
    if table.empty:
        raise EmptyError(listing.why_empty or f"there is no labelled wafer to try a model on: {told}")
    table = table.sort_values(["order", "wafer"], kind="stable").drop_duplicates("wafer", ignore_index=True)
    return _of_table(
        f"Wafers of {told}, which are not in the store", table[["wafer", "order", "batch", "label", *contract.sensors]]
    )


def _of_table(told: str, table: pd.DataFrame, frozen: Frozen | None = None) -> Wafers:
    readings = table.drop(columns=["wafer", "order", "batch", "label"]).astype(np.float64)
    labels, order = (table[name].to_numpy(np.int64) for name in ("label", "order"))
    batches, names = (table[name].to_numpy(object) for name in ("batch", "wafer"))
    content = joblib_hash((list(readings.columns), readings.to_numpy(), labels, order, batches.tolist()))
    digest = hashlib.sha256(str(content).encode()).hexdigest()
    faulty = int(np.sum(labels == 1))
    parts = f"{(number := len(set(batches))):,} {'batch' if number == 1 else 'batches'}"
    told = f"{told}: {len(labels):,} wafers of {parts}, {faulty:,} of them faulty."
    return Wafers(told, readings, labels, order, batches, names, digest, frozen)
