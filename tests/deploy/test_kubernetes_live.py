"""The programs of the manifests, with their words and variables, run on this machine in place of a cluster."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
import yaml
from fastapi.testclient import TestClient

from tests.conftest import REPOSITORY
from tests.deploy.cluster import KUBERNETES, named, objects
from tests.deploy.kube_api import Api
from tests.deploy.tools import ran, tool
from wafer.service.app import create_app
from wafer.service.core import Options
from wafer.service.tokens import Tokens
from wafer.settings import Settings
from wafer.workspace import Workspace

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
IMAGE = "registry.example.com/wafer:4f1c0de"


def container(name: str, overlay: str = "kind") -> Any:
    return named(overlay, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(url: str, body: object = None, host: str | None = None) -> tuple[int, bytes]:
    """Status and body of an answer; 0 where there is none."""
    headers = {"Content-Type": "application/json"} | ({"Host": host} if host else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()
    except (URLError, OSError):
        return 0, b""


@contextmanager
def server(name: str, folder: Path, probe: str, **changed: str) -> Iterator[str]:
    """A server by the words and variables of its container, on a loopback port; its address."""
    port = free_port()
    words = [str(word) for word in container(name)["args"]]
    words[words.index("--host") + 1], words[words.index("--port") + 1] = "127.0.0.1", str(port)
    variables = {**named("kind", "ConfigMap", name)["data"], "HOME": str(folder), **changed}
    address = f"http://127.0.0.1:{port}"
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / words[0], *words[1:]], env={**clean(), **variables}, cwd=folder, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 180
        while asked(address + probe)[0] != 200:
            assert process.poll() is None, (folder / f"{name}.log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"{name} does not answer"
            time.sleep(0.5)
        yield address
    finally:
        ended(process)


def clean() -> dict[str, str]:
    """The environment without what belongs to this machine's own work."""
    ours = ("WAFER_", "PREFECT_", "MLFLOW_", "MONGODB_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prefect")
    database = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    changed = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    changed["PREFECT_SERVER_UI_STATIC_DIRECTORY"] = str(folder / "ui")
    with server("prefect-server", folder, "/api/health", **changed) as address:
        yield address


@pytest.fixture(scope="module")
def registered(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of the overlay's runs on this machine, after the job `register` has run twice."""
    folder = tmp_path_factory.mktemp("cluster")
    variables = {**named("kind", "ConfigMap", "wafer-runs")["data"], "HOME": str(folder)}
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "MLFLOW_TRACKING_URI"):
        variables.pop(name)
    variables |= {"WAFER_STORAGE": str(folder / "data"), "WAFER_STATE": str(folder / "state")}
    variables |= {"PREFECT_API_URL": f"{prefect_server}/api"}
    base = KUBERNETES / "base"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, base / "register.py", base / "job-template.json"],
            env={**clean(), **variables, "IMAGE": IMAGE, "NAMESPACE": "wafer"},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return variables


def api(variables: dict[str, str], path: str, body: object = None) -> Any:
    status, answer = asked(f"{variables['PREFECT_API_URL']}{path}", body)
    assert status in (200, 201), answer
    return json.loads(answer)


def test_prefects_server_answers_the_probes_and_shows_its_page(prefect_server: str) -> None:
    """By the words and variables of its container, with its page's files where a read-only root allows them."""
    paths = {container("prefect-server")[kind]["httpGet"]["path"] for kind in ("readinessProbe", "livenessProbe")}
    assert {path: asked(prefect_server + path)[0] for path in paths} == dict.fromkeys(paths, 200)
    assert b"<html" in asked(f"{prefect_server}/")[1].lower()


def test_register_makes_all_once(registered: dict[str, str]) -> None:
    """The pool has the template with this image, the deployments lead to a folder that every pod has."""
    pool = api(registered, "/work_pools/wafer")
    properties = pool["base_job_template"]["variables"]["properties"]
    assert (pool["type"], properties["image"]["default"], properties["namespace"]["default"]) == (
        "kubernetes",
        IMAGE,
        "wafer",
    )
    deployments = api(registered, "/deployments/filter", {})
    assert sorted(one["entrypoint"] for one in deployments) == [
        f"flows.{name}:{name}" for name in ("ingest", "predict", "retrain", "train", "watch")
    ]
    steps = {json.dumps(one["pull_steps"]) for one in deployments}
    assert steps == {json.dumps([{"prefect.deployments.steps.set_working_directory": {"directory": "/tmp"}}])}
    automations = [one["name"] for one in api(registered, "/automations/filter", {})]
    assert len(automations) == len(set(automations)) == 3


def test_a_run_works_by_the_job_that_is_made_of_it(registered: dict[str, str]) -> None:
    """The pool's template, filled by Prefect's worker for a run of a deployment, is a command that completes it."""
    from prefect.client.schemas.objects import FlowRun
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    deployment = api(registered, "/deployments/name/watch/wafer")
    asks = {"parameters": {"seconds": 0.2, "minutes": 0.02}, "state": {"type": "SCHEDULED"}}
    run = api(registered, f"/deployments/{deployment['id']}/create_flow_run", asks)
    template = api(registered, "/work_pools/wafer")["base_job_template"]
    made = KubernetesWorkerJobConfiguration.from_template_and_values(
        template, deployment["job_variables"], client=object()
    )
    configuration: Any = asyncio.run(made)
    configuration.prepare_for_flow_run(FlowRun.model_validate(run))
    (job,) = configuration.job_manifest["spec"]["template"]["spec"]["containers"]
    assert job["image"] == IMAGE
    given = {one["name"]: one["value"] for one in job["env"] if "value" in one}
    done = executed(job, {**registered, "WAFER_JOBS": "1", **given})
    state = api(registered, f"/flow_runs/{run['id']}")["state"]
    assert (done.returncode, state["type"]) == (0, "COMPLETED"), done.stderr[-3000:]


