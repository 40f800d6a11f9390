"""Good batch files, and the ways to break them."""

import gzip
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis
from hypothesis import strategies as st

NUMBERS = [
    *("1", "-1", "+1", "+-1", "1 ", "\t1", " ", "1,2", "1;2", "0x10", "1_0", "1.5.2"),
    *("1e5", "1e", ".5", "5.", ".", "-0", "9" * 400, "1e-400", "1e400", "-1e400"),
    *("1.7976931348623159e308", "4.9e-324", "2.2250738585072011e-308"),
    *("nan", "NaN", "-nan", "inf", "-Infinity", "iNf", "\u00a01", "\u0661", "\uff11", "\u22121", "1\u2003", "\x1c1"),
]
SIGNS = [
    *("", ",", ",,,", "\r", "\n", "\r\n", "\n\n", "\r\r\n"),
    *("\0", "\x0b", "\x0c", "\x1a", "\x85", "\u2028", "\ufeff", "\ud7ff"),
    *('"', '""', '"1.5"', '"a', 'a"b', '"1"2', '"1\n2"', '"1,2"', "'", "#", "%s", "{x}", "{line}", "é"),
]
WORDS = [
    *("NA", "None", "null", "true", "Wafer-1", "wafer-2", "Wafer-01", "Wafer-", " Wafer-3", "Wafer-1234567890123456"),
    *("Wafer-\u0661", "Sensor-1", "Sensor - 2", "sensor-3", "Sensor-01", "Good/Bad", "Output", "Unnamed: 0"),
]
TOKENS = [*NUMBERS, *SIGNS, *WORDS]
BYTES = [*(token.encode() for token in TOKENS), *(bytes([number]) for number in (0x80, 0x8B, 0xC3, 0xE9, 0xFE, 0xFF))]
NAMES = [
    *("wafer_{stamps}", "wafer_{stamps}.CSV", "wafer_{stamps}.csv.csv", "wafer_{stamps}.csv\n", "{stamps}.csv"),
    *("wafer-{stamps}.csv", "WAFER_{stamps}.csv", " wafer_{stamps}.csv", "xwafer_{stamps}.csv", "Wafer_{stamps}.csv"),
    *("wafer_{stamps}0.csv", "wafer_3{stamps}.csv", "wafer_010120_000000.csv", "wafer_01012020_0000.csv"),
    *(
        "wafer_31022020_000000.csv",
        "wafer_00012020_000000.csv",
        "wafer_01132020_000000.csv",
        "wafer_29022019_120000.csv",
    ),
    *("wafer_01012020_240000.csv", "wafer_01012020_006000.csv", "wafer_01010000_000000.csv"),
    *("wafer_\u0660\u0661012020_000000.csv", "wafer__.csv", "_.csv", "wafer_1_1.csv", "é" * 100 + ".csv", "\udcff.csv"),
    *(".reasons.json", "wafer_{stamps}.csv.reasons.json", "wafer.dropped.jsonl", "-", "%s{x}.csv", "a b.csv"),
    *("\x1b[2J\x1b[31mwafer_{stamps}.csv", "a\naccepted wafer_{stamps}.csv", "\r\t.csv", "\u202evsc.csv", "\x9b1m.csv"),
    *("x" * 251 + ".csv", "CON", "C:wafer_{stamps}.csv", "..\\..\\wafer_{stamps}.csv", "$(id).csv", "~"),
]


Rows = list[list[str]]


@dataclass(frozen=True)
class Change:
    """One way to break a file; `a` and `b` choose places, from 0 to 9,999."""

    way: str
    a: int
    b: int
    token: int


@dataclass(frozen=True)
class Recipe:
    """A good file, made from `seed`, and what becomes of it; `name` 0 keeps its name."""

    seed: int
    wafers: int
    newline: str
    changes: tuple[Change, ...]
    name: int


def good_rows(recipe: Recipe, number: int, sensors: int, labelled: bool) -> Rows:
    """Header and wafers of the good file with this `number`; ids differ between files."""
    draw = random.Random(recipe.seed)
    header = [draw.choice(["", "Wafer", "Unnamed: 0"]), *(f"Sensor-{at}" for at in range(1, sensors + 1))]
    rows = [header + ["Good/Bad"] * labelled]
    for row in range(recipe.wafers):
        readings = ["" if draw.random() < 0.1 else repr(_reading(draw)) for _ in range(sensors)]
        wafer = draw.choice(["Wafer-{}", "Wafer-{}", "wafer-{}", "Wafer-0{}"]).format(number * 100 + row)
        rows.append([wafer, *readings, *([draw.choice(["-1", "1", "+1"])] if labelled else [])])
    return rows


