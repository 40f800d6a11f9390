"""Watch for new files: one event for each that has settled, by which Prefect runs `predict` on it."""

from prefect import flow
from prefect.events import emit_event
from pydantic import PositiveFloat

from flows.entry import log, ready
from wafer import steps

EVENT = "wafer.file.settled"


@flow
def watch(raw: str | None = None, seconds: PositiveFloat = 30.0, minutes: PositiveFloat = 55.0) -> int:
    """Watch for new batch files and tell Prefect of each that has settled; how many there were.

    Args:
        raw: folder of batch files, or s3://bucket/prefix; by default raw/prediction of the storage.
        seconds: between two looks; a file that has not changed from one to the next has settled.
        minutes: for which it goes on; the next run, on schedule, takes over.
    """
    told = 0
    with ready() as workspace:
        for file in steps.watch(workspace, raw).settling(seconds, minutes):
            resource = {"prefect.resource.id": f"wafer.file.{file.key}", "prefect.resource.name": file.path}
            emit_event(EVENT, resource, payload={"raw": file.path, "bytes": file.size})
            log.info("%s has settled", file.path)
            told += 1
    return told
