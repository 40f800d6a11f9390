"""What stands before every route: who may ask, from where, how much and how fast.

The order: host, origin, encoding, rate, token, size. A refusal is a problem document, and costs no more than its head.
"""

import asyncio
import ipaddress
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wafer.logs import at
from wafer.service.metrics import UNKNOWN_ROUTE, Metrics
from wafer.service.problems import Problem, answer, as_problem, wants_page
from wafer.service.sessions import COOKIE, Sessions
from wafer.service.tokens import SCOPES, TAKEN, Caller
from wafer.shown import shown_text

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = SAFE | {"POST", "PUT", "PATCH", "DELETE"}
FILES = "/v1/batches"
"""Where bodies go to a disk as they come."""
LOGIN, LOGIN_BYTES = "/login", 4096
"""What anybody may send something to, and how much."""
PUBLIC = frozenset({"/healthz", "/readyz", "/ping", "/health", "/version", "/openapi.json", "/login", "/logout"})
PROBED = frozenset({"/healthz", "/readyz"})
"""What load balancers and orchestrators ask by the address of the moment, which no list of hosts can name."""
PUBLIC_ROOTS = ("/v2/health/", "/static/")
"""What tells that the service lives, and nothing of wafers: asked without a token."""
ANYBODY, NOBODY = Caller(TAKEN[0], frozenset(SCOPES)), Caller(TAKEN[1], frozenset())
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MOST_CLIENTS = 10_000
LOOKS = 4
"""Tokens that are looked up in the storage at a time, in threads that nothing else holds."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?", re.ASCII)

log = logging.getLogger("wafer.service")
bearer = HTTPBearer(auto_error=False, description="`wafer token create` makes one; each route names the scope it needs")


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Attributes:
        body: bytes of a request's body.
        file: the same of a batch file, which goes to a disk; the agreement says how many of them are read.
        held: bytes of all bodies that are in memory at a time.
        seconds: in which a body must have come.
        rate: requests a second, on average, of one address.
        burst: requests at once on top of that.
    """

    body: int = 16 * 2**20
    file: int = 64 * 2**20
    held: int = 256 * 2**20
    seconds: float = 30.0
    rate: float = 1000.0
    burst: float = 2000.0


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Rates:
    """How many requests each client has left: a bucket that fills with time, for so many clients as are remembered."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> bool:
        """Whether the client has one left, which is taken."""
        now, limits = time.monotonic(), self._limits
        left, then = self._buckets.pop(client, (limits.burst, now))
        left = min(limits.burst, left + (now - then) * limits.rate)
        self._buckets[client] = (left - 1 if left >= 1 else left), now
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return left >= 1


class Guard:
    """The middleware; `hosts` are the names that the service answers to, `sessions` None where nobody needs a token."""

    def __init__(
        self, app: ASGIApp, hosts: frozenset[str], sessions: Sessions | None, limits: Limits, metrics: Metrics
    ) -> None:
        self.app, self.hosts, self.sessions, self.limits, self.metrics = app, hosts, sessions, limits, metrics
        self.rates = Rates(limits)
        self._held = 0
        self._looks = CapacityLimiter(LOOKS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["request_id"] = number = secrets.token_hex(8)
        began, status = time.perf_counter(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = number
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with at(request=number):
            try:
                scope["caller"] = await self._look(scope)
                await self.app(scope, self._measured(scope, receive), told)
            except Exception as error:
                if status:  # the answer has begun, and can only be cut off
                    raise
                refusal: ASGIApp = answer(as_problem(error), scope)
                if isinstance(error, Problem) and error.kind == "unauthorized" and wants_page(scope):
                    refusal = RedirectResponse(f"/login?next={quote(scope['path'])}", 303)
                await refusal(scope, receive, told)
            finally:
                self._held -= scope.get("held", 0)
                self._count(scope, status, time.perf_counter() - began)

    async def _look(self, scope: Scope) -> Caller:
        headers, method = Headers(scope=scope), scope["method"]
        host = headers.get("host", "")
        named = _HOST.fullmatch(host)
        if (named is None or named[1].lower() not in self.hosts) and scope["path"] not in PROBED:
            raise Problem(
                "wrong-host", f"no service is called {shown_text(host, 80)!r} here: see `wafer serve --allow-host`"
            )
        if method not in SAFE:
            origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
            if site not in ("same-origin", "none") or origin not in (None, f"http://{host}", f"https://{host}"):
                raise Problem("cross-origin", "another site asked for this, which no page of this service does")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem("media-type", "compressed bodies are not taken: send it as it is")
        if not self.rates.take(scope["client"][0] if scope.get("client") else ""):
            raise Problem("too-many", f"more than {self.limits.rate:g} requests a second: wait a little")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18:
            raise Problem("bad-request", "the length of the body is no number", {"Connection": "close"})
        self._check(scope, int(length))
        return await self._caller(scope["path"], headers)

    async def _caller(self, path: str, headers: Headers) -> Caller:
        if self.sessions is None:
            return ANYBODY
        kind, _, text = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        token = text.strip() if kind.lower() == "bearer" else self.sessions.token(cookie or "")
        tokens = self.sessions.tokens
        look = partial(tokens.caller, token)
        if token and (
            found := look() if tokens.remembers(token) else await to_thread.run_sync(look, limiter=self._looks)
        ):
            return found
        if path in PUBLIC or path.startswith(PUBLIC_ROOTS):
            return NOBODY
        raise Problem(
            "unauthorized", "send `Authorization: Bearer …` with a valid token", {"WWW-Authenticate": "Bearer"}
        )

    def _check(self, scope: Scope, came: int) -> None:
        most = {FILES: self.limits.file, LOGIN: LOGIN_BYTES}.get(scope["path"], self.limits.body)
        if came > most:
            raise Problem("too-large", f"a body has at most {most:,} bytes here", {"Connection": "close"})

    def _hold(self, scope: Scope, count: int) -> None:
        """Count bytes that stay in memory until the request has its answer."""
        if scope["path"] != FILES:
            scope["held"] = scope.get("held", 0) + count
            self._held += count
            if self._held > self.limits.held:
                raise Problem("unavailable", "too many large requests at a time: try again", {"Connection": "close"})

    def _measured(self, scope: Scope, receive: Receive) -> Receive:
        """The body, as long as it keeps to size and time."""
        came, deadline, whole = 0, time.monotonic() + self.limits.seconds, False

        async def measured() -> Message:
            nonlocal came, whole
            if whole:  # what comes now is the end of the connection, which may be waited for
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                told = f"the body did not come within {self.limits.seconds:g} seconds"
                raise Problem("too-slow", told, {"Connection": "close"}) from None
            size = len(message.get("body", b""))
            came += size
            self._check(scope, came)
            self._hold(scope, size)
            whole = not message.get("more_body", False)
            return message

        return measured

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.add("wafer_http_requests_total", route, method, str(status))
        self.metrics.took(route, seconds)
        caller: Caller = scope.get("caller", NOBODY)
        line = "%s %s %d %.1f ms %s [%s]"
        told = shown_text(scope["path"], 120)
        log.info(line, scope["method"], told, status, 1000 * seconds, shown_text(caller.name), scope["request_id"])


async def allowed(request: Request, scopes: SecurityScopes, _: object = Security(bearer)) -> Caller:
    """The caller of a route that needs these scopes.

    Raises:
        Problem: the caller has not all of them.
    """
    caller: Caller = request.scope["caller"]
    if lacking := [one for one in scopes.scopes if one not in caller.scopes]:
        raise Problem("forbidden", f"this needs a token with the scope {', '.join(lacking)}")
    return caller


def hosts_of(host: str, more: Sequence[str] = ()) -> frozenset[str]:
    """The names that a service on this address answers to."""
    return frozenset(name.lower() for name in (*(LOCAL_NAMES if is_loopback(host) else ()), host, *more))
