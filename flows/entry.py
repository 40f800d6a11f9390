"""What every flow shares: progress artifacts, links to pages, and silence on a terminal."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import create_link_artifact, create_progress_artifact, update_progress_artifact

from wafer.progress import Progress

SECONDS_BETWEEN_UPDATES = 2.0


@contextmanager
def progress_artifact(title: str) -> Iterator[Progress]:
    """A listener for `wafer.progress.heard_by`: keeps a progress artifact of the running task."""
    artifact = cast(UUID, create_progress_artifact(progress=0.0, key=title.replace(" ", "-"), description=title))
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > SECONDS_BETWEEN_UPDATES:
            last = time.monotonic()
            update_progress_artifact(artifact_id=artifact, progress=100.0 * done / max(total, 1))

    yield tell


def link_page(key: str, page: str) -> None:
    """Link a page of reports with the running task."""
    link = page if "://" in page else Path(page).absolute().as_uri()
    create_link_artifact(link=link, link_text=Path(page).name, key=key)


def quieten() -> None:
    """Keep Prefect's own log lines from the terminal: an error is told once, by `wafer.boundary`."""
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)  # Prefect's own; other libraries talk through it too
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
