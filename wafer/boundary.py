"""The one boundary between the program and a person: every entry point runs its work within `bounded`.

What can be foreseen ends in one sentence on standard error and an exit status: an error of this library's own, of the
operating system, of encoding, of a file's form, of a server or of another library. Everything else is a fault of the
program and is said to be one. The traceback of what this library did not raise itself goes to a log file, without
secrets, whose path is told. `wafer.errors.EXIT_STATUS` lists the statuses.

Not here: what a command does, and what it needs before it starts (`wafer.preflight`). Libraries are known by the names
of their exceptions, so that nothing is imported for it.
"""

import errno
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click

from wafer.addresses import gave_no_answer, status_of
from wafer.errors import (
    EXIT_BROKEN_PIPE,
    EXIT_ENDED,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_WRONG_USE,
    RegistryError,
    ReportError,
    SettingsError,
    StorageError,
    StoreError,
    WaferError,
)
from wafer.logs import told_as_json
from wafer.shown import masked, shown_message, shown_text
from wafer.storage import bucket_errors

LEAST_OF_ALL = 2**20
"""Bytes; with less, a disk is full for whatever writes to it."""
LONGEST_LOG = 1_000_000
"""Characters of a traceback that are kept."""

CAUSES = {
    errno.ENOSPC: "no space is left there: free some, or name a folder on another disk",
    errno.EDQUOT: "the quota is used up: free some space, or name a folder on another disk",
    errno.EROFS: "the file system is read-only: name a folder that can be written",
    errno.EACCES: "this user may not read or write it",
    errno.EPERM: "this user may not do that",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EEXIST: "something of that name is in the way",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead round in a circle",
    errno.EMFILE: "too many files are open: allow more with `ulimit -n`",
}
SERVERS = {
    "the wafer database": ("mongodb_url", "MONGODB_URL", ("pymongo", "bson", "gridfs")),
    "the model registry": (
        "mlflow_url",
        "MLFLOW_TRACKING_URI",
        ("mlflow", "sqlalchemy", "alembic", "requests", "urllib3"),
    ),
    "the Prefect server": ("prefect_url", "PREFECT_API_URL", ("prefect", "httpx", "httpcore", "anyio", "websockets")),
    "the S3 storage": ("s3_endpoint", "AWS_ENDPOINT_URL", ("botocore", "aiobotocore", "boto3", "s3fs", "aiohttp")),
}
"""What fails, the setting and the variable that name it, and the libraries whose errors tell so."""
PLAIN_ERRORS_OF = frozenset({"prefect", "anyio", "httpx", "json", "yaml"})
"""Libraries that say by a plain RuntimeError what went wrong; a RecursionError, too, is one."""
EXTRAS = {
    "pipeline": "IPython bson gridfs great_expectations ipykernel jinja2 jupyter_client markupsafe matplotlib "
    "mlflow nbclient nbconvert nbformat papermill pooch prefect pymongo requests sqlalchemy traitlets urllib3",
    "embedded": "secantusdb",
    "dvc": "dvc dvc_s3",
    "s3": "aiobotocore boto3 botocore prefect_aws s3fs",
    "kubernetes": "prefect_kubernetes",
    "postgres": "pg8000",
    "stack": "",
    "service": "anyio fastapi h11 orjson prometheus_client starlette uvicorn",
    "lab": "jupyterlab",
}
"""What each extra of the package brings that may be missing without it, by the names under which it is imported."""


def bounded(work: Callable[[], object]) -> int:
    """Run `work` for a person: the exit status, after one clear sentence where something was wrong.

    An integer that `work` returns is the exit status; a `SystemExit` passes.
    """
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without that letter is no error
    failed: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, failed.append
    status: object = None
    try:
        status = _end_of(work)
    except SystemExit as end:
        status = end.code
        raise
    finally:
        # told to end, threads fail because what they wait for is gone, as those that look after a pool's processes
        if status not in (EXIT_INTERRUPTED, EXIT_ENDED):
            threading.excepthook = before
            for one in failed:
                _tell_of_thread(one)
    return status


