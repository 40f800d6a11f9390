"""Where every entry point ends: one sentence, an exit status, and a log file for what this library did not raise."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest

from tests.conftest import REPOSITORY
from tests.faults.proxy import Fault, Proxy
from wafer.boundary import bounded
from wafer.errors import EmptyError, PreflightError, StoreError
from wafer.storage import Storage

LOG = re.compile(r"the traceback is in (\S+)")


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A state folder and a folder of temporary files of the test's own, and Ctrl-C as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAFER_STORAGE", "data")
    (tmp_path / "data" / "state").mkdir(parents=True)
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_error_of_the_library_is_its_sentence_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit status 2 and no log; a negative result has 1; what a preflight found has a line each."""
    assert bounded(raising(StoreError("no server answers"))) == 2
    assert bounded(raising(EmptyError("nothing to do"))) == 1
    assert bounded(raising(PreflightError(["one", "two"]))) == 2
    told = capsys.readouterr()
    assert told.err == "wafer: no server answers\nwafer: nothing to do\nwafer: one\nwafer: two\n"
    assert told.out == ""
    assert list((tmp_path / "data" / "state").iterdir()) == []


def test_what_went_well_keeps_its_exit_status() -> None:
    """None is 0, a number is the exit status, and a SystemExit passes."""
    assert bounded(lambda: None) == 0
    assert bounded(lambda: 1) == 1
    with pytest.raises(SystemExit, match="3"):
        bounded(raising(SystemExit(3)))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: this user may not read or write it"),
        (NotADirectoryError(errno.ENOTDIR, "x", "file/state"), "file/state: a file stands where a folder is needed"),
        (OSError(errno.ENOSPC, "No space left on device", b"x"), "x: no space is left there: free some, or name"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x: the file system is read-only"),
        (OSError(errno.ENAMETOOLONG, "x", "y" * 5000), "yyyy…: the name is too long"),
        (FileExistsError(errno.EEXIST, "x", "a", None, "b"), "a -> b: something of that name is in the way"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "a connection failed: Connection refused"),
        (TimeoutError("timed out"), "a connection failed: timed out"),
        (
            UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid start byte"),
            "not text in the encoding that was expected",
        ),
        (ValueError("embedded null byte"), "a name holds a NUL character"),
        (ModuleNotFoundError("No module", name="prefect.flows"), "prefect is not installed: install wafer[pipeline]"),
        (
            ModuleNotFoundError("No module", name="psycopg2"),
            "the library psycopg2 is not installed: pip install psycopg2",
        ),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_what_the_system_says_is_one_sentence(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit status 2, the file and the cause, and the traceback in a log of the state folder, for its owner alone."""
    assert bounded(raising(error)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    log = Path(LOG.search(line)[1])  # type: ignore[index]
    assert log.parent == tmp_path / "data" / "state" / "logs"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "Traceback (most recent call last)" in log.read_text()


FOREIGN = {
    "pymongo": "import pymongo; pymongo.MongoClient('mongodb://me:s3cret%40word@127.0.0.1:9/',"
    " serverSelectionTimeoutMS=9).admin.command('ping')",
    "sqlalchemy": "import sqlalchemy; sqlalchemy.create_engine('sqlite:////nowhere/at/all.db').connect()",
    "botocore": "import botocore.session; botocore.session.Session().create_client('s3', region_name='x')"
    ".get_object(Bucket='b', Key='k')",
    "requests": "import requests; requests.get('http://127.0.0.1:9/?token=s3cretword')",
    "httpx": "import httpx; httpx.get('http://127.0.0.1:9/')",
    "yaml": "import yaml; yaml.safe_load('{')",
    "json": "import json; json.loads('{')",
    "pydantic": "import pydantic; pydantic.TypeAdapter(int).validate_python('x')",
    "pyarrow": "import io, pyarrow.parquet; pyarrow.parquet.read_table(io.BytesIO(b'no table'))",
}


@pytest.mark.parametrize("library", FOREIGN)
def test_the_errors_of_other_libraries_are_one_sentence(library: str, tmp_path: Path) -> None:
    """Raised by the libraries themselves: exit status 2, no traceback on the terminal, and no secret anywhere."""
    code = f"import sys; from wafer.boundary import bounded\ndef work():\n {FOREIGN[library]}\nsys.exit(bounded(work))"
    env = {**os.environ, "MONGODB_URL": "mongodb://me:s3cret%40word@127.0.0.1:9/", "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    log = Path(LOG.search(line)[1])  # type: ignore[index]
    for text in (line, log.read_text()):
        assert not re.search(r"s3cret(%40|@)?word", text)
    assert ("mongodb://me:***@127.0.0.1:9/" in line) == (library == "pymongo")


@pytest.mark.parametrize(
    ("spoiled", "told"),
    [
        (
            {"at": rb"^PUT ", "act": "answer", "status": 403},
            r"AccessDenied.* PutObject .*: see that these keys may do that",
        ),
        ({"at": rb"^PUT ", "act": "answer", "status": 500}, r"InternalError.* PutObject .*: see that it runs, and run"),
        ({"at": rb"^PUT ", "act": "cut"}, r"Connection was closed .*: see that it runs, and run this again"),
        ({"at": rb"^GET .*\bx\b", "act": "halve"}, r".*not completed.*: see that it runs, and run this again"),
    ],
    ids=["forbidden", "failing", "cut", "halved"],
)
def test_what_a_bucket_does_wrong_names_it(
    spoiled: dict[str, Any],
    told: str,
    s3_server: str,
    s3_address: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The server's address, what was asked, and what to do, also where s3fs takes it for an error of the system."""
    with Proxy(urlsplit(s3_server).port or 0, "http") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address := f"http://127.0.0.1:{proxy.port}")
        storage = Storage(f"s3://{tmp_path.name}/data", endpoint_url=address)
        storage.root.fs.mkdir(tmp_path.name)
        storage.write_text("x", "one two three")
        proxy.fault = Fault(**spoiled)
        work = (
            (lambda: storage.write_text("x", "four")) if spoiled["at"] == rb"^PUT " else storage.place("x").read_bytes
        )
        assert bounded(work) == 2
    start = re.escape(f"wafer: the S3 storage at {address} (AWS_ENDPOINT_URL) failed: ")
    assert re.match(f"{start}.*{told}", capsys.readouterr().err)


def test_a_fault_of_the_program_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 70, what it was, and where its traceback lies."""
    assert bounded(lambda: {}["no such key"]) == 70
    line = capsys.readouterr().err
    assert line.startswith("wafer: this is a fault of wafer, not of what you gave it (KeyError: 'no such key')")
    assert "KeyError" in Path(LOG.search(line)[1]).read_text()  # type: ignore[index]


def test_without_a_state_folder_the_log_is_a_temporary_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made for a log; where settings cannot be read or no folder can be written, it goes elsewhere too."""
    import tempfile

    (tmp_path / "data" / "state").rmdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("WAFER_JOBS", "none")
    bounded(raising(OSError(errno.EIO, "Input/output error", "x")))
    assert Path(LOG.search(capsys.readouterr().err)[1]).parent == tmp_path / "tmp"  # type: ignore[index]
    assert list((tmp_path / "data").iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert bounded(raising(OSError(errno.EIO, "Input/output error", "x"))) == 2
    assert "no log file could be written" in capsys.readouterr().err


def test_no_message_grows_or_forges_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A message of megabytes with line ends and terminal sequences is one short line, and its log is bounded."""
    for error in (StoreError, OSError, KeyError, ValueError):
        bounded(raising(error("x\n\x1b[2J" * 1_000_000)))
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert "\x1b" not in line
        assert len(line) < 2000
        if found := LOG.search(line):
            assert Path(found[1]).stat().st_size < 1_100_000


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C, also within click: exit status 130."""
    assert bounded(raising(KeyboardInterrupt())) == 130
    assert bounded(raising(click.Abort())) == 130
    assert capsys.readouterr().err == "wafer: interrupted\n" * 2


def test_a_second_interrupt_shows_no_traceback() -> None:
    """While the interpreter ends, and waits for threads of other libraries, Ctrl-C ends it at once."""
    code = (
        "import atexit, os, signal, time\n"
        "from wafer.boundary import bounded\n"
        "def interrupted():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(10)\n"
        "atexit.register(interrupted)\n"
        "raise SystemExit(bounded(interrupted))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "wafer: interrupted\n")


@pytest.mark.parametrize(
    ("first", "status", "told"), [(SystemExit(143), 143, ""), (KeyboardInterrupt(), 130, "wafer: interrupted\n")]
)
def test_what_fails_once_a_signal_has_come_is_not_told(
    first: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal to all processes of a command ends its servers too, which what is left in order then misses."""

    def work() -> None:
        try:
            raise first
        finally:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    assert bounded(work) == status
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("ends", "status", "told"),
    [
        (None, 0, r"wafer: the thread side failed \(ValueError: no\); the traceback is in \S+\n"),
        (KeyboardInterrupt(), 130, r"wafer: interrupted\n"),
    ],
)
def test_a_thread_that_fails_shows_no_traceback(
    ends: BaseException | None, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told in a sentence when the work is done; where that was interrupted, threads fail for want of it."""

    def work() -> None:
        side = threading.Thread(target=raising(ValueError("no")), name="side")
        side.start()
        side.join()
        if ends is not None:
            raise ends

    before = threading.excepthook
    assert bounded(work) == status
    threading.excepthook = before
    assert re.fullmatch(told, capsys.readouterr().err)


def test_a_reader_that_goes_away_is_no_error() -> None:
    """Behind `| head` the command ends in silence; on a full device it says so."""
    code = "import sys, click; from wafer.boundary import bounded\n"
    code += "sys.exit(bounded(lambda: [click.echo('x' * 100) for _ in range(10000)]))"
    command = f'"{sys.executable}" -c "{code}"'
    quiet = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (141, "x" * 100 + "\n", "")
    full = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, check=False)
    assert full.returncode == 2
    assert full.stderr == "wafer: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start_are_no_error(closed: str, tmp_path: Path) -> None:
    """Nothing is shown there, the work is done, and no file takes the place of such a stream."""
    code = """
import sys, click
from pathlib import Path
from wafer.boundary import bounded
def work():
    with Path('kept').open('wb') as file:
        assert file.fileno() > 2
    print(sys.stdin.read(), sys.stderr.isatty(), sys.stdout.isatty())
    click.echo('said', err=True)
sys.exit(bounded(work))
"""
    (tmp_path / "work.py").write_text(code)
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" work.py {closed} || exit $?'],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kept").exists()


def test_a_full_disk_is_the_cause_of_what_follows_from_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whatever server fails on it: one sentence names the full place; what was wrong already is told as ever."""
    import sqlite3

    import sqlalchemy.exc

    monkeypatch.setenv("WAFER_STORAGE", str(tmp_path / "data"))
    monkeypatch.setattr("wafer.boundary.LEAST_OF_ALL", 2**80)
    failed = sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    for error in (failed, StoreError("the embedded database does not start")):
        assert bounded(raising(error)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(
            f"wafer: WAFER_STORAGE is {tmp_path / 'data'}: no space is left there: free some, or name"
        )
        assert str(error).splitlines()[0] in Path(LOG.search(line)[1]).read_text()  # type: ignore[index]
    assert bounded(raising(EmptyError("nothing to do"))) == 1
    assert bounded(raising(KeyError("fault"))) == 70
    assert "no space" not in capsys.readouterr().err


def test_a_folder_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed in a folder that somebody has removed: the sentence says so, and what to do."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert bounded(lambda: Path("x").absolute()) == 2
    told = capsys.readouterr().err
    assert told.startswith("wafer: the folder in which this was started is not there any more: go to another one;")
