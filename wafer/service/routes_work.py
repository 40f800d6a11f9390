"""What changes things: runs, labels that come later, and alarms on their way from open to closed."""

import hashlib
from typing import Any, Literal

from fastapi import APIRouter, Query, Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wafer import steps
from wafer.errors import StorageError
from wafer.intake.labels import labels_file
from wafer.records import Kind as Delivery
from wafer.records import Labelled
from wafer.service.core import Service, as_json, blocking, leased, service_of
from wafer.service.examples import LABELS, body, json_answer
from wafer.service.guard import allowed
from wafer.service.jobs import Job, Kind, describe
from wafer.service.problems import Problem, documented
from wafer.service.readings import document
from wafer.service.routes_scoring import CSV, JSON, media_type
from wafer.service.tokens import Caller
from wafer.shown import shown_text
from wafer.store.alarms import Outcome, State, add_move, check_move, state_of, trails

LONGEST_COMMENT = 2000
MOST_LABELS = 100_000
ALARMS_LOOKED_AT = 2000
OUTCOMES = {"faulty": 1, "good": -1}

router = APIRouter(tags=["work"])
reads, operates = Security(allowed, scopes=["read"]), Security(allowed, scopes=["operate"])


class RunAsked(BaseModel):
    """A run to be started; each kind has parameters of its own."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"kind": "predict", "new_only": True}]})
    kind: Kind
    of: Delivery | None = Field(None, description="ingest: of which deliveries; default training")
    force: bool | None = Field(None, description="train: a version even where the same training has made one")
    new_only: bool | None = Field(None, description="predict: only files that no run has scored yet; default true")

    @model_validator(mode="after")
    def _fits(self) -> "RunAsked":
        own = {"ingest": {"of"}, "train": {"force"}, "predict": {"new_only"}, "retrain": set[str]()}[self.kind]
        if strange := self.model_fields_set - own - {"kind"}:
            raise ValueError(f"{self.kind} takes no {', '.join(sorted(strange))}")
        return self

    def parameters(self) -> dict[str, Any]:
        """Those of the flow."""
        chosen: dict[str, dict[str, Any]] = {
            "ingest": {"of": self.of or "training"},
            "train": {"force": bool(self.force)},
            "retrain": {},
        }
        chosen["predict"] = {"new_only": self.new_only is not False}
        return chosen[self.kind]


JOB = {"id": "0b9f…", "kind": "predict", "state": "starting", "run": None, "asked": "2026-01-31T08:30:00+00:00"}


@router.post(
    "/v1/runs",
    summary="Start a run",
    status_code=202,
    responses={**json_answer(JOB, 202, "It was started; nothing is said of its outcome yet"), **documented("conflict")},
)
def start(request: Request, wanted: RunAsked, caller: Caller = operates) -> Response:
    """It works on what lies in the storage. One of each kind at a time; the answer's address tells its state."""
    job = service_of(request).jobs.start(wanted.kind, wanted.parameters(), caller.name)
    return as_json(_told(job), 202, {"Location": f"/v1/runs/{job.id}"})


@router.get("/v1/runs", dependencies=[reads], summary="The runs", responses=json_answer([JOB]))
def runs(request: Request, limit: int = Query(50, ge=1, le=500)) -> Response:
    """Those that were asked for here, then those of the storage, each newest first, and each run once."""
    service = service_of(request)
    jobs = service.jobs.all(limit)
    known = {job.run for job in jobs}
    notes = [note for note in service.workspace.runs.all(limit) if note["id"] not in known]
    return as_json([*map(_told, jobs), *({**note, "run": note["id"]} for note in notes)][:limit])


@router.get(
    "/v1/runs/{run}",
    dependencies=[reads],
    summary="A run",
    responses={**json_answer(JOB), **documented("not-found")},
)
def run(request: Request, run: str) -> Response:
    """Its true state, its steps, why it failed, what came of it, and its pages; by its id here or in the storage."""
    service = service_of(request)
    try:
        return as_json(describe(service.workspace.runs.get(run)))
    except StorageError:
        job = service.jobs.get(run)
    work = describe(service.workspace.runs.get(job.run)) if job.run else None
    return as_json({**_told(job), "work": work})


@router.post(
    "/v1/runs/{run}/cancel",
    dependencies=[operates],
    summary="Ask a run to end",
    status_code=202,
    responses={**json_answer(JOB, 202, "It was asked to end"), **documented("not-found", "conflict")},
)
def cancel(request: Request, run: str) -> Response:
    """One that was started here; its state tells when it has ended."""
    return as_json(_told(service_of(request).jobs.cancel(run)), 202)


def _told(job: Job) -> dict[str, Any]:
    return {name: value for name, value in vars(job).items() if name != "owner"}


@router.post(
    "/v1/labels",
    dependencies=[operates],
    summary="Bring true outcomes",
    openapi_extra=body(LABELS),
    responses={**json_answer({"wafers": 2, "labelled": 2, "complaints": []})},
    tags=["labels"],
)
async def labels(request: Request) -> Response:
    """Labels that come later than their wafers: the agreed CSV, or labels by wafer; the same again changes nothing."""
    service, kind, sent = service_of(request), media_type(request), await request.body()
    if kind == JSON:
        sent = await blocking(_as_file, service, document(sent))
    elif kind != CSV:
        raise Problem("media-type", f"send {CSV} or {JSON}")
    done = await leased(service, import_labels, service, sent)
    return as_json({name: value for name, value in vars(done).items() if name != "report"})


