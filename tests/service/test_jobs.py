"""Runs that the service started, and what is known of them when those who know are gone."""

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from wafer.errors import PreflightError
from wafer.service import jobs as module
from wafer.service.jobs import PLACE, Job, Jobs
from wafer.service.problems import Problem
from wafer.settings import Settings
from wafer.workspace import Workspace


def made(jobs: Jobs, **named: object) -> Job:
    """A record of a run of 2020, written."""
    told = {"id": str(uuid4()), "kind": "train", "parameters": {}, "who": "somebody", "state": "running", **named}
    job = Job(**{"asked": "2020-01-01T00:00:00.000+00:00", **told})  # type: ignore[arg-type]
    jobs._write(job)
    return job


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(Settings.read(storage_url=str(tmp_path), prefect_url=None)) as workspace:
        yield workspace


def test_a_flow_run_without_its_server_is_lost(workspace: Workspace) -> None:
    """Where the service works on no Prefect server any more, its run stands in nobody's way; that is kept."""
    jobs = Jobs(workspace)
    job = made(jobs)
    (lost,) = jobs.all()
    assert (lost.state, lost.error) == ("lost", "it was started on a Prefect server, and PREFECT_API_URL is unset")
    assert workspace.storage.read_json(f"{PLACE}/{job.id}.json")["state"] == "lost"


def test_what_is_no_record_of_a_run_hides_none(workspace: Workspace) -> None:
    """A file of somebody else's among the records is passed over; one that has ended is not read again."""
    jobs = Jobs(workspace)
    job = made(jobs, state="finished")
    for name, content in (("note.json", b"[1]"), ("torn.json", b"{"), ("other.json", b'{"id": "of a later release"}')):
        workspace.storage.write_bytes(f"{PLACE}/{name}", content)
    assert jobs.all() == [job]
    workspace.storage.write_bytes(f"{PLACE}/{job.id}.json", b"{")
    assert jobs.all() == [job]


def test_a_prefect_server_that_is_away_is_told(tmp_path: Path) -> None:
    """As what is missing, which the service answers by 503, and not as a fault."""
    settings = Settings.read(storage_url=str(tmp_path), prefect_url="http://127.0.0.1:9/api")
    away = temporary_settings({PREFECT_API_URL: settings.prefect_url, PREFECT_CLIENT_MAX_RETRIES: 0})
    with Workspace(settings) as workspace, away:
        jobs = Jobs(workspace)
        job = made(jobs)
        for ask in (lambda: jobs.get(job.id), lambda: jobs.start("train", {}, "somebody")):
            with pytest.raises(PreflightError, match="the Prefect server gives no answer"):
                ask()


def elsewhere(seconds: float) -> dict[str, object]:
    """A run of another machine, which was seen that long ago."""
    seen = datetime.now(UTC) - timedelta(seconds=seconds)
    return {"owner": {"host": "another", "pid": os.getpid(), "born": 1.0}, "seen": seen.isoformat()}


def test_a_run_of_a_machine_that_is_gone_is_lost(workspace: Workspace) -> None:
    """Once it has given no sign of life for two minutes; until then it goes on, and is cancelled there."""
    jobs = Jobs(workspace)
    gone, there = made(jobs, **elsewhere(130)), made(jobs, **elsewhere(60))
    assert jobs.get(there.id).state == "running"
    with pytest.raises(Problem, match="belongs to the machine another: cancel it there"):
        jobs.cancel(there.id)
    lost = jobs.get(gone.id)
    assert (lost.state, lost.error) == ("lost", "the machine another has said nothing of it for too long")
    assert workspace.storage.read_json(f"{PLACE}/{gone.id}.json")["state"] == "lost"
    with pytest.raises(Problem, match="the run is lost already"):
        jobs.cancel(gone.id)


def followed(jobs: Jobs, script: str) -> tuple[Job, "subprocess.Popen[bytes]"]:
    """A job whose process is a shell."""
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return jobs._follow(Job(str(uuid4()), "train", {}, "somebody", module._now()), process), process


def test_a_run_gives_signs_of_life_and_its_end_is_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record moves on while the process is silent; once the service has stopped, it says how it ended."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SIGNS", 0.1)
    jobs = Jobs(workspace)
    job, _ = followed(jobs, "exec sleep 60")
    time.sleep(1.3)
    seen = workspace.storage.read_json(f"{PLACE}/{job.id}.json")["seen"]
    assert seen > job.asked
    jobs.stop()
    told = workspace.storage.read_json(f"{PLACE}/{job.id}.json")
    assert (told["state"], told["ended"] >= seen, jobs._processes) == ("cancelled", True, {})


def test_what_does_not_heed_the_end_is_killed_by_one_deadline(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, and though a process of their own keeps their output open."""
    monkeypatch.setattr(module, "SECONDS_TO_END", 1.0)
    jobs = Jobs(workspace)
    left = [followed(jobs, "trap '' TERM; sleep 6 & while :; do sleep 0.2; done") for _ in range(5)]
    time.sleep(0.5)
    began = time.monotonic()
    jobs.stop()
    assert time.monotonic() - began < 4
    for job, process in left:
        told = workspace.storage.read_json(f"{PLACE}/{job.id}.json")
        assert (process.poll(), told["state"]) == (-9, "failed")


def test_a_run_that_ends_while_it_is_cancelled_is_no_fault(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process goes between the look and the word."""
    with subprocess.Popen(["sleep", "60"]) as process:
        born = psutil.Process(process.pid).create_time()
        owner = {"host": os.uname().nodename, "pid": process.pid, "born": born}
        jobs = Jobs(workspace)
        job = made(jobs, owner=owner)
        look, looks = module._alive, []

        def looked(owner: dict[str, object]) -> psutil.Process | None:
            found = look(owner)
            looks.append(found)
            if len(looks) == 2:
                process.kill()
                process.wait()
            return found

        monkeypatch.setattr(module, "_alive", looked)
        assert jobs.cancel(job.id).state == "lost"
        assert looks[1] is not None
