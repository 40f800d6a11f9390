"""One delivered file: its name, its raw bytes, its header and its readings, reduced to one row of facts.

Nothing is judged here. The facts are what the rules in `expectations/` are about; where a fact is a count of things
that are wrong, the `findings` of the same name say where they are.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wafer.contract.form import BOUNDS_OF_AN_ID, LABEL, LONGEST_ID, WAFER, Finding, Form, Header
from wafer.contract.linescan import Evidence, Sound, examine, parse
from wafer.delivered import read_parts
from wafer.errors import UnreadError
from wafer.storage import AnyPath

# Every fact, with what it is about. A broken rule about a "table" fact must reject the file, since there is nothing to
# accept; one about a "wafer" fact must reject the file or drop the wafer, so that what is stored is sound.
FACTS: Mapping[str, str] = {
    "name": "file",
    "date_stamp": "file",
    "time_stamp": "file",
    "stamp": "file",
    "delivered": "file",
    "size": "table",
    "encoding": "table",
    "final_newline": "file",
    "header_unknown": "table",
    "columns": "file",
    "columns_missing": "table",
    "columns_extra": "file",
    "columns_doubled": "file",
    "columns_misplaced": "file",
    "wafers": "table",
    "unreadable": "table",
    "blank_lines": "file",
    "broken_lines": "wafer",
    "ragged_lines": "wafer",
    "bad_cells": "wafer",
    "infinite_cells": "wafer",
    "ids_empty": "wafer",
    "ids_malformed": "wafer",
    "ids_doubled": "wafer",
    "labels_missing": "wafer",
    "labels_unknown": "wafer",
    "faulty": "file",
    "empty_sensors": "file",
    "constant_sensors": "file",
    "missing_share": "file",
}
TEXT_FACTS = frozenset({"name", "date_stamp", "time_stamp", "stamp", "delivered", "encoding", "unreadable"})
LABEL_FACTS = frozenset({"labels_missing", "labels_unknown", "faulty"})

_HEADER_COUNTS = ("header_unknown", "columns_missing", "columns_extra", "columns_doubled", "columns_misplaced")
_LINE_COUNTS = ("blank_lines", "broken_lines", "ragged_lines", "bad_cells", "infinite_cells")
_ID_COUNTS = ("ids_empty", "ids_malformed", "ids_doubled")
_LABEL_COUNTS = ("labels_missing", "labels_unknown")

BYTES_OF_START = 2**16
"""How many bytes are kept of a file above the agreed size."""

Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Delivery:
    """One file as it was delivered.

    `facts` is one flat row, a value for each name in `FACTS` (None: not known). `findings` gives places by fact; a
    list that is shorter than its fact's count was cut. `table` has the columns `wafer` (string, as `Form.wafer_named`
    spells it), the sensors (float64, null where missing) and for training `label` (int8, -1 or 1), one row per line
    that could be read; None where the file as a whole could not. `lines` are the line numbers of its rows. `unread`
    says why its bytes could not be had; then it has no digest, and no fact but its name is known. `within` are the
    folders where it may lie, see `wafer.delivered.read_parts`; `start` are the first bytes of a file above the agreed
    size, which is not kept whole, and None for any other.
    """

    path: AnyPath
    file: str
    digest: str
    facts: dict[str, Any]
    table: pa.Table | None
    findings: Mapping[str, Sequence[Finding]] = field(default_factory=dict)
    lines: Sequence[int] = ()
    unread: str | None = None
    within: tuple[Path, ...] | None = None
    start: bytes | None = None


def read_delivery(
    path: AnyPath, form: Form, file: str | None = None, within: tuple[Path, ...] | None = None
) -> Delivery:
    """Read one file, once, into its facts and its table; a broken or unreadable file is no error.

    `file` is the name that it was delivered under, where it lies under another one; `within` as `read_parts` takes it.
    """
    file = os.fsencode(path.name).decode(errors="replace") if file is None else file
    facts: dict[str, Any] = dict.fromkeys(FACTS)
    try:
        data, digest, size = _read_bytes(path, within, form.max_bytes)
    except UnreadError as error:
        return Delivery(path, file, "", {**facts, "name": file}, None, unread=str(error), within=within)
    facts.update(name=file, size=size, **_name_facts(file, form))
    evidence = Evidence(form.listed)
    if size > form.max_bytes:
        return Delivery(path, file, digest, facts, None, within=within, start=data)
    table: pa.Table | None = None
    lines: Sequence[int] = ()
    if data:
        facts.update(encoding=_encoding(data), final_newline=data.endswith(b"\n"))
        if facts["encoding"] == "utf-8":
            table, lines = _read_content(data, form, facts, evidence)
    return Delivery(path, file, digest, facts, table, evidence.findings, lines, within=within)


def _read_bytes(path: AnyPath, within: tuple[Path, ...] | None, limit: int) -> tuple[bytes, str, int]:
    """The bytes (the first ones where there are more than `limit`), their SHA-256 and how many there are."""
    digest, size, start = hashlib.sha256(), 0, b""
    parts: list[bytes] = []
    for part in read_parts(path, within):
        digest.update(part)
        size += len(part)
        start += part[: BYTES_OF_START - len(start)]
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
    return start if size > limit else b"".join(parts), digest.hexdigest(), size


def _encoding(data: bytes) -> str:
    if data.startswith(b"\x1f\x8b"):
        return "gzip"
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if data.startswith(b"\xef\xbb\xbf"):
        return "utf-8 with a byte order mark"
    if b"\0" in data:
        # text of two bytes a sign has a zero beside each of its letters, of four bytes three
        share = data[:200].count(b"\0") / len(data[:200])
        return "utf-32" if share >= 0.7 else "utf-16" if share >= 0.33 else "binary (NUL bytes)"
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return f"not utf-8 (byte 0x{data[error.start]:02x} in line {data.count(10, 0, error.start) + 1})"
    return "utf-8"


def _name_facts(name: str, form: Form) -> dict[str, Any]:
    found = form.stamps.search(name)
    if found is None:
        return {}
    date, time = (found[stamp] or "" for stamp in ("date", "time"))  # a pattern may find a name without them
    facts: dict[str, Any] = {"date_stamp": date, "time_stamp": time}
    if (len(date), len(time)) == form.stamp_lengths:
        facts["stamp"] = f"{date}_{time}"
        if (delivered := form.delivered(name)) is not None:
            facts["delivered"] = delivered.isoformat()
    return facts


def _read_content(
    data: bytes, form: Form, facts: dict[str, Any], evidence: Evidence
) -> tuple[pa.Table | None, Sequence[int]]:
    """Fill in the facts about header, lines, ids, labels and readings; the table where the header allows one."""
    start = data.find(b"\n") + 1 or len(data)
    header = form.header(data[:start].removesuffix(b"\n").removesuffix(b"\r"))
    for fact, found in header.findings.items():
        for finding in found:
            evidence.add(fact, finding)
    facts.update(columns=header.width, header_unknown=evidence.counts["header_unknown"])
    if not header.places:
        return None, ()
    facts.update({fact: evidence.counts[fact] for fact in _HEADER_COUNTS})
    sound = _read_lines(data, start, header, form, evidence)
    facts.update(wafers=sound.wafers, unreadable=sound.error)
    facts.update({fact: evidence.counts[fact] for fact in _LINE_COUNTS})
    table = sound.table
    if table is None:
        return None, ()
    matrix = sound.matrix if sound.matrix is not None else _matrix(table, header)
    facts.update(_reading_facts(matrix, header, evidence))
    if WAFER in header.places:
        wafers = _read_ids(table.column(WAFER).to_pylist(), sound.lines, form, evidence)
        facts.update({fact: evidence.counts[fact] for fact in _ID_COUNTS})
        table = table.set_column(table.schema.get_field_index(WAFER), WAFER, pa.array(wafers, pa.string()))
    if LABEL in header.places:
        labels = _read_labels(table.column(LABEL).to_pylist(), sound.lines, form, evidence)
        facts.update({fact: evidence.counts[fact] for fact in _LABEL_COUNTS}, faulty=labels.count(1))
        table = table.set_column(table.num_columns - 1, LABEL, pa.array(labels, pa.int8()))
    return (table if header.complete else None), sound.lines


def _read_lines(data: bytes, start: int, header: Header, form: Form, evidence: Evidence) -> Sound:
    """The strict parse of everything from `start` where nothing speaks against it, else a look at each line."""
    body = memoryview(data)[start:]
    letters = np.frombuffer(body, np.uint8)
    feeds, returns = (letters == ord(letter) for letter in "\n\r")
    paired = not returns[-1:].any() and bool(feeds[np.flatnonzero(returns) + 1].all())
    lines = int(np.count_nonzero(feeds)) + (len(body) > 0 and not data.endswith(b"\n"))
    if lines and data.find(b'"', start) < 0 and paired:
        with contextlib.suppress(pa.ArrowInvalid):
            table = parse(body, header)
            matrix = _matrix(table, header)
            if table.num_rows == lines and not _has_unreal(data, start, table, matrix):
                return Sound(table, range(2, lines + 2), lines, matrix=matrix)
    return examine(body, header, form, evidence)


def _has_unreal(data: bytes, start: int, table: pa.Table, matrix: Matrix) -> bool:
    """Whether a reading is infinite or not a number: the parse takes both from text, and 1e400 for infinite."""
    if bool(np.isinf(matrix).any()):
        return True
    if data.find(b"n", start) < 0 and data.find(b"N", start) < 0:
        return False
    missing = sum(column.null_count for column in table.columns)
    return bool(np.isnan(matrix).sum() != missing)


def _matrix(table: pa.Table, header: Header) -> Matrix:
    """The readings, shape (rows, sensors), NaN where missing."""
    sensors = [at for at, column in enumerate(header.places) if column not in (WAFER, LABEL)]
    batches = table.select(sensors).combine_chunks().to_batches() if sensors else []
    if not batches:
        return np.empty((table.num_rows, len(sensors)))
    return np.asarray(batches[0].to_tensor(null_to_nan=True, row_major=False))


def _reading_facts(matrix: Matrix, header: Header, evidence: Evidence) -> dict[str, Any]:
    """Facts about missing and constant readings; empty sensors are named in the evidence."""
    if not matrix.size:
        return {}
    missing = np.isnan(matrix)
    empty = missing.all(axis=0)
    sensors = [column for column in header.places if column not in (WAFER, LABEL)]
    for at in np.flatnonzero(empty):
        evidence.add("empty_sensors", Finding(None, sensors[at], "a reading", None))
    constant = (np.fmax.reduce(matrix) == np.fmin.reduce(matrix)) & (len(matrix) > 1)
    return {
        "empty_sensors": int(empty.sum()),
        "constant_sensors": int(constant.sum()),
        "missing_share": float(missing.mean()),
    }


def _read_ids(texts: list[str], lines: Sequence[int], form: Form, evidence: Evidence) -> list[str]:
    """The wafers in the one spelling by which each is known; a text that is no agreed id stays as it is."""
    first: dict[str, int] = {}
    column, agreed = form.told(WAFER), form.wafer_id.pattern
    wafers = [form.wafer_named(text) for text in texts]
    for text, wafer, line in zip(texts, wafers, lines, strict=True):
        if wafer is None:
            fits = len(text) > LONGEST_ID or form.wafer_id.fullmatch(text)
            told = f"{agreed}, {BOUNDS_OF_AN_ID}" if fits else agreed
            evidence.add("ids_malformed" if text else "ids_empty", Finding(line, column, told, text))
        elif first.setdefault(wafer, line) != line:
            evidence.add("ids_doubled", Finding(line, column, f"once (first in line {first[wafer]})", text))
    return [text if wafer is None else wafer for text, wafer in zip(texts, wafers, strict=True)]


def _read_labels(texts: list[str], lines: Sequence[int], form: Form, evidence: Evidence) -> list[int | None]:
    """The labels as -1 and 1, None where a text is no agreed label."""
    plain = [text.strip(" \t") for text in texts]
    labels = [form.labels.get(text) for text in plain]
    column, agreed = form.told(LABEL), " or ".join(form.labels)
    for at, (label, line) in enumerate(zip(labels, lines, strict=True)):
        if label is None:
            fact = "labels_unknown" if plain[at] else "labels_missing"
            evidence.add(fact, Finding(line, column, agreed, texts[at]))
    return labels