def _end_of(work: Callable[[], object]) -> int:
    try:
        done = work()
        click.echo(nl=False)  # what is not written yet, whoever has printed it
    except click.ClickException as error:
        return _tell_usage(error)
    except (KeyboardInterrupt, click.Abort):
        return _tell_interrupt()
    except Exception as error:  # noqa: BLE001 - the one place where everything ends
        # told to end, what is left in order may fail, since the same signal has reached servers and pools
        if any(isinstance(earlier, SystemExit) and earlier.code == EXIT_ENDED for earlier in _before(error)):
            return EXIT_ENDED
        if any(isinstance(earlier, KeyboardInterrupt) for earlier in _before(error)):
            return _tell_interrupt()
        return _tell(error)
    return done if isinstance(done, int) else 0


def _before(error: BaseException) -> Iterator[BaseException]:
    """The errors while whose handling `error` was raised, the latest first."""
    seen = {id(error)}
    while (earlier := error.__context__) is not None and id(earlier) not in seen:
        seen.add(id(earlier))
        yield (error := earlier)


def _tell_interrupt() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C once more ends what is left at once, without a traceback
    _print("interrupted")
    return EXIT_INTERRUPTED


def _open_streams() -> None:
    """Let streams that were closed from the start lead nowhere, else the next file that is opened takes their place."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, descriptor)  # processes that are started inherit it
            if nowhere != descriptor:
                os.close(nowhere)
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))


def sentence_of(error: BaseException) -> str | None:
    """What is told of an error that this library did not raise itself; None where it is a fault of the program."""
    if isinstance(error, BaseExceptionGroup):
        return sentence_of(error.exceptions[0])
    if isinstance(error, OSError) and isinstance(error.__cause__, bucket_errors()):
        error = error.__cause__  # the bucket's client of files takes it for an error of the system
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    if isinstance(error, RuntimeError) and (package := _raised_in(error)) in PLAIN_ERRORS_OF:
        names.insert(0, package)
    for name in names:
        for key in (name, name.partition(".")[0]):
            if key in SENTENCES:
                return SENTENCES[key](error)
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return f"{_subject(error)}a name holds a NUL character, which no file's name may"
    return None


def _tell(error: Exception) -> int:
    if _may_follow_from_a_full_disk(error) and (full := _full_place()) is not None:
        kept = _keep_traceback(error)
        _print(f"{full}: {CAUSES[errno.ENOSPC]}" + (f"; the traceback is in {kept}" if kept else ""))
        return EXIT_WRONG_USE
    if isinstance(error, WaferError):
        for sentence in error.sentences:
            _print(sentence)
        return error.exit_status
    if _output_is_lost() and isinstance(error, BrokenPipeError):  # nobody reads any more, as behind `| head`
        return EXIT_BROKEN_PIPE
    if isinstance(error, OSError) and _raised_in(error) == "click":
        _print(f"the output cannot be written: {error.strerror or error}")
        return EXIT_WRONG_USE
    told = sentence_of(error)
    kept = _keep_traceback(error)
    where = f"the traceback is in {kept}" if kept else "no log file could be written"
    if told is None:
        what = shown_message(f"{type(error).__name__}: {error}", 300)
        _print(f"this is a fault of wafer, not of what you gave it ({what}): please report it; {where}")
        return EXIT_FAULT
    _print(f"{shown_message(told, 800)}; {where}")
    return EXIT_WRONG_USE


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """A thread whose work nobody waited for has failed; the others went on."""
    error = failed.exc_value
    kept = None if error is None else _keep_traceback(error)
    what = shown_message(f"{failed.exc_type.__name__}: {error}", 300)
    name = shown_text(failed.thread.name if failed.thread else "unknown")
    _print(f"the thread {name} failed ({what})" + (f"; the traceback is in {kept}" if kept else ""))


def _tell_usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(context.get_usage(), err=True)
        click.echo(f"Try `{context.command_path} --help` for help.", err=True)
    _print(error.format_message())
    return EXIT_WRONG_USE


def _print(sentence: str) -> None:
    try:
        if not told_as_json(sentence):
            click.secho(f"wafer: {shown_message(sentence)}", fg="red", err=True)
    except OSError:  # nobody listens any more; the exit status still tells
        _discard(sys.stderr)


def _output_is_lost() -> bool:
    """Whether standard output or error cannot be written any more; what goes there is dropped from now on."""
    lost = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
            watch = select.poll()
            watch.register(stream, 0)
            broken = any(event & select.POLLERR for _, event in watch.poll(0))
        except (AttributeError, ValueError):  # closed from the start, or no file of the system
            continue
        except OSError:
            broken = True
        if broken:
            _discard(stream)  # the interpreter flushes once more when it ends
            lost = True
    return lost


def _discard(stream: Any) -> None:
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _keep_traceback(error: BaseException) -> Path | None:
    """The file, readable by its owner alone, that holds the traceback: in the state folder where there is one."""
    text = (
        f"{shown_text(masked(' '.join(sys.argv)), 2000)}\n\n{''.join(traceback.format_exception(error))[:LONGEST_LOG]}"
    )
    for folder in _log_folders():
        try:
            handle, name = tempfile.mkstemp(prefix="wafer-", suffix=".log", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(masked(text))
        except OSError:
            continue
        return Path(name)
    return None


def _log_folders() -> Iterator[Path]:
    """`logs` in the state folder, which is not made for this, and then the system's folder of temporary files."""
    from wafer.settings import Settings

    try:
        state = Settings.read().state
        if state.is_dir():
            (state / "logs").mkdir(mode=0o700, exist_ok=True)
            yield state / "logs"
    except (SettingsError, OSError):
        pass
    with suppress(OSError):
        yield Path(tempfile.gettempdir())


