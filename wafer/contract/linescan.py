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
from wafer.delivered import PART

# what both float() and the strict parse read as the same finite number, infinities by their size apart; no digit can be
# taken by two parts of it, so that a long text that is no number is refused in one pass
NUMBER = re.compile(r"[ \t]*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t]*")


# findings kept of one kind in one file; beyond it they are only counted
KEPT = 10_000
LOOKED_AT = 100_000  # bad lines of one file, which is turned away long before
Counts = np.ndarray[Any, np.dtype[np.int64]]


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
    """Find everything that is wrong with the lines after the header, and parse those that are sound.

    Blank and ragged lines are counted without end. Of a file with very many other bad lines the rest is not looked at.
    """
    kept, lines = bytearray(), []
    wafers = bad = 0
    stream, first = io.BytesIO(body), 2
    while part := stream.read(PART) + stream.readline():
        places = _Lines.of(part)
        wafers += int(np.count_nonzero(places.length))
        for at in _worth_a_look(places, header, evidence):
            line = part[places.start[at] : places.start[at] + places.length[at]]
            if not line:
                evidence.add("blank_lines", Finding(first + at))
            elif _is_sound(line.decode(), first + at, header, form, evidence):
                kept += line + b"\n"
                lines.append(first + at)
            elif (bad := bad + 1) > LOOKED_AT:
                unseen = f"those after line {first + at} were not looked at"
                return Sound(None, (), wafers, f"more than {LOOKED_AT:,} lines are not as agreed, and {unseen}")
        first += len(places.start)
    if not lines:
        return Sound(None, (), wafers)
    try:
        table = parse(bytes(kept), header)
    except pa.ArrowInvalid as error:
        return Sound(None, (), wafers, str(error)[:300])
    if table.num_rows != len(lines):
        return Sound(None, (), wafers, f"{len(lines)} lines were read as {table.num_rows} rows")
    return Sound(table, lines, wafers)


@dataclass(frozen=True)
class _Lines:
    """The lines of a text: where each starts, its length without its end, its commas, its quotes and inner returns."""

    start: Counts
    length: Counts
    commas: Counts
    odd: Counts

    @classmethod
    def of(cls, text: bytes) -> "_Lines":
        letters = np.frombuffer(text, np.uint8)
        end = np.flatnonzero(letters == ord("\n"))
        if not text.endswith(b"\n"):
            end = np.append(end, len(text))
        start = np.concatenate(([0], end[:-1] + 1))
        returned = (end > start) & (letters[end - 1] == ord("\r"))
        commas, odd = (
            np.add.reduceat(found, start, dtype=np.int64)
            for found in (letters == ord(","), (letters == ord('"')) | (letters == ord("\r")))
        )
        return cls(start, end - start - returned, commas, odd - returned)


def _worth_a_look(lines: _Lines, header: Header, evidence: Evidence) -> list[int]:
    """Which lines to look at one by one; blank and ragged ones beyond those that are kept are only counted."""
    look = np.ones(len(lines.start), bool)
    blank = lines.length == 0
    ragged = ~blank & (lines.odd == 0) & (lines.commas + 1 != header.width)
    for fact, found in (("blank_lines", blank), ("ragged_lines", ragged)):
        more = np.flatnonzero(found)[max(0, max(KEPT, evidence.listed) - evidence.counts[fact]) :]
        look[more] = False
        evidence.counts[fact] += len(more)
    return list(map(int, np.flatnonzero(look)))


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
