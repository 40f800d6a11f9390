"""What every flow shares: limits of its steps, what Prefect shows of a run, and silence on a terminal."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

import prefect
from prefect import Task, get_client
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging.configuration import setup_logging
from prefect.runtime import deployment, flow_run

import wafer
from wafer.addresses import gave_no_answer
from wafer.lifeline import end_with_parent, tie_children
from wafer.logs import show_log_lines
from wafer.preflight import look_ahead
from wafer.progress import Progress
from wafer.records import Idle, Ingested, Kind
from wafer.reporting.summary import summarise_as_markdown, verdict_rows
from wafer.runs import Run
from wafer.settings import Settings
from wafer.shown import shown_message
from wafer.storage import take_lock, write_text
from wafer.webhook import tell, tell_failure
from wafer.workspace import Workspace

MINUTES = {
    "ingest_batches": 240,
    "see_whether_due": 15,
    "count_refusals": 15,
    "freeze_snapshot": 60,
    "look_back": 15,
    "fit_model": 240,
    "evaluate_recipe": 720,
    "register_version": 30,
    "decide_champion": 60,
    "draw_figures": 15,
    "report": 45,
    "finish_training": 15,
    "predict_batches": 240,
}
"""How long each task may take, each time that it is tried."""
COMPUTED = frozenset({"fit_model", "evaluate_recipe"})
"""Tasks that compute for long and ask no server meanwhile: they are not tried again."""
SECONDS_BEFORE_RETRIES = (10.0, 60.0)
JITTER = 0.5
SECONDS_BETWEEN_UPDATES = 2.0
SECONDS_FOR_A_DATABASE = 300.0
LONGEST_NAME = 150  # signs of what a run works on

NOTHING_TO_DO = "NothingToDo"
"""The state in which a flow completes that made no run."""

Given = ParamSpec("Given")
Done = TypeVar("Done")

log = logging.getLogger("wafer")


def step(run_name: str | None = None) -> Callable[[Callable[Given, Done]], Task[Given, Done]]:
    """Make a task of a step: it ends in time, and in a deployment it is tried again where a server gave no answer."""

    def made(work: Callable[Given, Done]) -> Task[Given, Done]:
        return Task(
            work,
            cache_policy=NO_CACHE,
            task_run_name=run_name,
            timeout_seconds=60.0 * MINUTES[work.__name__],
            retries=0 if work.__name__ in COMPUTED else len(SECONDS_BEFORE_RETRIES),
            retry_delay_seconds=list(SECONDS_BEFORE_RETRIES),
            retry_jitter_factor=JITTER,
            retry_condition_fn=_worth_a_retry,
        )

    return made


def _worth_a_retry(task: Task[Any, Any], _: TaskRun, state: State[Any]) -> bool:
    """Whether a server gave no answer, and nobody waits at a terminal to be told so."""
    error = state.data
    if deployment.id is None or not isinstance(error, Exception) or not gave_no_answer(error):
        return False
    log.warning("%s is tried again: %s", task.name, shown_message(str(error)))
    return True


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
    """A run that came to its end; `run_id` is None where none was made.

    `complaints` are sentences about what should not be: files that could not be read, a page that failed. `told` says
    why there was nothing to do.
    """

    run_id: str | None
    complaints: tuple[str, ...] = ()
    told: str = ""


@contextmanager
def ready() -> Iterator[Workspace]:
    """The workspace of a flow, once its places can be written to and its servers answer: told before a run is made.

    In a deployment, what the flow starts ends with it, and the flow with its worker, which alone could cancel it.
    """
    if deployment.id is not None:
        tie_children()
        end_with_parent()
    with wafer.open() as workspace:
        show_log_lines(workspace.settings.log_format)
        with telling(workspace.settings):
            look_ahead(workspace.settings)
        yield workspace


@contextmanager
def telling(settings: Settings) -> Iterator[None]:
    """Tell the webhook of what fails in the block, before there is a run that could be told of."""
    try:
        yield
    except Exception as error:
        for complaint in tell_failure(settings, str(flow_run.id), flow_run.flow_name, error):
            log.warning(complaint)
        raise


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
    name = workspace.storage.place(page).name
    key = f"{name.removesuffix('.html')}-page".replace("_", "-")
    create_link_artifact(link=workspace.link(page), link_text=name, key=key)


def show_verdicts(workspace: Workspace, ingested: Ingested, kind: Kind) -> None:
    """Show the verdict on each delivered file with the running task."""
    rows = verdict_rows(workspace.storage.read_json(ingested.report))
    create_table_artifact(table=rows, key=f"verdicts-{kind}", description=f"verdicts on the delivery for {kind}")


def name_run(run: Run, what: str) -> None:
    """Call the running flow by its run in the storage and by what it works on."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=f"{run.id} {shown_message(what, LONGEST_NAME)}")


def ended(workspace: Workspace, run: Run, *complaints: str, told: str = "") -> Finished:
    """What came of the run, which is shown with the running flow, and told to a webhook."""
    complaints += tell(workspace, run)
    notes = [*complaints, *([told] if told else [])]
    create_markdown_artifact(summarise_as_markdown(workspace, run, notes), key=f"{run.kind}-summary")
    return Finished(run.id, complaints, told)


def ended_idle(workspace: Workspace, run: Run, *complaints: str, told: str) -> Finished:
    """The end of a run that had nothing to do: why is shown, and kept with it."""
    run.write(Idle(told))
    return ended(workspace, run, *complaints, told=told)


def nothing_done(told: str) -> Finished:
    """The end of a flow that made no run, since there was nothing to do: the running flow shows why."""
    create_markdown_artifact(shown_message(told), key=f"{flow_run.flow_name}-summary")
    return Finished(None, told=told)


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
