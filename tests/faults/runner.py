"""Runs the whole intake in a process that is struck at a chosen point; knows nothing of how the product works inside.

A point is a moment before a change that lasts, and so also the one after the change before it. They are seen from
outside of the product: the interpreter's audit events for changes of files below the storage, the driver's own events
for commands to the database. Where one command stores several documents, there is also a point at which the first half
of them is stored.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pymongo
from pymongo import monitoring

WRITES = {"insert": "documents", "update": "updates", "delete": "deletes", "createIndexes": "indexes"}
FILE_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "open"}


@dataclass(frozen=True)
class Run:
    """One run: where, which database (embedded without a URL), and what to kill at which point (counted from 1)."""

    place: Path
    url: str | None
    database: str
    kill_at: int | None = None
    victim: Literal["process", "server"] = "process"

    @property
    def data(self) -> Path:
        """The storage."""
        return self.place / "data"

    @property
    def told(self) -> Path:
        """What the run has to say."""
        return self.place / "told.json"


class Points(monitoring.CommandListener):
    """Counts the points as they are reached, strikes at the one that was chosen, keeps their names."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.names: list[str] = []
        self.aside = False
        sys.addaudithook(self._audit)

    def reach(self, name: str) -> bool:
        """Whether this is the point to strike at."""
        self.names.append(name)
        return len(self.names) == self.run.kill_at

    def strike(self) -> None:
        """Kill this process, or the embedded server."""
        if self.run.victim == "process":
            os.kill(os.getpid(), signal.SIGKILL)
        server = json.loads((self.run.data / "state" / "mongodb" / "server.json").read_text())["server"]
        os.kill(server, signal.SIGKILL)
        time.sleep(0.3)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if not isinstance(path, str) or not path.startswith(str(self.run.data)) or "/state/" in path:
            return
        if (event == "open" and not _for_writing(*arguments[1:3])) or (event == "os.mkdir" and Path(path).exists()):
            return
        if self.reach(f"{event} {Path(path).name}"):
            self.strike()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Before a command, and after a command with the first half of its documents."""
        name = event.command_name
        if name not in WRITES or self.aside:
            return
        several = list(event.command.get(WRITES[name], ()))
        if self.reach(f"before {name} {event.command[name]}"):
            self.strike()
        if len(several) > 1 and self.reach(f"half of {name} {event.command[name]}"):
            self.aside = True
            with pymongo.MongoClient(self.run.url) as client:
                half = {name: event.command[name], WRITES[name]: several[: len(several) // 2], "ordered": False}
                client[event.database_name].command(half, writeConcern={"w": "majority", "j": True})
            self.strike()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing lasting happens until the next point, which is this one too."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """A command that failed changed nothing."""


def _for_writing(mode: str | None, flags: int) -> bool:
    return bool(set(mode) & set("wax+")) if mode is not None else bool(flags & (os.O_WRONLY | os.O_RDWR))


def take_in_all(run: Run) -> None:
    """Every kind of intake that there is, one after the other; the points' names, or the error, go to `run.told`."""
    from tests import working
    from wafer.errors import WaferError
    from wafer.settings import Settings

    tempfile.tempdir = str(run.place)  # what a killed process leaves behind goes with the place
    points = Points(run)
    monitoring.register(points)
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
        try:
            for kind, agreed, replace in stages():
                settings = Settings.read(
                    project=run.place / agreed,
                    storage_url=str(run.data),
                    mongodb_url=run.url,
                    mongodb_database=run.database,
                    jobs=1,
                )
                working.ingest(settings, kind, run.place / "raw" / kind, replace=replace)
            working.snapshot(settings)
        except WaferError as error:
            run.told.write_text(json.dumps({"error": str(error)}))
            sys.exit(2)
    run.told.write_text(json.dumps({"points": points.names}))


def stages() -> Iterator[tuple[Literal["training", "prediction"], str, bool]]:
    """Kind, folder of the agreement, whether readings are replaced."""
    yield "prediction", "strict", False
    yield "training", "strict", False
    yield "training", "lenient", False  # accepts a file that is in quarantine until then
    yield "training", "lenient", True
