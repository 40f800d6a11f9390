"""What people look at again: the quarantine, a run as it goes on, and the champion under another threshold."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from wafer.errors import StorageError
from wafer.records import Kind
from wafer.service.core import Service, as_json, blocking, drawn, leased, service_of
from wafer.service.examples import json_answer
from wafer.service.guard import allowed
from wafer.service.jobs import ENDED, describe
from wafer.service.problems import Problem, documented
from wafer.service.routes_data import DIGEST, is_new
from wafer.service.tokens import Caller

if TYPE_CHECKING:
    from wafer.intake.ingest import IngestedFile
    from wafer.intake.quarantine import Entry, Quarantine

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_OF_EVENTS = 3600

router = APIRouter(tags=["review"])
reads, operates = Security(allowed, scopes=["read"]), Security(allowed, scopes=["operate"])

Cost = Annotated[float | None, Query(gt=0, le=1e9, description="in the customer's unit; default: the policy's")]


def quarantine(service: Service, kind: Kind) -> "Quarantine":
    """What of one kind was turned away."""
    from wafer.intake.quarantine import Quarantine

    return Quarantine(service.workspace.storage.place(f"quarantine/{kind}"))


def told(entry: "Entry") -> dict[str, Any]:
    """A rejected file, as the API tells it."""
    return {"id": entry.digest, "file": entry.file, "whole": entry.whole, **entry.verdict}


@router.get("/v1/quarantine/{kind}", dependencies=[reads], summary="What was turned away", responses=json_answer([]))
def quarantined(request: Request, kind: Kind) -> Response:
    """The rejected files of a kind with their reasons, by name."""
    return as_json([told(entry) for entry in quarantine(service_of(request), kind).entries()])


@router.post(
    "/v1/quarantine/{kind}/{digest}/release",
    dependencies=[operates],
    summary="Judge a rejected file again",
    responses={**json_answer({"verdict": "accepted"}), **documented("not-found")},
)
async def release(request: Request, kind: Kind, digest: str) -> Response:
    """Under the agreement of today: it is taken in if it is accepted now, and else keeps its new reasons."""
    service = service_of(request)
    done = await leased(service, _release, service, kind, digest)
    return as_json({"id": done.digest, "kind": kind, **{n: v for n, v in vars(done).items() if n != "digest"}})


def _release(service: Service, kind: Kind, digest: str) -> "IngestedFile":
    from wafer.intake.release import release_entry

    kept, storage = quarantine(service, kind), service.workspace.storage
    entries = {entry.digest: entry for entry in kept.entries()} if re.fullmatch(DIGEST, digest) else {}
    if digest not in entries:
        raise Problem("not-found", "no such file is in the quarantine")
    entry, store, contract = entries[digest], service.store, service.workspace.contract(kind)
    with service.workspace.lease(f"ingest-{kind}") as lease:
        new = entry.whole and is_new(service, kind, entry.file, digest)
        data = entry.path.read_bytes() if new else b""
        done = release_entry(entry, kept, contract, store, may_write=lease.check)
        if done.verdict == "accepted" and new:
            storage.write_bytes(f"raw/{kind}/{entry.file}", data)  # so that runs score it
    return done


@router.get(
    "/v1/models/champion/what-if",
    dependencies=[reads],
    summary="What other alarms would be worth",
    tags=["models"],
    responses={
        **json_answer({"version": 3, "sentences": [], "columns": [], "rows": []}),
        **documented("conflict"),
    },
)
async def what_if(
    request: Request,
    alarm_rate: float | None = Query(None, gt=0, le=1, description="share of each batch that is inspected"),
    cost_missed_fault: Cost = None,
    cost_false_alarm: Cost = None,
) -> Response:
    """By the scores that are stored with the champion, as `wafer models what-if` tells it; nothing is changed."""
    named = {"cost_missed_fault": cost_missed_fault, "cost_false_alarm": cost_false_alarm}
    service = service_of(request)
    return as_json(await drawn(service, _worth, service, alarm_rate, named))


def _worth(service: Service, alarm_rate: float | None, costs: Mapping[str, float | None]) -> dict[str, Any]:
    from wafer.learning.decision import Policy
    from wafer.learning.worth import highest, worth
    from wafer.registry.retunes import rescored

    version = service.champion.now().version
    found = service.registry.version(version)
    named: dict[str, Any] = {name: value for name, value in costs.items() if value is not None}
    policy = replace(Policy(**{"threshold": found.threshold_kind, **found.policy}), **named)
    scores = service.registry.scores(found)
    if alarm_rate is None:
        scores = rescored(scores, policy, found.version)
    else:
        scores = scores.assign(alarm=highest(scores, "probability", alarm_rate))
    valued = worth(scores, policy)
    table = valued.table()
    rows = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    words = [sentence.replace("**", "") for sentence in valued.sentences()]
    columns = [str(table.index.name or ""), *map(str, table.columns)]
    return {"version": version, "sentences": words, "columns": columns, "rows": rows, **valued.as_dict()}


class RetuneAsked(BaseModel):
    """Another policy for the champion; what is not named stays."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"cost_missed_fault": 50, "why": "a missed fault costs more"}]}
    )
    why: str = Field(min_length=1, max_length=300, description="told in the ledger of decisions")
    cost_missed_fault: float | None = Field(None, gt=0, le=1e9)
    cost_false_alarm: float | None = Field(None, gt=0, le=1e9)
    alarm_rate_ceiling: float | None = Field(None, gt=0, le=1)


