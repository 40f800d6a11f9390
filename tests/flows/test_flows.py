"""The flows on a real, temporary Prefect server: the main job, and what a person sees when something is wrong."""

import ast
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from nbformat.v4 import new_code_cell, new_notebook
from prefect import Task, flow, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

import flows.predict
import flows.report
import flows.retrain
import flows.train
import wafer
from flows import automations
from flows.entry import MINUTES, NOTHING_TO_DO, Finished, failures
from flows.ingest import ingest, ingest_batches
from flows.predict import predict
from flows.retrain import retrain
from flows.train import train
from flows.watch import watch
from tests import terminal
from tests.conftest import REPOSITORY
from tests.imports import tree
from tests.receiver import Receiver, listening
from wafer import steps
from wafer.errors import DeliveryError, RegistryError, UnfitError
from wafer.fab.simulate import simulate_batches
from wafer.params import read_params
from wafer.records import Due, Frozen, Refused
from wafer.registry import Registry
from wafer.runs import Run
from wafer.settings import Settings
from wafer.storage import read_json

MODULES = ("ingest", "predict", "report", "retrain", "train", "watch")
PAGES = ("ingest-training", "ingest-prediction", "prediction", "data_quality", "exploration", "training")


def at_length_on_a_server(test: Callable[..., None]) -> Callable[..., None]:
    """Run on one Prefect server, which takes its time to start, with the others that need it."""
    for mark in pytest.mark.slow, pytest.mark.xdist_group("prefect"):
        test = mark(test)
    return pytest.mark.usefixtures("prefect_server")(test)


