"""What notebooks are made from: records, scores, model and wafers of one run, each read when it is first asked for."""

import io
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import pandas as pd

import wafer
from wafer.errors import ReportError
from wafer.records import Decided, Evaluated, Fitted, Frozen, Ingested, Kind, Predicted
from wafer.reporting.deliveries import read_predictions
from wafer.reporting.findings import NO_DETAILS, Findings, read_findings, with_findings
from wafer.reporting.newest import open_newest
from wafer.reporting.process import read_control
from wafer.runs import Run
from wafer.scoring.bundle import Bundle
from wafer.scoring.control import Control
from wafer.scoring.timeline import LIVE, PLACE
from wafer.workspace import Workspace


def open_run(kind: Kind, run: str = "", storage: str = "") -> tuple[Workspace, Run]:
    """A run and the workspace that it lies in.

    Args:
        kind: of the run that is meant where none is named.
        run: its name; empty: the newest of the kind.
        storage: folder or `s3://` address; empty: as the environment says.

    Where neither is named, there is always a run, which may be a simulated one: see `open_newest`.

    Raises:
        ReportError: the storage that is named holds no run of the kind yet.
        StorageError: there is no run of that name.
    """
    if not run and not storage:
        return open_newest(kind)
    workspace = wafer.open(storage_url=storage) if storage else wafer.open()
    found = workspace.runs.get(run) if run else workspace.runs.latest(kind)
    if found is None:
        raise ReportError(f"{workspace.storage.root} holds no run of the kind {kind!r} yet")
    return workspace, found


class TrainingSources:
    """What a training has left; `run` and `storage` as for `open_run`."""

    def __init__(self, run: str = "", storage: str = "") -> None:
        self.workspace, self.run = open_run("training", run, storage)

    @cached_property
    def bundle(self) -> Bundle:
        """The model and all beside it; its digests are checked."""
        return self.workspace.bundle(self.run.read(Fitted).folder)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics of both protocols and the canary."""
        found: dict[str, Any] = self.workspace.storage.read_json(self.run.read(Evaluated).metrics)
        return found

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The out-of-fold scores that the metrics were computed from."""
        place = self.workspace.storage.place(self.run.read(Evaluated).scores)
        return pd.read_parquet(io.BytesIO(place.read_bytes()))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the snapshot."""
        found: dict[str, Any] = self.workspace.storage.read_json(f"{self.run.read(Frozen).folder}/manifest.json")
        return found

    @cached_property
    def wafers(self) -> pd.DataFrame:
        """The snapshot, its values checked: wafer, order, batch, label and the sensors."""
        return self.workspace.snapshot(self.run.read(Frozen).folder).table

    @cached_property
    def decision(self) -> dict[str, Any] | None:
        """What the gate said, with all its numbers; None where it was not asked."""
        if not self.run.has(Decided):
            return None
        found: dict[str, Any] = self.workspace.storage.read_json(self.run.read(Decided).decision)
        return found

    @cached_property
    def delivery(self) -> dict[str, Any]:
        """The report of the ingest of labelled batches, of the same run or the newest; empty where there was none."""
        step = "ingest-training"
        run = self.run if self.run.has(Ingested, step) else self.workspace.runs.latest(step)
        return {} if run is None else dict(self.workspace.storage.read_json(run.read(Ingested, step).report))


class PredictionSources:
    """What a prediction has left; `run` and `storage` as for `open_run`."""

    def __init__(self, run: str = "", storage: str = "") -> None:
        self.workspace, self.run = open_run("prediction", run, storage)

    @classmethod
    def of(cls, workspace: Workspace, run: Run) -> Self:
        """What this run has left in a workspace that is open already."""
        made = cls.__new__(cls)
        made.workspace, made.run = workspace, run
        return made

    @cached_property
    def _record(self) -> Predicted:
        return self.run.read(Predicted)

    @cached_property
    def bundle(self) -> Bundle:
        """The model that made the predictions; its digests are checked."""
        return self.workspace.bundle(self._record.model_folder)

    @cached_property
    def findings(self) -> Findings:
        """What the model says besides: doubts, reasons, drift."""
        return read_findings(self.workspace.storage.place(self._record.details))

    @cached_property
    def control(self) -> Control:
        """What left control."""
        return read_control(self.workspace.storage.place(self._record.details))

    @cached_property
    def timeline(self) -> list[dict[str, Any]]:
        """How the batches of this and of earlier predictions followed each other, as of then."""
        key = self.run.key(PLACE)
        if not self.workspace.storage.exists(key):
            raise ReportError(f"{self.workspace.storage.place(key)} is not there: {NO_DETAILS}")
        found: list[dict[str, Any]] = self.workspace.storage.read_json(key)
        return found

    @cached_property
    def live(self) -> list[dict[str, Any]]:
        """What the versions of the timeline were worth by then, see `wafer.registry.live`; of a study nothing."""
        key = self.run.key(LIVE)
        return self.workspace.storage.read_json(key) if self.workspace.storage.exists(key) else []

    def predictions(self, batches: Sequence[str] | None = None) -> pd.DataFrame:
        """The predictions of these batches (names of CSV files; None: all), with what was found besides."""
        folder = self.workspace.storage.place(self._record.folder)
        return with_findings(
            read_predictions(folder, self._record.files if batches is None else batches), self.findings
        )

    @cached_property
    def delivery(self) -> dict[str, Any]:
        """The report of the ingest."""
        report = self.run.read(Ingested, "ingest-prediction").report
        return dict(self.workspace.storage.read_json(report))
