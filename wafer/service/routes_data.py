"""What is known: batches and their predictions, wafers, models; and the delivery of a batch file."""

import hashlib
import io
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from fastapi import APIRouter, Query, Request, Response, Security

from wafer.records import Kind
from wafer.service.core import Service, as_json, leased, service_of
from wafer.service.examples import BATCH, body, json_answer
from wafer.service.guard import allowed
from wafer.service.problems import Problem, documented
from wafer.service.routes_scoring import CSV, media_type
from wafer.shown import shown_text

if TYPE_CHECKING:
    from wafer.intake.ingest import IngestedFile
    from wafer.store.alarms import Move
    from wafer.store.documents import BatchRecord

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,149}$"
DIGEST = r"^[0-9a-f]{64}$"
Format = Literal["json", "csv", "parquet"]
FORMULA = re.compile(r"^[=+\-@\t\r]")

router = APIRouter(tags=["data"])
reads, operates = Security(allowed, scopes=["read"]), Security(allowed, scopes=["operate"])


@router.post(
    "/v1/batches",
    dependencies=[operates],
    summary="Deliver a batch file",
    openapi_extra=body(BATCH),
    responses={**json_answer({"verdict": "accepted"}), 201: json_answer({})[200], **documented("conflict")},
)
async def deliver(
    request: Request,
    name: str = Query(
        description="of the file, as the agreement has it", pattern=NAME, examples=["wafer_07012020_041011.csv"]
    ),
    kind: Kind = Query("prediction", description="of delivery; files for training have labels"),
) -> Response:
    """Judge it and take it in: its wafers are stored, or it is quarantined with the reasons; 201 where it is new.

    The same bytes again change nothing. Accepted files lie in raw/KIND of the storage then, from where runs score them.
    """
    if media_type(request) != CSV:
        raise Problem("media-type", f"send {CSV}")
    service = service_of(request)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "batch")  # whatever it is called
        with path.open("wb") as file:
            async for part in request.stream():
                file.write(part)
        done = await leased(service, _take_in, service, path, name, kind)
    service.metrics.add("wafer_delivered_batches_total", kind, done.verdict)
    for rule in {reason["rule"] for reason in done.reasons}:
        service.metrics.add("wafer_broken_rules_total", kind, rule)
    told = {name: value for name, value in vars(done).items() if name != "digest"}
    new = done.verdict == "accepted" and not done.known
    return as_json(
        {"id": done.digest, "kind": kind, **told}, 201 if new else 200, {"Location": f"/v1/batches/{done.digest}"}
    )


def _take_in(service: Service, path: Path, name: str, kind: Kind) -> "IngestedFile":
    from wafer.contract.facts import read_delivery
    from wafer.intake.quarantine import Quarantine
    from wafer.intake.single import take_in_one

    workspace, contract, store = service.workspace, service.workspace.contract(kind), service.store
    delivery = read_delivery(path, contract.form, name)
    kept = Quarantine(workspace.storage.place(f"quarantine/{kind}"))
    with workspace.lease(f"ingest-{kind}") as lease:
        new = is_new(service, kind, name, delivery.digest)
        done = take_in_one(delivery, contract, store, kept, may_write=lease.check)
        if done.verdict == "accepted" and new:
            workspace.storage.write_bytes(f"raw/{kind}/{name}", path.read_bytes())
    return done


def is_new(service: Service, kind: Kind, name: str, digest: str) -> bool:
    """Whether a file, once it is accepted, is to be laid where runs find it: it is not there yet, under any name.

    Raises:
        Problem: other bytes were delivered under its name.
    """
    place = service.workspace.storage.place(f"raw/{kind}/{name}")
    if place.exists():
        if hashlib.sha256(place.read_bytes()).hexdigest() != digest:
            raise Problem(
                "conflict", f"a file {shown_text(name)} with other bytes was delivered before: rename this one"
            )
        return False
    known = service.store.known([digest]).get(digest)
    other = None if known is None else service.workspace.storage.place(f"raw/{kind}/{known.file}")
    return other is None or not other.exists()


@router.get("/v1/batches", dependencies=[reads], summary="The batches of a kind", responses=json_answer([]))
def batches(request: Request, kind: Kind = Query("prediction"), limit: int = Query(100, ge=1, le=1000)) -> Response:
    """Those that were taken in, the last in the production first."""
    found = service_of(request).store.batches(kind, limit)[::-1]
    return as_json([_told(record) for record in found])


@router.get(
    "/v1/batches/{batch}",
    dependencies=[reads],
    summary="A batch",
    responses={**json_answer({"id": "…", "wafers": []}), **documented("not-found")},
)
def batch(request: Request, batch: str) -> Response:
    """What the ledger says of the file with this SHA-256."""
    record = _record(service_of(request), batch)
    return as_json({**_told(record), "wafers": record.wafers, "conflicts": [vars(one) for one in record.conflicts]})


def _record(service: Service, batch: str) -> "BatchRecord":
    record = service.store.known([batch]).get(batch) if re.fullmatch(DIGEST, batch) else None
    if record is None:
        raise Problem("not-found", f"no batch has the digest {shown_text(batch, 70)!r}")
    return record


