"""The servers of a stack, real ones, from the first start to nothing left."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.stack.servers import free_base, running
from tests.terminal import wafer
from wafer.errors import StackError
from wafer.settings import Settings
from wafer.stack import parts
from wafer.stack.control import FIRST_LINE, LAST_LINE, status, up, write_variables
from wafer.stack.keeper import Running
from wafer.stack.parts import Part, Place, postgres_server, prefect_server, s3_server

WAFER = Path(sys.executable).with_name("wafer")
SERVERS = ["database", "S3 server", "Prefect server", "MLflow server", "service", "Prefect worker"]


def left_of(place: Path) -> list[str]:
    """The processes that have anything to do with a folder, whatever became of their parents."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd(), *process.environ().values()]
        except (psutil.Error, OSError):
            continue
        if process.pid != os.getpid() and any(str(place) in word for word in words):
            found.append(" ".join(process.cmdline()))
    return found


def wait_until_gone(place: Path, seconds: float = 10.0) -> list[str]:
    """What is left after some seconds, in which a watcher may notice that it has nothing to watch."""
    deadline = time.monotonic() + seconds
    while (left := left_of(place)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.mark.slow
def test_a_stack_from_its_start_to_nothing_left(project: Path, environment: dict[str, str]) -> None:
    """Healthy servers, `.env` that points to them, a dead part that is named, and then no process and no stray file."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [WAFER, *words]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)

    temporary = {file.name for file in Path("/tmp").iterdir()}
    started = run("stack", "up")
    assert started.returncode == 0, started.stderr
    lines = (project / ".env").read_text().splitlines()
    assert lines[:4] == ["MONGODB_DATABASE=mine", "# a remark", "", FIRST_LINE]
    assert lines[-1] == LAST_LINE
    assert stat.S_IMODE((project / ".env").stat().st_mode) == 0o600

    (project / ".env").write_text("MONGODB_DATABASE=mine\n# a remark")
    again = run("stack", "up")
    assert again.returncode == 0
    assert "is up already" in again.stdout
    assert (project / ".env").read_text().splitlines() == lines
    examined = run("doctor", "--json")
    assert examined.returncode == 0, examined.stdout
    checks = json.loads(examined.stdout)
    assert [check["name"] for check in checks if check["state"] == "ok"] == [
        *("places", "storage", "clock", "database", "clock", "leases", "registry", "Prefect", "pages")
    ]
    sqlite = [] if (project / "stack" / "postgres").exists() else ["it works on SQLite"]
    assert [check["told"].partition(":")[0] for check in checks if check["state"] != "ok"] == sqlite

    prefect = f"http://127.0.0.1:{environment['WAFER_PORT_BASE']}"
    with urllib.request.urlopen(f"{prefect}/ui-settings", timeout=30) as answer:
        assert json.load(answer)["api_url"] == f"{prefect}/api", "what Prefect's page asks in a browser"
    service = f"http://127.0.0.1:{int(environment['WAFER_PORT_BASE']) + 5}"
    with urllib.request.urlopen(f"{service}/v1/runs", timeout=30) as answer:
        assert json.load(answer) == [], "the service works on the stack's storage"
    pid = json.loads((project / "stack" / "stack.json").read_text())["pids"]["MLflow server"]
    os.kill(pid, signal.SIGKILL)
    psutil.Process(pid).wait(10)
    seen = run("stack", "status", "--json")
    assert seen.returncode == 1
    found = {one["name"]: one["why"] for one in json.loads(seen.stdout)}
    assert {**dict.fromkeys(SERVERS), "MLflow server": "it has ended"}.items() <= found.items()
    assert f"it has ended; its log is {project}/stack/mlflow/log.txt" in run("stack", "status").stdout

    stopped = run("stack", "down")
    assert stopped.returncode == 0, stopped.stderr
    assert wait_until_gone(project) == []
    assert {file.name for file in Path("/tmp").iterdir() if file.name.startswith("wafer-stack")} <= temporary
    assert not list(Path("/tmp").glob(f"seaweedfs-*{environment['WAFER_PORT_BASE'][:-2]}*.sock"))
    assert run("stack", "status").returncode == 1
    assert run("stack", "down").stdout == f"no stack runs ({project}/stack)\n"


@pytest.mark.slow
def test_a_part_that_does_not_start_takes_the_others_with_it(
    project: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part, its log and the last lines of that are told, with exit status 2, and nothing runs any more."""
    (project / "stack" / "mlflow" / "mlflow.db").mkdir(parents=True)
    done = subprocess.run(
        [WAFER, "stack", "up"], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    first, *last = done.stderr.splitlines()
    log = project / "stack" / "mlflow" / "log.txt"
    assert first == f"wafer: the MLflow server does not start: it ended with status 1; its log, {log}, ends with:"
    assert any("unable to open database file" in line for line in last)
    assert wait_until_gone(project) == []
    assert (project / ".env").read_text() == "MONGODB_DATABASE=mine\n# a remark"


@pytest.mark.slow
def test_a_start_that_is_told_to_end_stops_what_it_has_started(project: Path, environment: dict[str, str]) -> None:
    """Meanwhile others are told to wait; afterwards nothing runs, and `.env` is as it was."""
    command = [WAFER, "stack", "up"]
    with subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True) as starting:
        while not (project / "stack" / "s3" / "log.txt").exists():
            assert starting.poll() is None
            time.sleep(0.1)
        told = f"wafer: the stack in {project}/stack is being started or stopped: wait for that\n"
        for word in ("up", "down", "status"):
            done = wafer("stack", word, cwd=project)
            assert (done.returncode, done.stderr) == (2, told)
        starting.terminate()
        assert starting.wait(60) == 143
    assert wait_until_gone(project) == []
    assert (project / ".env").read_text() == "MONGODB_DATABASE=mine\n# a remark"


@pytest.mark.slow
def test_what_the_s3_server_keeps_is_there_after_a_restart(tmp_path: Path) -> None:
    """An object outlasts the server, whose keys stay the same; a wrong key is refused; sockets in /tmp go."""
    base = free_base()
    with running(s3_server(place := Place(tmp_path, tmp_path, base)), place):
        place.storage.write_text("kept.txt", "kept")
    with running(s3_server(place := Place(tmp_path, tmp_path, base)), place):
        assert place.storage.place("kept.txt").read_text() == "kept"
        place.secrets["s3_secret"] = "wrong"
        with pytest.raises(PermissionError):
            place.storage.place("kept.txt").read_text()
    assert not [file for file in s3_server(place).litter if file.exists()]


def test_a_port_in_use_is_named_with_its_part(tmp_path: Path) -> None:
    """Nothing is started where one of the ports is somebody else's."""
    place = Place(tmp_path / "stack", tmp_path, free_base())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", place.port("MLflow server")))
        taken.listen()
        told = (
            rf"^port {place.base + 3} is needed for the MLflow server, but cannot be had \(Address already in use\): .*"
        )
        with pytest.raises(StackError, match=rf"{told}WAFER_PORT_BASE, now {place.base}, "):
            up(place, lambda name, address: pytest.fail(f"{name} was started"))
    assert status(place.folder) == []
    assert wait_until_gone(place.folder) == []


def test_a_part_that_ends_is_told_with_its_last_lines(tmp_path: Path) -> None:
    """The log's end follows the sentence, a line each."""
    command = (sys.executable, "-c", "print('one\\ntwo'); raise SystemExit(3)")
    part = Part("S3 server", tmp_path, "nowhere", command, lambda: "it does not answer")
    with pytest.raises(StackError) as caught:
        Running(part).wait()
    told = f"the S3 server does not start: it ended with status 3; its log, {tmp_path}/log.txt, ends with:"
    assert caught.value.sentences == (told, "one", "two")


def test_variables_stand_in_a_block_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written anew each time; the user's lines stay, what they or the environment set is told, odd folders are read."""
    file = tmp_path / ".env"
    file.write_text("PREFECT_API_URL=http://mine/api\n")
    folder = str(tmp_path / "it's a #1 \\ folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    variables = {"PREFECT_API_URL": "http://x/api", "MLFLOW_TRACKING_URI": "http://x", "WAFER_STATE": folder}
    for _ in range(2):
        assert write_variables(file, variables) == ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"]
    text = file.read_text()
    assert text.startswith(
        f"PREFECT_API_URL=http://mine/api\n\n{FIRST_LINE}\nMLFLOW_TRACKING_URI=http://x\nWAFER_STATE="
    )
    assert text.count(FIRST_LINE) == text.count(LAST_LINE) == 1
    (tmp_path / "expectations").mkdir()
    assert str(Settings.read(project=tmp_path).state) == folder
    file.write_text(text.removesuffix("\n"))  # as an editor may leave it
    assert write_variables(file, variables) and file.read_text() == text
    file.write_text(text + "JUST=mine\n")
    write_variables(file, {})
    assert file.read_text() == f"PREFECT_API_URL=http://mine/api\nJUST=mine\n\n{FIRST_LINE}\n{LAST_LINE}\n"


def test_a_missing_program_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wafer stack up` without the S3 server says what to install, and starts nothing."""
    (tmp_path / "expectations").mkdir()
    monkeypatch.setattr(parts.shutil, "which", lambda *_, **__: None)
    done = wafer("stack", "up", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "wafer: the program weed is not installed: pip install 'wafer[stack]'\n"
    assert not (tmp_path / ".env").exists()


POSTGRES = """
import asyncio, sys
from pathlib import Path
import asyncpg
from tests.stack.servers import running
from wafer.stack.parts import Place, postgres_server, prefect_server
place = Place(Path(sys.argv[1]), Path(sys.argv[1]), int(sys.argv[2]))
async def version(password):
    connection = await asyncpg.connect(
        host="127.0.0.1", port=place.port("PostgreSQL"), user="wafer", password=password, database="postgres"
    )
    return await connection.fetchval("select count(*) from alembic_version")
with running(server := postgres_server(place), place), running(prefect_server(place, server), place):
    print(asyncio.run(version(place.secrets["postgres"])))
    try:
        asyncio.run(version("wrong"))
    except asyncpg.InvalidPasswordError:
        print("refused")
"""
NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_read_search"]
NOBODY += ["--ambient-caps=+dac_read_search", "--bounding-set=+dac_read_search"]  # an interpreter may lie in /root


@pytest.mark.slow
def test_prefect_works_on_postgresql_where_one_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for its password, holds Prefect's tables, and outlasts a restart; root's stack does without."""
    folder = tmp_path / "stack"
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    if parts._postgres_programs() is None:
        pytest.skip("no PostgreSQL is installed")
    monkeypatch.undo()
    as_user: list[str] = []
    if os.geteuid() == 0:
        assert postgres_server(Place(folder, tmp_path, 20_000)) is None, "PostgreSQL refuses root"
        for above in (folder, *folder.parents):
            if above.owner() == "root" and above != Path("/tmp"):
                above.chmod(above.stat().st_mode | 0o055)
            if above.parent == Path("/tmp"):
                break
        os.chown(folder, 65534, 65534)
        as_user = NOBODY
        if subprocess.run([*NOBODY, "true"], check=False).returncode:
            pytest.skip("this root may not become another user")
    for _ in range(2):
        command = [*as_user, sys.executable, "-c", POSTGRES, str(folder), str(free_base())]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(folder)}
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
        assert (done.stdout, done.returncode) == ("1\nrefused\n", 0), done.stderr
    assert not (folder / "prefect" / "prefect.db").exists()


def test_a_stack_that_began_on_sqlite_stays_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL that is installed later does not hide what Prefect's server has kept."""
    monkeypatch.setattr(parts, "_postgres_programs", lambda: Path("/usr/bin"))
    place = Place(tmp_path, tmp_path, 20_000)
    assert postgres_server(place) is not None
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").touch()
    assert postgres_server(place) is None
    assert "PREFECT_SERVER_DATABASE_DRIVER" not in prefect_server(place, None).environment
