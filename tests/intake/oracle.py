"""Says by hand what is wrong with a batch file, sharing no code with the library."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

LINE_RULES = ("broken_lines", "ragged_lines", "bad_cells", "infinite_cells")
WAFER_RULES = (*LINE_RULES, "ids_empty", "ids_malformed", "ids_doubled", "labels_missing", "labels_unknown")


@dataclass
class Truth:
    """What is wrong with a file: the lines in which each rule is broken (None: the file), and its sound wafers.

    A wafer is its id, readings and label, which is None in a file without labels.
    """

    broken: dict[str, set[int | None]] = field(default_factory=lambda: defaultdict(set))
    warned: set[str] = field(default_factory=set)
    lines: dict[int, str] = field(default_factory=dict)
    wafers: dict[int, tuple[str, bytes, int | None]] = field(default_factory=dict)

    def bad_lines(self) -> set[int]:
        """The lines of wafers that cannot be stored."""
        return {line for rule in WAFER_RULES for line in self.broken.get(rule, ()) if line is not None}

    def sound(self) -> Iterator[tuple[str, bytes, int | None]]:
        """Id, readings and label of each wafer that can be stored."""
        bad = self.bad_lines()
        yield from (wafer for line, wafer in self.wafers.items() if line not in bad)


def find_truth(name: str, data: bytes, sensors: int, max_bytes: int, labelled: bool) -> Truth:
    """Judge a file by hand, `labelled` as for training or not as for prediction."""
    truth = Truth()
    for rule in name_rules(name):
        truth.broken[rule].add(None)
    if not data or len(data) > max_bytes:
        truth.broken["too_large" if data else "empty_file"].add(None)
        return truth
    if data[-1] != 10:
        truth.broken["final_newline"].add(None)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or text[0] == "\ufeff":
        truth.broken["encoding"].add(None)
        return truth
    head, *body = text.split("\n")
    if text[-1] == "\n" and body:
        body.pop()
    places = header_places(head.removesuffix("\r"), sensors, labelled, truth)
    if places is not None:
        judge_lines(body, places, sensors, labelled, truth)
    return truth


def name_rules(name: str) -> Iterator[str]:
    if not re.fullmatch(r"[wW]afer_[0-9]+_[0-9]+\.csv", name):
        yield "file_name"
    if stamps := re.search(r"_([0-9]+)_([0-9]+)\.csv\Z", name):
        date, time = stamps[1], stamps[2]
        if len(date) != 8:
            yield "date_stamp"
        if len(time) != 6:
            yield "time_stamp"
        if len(date) == 8 and len(time) == 6:
            numbers = [int(part) for part in (date[4:], date[2:4], date[:2], time[:2], time[2:4], time[4:])]
            try:
                datetime(*numbers)  # type: ignore[arg-type]
            except ValueError:
                yield "calendar"


def split(line: str) -> list[str]:
    """The fields of one line; an open quote, or something behind a closed one, is a ValueError."""
    fields, at = [], 0
    while True:
        if line[at : at + 1] == '"':
            quoted = re.compile(r'"((?:[^"]|"")*)"(?=,|\Z)').match(line, at)
            if quoted is None:
                raise ValueError(line)
            fields.append(quoted[1].replace('""', '"'))
            at = quoted.end()
        else:
            end = line.find(",", at) if "," in line[at:] else len(line)
            fields.append(line[at:end])
            at = end
        if at == len(line):
            return fields
        at += 1


def header_places(head: str, sensors: int, labelled: bool, truth: Truth) -> dict[str, int] | None:
    """Where each agreed column is, and how many there are as "width"; None where the header names no sensor."""
    measured = [f"Sensor-{at}" for at in range(1, sensors + 1)]
    columns = ["wafer", *measured, *(["label"] if labelled else [])]
    names = {"Wafer": "wafer", "": "wafer", "Unnamed:0": "wafer", **{column: column for column in measured}}
    names |= {"Good/Bad": "label", "Output": "label"} if labelled else {}
    try:
        fields = [field.replace(" ", "") for field in split(head)] if "\r" not in head else []
    except ValueError:
        fields = []
    meant = [None if at and not name else names.get(name) for at, name in enumerate(fields)]
    if not set(meant) & set(measured):
        truth.broken["header_unknown"].add(1)
        return None
    places = {column: meant.index(column) for column in columns if column in meant}
    order = list(places.values())
    if order != sorted(order):
        truth.broken["columns_misplaced"].add(1)
    if len(places) < len(columns):
        truth.broken["columns_missing"].add(1)
    if None in meant:
        truth.broken["columns_extra"].add(1)
    if len(meant) - meant.count(None) > len(places):
        truth.broken["columns_doubled"].add(1)
    return {**places, "width": len(fields)}


def judge_lines(body: list[str], places: dict[str, int], sensors: int, labelled: bool, truth: Truth) -> None:
    rows: dict[int, list[str]] = {}
    for number, raw in enumerate(body, start=2):
        line = raw.removesuffix("\r")
        if not line:
            truth.warned.add("blank_lines")
            continue
        truth.lines[number] = line
        fields = sound_fields(line, number, places, truth)
        if fields is not None:
            rows[number] = fields
    if not truth.lines:
        truth.broken["wafers"].add(None)
    seen: set[str] = set()
    table = []
    for number, fields in rows.items():
        wafer = fields[places["wafer"]] if "wafer" in places else None
        label = fields[places["label"]].strip(" \t") if "label" in places else None
        if wafer == "":
            truth.broken["ids_empty"].add(number)
        elif wafer is not None and not re.fullmatch("[Ww]afer-[0-9]{1,15}", wafer):
            truth.broken["ids_malformed"].add(number)
        elif wafer is not None:
            wafer = f"Wafer-{int(wafer[6:])}"
            truth.broken["ids_doubled"] |= {number} if wafer in seen else set()
            seen.add(wafer)
        if label is not None and label not in ("-1", "1", "+1"):
            truth.broken["labels_unknown" if label else "labels_missing"].add(number)
        readings = [fields[places[name]] for name in (f"Sensor-{at}" for at in range(1, sensors + 1)) if name in places]
        values = [float(text) if text else math.nan for text in readings]
        table.append(values)
        if wafer is not None and (not labelled or label in ("-1", "1", "+1")):
            truth.wafers[number] = (wafer, np.array(values).tobytes(), int(label) if label else None)
    if table:
        missing = np.isnan(np.array(table))
        truth.warned |= {"empty_sensors"} if missing.all(axis=0).any() else set()
        truth.warned |= {"missing_share"} if missing.mean() > 0.25 else set()


def sound_fields(line: str, number: int, places: dict[str, int], truth: Truth) -> list[str] | None:
    try:
        fields = split(line)
    except ValueError:
        fields = None
    if fields is None or "\r" in line:
        truth.broken["broken_lines"].add(number)
        return None
    if len(fields) != places["width"]:
        truth.broken["ragged_lines"].add(number)
        return None
    cells = [fields[at] for name, at in places.items() if name.startswith("Sensor")]
    rules = {rule for text in cells if (rule := cell_rule(text)) is not None}
    for rule in rules:
        truth.broken[rule].add(number)
    return None if rules else fields


def cell_rule(text: str) -> str | None:
    """The rule that a reading breaks."""
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        return "bad_cells"
    if math.isinf(value):
        return "infinite_cells"
    plain = text.isascii() and "_" not in text and text.strip() == text.strip(" \t")
    return None if plain and not math.isnan(value) else "bad_cells"
