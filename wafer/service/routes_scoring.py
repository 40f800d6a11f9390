"""Wafers scored at once: the own protocol, MLflow's scoring protocol, and the Open Inference Protocol (V2)."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Query, Request, Response, Security
from starlette.responses import PlainTextResponse

from wafer.records import WhoseReasons
from wafer.service.champion import Served
from wafer.service.core import Done, Service, as_json, blocking, service_of
from wafer.service.examples import INFER, INVOCATIONS, MODEL, READY, SCORE, SCORED, body, json_answer
from wafer.service.guard import allowed
from wafer.service.problems import Problem, documented
from wafer.service.readings import asked, by_column, by_sensor, document, from_csv
from wafer.service.scorer import MOST_EXPLAINED, Asked, Scored

NAME = "wafer"
CSV, JSON = "text/csv", "application/json"
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
OUTPUTS = {"probability": "FP64", "prediction": "INT64", "cluster": "INT64", "unknown": "BOOL", "threshold": "FP64"}
NO_VERDICT = 0
"""As a prediction in a protocol that has no missing number."""

router = APIRouter(tags=["scoring"])
needs_read, needs_score = Security(allowed, scopes=["read"]), Security(allowed, scopes=["score"])


LARGE = 2**18
"""Bytes from which on a thread reads a body, so that others are not held up; few at a time, since lists are large."""


async def read(request: Request, work: Callable[..., Done], *given: Any) -> Done:
    """What `work` makes of the body, its last argument."""
    sent = await request.body()
    if len(sent) < LARGE:
        return work(*given, sent)
    async with service_of(request).reading:
        return await blocking(work, *given, sent)


def media_type(request: Request) -> str:
    """What a body is, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def scored(service: Service, wafers: Asked, protocol: str, **asked_for: Any) -> Scored:
    """Wafers scored and counted."""
    found = await service.scorer.score(wafers, **asked_for)
    service.metrics.count(found, protocol)
    return found


@router.post(
    "/v1/score",
    dependencies=[needs_score],
    summary="Score wafers with the champion",
    openapi_extra=body(SCORE),
    responses=json_answer(SCORED),
)
async def score(
    request: Request,
    reasons: WhoseReasons = Query(
        "alarms", description=f"of which wafers the reasons are given; all: of up to {MOST_EXPLAINED} wafers a request"
    ),
    most: int = Query(5, ge=1, le=50, description="reasons of a wafer, at most"),
) -> Response:
    """Each wafer by itself: the same in any company. JSON or CSV, up to 10,000 wafers; nothing is stored."""
    service, kind = service_of(request), media_type(request)
    served = service.champion.now()
    if kind == CSV:
        wafers, ids = await read(request, from_csv, served, service.form)
    elif kind == JSON:
        wafers, ids = await read(request, _of_document, served)
    else:
        raise Problem("media-type", f"send {JSON} or {CSV}")
    found = await scored(service, wafers, "v1", reasons=reasons, most=most)
    rows = [dict(zip(found.wafers, values, strict=True)) for values in zip(*found.wafers.values(), strict=True)]
    for row, one in enumerate(rows):
        del one["version"]  # the same of all
        one["id"] = None if ids is None else ids[row]
        one["reasons"] = found.reasons[row] if found.reasons else []
    return as_json({"version": found.served.version, "wafers": rows}, headers=_version(found.served))


def _of_document(served: Served, body: bytes) -> tuple[Asked, list[str] | None]:
    sent = document(body)
    wafers = sent.get("wafers")
    if sent.keys() - {"wafers"} or not isinstance(wafers, list) or not all(isinstance(one, dict) for one in wafers):
        raise Problem("unusable", 'the body is {"wafers": [{"readings": […]}, …]}')
    if any(one.keys() - {"id", "order", "readings"} or "readings" not in one for one in wafers):
        raise Problem("unusable", "a wafer has readings, and may have an id and an order")
    ids = [one.get("id") for one in wafers]
    if not all(one is None or isinstance(one, str) for one in ids):
        raise Problem("unusable", "an id is text")
    order = [one.get("order") for one in wafers]
    given = None if all(one is None for one in order) else order
    return asked(served, [one["readings"] for one in wafers], given), ids


