"""Score a delivery: ingest it, predict with the champion, report."""

from prefect import flow

from flows.entry import Finished, ended, failures, name_run, opened, progress_artifact, ready, step
from flows.ingest import ingest_batches
from flows.report import report
from wafer import steps
from wafer.preflight import need_champion
from wafer.progress import heard_by
from wafer.records import Predicted


@step()
def predict_batches(run_id: str) -> Predicted:
    """Score every accepted batch with the champion."""
    with opened(run_id) as (workspace, run), heard_by(progress_artifact):
        return steps.predict(workspace, run)


@flow
def predict(raw: str | None = None) -> Finished:
    """Score a delivery with the champion: ingest it, predict, report.

    Args:
        raw: folder of batch files, or s3://bucket/prefix; by default those delivered to the storage, raw/prediction.
    """
    with ready() as workspace, steps.working(workspace, "prediction") as run:
        name_run(run, f"of {raw or workspace.storage.key(workspace.raw('prediction'))}")
        need_champion(workspace)
        ingested = ingest_batches(run.id, raw, "prediction")
        predicted = predict_batches(run.id)
        failed = failures(report(run.id, "prediction", return_state=True))
        return ended(workspace, run, *ingested.complaints, *predicted.complaints, *failed)
