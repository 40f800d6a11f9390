"""Whether each service that is configured can be used, looked at in depth, and what to do where it cannot.

`wafer.preflight` holds those of these looks that are quick and stand before each run: places, and servers that answer.
This adds what takes seconds, opens the store and the registry, and imports Prefect: versions, permissions, clocks and
leases. A look that fails is a line of its own and ends no other one.
"""

import importlib.metadata
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from wafer.addresses import knock
from wafer.boundary import sentence_of
from wafer.errors import SettingsError, WaferError
from wafer.preflight import (
    bucket_problems,
    local_places,
    place_problems,
    registry_is_made,
    silent_servers,
    store_is_made,
)
from wafer.settings import prepare_environment
from wafer.shown import masked, shown_message, shown_text
from wafer.workspace import Workspace

PLENTY_FREE = 2 * 2**30
"""Bytes; with less, a place is told as filling up."""
SECONDS_APART = 30.0
"""Between two clocks; more is told."""


@dataclass(frozen=True)
class Check:
    """What came of one look: `told` says what was found, `hint` what to do about it."""

    name: str
    state: Literal["ok", "warning", "failure"]
    told: str
    hint: str = ""


def examine() -> Iterator[Check]:
    """Look at all that the settings of this process name, a check after the other; no text holds a secret."""
    try:
        settings = prepare_environment()
    except SettingsError as error:
        yield Check("settings", "failure", shown_message(str(error)), "mend it in the environment or in .env")
        return
    silent = silent_servers(settings)
    with Workspace(settings) as workspace:
        for name, variable, look in LOOKS:
            if variable in silent:
                yield Check(name, "failure", silent[variable])
            else:
                yield from _guarded(name, look, workspace)


def _guarded(name: str, look: Callable[[Workspace], Iterator[Check]], workspace: Workspace) -> Iterator[Check]:
    try:
        yield from look(workspace)
    except WaferError as error:
        for sentence in error.sentences:
            yield Check(name, "failure", shown_message(sentence), HINTS[name])
    except Exception as error:  # noqa: BLE001 - a service may fail in any way, and the others are looked at all the same
        told = sentence_of(error) or f"this is a fault of wafer, please report it ({type(error).__name__}: {error})"
        yield Check(name, "failure", shown_message(told, 800), HINTS[name])


HINTS = {
    "places": "name folders that can be written to, by WAFER_STORAGE and WAFER_STATE",
    "storage": "see that WAFER_STORAGE and AWS_ENDPOINT_URL are right, and that the keys may write and delete",
    "database": "see that MONGODB_URL is right, and that its user may read and write the database",
    "registry": "see that MLFLOW_TRACKING_URI is right, and MLFLOW_TRACKING_USERNAME and _PASSWORD where it asks",
    "Prefect": "see that PREFECT_API_URL ends with /api, and that PREFECT_API_KEY or PREFECT_API_AUTH_STRING is right",
    "pages": "see that WAFER_PAGES_URL is where `wafer serve` shows pages: it ends with /pages",
}


def _places(workspace: Workspace) -> Iterator[Check]:
    settings = workspace.settings
    problems = list(place_problems(settings))
    yield from (Check("places", "failure", problem, HINTS["places"]) for problem in problems)
    for variable, folder in [] if problems else local_places(settings):
        there = next(above for above in (folder, *folder.parents) if above.is_dir())
        free = shutil.disk_usage(there).free
        told = f"{variable} is {shown_text(folder)}: it can be written, {free / 2**30:,.1f} GB are free"
        if free < PLENTY_FREE:
            yield Check("places", "warning", told, "free some space, or name a folder on another disk")
        else:
            yield Check("places", "ok", told)


def _storage(workspace: Workspace) -> Iterator[Check]:
    if "://" not in workspace.settings.storage_url:
        return
    problems = list(bucket_problems(workspace.settings))
    yield from (Check("storage", "failure", problem, HINTS["storage"]) for problem in problems)
    if not problems:
        said = workspace.storage.headers()
        told = f"{workspace.storage.root}, on {said.get('server', 'a server that does not tell its name')}"
        yield Check("storage", "ok", f"{told}: an object was written and removed again")
        yield _clock("storage", parsedate_to_datetime(said["date"]))


