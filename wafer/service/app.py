"""The application, and the server that it runs on."""

import asyncio
import gc
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import anyio.to_thread
import h11
import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response, Security
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from wafer import __version__
from wafer.errors import SettingsError
from wafer.service import pages, problems, routes_data, routes_review, routes_scoring, routes_work
from wafer.service.core import Options, Service, as_json, service_of
from wafer.service.examples import READY, json_answer
from wafer.service.guard import Guard, allowed, hosts_of, is_loopback
from wafer.service.page import routes as page_routes
from wafer.service.problems import GENERAL, ProblemDocument, documented
from wafer.service.sessions import Sessions
from wafer.workspace import Workspace

SECONDS_FOR_A_HEAD = 15.0
CONNECTIONS = 1000
ABOUT = "Finds faulty semiconductor wafers: scores them, takes in batch files, starts runs, and keeps track of alarms."

router = APIRouter(tags=["service"])
log = logging.getLogger("wafer")


@router.get("/healthz", summary="Whether the service lives", response_class=PlainTextResponse)
def healthz() -> Response:
    """Status 200 as long as it answers."""
    return PlainTextResponse("ok")


@router.get(
    "/readyz", summary="Whether wafers can be scored", responses={**json_answer(READY), **documented("unavailable")}
)
def readyz(request: Request) -> Response:
    """Status 200 once a model has been loaded; which one is said to those who may read."""
    champion = service_of(request).champion
    champion.now()
    return as_json({"ready": True})


@router.get(
    "/metrics",
    dependencies=[Security(allowed, scopes=["read"])],
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
)
def metrics(request: Request) -> Response:
    """In Prometheus' text format; docs/service.md lists them."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


def create_app(workspace: Workspace, options: Options | None = None) -> FastAPI:
    """The application on an open workspace, which it does not close.

    Raises:
        SettingsError: others than this machine could reach it without a token, or a proxy is named that is none.
    """
    options = options or Options()
    if not options.tokens and not is_loopback(options.host):
        raise SettingsError(f"{options.host} can be reached by others: tokens cannot be left out there")
    for proxy in options.proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise SettingsError(f"a proxy to trust is an address or a network such as 10.0.0.0/8: {error}") from error
    service = Service(workspace, options)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = options.threads
        service.champion.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="wafer",
        version=__version__,
        description=ABOUT,
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=documented(*GENERAL),
    )
    app.state.service = service
    app.state.sessions = sessions = Sessions(service.tokens) if options.tokens else None
    routes = (routes_scoring, routes_data, routes_work, routes_review, pages, page_routes)
    for part in (router, *(one.router for one in routes)):
        app.include_router(part)
    problems.install(app, page_routes.problem)
    hosts = hosts_of(options.host, options.hosts)
    app.add_middleware(Guard, hosts=hosts, sessions=sessions, limits=options.limits, metrics=service.metrics)
    if options.proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(options.proxies))
    app.openapi = _described(app, app.openapi)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI, made: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The description with the one form that errors have."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = made()
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        return app.openapi_schema or {}

    return described


class _Patient(H11Protocol):
    """Lets go of a connection on which no request's head, be it the first or a later one, has come whole in time."""

    _timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(SECONDS_FOR_A_HEAD, self._look)

    def on_response_complete(self) -> None:
        """Begin to wait anew; uvicorn's own patience ends with the first byte of a head."""
        self._timer.cancel()
        self._timer = self.loop.call_later(SECONDS_FOR_A_HEAD, self._look)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request of HTTP as everything else is refused."""
        refusal = problems.answer(problems.Problem("bad-request", f"{msg.rstrip('.')}: it is not HTTP"), {"path": ""})
        head = h11.Response(status_code=refusal.status_code, headers=[*refusal.raw_headers, (b"connection", b"close")])
        for event in head, h11.Data(data=bytes(refusal.body)), h11.EndOfMessage():
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _look(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.close()


def serve(app: FastAPI, options: Options, told: Callable[[str], None]) -> None:
    """Listen until the process is told to end; `told` hears the address once requests are taken.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    with listening(options) as taken:
        port = taken.getsockname()[1]
        config = uvicorn.Config(
            app, http=_Patient, ws="none", access_log=False, server_header=False, log_config=None,
            limit_concurrency=CONNECTIONS, timeout_keep_alive=15, timeout_graceful_shutdown=20, proxy_headers=False
        )  # fmt: skip
        name = f"[{options.host}]" if taken.family == socket.AF_INET6 else options.host
        service: Service = app.state.service
        # else each full collection looks at half a million objects of libraries and model, and all requests wait for it
        service.champion.on_load = gc.freeze
        server = _Told(config, lambda: told(f"http://{name}:{port}/"), service.ending.set)
        server.run(sockets=[taken])


def listening(options: Options) -> socket.socket:
    """The socket on which requests are taken.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off, which holds back an answer by 40 ms, only where the protocol is named
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((options.host, options.port))
    except OSError as error:
        made.close()
        why = error.strerror or str(error)
        told = (
            f"port {options.port} of {options.host} cannot be listened on ({why}): choose another by --port or --host"
        )
        raise SettingsError(told) from error
    return made


class _Told(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, told: Callable[[], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._told, self._ending = told, ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let answers that would go on for long come to their end."""
        self._ending()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._told()
