"""Files that are complete or absent, in a folder and in S3."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, tzinfo
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from upath import UPath

from tests.faults.proxy import Fault, Proxy
from wafer.errors import StorageError
from wafer.runs import Runs
from wafer.settings import Settings
from wafer.storage import (
    PATIENCE,
    Storage,
    bucket_errors,
    copy_where_missing,
    is_local,
    is_silent,
    local_folder,
    private_folder,
    read_json,
    take_lock,
    write_bytes,
    write_json,
    written_folder,
)


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """The storage of settings that name a folder, and of settings that name a bucket."""
    if request.param == "folder":
        return Settings.read(storage_url=str(tmp_path / "data")).storage.root
    address = request.getfixturevalue("s3_address")
    settings = Settings.read(storage_url=f"s3://{tmp_path.name}/data", s3_endpoint=address, state_folder=tmp_path)
    settings.storage.root.fs.mkdir(tmp_path.name)
    return settings.storage.root


def names(folder: UPath | Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_json_comes_back(storage: UPath) -> None:
    """A document written is the document read, also where its folder did not exist."""
    write_json(storage / "reports" / "a.json", {"é": [1, None]})
    assert read_json(storage / "reports" / "a.json") == {"é": [1, None]}


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    """NaN is no JSON: nothing is written."""
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert names(tmp_path) == []


def test_a_folder_appears_whole(storage: UPath) -> None:
    """A folder is filled aside; it appears with all its files, in place of the one before."""
    for files in (["old"], ["manifest.json", "part", "sub/part"]):
        with written_folder(storage / "m") as aside:
            for name in files:
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_text(name)
    with local_folder(storage / "m") as local:
        assert (local / "sub" / "part").read_text() == "sub/part"
        assert {"manifest.json", "part", "sub/part"} <= set(names(local))


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    """An error while a folder is being filled leaves what was there, and nothing else."""
    write_bytes(tmp_path / "m" / "a", b"old")
    with pytest.raises(RuntimeError), written_folder(tmp_path / "m") as aside:
        (aside / "a").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["m/a"]
    assert (tmp_path / "m" / "a").read_bytes() == b"old"


def test_a_failed_write_leaves_nothing_aside(tmp_path: Path) -> None:
    """A file that cannot take its place leaves no part behind."""
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask of a user who shares, and of one who does not."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_is_written_has_the_mode_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    """Files, folders, and those above them; a tree that is copied from a temporary folder included."""
    write_bytes(tmp_path / "reports" / "a.json", b"{}")
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o700)
    (scratch / "part").write_bytes(b"x")
    with written_folder(tmp_path / "models" / "m") as aside:
        shutil.copytree(scratch, aside, dirs_exist_ok=True)
    assert mode(tmp_path / "reports" / "a.json") == mode(tmp_path / "models" / "m" / "part") == 0o666 & ~umask
    folders = (tmp_path / "reports", tmp_path / "models", tmp_path / "models" / "m")
    assert {mode(folder) for folder in folders} == {0o777 & ~umask}


def test_a_private_folder_is_private_however_it_was(umask: int, tmp_path: Path) -> None:
    """A new one, and one that others could enter; one with the sticky bit is shared on purpose."""
    assert mode(private_folder(tmp_path / "storage" / "state")) == 0o700
    assert mode(tmp_path / "storage") == 0o777 & ~umask
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o775)
    assert mode(private_folder(tmp_path / "open")) == 0o700
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    assert mode(private_folder(tmp_path / "shared")) == 0o777


@pytest.fixture
def keyed(storage: UPath, request: pytest.FixtureRequest) -> Storage:
    """The same storage by keys."""
    if is_local(storage):
        return Storage(str(storage))
    return Storage(str(storage), endpoint_url=request.getfixturevalue("s3_address"))


def test_a_key_is_opened_by_its_storage_alone(keyed: Storage) -> None:
    """What is written under a key is found under it, and by its place; a missing or broken document is named."""
    keyed.check()
    keyed.write_json("runs/a/metrics.json", {"auc": 0.5})
    assert keyed.read_json("runs/a/metrics.json") == {"auc": 0.5}
    assert keyed.key(keyed.place("runs/a/metrics.json")) == "runs/a/metrics.json"
    assert (keyed.children("runs"), keyed.children("nothing")) == (["a"], [])
    keyed.write_text("runs/a/odd.json", "{")
    for key, told in (("runs/a/gone.json", "gone.json is not there"), ("runs/a/odd.json", "odd.json is not JSON")):
        with pytest.raises(StorageError, match=told):
            keyed.read_json(key)


def test_a_second_set_with_fewer_files_leaves_none_of_the_first(storage: UPath) -> None:
    """What is written to the same place again holds what was written last, in a folder as in a bucket."""
    for files in (["a", "b/c", "manifest.json"], ["a", "manifest.json"]):
        with written_folder(storage / "set") as aside:
            for name in files:
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_text(name)
    with local_folder(storage / "set") as local:
        assert names(local) == ["a", "manifest.json"]


def test_of_many_writers_of_a_new_file_one_wins(keyed: Storage) -> None:
    """The others are told that they were not the first."""
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: keyed.put_new("runs/a/run.json", str(n).encode()), range(24)))
    assert sum(won) == 1
    assert keyed.place("runs/a/run.json").read_bytes() == str(won.index(True)).encode()


def race(storage: Storage, key: str, writers: int) -> list[bool]:
    """What each of many writers is told that let `key` hold their number at the same moment, where it held None."""
    storage.write_json(key, None)
    start = threading.Barrier(writers)

    def write(number: int) -> bool:
        start.wait()
        return storage.point(key, number, newer=lambda present: present is None)

    with ThreadPoolExecutor(writers) as threads:
        return list(threads.map(write, range(writers)))


def test_of_a_hundred_writers_of_one_pointer_one_wins(tmp_path: Path) -> None:
    """The others are told so, and the pointer holds what the winner wrote."""
    won = race(Storage(str(tmp_path)), "latest/x.json", 100)
    assert sum(won) == 1
    assert read_json(tmp_path / "latest" / "x.json") == won.index(True)


def test_an_answer_that_is_lost_is_no_other_writer(
    s3_server: str, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done already, asked once more and refused: it is first all the same; and 409 says to ask once more."""
    with Proxy(urlsplit(s3_server).port or 0, "http") as proxy:
        storage = Storage(f"s3://{tmp_path.name}/data", endpoint_url=f"http://127.0.0.1:{proxy.port}")
        storage.root.fs.mkdir(tmp_path.name)
        for write in (
            lambda: storage.put_new("run.json", b"1"),
            lambda: storage.point("new.json", 1, newer=lambda present: present < 1),
            lambda: storage.point("new.json", 2, newer=lambda present: present < 2),
        ):
            proxy.fault = Fault(rb"^PUT ", "lose", times=1)
            assert write() is True
            assert proxy.fault.struck == 1
        for key, first in (("run.json", False), ("other.json", True)):
            proxy.fault = Fault(rb"^PUT ", "answer", times=1, status=409)
            assert storage.put_new(key, b"2") is first
        proxy.fault = Fault(rb"^PUT ", "answer", status=409)
        monkeypatch.setattr("wafer.storage.ATTEMPTS", 2)
        with pytest.raises(StorageError, match=r"data/third\.json could not be written: other writers came first"):
            storage.put_new("third.json", b"3")


