"""Whatever a process starts ends with it, however it ends.

`tie_children` puts a mark into the environment of this process, which everything that it starts from then on inherits,
and starts one small watcher. When the process is gone, also by `kill -9`, the watcher ends every process that still
carries the mark: pool workers, kernels, Prefect's own server, and what these started. Processes that several owners
share, such as the embedded database, are started with `unmarked()` and look after themselves.

Run as a script, `python lifeline.py MARK OWNER`, this module is the watcher.
"""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

import psutil

MARK = "WAFER_ENDS_WITH"
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_END = 5.0
SECONDS_TO_GIVE_UP = 30.0

_tied: set[int] = set()  # the process that was tied; a fork of it is another one


def tie_children() -> None:
    """Let everything that this process starts from now on end with it; once is enough, more does no harm."""
    if os.getpid() in _tied:
        return
    _tied.add(os.getpid())
    mark = secrets.token_hex(8)
    # no pipe that it could wait on: a fork of this process would hold that open
    subprocess.Popen(
        [sys.executable, "-P", __file__, mark, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=os.sep,
        env=unmarked(),
        start_new_session=True,
    )
    os.environ[MARK] = mark


def start_apart(command: Sequence[str | os.PathLike[str]], log: IO[bytes]) -> subprocess.Popen[str]:
    """Start what outlives this process: in a session of its own, unmarked. It is heard on its standard output.

    Args:
        command: program and arguments.
        log: takes what it says as an error.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env=unmarked(),
        start_new_session=True,
        text=True,
    )


def end_tied() -> None:
    """End now what would end with this process, and return when it is gone."""
    if os.getpid() in _tied:
        _end_marked(os.environ[MARK])


def end_with_parent() -> None:
    """Tell this process to end, by SIGTERM, once the one that started it is gone, also by `kill -9`."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="end with parent", daemon=True).start()


def end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does: its blocks are left in order, and with them what they hold."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)


def unmarked() -> dict[str, str]:
    """The environment for a process that shall outlive this one."""
    return {name: value for name, value in os.environ.items() if name != MARK}


def _watch(mark: str, owner: int) -> None:
    """Wait until the parent is gone, then ask what carries the mark to end, and at last make it."""
    while os.getppid() == owner:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    _end_marked(mark)


def _end_marked(mark: str) -> None:
    start = time.monotonic()
    while (found := _marked(mark)) and time.monotonic() - start < SECONDS_TO_GIVE_UP:
        for process in found:
            try:
                process.kill() if time.monotonic() - start > SECONDS_TO_END else process.terminate()
            except psutil.Error:
                continue  # gone meanwhile
        psutil.wait_procs(found, timeout=0.5)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # another user's, or gone
    return found


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))
