"""Runs of deployments, started, looked at and cancelled on a real Prefect server, as the service does."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.ingest import ingest
from flows.server import cancel_run, look_at_run, start_deployment
from wafer.service.jobs import Jobs
from wafer.service.problems import Problem
from wafer.settings import Settings
from wafer.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect")]


@pytest.fixture(scope="module")
def deployed() -> Iterator[None]:
    """A server with the deployment `ingest/wafer`, whose runs no worker takes."""
    with prefect_test_harness(server_startup_timeout=180), get_client(sync_client=True) as client:
        client.create_deployment(client.create_flow(ingest), "wafer", parameters={"kind": "training"})
        yield


@pytest.mark.usefixtures("deployed")
def test_a_deployment_is_started_with_its_parameters_and_cancelled() -> None:
    """The run waits with what was asked for over what the deployment says, until it is cancelled."""
    number = start_deployment("ingest", {"kind": "prediction"})
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(number).parameters == {"kind": "prediction"}
    assert (look_at_run(number).state, look_at_run(number).ended) == ("SCHEDULED", None)
    cancel_run(number)
    assert look_at_run(number).state in ("CANCELLING", "CANCELLED")


@pytest.mark.usefixtures("deployed")
def test_the_service_tells_what_the_server_knows(tmp_path: Path) -> None:
    """With a server a run is a flow run: starting until a worker takes it, cancelled once that is so."""
    settings = Settings.read(storage_url=str(tmp_path), prefect_url="http://127.0.0.1:1/api")
    with Workspace(settings) as workspace:
        jobs = Jobs(workspace)
        job = jobs.start("ingest", {"of": "training"}, "somebody")
        assert (jobs.get(job.id).state, job.owner, look_at_run(UUID(job.id)).state) == ("starting", None, "SCHEDULED")
        with pytest.raises(Problem, match="under way"):
            jobs.start("ingest", {"of": "training"}, "somebody")
        jobs.cancel(job.id)
        assert jobs.get(job.id).state == "cancelled"
