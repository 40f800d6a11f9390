"""Runs that the service starts: as deployments on a Prefect server, else as a process of their own on this machine.

Each is a record at `service/runs/<id>.json`. What came of it is told by those who know: the run's own record in the
storage, Prefect's server, or the process, whose log lines name the run that it works on. Whoever follows a process
leaves signs of life in its record, without which no other machine would know that it is gone.
"""

import json
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import psutil

from wafer.errors import StorageError
from wafer.reporting.index import pages, what_came_of
from wafer.runs import LOG, Run
from wafer.service.problems import Problem
from wafer.shown import shown_message
from wafer.workspace import Workspace

PLACE = "service/runs"
log = logging.getLogger("wafer")
ENDED = frozenset({"finished", "failed", "cancelled", "lost"})
LINES_KEPT = 20
SECONDS_TO_END = 30.0
"""For all that are told to end, together."""
SECONDS_TO_TELL = 5.0
"""For their ends to be written, together."""
SECONDS_BETWEEN_SIGNS = 30.0
SECONDS_OF_SILENCE = 120.0
"""After which a run of another machine counts as lost."""
COMPLETED = {"COMPLETED": "finished", "FAILED": "failed", "CRASHED": "failed", "CANCELLED": "cancelled"}

Kind = Literal["ingest", "train", "predict", "retrain"]


