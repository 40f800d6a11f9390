"""Wafers scored at once: each protocol says what `judge` says."""

import asyncio
import time
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from tests.service.conftest import SENSORS, make_readings
from wafer.scoring.bundle import Bundle
from wafer.scoring.judge import Judgement, judge
from wafer.service import scorer
from wafer.service.problems import Problem
from wafer.service.readings import matrix

READINGS = make_readings(16, seed=5)
ROWS = [[None if np.isnan(cell) else cell for cell in row] for row in READINGS.mask(READINGS < -2).to_numpy()]


@pytest.fixture(scope="module")
def said(bundle: Bundle) -> Judgement:
    readings = pd.DataFrame(ROWS, columns=SENSORS, dtype=np.float64)
    return judge(bundle, readings, version=1, apart=True, reasons="alarms")


def test_a_score_is_the_record_of_judge(client: TestClient, said: Judgement) -> None:
    """Every column, each wafer with its reasons, and the version that said it; a wafer alone gets the same."""
    body = {"wafers": [{"id": f"W-{n}", "readings": row} for n, row in enumerate(ROWS)]}
    told = client.post("/v1/score", json=body)
    assert (told.status_code, told.headers["X-Model-Version"], told.json()["version"]) == (200, "1", 1)
    wafers = told.json()["wafers"]
    for name in ("verdict", "probability", "cluster", "p_value", "unknown", "why", "threshold"):
        expected = said.wafers[name].astype(object).where(said.wafers[name].notna(), None).tolist()
        assert [one[name] for one in wafers] == expected, name
    assert [one["id"] for one in wafers] == [f"W-{n}" for n in range(16)]
    assert said.alarms.any() and said.reasons is not None
    for row, one in enumerate(wafers):
        own = said.reasons[said.reasons["row"] == row]
        assert [reason["sensor"] for reason in one["reasons"]] == own["sensor"].tolist()
    alone = [client.post("/v1/score", json={"wafers": [one]}).json()["wafers"][0] for one in body["wafers"]]
    assert alone == wafers


def test_readings_come_by_name_in_any_sequence_and_as_csv(client: TestClient, said: Judgement) -> None:
    """Objects by sensor, and a CSV with its id column, whatever the sequence of the columns."""
    turned = SENSORS[::-1]
    table = pd.DataFrame(ROWS, columns=SENSORS)[turned]
    objects = [dict(zip(SENSORS, row, strict=True)) for row in ROWS]
    by_name = client.post("/v1/score", json={"wafers": [{"readings": one} for one in objects]}).json()["wafers"]
    table.insert(3, "Wafer", [f"Wafer-{n}" for n in range(16)])
    text = table.to_csv(index=False)
    by_csv = client.post("/v1/score", content=text, headers={"Content-Type": "text/csv"}).json()["wafers"]
    for wafers in by_name, by_csv:
        assert [one["probability"] for one in wafers] == said.wafers["probability"].tolist()
    assert by_csv[3]["id"] == "Wafer-3"


def test_the_order_of_a_wafer_counts(client: TestClient, bundle: Bundle) -> None:
    """A wafer of the past is compared with its own time; requests with and without an order do not mix."""
    told = client.post("/v1/score", json={"wafers": [{"order": 3, "readings": ROWS[1]}]}).json()["wafers"][0]
    frame = pd.DataFrame(ROWS[1:2], columns=SENSORS, dtype=np.float64)
    assert told["probability"] == judge(bundle, frame, [3]).wafers["probability"][0]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": SENSORS, "data": ROWS}},
        {"dataframe_records": [dict(zip(SENSORS, row, strict=True)) for row in ROWS]},
        {"instances": ROWS},
        {"inputs": ROWS},
        {"inputs": {name: [row[place] for row in ROWS] for place, name in enumerate(SENSORS)}},
        "csv",
    ],
    ids=["split", "records", "instances", "inputs", "named inputs", "csv"],
)
def test_mlflow_clients_get_the_rows_of_its_own_server(client: TestClient, bundle: Bundle, body: Any) -> None:
    """Each form of a body that MLflow's scoring protocol has gives `scored_wafers`."""
    from wafer.registry.packaging import scored_wafers

    frame = pd.DataFrame(ROWS, columns=SENSORS, dtype=np.float64)
    sent: dict[str, Any] = {"json": body}
    if body == "csv":
        sent = {"content": frame.to_csv(index=False), "headers": {"Content-Type": "text/csv; charset=utf-8"}}
    told = client.post("/invocations", **sent)
    assert told.status_code == 200, told.text
    expected = scored_wafers(bundle, frame)
    found = pd.DataFrame(told.json()["predictions"], dtype=np.float64)
    pd.testing.assert_frame_equal(found[expected.columns], expected)


