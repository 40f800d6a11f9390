"""Who may ask for what: tokens and their scopes on every route, hosts, origins, sizes, rates, and the log of it."""

import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from tests.service.conftest import HOST, SCOPES, batch_file, ready
from wafer.errors import ParameterError, SettingsError
from wafer.service.app import create_app
from wafer.service.core import Options
from wafer.service.guard import Guard, Limits, Rates, is_loopback
from wafer.service.problems import KINDS
from wafer.service.tokens import SECONDS_KNOWN, Tokens
from wafer.settings import Settings
from wafer.storage import Storage
from wafer.workspace import Workspace

NEEDS = {
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /ping": None,
    "GET /health": None,
    "GET /version": None,
    "GET /v2/health/live": None,
    "GET /v2/health/ready": None,
    "GET /metrics": "read",
    "POST /v1/score": "score",
    "POST /invocations": "score",
    "GET /v2": "read",
    "GET /v2/models/{model}": "read",
    "GET /v2/models/{model}/versions/{version}": "read",
    "GET /v2/models/{model}/ready": "read",
    "GET /v2/models/{model}/versions/{version}/ready": "read",
    "POST /v2/models/{model}/infer": "score",
    "POST /v2/models/{model}/versions/{version}/infer": "score",
    "POST /v1/batches": "operate",
    "GET /v1/batches": "read",
    "GET /v1/batches/{batch}": "read",
    "GET /v1/batches/{batch}/predictions": "read",
    "GET /v1/wafers/{wafer:path}": "read",
    "GET /v1/models": "read",
    "GET /v1/models/champion": "read",
    "POST /v1/runs": "operate",
    "GET /v1/runs": "read",
    "GET /v1/runs/{run}": "read",
    "POST /v1/runs/{run}/cancel": "operate",
    "POST /v1/labels": "operate",
    "GET /v1/alarms": "read",
    "POST /v1/alarms/{wafer:path}": "operate",
    "GET /pages/{key:path}": "read",
    "GET /v1/quarantine/{kind}": "read",
    "POST /v1/quarantine/{kind}/{digest}/release": "operate",
    "GET /v1/models/champion/what-if": "read",
    "POST /v1/models/champion/retune": "operate",
    "GET /v1/runs/{run}/events": "read",
    "GET /": "read",
    "GET /wafers/{wafer:path}": "read",
    "GET /deliver": "read",
    "GET /runs": "read",
    "GET /runs/{run}": "read",
    "GET /quality": "read",
    "GET /quarantine": "read",
    "GET /login": None,
    "POST /logout": None,
    "GET /pictures/timeline.png": "read",
    "GET /pictures/distances.png": "read",
    "GET /pictures/sensors/{wafer:path}.png": "read",
    "GET /pictures/chart/{wafer:path}.png": "read",
    "GET /pictures/versions.png": "read",
}
"""The scope that each route needs; None: anybody may ask."""


