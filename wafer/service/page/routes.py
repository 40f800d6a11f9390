"""The addresses of the pages."""

from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Query, Request, Response, Security
from jinja2 import Environment, FileSystemLoader
from starlette.responses import HTMLResponse, RedirectResponse

from wafer.errors import StorageError
from wafer.reporting.look import look
from wafer.reporting.marks import bar
from wafer.service.core import as_json, blocking, service_of
from wafer.service.guard import allowed
from wafer.service.jobs import ENDED, describe
from wafer.service.page import views
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
environment.globals.update(when=views.moment, bar=bar)


def page(request: Request, name: str, title: str, status: int = 200, **told: Any) -> HTMLResponse:
    """A page under a policy that lets no script run but the one of its own."""
    champion, caller = service_of(request).champion, request.scope["caller"]
    known = {
        "title": title,
        "here": request.url.path,
        "caller": caller,
        "may_operate": "operate" in caller.scopes,
        "served": champion.served,
        "why_not": champion.why_not,
    }
    text = environment.get_template(f"{name}.html.j2").render(known | told)
    return HTMLResponse(text, status, {"Content-Security-Policy": POLICY})


def problem(request: Request, error: Problem) -> Response:
    """An error as a page, in words."""
    return page(request, "problem", error.title, error.status_code, detail=shown_message(error.detail))


@router.get("/", dependencies=[reads])
def today(request: Request, state: State = Query("open")) -> Response:
    """What to do now."""
    return page(request, "today", "Today", **views.today(service_of(request), request.app.state.newest, state))


@router.get("/wafers/{wafer}", dependencies=[reads])
def wafer(request: Request, wafer: str) -> Response:
    """One wafer."""
    return page(request, "wafer", wafer, **views.wafer(service_of(request), wafer))


@router.get("/deliver", dependencies=[reads])
def deliver(request: Request) -> Response:
    """Where a batch file is dropped."""
    return page(request, "deliver", "Deliver a batch file")


@router.get("/runs", dependencies=[reads])
def runs(request: Request) -> Response:
    """All runs."""
    return page(request, "runs", "Runs", runs=views.runs(service_of(request)), starts=STARTS)


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
    return page(request, "quality", "Quality", **views.quality(service_of(request), request.app.state.newest))


@router.get("/quarantine", dependencies=[reads])
def quarantine(request: Request) -> Response:
    """What was turned away."""
    return page(request, "quarantine", "Quarantine", **views.quarantined(service_of(request)))


@router.get("/login")
def login(request: Request, next: str = Query("/", max_length=500)) -> Response:
    """Where a token is typed in."""
    return page(request, "login", "Log in", next=next)


@router.post("/login")
async def begin(request: Request) -> Response:
    """Begin a session, where the token is valid."""
    sent = parse_qs((await request.body()).decode("utf-8", "replace"))
    token, target = (sent.get(name, [""])[0] for name in ("token", "next"))
    sessions = request.app.state.sessions
    cookie = await blocking(sessions.begin, token.strip()) if sessions is not None else None
    if cookie is None:
        return page(request, "login", "Log in", 401, next=target, wrong=True)
    inside = target.startswith("/") and not target.startswith(("//", "/\\"))
    answer = RedirectResponse(quote(target, safe="/?=&%#") if inside else "/", 303)
    secure = request.url.scheme == "https"
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