def _version(served: Served) -> dict[str, str]:
    return {"X-Model-Version": str(served.version)}


# MLflow's scoring protocol, https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/


@router.get("/ping", summary="Whether a model scores (MLflow)", response_class=PlainTextResponse)
@router.get("/health", summary="Whether a model scores (MLflow)", response_class=PlainTextResponse)
def ping(request: Request) -> Response:
    """Status 200 once wafers can be scored."""
    served = service_of(request).champion.now()
    return Response("\n", media_type="text/plain", headers=_version(served))


@router.get("/version", summary="The release of MLflow whose protocol is spoken", response_class=PlainTextResponse)
def version() -> Response:
    """As text."""
    return Response(importlib.metadata.version("mlflow"), media_type="text/plain")


@router.post(
    "/invocations",
    dependencies=[needs_score],
    summary="Score wafers (MLflow)",
    openapi_extra=body(INVOCATIONS),
    responses=json_answer({"predictions": [{"Prediction": -1.0, "probability": 0.03, "cluster": 0.0, "unknown": 0.0}]}),
)
async def invocations(request: Request) -> Response:
    """The rows of `mlflow models serve` on the same version: Prediction, probability, cluster and unknown."""
    service, kind = service_of(request), media_type(request)
    served = service.champion.now()
    if kind == CSV:
        wafers, _ = await read(request, from_csv, served, None)
    elif kind == JSON:
        wafers = await read(request, _of_mlflow, served)
    else:
        raise Problem("media-type", f"send {JSON} or {CSV}")
    found = await scored(service, wafers, "mlflow")
    columns = {"verdict": "Prediction", "probability": "probability", "cluster": "cluster", "unknown": "unknown"}
    values = [[None if v is None else float(v) for v in found.wafers[name]] for name in columns]
    rows = [dict(zip(columns.values(), row, strict=True)) for row in zip(*values, strict=True)]
    return as_json({"predictions": rows}, headers=_version(found.served))


def _of_mlflow(served: Served, body: bytes) -> Asked:
    sent = document(body)
    forms = [name for name in FORMS if name in sent]
    if len(forms) != 1 or sent.keys() - {*FORMS, "params"}:
        raise Problem("unusable", f"the body has exactly one of {', '.join(FORMS)}")
    if sent.get("params"):
        raise Problem("unusable", "the model takes no params")
    given = sent[forms[0]]
    if forms[0] == "dataframe_split":
        if not isinstance(given, dict) or given.keys() - {"columns", "data", "index"}:
            raise Problem("unusable", "dataframe_split has columns and data")
        return by_column(served, given.get("columns"), given.get("data"))
    if forms[0] == "inputs" and isinstance(given, dict):
        return by_sensor(served, given)
    return asked(served, given)


# the Open Inference Protocol, https://github.com/kserve/open-inference-protocol


@router.get("/v2", dependencies=[needs_read], summary="The server (V2)", tags=["v2"])
def server() -> Response:
    """Name, version and extensions."""
    return as_json({"name": NAME, "version": importlib.metadata.version("wafer"), "extensions": []})


@router.get("/v2/health/live", summary="Whether the service lives (V2)", responses=json_answer({"live": True}))
def live() -> Response:
    """Status 200 as long as it answers."""
    return as_json({"live": True})


@router.get(
    "/v2/health/ready",
    summary="Whether a model scores (V2)",
    responses={**json_answer(READY), **documented("unavailable")},
)
def ready(request: Request) -> Response:
    """Status 200 once wafers can be scored."""
    service_of(request).champion.now()
    return as_json({"ready": True})


def _model(request: Request, model: str, version: str | None = None) -> Served:
    served = service_of(request).champion.now()
    if model != NAME or version not in (None, str(served.version)):
        raise Problem("not-found", f"what is served is version {served.version} of the model {NAME!r}")
    return served


