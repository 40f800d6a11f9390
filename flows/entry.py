"""What every flow shares: progress artifacts, links to pages, and silence on a terminal."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import prefect
from prefect.artifacts import create_link_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.logging.configuration import setup_logging

import wafer
from wafer.progress import Progress
from wafer.runs import Run
from wafer.storage import is_local, take_lock, write_text
from wafer.workspace import Workspace

SECONDS_BETWEEN_UPDATES = 2.0
SECONDS_FOR_A_DATABASE = 300.0


@contextmanager
def progress_artifact(title: str) -> Iterator[Progress]:
    """A listener for `wafer.progress.heard_by`: keeps a progress artifact of the running task."""
    artifact = cast(UUID, create_progress_artifact(progress=0.0, key=re.sub(r"[ _]", "-", title), description=title))
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > SECONDS_BETWEEN_UPDATES:
            last = time.monotonic()
            update_progress_artifact(artifact_id=artifact, progress=100.0 * done / max(total, 1))

    yield tell


@dataclass(frozen=True)
class Finished:
    """A run that came to its end.

    `complaints` are sentences about what should not be: files that could not be read, a page that failed. `told` says
    why there was nothing to do.
    """

    run_id: str
    complaints: tuple[str, ...] = ()
    told: str = ""


@contextmanager
def opened(run_id: str) -> Iterator[tuple[Workspace, Run]]:
    """The workspace of this process and a run in it."""
    with wafer.open() as workspace:
        yield workspace, workspace.runs.get(run_id)


def failures(*states: State[Any]) -> tuple[str, ...]:
    """The errors of the tasks that failed, a sentence each."""
    return tuple(str(state.result(raise_on_failure=False)) for state in states if not state.is_completed())


def link_page(workspace: Workspace, page: str) -> None:
    """Link a page of reports with the running task."""
    place = workspace.storage.place(page)
    link = place.as_uri() if is_local(place) else str(place)
    create_link_artifact(link=link, link_text=place.name, key=f"{place.stem}-page".replace("_", "-"))


def make_database(home: Path) -> None:
    """Make or upgrade the database of Prefect's own local server, once a release.

    Two servers that do so at the same time, each for a command of its own, spoil it for each other.
    """
    done = home / "database-of"
    with (home / "database.lock").open("ab") as lock:
        take_lock(lock, home, seconds=SECONDS_FOR_A_DATABASE)
        if done.exists() and done.read_text() == prefect.__version__:
            return
        from prefect.server.database import provide_database_interface

        asyncio.run(provide_database_interface().create_db())
        write_text(done, prefect.__version__)


def quieten() -> None:
    """Keep Prefect's own log lines from the terminal: an error is told once, by `wafer.boundary`."""
    # Prefect sets up its logging anew as it goes, and reads this each time
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "WARNING"  # other libraries talk through it too
    for name in ("PREFECT_FLOW_RUNS", "PREFECT_TASK_RUNS"):
        os.environ[f"PREFECT_LOGGING_LOGGERS_{name}_LEVEL"] = "CRITICAL"
    setup_logging()
    # where the server is gone, its address is told with its password
    for name in ("prefect.engine", "prefect.events.clients"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
