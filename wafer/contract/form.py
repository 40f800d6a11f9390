"""The file-level agreement as the reader needs it, and what the header of one file makes of it."""

import bisect
import csv
import datetime
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.csv as pacsv
from pydantic import Field, field_validator, model_validator

from wafer.contract.patterns import check_numbered, check_pattern
from wafer.documents import DocumentError, Part, fitted, quoted
from wafer.errors import AgreementError
from wafer.records import TABLE

Kind = Literal["training", "prediction"]

WAFER = "wafer"
LABEL = "label"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as agreed in a file.

    `line` counts from 1, which is the header; a finding about one wafer always has its line.
    """

    line: int | None = None
    column: str | None = None
    expected: str | None = None
    got: str | None = None


Findings = dict[str, list[Finding]]

# characters of a value that a finding keeps, and of several names together
SHOWN = 120
SHOWN_TOGETHER = 600


def shorten(text: str, length: int = SHOWN) -> str:
    """`text`, with an ellipsis for its middle where it is longer than `length`."""
    return text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 4 :]}"


# a line with more commas than this is not taken apart: its fields alone would fill the memory
WIDEST = 100_000

# of a wafer's number, which the store keeps as an integer of 64 bits
MOST_DIGITS = 18
LONGEST_ID = 200
BOUNDS_OF_AN_ID = f"of at most {LONGEST_ID} characters, its number having 1 to {MOST_DIGITS} digits from 0 to 9"


@dataclass(frozen=True)
class Form:
    """What one delivered file should look like; read from the `form` section of a suite's `meta`.

    `wafer` and `label` hold the names that the id and the label column may have, the usual one first (`label` is empty
    where none is agreed); `sensors` the sensors in their order; `stamps` finds the date and the time stamp in a file's
    name, `stamp_format` reads both, joined by a line; `wafer_id` fits a whole id and has a group `number` of digits;
    `labels` maps the agreed spellings to -1 (good) and 1 (faulty); `max_bytes` is the size above which a file is not
    parsed; `listed` is how many findings of one rule are told one by one.
    """

    wafer: tuple[str, ...]
    sensors: tuple[str, ...]
    label: tuple[str, ...]
    stamps: re.Pattern[str]
    stamp_format: str
    wafer_id: re.Pattern[str]
    labels: Mapping[str, int]
    max_bytes: int
    listed: int = 50
    ignore_spaces: bool = True
    _headers: dict[bytes, "Header"] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, meta: Mapping[str, Any], max_bytes: int, listed: int) -> "Form":
        """The form that `meta` describes.

        Raises:
            AgreementError: a key is missing, unknown or of no use.
        """
        try:
            part = fitted(_FormPart, meta, "meta.form")
        except DocumentError as error:
            raise AgreementError(str(error)) from error
        return cls(
            wafer=tuple(part.wafer),
            sensors=tuple(part.sensors),
            label=tuple(part.label),
            stamps=re.compile(part.stamps),
            stamp_format=part.stamp_format,
            wafer_id=re.compile(part.wafer_id),
            labels=dict(part.labels),
            max_bytes=max_bytes,
            listed=listed,
            ignore_spaces=part.ignore_spaces,
        )

    @cached_property
    def stamp_lengths(self) -> tuple[int, int]:
        """How many digits the date and the time stamp have."""
        date, time = (len(datetime.datetime(2020, 1, 1).strftime(part)) for part in self.stamp_format.split("_"))
        return date, time

    def delivered(self, name: str) -> datetime.datetime | None:
        """The moment that the stamps in a file's name tell; None where they are not as agreed."""
        found = self.stamps.search(name)
        stamps = [] if found is None else [found[stamp] or "" for stamp in ("date", "time")]
        if tuple(map(len, stamps)) != self.stamp_lengths:
            return None
        try:
            return datetime.datetime.strptime("_".join(stamps), self.stamp_format)
        except ValueError:  # no day of the calendar
            return None

    def of_labels(self) -> "Form":
        """The form of a file that brings labels alone: the id and the label column, named and spelled the same."""
        return replace(self, sensors=(), _headers={})

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The table's columns in their order: wafer, the sensors, and label where one is agreed."""
        return (WAFER, *self.sensors, *((LABEL,) if self.label else ()))

    def told(self, column: str) -> str:
        """The name by which a person knows a column of the table."""
        if column == WAFER:
            return next((name for name in self.wafer if name), column)
        return self.label[0] if column == LABEL else column

    @cached_property
    def _columns_by_name(self) -> dict[str, str]:
        names = {self._plain(name): WAFER for name in self.wafer}
        names |= {self._plain(name): LABEL for name in self.label}
        return names | {self._plain(name): name for name in self.sensors}

    def _plain(self, name: str) -> str:
        return name.replace(" ", "") if self.ignore_spaces else name

    def column(self, name: str, place: int) -> str | None:
        """The table's column that a header's `name` means, None for an unknown one; no name can only be the first."""
        plain = self._plain(name)
        return self._columns_by_name.get(plain) if plain or not place else None

    def wafer_named(self, text: str) -> str | None:
        """The wafer that an id names, in the one spelling by which it is known from here on; None for no agreed id.

        Large or small letters and zeros in front of the number make no other wafer: "wafer-012" is "Wafer-12", as long
        as the agreed pattern has that id too.
        """
        found = self.wafer_id.fullmatch(text) if len(text) <= LONGEST_ID else None
        number = "" if found is None else found["number"]
        if found is None or not number.isascii() or len(number) > MOST_DIGITS:  # a \d takes digits of all scripts
            return None
        if number[0] != "0" and text == text.capitalize():
            return text  # most are spelled so
        start, zeros = found.start("number"), len(number) - len(str(int(number)))
        shorter = (text[:start] + text[start + left_out :] for left_out in range(zeros, 0, -1))
        plain = next(filter(self.wafer_id.fullmatch, shorter), text)
        larger = (plain.capitalize(), plain[:1].upper() + plain[1:])
        return next(filter(self.wafer_id.fullmatch, larger), plain)

    def header(self, line: bytes) -> "Header":
        """What the first `line` of a file says; remembered where it is as agreed, since most files share it."""
        if (known := self._headers.get(line)) is not None:
            return known
        header = read_header(line.decode(), self)
        if header.complete and not header.findings and len(self._headers) < 16:
            self._headers[line] = header
        return header


