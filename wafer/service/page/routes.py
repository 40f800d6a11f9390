"""The addresses of the pages."""

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Query, Request, Response, Security
from jinja2 import Environment, FileSystemLoader
from starlette.responses import HTMLResponse, RedirectResponse

from wafer.errors import StorageError
from wafer.reporting.look import look
from wafer.reporting.marks import bar
from wafer.service.core import as_json, blocking, drawn, service_of
from wafer.service.guard import allowed
from wafer.service.jobs import ENDED, describe
from wafer.service.page.words import moment
from wafer.service.problems import Problem
from wafer.service.sessions import COOKIE, SECONDS
from wafer.shown import shown_message
from wafer.store.alarms import State

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STARTS = (
    ("predict", '{"kind": "predict"}', "Score what is new"),
    ("train", '{"kind": "train"}', "Train"),
    ("retrain", '{"kind": "retrain"}', "Retrain where due"),
    ("ingest", '{"kind": "ingest"}', "Take in training batches"),
)

router = APIRouter(include_in_schema=False)
reads = Security(allowed, scopes=["read"])
environment = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=False)
environment.globals.update(when=moment, bar=bar)


def page(request: Request, name: str, title: str, status: int = 200, **told: Any) -> HTMLResponse:
    """A page under a policy that lets no script run but the one of its own."""
    champion, caller = service_of(request).champion, request.scope["caller"]
    known = {
        "title": title,
        "here": request.url.path,
        "caller": caller,
        "may_operate": "operate" in caller.scopes,
        "served": champion.served if "read" in caller.scopes else None,
        "why_not": champion.why_not,
    }
    text = environment.get_template(f"{name}.html.j2").render(known | told)
    referrer = {"Referrer-Policy": "same-origin"}  # without one, a browser does not say where a form was sent from
    return HTMLResponse(text, status, {"Content-Security-Policy": POLICY, **referrer})


def problem(request: Request, error: Problem) -> Response:
    """An error as a page, in words."""
    return page(request, "problem", error.title, error.status_code, detail=shown_message(error.detail))


def _views() -> ModuleType:
    """What gathers the pages' content, which is loaded when the first one is asked for."""
    from wafer.service.page import views

    return views


def _pictures() -> ModuleType:
    """What draws, loaded likewise."""
    from wafer.service.page import pictures

    return pictures


@router.get("/", dependencies=[reads])
def today(request: Request, state: State = Query("open")) -> Response:
    """What to do now."""
    return page(request, "today", "Today", **_views().today(service_of(request), service_of(request).newest, state))


@router.get("/wafers/{wafer:path}", dependencies=[reads])
async def wafer(request: Request, wafer: str) -> Response:
    """One wafer."""
    service = service_of(request)
    told = await drawn(service, lambda: _views().wafer(service, wafer))
    return page(request, "wafer", wafer, **told)


@router.get("/deliver", dependencies=[reads])
def deliver(request: Request) -> Response:
    """Where a batch file is dropped."""
    return page(request, "deliver", "Deliver a batch file")


@router.get("/runs", dependencies=[reads])
def runs(request: Request) -> Response:
    """All runs."""
    return page(request, "runs", "Runs", runs=_views().runs(service_of(request)), starts=STARTS)


@router.get("/runs/{run}", dependencies=[reads])
def run(request: Request, run: str) -> Response:
    """A run as it goes on, and what it made."""
    service = service_of(request)
    job: dict[str, Any] = {}
    work: dict[str, Any] = {}
    try:
        work = describe(service.workspace.runs.get(run))
    except StorageError:
        job = vars(service.jobs.get(run))
        work = describe(service.workspace.runs.get(job["run"])) if job["run"] else {}
    told = {**work, **{name: value for name, value in job.items() if value not in (None, "")}}
    told |= {"id": run, "began": job.get("asked") or work["started"], "told": "; ".join(work.get("told", []))}
    pages = told.get("pages", [])
    reports = [one for one in pages if one.endswith(f"/{told['kind']}.html")] or pages[-1:]
    cancellable = bool(job) and job["state"] not in ENDED
    shown = reports[0] if reports else None
    return page(request, "run", f"Run: {told['kind']}", run=told, ended=ENDED, cancellable=cancellable, shown=shown)


