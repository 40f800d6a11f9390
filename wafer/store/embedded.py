"""The embedded database: a MongoDB-protocol server that the project starts for itself.

The server (SecantusDB, a separate program) keeps its files in a folder and lives as long as somebody uses it. Users
hold a shared lock on `in-use.lock`; a small supervisor process, parent of the server, tries for that lock exclusively
every half second. When it gets it, nobody is left, and it stops the server. The kernel drops the locks of a process
that dies, however it dies, so a crash of the owner leaves no server behind.

Run as `python -m wafer.store.embedded FOLDER` this module is the supervisor.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wafer.errors import StoreError

SECONDS_TO_START = 60.0
SECONDS_BETWEEN_LOOKS = 0.5

_held: dict[Path, tuple[int, IO[bytes]]] = {}
_held_lock = threading.Lock()


@contextmanager
def embedded_server(folder: Path) -> Iterator[str]:
    """The URL of a database server whose files lie in `folder`, started if nobody runs it yet.

    May be nested and used from several threads and processes at once: all share one server.

    Raises:
        StoreError: the server program is not installed, or does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    _take(folder)
    try:
        yield f"mongodb://127.0.0.1:{_ensure_started(folder)}/?directConnection=true"
    finally:
        _release(folder)


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
            fcntl.flock(file, fcntl.LOCK_SH)
        _held[folder] = count + 1, file


def _release(folder: Path) -> None:
    with _held_lock:
        count, file = _held.pop(folder)
        if count > 1:
            _held[folder] = count - 1, file
        else:
            file.close()


def _ensure_started(folder: Path) -> int:
    """The port of the folder's server; whoever comes first starts it, the others wait for that."""
    with (folder / "start.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        port = _running_port(folder)
        if port is not None:
            return port
        with (folder / "server.log").open("ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "wafer.store.embedded", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            port = _running_port(folder)
            if port is not None:
                return port
            if supervisor.poll() is not None:
                break
            time.sleep(0.05)
        supervisor.terminate()
        supervisor.wait()
        raise StoreError(
            f"the embedded database in {folder} did not start within {SECONDS_TO_START:.0f} s; "
            f"its last words: {_last_line(folder / 'server.log')}; set MONGODB_URL to use another server"
        )


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


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "none"


def _supervise(folder: Path) -> int:
    """Run the server of `folder` until nobody holds its `in-use.lock`, then stop it."""
    alive = (folder / "supervisor.lock").open("ab")
    fcntl.flock(alive, fcntl.LOCK_EX)
    (folder / "server.json").unlink(missing_ok=True)
    program = shutil.which(
        "secantusd-py", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if program is None:
        print("secantusd-py is not installed (extra: embedded)", flush=True)  # noqa: T201 - goes to server.log
        return 2
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    data.mkdir(exist_ok=True)
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data), "--sync-on-commit"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.05)
        aside = folder / "server.json.part"
        aside.write_text(json.dumps({"port": port, "server": server.pid, "supervisor": os.getpid()}))
        aside.replace(folder / "server.json")
        with (folder / "in-use.lock").open("ab") as lock:
            while server.poll() is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                # a newcomer now waits for this lock, and finds no server.json once it has it
                (folder / "server.json").unlink(missing_ok=True)
                _stop(server)
        return server.returncode
    finally:
        (folder / "server.json").unlink(missing_ok=True)
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


if __name__ == "__main__":
    sys.exit(_supervise(Path(sys.argv[1])))
