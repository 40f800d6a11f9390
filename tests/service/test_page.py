"""The pages as a browser gets them: what they hold, who may see them, and that nothing becomes markup by accident."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response

from tests.service.conftest import HOST, batch_file, make_place, ready
from wafer import steps
from wafer.contract.facts import read_delivery
from wafer.contract.suites import Verdict
from wafer.intake.quarantine import Quarantine
from wafer.service.app import create_app
from wafer.service.core import Options
from wafer.service.page.pictures import plot_versions
from wafer.service.page.views import nested
from wafer.service.sessions import COOKIE
from wafer.service.tokens import SECONDS_KNOWN
from wafer.settings import Settings
from wafer.workspace import Workspace

HTML = {"Accept": "text/html,application/xhtml+xml"}
PAGES = {"/": "Today", "/deliver": "Deliver", "/runs": "Runs", "/quality": "Quality", "/quarantine": "Quarantine"}
BAD = "wafer_07022026_083000.csv"


def shown(client: TestClient, address: str, status: int = 200) -> str:
    """The text of a page."""
    answer = client.get(address, headers=HTML)
    assert answer.status_code == status, answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy and "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert re.findall(r"<script(?![^>]* src=)", answer.text) == []
    return answer.text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, fitted: Path, mongodb_url: str) -> Settings:
    """A project of these tests' own, whose runs and alarms nobody else counts."""
    return make_place(tmp_path_factory.mktemp("fab"), empty_database, fitted, mongodb_url, "page")


@pytest.fixture(scope="module")
def alarmed(client: TestClient, place: Settings) -> list[dict[str, Any]]:
    """The alarms of a batch that a run has scored, and a file in the quarantine whose cell looks like markup."""
    name = "wafer_05022026_083000.csv"
    csv = {"Content-Type": "text/csv"}
    assert (
        client.post("/v1/batches", params={"name": name}, content=batch_file(2001, 24), headers=csv).status_code == 201
    )
    bad = batch_file(2101).replace(b"\nWafer-2102,", b"\nWafer-2102,<img src=x onerror=alert(1)>", 1)
    told = client.post("/v1/batches", params={"name": BAD}, content=bad, headers=csv)
    assert (told.status_code, told.json()["verdict"]) == (200, "quarantined"), told.text
    with Workspace(place) as workspace, steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction")
        assert steps.predict(workspace, run, new_only=True) is not None
    found: list[dict[str, Any]] = client.get("/v1/alarms").json()
    assert found
    return found


def test_each_page_is_there(client: TestClient, alarmed: list[dict[str, Any]]) -> None:
    """With its heading, the others one click away, and what is wrong in words."""
    for address, heading in PAGES.items():
        text = shown(client, address)
        assert f"<h1>{heading}" in text and f'href="{address}" aria-current="page"' in text
        assert all(f'href="{other}"' in text for other in PAGES)
    assert "no wafer &#39;Wafer-0&#39; is stored" in shown(client, "/wafers/Wafer-0", 404)
    assert "nothing is at this address" in shown(client, "/there/is/none", 404)


def test_today_tells_what_to_do_and_lists_the_alarms(client: TestClient, alarmed: list[dict[str, Any]]) -> None:
    """The most probable first, each with its reasons and buttons; a closed one moves on and keeps its trail."""
    text = shown(client, "/")
    assert "What to do now" in text and ">1 file waits</a> for review" in text
    listed = re.findall(r'<tr tabindex="0" data-alarm="(.*?)">', text)
    assert listed == [one["id"] for one in alarmed]
    first = alarmed[0]["id"]
    assert client.post(
        f"/v1/alarms/{first}", json={"state": "closed", "outcome": "undecided", "comment": "<b>"}
    ).is_success
    assert first not in re.findall(r'data-alarm="(.*?)"', shown(client, "/"))
    closed = shown(client, "/?state=closed")
    assert first in closed and "undecided, local" in closed and "&lt;b&gt;" in closed


def test_a_wafer_shows_why_it_raised_an_alarm(client: TestClient, alarmed: list[dict[str, Any]]) -> None:
    """Verdict, reasons, monitoring and pictures of the sensors that are named."""
    name = alarmed[-1]["id"]
    text = shown(client, f"/wafers/{name}")
    assert "Alarm: open" in text and "Sensor-3" in text and ">faulty<" in text
    pictures = re.findall(r'src="(/pictures/[^"]+)"', text)
    assert pictures[0] == f"/pictures/sensors/{name}.png"
    for address in (*pictures, "/pictures/timeline.png", "/pictures/distances.png", "/pictures/versions.png"):
        answer = client.get(address.replace("&amp;", "&"))
        assert answer.status_code == 200 and answer.content.startswith(b"\x89PNG"), answer.text
    assert client.get("/pictures/sensors/Wafer-0.png").status_code == 404
    assert client.get(f"/pictures/chart/{name}.png?sensor=Sensor-99").status_code == 404


def test_the_quarantine_shows_what_came_as_text(client: TestClient, alarmed: list[dict[str, Any]]) -> None:
    """A cell that looks like markup is shown as text; a file that still breaks the agreement stays."""
    text = shown(client, "/quarantine")
    assert BAD in text and "&lt;img src=x" in text and "<img src=x" not in text
    (entry,) = (one for one in client.get("/v1/quarantine/prediction").json() if one["file"] == BAD)
    again = client.post(f"/v1/quarantine/prediction/{entry['id']}/release")
    assert (again.status_code, again.json()["verdict"]) == (200, "quarantined")
    assert client.post(f"/v1/quarantine/prediction/{'0' * 64}/release").status_code == 404
    assert client.post("/v1/quarantine/prediction/..%2f..%2fx/release").status_code == 404