MODELS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
known: dict[str, Any] = {"dependencies": [needs_read], "responses": {**json_answer(MODEL), **documented("not-found")}}


@router.get(MODELS[0], summary="The model (V2)", **known)
@router.get(MODELS[1], summary="A version of the model (V2)", **known)
def model(request: Request, model: str, version: str | None = None) -> Response:
    """Its inputs and outputs; of all versions, the champion alone is served."""
    served = _model(request, model, version)
    inputs = [{"name": "readings", "datatype": "FP64", "shape": [-1, len(served.columns)]}]
    outputs = [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()]
    told = {"name": NAME, "versions": [str(served.version)], "platform": "wafer", "inputs": inputs, "outputs": outputs}
    return as_json(told, headers=_version(served))


@router.get(MODELS[0] + "/ready", summary="Whether it scores (V2)", **known)
@router.get(MODELS[1] + "/ready", summary="Whether a version scores (V2)", **known)
def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """Status 200 once wafers can be scored with it."""
    served = _model(request, model, version)
    return as_json({"name": NAME, "ready": True}, headers=_version(served))


inferring: dict[str, Any] = {
    "dependencies": [needs_score],
    "openapi_extra": body(INFER),
    "responses": {**json_answer({"model_name": NAME, "outputs": []}), **documented("not-found")},
}


@router.post(MODELS[0] + "/infer", summary="Score wafers (V2)", **inferring)
@router.post(MODELS[1] + "/infer", summary="Score wafers with a version (V2)", **inferring)
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """One input `readings` of datatype FP64 or FP32 and shape [wafers, sensors], null for a missing reading."""
    service = service_of(request)
    served = _model(request, model, version)
    if media_type(request) != JSON or "inference-header-content-length" in request.headers:
        raise Problem("media-type", f"send {JSON}, without binary data")
    sent, wafers = await read(request, _of_tensor, served)
    found = await scored(service, wafers, "v2")
    wanted = _outputs(sent.get("outputs"))
    verdicts = [NO_VERDICT if one is None else one for one in found.wafers["verdict"]]
    columns = {**found.wafers, "prediction": verdicts}
    outputs = [
        {"name": name, "datatype": OUTPUTS[name], "shape": [len(verdicts)], "data": columns[name]} for name in wanted
    ]
    told: dict[str, Any] = {"model_name": NAME, "model_version": str(found.served.version), "outputs": outputs}
    return as_json(
        told | ({"id": sent["id"]} if isinstance(sent.get("id"), str) else {}), headers=_version(found.served)
    )


def _of_tensor(served: Served, body: bytes) -> tuple[dict[str, Any], Asked]:
    sent = document(body)
    inputs = sent.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Problem("unusable", "the body has one input")
    (tensor,) = inputs
    shape, data = tensor.get("shape"), tensor.get("data")
    if tensor.get("datatype") not in ("FP64", "FP32"):
        raise Problem("unusable", "the datatype is FP64 or FP32")
    width = len(served.columns)
    if not isinstance(shape, list) or len(shape) != 2 or type(shape[0]) is not int or shape[1] != width:
        raise Problem("unusable", f"the shape is [wafers, {width}]")
    if not isinstance(data, list):
        raise Problem("unusable", "data is a list")
    if data and not isinstance(data[0], list):  # row after row, flat
        data = [data[start : start + width] for start in range(0, len(data), width)]
    if len(data) != shape[0]:
        raise Problem("unusable", f"the data are of {len(data)} wafers, the shape is of {shape[0]}")
    return {name: sent[name] for name in ("id", "outputs") if name in sent}, asked(served, data)


def _outputs(given: Any) -> list[str]:
    if given is None:
        return list(OUTPUTS)
    named: list[Any] = (
        [one.get("name") if isinstance(one, dict) else one for one in given] if isinstance(given, list) else []
    )
    if not named or not all(isinstance(name, str) and name in OUTPUTS for name in named):
        raise Problem("unusable", f"the outputs are {', '.join(OUTPUTS)}")
    return named
