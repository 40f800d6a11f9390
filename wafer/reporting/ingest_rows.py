"""What the ingest page tells in rows: counts, files with verdict and reasons, sensors and what is unusual of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wafer.shown import shown_number

Columns = list[tuple[str, bool]]

# what a row can be filtered by, and how that is called
FILE_STATES = {
    "remarks": "with remarks",
    "quarantined": "quarantined",
    "unread": "unread",
    "accepted": "accepted",
    "known": "known already",
    "moved": "with moved sensors",
}
SENSOR_STATES = {
    "outside": "with readings outside",
    "moved": "moved in a file",
    "gap": "empty in some files",
    "stuck": "constant in some files",
    "constant": "constant",
    "empty": "empty",
    "ordinary": "nothing unusual",
}

# the counts of a run and how they are called, those that are told even if they are zero, those that want attention
TOTALS = {
    "files": "files delivered",
    "accepted": "files accepted",
    "quarantined": "files quarantined",
    "unread": "files that could not be read",
    "without_wafers": "accepted files without wafers",
    "known_batches": "files known already",
    "wafers": "wafers accepted",
    "wafers_stored": "wafers new in the store",
    "duplicates": "wafers repeated",
    "conflicts": "wafers in conflict",
    "replaced": "wafers replaced",
    "wafers_dropped": "wafers dropped",
    "labels_added": "labels added",
}
ALWAYS = ("files", "accepted", "quarantined", "wafers", "wafers_stored")
BAD = ("quarantined", "unread", "without_wafers", "conflicts", "wafers_dropped")


@dataclass(frozen=True)
class FileRow:
    """One delivered file; `state` holds the words that it is filtered by, `more` counts remarks left out."""

    file: str
    verdict: str
    state: str
    delivered: str
    numbers: tuple[str, ...]
    remarks: tuple[str, ...]
    more: int


@dataclass(frozen=True)
class SensorRow:
    """One sensor; `file` is where its farthest reading stands."""

    sensor: str
    what: str
    state: str
    numbers: tuple[str, ...]
    file: str


def count_states(states: Mapping[str, str], rows: Iterable[str], pressed: str) -> list[tuple[str, str, int, bool]]:
    """Key, text, number of rows and whether it is the one chosen, for each state that a row has, and for all."""
    held = [row.split() for row in rows]
    counts = {key: sum(key in row for row in held) for key in states}
    found = [(key, text, counts[key], key == pressed) for key, text in states.items() if counts[key]]
    return [*found, ("all", "all", len(held), pressed == "all")]


def ingest_counts(report: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Text, value and whether it wants attention, for each count of a run; zeros that need none are left out."""
    shown = [(key, text) for key, text in TOTALS.items() if key in ALWAYS or report.get(key)]
    return [(text, f"{report.get(key, 0):,}", key in BAD and bool(report.get(key))) for key, text in shown]


def file_columns(kind: str) -> Columns:
    """The heads of the table of files, and which hold numbers."""
    numbers = ["Wafers", *(["Faulty"] if kind == "training" else []), "Readings missing", "Empty sensors"]
    numbers += ["Moved sensors"]
    return [
        ("File", False),
        ("Verdict", False),
        ("Dated by name", False),
        *((n, True) for n in numbers),
        ("Remarks", False),
    ]


def file_rows(report: Mapping[str, Any], files: pd.DataFrame, most: int, longest: int) -> list[FileRow]:
    """One row per file, those turned away first, then those with remarks; at most `most` remarks of `longest` signs."""
    seen = {(entry["file"], entry["digest"]): entry for entry in files.to_dict("records")}
    rows = []
    for batch in report["batches"]:
        entry = seen.get((batch["file"], batch["digest"]), {})
        rows.append(_file_row(batch, entry, report["kind"], most, longest))
    return sorted(rows, key=lambda row: ("accepted" in row.state.split(), "remarks" not in row.state))