def _database(workspace: Workspace) -> Iterator[Check]:
    from wafer.store.leases import leases, stale_leases

    if not store_is_made(workspace.settings):
        yield Check("database", "ok", "embedded, and made by the first run that needs it")
        return
    store = workspace.store
    with workspace.lease(f"doctor-{socket.gethostname()}-{os.getpid()}"):
        pass  # a document is inserted, changed and deleted, each by a majority and journalled
    where = masked(workspace.settings.mongodb_url or "embedded")
    told = f"{where}, version {store.version()}: a document was written by majority, journalled, and removed again"
    yield Check("database", "ok", told)
    yield _clock("database", store.now())
    for holder in stale_leases(store):
        hint = "nothing, the next run takes it over; where none comes, see docs/operations.md on freeing it by hand"
        yield Check("leases", "warning", f"{holder}; its holder is gone or silent", hint)
    held = map(str, leases(store))
    yield Check("leases", "ok", "; ".join(held) or "none is held")


def _registry(workspace: Workspace) -> Iterator[Check]:
    if not registry_is_made(workspace.settings):
        yield Check("registry", "ok", "embedded, and made by the first training")
        return
    champion = workspace.registry.champion()
    use = "no version is in use yet" if champion is None else f"version {champion.version} is in use"
    server, client = workspace.registry.server_version(), importlib.metadata.version("mlflow")
    if server is None:
        yield Check("registry", "ok", f"{masked(workspace.settings.tracking_uri)}, MLflow {client}: {use}")
        return
    yield _versions("registry", f"{masked(workspace.settings.tracking_uri)}, MLflow {server}: {use}", server, client)


def _prefect(workspace: Workspace) -> Iterator[Check]:
    if workspace.settings.prefect_url is None:
        told = f"version {importlib.metadata.version('prefect')}, its own local server for each command"
        yield Check("Prefect", "ok", told)
        return
    from flows.automations import missing
    from flows.server import look_at_server

    found = look_at_server()
    where = f"{masked(workspace.settings.prefect_url)}, {found.version or 'Prefect Cloud'}"
    told = f"{where}: {found.pools} work pools, {found.workers} workers online"
    yield _versions("Prefect", told, found.version or found.client, found.client)
    if found.sqlite and found.workers:
        hint = "give the server a PostgreSQL by PREFECT_API_DATABASE_CONNECTION_URL"
        yield Check("Prefect", "warning", 'it works on SQLite: more workers end in "database is locked"', hint)
    if found.pools and not found.workers:
        hint = "start one, or what is scheduled waits: prefect worker start --pool NAME"
        yield Check("Prefect", "warning", "no worker is online", hint)

    if found.pools and missing():
        told = "no automation ends runs whose worker is gone, so that they stay Running"
        yield Check("Prefect", "warning", told, "install it: wafer automate")


def _pages(workspace: Workspace) -> Iterator[Check]:
    url = workspace.settings.pages_url
    if url is None:
        return
    if why := knock(url):
        yield Check(
            "pages", "warning", f"{why}: links in Prefect do not open", "start it: wafer serve, or wafer stack up"
        )
    else:
        yield Check("pages", "ok", f"links in Prefect lead to {masked(url)}, where somebody answers")


def _versions(name: str, told: str, server: str, client: str) -> Check:
    """Whether a server is of the release that this installation talks to."""
    if server.split(".")[:2] == client.split(".")[:2]:
        return Check(name, "ok", told)
    return Check(name, "warning", f"{told}, and {client} is installed here", "bring both to the same release")


def _clock(name: str, theirs: datetime) -> Check:
    apart = (theirs - datetime.now(UTC)).total_seconds()
    if abs(apart) <= SECONDS_APART:
        return Check("clock", "ok", f"the {name}'s clock and this machine's agree within {SECONDS_APART:.0f} s")
    told = f"the {name}'s clock is {abs(apart):,.0f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    return Check("clock", "warning", told, "set both by NTP: S3 refuses requests that are 15 minutes off")


LOOKS: tuple[tuple[str, str, Callable[[Workspace], Iterator[Check]]], ...] = (
    ("places", "", _places),
    ("storage", "AWS_ENDPOINT_URL", _storage),
    ("database", "MONGODB_URL", _database),
    ("registry", "MLFLOW_TRACKING_URI", _registry),
    ("Prefect", "PREFECT_API_URL", _prefect),
    ("pages", "", _pages),
)
"""Each look's name, the variable of its server, and the look."""