def check_labels(labels: Mapping[str, int]) -> None:
    """Refuse spellings that could not be told apart or lack one of the two meanings, with a ValueError."""
    if set(labels.values()) != {-1, 1}:
        raise ValueError(f"expected spellings of -1 (good) and 1 (faulty), got {quoted(dict(labels))}")
    read: dict[str, str] = {}
    for text, label in labels.items():
        if not text or text != text.strip():
            raise ValueError(f"a spelling is text without blanks around it, got {quoted(text)}")
        if not text.isprintable():
            raise ValueError(f"a spelling is text on one line, got {quoted(text)}")
        other = read.setdefault(_read_as(text), text)
        if labels[other] != label:
            raise ValueError(f"{quoted(other)} and {quoted(text)} read alike, so they cannot mean good and faulty")


def _read_as(label: str) -> str:
    """What a person or a spreadsheet takes a label's spelling for: its number, or its letters in either case."""
    try:
        return repr(float(label) + 0.0)
    except ValueError:
        return unicodedata.normalize("NFKC", label).casefold()


def check_apart(names: Mapping[str, Sequence[str]], ignore_spaces: bool = True) -> None:
    """Refuse a name that cannot be printed, or that stands twice among `names`, which are by key, with a ValueError.

    Two names that only Unicode tells apart, an é of one character and of two, are the same to a person.
    """
    keys: dict[str, str] = {}
    for key, listed in names.items():
        for name in listed:
            if not name.isprintable():
                raise ValueError(f"{key}: expected a name that can be printed, got {quoted(name)}")
            plain = unicodedata.normalize("NFC", name.replace(" ", "") if ignore_spaces else name)
            if plain in keys:
                where = "twice" if keys[plain] == key else f"in {keys[plain]} too"
                raise ValueError(f"{key}: each name once, but {quoted(name)} stands {where}")
            keys[plain] = key