def test_the_open_inference_protocol(client: TestClient, said: Judgement) -> None:
    """Metadata, readiness and tensors, flat or nested; another model or version is not there."""
    for path in "/v2/models/wafer", "/v2/models/wafer/versions/1":
        told = client.get(path).json()
        assert (told["name"], told["versions"], told["inputs"][0]["shape"]) == ("wafer", ["1"], [-1, 12])
        assert client.get(f"{path}/ready").json() == {"name": "wafer", "ready": True}
        for data in ROWS, [cell for row in ROWS for cell in row]:
            tensor = {"name": "readings", "shape": [16, 12], "datatype": "FP64", "data": data}
            told = client.post(f"{path}/infer", json={"id": "a", "inputs": [tensor]}).json()
            assert (told["id"], told["model_name"], told["model_version"]) == ("a", "wafer", "1")
            outputs = {one["name"]: one["data"] for one in told["outputs"]}
            assert outputs["probability"] == said.wafers["probability"].tolist()
            assert outputs["prediction"] == said.wafers["verdict"].fillna(0).tolist()
    other = client.get("/v2/models/other")
    assert (other.status_code, other.json()["error"]) == (404, "what is served is version 1 of the model 'wafer'")
    assert client.post("/v2/models/wafer/infer", json={}).json()["error"] == "the body has one input"
    assert client.post("/v2/models/wafer/versions/2/infer", json={}).status_code == 404
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def numbers(cell: str) -> str:
    return f"[{','.join([cell] * 12)}]"