def _file_row(batch: Mapping[str, Any], entry: Mapping[Any, Any], kind: str, most: int, longest: int) -> FileRow:
    remarks = [_told(reason) for reason in (*batch["reasons"], *batch["warnings"])]
    if batch["verdict"] == "accepted" and not batch["wafers"]:
        remarks.append("no wafer of it is left: all contradict those in the store")
    remarks += [_conflict(conflict) for conflict in batch.get("conflicts", ())]
    if batch.get("replaced"):
        remarks.append(f"{len(batch['replaced']):,} wafers replaced the readings in the store")
    if batch.get("dropped"):
        remarks.append(f"{batch['dropped']:,} wafers were dropped by agreement")
    readable, moved = bool(entry.get("readable")), int(entry.get("moved", 0))
    if moved:
        remarks.append(f"moved: {entry['most_moved']}{' and others' if moved > 5 else ''}")
    state = [batch["verdict"]] + ["known"] * bool(batch.get("known")) + ["moved"] * bool(moved)
    state += ["remarks"] * bool(remarks)
    numbers = [f"{entry['wafers']:,}" if readable else "–"]
    if kind == "training":
        numbers.append(f"{entry['faulty']:,}" if readable else "–")
    numbers += [f"{100 * entry['missing']:.1f} %" if readable else "–"]
    numbers += [f"{entry[key]:,}" if readable else "–" for key in ("empty", "moved")]
    verdict = "known already" if batch.get("known") else batch["verdict"]
    kept = tuple(_cut(text, longest) for text in remarks[:most])
    dated = entry.get("delivered")
    delivered = dated.replace("T", " ") if isinstance(dated, str) else "–"
    return FileRow(batch["file"], verdict, " ".join(state), delivered, tuple(numbers), kept, len(remarks) - len(kept))


def _told(reason: Mapping[str, Any]) -> str:
    line, message = reason.get("line"), str(reason["message"])
    return message if line is None or f"line {line}" in message else f"{message} (line {line})"


def _conflict(conflict: Mapping[str, Any]) -> str:
    return (
        f"conflict: {conflict['wafer']} is in the store from {conflict['stored_file']}; {conflict['what']} "
        f"was {shown_number(conflict['stored'])}, came as {shown_number(conflict['came'])}"
    )


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def quarantine_rules(report: Mapping[str, Any], longest: int = 300) -> list[tuple[str, int, str, str]]:
    """Each rule that turned files away, most files first: rule, files, an example's file and message."""
    examples: dict[str, tuple[str, str]] = {}
    for batch in report["batches"]:
        for reason in batch["reasons"]:
            examples.setdefault(reason["rule"], (batch["file"], _cut(_told(reason), longest)))
    counts = sorted(report["quarantined_by_rule"].items(), key=lambda item: (-item[1], item[0]))
    return [(rule, count, *examples.get(rule, ("", ""))) for rule, count in counts]


def sensor_columns() -> Columns:
    """The heads of the table of sensors, and which hold numbers."""
    numbers = ["Missing", "Usual from", "Usual median", "Usual to", "Lowest", "Highest", "Farthest outside"]
    numbers += ["How far"]
    return [("Sensor", False), ("What", False), *((name, True) for name in numbers), ("In file", False)]


def sensor_rows(sensors: pd.DataFrame, files: int) -> list[SensorRow]:
    """One row per sensor, the readings farthest outside first, then those that moved; then the agreed order."""
    ranked = sensors.assign(quiet=sensors["moved_files"] == 0, near=-sensors["excess"], place=range(len(sensors)))
    ranked = ranked.sort_values(["near", "quiet", "place"], kind="stable")
    return [
        _sensor_row(str(name), entry, files)
        for name, entry in zip(ranked.index, ranked.to_dict("records"), strict=True)
    ]


def _sensor_row(name: str, entry: Mapping[Any, Any], files: int) -> SensorRow:
    found = {
        "empty": "empty" if entry["empty"] else "",
        "constant": "constant" if entry["constant"] else "",
        "outside": f"outside in {_files(entry['outside_files'], files)}" if entry["outside_files"] else "",
        "moved": f"moved in {_files(entry['moved_files'], files)}" if entry["moved_files"] else "",
        "gap": f"empty in {_files(entry['empty_files'], files)}" if entry["empty_files"] and not entry["empty"] else "",
        "stuck": f"constant in {_files(entry['constant_files'], files)}"
        if entry["constant_files"] and not entry["constant"]
        else "",
    }
    found = {key: text for key, text in found.items() if text} or {"ordinary": ""}
    readings = [number(entry[k]) for k in ("usual_low", "usual_median", "usual_high", "lowest", "highest")]
    far = entry["excess"]
    how = "–" if not far else "was one value" if np.isinf(far) else f"{far:,.1f} ×" if far < 1e6 else "> 1,000,000 ×"
    cells = (share(entry["missing"]), *readings, number(entry["farthest"]), how)
    return SensorRow(
        name, ", ".join(text for text in found.values() if text) or "–", " ".join(found), cells, entry["farthest_file"]
    )


def _files(count: int, of: int) -> str:
    return "all files" if count == of > 1 else f"{count:,} file{'' if count == 1 else 's'}"


def share(value: float) -> str:
    """A share in percent, never rounded to none."""
    return "< 0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def number(value: float) -> str:
    """A reading with four digits; "–" where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:z.4g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text