def test_a_released_file_is_scored(place: Settings, tmp_path: Path) -> None:
    """What is accepted after review lies where runs find it; other bytes under its name are refused before."""
    with Workspace(place) as workspace, TestClient(create_app(workspace, Options(seconds=0.2)), HOST) as client:
        ready(client)
        name, data = "wafer_09022026_083000.csv", batch_file(2301)
        path = tmp_path / name
        path.write_bytes(data)
        delivery = read_delivery(path, workspace.form("prediction"), name)
        entry = Quarantine(place.storage.place("quarantine/prediction")).keep(delivery, Verdict(name, False))
        address = f"/v1/quarantine/prediction/{entry.digest}/release"
        place.storage.write_bytes(f"raw/prediction/{name}", b"something else")
        assert client.post(address).status_code == 409
        place.storage.place(f"raw/prediction/{name}").unlink()
        assert client.post(address).json()["verdict"] == "accepted"
        assert place.storage.place(f"raw/prediction/{name}").read_bytes() == data


def test_another_threshold_is_answered_from_stored_scores(client: TestClient) -> None:
    """More alarms catch no fewer faults; costs are taken, and what makes no sense is refused."""
    found = [client.get(f"/v1/models/champion/what-if?alarm_rate={rate}").json() for rate in (0.02, 0.5)]
    caught = [next(w["recall"] for w in one["ways"] if w["way"] == "this model") for one in found]
    assert caught[0] < caught[1] and found[0]["columns"] and found[0]["sentences"]
    assert client.get("/v1/models/champion/what-if?alarm_rate=2").status_code == 422
    assert client.post("/v1/models/champion/retune", json={"cost_missed_fault": 50}).status_code == 422
    unknown = client.get("/v1/models/champion/what-if")
    assert unknown.status_code == 409, "no waiting helps"
    assert "does not tell which alarms another policy would have raised: train it again" in unknown.json()["detail"]


def test_a_run_is_shown_and_followed(client: TestClient, alarmed: list[dict[str, Any]]) -> None:
    """Its state, steps and pages; its events end with it, and a run that there is not is told."""
    run = client.get("/v1/runs").json()[0]["id"]
    text = shown(client, f"/runs/{run}")
    assert "State: <b" in text and "Steps" in text
    events = client.get(f"/v1/runs/{run}/events")
    assert events.headers["content-type"].startswith("text/event-stream")
    assert events.text.startswith('data: {"state": "finished"')
    assert client.get("/v1/runs/none/events").status_code == 404
    assert "no run has the id" in shown(client, "/runs/none", 404)


@pytest.fixture
def visitor(place: Settings) -> Iterator[TestClient]:
    """A browser without a session at a service that asks for tokens; tokens lie in its state."""
    with Workspace(place) as workspace:
        app = create_app(workspace, Options(tokens=True, seconds=0.2))
        with TestClient(app, HOST, follow_redirects=False) as client:
            yield ready(client)


def log_in(client: TestClient, token: str, target: str = "/") -> Response:
    return client.post("/login", data={"token": token, "next": target})  # type: ignore[return-value]


def test_a_token_begins_a_session_and_its_end_ends_it(visitor: TestClient) -> None:
    """A page leads to the log-in, a wrong token is told, the cookie is for this site alone; revoked is at an end."""
    tokens = visitor.app.state.service.tokens  # type: ignore[attr-defined]
    made, token = tokens.create("night shift", ("read",))
    away = visitor.get("/runs", headers=HTML)
    assert (away.status_code, away.headers["Location"]) == (303, "/login?next=/runs")
    assert visitor.get("/runs").status_code == 401
    assert "no valid token" in log_in(visitor, "wafer_nonsense").text  # type: ignore[attr-defined]
    begun = log_in(visitor, token, "/runs")
    assert (begun.status_code, begun.headers["Location"]) == (303, "/runs")
    assert {"HttpOnly", "SameSite=strict"} <= set(begun.headers["Set-Cookie"].split("; "))
    page = shown(visitor, "/")
    assert "night shift" in page and "data-key" not in page, "it may read, and changes nothing"
    assert visitor.post("/v1/runs", json={"kind": "predict"}).status_code == 403
    assert visitor.post("/logout", headers={"Origin": "http://evil.example"}).status_code == 403
    assert visitor.post("/login", content=b"a" * 5000).status_code == 413
    assert visitor.post("/login", content=b"&".join([b"a=1"] * 9)).status_code == 422
    tokens.revoke(made.id)
    expired = time.monotonic() + SECONDS_KNOWN
    while visitor.get("/runs", headers=HTML).status_code == 200:
        assert time.monotonic() < expired + 60
    assert visitor.get("/runs", headers=HTML).headers["Location"] == "/login?next=/runs"


def test_after_the_log_out_a_cookie_is_worth_nothing(visitor: TestClient) -> None:
    """Even where somebody kept it; and a log-in never leads to another site."""
    _, token = visitor.app.state.service.tokens.create("day shift", ("read",))  # type: ignore[attr-defined]
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example"):
        assert log_in(visitor, token, elsewhere).headers["Location"] == "/"
    kept = visitor.cookies[COOKIE]
    assert visitor.post("/logout").status_code == 200
    visitor.cookies.set(COOKIE, kept)
    assert visitor.get("/", headers=HTML).status_code == 303


def test_metrics_of_a_version_are_nested_again_and_drawn() -> None:
    """As the training had them; a protocol without an AUC is left out of the plot."""
    found = nested({"shuffled.auc": 0.7, "shuffled.auc_low": 0.6, "shuffled.auc_high": 0.8, "t2.forward.auc": 0.5})
    assert found["t2"] == {"forward": {"auc": 0.5}}
    (axes,) = plot_versions([{"version": 4, **found}]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["shuffled"]
