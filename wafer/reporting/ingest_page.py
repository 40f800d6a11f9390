"""One self-contained page per ingest run, for reviewers: what was delivered, what became of it, what is unusual in it.

The page works offline and without a script (then every row shows). Whatever comes from a delivered file is escaped, and
the page's own policy lets no other script run.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from wafer.intake.statistics import FEWEST, DeliveryStatistics, DeliverySummary
from wafer.reporting.ingest_plots import MissingMap, missing_map, plot_labels_over_time, plot_missing_map
from wafer.reporting.ingest_rows import (
    FILE_STATES,
    SENSOR_STATES,
    FileRow,
    count_states,
    file_columns,
    file_rows,
    ingest_counts,
    quarantine_rules,
    sensor_columns,
    sensor_rows,
)
from wafer.reporting.look import TEMPLATES, look, script, script_source
from wafer.reporting.style import DPI
from wafer.shown import counted
from wafer.storage import AnyPath, write_text

LARGEST = 6_000_000  # bytes
MOST_FILES = 10_000
# (remarks a file, signs a remark): the first with which the page is not too large
DETAIL = ((5, 300), (3, 200), (1, 120))


@dataclass(frozen=True)
class Picture:
    """A picture in the page: PNG in base64, its width on the page, and what it shows in words."""

    picture: str
    width: int
    text: str


def write_ingest_page(
    report: Mapping[str, Any], statistics: DeliveryStatistics, folder: AnyPath, *, written: str = ""
) -> AnyPath:
    """Write the page of one ingest run beside its report and return its path, `folder`/ingest-<kind>.html.

    Args:
        report: as `IngestReport.as_dict` gives it.
        statistics: has seen the deliveries of that run.
        written: the time of writing, as the page is to show it; without it the same run gives the same page.
    """
    path = folder / f"ingest-{report['kind']}.html"
    write_text(path, render_ingest_page(report, statistics.summary(), written=written))
    return path


def render_ingest_page(report: Mapping[str, Any], summary: DeliverySummary, *, written: str = "") -> str:
    """The page as HTML; remarks are cut where the page would be larger than 6 MB."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("ingest_page.html.j2")
    fixed = _fixed_parts(report, summary) | {
        "written": written,
        "look": Markup(look()),
        "script": Markup(script()),  # our own text, and its digest is what the policy allows
        "script_source": Markup(script_source()),
    }
    page = ""
    for remarks, signs in DETAIL:
        rows = file_rows(report, summary.files, remarks, signs)
        page = template.render(fixed | _file_parts(rows, report["kind"]))
        if len(page.encode()) <= LARGEST:
            break
    return page


def _file_parts(rows: list[FileRow], kind: str) -> dict[str, Any]:
    shown = rows[:MOST_FILES]
    states = [row.state for row in shown]
    remarked = any("remarks" in state for state in states)
    return {
        "rows": shown,
        "left_out": len(rows) - len(shown),
        "file_columns": file_columns(kind),
        "file_chips": count_states(FILE_STATES, states, "remarks" if remarked else "all"),
    }


def _fixed_parts(report: Mapping[str, Any], summary: DeliverySummary) -> dict[str, Any]:
    sensors = sensor_rows(summary.sensors, len(summary.missing)) if len(summary.missing) else []
    states = [row.state for row in sensors]
    return {
        "title": f"Ingest of {report['kind']} batches",
        "outcome": _outcome(report),
        "now": _now(report),
        "report_file": f"ingest-{report['kind']}.json",
        "totals": ingest_counts(report) + _reading_totals(report, summary),
        "rules": quarantine_rules(report),
        "map": _map(summary),
        "usual": _usual(summary.sampled),
        "sensors": sensors,
        "sensor_columns": sensor_columns(),
        "sensor_chips": count_states(SENSOR_STATES, states, "outside" if "outside" in " ".join(states) else "all"),
        "labels": _labels(report, summary),
        "no_labels": "Deliveries for prediction carry no labels."
        if report["kind"] == "prediction"
        else "No accepted file has labels.",
    }


def _now(report: Mapping[str, Any]) -> str:
    """What to do about the delivery, in one sentence; nothing where no file came."""
    away, unread = report["quarantined"], report.get("unread", 0)
    if not report["files"]:
        return ""
    asked = [counted(number, f"{what} file") for number, what in ((away, "corrected"), (unread, "readable")) if number]
    if not asked:
        return "Ask for no file again."
    their = "its" if away + unread == 1 else "their"
    return f"Ask the sender for {' and '.join(asked)}: until then {their} wafers are missing."


