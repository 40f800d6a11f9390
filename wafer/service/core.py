"""What the routes of one application share: the workspace and what is held open beside it."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from wafer.service.champion import Champion
from wafer.service.guard import Limits
from wafer.service.jobs import Jobs
from wafer.service.metrics import Metrics
from wafer.service.scorer import Scorer
from wafer.service.tokens import Tokens
from wafer.workspace import Workspace

if TYPE_CHECKING:
    from wafer.contract.form import Form
    from wafer.registry import Registry
    from wafer.service.page.pictures import Drawn
    from wafer.service.page.views import Newest
    from wafer.store.wafers import Store

Done = TypeVar("Done")
LEASES = 4
"""Requests that wait for a lease at a time."""


@dataclass(frozen=True)
class Options:
    """How the service is run.

    Attributes:
        host, port: where it listens.
        hosts: further names that it answers to.
        proxies: addresses or networks of proxies, which are believed whom they speak for (`X-Forwarded-For`).
        tokens: whether each request needs a token; only on a loopback address it may need none.
        limits: of what one client may ask for.
        threads: of blocking work, at most.
        workers: passes of scoring at the same time.
        seconds: between two looks at which version is the champion.
    """

    host: str = "127.0.0.1"
    port: int = 8321
    hosts: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    tokens: bool = False
    limits: Limits = field(default_factory=Limits)
    threads: int = 16
    workers: int = 1
    seconds: float = 5.0


class Service:
    """What one application holds; parts are opened once, by whoever asks first."""

    def __init__(self, workspace: Workspace, options: Options) -> None:
        self.workspace, self.options = workspace, options
        self._opening = threading.RLock()
        self.ending = threading.Event()
        self.champion = Champion(workspace, lambda: self.registry, lambda: self.store, options.seconds)
        self.leasing, self.drawing = CapacityLimiter(LEASES), CapacityLimiter(1)
        self.scorer = Scorer(options.workers)
        self.reading = asyncio.Semaphore(options.workers)
        self.tokens = Tokens(workspace.storage)
        self.jobs = Jobs(workspace)
        self.metrics = Metrics(
            workspace, self.champion, lambda: self.scorer.waiting, lambda: self.registry, lambda: self.jobs.all()
        )

    def stop(self) -> None:
        """End what was begun: runs of this process, threads, looks at the registry."""
        self.jobs.stop()
        self.champion.stop()
        self.scorer.stop()

    @cached_property
    def form(self) -> "Form":
        """What batches to be predicted look like."""
        return self.workspace.form("prediction")

    @property
    def sensors(self) -> tuple[str, ...]:
        """The stored readings' names in their order."""
        return self.form.sensors

    @cached_property
    def newest(self) -> "Newest":
        """The newest prediction, as the pages show it."""
        from wafer.service.page.views import Newest

        return Newest(self)

    @cached_property
    def drawn(self) -> "Drawn":
        """The pictures that were drawn lately."""
        from wafer.service.page.pictures import Drawn

        return Drawn()

    @property
    def store(self) -> "Store":
        """The wafer database."""
        with self._opening:
            return self.workspace.store

    @property
    def registry(self) -> "Registry":
        """The model registry."""
        with self._opening:
            return self.workspace.registry


def service_of(request: Request) -> Service:
    """The service of a request's application."""
    found: Service = request.app.state.service
    return found


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as an answer; NaN becomes null."""
    option = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
    return Response(orjson.dumps(value, option=option), status, headers, "application/json")


async def leased(service: Service, work: Callable[..., Done], *given: Any) -> Done:
    """What may have to wait for somebody else's lease, in threads of its own, so that nothing else waits with it."""
    return await to_thread.run_sync(partial(work, *given), limiter=service.leasing)


async def drawn(service: Service, work: Callable[..., Done], *given: Any) -> Done:
    """What takes a processor for a second, such as a picture; one at a time, so that scoring goes on beside it."""
    return await to_thread.run_sync(partial(work, *given), limiter=service.drawing)


async def blocking(work: Callable[..., Done], *given: Any, **named: Any) -> Done:
    """What waits for a disk or a server, in one of the threads that are there for it."""
    return await run_in_threadpool(partial(work, *given, **named))
