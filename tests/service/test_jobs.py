"""Runs that the service started, and what is known of them when those who know are gone."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from wafer.errors import PreflightError
from wafer.service.jobs import PLACE, Job, Jobs
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


def test_a_prefect_server_that_is_away_is_told(tmp_path: Path) -> None:
    """As what is missing, which the service answers by 503, and not as a fault."""
    settings = Settings.read(storage_url=str(tmp_path), prefect_url="http://127.0.0.1:9/api")
    away = temporary_settings({PREFECT_API_URL: settings.prefect_url, PREFECT_CLIENT_MAX_RETRIES: 0})
    with Workspace(settings) as workspace, away:
        jobs = Jobs(workspace)
        job = made(jobs)
        for ask in (jobs.all, lambda: jobs.get(job.id), lambda: jobs.start("train", {}, "somebody")):
            with pytest.raises(PreflightError, match="the Prefect server gives no answer"):
                ask()
