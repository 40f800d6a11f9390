import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from wafer.errors import RegistryError, SettingsError
from wafer.registry import Registry
from wafer.registry.provenance import describe_source


def test_an_unreachable_server_is_refused_quickly():
    """A server that nobody answers at is one clear sentence within seconds."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        start = time.perf_counter()
        with pytest.raises(RegistryError, match=f"the model registry at {uri} cannot be reached: .*refused"):
            Registry(uri)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("scheme", "proxy", "told"),
    [
        ("http", "", "the server does not answer in time: see whether it hangs, and run this again"),
        ("http", "http://127.0.0.1:9", "the proxy that HTTP_PROXY or HTTPS_PROXY names cannot be reached"),
        ("https", "", "no trusted TLS connection could be made"),
    ],
)
def test_what_keeps_a_server_from_answering_is_told(scheme, proxy, told, monkeypatch, capfd):
    """A server that takes connections and says nothing, or nonsense, and a dead proxy: the cause, in silence, soon."""
    for name, value in {"http_proxy": proxy, "no_proxy": "", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        if scheme == "https":
            threading.Thread(target=_say_nonsense, args=(server,), daemon=True).start()
        uri = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        start = time.perf_counter()
        with pytest.raises(RegistryError, match=f"^the model registry at {uri} could not .*{told}"):
            Registry(uri).champion()
        assert time.perf_counter() - start < 20
    assert capfd.readouterr() == ("", "")


def _say_nonsense(server):
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("uri", "error"),
    [("mlruns", RegistryError), ("file:///tmp/mlruns", RegistryError), ("http://", SettingsError)],
)
def test_an_address_that_cannot_be_used_is_named(uri, error):
    """A folder, which MLflow no longer takes, and an address without a host are refused by name."""
    with pytest.raises(error, match=uri):
        Registry(uri)


def test_a_file_that_is_no_database_is_one_clear_sentence(tmp_path):
    """A broken database file is refused without a traceback of MLflow's."""
    (tmp_path / "mlflow.db").write_text("this is no database, and long enough not to look like an empty one" * 20)
    with pytest.raises(RegistryError, match=r"^the model registry at sqlite:.* could not .*$"):
        Registry(f"sqlite:///{tmp_path}/mlflow.db").champion()


@pytest.mark.slow
def test_a_new_registry_is_made_in_silence(tmp_path):
    """Making the database, with all its migrations, says nothing on the terminal."""
    code = (
        "from wafer.registry import Registry\n"
        f"Registry('sqlite:///{tmp_path}/new/state/mlflow.db', '{tmp_path}/new/artifacts').champion()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_the_source_is_described_with_git_and_without(tmp_path):
    """Lineage names commit and cleanliness of a checkout; a commit that was stamped counts whatever git says."""
    found = describe_source(tmp_path, stamped="abc123")
    assert (found["git.commit"], found["git.dirty"]) == ("abc123", "unknown")
    assert describe_source(tmp_path)["git.commit"] == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    file = Path(tmp_path, "a.txt")
    file.write_text("1")
    for command in (["init", "-q"], ["add", "a.txt"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True, timeout=30)
    clean = describe_source(tmp_path)
    assert (len(clean["git.commit"]), clean["git.dirty"]) == (40, "false")
    file.write_text("2")
    assert describe_source(tmp_path)["git.dirty"] == "true"
    file.write_text("1")
    assert describe_source(tmp_path)["git.dirty"] == "false"
    Path(tmp_path, "new.py").touch()
    assert describe_source(tmp_path)["git.dirty"] == "true"
    assert "library.scikit-learn" in clean
    assert not any("skops" in name for name in clean)
    stamped = describe_source(tmp_path, stamped="f" * 40)
    assert (stamped["git.commit"], stamped["git.dirty"]) == ("f" * 40, "unknown")
    stamped = describe_source(tmp_path, stamped=clean["git.commit"])
    assert (stamped["git.commit"], stamped["git.dirty"]) == (clean["git.commit"], "true")


@pytest.mark.parametrize("ignored", [True, False])
def test_a_package_within_another_repository_has_no_commit(tmp_path: Path, ignored: bool) -> None:
    """Installed in a `.venv` of somebody's repository, the code does not come from that repository's commit."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    (tmp_path / ".gitignore").write_text(".venv\n" if ignored else "")
    for command in (["init", "-q"], ["add", ".gitignore"], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True, timeout=30)
    package = tmp_path / ".venv" / "lib" / "wafer"
    package.mkdir(parents=True)
    (package / "steps.py").touch()
    found = describe_source(package)
    assert (found["git.commit"], found["git.dirty"]) == ("unknown", "unknown")
    assert describe_source(package, stamped="abc123")["git.commit"] == "abc123"