def test_a_lock_that_nobody_gives_back_is_told(tmp_path: Path) -> None:
    """Another holder, stuck or stopped, is waited for some time only; where it lets go in time that is enough."""
    with (tmp_path / "lock").open("ab") as stuck, (tmp_path / "lock").open("ab") as mine:
        take_lock(stuck, tmp_path / "lock")
        with pytest.raises(TimeoutError, match=r"another process has locked it for 0\.2 seconds: end that.*/lock'$"):
            take_lock(mine, tmp_path / "lock", seconds=0.2)
        threading.Timer(0.2, stuck.close).start()
        take_lock(mine, tmp_path / "lock")
        assert stuck.closed


def test_a_pointer_never_goes_back(keyed: Storage) -> None:
    """Of writers at the same time the newest has the last word, whoever comes first."""

    def write(number: int) -> bool:
        return keyed.point("latest/x.json", number, newer=lambda present: number > present)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(24)))
    assert keyed.read_json("latest/x.json") == 23
    assert not write(5)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("gs://bucket/x", "a folder or s3://bucket/prefix, got gs://"),
        ("s3:///x", "names no bucket"),
    ],
)
def test_an_address_that_is_no_storage_is_refused(url: str, told: str) -> None:
    """The sentence names the variable and what was expected."""
    with pytest.raises(StorageError, match=told):
        Storage(url)


