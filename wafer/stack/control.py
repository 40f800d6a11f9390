"""The stack started, looked at and stopped, and the variables in `.env` that point to it."""

import fcntl
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from wafer.addresses import knock
from wafer.errors import StackError
from wafer.lifeline import start_apart
from wafer.stack.keeper import LOCK, SECONDS_TO_STOP, STATE, failure
from wafer.stack.parts import Part, Place, program, servers, service, worker
from wafer.storage import private_folder, write_secret

FIRST_LINE = (
    "# >>> wafer stack: this block is written anew by each `wafer stack up`; your own lines stand outside of it"
)
LAST_LINE = "# <<< wafer stack"
_BLOCK = re.compile(rf"\n?{re.escape(FIRST_LINE)}\n.*?{re.escape(LAST_LINE)}(?:\n|\Z)", re.DOTALL)
SECONDS_TO_GO = 4 * SECONDS_TO_STOP


@dataclass(frozen=True)
class Seen:
    """A part of a running stack: where it is reached, `why` it is not healthy, or None, and its log."""

    name: str
    address: str
    why: str | None
    log: Path


def up(place: Place, tell: Callable[[str, str], None]) -> None:
    """Start a stack that does not run, and return once all its parts are healthy.

    Args:
        place: where it lies.
        tell: hears the name and address of each part that is healthy.

    Raises:
        StackError: a part cannot be started; what was started is stopped again.
    """
    private_folder(place.folder)
    for name, extra in ("weed", "stack"), ("prefect", "pipeline"), ("mlflow", "pipeline"), ("secantusd-py", "embedded"):
        program(name, extra)
    command = (sys.executable, "-m", "wafer.stack.keeper", place.folder, place.project, str(place.base))
    log = place.folder / "keeper.log"
    with log.open("wb") as file:
        keeper = start_apart(command, file)
    assert keeper.stdout is not None
    try:
        with keeper.stdout as told:
            for news in map(json.loads, told):
                if "failed" in news:
                    raise StackError(*news["failed"])
                if "healthy" in news:
                    return
                tell(news["part"], news["address"])
        raise failure("the keeper of the stack has ended", log)
    except BaseException:
        keeper.terminate()
        keeper.wait()
        raise


def running(folder: Path) -> Place | None:
    """The stack that runs in `folder`, with the ports that it was started on; None where none runs.

    Raises:
        StackError: it is being started or stopped.
    """
    state = _state(folder)
    return None if state is None else Place(folder, Path(state["project"]), state["base"])


def _state(folder: Path) -> dict[str, Any] | None:
    """What the keeper of the stack in `folder` has written down once all was started; None where none runs."""
    if not _is_kept(folder):
        return None
    try:
        found: dict[str, Any] = json.loads((folder / STATE).read_text())
    except FileNotFoundError as error:
        raise StackError(f"the stack in {folder} is being started or stopped: wait for that") from error
    return found


def _is_kept(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def status(folder: Path) -> list[Seen]:
    """Each part of the stack that runs in `folder`; none where none runs."""
    place, state = running(folder), _state(folder)
    return [] if place is None or state is None else list(_look(state["pids"], place))


def _look(pids: Mapping[str, int], place: Place) -> Iterator[Seen]:
    address = f"127.0.0.1:{place.port('database')}"
    yield Seen("database", address, knock(f"mongodb://{address}"), place.folder / "mongodb" / "server.log")
    for part in (*servers(place), service(place), worker(place)):
        if part.name in pids:
            yield Seen(part.name, part.address, _why_not(part, pids[part.name]), part.log)


def _why_not(part: Part, pid: int) -> str | None:
    return part.healthy() if psutil.pid_exists(pid) else "it has ended"


def down(folder: Path) -> bool:
    """Stop the stack that runs in `folder`, and return when all of it has ended; whether there was one.

    Raises:
        StackError: it does not end in time, or is only being started.
    """
    state = _state(folder)
    if state is None:
        return False
    keeper = psutil.Process(state["keeper"])
    keeper.terminate()
    try:
        keeper.wait(SECONDS_TO_GO)
    except psutil.TimeoutExpired as error:
        raise StackError(f"the stack in {folder} does not end; its log is {folder / 'keeper.log'}") from error
    return True


def write_variables(file: Path, variables: Mapping[str, str]) -> list[str]:
    """Write `variables` into a marked block of `file` (`.env`), which only its owner can read from then on.

    Returns: the names that have a line of the user's own, or a value in the environment, which are left as they are.
    """
    from dotenv import dotenv_values

    file = file.resolve()  # of a link, what it leads to
    text = _BLOCK.sub("", file.read_text()) if file.exists() else ""
    own = dotenv_values(stream=io.StringIO(text))
    lines = [f"{name}={_quoted(value)}\n" for name, value in variables.items() if name not in own]
    before = f"{text.rstrip(chr(10))}\n\n" if text.strip() else ""
    write_secret(file, f"{before}{FIRST_LINE}\n{''.join(lines)}{LAST_LINE}\n")
    return [name for name, value in variables.items() if name in own or os.environ.get(name, value) != value]


def _quoted(value: str) -> str:
    if re.fullmatch(r"[\w.:/@%?&=+~-]*", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
