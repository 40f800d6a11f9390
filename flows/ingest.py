"""Take in a delivery: judge each batch file, store the good ones, quarantine the others with reasons."""

from prefect import flow

from flows.entry import Finished, ended, link_page, name_run, opened, progress_artifact, ready, show_verdicts, step
from wafer import steps
from wafer.progress import heard_by
from wafer.records import Ingested, Kind


@step("ingest-{kind}")
def ingest_batches(run_id: str, raw: str | None, kind: Kind, replace: bool = False) -> Ingested:
    """Judge and store the batch files of one folder."""
    with opened(run_id) as (workspace, run), heard_by(progress_artifact):
        ingested = steps.ingest(workspace, run, kind, raw, replace=replace)
    show_verdicts(workspace, ingested, kind)
    if ingested.page is not None:
        link_page(workspace, ingested.page)
    return ingested


@flow
def ingest(raw: str | None = None, kind: Kind = "training", replace: bool = False) -> Finished:
    """Take in a delivery: judge each batch file, store the good ones, quarantine the others with reasons.

    Args:
        raw: folder of batch files, or s3://bucket/prefix; by default those delivered to the storage, raw/<kind>.
        kind: of delivery; files for training have labels.
        replace: let wafers with other readings than the stored ones take their place instead of being quarantined.
    """
    with ready() as workspace, steps.working(workspace, f"ingest-{kind}") as run:
        name_run(run, f"of {raw or workspace.storage.key(workspace.raw(kind))}")
        ingested = ingest_batches(run.id, raw, kind, replace)
        return ended(workspace, run, *ingested.complaints)
