"""The playbook for hosts outside of Kubernetes: checked, and run twice on this machine, below a folder."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from tests.conftest import REPOSITORY
from tests.deploy.tools import DEPLOY, OWN, ran, tool
from tests.stack.servers import free_base
from wafer.stack.parts import ask

PLAYBOOK = DEPLOY / "ansible"


def quiet(folder: Path) -> dict[str, str]:
    """Environment in which Ansible writes into this folder alone, and reads nobody's configuration."""
    (folder / "ansible.cfg").write_text("[defaults]\nnocows = true\n")
    return {
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / ".ansible"),
        "ANSIBLE_LOCAL_TEMP": str(folder / ".ansible" / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(folder / ".ansible" / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
        "LC_ALL": "C.UTF-8",
        "PATH": f"{OWN}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.slow
@pytest.mark.invariant
def test_ansible_lint_finds_nothing(tmp_path: Path) -> None:
    """The playbook keeps the rules of ansible-lint's strictest profile."""
    folder = tmp_path / "ansible"
    shutil.copytree(PLAYBOOK, folder)
    ran(tool("ansible-lint"), "--offline", "--profile", "production", ".", cwd=folder, **quiet(tmp_path))


@pytest.mark.slow
@pytest.mark.invariant
def test_every_variable_is_explained_and_used() -> None:
    """Above each default of a role stands what it means, and the role reads it."""
    for role in ("wafer", "mlflow", "prefect_worker"):
        file = PLAYBOOK / "roles" / role / "defaults" / "main.yml"
        lines = file.read_text().splitlines()
        written = "".join(
            one.read_text() for kind in ("tasks", "templates") for one in (file.parents[1] / kind).glob("*")
        )
        heading = ""
        for before, line in pairwise(lines):
            if name := re.match(rf"({role}_\w+):", line):
                heading = before if before.startswith("#") else heading
                assert heading, f"{name[1]} is not explained"
                assert name[1] in written or f"{{{{ {name[1]} " in file.read_text(), f"{name[1]} is not used"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ran(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=REPOSITORY)
    (found,) = folder.glob("*.whl")
    return found


def started(unit: Path, *more: str) -> tuple[list[str], dict[str, str], Path]:
    """What systemd would start by a unit: command, environment, working directory."""
    lines = unit.read_text().splitlines()
    named = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    environment = {}
    for line in Path(named["EnvironmentFile"]).read_text().splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition("=")
            (environment[name],) = shlex.split(value)
    path = [value.split("=", 1)[1] for key, value in named.items() if key == "Environment"]
    environment |= {"PATH": path[0] if path else "/usr/bin:/bin"}
    return [*shlex.split(named["ExecStart"]), *more], environment, Path(named["WorkingDirectory"])


@contextmanager
def running(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> Iterator[None]:
    """A process of its own while the block runs; what it told is shown where it ends early."""
    with log.open("wb") as told:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=told, stderr=subprocess.STDOUT)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_until(port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + 240
    while ask(port, path)[0] != 200:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def online(api: str) -> list[str]:
    """Workers of the pool that the server knows to be there."""
    address = f"{api}/work_pools/wafer/workers/filter"
    request = urllib.request.Request(address, b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [one["name"] for one in json.load(answer) if one["status"] == "ONLINE"]


@pytest.mark.slow
def test_a_second_run_changes_nothing_and_what_it_made_works(wheel: Path, tmp_path: Path) -> None:
    """Installed from wheel and lock with digests checked; MLflow's server and the worker start as the units say."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed, which makes environments here")
    base, root = free_base(), tmp_path / "host"
    api = f"http://127.0.0.1:{base + 1}/api"
    variables = {
        "ansible_python_interpreter": sys.executable,
        "mlflow_port": base,
        "mlflow_workers": 1,
        "prefect_worker_environment": {"PREFECT_API_URL": api, "WAFER_STORAGE": str(tmp_path / "data")},
        "prefect_worker_secrets": {"WAFER_WEBHOOK_SECRET": 'not "so" secret \\ $HOME'},
        "wafer_installer": [uv, "pip"],
        "wafer_python": sys.executable,
        "wafer_root": str(root),
        "wafer_wheel": str(wheel),
    }
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    hosts = {"ansible_connection": "local"}
    groups = {name: {"hosts": {"localhost": hosts}} for name in ("mlflow", "prefect_workers")}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    command = [tool("ansible-playbook"), "--inventory", str(tmp_path / "inventory.yml"), str(PLAYBOOK / "site.yml")]
    command += ["--extra-vars", f"@{tmp_path / 'variables.json'}"]

    root.mkdir()
    first, second = (ran(*command, cwd=tmp_path, **quiet(tmp_path)) for _ in range(2))
    assert re.search(r"changed=[1-9]\d* .*failed=0", first), first
    assert re.search(r"changed=0 .*failed=0", second), second
    assert "secret" not in first

    units = root / "etc" / "systemd" / "system"
    files = [root / "etc" / "wafer" / name for name in ("mlflow.env", "prefect-worker.env")]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    bin_folder = root / "opt" / "wafer" / "venv" / "bin"
    assert re.match(r"wafer, version \d", ran(bin_folder / "wafer", "--version", cwd=root, PYTHONPATH=""))

    served, environment, place = started(units / "wafer-mlflow.service")
    with running(served, environment, place, tmp_path / "mlflow.log"):
        wait_until(base, "/health", tmp_path / "mlflow.log")
        MlflowClient(f"http://127.0.0.1:{base}").create_experiment("of a host")
    assert (root / "var" / "lib" / "wafer" / "mlflow" / "mlflow.db").is_file()

    worked, environment, place = started(units / "wafer-prefect-worker.service")
    assert environment["WAFER_WEBHOOK_SECRET"] == 'not "so" secret \\ $HOME'
    asked = {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect"), "PATH": environment["PATH"]}
    server = [str(bin_folder / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(base + 1)]
    with running(server, asked, tmp_path, tmp_path / "prefect.log"):
        wait_until(base + 1, "/api/health", tmp_path / "prefect.log")
        subprocess.run(
            [bin_folder / "prefect", "work-pool", "create", "wafer", "--type", "process"],
            env={**asked, "PREFECT_API_URL": api},
            check=True,
            capture_output=True,
        )
        with running(worked, environment, place, tmp_path / "worker.log"):
            deadline = time.monotonic() + 120
            while not online(api):
                assert time.monotonic() < deadline, (tmp_path / "worker.log").read_text()
                time.sleep(0.5)
