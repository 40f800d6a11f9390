"""A proxy on loopback that stands before a real server and spoils what a fault says; it also ends TLS.

It knows as much of a protocol as is needed to see whole requests: HTTP by its head and length, MongoDB's by the length
that each message begins with.
"""

import asyncio
import re
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Literal

import bson

SAID = "as the test has it"
Act = Literal["answer", "cut", "hold", "lose", "halve", "delay", "strike"]
CODES = {403: "AccessDenied", 409: "ConditionalRequestConflict", 412: "PreconditionFailed", 500: "InternalError"}
CODES |= {503: "SlowDown"}
MONGODB_CODES = {
    13: "not authorized on wafer to execute command",
    10107: "not primary",
    14031: "available disk space is low",
}


@dataclass
class Fault:
    """What happens to `times` of the requests in whose first kilobyte the pattern `at` is found.

    `answer` gives a status (HTTP's, or the code of an error of MongoDB's) without asking the server, `cut` ends the
    connection, `hold` gives no answer, `lose` lets the server do it and ends the connection instead of the answer,
    `halve` ends it within the answer, `delay` waits for `seconds` first, `strike` does something to the server, and
    then passes the request on.
    """

    at: bytes
    act: Act
    times: int = 10**9
    status: int = 500
    seconds: float = 1.0
    strike: Callable[[], None] = lambda: None
    struck: int = field(default=0, init=False)


class Proxy:
    """Listens at a port of its own while the block runs: `with Proxy(port, "http") as proxy`, then `proxy.port`."""

    def __init__(self, to: int, speaks: Literal["http", "mongodb", "any"], tls: ssl.SSLContext | None = None) -> None:
        self.to = to
        self.fault: Fault | None = None
        self.port = 0
        self._read = {"http": _http_request, "mongodb": _message, "any": _some}[speaks]
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        started = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        server = asyncio.run_coroutine_threadsafe(started, self._loop).result(10)
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError), closing(back):
            server, forth = await asyncio.open_connection("127.0.0.1", self.to)
            answers = _Answers(server, back)
            try:
                while (request := await self._read(client)) and await self._spoil(request, answers, forth):
                    forth.write(request)
                    await forth.drain()
            finally:
                answers.bringing.cancel()
                forth.close()

    async def _spoil(self, request: bytes, answers: "_Answers", forth: asyncio.StreamWriter) -> bool:
        """Do what the fault says; whether the request is to be passed on."""
        fault = self.fault
        if fault is None or fault.struck >= fault.times or not re.search(fault.at, request[:1024], re.DOTALL):
            return True
        fault.struck += 1
        if fault.act == "answer":
            answers.back.write((_refusal if self._read is _message else _status)(request, fault.status))
            await answers.back.drain()
            return False
        if fault.act == "hold":
            await asyncio.sleep(3600)
        elif fault.act in ("lose", "halve"):
            answers.spoiled = fault.act
            forth.write(request)
            await answers.bringing
        elif fault.act == "delay":
            await asyncio.sleep(fault.seconds)
        elif fault.act == "strike":
            await asyncio.to_thread(fault.strike)
        return fault.act in ("delay", "strike")


class _Answers:
    """What the server says, brought back to the client, or spoiled."""

    def __init__(self, server: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self.back = back
        self.spoiled: Act | None = None
        self._server = server
        self.bringing = asyncio.ensure_future(self._bring())

    async def _bring(self) -> None:
        with closing(self.back), suppress(OSError):
            while data := await self._server.read(65536):
                if self.spoiled is not None:
                    head, empty, body = data.partition(b"\r\n\r\n")
                    self.back.write(head + empty + body[: len(body) // 2] if self.spoiled == "halve" else b"")
                    await self.back.drain()
                    break
                self.back.write(data)
                await self.back.drain()


def _status(request: bytes, status: int) -> bytes:
    said = f"<Error><Code>{CODES[status]}</Code><Message>{SAID}</Message></Error>"
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(said)}\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/xml\r\n\r\n{'' if request.startswith(b'HEAD ') else said}".encode()


def _refusal(request: bytes, code: int) -> bytes:
    """An OP_MSG that says no to a request."""
    said = b"\0\0\0\0\0" + bson.encode({"ok": 0.0, "errmsg": MONGODB_CODES[code], "code": code})
    return struct.pack("<iiii", 16 + len(said), 1, *struct.unpack_from("<i", request, 4), 2013) + said


async def _http_request(client: asyncio.StreamReader) -> bytes:
    try:
        head = await client.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    assert not re.search(rb"(?i)\r\ntransfer-encoding:", head), "a request without a length"
    return head + (await client.readexactly(int(length[1])) if length else b"")


async def _message(client: asyncio.StreamReader) -> bytes:
    size = await client.readexactly(4)
    return size + await client.readexactly(int.from_bytes(size, "little") - 4)


async def _some(client: asyncio.StreamReader) -> bytes:
    return await client.read(65536)