def test_mlflow_answers_the_probes_and_its_own_name(tmp_path: Path) -> None:
    """A probe asks by the pod's address; others than clients that say mlflow are turned away."""
    changed = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    changed["MLFLOW_ARTIFACTS_DESTINATION"] = str(tmp_path / "artefacts")
    with server("mlflow", tmp_path, "/health", **changed) as address:
        search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
        assert asked(f"{address}/health", host="10.1.2.3:5000")[0] == 200
        assert asked(search, host="mlflow:5000")[0] == 200
        assert asked(search, host="evil.example:5000")[0] == 403
        assert (tmp_path / "mlflow.db").exists()


def test_the_service_answers_probes_and_prometheus_by_its_address(settings: Settings) -> None:
    """The pod's address is a name of it; figures are for a token with the scope read, and other names are refused."""
    probes = {container("service")[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert probes == {"/healthz", "/readyz"}
    with Workspace(settings) as workspace:
        token = Tokens(workspace.storage).create("prometheus", ("read",), None)[1]
        options = Options("0.0.0.0", 8321, ("10.1.2.3", "service"), tokens=True)
        with TestClient(create_app(workspace, options), base_url="http://10.1.2.3:8321") as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 503  # there is no champion yet
            assert client.get("/metrics").status_code == 401
            found = client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
            assert (found.status_code, "wafer_http_requests_total" in found.text) == (200, True)
            assert client.get("/version", headers={"Host": "10.9.9.9:8321"}).status_code == 400


def test_the_worker_needs_no_right_that_its_role_lacks(registered: dict[str, str], tmp_path: Path) -> None:
    """Prefect's worker, by its container's words, on a stand-in for the cluster: a run completes, another crashes,
    and one loses its job; what is called then is what the role has, which beyond it has only what cancelling needs.
    """
    fates = iter(("completes", "crashes", "loses its job"))
    told: list[str] = []

    def work(cluster: Api, job: Any) -> None:
        fate = next(fates)
        if fate == "completes":
            (one,) = job["spec"]["template"]["spec"]["containers"]
            given = {each["name"]: each["value"] for each in one["env"] if "value" in each}
            told.append(executed(one, {**registered, "WAFER_JOBS": "1", **given}).stderr)
            cluster.completed(job)
        elif fate == "crashes":
            cluster.failed(job)
        else:
            cluster.removed(job)

    with standing_in(work) as cluster, worker(registered, cluster, tmp_path) as health:
        assert asked(f"{health}{container('worker')['livenessProbe']['httpGet']['path']}")[0] == 200
        states = [outcome(registered) for _ in range(3)]
    log = (tmp_path / "worker.log").read_text()
    assert states == ["COMPLETED", "CRASHED", "CRASHED"], f"{states} {cluster.calls} {told} {log[-3000:]}"
    assert len(cluster.posted) == 3
    for number, job in enumerate(cluster.posted):
        assert job["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump({**job, "metadata": {**job["metadata"], "name": "run"}}))
        ran(tool("kubernetes-validate"), "--strict", "--kubernetes-version", "1.33.0", file)
    (role,) = objects("kind", "Role")
    rights = {("wafer", verb, what) for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    assert rights - cluster.calls == {("wafer", "delete", "jobs")}
    assert cluster.calls <= rights


def outcome(variables: dict[str, str]) -> str:
    """The state in which a new run of watch/wafer ends."""
    deployment = api(variables, "/deployments/name/watch/wafer")
    asks = {"parameters": {"seconds": 0.2, "minutes": 0.02}, "state": {"type": "SCHEDULED"}}
    run = api(variables, f"/deployments/{deployment['id']}/create_flow_run", asks)["id"]
    deadline = time.monotonic() + 180
    while (found := api(variables, f"/flow_runs/{run}"))["state"]["type"] not in ENDED:
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    return str(found["state"]["type"])


ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def executed(job: Any, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What came of a container's command on this machine."""
    return subprocess.run(
        [str(BIN / job["args"][0]), *job["args"][1:]],
        env={**clean(), **variables},
        cwd=job["workingDir"],
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def standing_in(work: Callable[[Api, Any], None]) -> Iterator[Api]:
    """A stand-in for a cluster's API."""
    cluster = Api(work)
    thread = threading.Thread(target=cluster.serve_forever, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        for _, watcher in cluster.watchers:
            watcher.put(None)
        cluster.shutdown()
        cluster.server_close()


@contextmanager
def worker(variables: dict[str, str], cluster: Api, folder: Path) -> Iterator[str]:
    """Prefect's worker by the words and variables of its container; where its health is asked."""
    port = free_port()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "worker", "namespace": "wafer"}}],
        "clusters": [{"name": "here", "cluster": {"server": cluster.address}}],
        "users": [{"name": "worker", "user": {"token": "nobody"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    given = {**named("kind", "ConfigMap", "worker")["data"], "PREFECT_API_URL": variables["PREFECT_API_URL"]}
    given |= {"HOME": str(folder), "KUBECONFIG": str(folder / "kubeconfig"), "PREFECT_WORKER_QUERY_SECONDS": "2"}
    given |= {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": str(port)}
    words = container("worker")["args"]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / words[0], *words[1:]], env={**clean(), **given}, cwd=folder, stdout=log, stderr=log
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
        while asked(f"{address}/health")[0] != 200:
            assert process.poll() is None, (folder / "worker.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the worker does not answer"
            time.sleep(0.5)
        yield address
    finally:
        ended(process)


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