def _told(record: "BatchRecord") -> dict[str, Any]:
    counts = {
        "wafers": len(record.wafers),
        "stored": record.stored,
        "repeats": record.repeats,
        "labelled": record.labelled,
    }
    counts |= {"conflicts": len(record.conflicts), "replaced": len(record.replaced)}
    told = {"id": record.digest, "file": record.file, "kind": record.kind, "order": record.order}
    return {**told, **counts, "taken_in": record.taken_in, "scored": record.scored}


FORMATS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As asked for",
        "content": {
            "application/json": {"schema": {"type": "array"}},
            CSV: {"schema": {"type": "string"}},
            "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get(
    "/v1/batches/{batch}/predictions",
    dependencies=[reads],
    summary="What was said of a batch's wafers",
    responses={**FORMATS, **documented("not-found")},
)
def predictions(request: Request, batch: str, format: Format = Query("json")) -> Response:
    """The stored predictions of all versions. In a CSV, text that a spreadsheet would compute starts with a `'`."""
    from wafer.scoring.batches import COLUMNS, as_documents

    service = service_of(request)
    record = _record(service, batch)
    found = service.store.predictions(batch).reindex(columns=COLUMNS)
    name = f'attachment; filename="predictions-{record.digest[:12]}.{format}"'
    if format == "json":
        return as_json(as_documents(found))
    headers = {"Content-Disposition": name}
    if format == "csv":
        return Response(as_csv(found), headers=headers, media_type=CSV)
    file = io.BytesIO()
    found.to_parquet(file, index=False)
    return Response(file.getvalue(), headers=headers, media_type="application/vnd.apache.parquet")


def as_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV in which no text is a formula."""
    text = frame.select_dtypes(include=["object", "str"])
    safe: dict[str, list[Any]] = {str(name): [_safe(cell) for cell in text[name]] for name in text}
    return frame.assign(**safe).to_csv(index=False, lineterminator="\n")


def _safe(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def known_wafer(service: Service, name: str) -> tuple[dict[str, Any], list[dict[str, Any]], list["Move"], bool]:
    """A stored wafer, its verdicts (the last first), its alarm's trail, and whether there is or was an alarm.

    Raises:
        Problem: it is not stored.
    """
    from wafer.store.alarms import trails

    store = service.store
    found = store.find([name]).get(name)
    if found is None:
        raise Problem("not-found", f"no wafer {shown_text(name, 80)!r} is stored")
    verdicts = store.verdicts_on(name)
    trail = trails(store, [name]).get(name, [])
    return found, verdicts, trail, bool(trail) or (bool(verdicts) and verdicts[0]["Prediction"] == 1)


@router.get(
    "/v1/wafers/{wafer:path}",
    dependencies=[reads],
    summary="A wafer",
    responses={**json_answer({"id": "Wafer-801", "label": None}), **documented("not-found")},
)
def wafer(request: Request, wafer: str) -> Response:
    """All that is known of it: file, readings, verdicts by version, label, earlier readings, conflicts, its alarm."""
    from wafer.store.alarms import state_of

    service = service_of(request)
    found, verdicts, trail, alarmed = known_wafer(service, wafer)
    sensors, own = service.sensors, {name: found[name] for name in ("order", "label", "batch", "file", "missing")}
    return as_json(
        {
            "id": wafer,
            **own,
            "label_batch": found["label_batch"],
            "readings": dict(zip(sensors, found["readings"], strict=True))
            if len(sensors) == len(found["readings"])
            else found["readings"],
            "earlier": found.get("earlier", []),
            "predictions": verdicts,
            "conflicts": [vars(one) for one in service.store.conflicts_of(wafer)],
            "alarm": {"state": state_of(trail), "trail": [vars(one) for one in trail]} if alarmed else None,
        }
    )


@router.get("/v1/models", dependencies=[reads], summary="The versions", responses=json_answer([]), tags=["models"])
def models(request: Request) -> Response:
    """All versions of the registry, oldest first, and the aliases that name one."""
    registry = service_of(request).registry
    names = registry.aliases()
    told = [
        {
            **{name: getattr(one, name) for name in ("version", "stage", "created", "digest", "training", "threshold")},
            "policy": one.policy,
            "retuned": one.retuned,
            "aliases": sorted(alias for alias, version in names.items() if version == one.version),
        }
        for one in registry.versions()
    ]
    return as_json(told)


@router.get(
    "/v1/models/champion",
    dependencies=[reads],
    summary="The version in use",
    responses=json_answer({"version": 3}),
    tags=["models"],
)
def champion(request: Request) -> Response:
    """What scores at this moment, its metrics, and the decision that made it champion."""
    service = service_of(request)
    served = service.champion.now()
    promotions = [one for one in service.registry.ledger() if one.promoted and one.challenger == served.version]
    told = {
        "version": served.version,
        "created": served.created,
        "loaded": served.loaded,
        "sensors": len(served.columns),
    }
    return as_json(
        {
            **told,
            "why_not_newer": service.champion.why_not,
            "metrics": service.registry.metrics(served.version),
            "decision": promotions[-1].as_dict() if promotions else None,
        },
        headers={"X-Model-Version": str(served.version)},
    )
