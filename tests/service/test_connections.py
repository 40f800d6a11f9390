"""Connections on which nobody asks anything: let go of in time, on a real small server."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from wafer.errors import SettingsError
from wafer.service import app
from wafer.service.core import Options

SECONDS = 0.8
ASK = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def slowly(scope: Any, receive: Any, send: Any) -> None:
    """Answers /slow after one and a half times the time that a head may take, everything else at once."""
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5 * SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A connection to a server that waits less than a second for a head."""
    monkeypatch.setattr(app, "SECONDS_FOR_A_HEAD", SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(slowly, http=app._Patient, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with socket.create_connection(listening.getsockname(), timeout=5) as connection:
                yield connection
        finally:
            server.should_exit = True
            thread.join()


def answered(connection: socket.socket, asked: bytes) -> None:
    connection.sendall(asked)
    told = b""
    while not told.endswith(b"ok"):
        more = connection.recv(1000)
        assert more, told
        told += more


def test_a_connection_that_stops_within_a_head_is_let_go_of(connection: socket.socket) -> None:
    """On a kept-alive one, too, however many bytes of the next head have come."""
    answered(connection, ASK)
    began = time.monotonic()
    connection.sendall(ASK[:1])
    time.sleep(SECONDS / 2)
    connection.sendall(ASK[1:9])
    assert connection.recv(1000) == b""
    assert SECONDS * 0.9 < time.monotonic() - began < 4 * SECONDS


def test_a_connection_that_is_used_is_kept(connection: socket.socket) -> None:
    """Through many requests, and through one whose answer takes long."""
    for _ in range(4):
        answered(connection, ASK)
        time.sleep(SECONDS * 0.4)
    answered(connection, ASK.replace(b"/ ", b"/slow ", 1))
    answered(connection, ASK)


def test_what_is_not_http_is_refused_as_a_problem(connection: socket.socket) -> None:
    """The connection ends with a problem document."""
    connection.sendall(b"hello there\r\n\r\n")
    told = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"content-type: application/problem+json" in head.lower()
    document = json.loads(body)
    assert (document["type"], document["status"]) == ("urn:wafer:problem:bad-request", 400)
    assert document["detail"] == "Invalid HTTP request received: it is not HTTP"


def test_an_answer_is_sent_at_once() -> None:
    """Without waiting for what else might come, which would cost 40 ms an answer: head and body are sent apart."""

    async def accepted() -> int:
        found: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        with app.listening(Options(port=0)) as taken:
            async with await asyncio.start_server(lambda _, writer: found.set_result(writer), sock=taken):
                _, client = await asyncio.open_connection(*taken.getsockname())
                server = await found
                client.close()
                server.close()
                return int(server.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    assert asyncio.run(accepted()) == 1


def test_a_port_that_is_taken_is_told() -> None:
    """In a sentence that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = rf"port {port} of 127.0.0.1 cannot be listened on \(Address already in use\): choose another by --port"
        with pytest.raises(SettingsError, match=told):
            app.listening(Options(port=port))
