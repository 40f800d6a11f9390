"""Notebooks as reports of record: run with checked parameters, kept executed, and turned into a self-contained page."""

import ast
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets import default
from traitlets.config import Config

from wafer.errors import ReportError
from wafer.lifeline import tie_children
from wafer.reporting.pages import render_page
from wafer.shown import masked, shown_message
from wafer.storage import AnyPath, write_bytes, write_text

PARAMETERS_TAG = "parameters"
INJECTED_TAG = "injected-parameters"  # of the cell in which papermill gives them
SHOWN = ("text", "data", "metadata", "evalue", "traceback", "parameters")  # what of an output, or a run, is text
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf")  # as base64
TIME_LIMIT = 1800.0  # seconds; ours take less than one minute on thousands of wafers
LONGEST = 300  # signs of a cell's error that a message tells


@dataclass(frozen=True)
class NotebookReport:
    """An executed notebook and its self-contained page."""

    notebook: AnyPath
    page: AnyPath


class _OwnKernelManager(AsyncKernelManager):
    """Starts the kernel of this very environment, whatever kernels are registered on the machine."""

    @default("kernel_spec_manager")
    def _only_native(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def read_notebook(name: str, folder: Path) -> NotebookNode:
    """The notebook `name` (without ending) of `folder`.

    Raises:
        ReportError: it is not there, or is not a notebook.
    """
    file = folder / f"{name}.ipynb"
    try:
        return _parsed(file)
    except FileNotFoundError as error:
        known = ", ".join(sorted(each.stem for each in folder.glob("*.ipynb"))) or "none"
        raise ReportError(f"there is no notebook {name!r} in {folder.absolute()}, only: {known}") from error
    except nbformat.reader.NotJSONError as error:
        raise ReportError(f"{file} is not a notebook") from error


def known_parameters(notebook: NotebookNode, name: str) -> tuple[str, ...]:
    """The names that the notebook's one `parameters` cell assigns, in its order.

    Raises:
        ReportError: it has no such cell, or several.
    """
    cells = [cell for cell in notebook.cells if PARAMETERS_TAG in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ReportError(f"notebook {name!r} must have exactly one cell tagged `parameters`, got {len(cells)}")
    names: list[str] = []
    for statement in ast.parse(cells[0].source).body:
        if isinstance(statement, ast.Assign):
            names += [target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.append(statement.target.id)
    return tuple(names)


def check_parameters(notebook: NotebookNode, name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook does not know: papermill would only warn and run on the defaults.

    Raises:
        ReportError: a parameter is unknown; the message names it and those that are known.
    """
    known = known_parameters(notebook, name)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ReportError(f"notebook {name!r} has no parameter {unknown[0]!r}, only: {', '.join(known)}")


def run_notebook(
    name: str,
    parameters: Mapping[str, Any],
    folder: AnyPath,
    *,
    stem: str | None = None,
    notebooks: Path,
    time_limit: float = TIME_LIMIT,
    progress: Callable[[int, int], None] | None = None,
) -> NotebookReport:
    """Run a notebook in this environment and write `<stem>.ipynb` and `<stem>.html` into `folder`.

    Args:
        name: of the notebook, without ending.
        parameters: values for the notebook's `parameters` cell; plain values and texts, paths as texts.
        folder: where both files go, local or S3.
        stem: of both files; default `name`.
        notebooks: where the notebook lies.
        time_limit: seconds for all cells together.
        progress: called after each cell with the cells done and their number.

    Raises:
        ReportError: the notebook or a parameter is unknown, a cell failed, the kernel cannot be started or has died, or
            the time was over; the message carries the cause in short, and notebook and page, as far as they came, are
            kept in `folder` all the same.
    """
    source = read_notebook(name, notebooks)
    check_parameters(source, name, parameters)
    target = folder / f"{stem or name}.ipynb"
    page = folder / f"{stem or name}.html"
    try:
        executed = _execute(source, parameters, progress, time_limit)
    except _CellFailedError as error:
        _keep(error.notebook, target, page)
        raise ReportError(f"notebook {name!r} failed {error}; it is kept, as far as it came, in {target}") from error
    _keep(executed, target, page)
    return NotebookReport(target, page)


def _keep(notebook: NotebookNode, target: AnyPath, page: AnyPath) -> None:
    """Write an executed notebook and its page, in which neither outputs nor parameters tell a secret."""
    for cell in notebook.cells:
        if INJECTED_TAG in cell.metadata.get("tags", []):
            cell.source = masked(cell.source)
        for output in cell.get("outputs", ()):
            output.update({key: _masked_within(output[key]) for key in SHOWN if key in output})
    if (noted := notebook.metadata.get("papermill")) is not None:
        noted.update({key: _masked_within(noted[key]) for key in SHOWN if key in noted})
    write_text(target, _text(notebook))
    write_bytes(page, render_page(notebook).encode())


def _masked_within(part: Any) -> Any:
    """Part of a notebook with all of its texts masked; a picture's bytes are none."""
    if isinstance(part, str):
        return masked(part)
    if isinstance(part, list):
        return [_masked_within(each) for each in part]
    if isinstance(part, dict):
        return type(part)({key: each if key in PICTURES else _masked_within(each) for key, each in part.items()})
    return part


def _parsed(file: Path) -> NotebookNode:
    if not file.is_file():  # a pipe would keep its reader waiting
        raise FileNotFoundError(file)
    notebook: NotebookNode = nbformat.read(file, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def _text(notebook: NotebookNode) -> str:
    return str(nbformat.writes(notebook))  # type: ignore[no-untyped-call]


class _CellFailedError(Exception):
    def __init__(self, message: str, notebook: NotebookNode) -> None:
        super().__init__(message)
        self.notebook = notebook


def _execute(
    source: NotebookNode,
    parameters: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
    time_limit: float,
) -> NotebookNode:
    logging.getLogger("papermill").setLevel(logging.ERROR)
    tie_children()
    cells = len(source.cells) + 1  # papermill adds one with the parameters

    def count_cell(cell: NotebookNode, cell_index: int, **_: Any) -> None:
        if progress is not None:
            progress(cell_index + 1, cells)

    deadline = math.inf  # known when the first cell begins: the start of a kernel does not count

    def seconds_left(_: NotebookNode) -> int:
        nonlocal deadline
        deadline = min(deadline, time.monotonic() + time_limit)
        return max(1, math.ceil(deadline - time.monotonic()))

    with tempfile.TemporaryDirectory() as scratch:
        given, output, profile = Path(scratch, "in.ipynb"), Path(scratch, "out.ipynb"), Path(scratch, "profile")
        # sockets in a folder of our own: no port is opened, so that nobody else can listen or be in the way
        kernel = {"transport": "ipc", "connection_file": f"{scratch}/kernel.json"}
        profile.mkdir()
        given.write_text(_text(source), encoding="utf-8")
        with _failures_told(source, output, time_limit):
            papermill.execute_notebook(
                str(given),
                str(output),
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                log_output=False,
                start_timeout=180,
                execution_timeout=max(1, math.ceil(time_limit)),
                timeout_func=seconds_left,
                kernel_manager_class=_OwnKernelManager,
                config=Config({"KernelManager": kernel}),
                # the personal profile of whoever runs this must not shape a report
                extra_arguments=[f"--ipython-dir={profile}", "--log-level=CRITICAL"],
                on_cell_executed=count_cell,
            )
        return _parsed(output)


@contextmanager
def _failures_told(source: NotebookNode, output: Path, time_limit: float) -> Iterator[None]:
    """Whatever ends a run early becomes one error that holds the notebook as far as it came, which is in `output`."""
    try:
        yield
    except PapermillExecutionError as error:
        line = next((line for line in error.source.splitlines() if line.strip()), "")
        message = f"in the cell that starts with {masked(line)[:80]!r}: {_short(f'{error.ename}: {error.evalue}')}"
        raise _CellFailedError(message, _parsed(output)) from error
    except CellTimeoutError as error:
        message = f"because it took longer than {time_limit:g} seconds"
        raise _CellFailedError(message, _parsed(output)) from error
    except NoSuchKernel as error:
        message = "because no Python kernel is installed here (the package ipykernel brings it)"
        raise _CellFailedError(message, source) from error
    except (DeadKernelError, RuntimeError) as error:  # a kernel that dies at its start is a RuntimeError
        kept = _parsed(output) if output.exists() else source
        raise _CellFailedError(f"because its kernel died: {_short(str(error))}", kept) from error


def _short(text: str) -> str:
    return shown_message(" ".join(text.split()), LONGEST)
