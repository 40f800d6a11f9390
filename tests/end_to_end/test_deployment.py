"""The deployments on a real Prefect server with a real worker, as a data engineer uses them."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import wafer
from tests.end_to_end.conftest import Run
from tests.ports import free_port
from wafer import steps
from wafer.fab.simulate import simulate_batches
from wafer.params import read_params
from wafer.store.leases import leases

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its children, where they have not been killed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def environment(tmp_path: Path, checkout: Path, mongodb_url: str) -> dict[str, str]:
    """The variables of a small production: storage, database, Prefect server."""
    return {
        "WAFER_STORAGE": str(tmp_path / "data"),
        "WAFER_JOBS": "1",
        "MONGODB_URL": mongodb_url,
        "MONGODB_DATABASE": "deployment",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "true",
        "PYTHONPATH": str(checkout),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """A Prefect server of its own."""
    (tmp_path / "prefect").mkdir()
    address = environment["PREFECT_API_URL"]
    port = address.split(":")[2].split("/")[0]
    with (tmp_path / "server.log").open("wb") as log:
        command = [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield
    finally:
        stop(process)


def start_worker(environment: dict[str, str], checkout: Path) -> subprocess.Popen[bytes]:
    """A worker in a session of its own, whose log lies beside the checkout."""
    with (checkout.parent / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [BIN / "prefect", "worker", "start", "--pool", "wafer"],
            cwd=checkout,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@pytest.fixture
def deployed(server: None, environment: dict[str, str], run: Run) -> None:
    """The deployments and automations on the server."""
    run("prefect", "work-pool", "create", "wafer", "--type", "process", **environment)
    run("prefect", "--no-prompt", "deploy", "--all", **environment)
    run("wafer", "automate", **environment)


@pytest.fixture
def worker(deployed: None, environment: dict[str, str], checkout: Path) -> Iterator[None]:
    """A worker that runs the deployments."""
    process = start_worker(environment, checkout)
    try:
        yield
    finally:
        stop(process)


def asked(environment: dict[str, str], what: str, **question: Any) -> Any:
    """What Prefect's server answers; with 503 it asks to come later, while its SQLite is locked."""
    address, body = f"{environment['PREFECT_API_URL']}/{what}", json.dumps(question).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(1)