@dataclass(frozen=True)
class Job:
    """A run that somebody asked for.

    Attributes:
        id: a UUID; on a Prefect server that of the flow run.
        kind: what was asked for.
        parameters: of its flow.
        who: asked for it.
        asked: when, ISO 8601 in UTC.
        state: starting, running, finished, failed, cancelled, or lost where it is gone without a word.
        run: its run in the storage, once there is one.
        ended: when it ended.
        error: why it failed.
        told: what it said at its end.
        owner: the process that works on it: host, pid and born; None on a Prefect server.
        seen: when it last gave a sign of life, where it has an owner.
    """

    id: str
    kind: Kind
    parameters: Mapping[str, Any]
    who: str
    asked: str
    state: str = "starting"
    run: str | None = None
    ended: str | None = None
    error: str | None = None
    told: str = ""
    owner: Mapping[str, Any] | None = None
    seen: str | None = None

    @property
    def silent(self) -> float:
        """Seconds since the last sign of life."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.seen or self.asked)).total_seconds()


def arguments(kind: Kind, parameters: Mapping[str, Any]) -> list[str]:
    """The words of the command `wafer` that does it."""
    options = {"of": ["--kind", str(parameters.get("of"))], "force": ["--force"], "new_only": ["--new-only"]}
    return [kind, *(word for name, value in parameters.items() if value for word in options[name])]


class Jobs:
    """The runs that were asked for through this storage."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._storage = workspace.storage
        self._processes: dict[str, tuple[subprocess.Popen[bytes], threading.Thread]] = {}
        self._over: dict[str, Job | None] = {}
        self._lock, self._writing = threading.Lock(), threading.RLock()

    def start(self, kind: Kind, parameters: Mapping[str, Any], who: str) -> Job:
        """Start a run; where one of its kind is under way already, that is told.

        Raises:
            Problem: one is under way.
            PreflightError: its deployment is not registered, or the Prefect server gives no answer.
        """
        with self._lock:
            if under_way := next((one for one in self.all() if one.kind == kind and one.state not in ENDED), None):
                raise Problem("conflict", f"such a run is under way: {under_way.id}", run=under_way.id)
            if self._workspace.settings.prefect_url is not None:
                from flows.server import start_deployment

                number = start_deployment(kind, {"kind" if n == "of" else n: v for n, v in parameters.items()})
                job = Job(str(number), kind, dict(parameters), who, _now())
                self._write(job)
                return job
            job = Job(str(uuid4()), kind, dict(parameters), who, _now())
            return self._start_here(job)

    def _start_here(self, job: Job) -> Job:
        settings = self._workspace.settings
        names = ("project", "storage_url", "mongodb_url", "mongodb_database", "mlflow_url", "jobs")
        known = {str(type(settings).model_fields[name].alias): getattr(settings, name) for name in names}
        places = {name: str(value) for name, value in known.items() if value is not None}
        places["WAFER_STATE"] = str(settings.state)
        process = subprocess.Popen(
            [sys.executable, "-m", "wafer", *arguments(job.kind, job.parameters)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **places, "WAFER_LOG_FORMAT": "json"},
        )
        return self._follow(job, process)

    def _follow(self, job: Job, process: "subprocess.Popen[bytes]") -> Job:
        job = replace(job, owner={"host": os.uname().nodename, "pid": process.pid, "born": _born(process.pid)})
        self._write(job)
        thread = threading.Thread(target=self._listen, args=(job, process), name=f"run {job.id}", daemon=True)
        self._processes[job.id] = process, thread
        thread.start()
        return job

    def _listen(self, job: Job, process: "subprocess.Popen[bytes]") -> None:
        """Follow what a process says until it ends."""
        told: deque[str] = deque(maxlen=LINES_KEPT)
        try:
            for line in _lines(process):
                said = _read(line)
                if said is None:
                    told.extend([line.strip()] if line else [])
                elif job.run is None and "run" in said:
                    job = self._sign(replace(job, run=str(said["run"]), state="running"))
                elif said.get("level") == "error":
                    job = replace(job, error=shown_message(str(said.get("message", "")), 500))
                if job.silent > SECONDS_BETWEEN_SIGNS:
                    job = self._sign(job)
            self._write(self._ended(job, process.wait(), shown_message(" ".join(told), 1000)))
        finally:
            self._processes.pop(job.id, None)

    def _sign(self, job: Job) -> Job:
        """Write that a run lives."""
        job = replace(job, seen=_now())
        try:
            self._write(job)
        except Exception as error:  # noqa: BLE001 - the next sign is written as well, and at last the end
            log.warning("no sign of the run %s could be written: %s", job.id, shown_message(str(error), 300))
        return job

    def _ended(self, job: Job, status: int, told: str) -> Job:
        """The end of a process: what its run says of itself, else what its status says."""
        state = self._outcome(job).get("state") if job.run else None
        if state not in ENDED:
            state = "finished" if status == 0 else "cancelled" if status in (-15, 143, 130) else "failed"
        error = job.error if state == "failed" else None
        if state == "failed" and error is None:
            error = told or f"the process ended with status {status}"
        return replace(job, state=str(state), ended=_now(), error=error, told=told)

    def get(self, number: str) -> Job:
        """The run of this id, as it is now.

        Raises:
            Problem: there is none.
        """
        try:
            key = f"{PLACE}/{UUID(number)}.json"
        except ValueError:
            key = ""
        if not key or not self._storage.exists(key):
            raise Problem("not-found", f"no run has the id {number!r:.60}")
        return self._now(Job(**self._storage.read_json(key)))

    def all(self, newest: int = 100) -> list[Job]:
        """The runs that were asked for, newest first."""
        found = [job for name in self._storage.children(PLACE) if (job := self._kept(name)) is not None]
        return [self._now(job) for job in sorted(found, key=lambda job: job.asked, reverse=True)[:newest]]

    def _kept(self, name: str) -> Job | None:
        """The record of this name; one that has ended changes no more. None where it is not a run's."""
        if name not in self._over:
            try:
                job = Job(**self._storage.read_json(f"{PLACE}/{name}"))
            except (StorageError, TypeError) as error:
                self._over[name] = None
                log.warning("%s/%s is no record of a run: %s", PLACE, name, shown_message(str(error), 200))
                return None
            if job.state not in ENDED:
                return job
            self._over[name] = job
        return self._over[name]

    def cancel(self, number: str) -> Job:
        """Ask a run to end.

        Raises:
            Problem: there is none, it has ended, or it belongs to another machine.
        """
        job = self.get(number)
        if job.state in ENDED:
            raise Problem("conflict", f"the run is {job.state} already")
        if job.owner is None:
            from flows.server import cancel_run

            cancel_run(UUID(job.id))
        elif job.owner["host"] != os.uname().nodename:
            raise Problem("conflict", f"the run belongs to the machine {job.owner['host']}: cancel it there")
        elif (process := _alive(job.owner)) is not None:
            with suppress(psutil.NoSuchProcess):  # it has come to its end by itself
                process.terminate()
        return self.get(number)

    def stop(self) -> None:
        """End what was started here, as a person would; what does not heed that in time is killed."""
        left = list(self._processes.values())
        for process, _ in left:
            process.terminate()
        deadline = time.monotonic() + SECONDS_TO_END
        for process, _ in left:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        deadline = time.monotonic() + SECONDS_TO_TELL
        for _, thread in left:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _now(self, job: Job) -> Job:
        if job.state in ENDED:
            return job
        now = self._asked_prefect(job) if job.owner is None else self._looked_at(job, job.owner)
        return self._end(now) if now.state in ENDED else now

    def _end(self, job: Job) -> Job:
        """Keep an end that was seen from outside, unless whoever follows the run has told its end meanwhile."""
        with self._writing:
            written = Job(**self._storage.read_json(f"{PLACE}/{job.id}.json"))
            if written.state in ENDED:
                return written
            self._write(job)
            return job

    def _looked_at(self, job: Job, owner: Mapping[str, Any]) -> Job:
        here = owner["host"] == os.uname().nodename
        alive = here and _alive(owner) is not None
        outcome = self._outcome(job)
        if outcome.get("state") in ENDED and not alive:
            return replace(job, state=outcome["state"], ended=outcome["ended"], error=outcome["error"])
        if here and not alive and job.id not in self._processes:
            return replace(job, state="lost", error="its process is gone, and left no word")
        if not here and job.silent > SECONDS_OF_SILENCE:
            return replace(job, state="lost", error=f"the machine {owner['host']} has said nothing of it for too long")
        followed = not alive or job.id in self._processes
        return job if followed or job.silent <= SECONDS_BETWEEN_SIGNS else self._sign(job)

    def _asked_prefect(self, job: Job) -> Job:
        if self._workspace.settings.prefect_url is None:
            return replace(job, state="lost", error="it was started on a Prefect server, and PREFECT_API_URL is unset")
        from flows.server import look_at_run

        if (seen := look_at_run(UUID(job.id))) is None:
            return replace(job, state="lost", error="the Prefect server knows no such flow run")
        run = job.run or (seen.name.split(" ")[0] if self._is_run(seen.name.split(" ")[0]) else None)
        state = COMPLETED.get(seen.state, "running" if run else "starting")
        return replace(job, state=state, run=run, ended=seen.ended, error=seen.message if state == "failed" else None)

    def _is_run(self, name: str) -> bool:
        try:
            self._workspace.runs.get(name)
        except StorageError:
            return False
        return True

    def _outcome(self, job: Job) -> dict[str, Any]:
        return self._workspace.runs.get(job.run).outcome() if job.run and self._is_run(job.run) else {}

    def _write(self, job: Job) -> None:
        with self._writing:
            self._storage.write_json(f"{PLACE}/{job.id}.json", asdict(job))


