"""Progress of work that takes longer than a moment: a bar on a terminal, a log line now and then elsewhere.

Whoever runs the work may listen as well (`heard_by`), as the flows do to keep a progress artifact.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

Progress = Callable[[int, int], None]
"""Called with what is done and the total."""
Listener = Callable[[str], AbstractContextManager[Progress]]
"""Makes a `Progress` for a title."""

SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger("wafer")
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def show_log_lines() -> None:
    """Print this library's own log lines on standard error, and no other library's; for entry points."""
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Tell `listener` too of all progress that is shown within the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """A `Progress` that shows itself on standard error under `title`."""
    display = _bar(title) if sys.stderr.isatty() else _lines(title)
    listener = _listener.get()
    if listener is None:
        with display as show:
            yield show
        return
    with display as show, listener(title) as tell:

        def both(done: int, total: int) -> None:
            show(done, total)
            tell(done, total)

        yield both


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _lines(title: str) -> Iterator[Progress]:
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last > SECONDS_BETWEEN_LINES:
            last = now
            log.info("%s: %d of %d", title, done, total)

    yield show
