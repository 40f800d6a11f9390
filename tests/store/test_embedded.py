"""The embedded database server: shared while used, stopped when the last user is gone."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pymongo
import pytest
from pymongo.errors import OperationFailure

from wafer.errors import StoreError
from wafer.store import supervisor
from wafer.store.embedded import embedded_server, url_of, wait_until_stopped
from wafer.store.supervisor import Server

PROGRAM = supervisor._program()
USER = """
import sys, time
from pathlib import Path
from wafer.store.embedded import embedded_server
with embedded_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(60)
"""
HOLDER = """
import fcntl, sys
with open(sys.argv[1], "wb") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.invariant
def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """The server keeps its files in the folder, stops when its user is gone, and starts again on them."""
    with embedded_server(tmp_path) as url, pymongo.MongoClient(url) as client:
        client.shop.things.insert_one({"_id": 1})
    assert wait_until_stopped(tmp_path)
    assert not (tmp_path / "server.json").exists()
    with embedded_server(tmp_path) as url, pymongo.MongoClient(url) as client:
        assert list(client.shop.things.find()) == [{"_id": 1}]
    assert wait_until_stopped(tmp_path)


@pytest.mark.slow
@pytest.mark.invariant
def test_users_share_one_server_and_a_killed_one_leaves_none_behind(tmp_path: Path) -> None:
    """Two processes get the same server; killed with -9, the last user takes the server with it."""
    with embedded_server(tmp_path) as url:
        user = subprocess.Popen([sys.executable, "-c", USER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert user.stdout is not None
        assert user.stdout.readline().strip() == url
        server = json.loads((tmp_path / "server.json").read_text())["server"]
    time.sleep(1.5)
    assert alive(server), "the other process still uses it"
    user.send_signal(signal.SIGKILL)
    user.communicate()
    assert wait_until_stopped(tmp_path)
    assert not alive(server)


@pytest.mark.slow
def test_a_killed_supervisor_takes_the_server_along(tmp_path: Path) -> None:
    """The server ends, and the next user gets a new one on the same data."""
    with embedded_server(tmp_path) as url, pymongo.MongoClient[dict[str, int]](url) as client:
        client.shop.things.insert_one({"_id": 1})
        running = json.loads((tmp_path / "server.json").read_text())
        os.kill(running["supervisor"], signal.SIGKILL)
        assert wait_until_stopped(tmp_path)
    with embedded_server(tmp_path) as url, pymongo.MongoClient[dict[str, int]](url) as client:
        assert list(client.shop.things.find()) == [{"_id": 1}]
        assert not alive(running["server"])
    assert wait_until_stopped(tmp_path)


@pytest.mark.slow
@pytest.mark.invariant
def test_nobody_gets_in_without_the_password(tmp_path: Path) -> None:
    """Without credentials and with wrong ones nothing can be read or written; the folder and its secret are private."""
    folder = tmp_path / "mongodb"
    with embedded_server(folder) as url:
        secret = (folder / "secret").read_text()
        strangers = (url.replace(f"wafer:{secret}@", "").replace("&authSource=admin", ""), url.replace(secret, "guess"))
        with pymongo.MongoClient[dict[str, int]](url) as client:
            client.shop.things.insert_one({"_id": 1})
            for stranger in strangers:
                with pymongo.MongoClient[dict[str, int]](stranger) as other:
                    for attempt in (other.shop.things.find_one, lambda c=other: c.shop.things.insert_one({"_id": 2})):
                        with pytest.raises(OperationFailure, match="authentication"):
                            attempt()
            assert list(client.shop.things.find()) == [{"_id": 1}]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    assert wait_until_stopped(folder)


@pytest.mark.slow
def test_a_folder_of_before_gets_its_password_and_keeps_its_data(tmp_path: Path) -> None:
    """Data that a server without users kept stay; users that somebody else made go; the folder becomes private."""
    tmp_path.chmod(0o755)
    server = Server(PROGRAM, tmp_path)
    server.wait_until_it_listens()
    with pymongo.MongoClient[dict[str, int]](url_of(server.port)) as client:
        client.shop.things.insert_one({"_id": 1})
        client.shop.command("createUser", "stranger", pwd="known", roles=["root"])
    server.stop()
    with embedded_server(tmp_path) as url, pymongo.MongoClient[dict[str, int]](url) as client:
        assert list(client.shop.things.find()) == [{"_id": 1}]
        assert [(user["db"], user["user"]) for user in client.admin["system.users"].find()] == [("admin", "wafer")]
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert wait_until_stopped(tmp_path)


@pytest.mark.slow
def test_an_unfinished_first_start_is_thrown_away(tmp_path: Path) -> None:
    """What is in the data of a first start that did not end may be anybody's."""
    server = Server(PROGRAM, tmp_path)
    server.wait_until_it_listens()
    with pymongo.MongoClient[dict[str, int]](url_of(server.port)) as client:
        client.shop.things.insert_one({"_id": 1})
    server.stop()
    (tmp_path / "first-start").touch()
    (tmp_path / "secret").write_text("of a server that is no more")
    with embedded_server(tmp_path) as url, pymongo.MongoClient[dict[str, int]](url) as client:
        assert "shop" not in client.list_database_names()
    assert wait_until_stopped(tmp_path)


@pytest.mark.slow
def test_who_got_in_at_the_first_start_is_found_out(tmp_path: Path) -> None:
    """A user and data that somebody else made before the password was asked for: the user goes, the data are told."""
    supervisor._make_user(PROGRAM, tmp_path, "right", fresh=True)
    server = Server(PROGRAM, tmp_path)
    server.wait_until_it_listens()
    with pymongo.MongoClient[dict[str, int]](url_of(server.port)) as client:
        client.shop.things.insert_one({"_id": 1})
        client.shop.command("createUser", "stranger", pwd="known", roles=["root"])
    server.stop()
    server = Server(PROGRAM, tmp_path, "--auth")
    server.wait_until_it_listens()
    with pytest.raises(StoreError, match="somebody else wrote to it"):
        supervisor._refuse_others(server.port, "right", fresh=True)
    with pymongo.MongoClient[dict[str, str]](url_of(server.port, "right")) as client:
        assert [user["user"] for user in client.admin["system.users"].find()] == ["wafer"]
    server.stop()


@pytest.mark.slow
@pytest.mark.invariant
def test_a_configuration_in_the_home_folder_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server reads its own file alone."""
    home = tmp_path / "home" / ".secantus"
    home.mkdir(parents=True)
    (home / "secantusd.toml").write_text('[server]\nhost = "0.0.0.0"\nno_such_key = 1\n')
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.chdir(home)
    with embedded_server(tmp_path / "mongodb") as url, pymongo.MongoClient[dict[str, int]](url) as client:
        assert client.admin.command("ping")["ok"] == 1
    assert wait_until_stopped(tmp_path / "mongodb")


def refused(folder: Path) -> str:
    """Why no server starts in `folder`, which must be told in one sentence and at once."""
    start = time.monotonic()
    with pytest.raises(StoreError) as caught, embedded_server(folder):
        pass
    assert time.monotonic() - start < 30
    message = str(caught.value)
    assert message.startswith(f"the embedded database in {folder} does not start: ")
    assert message.endswith("; or set MONGODB_URL to another server")
    assert "\n" not in message
    assert wait_until_stopped(folder)
    return message


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (f"PermissionError: [Errno {errno.EACCES}] Not allowed: 'x'", f"{supervisor.READ_ONLY} (Not allowed: 'x')"),
        (f"OSError: [Errno {errno.EADDRNOTAVAIL}] No address", f"{supervisor.DEAF} (No address)"),
        (f"_wiredtiger.WiredTigerError: {os.strerror(errno.EROFS)}", supervisor.READ_ONLY),
        (f"_wiredtiger.WiredTigerError: {os.strerror(errno.EBUSY)}", supervisor.BUSY),
        (f"_wiredtiger.WiredTigerError: {os.strerror(errno.EINVAL)}", supervisor.DAMAGED),
        ("_wiredtiger.WiredTigerError: WT_TRY_SALVAGE: database corruption detected", supervisor.DAMAGED),
        ("secantus.storage.IncompatibleStorageFormatError: written by a build before", supervisor.DAMAGED),
        ("ValueError: an unsupported version, or corrupt", "an unsupported version, or corrupt"),
        ("nothing that is an error", "it ended with status 3"),
    ],
)
def test_what_the_servers_last_words_mean(tmp_path: Path, words: str, why: str) -> None:
    """By the number or the type of the error, in whatever words a release puts it; what is not known stands alone."""
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nprint('Traceback')\nprint({words!r})\nraise SystemExit(3)\n")
    program.chmod(0o700)
    with pytest.raises(StoreError) as caught:
        Server(str(program), tmp_path).wait_until_it_listens()
    assert str(caught.value) in (why, f"{why} ({words.partition(': ')[2]})")


def test_data_that_another_process_has_open_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a server that needs some seconds to end: known by its lock, told after a while, taken when it is gone."""
    monkeypatch.setattr(supervisor, "SECONDS_TO_STOP", 0.5)
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "data" / "WiredTiger.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreError, match=f"^{supervisor.BUSY}$"):
            supervisor._listening(PROGRAM, tmp_path)
        monkeypatch.setattr(supervisor, "SECONDS_TO_STOP", 20.0)
        ending = threading.Timer(0.5, holder.kill)
        ending.start()
        server = supervisor._listening(PROGRAM, tmp_path)
        assert holder.poll() is not None
    assert server.runs()
    server.stop(at_once=True)


def test_data_that_are_a_file_are_told(tmp_path: Path) -> None:
    """The cause and the way out, not a line of a traceback."""
    (tmp_path / "data").write_text("not a folder")
    assert "there is a file where its folder of data should be: move that away" in refused(tmp_path)


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    """The folder itself, or one above it."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"its folder cannot be used .File exists"), embedded_server(folder):
            pass


@pytest.mark.slow
def test_damaged_data_are_told(tmp_path: Path) -> None:
    """Files that are not what the server wrote."""
    with embedded_server(tmp_path):
        pass
    assert wait_until_stopped(tmp_path)
    (tmp_path / "data" / "WiredTiger.turtle").write_bytes(bytes(range(256)) * 8)
    assert "its data are damaged or of another version" in refused(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make a small disk")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """Whether there is no room for the data, or for anything at all, also where the server would begin all the same."""
    for size in ("256k", "4k"):
        disk = tmp_path / size
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=False).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            assert "the disk is full: make room (" in refused(disk / "mongodb")
        finally:
            subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_program_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without the program beside it or on the path."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("PATH", str(python.parent))
    monkeypatch.setattr(sys, "executable", str(python))
    assert "pip install 'wafer[embedded]'" in refused(tmp_path / "mongodb")