def _frames(error: BaseException) -> list[FrameType]:
    """The frames that the error came through, innermost first."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]


def _raised_in(error: BaseException) -> str:
    """The top-level package whose code raised the error."""
    return next((str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in _frames(error)), "")


def _subject(error: BaseException) -> str:
    """The file that was being worked on, as the start of a sentence: the path nearest to where the error was raised."""
    for frame in _frames(error):
        for name in ("self", "path", "file"):
            found = frame.f_locals.get(name)
            if hasattr(found, "joinpath") and hasattr(found, "parts"):
                return f"{shown_text(found)}: "
    return ""


def _system(error: Any) -> str:
    """An error of the operating system: the file, the cause, and what can be done where that is known."""
    cause = CAUSES.get(error.errno or 0) or error.strerror or shown_text(error) or type(error).__name__
    if error.filename is None:
        if error.errno == errno.ENOENT and _folder_is_gone():
            return "the folder in which this was started is not there any more: go to another one"
        if isinstance(error, ConnectionError | TimeoutError):
            return f"a connection failed: {cause}"
        return f"{_subject(error) or 'the system refused: '}{cause}"
    files = [
        os.fsdecode(name) if isinstance(name, bytes) else str(name)
        for name in (error.filename, error.filename2)
        if name
    ]
    return f"{' -> '.join(map(shown_text, files))}{_named_by(files[0])}: {cause}"


def _may_follow_from_a_full_disk(error: Exception) -> bool:
    """Whether a server or another library has failed, which seldom says why; not what was found wrong ahead."""
    if isinstance(error, WaferError):
        return isinstance(error, StoreError | RegistryError | StorageError | ReportError)
    return sentence_of(error) is not None


def _full_place() -> str | None:
    """The folder of outputs, of embedded state or of temporary files on whose disk nothing is free any more."""
    from wafer.settings import Settings

    places: list[tuple[str, str | Path]] = []
    with suppress(SettingsError, OSError):
        settings = Settings.read()
        places += [("WAFER_STORAGE", settings.storage_url)] if "://" not in settings.storage_url else []
        places += [("WAFER_STATE", settings.state)]
    places += [("TMPDIR", os.environ.get("TMPDIR", ""))]
    for variable, folder in places:
        with suppress(OSError):
            if shutil.disk_usage(folder).free < LEAST_OF_ALL:
                return f"{variable} is {shown_text(folder)}"
    return None


def _folder_is_gone() -> bool:
    try:
        Path.cwd()
    except OSError:
        return True
    return False


def _named_by(file: str) -> str:
    """The variable below whose folder a file lies, in brackets."""
    from wafer.settings import Settings

    with suppress(SettingsError, OSError):
        settings = Settings.read()
        for variable, folder in (("WAFER_STATE", settings.state_folder), ("WAFER_STORAGE", settings.storage_url)):
            if folder is not None and Path(file).absolute().is_relative_to(Path(folder).absolute()):
                return f" (below {variable}, {shown_text(folder)})"
    return ""


def _server(what: str, setting: str, variable: str) -> Callable[[Any], str]:
    def sentence(error: BaseException) -> str:
        from wafer.settings import Settings

        try:
            address = getattr(Settings.read(), setting)
        except SettingsError:
            address = None
        where = f"at {masked(address)} ({variable})" if address else f"({variable} is not set)"
        return f"{what} {where} failed: {_first_line(error)}{_advice(error)}"

    return sentence


def _advice(error: BaseException) -> str:
    """What to do about an error of a server, where that is known."""
    if gave_no_answer(error):
        return ": see that it runs, and run this again"
    return ": see that these keys may do that" if status_of(error) in (401, 403) else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".;:") if lines else type(error).__name__


def _missing_library(error: Any) -> str | None:
    """A library that is not installed; of libraries that say so by an ImportError of their own, what caused it."""
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__ or error.__context__
    name = (getattr(missing, "name", None) or "").partition(".")[0]
    if not isinstance(missing, ModuleNotFoundError) or name in ("", "wafer", "flows"):
        return None
    extra = next((extra for extra, libraries in EXTRAS.items() if name in libraries.split()), None)
    return f"the library {name} is not installed: " + (f"install wafer[{extra}]" if extra else f"pip install {name}")


def _about(what: str) -> Callable[[Any], str]:
    return lambda error: f"{_subject(error)}{what}: {_first_line(error)}"


SENTENCES: dict[str, Callable[[Any], str | None]] = {
    "builtins.OSError": _system,
    "builtins.UnicodeError": _about("not text in the encoding that was expected"),
    "builtins.MemoryError": lambda _: "there is not enough memory: set WAFER_JOBS to fewer processes",
    "builtins.ImportError": _missing_library,
    "json": _about("not JSON"),
    "yaml": _about("not YAML"),
    "pydantic_core": _about("not as expected"),
    "pyarrow": _about("not a table that can be read or written"),
    "papermill": _about("the notebook could not be run"),
    "nbclient": _about("the notebook could not be run"),
    "nbformat": _about("not a notebook"),
    "great_expectations": _about("the suite could not be applied"),
    "zipfile": _about("not a whole zip file"),
    "subprocess": _about("another program failed"),
    "prefect.task_engine.TaskRunTimeoutError": lambda error: f"a step took longer than it may: {_first_line(error)}",
    "joblib": lambda _: "a process was killed, perhaps for lack of memory: set WAFER_JOBS to fewer processes",
    "concurrent": lambda _: "a process was killed, perhaps for lack of memory: set WAFER_JOBS to fewer processes",
} | {
    package: _server(what, setting, variable)
    for what, (setting, variable, packages) in SERVERS.items()
    for package in packages
}
"""The sentence for an exception's class or, of another library, for its package; the nearest class counts."""