def _reading(draw: random.Random) -> float:
    kind = draw.randrange(3)
    if kind == 0:
        return float(draw.randint(-5, 5))
    if kind == 1:
        return draw.random() * 10.0 ** draw.randint(-9, 9)
    (value,) = struct.unpack("d", draw.randbytes(8))
    return value if math.isfinite(value) else -0.0


def _place(share: int, length: int) -> int:
    return share * length // 10_000


def _set_cell(rows: Rows, a: int, b: int, token: str) -> None:
    row = rows[_place(a, len(rows))]
    if row:
        row[_place(b, len(row))] = token


def _swap_values(rows: Rows, a: int, b: int, token: str) -> None:
    row, other = rows[_place(a, len(rows))], rows[_place(b, len(rows))]
    at, to = _place(b, len(row)), _place(a, len(other))
    row[at], other[to] = other[to], row[at]


def _move_column(rows: Rows, a: int, b: int, token: str) -> None:
    for row in rows:
        row.insert(_place(b, len(row)), row.pop(_place(a, len(row))))


def _swap_columns(rows: Rows, a: int, b: int, token: str) -> None:
    for row in rows:
        at, to = _place(a, len(row)), _place(b, len(row))
        row[at], row[to] = row[to], row[at]


def _double_column(rows: Rows, a: int, b: int, token: str) -> None:
    for row in rows:
        row.insert(_place(b, len(row) + 1), row[_place(a, len(row))])


def _drop_column(rows: Rows, a: int, b: int, token: str) -> None:
    for row in rows:
        del row[_place(a, len(row))]


def _add_column(rows: Rows, a: int, b: int, token: str) -> None:
    for row in rows:
        row.insert(_place(a, len(row) + 1), token)


def _drop_field(rows: Rows, a: int, b: int, token: str) -> None:
    row = rows[_place(a, len(rows))]
    del row[_place(b, len(row)) : _place(b, len(row)) + 1]


def _many_columns(rows: Rows, a: int, b: int, token: str) -> None:
    for row in rows:
        row += [f"X{at}" for at in range(1000 + a % 4000)] if row is rows[0] else ["1"] * (1000 + a % 4000)


def _long_header(rows: Rows, a: int, b: int, token: str) -> None:
    rows[0] += [f"X{at}" for at in range(1000 + a % 4000)]


def _quote(rows: Rows, a: int, b: int, token: str) -> None:
    for row in rows[_place(a, len(rows)) :]:
        row[_place(b, len(row)) :] = [f'"{value}"' for value in row[_place(b, len(row)) :]]


def _double_line(rows: Rows, a: int, b: int, token: str) -> None:
    rows.insert(_place(b, len(rows)) + 1, list(rows[_place(a, len(rows))]))


def _replace(data: bytes, at: int, length: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + length :]


