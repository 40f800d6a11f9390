"""Take in a delivery: judge each batch file, store the good ones, quarantine the others with reasons."""

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.entry import command, link_page, progress_artifact, run
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
    parser = command("flows.ingest", __doc__)
    parser.add_argument("--raw", help="folder of batch files (default: raw/<kind> below WAFER_STORAGE)")
    parser.add_argument("--kind", choices=("training", "prediction"), default="training", help="(%(default)s)")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="let wafers with other readings replace the stored ones, which stay in their history",
    )
    options = parser.parse_args()
    taken_in: list[Ingested] = []
    status = run(lambda: taken_in.append(ingest(options.raw, options.kind, options.replace)))
    sys.exit(status or int(any(one.unread for one in taken_in)))