class _FormPart(Part):
    """The section `form` of a suite's `meta`; see `Form`."""

    stamps: str
    stamp_format: str
    wafer_id: str
    labels: dict[str, int]
    ignore_spaces: bool
    wafer: list[str] = Field(min_length=1)
    label: list[str]
    sensors: list[str] = Field(min_length=1)

    @field_validator("stamps")
    @classmethod
    def _finds_stamps(cls, text: str) -> str:
        return check_pattern(text, ["date", "time"])

    @field_validator("wafer_id")
    @classmethod
    def _finds_number(cls, text: str) -> str:
        return check_numbered(text, "number", MOST_DIGITS)

    @field_validator("stamp_format")
    @classmethod
    def _two_stamps(cls, text: str) -> str:
        if text.count("_") != 1:
            raise ValueError(f"expected date and time joined by one '_', got {quoted(text)}")
        return text

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if {"", *TABLE} & set(self.sensors):
            raise ValueError(f"sensors: each needs a name, and none of them is one of {', '.join(TABLE)}")
        check_apart({"wafer": self.wafer, "sensors": self.sensors, "label": self.label}, self.ignore_spaces)
        if self.label:
            try:
                check_labels(self.labels)
            except ValueError as error:
                raise ValueError(f"labels: {error}") from error
        elif self.labels:
            raise ValueError("labels: spellings without a label column")
        return self


@dataclass(frozen=True)
class Header:
    """The header of one file against the form.

    `width` is its number of fields; `places` maps each agreed column found to its place; `complete` says that none is
    missing; `findings` are by fact.
    """

    width: int
    places: Mapping[str, int]
    complete: bool
    findings: Mapping[str, list[Finding]]

    @cached_property
    def read_options(self) -> pacsv.ReadOptions:
        """Options for the lines after the header, which is not read again; one thread, since files are many."""
        names = [f"?{place}" for place in range(self.width)]
        for column, place in self.places.items():
            names[place] = column
        return pacsv.ReadOptions(column_names=names, use_threads=False, block_size=1 << 22)

    @cached_property
    def convert_options(self) -> pacsv.ConvertOptions:
        """Options for a strict parse: readings are float64, empty means missing, ids and labels stay text."""
        text = {WAFER, LABEL}
        return pacsv.ConvertOptions(
            column_types={column: pa.string() if column in text else pa.float64() for column in self.places},
            include_columns=list(self.places),
            null_values=[""],
            strings_can_be_null=False,
        )


def read_header(text: str, form: Form) -> Header:
    """Compare the header line `text` with the form: which column is missing, extra, doubled or out of place."""
    width = text.count(",") + 1
    names, broken = [], f"{width} columns"
    if "\r" in text:
        broken = "a carriage return without a line feed"
    elif width <= WIDEST:
        try:
            names = next(csv.reader([text], strict=True), []) if '"' in text else text.split(",")
            broken = text[:200]
        except csv.Error as error:
            broken = str(error)
    first: dict[str, int] = {}
    findings: Findings = {key: [] for key in ("columns_extra", "columns_doubled")}
    for place, name in enumerate(names):
        column = form.column(name, place)
        if column is None:
            findings["columns_extra"].append(Finding(1, name, None, f"column {place + 1}"))
        elif column in first:
            findings["columns_doubled"].append(Finding(1, name, "once", f"column {place + 1}"))
        else:
            first[column] = place
    if not any(column in first for column in form.sensors or form.columns):
        expected = ", ".join([*map(form.told, form.columns[:2]), *["…"][: len(form.sensors)]])
        return Header(width, {}, False, {"header_unknown": [Finding(1, None, expected, broken)]})
    places = {column: first[column] for column in form.columns if column in first}
    missing = [column for column in form.columns if column not in first]
    findings["columns_missing"] = [Finding(1, form.told(c), form.told(c), None) for c in missing]
    findings["columns_misplaced"] = list(_misplaced(places, form))
    return Header(len(names), places, not missing, {key: found for key, found in findings.items() if found})


def _misplaced(places: Mapping[str, int], form: Form) -> Iterable[Finding]:
    """The fewest columns that must move to bring the others into the agreed order."""
    order = list(places)
    staying = _longest_rising([places[column] for column in order])
    for at, column in enumerate(order):
        if at not in staying:
            before = f"after {form.told(order[at - 1])}" if at else "first"
            yield Finding(1, form.told(column), before, f"column {places[column] + 1}")


def _longest_rising(values: list[int]) -> set[int]:
    """The indices of a longest rising subsequence of `values` (patience sorting)."""
    if all(a < b for a, b in itertools.pairwise(values)):
        return set(range(len(values)))
    tops: list[int] = []
    indices: list[int] = []
    previous: list[int] = []
    for at, value in enumerate(values):
        pile = bisect.bisect_left(tops, value)
        previous.append(indices[pile - 1] if pile else -1)
        if pile == len(tops):
            tops.append(value)
            indices.append(at)
        else:
            tops[pile], indices[pile] = value, at
    kept = set()
    at = indices[-1]
    while at >= 0:
        kept.add(at)
        at = previous[at]
    return kept
