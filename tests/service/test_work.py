"""Batches, labels, alarms, runs, wafers, models and metrics, on a real store and registry."""

import io
import os
import re
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from tests.conftest import REPOSITORY
from tests.service.conftest import SENSORS, batch_file
from wafer import steps
from wafer.service import metrics
from wafer.service.core import Service
from wafer.service.jobs import ENDED, Job, arguments
from wafer.service.routes_data import as_csv
from wafer.settings import Settings
from wafer.workspace import Workspace

CSV = {"Content-Type": "text/csv"}


def service(client: TestClient) -> Service:
    found: Service = client.app.state.service  # type: ignore[attr-defined]
    return found


def deliver(client: TestClient, name: str, data: bytes, kind: str = "prediction") -> Any:
    return client.post("/v1/batches", params={"name": name, "kind": kind}, content=data, headers=CSV)


@pytest.fixture(scope="module")
def scored(client: TestClient, place: Settings) -> dict[str, Any]:
    """A batch that was delivered through the service and scored by a run; what its delivery said."""
    told = deliver(client, "wafer_31012026_083000.csv", batch_file(1001, 16))
    assert told.status_code == 201, told.text
    with Workspace(place) as workspace, steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction")
        assert steps.predict(workspace, run, new_only=True) is not None
    found: dict[str, Any] = told.json()
    return found


def test_a_wafer_is_looked_up_whatever_its_name(client: TestClient) -> None:
    """One that reads like a path, too, by the API and on its page."""
    for told in (
        client.get("/v1/wafers/Lot%2F7%231").json(),
        client.post("/v1/alarms/Lot%2F7%231", json={"state": "acknowledged"}).json(),
    ):
        assert (told["type"], "'Lot/7#1'" in told["detail"]) == ("urn:wafer:problem:not-found", True), told
    assert "no wafer 'Lot/7#1' is stored" in client.get("/wafers/Lot%2F7%231").text


def test_a_batch_is_taken_in_once(client: TestClient, place: Settings) -> None:
    """201 and where it is; the same bytes again 200 and nothing changes; other bytes under its name 409."""
    data, name = batch_file(101), "wafer_01012026_083000.csv"
    told = deliver(client, name, data)
    assert (told.status_code, told.json()["verdict"], told.json()["stored"]) == (201, "accepted", 8), told.text
    assert told.headers["Location"] == f"/v1/batches/{told.json()['id']}"
    assert place.storage.place(f"raw/prediction/{name}").read_bytes() == data
    again = deliver(client, name, data)
    assert (again.status_code, again.json()["known"], again.json()["stored"]) == (200, True, 0)
    assert deliver(client, name, batch_file(151)).status_code == 409
    known = client.get(told.headers["Location"]).json()
    assert (known["file"], known["wafers"][0], known["scored"]) == (name, "Wafer-101", None)
    assert told.json()["id"] in [one["id"] for one in client.get("/v1/batches").json()]


def test_a_batch_that_breaks_the_agreement_is_quarantined_with_reasons(client: TestClient, place: Settings) -> None:
    """A verdict and no error: rule, line, column; its bytes lie in the quarantine and nowhere else."""
    data = batch_file(201).replace(b"Wafer-202", b"Lot-202")
    told = deliver(client, "wafer_02012026_083000.csv", data)
    assert (told.status_code, told.json()["verdict"]) == (200, "quarantined"), told.text
    (reason,) = told.json()["reasons"]
    assert (reason["rule"], reason["line"]) == ("ids_malformed", 3)
    assert place.storage.exists(f"quarantine/prediction/{told.json()['id']}.csv")
    assert not place.storage.exists("raw/prediction/wafer_02012026_083000.csv")
    assert client.get(f"/v1/batches/{told.json()['id']}").status_code == 404
    bomb = deliver(client, "wafer_03012026_083000.csv", b"\x1f\x8b" + bytes(1000))
    assert (bomb.status_code, bomb.json()["verdict"]) == (200, "quarantined")


def test_predictions_in_three_formats(client: TestClient, scored: dict[str, Any]) -> None:
    """The same rows as JSON, CSV and Parquet; another format is refused, an unknown batch is not there."""
    path = f"/v1/batches/{scored['id']}/predictions"
    rows = client.get(path).json()
    assert [one["Wafer"] for one in rows] == [f"Wafer-{number}" for number in range(1001, 1017)]
    assert rows[0]["Prediction"] == 1
    csv = pd.read_csv(io.StringIO(client.get(path, params={"format": "csv"}).text))
    parquet = pd.read_parquet(io.BytesIO(client.get(path, params={"format": "parquet"}).content))
    for frame in csv, parquet:
        assert frame["probability"].tolist() == [one["probability"] for one in rows]
    assert client.get(path, params={"format": "xlsx"}).status_code == 422
    assert client.get(f"/v1/batches/{'0' * 64}/predictions").status_code == 404


