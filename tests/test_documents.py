"""Files of documents that people write: what is no file is refused and not waited for."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wafer.contract.agreement import read_agreement
from wafer.contract.suites import Contract
from wafer.documents import MOST_BYTES, DocumentError, read_json
from wafer.errors import AgreementError, ParameterError, ReportError, WaferError
from wafer.params import read_params
from wafer.reporting.notebooks import read_notebook
from wafer.store.guard import load_guard

READERS: dict[str, tuple[Callable[[Path], object], type[WaferError]]] = {
    "params.yaml": (read_params, ParameterError),
    "agreement.json": (read_agreement, AgreementError),
    "training.json": (lambda file: Contract.load("training", file.parent), AgreementError),
    "snapshot.json": (lambda file: load_guard(file.parent), AgreementError),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_or_a_device_is_refused(name: str, tmp_path: Path) -> None:
    """Nobody writes into the pipe and the device never ends, yet both are told at once, by the file's name."""
    read, error = READERS[name]
    file = tmp_path / name
    os.mkfifo(file)
    with pytest.raises(error, match=f"{name}: expected a file, got a pipe, a socket or a device"):
        read(file)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(error, match=f"{name}: expected a file, got a pipe, a socket or a device"):
        read(file)


@pytest.mark.parametrize("name", READERS)
def test_a_huge_file_is_not_read(name: str, tmp_path: Path) -> None:
    """The sentence tells both sizes; a sparse file of a terabyte costs no memory."""
    read, error = READERS[name]
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(error, match=f"{name}: expected at most {MOST_BYTES} bytes, got {2**40}"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": [1, {"b": {"c": 1, "c": 2}}]}', "a[1].b.c: stands twice"),
        ('{"a": {"b": 1, "b": 2}, "a": 1}', "a: stands twice"),
        ('[{"a": 1}, {"a": [0, -Infinity]}]', "[1].a[1]: -Infinity is no number that can be kept"),
        ('{"a": {"b": 1e999}}', "a.b: 1e999 is no number that can be kept"),
        (f'{{"a": [{"9" * 5000}]}}', "a[0]: a number of thousands of digits cannot be kept"),
        (r'{"a": ["\ud83d\ude00", "\ud800"]}', "a[1]: expected text of whole characters"),
        (r'{"a": {"\udfff": 1}}', r"a.\udfff: expected text of whole characters"),
        ("NaN", "the document: NaN is no number that can be kept"),
        ('{"k": ' * 900 + '{"z": 1, "z": 2}' + "}" * 900, f"…{'.k' * 119}.z: stands twice"),
    ],
)
def test_what_a_json_document_may_not_have_is_told_with_its_place(text: str, told: str) -> None:
    """A key that stands twice, or a value that cannot be kept, by the path of the first, cut where that is long."""
    with pytest.raises(DocumentError) as caught:
        read_json(text.encode())
    assert str(caught.value) == told


def test_a_json_document_is_read_as_it_is() -> None:
    """Numbers, texts of all scripts, lists and objects, also empty and equal ones side by side."""
    document = {"a": [{}, [], {"a": {"a": [1, 2.5, None, True]}}, {"a": {}}], "": "Größe 晶圆 😀", "b": [[[]], [{}]]}
    assert read_json(json.dumps(document).encode()) == document


def test_a_notebook_that_is_no_file_is_not_there(tmp_path: Path) -> None:
    """A pipe or a folder of a notebook's name is none."""
    os.mkfifo(tmp_path / "training.ipynb")
    (tmp_path / "prediction.ipynb").mkdir()
    for name in ("training", "prediction"):
        with pytest.raises(ReportError, match=f"there is no notebook '{name}'"):
            read_notebook(name, tmp_path)
