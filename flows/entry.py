"""What every flow shares: progress artifacts, and a command line that never shows a traceback for a user's mistake."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect.artifacts import create_link_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from wafer.errors import WaferError
from wafer.lifeline import end_in_order, tie_children
from wafer.progress import Progress, show_log_lines

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


def run(work: Callable[[], object]) -> int:
    """Run `work` for somebody at a terminal: the exit status, after one clear sentence where something was wrong."""
    tie_children()
    end_in_order()
    show_log_lines()
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)  # Prefect's own; other libraries talk through it too
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the error is told below, without its traceback
    try:
        work()
    except KeyboardInterrupt:
        print("wafer: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except WaferError as error:
        print(f"wafer: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person gets to read
        return 2
    except PrefectException as error:
        print(f"wafer: the Prefect server failed: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def command(module: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of one flow's command line."""
    return argparse.ArgumentParser(prog=f"python -m {module}", description=description)