def on_a_server(test: Callable[..., None]) -> Callable[..., None]:
    """The same, of what must never break."""
    return pytest.mark.invariant(at_length_on_a_server(test))


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """One server for the module."""
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture
def storage(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The environment names the test's own storage and database, as for a real run."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("WAFER_STORAGE", settings.storage_url)
    monkeypatch.setenv("MONGODB_URL", settings.mongodb_url or "")
    monkeypatch.setenv("MONGODB_DATABASE", settings.mongodb_database)
    monkeypatch.setenv("WAFER_JOBS", "1")
    return Settings.read()


def runs_of(storage: Settings, kind: str) -> list[str]:
    """The ids of MLflow's runs of a kind."""
    client = MlflowClient(storage.tracking_uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    return [run.info.run_id for run in client.search_runs(experiments, f"tags.kind = '{kind}'")]


def kept_files(storage: Settings, run_id: str) -> list[str]:
    """The names of the reports that MLflow keeps with a run."""
    return sorted(Path(file.path).name for file in MlflowClient(storage.tracking_uri).list_artifacts(run_id, "reports"))


@pytest.fixture
def pages(storage: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A web server of the storage, to which links lead."""
    serve = partial(SimpleHTTPRequestHandler, directory=storage.storage_url)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WAFER_PAGES_URL", f"http://127.0.0.1:{server.server_port}/")
        yield
        server.shutdown()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Who is told what comes of runs."""
    with listening(monkeypatch) as receiver:
        yield receiver


def check_what_prefect_shows(names: list[str]) -> None:
    """The newest flow runs have these names; verdicts and summaries are shown, and every link opens a page."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=len(names))
        assert [run.name for run in reversed(runs)] == names
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs]))
        shown = {artifact.key: artifact for artifact in client.read_artifacts(flow_run_filter=chosen)}
    verdicts = json.loads(shown["verdicts-prediction"].data)
    assert [(row["verdict"], row["wafers"]) for row in verdicts] == [("accepted", 40)] * 2
    links = [str(artifact.data) for artifact in shown.values()]
    links = [link for text in links for link in re.findall(r"\]\((\S+)\)", text)]
    assert {link.rpartition("/")[2] for link in links} == {f"{name}.html" for name in PAGES}
    for link in links:
        with urllib.request.urlopen(link, timeout=10) as answer:
            assert b"<html" in answer.read()


@at_length_on_a_server
@pytest.mark.usefixtures("pages")
def test_the_flows_do_the_whole_job(storage: Settings, small_params: Path, receiver: Receiver) -> None:
    """Ingest, train and predict: reports, a champion, and each accepted wafer scored once in its batch's order. Prefect
    shows what came of each, under names that say on what it worked, and a webhook is told of the alarms."""
    with wafer.open() as workspace:
        steps.deliver_where_empty(workspace, read_params(small_params).deliver)
        assert ingest(None, "training").complaints == ()
        done = workspace.runs.get(train(str(small_params)).run_id)
        taken_in = workspace.runs.latest("ingest-training")
        raw = {kind: workspace.storage.key(workspace.raw(kind)) for kind in ("training", "prediction")}
    assert taken_in is not None
    champion = Registry.open(storage).champion()
    assert champion is not None
    assert champion.version == 1
    notebooks = ("data_quality", "exploration", "training")
    files = [f"{name}.{ending}" for name in notebooks for ending in ("html", "ipynb")]
    assert sorted(p.name for p in done.place("").iterdir() if p.suffix in (".html", ".ipynb")) == files
    assert kept_files(storage, champion.run_id) == files
    scored_run = workspace.runs.get(predict().run_id)
    names = [f"{taken_in.id} of {raw['training']}", f"{done.id} on {done.read(Frozen).digest[:8]}"]
    check_what_prefect_shows([*names, f"{scored_run.id} of {raw['prediction']}"])
    (prediction,) = runs_of(storage, "prediction")
    assert kept_files(storage, prediction) == ["details", "prediction.html", "prediction.ipynb"]
    index = read_json(scored_run.place("predictions.json"))
    assert len(index) == 2
    alarms = [one["alarms"] for one in index if one["alarms"]]
    told = [message["data"] for message in receiver.messages if message["type"] == "wafer.alarms"]
    assert [item["alarms"] for data in told for item in data["items"]] == alarms != []
    assert all(data["place"].startswith("http://127.0.0.1:") for data in told)
    for file in sorted(workspace.raw("prediction").iterdir()):
        scored = pd.read_csv(Path(str(scored_run.place("predictions"))) / file.name)
        assert scored["Wafer"].tolist() == pd.read_csv(file).iloc[:, 0].tolist()
        assert set(scored["model_version"]) == {1}


@at_length_on_a_server
def test_a_retraining_says_what_asked_for_it(
    storage: Settings, small_params: Path, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time, then not without new labels, then by these; a version that is refused once too often is told."""
    content = yaml.safe_load(small_params.read_text())
    content["gate"]["minimum_auc"] = 1.0
    content["retrain"] |= {"new_labels": 40, "days": 10.0, "refusals": 2}
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(content))
    for name in ("data_quality", "exploration", "training"):
        write_notebook(tmp_path / "project", name, "print('in short')")
    monkeypatch.setenv("WAFER_PROJECT", str(tmp_path / "project"))
    list(simulate_batches(tmp_path / "raw", batches=6, wafers=40, seed=7))
    ingest(str(tmp_path / "raw"), "training")
    first = retrain(str(params))
    nothing = retrain(str(params), return_state=True)
    assert (nothing.name, nothing.type) == ("NothingToDo", StateType.COMPLETED)
    assert nothing.message == "nothing was trained: no wafer was labelled since version 1 was trained"
    assert nothing.result() == Finished(None, told=nothing.message)
    list(simulate_batches(tmp_path / "raw", batches=1, wafers=40, seed=7, first_batch=6))
    ingest(str(tmp_path / "raw"), "training")
    second = retrain(str(params))
    with wafer.open() as workspace:
        runs = [workspace.runs.get(one.run_id) for one in (first, second)]
        assert workspace.runs.names("training") == [second.run_id, first.run_id]
    assert [run.read(Due).cause for run in runs] == ["first", "labels"]
    assert (runs[0].has(Refused), runs[1].read(Refused)) == (False, Refused(2))
    told = "the gate has refused 2 versions in a row: see `wafer models log` for its reasons"
    assert second == Finished(second.run_id, (), f"40 wafers were labelled since version 1 was trained. {told}")
    (message,) = [message["data"] for message in receiver.messages if message["type"] == "wafer.refusals"]
    assert message["items"] == [{"version": 2, "in_a_row": 2}]


def relabel(file: Path, faults: int) -> int:
    """Give the first wafers of a labelled batch file the label of a fault, the others that of none; how many got it."""
    header, *lines = file.read_text().splitlines()
    labels = [1 if number < faults else -1 for number in range(len(lines))]
    written = [f"{line.rpartition(',')[0]},{label}" for line, label in zip(lines, labels, strict=True)]
    file.write_text("\n".join([header, *written, ""]))
    return labels.count(1)


@at_length_on_a_server
@pytest.mark.parametrize(
    ("batches", "wafers", "faults"),
    [
        (1, 20, 0),
        (1, 20, 1),
        (1, 40, 2),
        (1, 40, 40),
        (9, 5, 4),
        (1, 200, 1),
        (2, 30, 18),
        (3, 40, 0),
        (3, 40, 1),
        (4, 30, 12),
        (1, 200, 20),
        (9, 44, 40),
        (2, 60, 119),
    ],
)
def test_an_odd_fab_goes_through_the_training(
    batches: int, wafers: int, faults: int, storage: Settings, tmp_path: Path, small_params: Path
) -> None:
    """Its batch files are taken in and trained on, whole with figures and pages; what is too few is told."""
    left = faults
    for file in simulate_batches(tmp_path / "raw", batches=batches, wafers=wafers, seed=7):
        left -= relabel(Path(str(file)), left)
    assert left == 0
    assert ingest(str(tmp_path / "raw"), "training").complaints == ()
    if batches * wafers < 40 or faults < 2 or faults > 0.3 * batches * wafers:
        with pytest.raises(UnfitError, match="is not fit to train on") as caught:
            train(str(small_params))
        assert "\n" not in str(caught.value)
        assert Registry.open(storage).versions() == []
        return
    assert train(str(small_params)).complaints == ()
    assert [version.training for version in Registry.open(storage).versions()] == ["finished"]


@on_a_server
def test_predicting_before_any_training_says_so(storage: Settings, tmp_path: Path, small_params: Path) -> None:
    """Without a champion the prediction flow fails with the sentence that tells what to do, and takes nothing in."""
    with wafer.open() as workspace:
        steps.deliver_where_empty(workspace, read_params(small_params).deliver)
    with pytest.raises(RegistryError, match="run the training first"):
        predict()
    (failed, _) = workspace.runs.all()
    assert (failed["kind"], failed["state"]) == ("prediction", "failed")
    assert "run the training first" in failed["error"]
    with wafer.open() as again:
        assert again.store.status().batches["prediction"] == 0


@on_a_server
def test_a_missing_folder_is_an_error_of_the_delivery(storage: Settings) -> None:
    """A folder that is not there is named."""
    with pytest.raises(DeliveryError, match="no/such/folder"):
        ingest("no/such/folder", "training")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["ingest", "--raw", "no/such/folder"], {}, "no/such/folder"),
        (["train", "--params", "no/such/params.yaml"], {}, "no/such/params.yaml is not a file"),
        (["train"], {"MONGODB_URL": "mongodb://127.0.0.1:9/"}, "nobody answers at 127.0.0.1:9"),
        (["predict", "--raw", "."], {"WAFER_JOBS": "none"}, "WAFER_JOBS"),
    ],
)
def test_a_persons_mistake_ends_in_one_sentence(
    arguments: list[str], environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    """On the command line of a flow: exit status 2, one clear sentence, no traceback."""
    done = terminal.wafer(*arguments, cwd=REPOSITORY, WAFER_STORAGE=str(tmp_path), **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_an_unreadable_file_shows_in_the_exit_status(tmp_path: Path) -> None:
    """The good file beside it is taken in, the report names it, and the command ends with 1."""
    raw = tmp_path / "raw"
    (good,) = simulate_batches(raw, batches=1, wafers=20, seed=7)
    (raw / "wafer_01012020_000000.csv").symlink_to(tmp_path / "nowhere")
    done = subprocess.run(
        [Path(sys.executable).with_name("wafer"), "ingest", "--raw", str(raw)],
        cwd=REPOSITORY,
        env={**os.environ, "WAFER_STORAGE": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (file,) = (tmp_path / "data" / "runs").glob("*/ingest-training.json")
    report = json.loads(file.read_text())
    verdicts = {batch["file"]: batch["verdict"] for batch in report["batches"]}
    assert verdicts == {good.name: "accepted", "wafer_01012020_000000.csv": "unread"}


def forward(port: int, to: int) -> None:
    """Let a port lead to another one, as long as the process lives."""

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(listening: socket.socket) -> None:
        while True:
            here, there = listening.accept()[0], socket.create_connection(("127.0.0.1", to))
            for ends in (here, there), (there, here):
                Thread(target=pass_on, args=ends, daemon=True).start()

    Thread(target=serve, args=(socket.create_server(("127.0.0.1", port)),), daemon=True).start()


@on_a_server
@pytest.mark.parametrize(
    ("away", "in_a_deployment", "tries"), [(True, True, 2), (True, False, 1), (False, True, 1)], ids=str
)
def test_what_a_silent_server_stopped_is_tried_again(
    *, away: bool, in_a_deployment: bool, tries: int, storage: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that comes back completes the task of a deployment; a person at a terminal is told at once; a fault of
    the delivery is never tried again. `away` says whether the database is, else the delivery is missing."""
    address = urlsplit(storage.mongodb_url or "")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told: list[str] = []

    class Return(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is tried again" in record.getMessage():
                told.append(record.getMessage())
                forward(port, address.port or 0)

    if away:
        list(simulate_batches(tmp_path / "raw", batches=1, wafers=20, seed=7))
        monkeypatch.setenv("MONGODB_URL", (storage.mongodb_url or "").replace(f":{address.port}", f":{port}"))
    if in_a_deployment:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "5a28743e-4e16-443c-843f-dbdfede71093")
    handler, log = Return(), logging.getLogger("wafer")
    log.addHandler(handler)

    @flow
    def take_in() -> State[Any]:
        with wafer.open() as workspace, workspace.runs.started("ingest-training") as run:
            task = ingest_batches.with_options(retry_delay_seconds=0.5)
            return task(run.id, str(tmp_path / "raw"), "training", return_state=True)

    try:
        state = take_in(return_state=True)
    finally:
        log.removeHandler(handler)
    assert state.is_completed() == (tries == 2), state
    assert len(told) == tries - 1
    with get_client(sync_client=True) as client:
        (seen,) = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        )
    assert seen.run_count == tries


@pytest.mark.slow
def test_a_step_that_takes_too_long_is_stopped(tmp_path: Path, small_params: Path) -> None:
    """The task of a fit in a pool fails soon after its time is over, and no process goes on computing."""
    script = f"""
import time, psutil, wafer
from flows import train
from flows.entry import failures
from prefect import flow
from wafer import steps
from wafer.params import read_params
from wafer.settings import make_prefect_home, prepare_environment

make_prefect_home(prepare_environment())
params = read_params({str(small_params)!r})

@flow
def late():
    with wafer.open() as workspace, steps.working(workspace, "training") as run:
        steps.deliver_where_empty(workspace, params.deliver)
        steps.ingest(workspace, run, "training")
        train.freeze_snapshot(run.id)
        train.fit_model(run.id, params.fit, params.policy, params.monitor)
        start = time.monotonic()
        task = train.evaluate_recipe.with_options(timeout_seconds=2)
        many = params.evaluate.model_copy(update=dict(repeats=50))
        state = task(run.id, many, params.fit, params.policy, return_state=True)
        took = time.monotonic() - start
        time.sleep(1)
        kinds = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
        print(state.name, failures(state), took < 10, [one for one in kinds if "popen_loky" in one])

late()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, "WAFER_STORAGE": str(tmp_path / "data"), "WAFER_JOBS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["TimedOut ('Scope timed out after 2.0 second(s).',) True []"], done.stderr


def write_notebook(project: Path, name: str, *cells: str) -> None:
    """A report of this name in a project: its parameters, then these cells."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in ("run = storage = ''", *cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (project / "notebooks").mkdir(parents=True, exist_ok=True)
    (project / "notebooks" / f"{name}.ipynb").write_text(nbformat.writes(notebook))


@on_a_server
def test_a_killed_kernel_fails_its_task_within_half_a_minute(
    storage: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` in the middle of a cell: the task fails soon, says so, and the page is kept as far as it came."""
    pid = tmp_path / "pid"
    work = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    write_notebook(tmp_path / "project", "training", "print('so far')", work)
    monkeypatch.setenv("WAFER_PROJECT", str(tmp_path / "project"))
    killed: list[float] = []

    def kill() -> None:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.1)
        time.sleep(1)
        os.kill(int(pid.read_text()), signal.SIGKILL)
        killed.append(time.monotonic())

    @flow
    def tell() -> tuple[Run, State[Any]]:
        with wafer.open() as workspace, workspace.runs.started("training") as run:
            return run, flows.report.report(run.id, "training", return_state=True)

    Thread(target=kill, daemon=True).start()
    run, state = tell()
    seconds = time.monotonic() - killed[0]
    assert seconds < 30
    (told,) = failures(state)
    assert "failed because its kernel died" in told
    assert "so far" in run.place("training.html").read_text()


def test_the_limits_of_tasks_are_documented() -> None:
    """Every task ends in the time that the manual's table says, and is tried again as often as that says."""
    tasks = [
        one
        for module in (flows.ingest, flows.predict, flows.report, flows.retrain, flows.train)
        for one in vars(module).values()
    ]
    known = {one.fn.__name__: one for one in tasks if isinstance(one, Task)}
    assert known.keys() == MINUTES.keys()
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (\d+) \| (\d) \|$", (REPOSITORY / "docs/operations.md").read_text(), re.MULTILINE
    )
    assert {name: (60 * int(minutes), int(tries)) for name, minutes, tries in rows} == {
        name: (task.timeout_seconds, task.retries) for name, task in known.items()
    }


def test_no_step_is_more_than_one_task() -> None:
    """A task is one call of one step, and a flow calls each task once, not in a loop; each notebook is a step."""
    functions = [one for name in MODULES for one in ast.walk(tree(f"flows.{name}")) if isinstance(one, ast.FunctionDef)]
    called = {one.name: calls(one) for one in functions}
    tasks = {one.name for one in functions if any(ast.unparse(how).startswith("step(") for how in one.decorator_list)}
    assert tasks == MINUTES.keys()
    for one in functions:
        if one.name in tasks:
            assert len([name for name in called[one.name] if name.startswith("steps.")]) == 1, one.name
            assert tasks.isdisjoint(called[one.name]), one.name
        else:
            assert max(Counter(name for name in called[one.name] if name in tasks).values(), default=1) == 1, one.name
            loops = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
            within = {name for loop in ast.walk(one) if isinstance(loop, loops) for name in calls(loop)}
            assert within & tasks <= {"report"}, one.name


def calls(code: ast.AST) -> list[str]:
    """What a piece of code calls."""
    return [ast.unparse(one.func) for one in ast.walk(code) if isinstance(one, ast.Call)]


def test_deployments_name_flows_that_exist() -> None:
    """prefect.yaml's entrypoints are flows whose parameters are all explained; each deployment is called `wafer`, one
    run of it works at a time, and its schedules have a time zone and are inactive."""
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    known_flows: dict[str, Any] = {
        f"flows.{flow.name}:{flow.name}": flow for flow in (ingest, train, retrain, predict, watch)
    }
    assert [d["entrypoint"] for d in deployments] == list(known_flows)
    for deployment in deployments:
        flow = known_flows[deployment["entrypoint"]]
        assert deployment["name"] == "wafer"
        assert deployment["tags"] == ["wafer", flow.name]
        assert [(s["active"], s["timezone"]) for s in deployment["schedules"]] == [(False, "UTC")]
        assert deployment["concurrency_limit"]["limit"] == 1
        assert deployment["work_pool"]["job_variables"]["env"] == {
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY.name: str(automations.SECONDS_BETWEEN_HEARTBEATS)
        }
        assert automations.TAG in deployment["tags"]
        assert f"prefect.flow-run.{NOTHING_TO_DO}" in automations.ENDS, "else it is taken for dead"
        known = flow.parameters.properties
        assert set(deployment.get("parameters", {})) <= known.keys(), json.dumps(deployment)
        assert [name for name, schema in known.items() if not schema.get("description")] == []