ROW_CHANGES: dict[str, Callable[[Rows, int, int, str], None]] = {
    "set cell": _set_cell,
    "swap values": _swap_values,
    "move column": _move_column,
    "swap columns": _swap_columns,
    "double column": _double_column,
    "drop column": _drop_column,
    "rename column": lambda rows, a, b, token: _set_cell(rows[:1], 0, b, token),
    "add column": _add_column,
    "drop field": _drop_field,
    "many columns": _many_columns,
    "long header": _long_header,
    "quote": _quote,
    "double line": _double_line,
    "drop line": lambda rows, a, b, token: rows.pop(_place(a, len(rows))) and None,
    "swap lines": lambda rows, a, b, token: rows.insert(_place(b, len(rows)), rows.pop(_place(a, len(rows)))),
    "no wafers": lambda rows, a, b, token: rows.__delitem__(slice(1, None)),
    "blank line": lambda rows, a, b, token: rows.insert(1 + _place(a, len(rows)), []),
}
BYTE_CHANGES: dict[str, Callable[[bytes, int, int, bytes], bytes]] = {
    "cut": lambda data, a, b, token: data[: _place(a, len(data))],
    "cut start": lambda data, a, b, token: data[_place(a, len(data)) :],
    "cut out": lambda data, a, b, token: _replace(data, _place(a, len(data)), 1 + b % 40, b""),
    "flip": lambda data, a, b, token: _replace(data, _place(a, len(data)), 1, bytes([b % 256])),
    "insert": lambda data, a, b, token: _replace(data, _place(a, len(data)), 0, token),
    "append": lambda data, a, b, token: data + token,
    "double": lambda data, a, b, token: data + data[_place(a, len(data)) :],
    "grow": lambda data, a, b, token: data + data[-1:] * (1 + a * 100),
    "utf-16": lambda data, a, b, token: data.decode(errors="replace").encode("utf-16"),
    "utf-16 unmarked": lambda data, a, b, token: data.decode(errors="replace").encode("utf-16-be"),
    "utf-32": lambda data, a, b, token: data.decode(errors="replace").encode("utf-32"),
    "ebcdic": lambda data, a, b, token: data.decode(errors="replace").encode("cp500", "replace"),
    "latin-1": lambda data, a, b, token: (data.decode(errors="replace") + "é\n").encode("latin-1", "replace"),
    "mark": lambda data, a, b, token: b"\xef\xbb\xbf" + data,
    "gzip": lambda data, a, b, token: gzip.compress(data, mtime=0),
    "noise": lambda data, a, b, token: random.Random(a).randbytes(b),
    "carriage returns": lambda data, a, b, token: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r"),
    "windows": lambda data, a, b, token: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "semicolons": lambda data, a, b, token: data.replace(b",", b";"),
}  # fmt: skip

# the rules of which one must be broken where this change is the only one; none: the file stays good
IMPLIED: dict[str, set[str]] = {
    **{way: {"encoding"} for way in ("utf-16", "utf-16 unmarked", "utf-32", "ebcdic", "latin-1", "mark", "gzip")},
    **{way: {"columns_misplaced", "columns_missing"} for way in ("move column", "swap columns")},
    **{way: {"columns_extra"} for way in ("many columns", "long header")},
    **{way: set() for way in ("quote", "windows", "blank line")},
    "double column": {"columns_doubled", "columns_extra"},
    "drop column": {"columns_missing"},
    "add column": {"columns_extra", "columns_doubled", "header_unknown"},
    "no wafers": {"wafers"},
    "cut": {"final_newline", "empty_file"},
    "semicolons": {"header_unknown"},
    "carriage returns": {"header_unknown"},
}


def broken(recipe: Recipe, number: int, sensors: int, labelled: bool) -> bytes:
    """The file that a recipe makes, with or without labels."""
    rows = good_rows(recipe, number, sensors, labelled)
    for change in recipe.changes:
        if change.way in ROW_CHANGES and rows and all(rows):
            ROW_CHANGES[change.way](rows, change.a, change.b, TOKENS[change.token % len(TOKENS)])
    data = "".join(",".join(row) + recipe.newline for row in rows).encode()
    for change in recipe.changes:
        if change.way in BYTE_CHANGES:
            data = BYTE_CHANGES[change.way](data, change.a, change.b, BYTES[change.token % len(BYTES)])
    return data


def file_name(recipe: Recipe, number: int) -> str:
    """A good name, a second for each number, or one of the others."""
    stamps = f"0101{2000 + number // 86_400}_{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}"
    return f"wafer_{stamps}.csv" if recipe.name == 0 else NAMES[recipe.name - 1].replace("{stamps}", stamps)


places = st.integers(0, 9_999)
changes = st.builds(
    Change, st.sampled_from([*ROW_CHANGES, *BYTE_CHANGES]), places, places, st.integers(0, len(BYTES) * len(TOKENS) - 1)
)
recipes = st.builds(
    Recipe,
    seed=st.integers(0, 2**32),
    wafers=st.sampled_from([1, 2, 3, 5, 8, 12]),
    newline=st.sampled_from(["\n", "\r\n"]),
    changes=st.lists(changes, max_size=3).map(tuple),
    name=st.one_of(st.just(0), st.just(0), st.just(0), st.integers(1, len(NAMES))),
)


def draw_recipes(number: int, seed: int) -> list[Recipe]:
    """So many different recipes, the same for the same seed."""
    drawn: list[Recipe] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(recipes)
    def draw(recipe: Recipe) -> None:
        drawn.append(recipe)

    draw()
    return drawn
