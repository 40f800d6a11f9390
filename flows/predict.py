"""Score a delivery: ingest it, predict with the champion, report."""

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.entry import link_page, progress_artifact
from flows.ingest import ingest_batches
from wafer import steps
from wafer.progress import heard_by
from wafer.records import Ingested, Predicted, Reported
from wafer.settings import Settings


@task(cache_policy=NO_CACHE)
def predict_batches(ingested: Ingested) -> Predicted:
    """Score every accepted batch with the champion; what it says of them goes to a report folder of its own."""
    with heard_by(progress_artifact):
        return steps.predict(Settings.read(), ingested.report, run=steps.named_by_time("prediction"))


@task(cache_policy=NO_CACHE)
def report_prediction(ingested: Ingested, predicted: Predicted) -> Reported:
    """Run the prediction notebook."""
    report = steps.report_prediction(Settings.read(), ingested, predicted)
    link_page("prediction-page", report.page)
    return report


@flow
def predict(raw: str | None = None) -> Reported:
    """Score the batch files in the folder `raw` (default: the storage's own `raw/prediction`)."""
    ingested = ingest_batches(raw, "prediction")
    predicted = predict_batches(ingested)
    return report_prediction(ingested, predicted)


if __name__ == "__main__":
    from wafer.cli.main import main

    main(["predict", *sys.argv[1:]])