def test_each_scope_on_each_route(guarded: TestClient) -> None:
    """Without a token 401, with another scope 403, with its own neither; what is public is answered to everybody.

    A body that no route takes keeps those that are let through from changing anything.
    """
    routes = {f"{m} {r.path}" for r in all_routes(guarded) for m in r.methods} - {"POST /login", "GET /static/{name}"}
    assert routes == NEEDS.keys()
    known = guarded.app.state.known  # type: ignore[attr-defined]
    for route, needed in NEEDS.items():
        method, path = route.split(" ")
        path = re.sub(r"\{.*?\}", "none", path)
        for scope in (None, "wrong", *SCOPES):
            token = {None: None, "wrong": f"wafer_{'0' * 12}_{'A' * 43}"}.get(scope, known.get(scope))
            headers = {"Content-Type": "text/none"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
            status = guarded.request(method, path, headers=headers).status_code
            if needed is None:
                assert status == 200, (route, scope)
            elif scope in (None, "wrong"):
                assert status == 401, (route, scope)
            else:
                assert (status == 403) == (scope != needed), (route, scope, status)


def all_routes(client: TestClient) -> Iterator[APIRoute]:
    def below(routes: Any) -> Iterator[APIRoute]:
        for route in routes:
            if isinstance(route, APIRoute):
                yield route
            elif hasattr(route, "original_router"):
                yield from below(route.original_router.routes)

    return below(client.app.routes)  # type: ignore[attr-defined]


def test_a_token_is_told_once_and_kept_as_a_digest(tmp_path: Any) -> None:
    """Neither the storage nor the list has the secret; revoked and expired ones are worthless."""
    tokens = Tokens(Storage(str(tmp_path)))
    kept, text = tokens.create("scada", ("score", "read"), days=1)
    assert tokens.caller(text) is not None
    assert tokens.caller(text[:-1] + ("A" if text[-1] != "A" else "B")) is None
    secret = text.rpartition("_")[2] if text.count("_") == 2 else text[19:]
    assert not [file for file in tmp_path.rglob("*.json") if secret in file.read_text()]
    assert [(one.name, one.scopes, one.valid) for one in tokens.all()] == [("scada", ("read", "score"), True)]
    tokens.revoke(kept.id)
    assert tokens.caller(text) is None
    _, old = tokens.create("old", ("read",), days=-1)
    assert tokens.caller(old) is None
    for name, scopes in ("", ("read",)), ("a\nb", ("read",)), ("a", ()), ("a", ("root",)):
        with pytest.raises(ParameterError):
            tokens.create(name, scopes)
    with pytest.raises(ParameterError):
        tokens.revoke("../../secret")


def test_a_token_revoked_elsewhere_is_worthless_within_seconds(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process knows of a token does not outlast SECONDS_KNOWN."""
    here, elsewhere = Tokens(Storage(str(tmp_path))), Tokens(Storage(str(tmp_path)))
    kept, text = elsewhere.create("a", ("read",))
    assert here.caller(text) is not None
    elsewhere.revoke(kept.id)
    later = time.monotonic() + SECONDS_KNOWN + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert here.caller(text) is None


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Host": "evil.example"}, "wrong-host"),
        ({"Host": "127.0.0.1.evil.example:80"}, "wrong-host"),
        ({"Host": "127.0.0.1@evil.example"}, "wrong-host"),
        ({"Host": ""}, "wrong-host"),
        ({"Origin": "http://evil.example"}, "cross-origin"),
        ({"Origin": "null"}, "cross-origin"),
        ({"Origin": "http://127.0.0.1:9999"}, "cross-origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "cross-origin"),
        ({"Sec-Fetch-Site": "same-site"}, "cross-origin"),
        ({"Content-Encoding": "gzip"}, "media-type"),
        ({"Content-Encoding": "deflate, gzip"}, "media-type"),
        ({"Content-Length": "10737418240"}, "too-large"),
        ({"Content-Length": "16777217"}, "too-large"),
        ({"Content-Length": "-1"}, "bad-request"),
    ],
)
def test_what_is_refused_before_any_route(client: TestClient, headers: dict[str, str], kind: str) -> None:
    """A problem of its kind, with the headers that every answer has; nothing of the body is read."""
    told = client.post("/v1/score", content=b"{}", headers={"Content-Type": "application/json", **headers})
    assert (told.status_code, told.json()["type"]) == (KINDS[kind][0], f"urn:wafer:problem:{kind}")
    assert told.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in told.headers["Content-Security-Policy"]


def test_probes_ask_by_any_name(client: TestClient) -> None:
    """Whether it lives and is ready is told to whoever asks by an address; nothing else is."""
    asked = {path: client.get(path, headers={"Host": "10.1.2.3:8321"}) for path in ("/healthz", "/readyz", "/version")}
    assert {path: told.status_code for path, told in asked.items()} == {
        "/healthz": 200,
        "/readyz": 200,
        "/version": 400,
    }


@pytest.mark.parametrize("host", ["127.0.0.1:8321", "localhost", "LOCALHOST:1", "[::1]:8321"])
def test_own_names_are_answered(client: TestClient, host: str) -> None:
    """Each name of the loopback interface, with any port, and requests from its own pages."""
    assert client.get("/healthz", headers={"Host": host}).text == "ok"
    own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin", "Content-Type": "text/none"}
    assert client.post("/v1/score", headers=own).status_code == 415


def test_no_other_site_may_read(client: TestClient) -> None:
    """No answer has a header of CORS, not even that to a preflight."""
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for told in client.options("/v1/score", headers=asked), client.get("/v1/models", headers=asked):
        assert not [name for name in told.headers if name.startswith("access-control")]


def test_an_endless_stream_is_cut_off(place: Settings) -> None:
    """A body without a length is read up to the limit and no further, and all bodies together have one too."""

    def endless() -> Iterator[bytes]:
        yield from (b"x" * 1000 for _ in range(100))

    limits = Limits(body=10_000, file=50_000, held=30_000, seconds=5.0)
    with Workspace(place) as workspace, TestClient(create_app(workspace, Options(limits=limits)), HOST) as client:
        ready(client)
        for path in "/v1/score", "/v1/batches?name=a.csv":
            told = client.post(path, content=endless(), headers={"Content-Type": "text/csv"})
            assert (told.status_code, told.headers["Connection"]) == (413, "close")
        assert client.post("/v1/runs", json={"kind": "x" * 20_000}).status_code == 413
        guard = client.app.middleware_stack  # type: ignore[attr-defined]
        while not isinstance(guard, Guard):
            guard = guard.app
        assert guard._held == 0
        guard._held = 25_000  # by others
        told = client.post("/v1/score", content=b"x" * 9_000, headers={"Content-Type": "text/csv"})
        assert (told.status_code, guard._held) == (503, 25_000)


def test_a_client_has_so_many_requests_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The burst at once, then the rate; others are not concerned, and no more clients are remembered than agreed."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rates = Rates(Limits(rate=2.0, burst=5.0))
    assert [rates.take("a") for _ in range(7)] == [True] * 5 + [False] * 2
    assert rates.take("b")
    now = 1.0
    assert [rates.take("a") for _ in range(3)] == [True, True, False]
    for number in range(20_000):
        rates.take(str(number))
    assert len(rates._buckets) == 10_000


def test_a_trusted_proxy_speaks_for_its_clients(place: Settings) -> None:
    """Each client behind it has a rate of its own; from anybody else the header is worth nothing."""
    limits = Limits(rate=0.001, burst=1.0)

    def asked(client: TestClient, *clients: str) -> list[int]:
        return [client.get("/healthz", headers={"X-Forwarded-For": one}).status_code for one in clients]

    with Workspace(place) as workspace:
        options = Options(limits=limits, proxies=("10.0.0.0/8",))
        clients = "192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.9, 192.0.2.1, 10.1.1.1"
        with TestClient(create_app(workspace, options), HOST, client=("10.0.0.9", 1)) as client:
            assert asked(client, *clients) == [200, 200, 429, 429]
        with TestClient(create_app(workspace, options), HOST, client=("192.0.2.77", 1)) as client:
            assert asked(client, *clients) == [200, 429, 429, 429]
        with pytest.raises(SettingsError, match=r"an address or a network such as 10\.0\.0\.0/8: 'proxy' does not"):
            create_app(workspace, Options(proxies=("proxy",)))


def test_without_tokens_only_this_machine_is_served(place: Settings) -> None:
    """An address that others reach asks for tokens."""
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "fab.example")] == [False] * 4
    with Workspace(place) as workspace, pytest.raises(SettingsError, match="tokens cannot be left out"):
        create_app(workspace, Options(host="0.0.0.0"))


def test_log_lines_name_their_request_and_hold_no_secret(guarded: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """One line a request with its name, method, path, status and caller; never the token."""
    token = guarded.app.state.known["read"]  # type: ignore[attr-defined]
    logging.getLogger("wafer").propagate = True
    with caplog.at_level(logging.INFO, "wafer"):
        told = guarded.get("/v1/models?token=h1dden", headers={"Authorization": f"Bearer {token}"})
    # by record: one may reach the handler twice, through handlers that other tests have set up
    records = {id(one): one for one in caplog.records if one.name == "wafer.service"}
    (line,) = [one.getMessage() for one in records.values()]
    assert re.fullmatch(rf"GET /v1/models 200 [\d.]+ ms read \[{told.headers['X-Request-Id']}\]", line)
    assert token not in caplog.text
    assert "h1dden" not in caplog.text


def test_a_fault_is_told_without_what_it_is(place: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Status 500 as a problem document; the log has the error under the request's name."""
    logging.getLogger("wafer").propagate = True
    with Workspace(place) as workspace:
        app = create_app(workspace, Options())

        @app.get("/broken")
        def broken() -> None:
            raise RuntimeError("s3cret inside")

        @app.get("/gone")
        def gone() -> None:
            raise ConnectionRefusedError("s3cret server")

        with TestClient(app, HOST) as client, caplog.at_level(logging.WARNING, "wafer"):
            told = client.get("/broken")
            assert (told.status_code, told.json()["type"]) == (500, "urn:wafer:problem:fault")
            assert "s3cret" not in told.text
            told = client.get("/gone")
            assert (told.status_code, told.headers["Retry-After"]) == (503, "5")
    assert "s3cret inside" in caplog.text


def test_where_nothing_is_and_what_is_not_allowed(client: TestClient) -> None:
    """404 and 405 are problem documents too; tricks with paths lead nowhere."""
    assert client.get("/none").json()["type"] == "urn:wafer:problem:not-found"
    told = client.delete("/v1/score")
    assert (told.status_code, told.headers["Allow"], told.json()["type"]) == (405, "POST", "urn:wafer:problem:method")
    for path in (
        "/pages/../state",
        "/pages/state/x",
        "/pages/runs/..%2f..%2fstate",
        "/pages//etc/passwd",
        "/pages/service/tokens",
    ):
        assert client.get(path).status_code == 404, path
    for name in "../x.csv", "a/b.csv", ".hidden", "a%00.csv", "x" * 200, "", "a\nb.csv":
        told = client.post(
            "/v1/batches", params={"name": name}, content=batch_file(), headers={"Content-Type": "text/csv"}
        )
        assert told.status_code == 422, name
    for run in "../../x", "..", "%2e%2e", "training-", "x" * 3000:
        assert client.get(f"/v1/runs/{run}").status_code in (404, 307), run
