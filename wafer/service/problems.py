"""Errors as problem documents (RFC 9457), each of a kind that stands in the API's description."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from wafer.addresses import gave_no_answer
from wafer.errors import (
    AlarmError,
    DeliveryError,
    EmptyError,
    LeaseError,
    ModelError,
    ParameterError,
    PreflightError,
    RegistryError,
    RetuneError,
    SettingsError,
    StorageError,
    StoreError,
    TamperedError,
    WaferError,
)
from wafer.shown import shown_message

MEDIA_TYPE = "application/problem+json"
KINDS: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be read"),
    "wrong-host": (400, "This service does not answer to that host"),
    "unauthorized": (401, "A valid token is needed"),
    "forbidden": (403, "The token may not do this"),
    "cross-origin": (403, "Requests from other sites are refused"),
    "not-found": (404, "There is no such thing"),
    "method": (405, "The method is not allowed here"),
    "not-acceptable": (406, "No such format"),
    "too-slow": (408, "The request took too long to arrive"),
    "conflict": (409, "The present state does not allow this"),
    "too-large": (413, "The request is too large"),
    "media-type": (415, "The content is of a type that is not taken"),
    "unusable": (422, "The content cannot be used"),
    "too-many": (429, "Too many requests"),
    "fault": (500, "A fault of the service"),
    "unavailable": (503, "What is needed is not available at present"),
}
"""Each kind of problem: its status and title."""
GENERAL: Sequence[str] = (
    *("bad-request", "unauthorized", "forbidden", "method", "too-slow", "too-large", "media-type", "unusable"),
    *("too-many", "unavailable"),
)
"""Those that every route may answer with."""
SECONDS_TO_RETRY = "5"
OF_ERRORS: Sequence[tuple[type[WaferError], str]] = (
    (AlarmError, "conflict"),
    (RetuneError, "conflict"),
    (TamperedError, "unavailable"),
    (LeaseError, "unavailable"),
    (StoreError, "unavailable"),
    (RegistryError, "unavailable"),
    (StorageError, "unavailable"),
    (PreflightError, "unavailable"),
    (SettingsError, "unavailable"),
    (DeliveryError, "unusable"),
    (ParameterError, "unusable"),
    (ModelError, "unusable"),
    (EmptyError, "conflict"),
)

log = logging.getLogger("wafer")


class ProblemDocument(BaseModel):
    """What an error looks like; further members say more of some kinds."""

    type: str = Field(examples=["urn:wafer:problem:not-found"])
    title: str = Field(examples=["There is no such thing"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no wafer is called 'Wafer-0'"])
    instance: str = Field(
        description="the request, as log lines name it", examples=["urn:wafer:request:5f0c9a1be2d34f60"]
    )


class Problem(HTTPException):
    """What ends a request with a problem document of one of `KINDS`."""

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        status, self.title = KINDS[kind]
        retry = {"Retry-After": SECONDS_TO_RETRY} if status in (429, 503) else {}
        super().__init__(status, detail, {**retry, **(headers or {})})
        self.kind, self.more = kind, more


def answer(problem: Problem, scope: Scope) -> Response:
    """The problem as the answer to a request; the Open Inference Protocol's clients read `error`."""
    named = {"error": shown_message(problem.detail)} if scope["path"].startswith("/v2/") else {}
    document = {
        "type": f"urn:wafer:problem:{problem.kind}",
        "title": problem.title,
        "status": problem.status_code,
        "detail": shown_message(problem.detail),
        "instance": f"urn:wafer:request:{scope.get('request_id', '')}",
        **named,
        **problem.more,
    }
    return Response(orjson.dumps(document), problem.status_code, problem.headers, MEDIA_TYPE)


def documented(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """These problems, as the API's description lists the answers of a route."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        status, title = KINDS[kind]
        schema = {"$ref": "#/components/schemas/ProblemDocument"}
        found.setdefault(status, {"description": title, "content": {MEDIA_TYPE: {"schema": schema}}})
    return found


def as_problem(error: Exception) -> Problem:
    """The problem that an error is; one that nobody foresaw is a fault, which the log tells and the answer does not."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, WaferError):
        kind = next((kind for known, kind in OF_ERRORS if isinstance(error, known)), "unavailable")
        return Problem(kind, "; ".join(error.sentences))
    if gave_no_answer(error):
        log.warning("a server gave no answer: %s", shown_message(f"{type(error).__name__}: {error}", 300))
        return Problem("unavailable", "a server that is needed gives no answer")
    log.error("a fault: %s", shown_message(f"{type(error).__name__}: {error}", 300), exc_info=error)
    return Problem("fault", "the service has a fault; its log says more under the request's name")


def _of_http(error: HTTPException) -> Problem:
    kinds = {404: "not-found", 405: "method"}
    detail = {404: "nothing is at this address", 405: "the method is not allowed at this address"}
    status = error.status_code
    return Problem(kinds.get(status, "bad-request"), detail.get(status, str(error.detail)), error.headers)


def _of_validation(error: RequestValidationError) -> Problem:
    found = [
        {"where": ".".join(map(str, one["loc"]))[:200], "what": str(one["msg"])[:200]} for one in error.errors()[:20]
    ]
    told = "; ".join(f"{one['where']}: {one['what']}" for one in found[:3])
    return Problem("unusable", told or "the request is not as described", errors=found)


def wants_page(scope: Scope) -> bool:
    """Whether a browser asks for a page, and no program for a document."""
    accepted = Headers(scope=scope).get("accept", "")
    return scope["method"] == "GET" and "text/html" in accepted and not scope["path"].startswith(("/v1/", "/v2/"))


def install(app: FastAPI, as_page: Callable[[Request, Problem], Response]) -> None:
    """Let the application answer every error with a problem document, or with `as_page` where a page was asked for."""

    def told(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and not isinstance(error, Problem):
            problem = _of_http(error)
        elif isinstance(error, RequestValidationError):
            problem = _of_validation(error)
        else:
            problem = as_problem(error)
        if wants_page(request.scope):
            return as_page(request, problem)
        return answer(problem, request.scope)

    for kind in (Problem, WaferError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, told)
