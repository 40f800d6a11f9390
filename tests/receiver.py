"""A web server that a webhook's address leads to."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

SECRET = "h1dden-signing"


class Receiver:
    """A web server that keeps what it is told and answers as it is told to, at last with 204."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.silent_for = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.told.append((dict(self.headers), body))
                time.sleep(receiver.silent_for)
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/services/h1dden-path"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The bodies that came."""
        return [json.loads(body) for _, body in self.told]

    @property
    def types(self) -> list[str]:
        """What they tell of."""
        return [message["type"] for message in self.messages]


@contextmanager
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver that the environment names."""
    receiver = Receiver()
    Thread(target=receiver.server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("WAFER_WEBHOOK_URL", receiver.address)
    monkeypatch.setenv("WAFER_WEBHOOK_SECRET", SECRET)
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
