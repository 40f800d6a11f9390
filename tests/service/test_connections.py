"""Connections on which nobody asks anything: let go of in time, on a real small server."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from wafer.service import app

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