def _as_file(service: Service, sent: dict[str, Any]) -> bytes:
    return labels_file(_labels(sent), service.workspace.form("training"))


def _labels(sent: dict[str, Any]) -> dict[str, int]:
    found = sent.get("labels")
    if sent.keys() - {"labels"} or not isinstance(found, dict) or not 0 < len(found) <= MOST_LABELS:
        raise Problem("unusable", 'the body is {"labels": {"Wafer-801": 1, …}}')
    if any(type(label) is not int or label not in (-1, 1) for label in found.values()):
        raise Problem("unusable", "a label is 1 (faulty) or -1 (good)")
    return found


def import_labels(service: Service, sent: bytes) -> Labelled:
    """Keep a file of labels in the storage, and let it be taken in as `wafer labels import` does."""
    key = _keep_labels(service, sent)
    with steps.working(service.workspace, "labels") as made:
        return steps.import_labels(service.workspace, made, key)


def _keep_labels(service: Service, sent: bytes) -> str:
    """The key of the file in the storage, which is called by its digest."""
    key = f"labels/{hashlib.sha256(sent).hexdigest()}.csv"
    service.workspace.storage.write_bytes(key, sent)
    _ = service.store  # by whoever asks first, and by no two
    return key


class MoveAsked(BaseModel):
    """Where an alarm goes next."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"state": "closed", "outcome": "faulty", "comment": "particle"}]},
    )
    state: Literal["acknowledged", "closed"]
    outcome: Outcome | None = Field(None, description="of a closed one; faulty and good become the wafer's label")
    comment: str = Field("", max_length=LONGEST_COMMENT)


ALARM = {"id": "Wafer-801", "state": "open", "probability": 0.31, "threshold": 0.18, "model_version": 3, "trail": []}


@router.get("/v1/alarms", dependencies=[reads], summary="The alarms", responses=json_answer([ALARM]), tags=["alarms"])
def alarms(
    request: Request,
    state: State = Query("open", description="where they stand"),
    limit: int = Query(100, ge=1, le=1000),
) -> Response:
    """Wafers whose last prediction calls them faulty, the most probable first; of the 2,000 that were scored last."""
    return as_json(alarms_of(service_of(request), state, limit))


def alarms_of(service: Service, state: State | None, limit: int) -> list[dict[str, Any]]:
    """The alarms of a state, the most probable first; one whose wafer has a label by now is not open."""
    store = service.store
    rows = {row["Wafer"]: row for row in store.last_alarms(ALARMS_LOOKED_AT)}
    moved, labelled = trails(store, list(rows)), store.find(list(rows), "label")
    found = [
        {
            **{name: row.get(name) for name in ("probability", "threshold", "cluster", "model_version", "unknown")},
            "id": wafer,
            "batch": row["batch"],
            "scored": row["scored"],
            "state": state_of(moved.get(wafer, ())),
            "label": labelled.get(wafer, {}).get("label"),
            "trail": [vars(one) for one in moved.get(wafer, ())],
        }
        for wafer, row in rows.items()
    ]
    known = [one for one in found if one["state"] != "open" or one["label"] is None]
    chosen = [one for one in known if state in (None, one["state"])]
    return sorted(chosen, key=lambda one: -(one["probability"] or 0.0))[:limit]


@router.post(
    "/v1/alarms/{wafer:path}",
    summary="Move an alarm on",
    responses={**json_answer({"id": "Wafer-801", "state": "closed"}), **documented("not-found", "conflict")},
    tags=["alarms"],
)
async def move(request: Request, wafer: str, wanted: MoveAsked, caller: Caller = operates) -> Response:
    """open → acknowledged → closed, with who and when; an outcome faulty or good becomes the wafer's label first."""
    service = service_of(request)
    return as_json(await leased(service, _move, service, wafer, wanted, caller.name))


def _move(service: Service, wafer: str, wanted: MoveAsked, who: str) -> dict[str, Any]:
    store = service.store
    verdicts = store.verdicts_on(wafer)
    trail = trails(store, [wafer]).get(wafer, [])
    if not trail and (not verdicts or verdicts[0]["Prediction"] != 1):
        raise Problem("not-found", f"no alarm is known of {shown_text(wafer, 80)!r}")
    check_move(trail, wafer, wanted.state, wanted.outcome)
    if wanted.outcome in OUTCOMES:
        sent = labels_file({wafer: OUTCOMES[wanted.outcome]}, service.workspace.form("training"))
        if complaints := steps.take_labels(service.workspace, _keep_labels(service, sent), f"alarm {wafer}").complaints:
            raise Problem("conflict", "; ".join(complaints))
    told = {"wafer": wafer, "state": wanted.state, "outcome": wanted.outcome, "comment": wanted.comment}
    made = add_move(store, trail, {**told, "who": who})
    return {"id": wafer, "state": made.state, "trail": [vars(one) for one in (*trail, made)]}