@pytest.mark.invariant
@pytest.mark.usefixtures("worker")
def test_deployments_run_on_a_worker(checkout: Path, run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    """Ingest, train and predict as deployments: each run completes, and the predictions are there. The server
    knows what a parameter means, and how runs collide: of two trainings one is cancelled, an ingest waits."""
    workspace = wafer.open(storage_url=str(tmp_path / "data"))
    steps.deliver_where_empty(workspace, read_params(checkout / "params.yaml").deliver)
    for name in ("ingest/wafer", "train/wafer", "predict/wafer"):
        run("prefect", "deployment", "run", name, "--watch", **environment)
    (predictions,) = (tmp_path / "data" / "runs").glob("prediction-*/predictions")
    assert {p.name for p in predictions.iterdir()} == {p.name for p in workspace.raw("prediction").iterdir()}
    schedules = run("prefect", "deployment", "schedule", "ls", "train/wafer", **environment)
    assert "True" not in schedules, "schedules are inactive until somebody switches them on"
    deployments = {d["tags"][1]: d for d in asked(environment, "deployments/filter")}
    assert deployments["train"]["parameter_openapi_schema"]["properties"]["force"]["description"].startswith("make a ")
    for name in ("train", "train", "ingest", "ingest"):
        run("prefect", "deployment", "run", f"{name}/wafer", **environment)
    deadline, states = time.monotonic() + 300, {"SCHEDULED"}
    while {"SCHEDULED", "PENDING", "RUNNING"} & states:
        assert time.monotonic() < deadline, states
        time.sleep(1)
        found = asked(environment, "flow_runs/filter", sort="START_TIME_ASC")
        states = {one["state_type"] for one in found}
    assert Counter(one["state_type"] for one in found) == {"COMPLETED": 6, "CANCELLED": 1}
    *_, first, second = [one for one in found if one["deployment_id"] == deployments["ingest"]["id"]]
    assert first["end_time"] <= second["start_time"]


def write_report(file: Path, *cells: str) -> None:
    """A report of these cells, after that of its parameters."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in ("run = storage = ''", *cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook.cells[0].metadata["tags"] = ["parameters"]
    file.write_text(nbformat.writes(notebook))


def until(environment: dict[str, str], flow_run: str, state: str, seconds: float = 600) -> float:
    """The seconds until a run has this state; by default as many as a busy machine may take."""
    start = time.monotonic()
    question = {"flow_runs": {"id": {"any_": [flow_run]}}}
    while (found := asked(environment, "flow_runs/filter", **question)[0]["state"])["type"] != state:
        assert time.monotonic() - start < seconds, found
        time.sleep(0.5)
    seconds = time.monotonic() - start
    logging.getLogger(__name__).info("%s after %.0f s", found["type"], seconds)
    return seconds


def begin(checkout: Path, run: Run, environment: dict[str, str]) -> tuple[str, list[psutil.Process]]:
    """A training that has come to a report that never ends: its id, its process and those below it."""
    pid = checkout.parent / "pid"
    pid.unlink(missing_ok=True)
    work = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(3600)"
    write_report(checkout / "notebooks" / "data_quality.ipynb", work)
    run("prefect", "deployment", "run", "train/wafer", "--param", "force=true", **environment)
    (found,) = asked(environment, "flow_runs/filter", sort="EXPECTED_START_TIME_DESC", limit=1)
    deadline = time.monotonic() + 600
    while not pid.exists() or not pid.read_text():
        assert time.monotonic() < deadline, (checkout.parent / "worker.log").read_text()[-2000:]
        time.sleep(0.5)
    flow = psutil.Process(int(pid.read_text())).parent()
    assert flow is not None
    return found["id"], [flow, *flow.children(recursive=True)]


def check_order(workspace: wafer.Workspace, processes: list[psutil.Process], state: str) -> None:
    """No process of the newest run is left, and it is noted in this state, with its log."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    noted = workspace.runs.all(1)[0]
    assert (noted["kind"], noted["state"]) == ("training", state)
    assert '"training begins"' in workspace.runs.get(noted["id"]).place("log.jsonl").read_text()


@pytest.mark.usefixtures("deployed")
def test_runs_that_end_early_leave_all_in_order(
    checkout: Path, run: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    """In the middle of a report, a training is cancelled, loses its worker by `kill -9`, and is killed with it: Prefect
    says so, in the last case within three minutes, no process is left, no lease is held, and the next run completes."""
    settings = {"storage_url": str(tmp_path / "data"), "mongodb_url": environment["MONGODB_URL"], "project": checkout}
    for name in ("data_quality", "exploration", "training"):
        write_report(checkout / "notebooks" / f"{name}.ipynb")
    with wafer.open(**settings, mongodb_database="deployment") as workspace:
        steps.deliver_where_empty(workspace, read_params(checkout / "params.yaml").deliver)
        with steps.working(workspace, "ingest-training") as taken_in:
            steps.ingest(workspace, taken_in, "training")
        worker = start_worker(environment, checkout)
        try:
            flow_run, processes = begin(checkout, run, environment)
            run("prefect", "flow-run", "cancel", flow_run, **environment)
            until(environment, flow_run, "CANCELLED")
            check_order(workspace, processes, "cancelled")
            assert leases(workspace.store) == []

            flow_run, processes = begin(checkout, run, environment)
            worker.kill()
            until(environment, flow_run, "CRASHED")
            check_order(workspace, processes, "cancelled")
            assert leases(workspace.store) == []

            worker = start_worker(environment, checkout)
            flow_run, processes = begin(checkout, run, environment)
            worker.kill()
            processes[0].kill()
            until(environment, flow_run, "CRASHED", seconds=180)
            check_order(workspace, processes, "running")

            worker = start_worker(environment, checkout)
            write_report(checkout / "notebooks" / "data_quality.ipynb")
            run("prefect", "deployment", "run", "train/wafer", "--watch", **environment)
            assert workspace.runs.all(1)[0]["state"] == "finished"
            assert [version.training for version in workspace.registry.versions()].count("finished") == 1
        finally:
            stop(worker)


@pytest.mark.invariant
@pytest.mark.usefixtures("server")
def test_a_file_that_has_settled_is_to_be_scored(run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    """`watch` tells of a new file once, and the automation of prefect.yaml asks for one prediction of it alone."""
    run("prefect", "work-pool", "create", "wafer", "--type", "process", **environment)
    run("prefect", "--no-prompt", "deploy", "--name", "predict/wafer", **environment)
    raw = tmp_path / "data" / "raw" / "prediction"
    (file,) = simulate_batches(raw, batches=1, wafers=5, seed=7, labelled=False)
    for told in (1, 0):
        work = f"from flows.watch import watch; assert watch(seconds=0.5, minutes=0.05) == {told}"
        run(sys.executable, "-c", work, **environment)
    deadline, found = time.monotonic() + 120, []
    while not found:
        assert time.monotonic() < deadline
        time.sleep(1)
        (predict,) = asked(environment, "deployments/filter")
        found = asked(environment, "flow_runs/filter", deployments={"id": {"any_": [predict["id"]]}})
    assert [one["parameters"] for one in found] == [{"raw": str(file), "new_only": True}]


@pytest.mark.usefixtures("server")
def test_a_run_that_a_worker_took_and_never_began_is_ended(run: Run, environment: dict[str, str]) -> None:
    """One that stays Pending, since its worker was killed, is Crashed, and keeps others of its deployment no longer."""
    work = "from flows import automations; automations.SECONDS_TO_BEGIN = 10; automations.install()"
    run(sys.executable, "-c", work, **environment)
    flow = asked(environment, "flows/", name="predict")["id"]
    pending = {"type": "PENDING", "name": "Submitting"}
    taken = asked(environment, "flow_runs/", flow_id=flow, tags=["wafer"], state=pending)["id"]
    others = asked(environment, "flow_runs/", flow_id=flow, tags=["another"], state=pending)["id"]
    until(environment, taken, "CRASHED")
    (found,) = asked(environment, "flow_runs/filter", flow_runs={"id": {"any_": [taken]}})
    assert found["state"]["message"].startswith("it was not begun within 10 s")
    until(environment, others, "PENDING")


@pytest.mark.usefixtures("server")
def test_runs_that_a_stack_left_in_the_middle_are_ended(run: Run, environment: dict[str, str]) -> None:
    """Those of these deployments that were at work before it was started again; what waits its turn still does."""
    flow = asked(environment, "flows/", name="predict")["id"]
    states = {"RUNNING": "Running", "PENDING": "Submitting", "CANCELLING": "Cancelling", "SCHEDULED": "Scheduled"}

    def made(tag: str, state: str) -> str:
        named = {"type": state, "name": states[state]}
        return str(asked(environment, "flow_runs/", flow_id=flow, tags=[tag], state=named, name=f"{tag} {state}")["id"])

    left = {state: made("wafer", state) for state in states}
    other = made("another", "RUNNING")
    work = "from datetime import UTC, datetime, timedelta; from flows.automations import end_what_is_left; "
    for since, named in ((-60, []), (0, ["wafer CANCELLING", "wafer PENDING", "wafer RUNNING"]), (0, [])):
        asks = f"print(sorted(end_what_is_left(datetime.now(UTC) + timedelta(seconds={since}))))"
        assert run(sys.executable, "-c", work + asks, **environment).strip().endswith(str(named))
    ended = {"SCHEDULED": "SCHEDULED", "CANCELLING": "CANCELLED"}
    for state, one in left.items():
        until(environment, one, ended.get(state, "CRASHED"))
    until(environment, other, "RUNNING")
