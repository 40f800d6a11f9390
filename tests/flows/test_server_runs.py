"""Runs of deployments, started, looked at and cancelled on a real Prefect server, as the service does."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.ingest import ingest
from flows.server import cancel_run, look_at_run, start_deployment
from wafer.errors import PreflightError
from wafer.service.jobs import PLACE, Jobs
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


def told(number: UUID) -> tuple[str, str | None]:
    found = look_at_run(number)
    assert found is not None
    return found.state, found.ended


@pytest.mark.usefixtures("deployed")
def test_a_deployment_is_started_with_its_parameters_and_cancelled() -> None:
    """The run waits with what was asked for over what the deployment says, until it is cancelled."""
    number = start_deployment("ingest", {"kind": "prediction"})
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(number).parameters == {"kind": "prediction"}
    assert told(number) == ("SCHEDULED", None)
    cancel_run(number)
    assert told(number)[0] in ("CANCELLING", "CANCELLED")


@pytest.mark.usefixtures("deployed")
def test_the_service_tells_what_the_server_knows(tmp_path: Path) -> None:
    """With a server a run is a flow run: starting until a worker takes it, cancelled once that is so."""
    settings = Settings.read(storage_url=str(tmp_path), prefect_url="http://127.0.0.1:1/api")
    with Workspace(settings) as workspace:
        jobs = Jobs(workspace)
        job = jobs.start("ingest", {"of": "training"}, "somebody")
        assert (jobs.get(job.id).state, job.owner, told(UUID(job.id))[0]) == ("starting", None, "SCHEDULED")
        with pytest.raises(Problem, match="under way"):
            jobs.start("ingest", {"of": "training"}, "somebody")
        jobs.cancel(job.id)
        assert jobs.get(job.id).state == "cancelled"


@pytest.mark.usefixtures("deployed")
def test_what_the_server_does_not_know_is_told(tmp_path: Path) -> None:
    """A deployment that is not registered: what to do; a flow run that was deleted: lost, and in nobody's way."""
    settings = Settings.read(storage_url=str(tmp_path), prefect_url="http://127.0.0.1:1/api")
    with Workspace(settings) as workspace:
        jobs = Jobs(workspace)
        with pytest.raises(PreflightError, match="no deployment train/wafer: register it by `prefect deploy --all`"):
            jobs.start("train", {}, "somebody")
        job = jobs.start("ingest", {"of": "training"}, "somebody")
        with get_client(sync_client=True) as client:
            client.delete_flow_run(UUID(job.id))
        (lost,) = jobs.all()
        assert (lost.state, lost.error) == ("lost", "the Prefect server knows no such flow run")
        assert workspace.storage.read_json(f"{PLACE}/{job.id}.json")["state"] == "lost"
        cancel_run(UUID(job.id))
        assert jobs.start("ingest", {"of": "training"}, "somebody").state == "starting"
