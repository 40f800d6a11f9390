"""One piece of work and its records: `runs/<id>/` holds all that one ingest, training, prediction or study made.

Each step leaves a record below `records/` and its seconds below `seconds/`, apart from what must be reproducible. A
file in `latest/` names the newest run of a kind that came to its end and had something to do.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from upath import UPath

from wafer.errors import StorageError, WaferError
from wafer.logs import at, events, kept_log
from wafer.records import Idle
from wafer.shown import facts_html, shown_message
from wafer.storage import Storage, as_json, is_silent, write_json

KINDS = ("delivery", "ingest-training", "ingest-prediction", "labels", "training", "prediction", "study")
RUNS, LATEST, STUDY = "runs", "latest", "study"
LOG = "log.jsonl"

Record = TypeVar("Record")


@dataclass(frozen=True)
class Run:
    """One piece of work in the storage; made by `Runs`.

    Attributes:
        id: its name, such as ``training-20260131-083000-250``, which sorts by time.
        kind: one of `KINDS`.
        storage: where its files lie.
    """

    id: str
    kind: str
    storage: Storage

    def key(self, name: str) -> str:
        """The key of a file or folder of this run."""
        return f"{RUNS}/{self.id}/{name}"

    def place(self, name: str) -> UPath:
        """What opens a file or folder of this run."""
        return self.storage.place(self.key(name))

    def write(self, record: Any, step: str | None = None) -> None:
        """Keep the record of a step; `step` names it where its class alone does not."""
        self.storage.write_json(self._record(type(record), step), asdict(record))

    def read(self, kind: type[Record], step: str | None = None) -> Record:
        """The record that a step of this run has left.

        Raises:
            StorageError: the step was not run yet, or its record is of another release.
        """
        key = self._record(kind, step)
        if not self.storage.exists(key):
            raise StorageError(f"{self.id} has no record of its step {step or kind.step!r}: run that first")  # type: ignore[attr-defined]
        found = self.storage.read_json(key)
        names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        if not isinstance(found, dict) or found.keys() != names:
            raise StorageError(f"{self.storage.place(key)} is no record of this release: expected {sorted(names)}")
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})

    def has(self, kind: type, step: str | None = None) -> bool:
        """Whether a step of this run has left its record."""
        return self.storage.exists(self._record(kind, step))

    def _record(self, kind: Any, step: str | None) -> str:
        return self.key(f"records/{step or kind.step}.json")

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note the seconds that the block takes, and tell of its beginning and end."""
        start = time.perf_counter()
        with at(run=self.id, step=step):
            events.info("begins")
            try:
                yield
            except BaseException as error:
                if not is_silent(error):  # the log lies in the same bucket
                    events.error("ends after %.1f s: %s", time.perf_counter() - start, _told(error))
                raise
            seconds = round(time.perf_counter() - start, 3)
            write_json(self.place(f"seconds/{step}.json"), {"seconds": seconds})
            events.info("is done after %.1f s", seconds)

    def outcome(self) -> dict[str, Any]:
        """When it was started, and what came of it: kind, started, and state, ended and error where it has ended."""
        found: dict[str, Any] = self.storage.read_json(self.key("run.json"))
        return found

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it."""
        told = self.outcome() if self.storage.exists(self.key("run.json")) else {}  # a study keeps none
        records = [name.removesuffix(".json") for name in self.storage.children(self.key("records"))]
        noted = {key: told[key] for key in ("state", "started", "ended", "error") if told.get(key)}
        return {"id": self.id, "kind": self.kind, **noted, "place": self.place(""), "records": ", ".join(records)}

    _repr_html_ = facts_html


class Runs:
    """The runs of one storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._ended: dict[str, dict[str, Any]] = {}

    @contextmanager
    def started(self, kind: str) -> Iterator[Run]:
        """A new run, which ends with the block: finished, or failed with the first line of its error, or cancelled.

        Cancelled is what was told to end by a signal. A run whose process is killed, or whose bucket gives no answer,
        stays `running`, without an end. What is told meanwhile is kept in its `log.jsonl`.
        """
        run, note = self._new(kind)
        with kept_log(run.place(LOG), run.id):
            events.info("%s begins", kind)
            try:
                yield run
            except BaseException as error:
                if is_silent(error):
                    raise
                state = "failed" if isinstance(error, Exception) else "cancelled"
                told = _told(error)
                events.error("%s: %s", state, told)
                ended = {"state": state, "ended": _now(), "error": told}
                try:
                    self.storage.write_json(run.key("run.json"), note | ended)
                except Exception as other:  # noqa: BLE001 - the first error is the one to be told
                    error.add_note(f"what came of {run.id} could not be noted: {shown_message(str(other), 200)}")
                raise
            events.info("finished")
        self.storage.write_json(run.key("run.json"), note | {"state": "finished", "ended": _now()})
        if not run.has(Idle):
            self.storage.point(f"{LATEST}/{kind}.json", {"run": run.id}, newer=lambda present: run.id > present["run"])

    def _new(self, kind: str) -> tuple[Run, dict[str, Any]]:
        """A run whose name nobody has; of two processes in the same millisecond one takes another name."""
        while True:
            run = Run(f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"[:-3], kind, self.storage)
            note = {"id": run.id, "kind": kind, "started": _now(), "state": "running", "ended": None, "error": None}
            if self.storage.put_new(run.key("run.json"), as_json(note)):
                return run, note

    def get(self, name: str) -> Run:
        """The run of this name.

        Raises:
            StorageError: there is none.
        """
        kind = next((kind for kind in KINDS if name.startswith(kind)), None)
        if kind is None or "/" in name or not self.storage.exists(f"{RUNS}/{name}"):
            raise StorageError(f"{self.storage.place(RUNS)} has no run {name!r}")
        return Run(name, kind, self.storage)

    def study(self) -> Run:
        """The one run of a storage that holds a single study; its name is always the same, for DVC."""
        return Run(STUDY, "study", self.storage)

    def latest(self, kind: str) -> Run | None:
        """The newest run of a kind that came to its end; None where there is none."""
        key = f"{LATEST}/{kind}.json"
        return self.get(self.storage.read_json(key)["run"]) if self.storage.exists(key) else None

    def names(self, kind: str = "") -> list[str]:
        """The names of all runs, or of those of a kind, the newest first."""
        names = [name for name in self.storage.children(RUNS) if name != STUDY and name.startswith(kind)]
        return sorted(names, key=lambda name: name.rsplit("-", 3)[1:], reverse=True)

    def all(self, newest: int | None = None) -> list[dict[str, Any]]:
        """What came of each run, newest first; the `newest` so many, or all."""
        return [self._outcome(name) for name in self.names()[:newest]]

    def _outcome(self, name: str) -> dict[str, Any]:
        """What came of a run; one that has ended is read once."""
        if name not in self._ended:
            note = self.get(name).outcome()
            if note["ended"] is None:
                return note
            self._ended[name] = note
        return self._ended[name]


def _told(error: BaseException) -> str:
    """The first line of an error, as it may be shown."""
    if not isinstance(error, Exception):
        return f"it was told to end ({type(error).__name__})"
    told = str(error) if isinstance(error, WaferError) else f"{type(error).__name__}: {error}"
    return shown_message(told.partition("\n")[0], 500)


def time_of(run: str) -> datetime:
    """When a run was started, as its name says."""
    return datetime.strptime("".join(run.rsplit("-", 3)[1:]), "%Y%m%d%H%M%S%f").replace(tzinfo=UTC)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