@router.post(
    "/v1/models/champion/retune",
    dependencies=[operates],
    summary="Give the champion another threshold",
    tags=["models"],
    responses={**json_answer({"promoted": True, "reason": "…"}), **documented("conflict")},
)
async def retune(request: Request, wanted: RetuneAsked, caller: Caller = operates) -> Response:
    """A version with the same parts and another policy, on which the gate decides, as `wafer models retune` does."""
    service = service_of(request)
    return as_json(await leased(service, _retune, service, wanted, caller.name))


def _retune(service: Service, wanted: RetuneAsked, who: str) -> dict[str, Any]:
    from wafer.params import read_params
    from wafer.registry.gate import gate_rules

    params, registry, _ = read_params(service.workspace.params_file), service.registry, service.store
    with service.workspace.lease("gate"):
        parent = registry.champion()
        if parent is None:
            raise Problem("conflict", "no model is in use")
        named = wanted.model_dump(exclude={"why"}, exclude_none=True)
        policy = replace(registry.load(parent).classifier.policy_, **named)
        decision = registry.retune(parent, policy, f"{wanted.why} ({who})", gate_rules(params.gate, params.policy))
    service.champion.look()
    return decision.as_dict()


@router.get(
    "/v1/runs/{run}/events",
    dependencies=[reads],
    summary="A run as it goes on",
    tags=["work"],
    responses={
        200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **documented("not-found"),
    },
)
async def events(request: Request, run: str) -> StreamingResponse:
    """An event for each change, `data` being state and steps as JSON, until run or service ends, or for an hour."""
    service = service_of(request)
    await blocking(progress, service, run)  # of one that there is not, before the answer begins
    return StreamingResponse(_events(request, service, run), media_type="text/event-stream")


async def _events(request: Request, service: Service, run: str) -> AsyncIterator[str]:
    last = ""
    for _ in range(int(SECONDS_OF_EVENTS / SECONDS_BETWEEN_LOOKS)):
        found = await blocking(progress, service, run)
        if (text := json.dumps(found)) != last:
            last = text
            yield f"data: {text}\n\n"
        if found["state"] in ENDED or service.ending.is_set() or await request.is_disconnected():
            return
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


def progress(service: Service, run: str) -> dict[str, Any]:
    """Where a run stands: its state, and its steps with their seconds.

    Raises:
        Problem: there is none.
    """
    try:
        found = describe(service.workspace.runs.get(run))
    except StorageError:
        job = service.jobs.get(run)
        steps = describe(service.workspace.runs.get(job.run))["steps"] if job.run else []
        return {"state": job.state, "steps": steps}
    return {"state": found["state"], "steps": found["steps"]}
