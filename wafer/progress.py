"""Progress of work that takes longer than a moment: a bar on a terminal and in a notebook, log lines elsewhere.

Whoever runs the work may listen as well (`heard_by`), as the flows do to keep a progress artifact.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from html import escape
from typing import Any

Progress = Callable[[int, int], None]
"""Called with what is done and the total."""
Listener = Callable[[str], AbstractContextManager[Progress]]
"""Makes a `Progress` for a title."""

SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger("wafer")
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


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
    """A `Progress` that shows itself under `title`, on standard error or in the notebook's cell."""
    cell = _notebook_display()
    display = _cell(title, cell) if cell else _bar(title) if sys.stderr.isatty() else _lines(title)
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


def _notebook_display() -> Any | None:
    """What shows things in the cell of a notebook; None elsewhere."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return interactive.display.display if interactive is not None and hasattr(shell, "kernel") else None


@contextmanager
def _cell(title: str, display: Any) -> Iterator[Progress]:
    """A bar in the cell, which goes once the work is done, so that a page that is kept does not hold it."""
    start = time.monotonic()
    shown_now = display({"text/html": ""}, raw=True, display_id=True)

    def show(done: int, total: int) -> None:
        text = f"{escape(title)}: {done:,} of {total:,}, {time.monotonic() - start:,.0f} s"
        shown_now.update({"text/html": f"<progress max='{total}' value='{done}'></progress> {text}"}, raw=True)

    try:
        yield show
    finally:
        shown_now.update({"text/html": ""}, raw=True)


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