def test_an_id_is_no_formula_in_a_csv() -> None:
    """Text that a spreadsheet would compute is marked as text; numbers stay numbers."""
    ids = ["=1+1", "+1", "-1", "@x", "\tx", "Wafer-1", None]
    lines = as_csv(pd.DataFrame({"Wafer": ids, "probability": [-0.5] * 7})).splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "Wafer-1", ""]
    assert all(line.endswith(",-0.5") for line in lines[1:])


def test_all_that_is_known_of_a_wafer(client: TestClient, scored: dict[str, Any]) -> None:
    """Its file, readings by sensor, verdicts and alarm; one that is not stored is not there."""
    told = client.get("/v1/wafers/Wafer-1001").json()
    assert (told["file"], told["label"], told["batch"]) == ("wafer_31012026_083000.csv", None, scored["id"])
    assert list(told["readings"]) == SENSORS
    assert (told["predictions"][0]["model_version"], told["alarm"]["state"]) == (1, "open")
    assert client.get("/v1/wafers/Wafer-1002").json()["alarm"] is None
    for wafer in "Wafer-0", "<script>", "..%2f..%2fx", "a" * 3000:
        assert client.get(f"/v1/wafers/{wafer}").status_code == 404


def test_an_alarm_goes_from_open_to_closed_and_becomes_a_label(client: TestClient, scored: dict[str, Any]) -> None:
    """Each move is kept with who and when; the outcome is the wafer's label, by the same way as a file of labels."""

    def move(state: str, **more: str) -> Any:
        return client.post("/v1/alarms/Wafer-1009", json={"state": state, **more})

    (open_one,) = [one for one in client.get("/v1/alarms").json() if one["id"] == "Wafer-1009"]
    assert (open_one["state"], open_one["batch"]) == ("open", scored["id"])
    assert move("closed").status_code == 409  # without an outcome
    assert move("acknowledged", outcome="good").status_code == 409
    assert move("open").status_code == 422
    told = move("acknowledged", comment="<b>look</b>")
    assert (told.status_code, told.json()["state"]) == (200, "acknowledged"), told.text
    assert move("acknowledged").status_code == 409
    runs = client.get("/v1/runs").json()
    told = move("closed", outcome="faulty", comment="particle")
    assert client.get("/v1/runs").json() == runs, "what is done alarm by alarm fills no list of runs"
    assert told.status_code == 200, told.text
    trail = [(one["number"], one["state"], one["outcome"], one["who"]) for one in told.json()["trail"]]
    assert trail == [(1, "acknowledged", None, "local"), (2, "closed", "faulty", "local")]
    assert move("acknowledged").status_code == 409
    assert client.get("/v1/wafers/Wafer-1009").json()["label"] == 1
    assert [one["id"] for one in client.get("/v1/alarms", params={"state": "closed"}).json()] == ["Wafer-1009"]
    assert "Wafer-1009" not in [one["id"] for one in client.get("/v1/alarms").json()]
    assert client.post("/v1/alarms/Wafer-1002", json={"state": "acknowledged"}).status_code == 404


def test_labels_come_later(client: TestClient, scored: dict[str, Any]) -> None:
    """As JSON or as the agreed CSV, once each; what contradicts or is not stored is told."""
    sent = {"labels": {"Wafer-1003": 1, "Wafer-1004": -1, "Wafer-9": 1}}
    told = client.post("/v1/labels", json=sent).json()
    assert (told["wafers"], told["labelled"], told["unknown"]) == (3, 2, 1)
    assert "Wafer-9" in told["complaints"][0]
    assert client.post("/v1/labels", content="Wafer,Good/Bad\nWafer-1003,-1\n", headers=CSV).json()["conflicts"] == 1
    assert client.get("/v1/wafers/Wafer-1003").json()["label"] == 1
    refused = client.post("/v1/labels", content="no labels\n", headers=CSV)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:wafer:problem:unusable")
    for body in {}, {"labels": {}}, {"labels": {"a": 2}}, {"labels": {"a": True}}:
        assert client.post("/v1/labels", json=body).status_code == 422, body


def test_models_and_the_champion(client: TestClient) -> None:
    """The versions of the registry, and which one scores by which decision."""
    (only,) = client.get("/v1/models").json()
    assert (only["version"], "champion" in only["aliases"]) == (1, True)
    told = client.get("/v1/models/champion")
    assert (told.json()["version"], told.json()["decision"]["reason"]) == (1, "the first")
    assert told.json()["metrics"]["forward.auc"] == 0.9


