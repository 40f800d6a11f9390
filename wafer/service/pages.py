"""Shows `runs/` and `reports/` of the storage, folder or bucket, so that links to pages open.

A path is a key of the storage and nothing else: no part of it is empty or hidden, and no link leads out of the storage.
Pages may show what they hold themselves, and run no script but this library's own.
"""

import html
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Security
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from upath import UPath

from wafer.reporting.index import PLACE
from wafer.reporting.look import look, script_source
from wafer.runs import RUNS
from wafer.service.guard import allowed
from wafer.service.problems import documented
from wafer.storage import Storage, is_local

ROOT = "/pages/"
AREAS = frozenset({RUNS, PLACE.partition("/")[0]})
CHUNK = 2**20  # bytes
TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ipynb": "application/x-ipynb+json",
    ".json": "application/json",
    ".jsonl": "application/jsonl; charset=utf-8",
    ".png": "image/png",
}
BYTES = "application/octet-stream"
"""What a file is by its ending; any other is bytes to be kept."""

router = APIRouter(tags=["pages"])


@router.get(
    ROOT + "{key:path}",
    dependencies=[Security(allowed, scopes=["read"])],
    summary="A page of a run",
    response_class=Response,
    responses={
        200: {"description": "The file", "content": {kind: {} for kind in (*TYPES.values(), BYTES)}},
        307: {"description": "A folder, whose address ends with /"},
        **documented("not-found"),
    },
)
def page(request: Request, key: str) -> Response:
    """What lies below runs/ and reports/ of the storage, under a policy that lets no foreign script run."""
    answer = _answer(request.app.state.service.workspace.storage, key)
    policy = f"default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src {script_source()}"
    framed = "frame-ancestors 'self'"  # the service shows a run's page in its own
    answer.headers["Content-Security-Policy"] = f"{policy}; base-uri 'none'; form-action 'none'; {framed}"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers["Cache-Control"] = "no-cache"  # the list of runs is written anew by each run
    return answer


def _answer(storage: Storage, key: str) -> Response:
    """The file of a key, or the list of a folder's files.

    Raises:
        HTTPException: with 404, where there is none, or none that may be shown.
    """
    place = _place(storage, key.removesuffix("/"))
    if place.is_file():
        if key.endswith("/"):
            raise HTTPException(404)
        size, kind = {"Content-Length": str(place.stat().st_size)}, TYPES.get(place.suffix, BYTES)
        return StreamingResponse(_chunks(place), headers=size, media_type=kind)
    names = sorted(one.name + "/" * one.is_dir() for one in place.iterdir()) if place.is_dir() else []
    if not names:
        raise HTTPException(404)
    if not key.endswith("/"):
        return RedirectResponse(f"{ROOT}{quote(key)}/")
    links = "".join(f'<li><a href="{quote(name)}">{html.escape(name)}</a></li>' for name in names if name[0] != ".")
    head = f'<!doctype html><html lang="en"><title>{html.escape(key)}</title><style>{look()}</style>'
    return HTMLResponse(f"{head}<h1>{html.escape(key)}</h1><ul>{links}</ul></html>")


def _place(storage: Storage, key: str) -> UPath:
    parts = key.split("/")
    if parts[0] not in AREAS or not all(part and part[0] != "." and part.isprintable() for part in parts):
        raise HTTPException(404)
    place = storage.place(key)
    if is_local(place) and not Path(str(place)).resolve().is_relative_to(Path(str(storage.root)).resolve()):
        raise HTTPException(404)
    return place


def _chunks(place: UPath) -> Iterator[bytes]:
    with place.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
