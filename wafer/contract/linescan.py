"""Where exactly a file's lines break the agreement: the slow second look, for files that the strict parse refuses.

Each line is taken apart as text, so that every bad cell is found with its line and column and not only the first one;
what is left, the sound lines, goes through the same strict parse as any other file.
"""

import codecs
import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from wafer.contract.form import LABEL, WAFER, WIDEST, Finding, Form, Header, shorten

# what both float() and the strict parse read as the same finite number, infinities by their size apart; no digit can be
# taken by two parts of it, so that a long text that is no number is refused in one pass
NUMBER = re.compile(r"[ \t]*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t]*")


# findings kept of one kind in one file; beyond it they are only counted
KEPT = 10_000


@dataclass
class Evidence:
    """Findings as they are collected, by fact; `counts` is complete where `findings` ends at a bound.

    The first finding of each line is kept up to 10,000 lines, further ones of the same line up to `listed` in all.
    """

    listed: int
    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, fact: str, finding: Finding) -> None:
        """Note one finding, with the ends of a long value."""
        self.counts[fact] += 1
        found = self.findings.setdefault(fact, [])
        if len(found) < self.listed or (len(found) < KEPT and found[-1].line != finding.line):
            column, got = (text and shorten(text) for text in (finding.column, finding.got))
            found.append(replace(finding, column=column, got=got))


@dataclass(frozen=True)
class Sound:
    """The lines of a file that can be parsed, as a table of the header's agreed columns.

    `lines` gives each row's line number; `wafers` counts all lines that are not blank, sound or not; `error` is what
    the strict parse says where it refuses lines that looked sound; `matrix` is the readings (rows, sensors), where they
    are at hand.
    """

    table: pa.Table | None
    lines: Sequence[int]
    wafers: int
    error: str | None = None
    matrix: np.ndarray[Any, np.dtype[np.float64]] | None = None


def parse(body: memoryview | bytes, header: Header) -> pa.Table:
    """The strict typed parse of the lines after the header.

    Raises:
        pyarrow.ArrowInvalid: a line is too long or too short, or a reading is not a number.
    """
    if body[:3] == codecs.BOM_UTF8:
        # the parser would swallow the mark as if the file began here; behind a blank line, which it skips, it does not
        body = b"\n" + bytes(body)
    return pacsv.read_csv(
        pa.BufferReader(pa.py_buffer(body)),
        read_options=header.read_options,
        convert_options=header.convert_options,
    )


def examine(body: memoryview, header: Header, form: Form, evidence: Evidence) -> Sound:
    """Find everything that is wrong with the lines after the header, and parse those that are sound."""
    kept, lines = bytearray(), []
    wafers = 0
    for number, raw in enumerate(io.BytesIO(body), start=2):
        line = raw.rstrip(b"\n").removesuffix(b"\r")
        if not line:
            evidence.add("blank_lines", Finding(number))
            continue
        wafers += 1
        if _is_sound(line.decode(), number, header, form, evidence):
            kept += line + b"\n"
            lines.append(number)
    if not lines:
        return Sound(None, (), wafers)
    try:
        table = parse(bytes(kept), header)
    except pa.ArrowInvalid as error:
        return Sound(None, (), wafers, str(error)[:300])
    if table.num_rows != len(lines):
        return Sound(None, (), wafers, f"{len(lines)} lines were read as {table.num_rows} rows")
    return Sound(table, lines, wafers)


def _is_sound(line: str, number: int, header: Header, form: Form, evidence: Evidence) -> bool:
    try:
        width, fields = _split(line, header.width)
    except csv.Error as error:
        evidence.add("broken_lines", Finding(number, None, "fields and commas", str(error)))
        return False
    if width != header.width:
        evidence.add("ragged_lines", Finding(number, None, str(header.width), str(width)))
        return False
    sound = True
    for fact, column, text in _bad_cells(fields, header):
        evidence.add(fact, Finding(number, form.told(column), "a finite number or nothing", text))
        sound = False
    return sound


def _split(line: str, expected: int) -> tuple[int, list[str]]:
    """How many fields one line has, and the fields where they are as many as expected.

    Raises:
        csv.Error: a quote is not closed, or a carriage return stands within the line.
    """
    if "\r" in line:
        raise csv.Error("a carriage return without a line feed")
    width = line.count(",") + 1
    if '"' in line and width <= WIDEST:
        fields = next(csv.reader([line], strict=True))
        return len(fields), fields
    return width, line.split(",") if width == expected else []


def _bad_cells(fields: list[str], header: Header) -> Iterator[tuple[str, str, str]]:
    for column, place in header.places.items():
        text = fields[place]
        if not text or column in (WAFER, LABEL):
            continue
        if not NUMBER.fullmatch(text):
            infinite = text.strip().lstrip("+-").lower() in ("inf", "infinity")
            yield "infinite_cells" if infinite else "bad_cells", column, text
        elif math.isinf(float(text)):
            yield "infinite_cells", column, text
