"""What the library tells as it works: log lines for people or as JSON, and the log that each run keeps of itself.

A line of JSON has `time` (UTC), `level` and `message`, where they are known `run` and `step`, and `error` for a
traceback. No line holds a secret.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from wafer.shown import masked, shown_message
from wafer.storage import AnyPath, is_silent, write_text

Format = Literal["text", "json"]

SECONDS_BETWEEN_WRITES = 20.0
"""Of a run's log, which a bucket takes only as a whole; a killed run has kept what is older."""

log = logging.getLogger("wafer")
events = logging.getLogger("wafer.runs")
"""What runs and their steps do: kept, and told in JSON; a person sees bars and a summary instead."""
_at: ContextVar[dict[str, str]] = ContextVar("at", default={})  # noqa: B039 - never changed in place


@contextmanager
def at(**known: str) -> Iterator[None]:
    """Let lines that are told within the block say so: `with at(step="fit")`."""
    token = _at.set({**_at.get(), **known})
    try:
        yield
    finally:
        _at.reset(token)


class JsonLines(logging.Formatter):
    """A line of JSON for each record; `known` is what is said of those that know nothing themselves."""

    def __init__(self, **known: str) -> None:
        super().__init__()
        self._known = known

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {"time": when, "level": record.levelname.lower(), **self._known, **_at.get()}
        told["message"] = shown_message(record.getMessage())
        if record.exc_info:
            told["error"] = masked(self.formatException(record.exc_info))
        return json.dumps(told, ensure_ascii=False)


def show_log_lines(form: Format) -> None:
    """Print this library's own log lines on standard error, and no other library's; for entry points."""
    if not log.handlers:
        handler = logging.StreamHandler()
        if form == "json":
            handler.setFormatter(JsonLines())
        else:
            handler.addFilter(lambda record: record.name != events.name)
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def told_as_json(sentence: str) -> bool:
    """Tell as JSON how a command ends, where log lines are JSON; whether they are."""
    shown = (one for one in log.handlers if isinstance(one, logging.StreamHandler))
    in_json = any(isinstance(one.formatter, JsonLines) for one in shown)
    if in_json:
        log.error("%s", sentence)
    return in_json


class _Kept(logging.Handler):
    """Keeps lines of JSON in a file of the storage, which is written anew now and then."""

    def __init__(self, place: AnyPath, run: str) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(JsonLines(run=run))
        self._place, self._lines, self._written = place, list[str](), time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{self.format(record)}\n")
        # only the work itself writes, so that the beat of a lease never waits for it
        due = record.name == events.name or time.monotonic() - self._written > SECONDS_BETWEEN_WRITES
        if _at.get() and due and self._written != math.inf:
            self.write()

    def write(self) -> str | None:
        """Write all that was told; why that failed, which must not end the work that it tells of."""
        self._written = time.monotonic()
        try:
            write_text(self._place, "".join(self._lines))
        except Exception as error:  # noqa: BLE001 - see above
            self._written = math.inf  # only at the end once more: each time would be waited for
            return f"the log {self._place} could not be kept: {shown_message(str(error), 200)}"
        return None


@contextmanager
def kept_log(place: AnyPath, run: str) -> Iterator[None]:
    """Keep in `place` what is told within the block, for the run of this name."""
    kept, level = _Kept(place, run), log.level
    log.addHandler(kept)
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    try:
        with at(run=run):
            yield
    except BaseException as error:
        if not is_silent(error) and (why := kept.write()):
            error.add_note(why)
        raise
    else:
        if why := kept.write():
            log.warning(why)
    finally:
        log.removeHandler(kept)
        log.setLevel(level)
