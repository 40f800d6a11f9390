"""What Prefect's server says of itself and of runs, asked with the address and key that flows are run with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psutil
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType, WorkerStatus
from prefect.exceptions import ObjectNotFound

from wafer.addresses import SERVER_ERROR, hosts_of
from wafer.errors import PreflightError

DEPLOYMENT = "wafer"


@dataclass(frozen=True)
class Server:
    """A Prefect server or Prefect Cloud, which tells no version.

    `sqlite` is whether its database is known to be a file, `workers` how many are online in its work `pools`.
    """

    version: str | None
    client: str
    sqlite: bool
    pools: int
    workers: int


def look_at_server() -> Server:
    """Ask the server behind PREFECT_API_URL; what Prefect's client raises is raised."""
    with get_client(sync_client=True) as client:
        cloud = client.server_type == ServerType.CLOUD
        pools = client.read_work_pools()
        online = [
            worker
            for pool in pools
            for worker in client.read_workers_for_work_pool(pool.name)
            if worker.status == WorkerStatus.ONLINE
        ]
        version = None if cloud else client.api_version()
        sqlite = not cloud and _works_on_sqlite(str(client.api_url))
        return Server(version, client.client_version(), sqlite, len(pools), len(online))


def _works_on_sqlite(address: str) -> bool:
    """Whether the server is a process of this machine that has an SQLite file open; it tells nobody its database."""
    for host, port in hosts_of(address):
        try:
            local = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.pid]
            pids = [one.pid for one in local if one.laddr.port == port and host in ("127.0.0.1", "localhost", "::1")]
            return any(file.path.endswith(".db") for pid in pids for file in psutil.Process(pid).open_files())
        except psutil.Error:
            return False  # another user's, or gone
    return False


@dataclass(frozen=True)
class Seen:
    """A flow run as the server has it: its name, the type and message of its state, and when it ended."""

    name: str
    state: str
    message: str
    ended: str | None


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    try:
        with get_client(sync_client=True) as client:
            yield client
    except Exception as error:
        if not _is_away(error):
            raise
        raise PreflightError([f"the Prefect server gives no answer ({type(error).__name__})"]) from error


def _is_away(error: Exception) -> bool:
    """Whether an error of the library below Prefect's client, told by name, says that the server gives no answer."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return "httpx.TransportError" in names or status >= SERVER_ERROR


def start_deployment(flow: str, parameters: Mapping[str, Any]) -> UUID:
    """Start the deployment `<flow>/wafer` with these parameters over its own; the id of the flow run.

    Raises:
        PreflightError: it is not registered, or the server gives no answer.
    """
    with _client() as client:
        try:
            deployment = client.read_deployment_by_name(f"{flow}/{DEPLOYMENT}")
        except ObjectNotFound:
            told = f"the Prefect server has no deployment {flow}/{DEPLOYMENT}"
            raise PreflightError([f"{told}: register it by `prefect deploy --all`, or start the stack"]) from None
        return client.create_flow_run_from_deployment(deployment.id, parameters=dict(parameters)).id


def look_at_run(number: UUID) -> Seen | None:
    """What the server knows of a flow run; None where it knows none of this id.

    Raises:
        PreflightError: the server gives no answer.
    """
    with _client() as client:
        try:
            run = client.read_flow_run(number)
        except ObjectNotFound:
            return None
    state = run.state
    ended = None if run.end_time is None else run.end_time.isoformat(timespec="milliseconds")
    return Seen(run.name, "PENDING" if state is None else state.type.value, (state and state.message) or "", ended)


def cancel_run(number: UUID) -> None:
    """Ask the worker of a flow run to end it; one that the server knows no more needs no end.

    Raises:
        PreflightError: the server gives no answer.
    """
    with _client() as client, suppress(ObjectNotFound):
        client.set_flow_run_state(number, State(type=StateType.CANCELLING))
