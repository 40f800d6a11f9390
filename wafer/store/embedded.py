"""The embedded database: a MongoDB-protocol server that the project starts for itself.

The server (SecantusDB, a separate program) keeps its files in a folder and lives as long as somebody uses it. Users
hold a shared lock on `in-use.lock`; a small supervisor process (`wafer.store.supervisor`), parent of the server, tries
for that lock exclusively every half second. When it gets it, nobody is left, and it stops the server. The kernel drops
the locks of a process that dies, however it dies, so a crash of the owner leaves no server behind.

The folder is its owner's alone, and the server asks for the password in its file `secret`.
"""

import fcntl
import json
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote_plus

from wafer.errors import StoreError
from wafer.lifeline import start_apart
from wafer.storage import private_folder, take_lock

USER = "wafer"
SECRET = "secret"
SECONDS_TO_START = 60.0

_held: dict[Path, tuple[int, IO[bytes]]] = {}
_held_lock = threading.Lock()


@contextmanager
def embedded_server(folder: Path, port: int = 0) -> Iterator[str]:
    """The URL of a database server whose files lie in `folder`, started if nobody runs it yet.

    It is started on `port`, or for 0 on one that the system chooses. May be nested and used from several threads and
    processes at once: all share one server. The URL holds the password; show it to nobody.

    Raises:
        StoreError: the server program is not installed, or does not start.
    """
    try:
        folder = private_folder(folder).resolve()
        _take(folder)
    except OSError as error:
        raise _not_started(folder, f"its folder cannot be used ({error.strerror or error})") from error
    try:
        try:
            url = url_of(_ensure_started(folder, port), (folder / SECRET).read_text())
        except OSError as error:
            raise _not_started(folder, f"its folder cannot be used ({error.strerror or error})") from error
        yield url
    finally:
        _release(folder)


def url_of(port: int, password: str | None = None) -> str:
    """The URL of a server on this machine, for a user with a password or for nobody in particular."""
    if password is None:
        return f"mongodb://127.0.0.1:{port}/?directConnection=true"
    return f"mongodb://{USER}:{quote_plus(password)}@127.0.0.1:{port}/?directConnection=true&authSource=admin"


def wait_until_stopped(folder: Path, seconds: float = 30.0) -> bool:
    """Wait until no server runs in `folder` any more; whether that came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not (folder / "supervisor.lock").exists() or not _supervised(folder):
            return True
        time.sleep(0.05)
    return False


def _supervised(folder: Path) -> bool:
    """Whether a supervisor lives, which holds `supervisor.lock` all its life."""
    with (folder / "supervisor.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _take(folder: Path) -> None:
    with _held_lock:
        count, file = _held.get(folder, (0, None))
        if file is None:
            file = (folder / "in-use.lock").open("ab")
            take_lock(file, folder, fcntl.LOCK_SH)
        _held[folder] = count + 1, file


def _release(folder: Path) -> None:
    with _held_lock:
        count, file = _held.pop(folder)
        if count > 1:
            _held[folder] = count - 1, file
        else:
            file.close()


def _ensure_started(folder: Path, wanted: int) -> int:
    """The port of the folder's server; whoever comes first starts it, the others wait for that."""
    with (folder / "start.lock").open("ab") as lock:
        take_lock(lock, folder, seconds=2 * SECONDS_TO_START)
        port = _running_port(folder)
        if port is not None:
            return port
        with (folder / "server.log").open("ab") as log:
            supervisor = start_apart([sys.executable, "-m", "wafer.store.supervisor", str(folder), str(wanted)], log)
        assert supervisor.stdout is not None
        with supervisor.stdout as told:
            news = json.loads(_first_line(told) or "{}")
        if "port" in news:
            return int(news["port"])
        supervisor.terminate()
        supervisor.wait()
        log_file = folder / "server.log"
        raise _not_started(
            folder, news.get("failed") or f"it said nothing for {SECONDS_TO_START:.0f} s, see {log_file}"
        )


def _first_line(told: IO[str]) -> str:
    """What the supervisor tells; nothing where it ends, or where it takes too long."""
    ready, _, _ = select.select([told], [], [], SECONDS_TO_START)
    return told.readline() if ready else ""


def _not_started(folder: Path, why: str) -> StoreError:
    return StoreError(f"the embedded database in {folder} does not start: {why}; or set MONGODB_URL to another server")


def _running_port(folder: Path) -> int | None:
    if not _supervised(folder):
        return None
    try:
        port = int(json.loads((folder / "server.json").read_text())["port"])
    except FileNotFoundError:
        return None
    return port if _answers(port) else None


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
