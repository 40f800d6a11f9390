"""Take in a delivery: judge each batch file, store the good ones, quarantine the others with reasons."""

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.entry import command, progress_artifact, run
from wafer import steps
from wafer.progress import heard_by
from wafer.records import Ingested
from wafer.settings import Settings
from wafer.steps import Kind


@task(cache_policy=NO_CACHE, task_run_name="ingest-{kind}")
def ingest_batches(raw: str | None, kind: Kind) -> Ingested:
    """Judge and store the batch files of one folder."""
    with heard_by(progress_artifact):
        return steps.ingest(Settings.read(), kind, raw)


@flow
def ingest(raw: str | None = None, kind: Kind = "training") -> Ingested:
    """Take in the batch files in the folder `raw` (default: the storage's own `raw/<kind>`)."""
    return ingest_batches(raw, kind)


if __name__ == "__main__":
    parser = command("flows.ingest", __doc__)
    parser.add_argument("--raw", help="folder of batch files (default: raw/<kind> below WAFER_STORAGE)")
    parser.add_argument("--kind", choices=("training", "prediction"), default="training", help="(%(default)s)")
    options = parser.parse_args()
    sys.exit(run(lambda: ingest(options.raw, options.kind)))
