"""Score a delivery: ingest it, predict with the champion, report."""

from prefect import flow

from flows.entry import Finished, ended, ended_idle, failures, name_run, opened, progress_artifact, ready, step
from flows.ingest import ingest_batches
from flows.report import report
from wafer import steps
from wafer.preflight import need_champion
from wafer.progress import heard_by
from wafer.records import Predicted

NOTHING_NEW = "nothing was scored: no accepted file is new"


@step()
def predict_batches(run_id: str, new_only: bool = False) -> Predicted | None:
    """Score every accepted batch with the champion, or those that no run has scored yet; None where there is none."""
    with opened(run_id) as (workspace, run), heard_by(progress_artifact):
        return steps.predict(workspace, run, new_only=new_only)


@flow
def predict(raw: str | None = None, new_only: bool = False) -> Finished:
    """Score a delivery with the champion: ingest it, predict, report.

    Args:
        raw: a batch file or a folder of them, or s3://bucket/prefix; by default raw/prediction of the storage.
        new_only: score only files that no run has scored yet.
    """
    with ready() as workspace, steps.working(workspace, "prediction") as run:
        name_run(run, f"of {raw or workspace.storage.key(workspace.raw('prediction'))}")
        need_champion(workspace)
        ingested = ingest_batches(run.id, raw, "prediction")
        predicted = predict_batches(run.id, new_only)
        if predicted is None:
            return ended_idle(workspace, run, *ingested.complaints, told=NOTHING_NEW)
        failed = failures(report(run.id, "prediction", return_state=True))
        return ended(workspace, run, *ingested.complaints, *predicted.complaints, *failed)
