"""Runs that the service starts: as deployments on a Prefect server, else as a process of their own on this machine.

Each is a record at `service/runs/<id>.json`. What came of it is told by those who know: the run's own record in the
storage, Prefect's server, or the process, whose log lines name the run that it works on.
"""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
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
ENDED = frozenset({"finished", "failed", "cancelled", "lost"})
LINES_KEPT = 20
SECONDS_TO_END = 30.0
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


def arguments(kind: Kind, parameters: Mapping[str, Any]) -> list[str]:
    """The words of the command `wafer` that does it."""
    options = {"of": ["--kind", str(parameters.get("of"))], "force": ["--force"], "new_only": ["--new-only"]}
    return [kind, *(word for name, value in parameters.items() if value for word in options[name])]


class Jobs:
    """The runs that were asked for through this storage."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._storage = workspace.storage
        self._processes: dict[str, subprocess.Popen[str]] = {}
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
            text=True,
            errors="replace",
        )
        job = replace(job, owner={"host": os.uname().nodename, "pid": process.pid, "born": _born(process.pid)})
        self._write(job)
        self._processes[job.id] = process
        threading.Thread(target=self._listen, args=(job, process), name=f"run {job.id}", daemon=True).start()
        return job

    def _listen(self, job: Job, process: "subprocess.Popen[str]") -> None:
        """Follow what a process says until it ends."""
        assert process.stdout is not None
        told: deque[str] = deque(maxlen=LINES_KEPT)
        with process.stdout as lines:
            for line in lines:
                said = _read(line)
                if said is None:
                    told.append(line.strip())
                elif job.run is None and "run" in said:
                    job = replace(job, run=str(said["run"]), state="running")
                    self._write(job)
                elif said.get("level") == "error":
                    job = replace(job, error=shown_message(str(said.get("message", "")), 500))
        status = process.wait()
        self._write(self._ended(job, status, shown_message(" ".join(told), 1000)))
        self._processes.pop(job.id, None)

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
        found = [Job(**self._storage.read_json(f"{PLACE}/{name}")) for name in self._storage.children(PLACE)]
        return [self._now(job) for job in sorted(found, key=lambda job: job.asked, reverse=True)[:newest]]

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
        elif (process := self._processes.get(job.id)) is not None:
            process.terminate()
        elif job.owner["host"] == os.uname().nodename and _alive(job.owner):
            psutil.Process(job.owner["pid"]).terminate()
        else:
            raise Problem("conflict", f"the run belongs to the machine {job.owner['host']}: cancel it there")
        return self.get(number)

    def stop(self) -> None:
        """End what was started here, as a person would; what does not heed that in time is killed."""
        left = list(self._processes.values())
        for process in left:
            process.terminate()
        for process in left:
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()

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
        outcome = self._outcome(job)
        if outcome.get("state") in ENDED and not (here and _alive(owner)):
            return replace(job, state=outcome["state"], ended=outcome["ended"], error=outcome["error"])
        if here and not _alive(owner) and job.id not in self._processes:
            return replace(job, state="lost", error="its process is gone, and left no word")
        return job

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


def _born(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def _alive(owner: Mapping[str, Any]) -> bool:
    try:
        process = psutil.Process(owner["pid"])
        return bool(process.create_time() == owner["born"] and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