def test_a_bucket_that_is_not_there_is_not_made(s3_address: str) -> None:
    """A misspelt bucket is told before anything starts, and stays absent; so is a name that no bucket can have."""
    storage = Storage("s3://mispelt/x", endpoint_url=s3_address)
    for look in (storage.check, storage.need_bucket):
        with pytest.raises(StorageError, match=r"^WAFER_STORAGE is s3://mispelt/x: there is no bucket 'mispelt'"):
            look()
    assert not storage.root.fs.exists("mispelt")
    with pytest.raises(StorageError, match='Invalid bucket name "No!"'):
        Storage("s3://No!/x", endpoint_url=s3_address).need_bucket()


def test_the_true_reason_is_told_where_no_bucket_can_be_asked(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No keys anywhere, and no server: neither is a missing bucket."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = Storage("s3://fab/x", endpoint_url=f"{s3_server}/")  # one by itself, since clients are kept by address
    with pytest.raises(StorageError, match=r"^WAFER_STORAGE is s3://fab/x: Unable to locate credentials$"):
        storage.need_bucket()
    storage = Storage("s3://fab/x", endpoint_url="http://127.0.0.1:9", key="a", secret="b")
    with pytest.raises(StorageError, match=r"^WAFER_STORAGE is s3://fab/x: Could not connect to the endpoint URL"):
        storage.need_bucket()


def test_a_copy_that_is_there_is_left_alone(storage: UPath, tmp_path: Path) -> None:
    """The same bytes are not written again, under somebody who reads them; others are."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "part").write_bytes(b"1")
    target = storage / "models" / "x"
    copy_where_missing(tmp_path / "made", target)
    before = (target / "part").stat().st_mtime
    copy_where_missing(tmp_path / "made", target)
    assert (target / "part").stat().st_mtime == before
    (tmp_path / "made" / "part").write_bytes(b"2")
    copy_where_missing(tmp_path / "made", target)
    assert (target / "part").read_bytes() == b"2"


@pytest.mark.slow
@pytest.mark.invariant
def test_a_bucket_that_hangs_is_asked_three_times_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes connections and says nothing: the first call tells, and nothing else is asked of it."""
    monkeypatch.setitem(PATIENCE, "read_timeout", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        storage = Storage("s3://fab/x", endpoint_url=address, key="k", secret="s")
        start = time.monotonic()
        with pytest.raises(bucket_errors(), match="Read timeout") as caught:
            storage.write_text("a.txt", "a")
        assert time.monotonic() - start < 8
    assert is_silent(caught.value)
    assert is_silent(_wrapped(caught.value))
    assert not is_silent(OSError(28, "full"))


def _wrapped(cause: Exception) -> Exception:
    error = StorageError("another sentence")
    error.__cause__ = cause
    return error


def test_a_run_whose_bucket_hangs_asks_it_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays `running`, as that of a killed process does; any other failure is noted."""
    client = pytest.importorskip("botocore.exceptions")
    runs = Runs(Storage(str(tmp_path)))
    silence = client.ReadTimeoutError(endpoint_url="http://127.0.0.1")
    for error, state in ((silence, "running"), (OSError(28, "full"), "failed")):
        with pytest.raises(type(error)), runs.started("training") as run:
            raise error
        assert run.outcome()["state"] == state


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (0, r"it refuses these keys \(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY\)"),
        (1, "its clock is 1,440 minutes behind this machine's, and what is asked 15 minutes off is refused"),
        (-1, "its clock is 1,440 minutes ahead of this machine's"),
    ],
)
def test_a_refusal_is_told_as_what_it_follows_from(days: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket says no more than that it refuses; where this machine's clock is far off, that is named."""

    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, *told: object) -> None:
            """Say nothing."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Shifted":
            return super().now(tz) + timedelta(days=days)

    monkeypatch.setattr("wafer.storage.datetime", Shifted)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            storage = Storage("s3://any/x", endpoint_url=f"http://127.0.0.1:{server.server_port}", key="a", secret="b")
            with pytest.raises(StorageError, match=told):
                storage.need_bucket()
        finally:
            server.shutdown()