def describe(run: Run) -> dict[str, Any]:
    """A run of the storage as it is told: its outcome, steps, what came of it in words, and its pages."""
    note = run.outcome()
    return {
        **{name: note[name] for name in ("id", "kind", "state", "started", "ended", "error")},
        "steps": list(_steps(run)),
        "told": list(what_came_of(run)),
        "pages": [f"/pages/{run.key(name)}" for name in pages(run)],
    }


def _steps(run: Run) -> Iterator[dict[str, Any]]:
    """The steps that have begun, and the seconds of those that are done."""
    if not run.place(LOG).exists():
        return
    begun: dict[str, float | None] = {}
    for said in filter(None, map(_read, run.place(LOG).read_text().splitlines())):
        if "step" in said and said["message"] == "begins":
            begun[said["step"]] = None
    done = {name.removesuffix(".json") for name in run.storage.children(run.key("seconds"))}
    for step in begun:
        seconds = run.storage.read_json(run.key(f"seconds/{step}.json"))["seconds"] if step in done else None
        yield {"step": step, "seconds": seconds}


def _read(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "message" in found else None


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    """What a process says, line by line, and an empty line for each second in which it says nothing.

    They end with it, even where a process of its own has kept its output open.
    """
    assert process.stdout is not None
    rest = b""
    with process.stdout as said, selectors.DefaultSelector() as selector:
        selector.register(said, selectors.EVENT_READ)
        while True:
            if not selector.select(1.0):
                if process.poll() is not None:
                    break
                yield ""
            elif data := os.read(said.fileno(), 2**16):
                *lines, rest = (rest + data).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
            else:
                break
    yield rest.decode("utf-8", "replace")


def _born(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def _alive(owner: Mapping[str, Any]) -> psutil.Process | None:
    try:
        process = psutil.Process(owner["pid"])
        same = process.create_time() == owner["born"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