def test_runs_of_the_storage_are_told(client: TestClient, scored: dict[str, Any]) -> None:
    """With state, steps and what came of them, from newest to oldest."""
    listed = client.get("/v1/runs").json()
    (run,) = [one["run"] for one in listed if one["kind"] == "prediction"]
    told = client.get(f"/v1/runs/{run}").json()
    assert (told["state"], [step["step"] for step in told["steps"]]) == ("finished", ["ingest-prediction", "predict"])
    assert "wafers scored by version 1" in " ".join(told["told"])
    page = client.get(told["pages"][0])
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert client.get("/v1/runs/prediction-20200101-000000-000").status_code == 404


def test_a_run_takes_its_own_parameters_alone(client: TestClient) -> None:
    """Unknown kinds, strange parameters and paths are refused before anything is started."""
    for body in (
        {},
        {"kind": "delete"},
        {"kind": "train", "raw": "/etc"},
        {"kind": "train", "new_only": True},
        {"kind": "ingest", "of": "/etc"},
        {"kind": "predict", "new_only": "--raw=/etc"},
    ):
        assert client.post("/v1/runs", json=body).status_code == 422, body
    assert arguments("predict", {"new_only": True}) == ["predict", "--new-only"]
    assert arguments("ingest", {"of": "training"}) == ["ingest", "--kind", "training"]
    assert arguments("train", {"force": False}) == ["train"]


def test_a_run_whose_process_is_gone_is_lost(client: TestClient) -> None:
    """Neither running for ever nor a success; it cannot be cancelled any more."""
    jobs, number = service(client).jobs, "0b9f2d6e-1111-4222-8333-444455556666"
    owner = {"host": os.uname().nodename, "pid": 2**22 - 1, "born": 1.0}
    jobs._write(Job(number, "train", {}, "somebody", "2020-01-01T00:00:00+00:00", owner=owner))
    told = client.get(f"/v1/runs/{number}").json()
    assert (told["state"], told["error"]) == ("lost", "its process is gone, and left no word")
    assert client.post(f"/v1/runs/{number}/cancel").status_code == 409
    assert number in [one["id"] for one in client.get("/v1/runs").json()]


@pytest.mark.slow
def test_a_run_that_fails_is_told_with_its_reason(client: TestClient) -> None:
    """202 and its address; while it goes on no second one; then failed, in words; it is never a success."""
    told = client.post("/v1/runs", json={"kind": "ingest", "of": "training"})
    assert (told.status_code, told.json()["state"]) == (202, "starting"), told.text
    assert client.post("/v1/runs", json={"kind": "ingest"}).status_code == 409
    address, deadline = told.headers["Location"], time.monotonic() + 120
    while (now := client.get(address).json())["state"] not in ENDED and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (now["state"], now["work"]) == ("failed", None)
    assert "raw/training" in now["error"]


def test_metrics_tell_what_was_done(client: TestClient, scored: dict[str, Any]) -> None:
    """Counters of what came, gauges of what is known; Prometheus' own parser reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    client.post("/v1/score", json={"wafers": [{"readings": [0.0] * 12}]})
    text = client.get("/metrics").text
    found = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples if not s.labels}
    assert found["wafer_champion_version"] == 1
    assert found["wafer_champion_age_seconds"] > 0
    assert "wafer_batch_t2_wafers" in found
    assert found["wafer_batch_wafers"] == 16
    assert 0 < found["wafer_batch_alarms"] <= 16
    assert found["wafer_batch_unknown_wafers"] >= 0
    for part in (
        'wafer_scored_wafers_total{protocol="v1"}',
        'wafer_delivered_batches_total{kind="prediction",verdict="accepted"}',
        'wafer_http_requests_total{method="POST",route="/v1/score",status="200"}',
        'wafer_runs{kind="prediction",state="finished"} 1.0',
    ):
        assert part in text, part


def test_the_metrics_in_the_docs_are_those_that_are_told() -> None:
    """The table of docs/service.md is the one that the code makes."""
    text = (REPOSITORY / "docs" / "service.md").read_text()
    assert metrics.table() in text


def test_the_description_is_whole(client: TestClient) -> None:
    """OpenAPI names for each route what it answers, with an example of each body; docs/service.md lists the routes."""
    described = client.get("/openapi.json").json()
    text = Path(REPOSITORY / "docs" / "service.md").read_text()
    for path, methods in described["paths"].items():
        assert f"`{path}`" in text or re.search(rf"`(GET|POST) {re.escape(path)}`", text), path
        for method, told in methods.items():
            assert told["summary"], (method, path)
            content = told.get("requestBody", {}).get("content", {})
            schema = [one for one in content.values() if "example" not in one and "$ref" not in one["schema"]]
            assert schema == [], (method, path)
