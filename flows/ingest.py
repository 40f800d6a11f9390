"""Take in a delivery: judge each batch file, store the good ones, quarantine the others with reasons."""

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.entry import link_page, progress_artifact
from wafer import steps
from wafer.progress import heard_by
from wafer.records import Ingested
from wafer.settings import Settings
from wafer.steps import Kind


@task(cache_policy=NO_CACHE, task_run_name="ingest-{kind}")
def ingest_batches(raw: str | None, kind: Kind, replace: bool = False) -> Ingested:
    """Judge and store the batch files of one folder."""
    with heard_by(progress_artifact):
        run = steps.named_by_time(f"ingest-{kind}")
        ingested = steps.ingest(Settings.read(), kind, raw, replace=replace, run=run)
    link_page(f"ingest-{kind}-page", ingested.page)
    return ingested


@flow
def ingest(raw: str | None = None, kind: Kind = "training", replace: bool = False) -> Ingested:
    """Take in the batch files in the folder `raw` (default: the storage's own `raw/<kind>`).

    With `replace`, wafers with other readings than the stored ones take their place instead of being quarantined.
    """
    return ingest_batches(raw, kind, replace)


if __name__ == "__main__":
    from wafer.cli.main import main

    main(["ingest", *sys.argv[1:]])