@router.get("/quality", dependencies=[reads])
def quality(request: Request) -> Response:
    """How good the champion is."""
    return page(request, "quality", "Quality", **_views().quality(service_of(request), service_of(request).newest))


@router.get("/quarantine", dependencies=[reads])
def quarantine(request: Request) -> Response:
    """What was turned away."""
    return page(request, "quarantine", "Quarantine", **_views().quarantined(service_of(request)))


@router.get("/pictures/timeline.png", dependencies=[reads])
async def batches_picture(request: Request) -> Response:
    """The newest batches over time."""
    service = service_of(request)
    return await drawn(service, lambda: _pictures().batches(service))


@router.get("/pictures/distances.png", dependencies=[reads])
async def distances_picture(request: Request) -> Response:
    """T² and SPE of the wafers that were scored last."""
    service = service_of(request)
    return await drawn(service, lambda: _pictures().distances(service))


@router.get("/pictures/sensors/{wafer:path}.png", dependencies=[reads])
async def sensors_picture(request: Request, wafer: str) -> Response:
    """The sensors that tell most about a wafer."""
    service = service_of(request)
    return await drawn(service, lambda: _pictures().sensors(service, wafer))


@router.get("/pictures/chart/{wafer:path}.png", dependencies=[reads])
async def chart_picture(request: Request, wafer: str, sensor: str = Query(max_length=200)) -> Response:
    """The control charts of a sensor in the batch of a wafer."""
    service = service_of(request)
    return await drawn(service, lambda: _pictures().chart(service, wafer, sensor))


@router.get("/pictures/versions.png", dependencies=[reads])
async def versions_picture(request: Request) -> Response:
    """ROC AUC of the newest versions."""
    service = service_of(request)
    return await drawn(service, lambda: _pictures().versions(service))


@router.get("/login")
def login(request: Request, next: str = Query("/", max_length=500)) -> Response:
    """Where a token is typed in."""
    return page(request, "login", "Log in", next=next)


@router.post("/login")
async def begin(request: Request) -> Response:
    """Begin a session, where the token is valid."""
    try:
        sent = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=8)
    except ValueError as error:
        raise Problem("unusable", "the form has a token and the page to go to") from error
    token, target = (sent.get(name, [""])[0] for name in ("token", "next"))
    sessions = request.app.state.sessions
    cookie = await blocking(sessions.begin, token.strip()) if sessions is not None else None
    if cookie is None:
        return page(request, "login", "Log in", 401, next=target, wrong=True)
    inside = target.startswith("/") and not target.startswith(("//", "/\\"))
    answer = RedirectResponse(quote(target, safe="/?=&%#") if inside else "/", 303)
    secure = request.headers.get("origin", str(request.url)).startswith("https:")  # as the browser reaches it
    answer.set_cookie(COOKIE, cookie, max_age=SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/logout")
def end(request: Request) -> Response:
    """End the session."""
    if request.app.state.sessions is not None:
        request.app.state.sessions.end(request.cookies.get(COOKIE, ""))
    answer = as_json({})
    answer.delete_cookie(COOKIE)
    return answer


@cache
def _static() -> dict[str, tuple[str, str]]:
    script, style = ((HERE / "static" / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    return {"page.js": (script, "text/javascript"), "page.css": (look() + style, "text/css")}


@router.get("/static/{name}")
def static(name: str) -> Response:
    """The style sheet and the script."""
    if name not in _static():
        raise Problem("not-found", "nothing is at this address")
    text, kind = _static()[name]
    return Response(text, media_type=kind, headers={"Cache-Control": "no-cache"})