UNUSABLE = {
    "no JSON": ("{", 400),
    "no object": ("[]", 422),
    "no wafers": ('{"wafers": []}', 422),
    "too few readings": ('{"wafers": [{"readings": [1]}]}', 422),
    "text": (f'{{"wafers": [{{"readings": {numbers(chr(34) + "1" + chr(34))}}}]}}', 422),
    "a truth": (f'{{"wafers": [{{"readings": {numbers("true")}}}]}}', 422),
    "no list": ('{"wafers": [{"readings": 1}]}', 422),
    "lists within": (f'{{"wafers": [{{"readings": {numbers("[1]")}}}]}}', 422),
    "ragged": ('{"wafers": [{"readings": [1]}, {"readings": [1, 2]}]}', 422),
    "infinite": (f'{{"wafers": [{{"readings": {numbers("1e999")}}}]}}', 400),
    "an unknown key": ('{"wafers": [{"readings": [1], "x": 1}]}', 422),
    "an unknown sensor": ('{"wafers": [{"readings": {"Sensor-99": 1}}]}', 422),
    "a missing sensor": ('{"wafers": [{"readings": {"Sensor-1": 1}}]}', 422),
    "half an order": (
        f'{{"wafers": [{{"order": 1, "readings": {numbers("1")}}}, {{"readings": {numbers("1")}}}]}}',
        422,
    ),
    "nested": ('{"wafers": [{"readings": ' + "[" * 500 + "]" * 500 + "}]}", 422),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_scored_is_told(client: TestClient, name: str) -> None:
    """A problem document that says in words what is wrong."""
    body, status = UNUSABLE[name]
    told = client.post("/v1/score", content=body, headers={"Content-Type": "application/json"})
    assert (told.status_code, told.headers["Content-Type"]) == (status, "application/problem+json"), told.text
    assert told.json()["status"] == status
    assert told.json()["instance"] == f"urn:wafer:request:{told.headers['X-Request-Id']}"


def test_other_types_and_two_forms_are_refused(client: TestClient) -> None:
    """415 for what is neither JSON nor CSV; a body of MLflow's has exactly one of its forms."""
    for path in "/v1/score", "/invocations", "/v2/models/wafer/infer":
        assert client.post(path, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.post("/invocations", json={"instances": ROWS, "inputs": ROWS}).status_code == 422
    assert client.post("/invocations", json={}).status_code == 422


def test_a_csv_of_a_million_columns_is_refused_at_its_header(client: TestClient) -> None:
    """Before anything is parsed; so is one that lacks a sensor."""
    for text in ",".join(["a"] * 1_000_000), ",".join(SENSORS[1:]) + "\n" + ",".join(["1"] * 11):
        told = client.post("/v1/score", content=text, headers={"Content-Type": "text/csv"})
        assert told.status_code == 422, told.text


def test_reasons_of_all_are_bounded(client: TestClient) -> None:
    """422 with a sentence, and said by the description; the same wafers get the reasons of their alarms."""
    body = {"wafers": [{"readings": ROWS[1]}] * 501}
    told = client.post("/v1/score?reasons=all", json=body)
    assert (told.status_code, told.json()["type"]) == (422, "urn:wafer:problem:unusable")
    assert "up to 500 wafers of a request, got 501: ask for those of alarms" in told.json()["detail"]
    assert client.post("/v1/score", json=body).status_code == 200
    parameters = client.get("/openapi.json").json()["paths"]["/v1/score"]["post"]["parameters"]
    assert ["up to 500" in one["description"] for one in parameters if one["name"] == "reasons"] == [True]


def test_requests_take_turns_for_reasons(client: TestClient, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alarm gets its reasons though a large request came first; each wafer's are those of `judge`."""
    monkeypatch.setattr(scorer, "WAFERS_A_TURN", 3)
    served = client.app.state.service.champion.now()  # type: ignore[attr-defined]
    readings, ended = np.array(ROWS, dtype=np.float64), list[int]()

    async def ask(one: scorer.Scorer, wafers: int) -> scorer.Scored:
        found = await one.score(scorer.Asked(served, readings[:wafers]), "all")
        ended.append(wafers)
        return found

    async def together() -> list[scorer.Scored]:
        one = scorer.Scorer(1)
        try:
            return await asyncio.gather(ask(one, 16), ask(one, 1))
        finally:
            one.stop()

    large, small = asyncio.run(together())
    assert ended == [1, 16]
    expected = judge(bundle, pd.DataFrame(readings, columns=SENSORS), version=1, apart=True, reasons="all").reasons
    assert expected is not None and len(expected) > 0
    for row, reasons in enumerate(large.reasons):
        own = expected[expected["row"] == row].drop(columns="row").to_dict("records")
        assert reasons == [{name: scorer.plain(value) for name, value in one.items()} for one in own]
    assert small.reasons == large.reasons[:1]


def test_requests_that_wait_for_reasons_get_them_together(
    client: TestClient, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits while reasons are given goes into the next turn, and each gets as many as it asks for, of its own."""
    served = client.app.state.service.champion.now()  # type: ignore[attr-defined]
    readings, turns, give = np.array(ROWS, dtype=np.float64), list[list[int]](), scorer._reasons
    one = scorer.Scorer(1)

    def give_once_all_wait(turn: Any) -> Any:
        while not turns and len(one._unexplained) < 4:
            time.sleep(0.001)
        turns.append([len(rows) for _, rows in turn])
        return give(turn)

    monkeypatch.setattr(scorer, "_reasons", give_once_all_wait)

    async def together() -> list[scorer.Scored]:
        wanted = [(slice(0, 2), 5, None), (slice(2, 4), 1, None), (slice(4, 7), 2, None), (slice(0, 2), 3, 7)]
        asked = [
            (scorer.Asked(served, readings[rows], None if order is None else np.full(2, order)), most)
            for rows, most, order in wanted
        ]
        try:
            return await asyncio.gather(*(one.score(wafers, "all", most) for wafers, most in asked))
        finally:
            one.stop()

    first, second, third, ordered = asyncio.run(together())
    assert turns == [[2], [2, 3], [2]]
    for found, rows, most in (first, range(2), 5), (second, range(2, 4), 1), (third, range(4, 7), 2):
        for row, reasons in zip(rows, found.reasons, strict=True):
            frame = pd.DataFrame(readings[row : row + 1], columns=SENSORS)
            expected = judge(bundle, frame, version=1, apart=True, reasons="all", most=most).reasons
            assert expected is not None
            own = expected.drop(columns="row").to_dict("records")
            assert reasons == [{name: scorer.plain(value) for name, value in one.items()} for one in own]
    assert [len(one) for one in ordered.reasons] == [len(one[:3]) for one in first.reasons]


def test_one_long_text_among_readings_takes_no_memory() -> None:
    """It is refused by its type, before cells are laid out as wide as the widest."""
    rows: list[list[Any]] = [[0.5] * 590 for _ in range(10)]
    rows[3][7] = "x" * 300_000
    tracemalloc.start()
    with pytest.raises(Problem, match="a reading is a number"):
        matrix(rows, 590)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    rows[3][7] = None
    found = matrix(rows, 590)
    assert (found.dtype, found.shape, np.argwhere(np.isnan(found)).tolist()) == (np.float64, (10, 590), [[3, 7]])


def test_a_fault_of_the_service_is_none_of_the_client(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw is a 500, whatever its type."""

    def broken(*_: object, **__: object) -> None:
        raise ValueError("shapes do not fit")

    monkeypatch.setattr("wafer.scoring.judge.judge", broken)
    told = client.post("/v1/score", json={"wafers": [{"readings": ROWS[0]}]})
    assert (told.status_code, told.json()["type"]) == (500, "urn:wafer:problem:fault")