def _outcome(report: Mapping[str, Any]) -> str:
    files, away, unread = report["files"], report["quarantined"], report.get("unread", 0)
    left_out = _sentence(report.get("left_out"))
    if not files:
        return _sentence(report.get("why_empty")) or "No file was delivered."
    told = ""
    if away:
        told = f"{away:,} of {files:,} files {'was' if away == 1 else 'were'} turned away and kept in the quarantine."
    if unread:
        told += f" {unread:,} of {files:,} files could not be read and {'was' if unread == 1 else 'were'} not taken in."
    if not told:
        told = "The one file was accepted." if files == 1 else f"All {files:,} files were accepted."
    known = report["known_batches"]
    if known:
        told += f" {known:,} {'was' if known == 1 else 'were'} known already and left alone."
    if report["conflicts"]:
        told += f" Conflicts with wafers in the store: {report['conflicts']:,}."
    if report.get("without_wafers"):
        told += f" Accepted files of which no wafer is left: {report['without_wafers']:,}."
    return f"{told} {left_out}".strip()


def _sentence(words: str | None) -> str:
    return f"{words[0].upper()}{words[1:]}." if words else ""


def _reading_totals(report: Mapping[str, Any], summary: DeliverySummary) -> list[tuple[str, str, bool]]:
    totals = []
    files = _accepted(report, summary)
    wafers = int(files["wafers"].sum())
    if wafers:
        missing = float((files["missing"] * files["wafers"]).sum()) / wafers
        totals.append(("readings missing", f"{100 * missing:.1f} %", False))
    labelled = int(files["labelled"].sum())
    if labelled:
        totals.append(("faulty wafers", f"{100 * int(files['faulty'].sum()) / labelled:.1f} %", False))
    return totals


def _accepted(report: Mapping[str, Any], summary: DeliverySummary) -> pd.DataFrame:
    """The rows of accepted files, in production order."""
    digests = {batch["digest"] for batch in report["batches"] if batch["verdict"] == "accepted"}
    files = summary.files[summary.files["digest"].isin(digests)]
    return files.sort_values("order", kind="stable")


def _usual(sampled: int) -> str:
    if sampled < FEWEST:
        return f"Too few wafers were accepted to say what is usual; it takes {FEWEST} readings of a sensor."
    return (
        f"Usual is what {sampled:,} wafers, drawn evenly from the accepted files of this run, show: up to three "
        "interquartile ranges beyond the quartiles, or the 1st to the 99th percentile where that is wider. A reading "
        "beyond that is outside. A file moved a sensor if the file's median lies more than half an interquartile range "
        f"beyond the run's quartiles (files with at least {FEWEST} readings of it). “How far” counts widths of the "
        "usual range."
    )


def _map(summary: DeliverySummary) -> dict[str, Any] | None:
    if not len(summary.missing):
        return None
    readable = summary.files[summary.files["readable"].astype(bool)]
    order = readable["order"].to_numpy(float).argsort(kind="stable")
    files = readable["file"].to_numpy(object)[order].tolist()
    sensors = [str(name) for name in summary.sensors.index]
    shown = missing_map(summary.missing[order], files, sensors)
    picture = _picture(plot_missing_map(shown, files), _map_text(summary))
    cells = base64.b64encode((250 * shown.share).round().astype(np.uint8).tobytes()).decode()
    return {
        "text": picture.text,
        "picture": picture.picture,
        "width": picture.width,
        "binned": round(len(files) / len(shown.names)) if len(shown.names) < len(files) else 0,
        "data": _map_data(shown, cells),
    }


def _map_data(shown: MissingMap, cells: str) -> dict[str, Any]:
    return {"rows": shown.names, "sensors": list(shown.sensors), "box": list(shown.box), "cells": cells}


def _map_text(summary: DeliverySummary) -> str:
    sensors, count = summary.sensors, len(summary.missing)
    wafers = int(summary.files["wafers"].sum())
    share = f"{100 * float(sensors['missing'].mean()):.1f} %"
    complete, half = int((sensors["missing"] == 0).sum()), int((sensors["missing"] > 0.5).sum())
    return (
        f"{share} of the readings of {wafers:,} wafers in {count:,} readable {'file' if count == 1 else 'files'} are "
        f"missing. Of {len(sensors):,} sensors {complete:,} are complete and {half:,} miss more than half of their "
        "readings."
    )


def _labels(report: Mapping[str, Any], summary: DeliverySummary) -> Picture | None:
    files = _accepted(report, summary)
    files = files[files["labelled"] > 0]
    if files.empty:
        return None
    faulty, labelled = int(files["faulty"].sum()), int(files["labelled"].sum())
    none = int((files["faulty"] == 0).sum())
    text = (
        f"{faulty:,} of {labelled:,} labelled wafers in accepted files are faulty "
        f"({100 * faulty / labelled:.1f} %); {none:,} of {len(files):,} files have none. "
        "Whiskers are 95 % intervals (Wilson)."
    )
    return _picture(plot_labels_over_time(files), text)


def _picture(figure: Figure, text: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(base64.b64encode(buffer.getvalue()).decode(), round(figure.get_figwidth() * DPI), text)
