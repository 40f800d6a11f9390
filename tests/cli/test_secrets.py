"""Secrets that a variable holds are shown nowhere, whatever breaks; what a run leaves is its owner's alone."""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

WAFER = Path(sys.executable).with_name("wafer")
MARK = re.compile(rb"h1dden", re.IGNORECASE)
ADDRESSES = {
    "MONGODB_URL": "mongodb://me:h1dden-m%2Fongo%40@{}/?authSource=admin",
    "MLFLOW_TRACKING_URI": "http://me:h1dden-ml%3Aflow@{}",
    "PREFECT_API_URL": "http://me:h1dden-prefect@{}/api",
    "AWS_ENDPOINT_URL": "http://me:h1dden-endpoint@{}",
    "WAFER_WEBHOOK_URL": "http://me:h1dden-webhook@{}/h1dden-path",
}
SECRETS = {
    "PREFECT_API_KEY": "h1dden/key",
    "AWS_SECRET_ACCESS_KEY": "h1dden+secret",
    "AWS_SESSION_TOKEN": "h1dden token",
    "AWS_ACCESS_KEY_ID": "H1DDENKEYID",
    "MLFLOW_TRACKING_PASSWORD": "h1dden-password",
    "WAFER_WEBHOOK_SECRET": "h1dden-signing",
}


@pytest.fixture
def silent() -> Iterator[str]:
    """A host and port at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def told_by(arguments: list[str], storage: Path, environment: dict[str, str]) -> bytes:
    """All that a command, which must fail, shows and leaves: on the terminal, in its storage, among temporary files."""
    temporary = storage.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    env = {**os.environ, "TMPDIR": str(temporary), "WAFER_STORAGE": str(storage), **SECRETS, **environment}
    done = subprocess.run([WAFER, *arguments], cwd=REPOSITORY, env=env, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    left = [file.read_bytes() for file in storage.parent.rglob("*") if file.is_file()]
    return b"\n".join([done.stdout, done.stderr, *left])


@pytest.mark.slow
@pytest.mark.invariant
@pytest.mark.parametrize("command", [["models", "list"], ["store", "status"], ["train"]], ids=" ".join)
def test_a_server_that_does_not_answer_gives_no_secret_away(command: list[str], silent: str, tmp_path: Path) -> None:
    """Every server named, none there: neither the terminal nor a log nor the state folder holds a secret."""
    environment = {name: address.format(silent) for name, address in ADDRESSES.items()}
    told = told_by(command, tmp_path / "data", environment)
    assert silent.encode() in told
    assert not MARK.search(told)


@pytest.mark.parametrize("variable", ADDRESSES)
@pytest.mark.parametrize("broken", ["{}:99999", "{}:port", "", "a b"])
def test_an_address_that_cannot_be_read_gives_no_secret_away(
    variable: str, broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad port, no host, a blank in it: one sentence that names the variable."""
    from wafer.cli.main import main

    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv(variable, ADDRESSES[variable].format(broken.format("127.0.0.1")))
    with pytest.raises(SystemExit):
        main(["store", "status"])
    told = capsys.readouterr()
    assert not MARK.search((told.out + told.err).encode())
    assert told.err.startswith(f"wafer: {variable} is ")


@pytest.mark.slow
def test_a_whole_run_gives_no_secret_away_and_leaves_nothing_to_others(tmp_path: Path, small_params: Path) -> None:
    """Under umask 077, with every secret set: neither those nor the embedded database's own password stand anywhere but
    in its file `secret`; whatever is made, with Prefect's and MLflow's databases, is for its owner. A `secantusd.toml`
    in the home folder changes nothing."""
    project, home, temporary = (tmp_path / name for name in ("project", "home", "tmp"))
    for folder in (project, home, temporary):
        folder.mkdir(mode=0o700)
    (home / "secantusd.toml").write_text("[server]\nport = 'h1dden'\nauth = false\n")
    shutil.copytree(home, home / ".secantus")
    shutil.copytree(REPOSITORY / "expectations", project / "expectations")
    shutil.copyfile(small_params, project / "params.yaml")
    before = set(tmp_path.rglob("*"))
    env = {**os.environ, **SECRETS, "HOME": str(home), "TMPDIR": str(temporary), "WAFER_JOBS": "1"}
    done = subprocess.run([WAFER, "run"], cwd=project, env=env, umask=0o077, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    secret = project / "data" / "state" / "mongodb" / "secret"
    hidden = re.compile(MARK.pattern + b"|" + re.escape(secret.read_bytes()), re.IGNORECASE)
    made = {path for path in tmp_path.rglob("*") if path not in before and not path.is_symlink()}
    assert [path for path in made - {secret} if path.is_file() and hidden.search(path.read_bytes())] == []
    assert not hidden.search(done.stdout + done.stderr)
    assert {path: oct(stat.S_IMODE(path.stat().st_mode)) for path in made if path.stat().st_mode & 0o077} == {}
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
