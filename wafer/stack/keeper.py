"""The keeper of a stack: the process that starts its parts, and that they all end with.

`wafer.stack.control` starts it as ``python -m wafer.stack.keeper FOLDER PROJECT PORT``. It tells on its standard output
how that goes, a line of JSON each: ``{"part": …, "address": …}`` for what is healthy, then ``{"healthy": true}``, or
``{"failed": […]}``. It then lives until SIGTERM, and stops all it has started, the worker and the service first.
When it is killed, its parts end all the same: by `wafer.lifeline`, and the database since nobody uses it any more.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from wafer.errors import StackError, StorageError, WaferError
from wafer.lifeline import end_in_order, end_tied, tie_children
from wafer.stack.parts import OF_S3, SERVERS, Part, Place, make_buckets, servers, service, worker
from wafer.storage import bucket_errors, private_folder, write_json
from wafer.store.embedded import embedded_server, wait_until_stopped

LOCK, STATE = "keeper.lock", "stack.json"
SECONDS_TO_START = 180.0
SECONDS_TO_STOP = 30.0
SECONDS_BETWEEN_LOOKS = 0.5
LAST_LINES = 10
FAILURES: tuple[type[Exception], ...] = (StorageError, OSError)
STOPPED = (("Prefect worker", "service"), ("Prefect server", "MLflow server"), ("S3 server", "PostgreSQL"))


class Running:
    """A part that was started."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._asked = False
        private_folder(part.folder)
        part.prepare()
        with part.log.open("wb") as log:
            self._process = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=part.working_folder or part.folder,
                env={**os.environ, **part.environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def wait(self) -> None:
        """Return when it is healthy.

        Raises:
            StackError: it has ended, or is not healthy in time.
        """
        deadline = time.monotonic() + SECONDS_TO_START
        while (why := self.part.healthy()) is not None:
            if not self.runs():
                raise self.failed(f"it ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise self.failed(f"{why} after {SECONDS_TO_START:.0f} s")
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def failed(self, why: str) -> StackError:
        """What is told of it, with its log and the last lines of that."""
        return failure(f"the {self.part.name} does not start: {why}", self.part.log)

    def runs(self) -> bool:
        """Whether it has not ended; one that has is taken notice of."""
        return self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Let it end in order; asked twice, Prefect's worker kills itself."""
        if self.runs() and not self._asked:
            self._asked = True
            self._process.send_signal(self.part.end)

    def stop(self) -> None:
        """Return when it has ended, in order or at last by force."""
        self.ask_to_stop()
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for file in self.part.litter:
            file.unlink(missing_ok=True)


def failure(what: str, log: Path) -> StackError:
    """The error that tells what has gone wrong, with a log and its last lines."""
    return StackError(
        f"{what}; its log, {log}, ends with:", *log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    )


def keep(place: Place, told: IO[str]) -> int:
    """Start the stack of `place`, and stop it again when SIGTERM comes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a script's background ignores, and Prefect's worker needs
    tie_children()
    end_in_order()
    with (place.folder / LOCK).open("ab") as lock, ExitStack() as closing:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Prefect's worker leaves files where temporary ones go
            os.environ["TMPDIR"] = closing.enter_context(tempfile.TemporaryDirectory(prefix="wafer-stack-"))
            closing.callback(end_tied)
            running = _start(place, told, closing)
            closing.callback((place.folder / STATE).unlink, missing_ok=True)
            _write_state(place, running)
            _tell(told, healthy=True)
            while True:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for one in running:
                    one.runs()
        except BlockingIOError:
            _tell(told, failed=["another `wafer stack up` is at work in this folder: wait for that"])
        except WaferError as error:
            closing.close()
            _tell(told, failed=error.sentences)
    return 1


def _start(place: Place, told: IO[str], closing: ExitStack) -> list[Running]:
    """All parts, each told when it is healthy; `closing` stops them, whatever comes."""
    _need_ports(place)
    running: list[Running] = []
    closing.callback(wait_until_stopped, place.folder / "mongodb")
    closing.callback(_stop, running)
    for part in servers(place):
        running.append(Running(part))
        if part.name == "PostgreSQL":  # which Prefect's server needs at once
            running[-1].wait()
    closing.enter_context(embedded_server(place.folder / "mongodb", place.port("database")))
    closing.callback(_stop, running)  # before the database goes
    _tell(told, part="database", address=f"127.0.0.1:{place.port('database')}")
    for one in running:
        one.wait()
        if one.part.name == "S3 server":
            wait_for_buckets(place, one)
        _tell(told, part=one.part.name, address=one.part.address)
    for part in (service(place), worker(place, time.time())):
        running.append(Running(part))
    for one in running[-2:]:
        one.wait()
        _tell(told, part=one.part.name, address=one.part.address)
    return running


def _stop(running: list[Running]) -> None:
    """Stop the worker and the service, then the servers that others serve, then those."""
    for names in STOPPED:
        layer = [one for one in running if one.part.name in names]
        for one in layer:
            one.ask_to_stop()
        for one in layer:
            one.stop()
            running.remove(one)


def wait_for_buckets(place: Place, server: Running) -> None:
    """Return when the buckets of the S3 server are there and can be written to.

    Raises:
        StackError: they cannot be had in time.
    """
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            return make_buckets(place)
        except FAILURES + bucket_errors() as error:
            if time.monotonic() > deadline or not server.runs():
                raise server.failed(f"its buckets cannot be made ({error})") from error
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _need_ports(place: Place) -> None:
    """Refuse ports at which somebody else listens.

    Raises:
        StackError: with the port, and for what it is needed.
    """
    for name in (*SERVERS, *OF_S3):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", place.port(name)))
            except OSError as error:
                what = name if name in SERVERS else f"S3 server ({name})"
                raise StackError(
                    f"port {place.port(name)} is needed for the {what}, but cannot be had ({error.strerror}): end what "
                    f"listens there, or set WAFER_PORT_BASE, now {place.base}, to the first of other free ports"
                ) from error


def _write_state(place: Place, running: list[Running]) -> None:
    pids = {one.part.name: one.pid for one in running}
    state = {"keeper": os.getpid(), "project": str(place.project), "base": place.base, "pids": pids}
    write_json(place.folder / STATE, state)


def _tell(told: IO[str], **news: object) -> None:
    with suppress(BrokenPipeError):  # whoever started it is gone, and will have told it to end
        print(json.dumps(news), file=told, flush=True)


if __name__ == "__main__":
    sys.exit(keep(Place(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])), sys.stdout))
