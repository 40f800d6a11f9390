"""Tables behind the prediction report: predictions by batch, alarms first, and what became of each file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from upath import UPath

from wafer.errors import ReportError
from wafer.learning.model import WaferModel
from wafer.reporting.tables import listing

PREDICTION_COLUMNS = ("Wafer", "Prediction", "probability", "cluster", "model_version")
TOTALS = {
    "files": "files delivered",
    "accepted": "files accepted",
    "quarantined": "files quarantined",
    "known_batches": "files known already",
    "wafers": "wafers in accepted files",
    "wafers_stored": "wafers new in the store",
    "duplicates": "wafers seen before, same readings",
    "conflicts": "wafers seen before, other readings",
    "wafers_dropped": "wafer rows dropped by agreement",
    "labels_added": "labels added to known wafers",
}


def read_predictions(folder: str | Path, batches: Sequence[str] = ()) -> pd.DataFrame:
    """The predictions of several batches in one frame, with the batch's name as first column.

    Args:
        folder: holds one CSV per batch: Wafer, Prediction (−1 or 1), probability, cluster, model_version.
        batches: names of batch files, with or without ending; none means every one in the folder.

    Raises:
        ReportError: the folder or a batch is not there, or a file lacks a column.
    """
    place = UPath(folder)
    if not place.is_dir():
        raise ReportError(f"{folder} is not a folder: expected predictions/<batch>.csv in it")
    stems = [UPath(name).stem for name in batches] or sorted((file.stem for file in place.glob("*.csv")), key=str.lower)
    parts = [_read_batch(place / f"{stem}.csv", stem) for stem in stems]
    if not parts:
        return pd.DataFrame(columns=["batch", *PREDICTION_COLUMNS])
    return pd.concat(parts, ignore_index=True)


def _read_batch(file: UPath, stem: str) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.BytesIO(file.read_bytes()))
    except FileNotFoundError as error:
        raise ReportError(f"{file} is not there: batch {stem} has no predictions") from error
    missing = [name for name in PREDICTION_COLUMNS if name not in frame.columns]
    if missing:
        raise ReportError(f"{file} lacks the column {missing[0]!r}, got {', '.join(frame.columns)}")
    frame.insert(0, "batch", stem)
    return frame


def batches_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per batch: wafers, alarms, alarm rate in percent, mean and largest probability, model version."""
    grouped = predictions.groupby("batch", sort=False)
    alarms = (predictions["Prediction"] == 1).groupby(predictions["batch"], sort=False).sum()
    table = pd.DataFrame(
        {
            "wafers": grouped.size(),
            "alarms": alarms,
            "alarm rate %": (100 * alarms / grouped.size()).round(1),
            "mean probability": grouped["probability"].mean().round(4),
            "largest probability": grouped["probability"].max().round(4),
            "model version": grouped["model_version"].first(),
        }
    )
    return table.rename_axis("batch").reset_index()


def alarms_table(predictions: pd.DataFrame, top: int = 40) -> pd.DataFrame:
    """The alarms, most probable faults first; at most `top` wafers, each once per batch that it came in."""
    alarms = predictions.loc[predictions["Prediction"] == 1]
    first = [False, True, True]
    table = alarms.sort_values(["probability", "batch", "Wafer"], ascending=first, kind="stable").head(top)
    table = table[["Wafer", "batch", "probability", "cluster"]].assign(probability=table["probability"].round(4))
    return table.reset_index(drop=True).rename(columns={"Wafer": "wafer"}).set_index(pd.RangeIndex(1, len(table) + 1))


def prediction_summary(predictions: pd.DataFrame, report: dict[str, Any], model: WaferModel) -> str:
    """The outcome in one paragraph, as Markdown."""
    alarms = int((predictions["Prediction"] == 1).sum())
    sentences = [
        f"**{alarms:,} of {len(predictions):,} wafers** raised an alarm, "
        f"that is a probability of a fault of at least {100 * model.threshold_:.1f} %."
    ]
    if report["quarantined"]:
        sentences.append(f"**{report['quarantined']:,} of {report['files']:,} files** were turned away and not scored.")
    return " ".join(sentences)


def prediction_totals(predictions: pd.DataFrame) -> pd.DataFrame:
    """How many batches, wafers and alarms, and by which version of the model."""
    alarms = int((predictions["Prediction"] == 1).sum())
    rate = f" ({100 * alarms / len(predictions):.1f} % of wafers)" if len(predictions) else ""
    versions = sorted(predictions["model_version"].unique())
    rows = {
        "batches scored": f"{predictions['batch'].nunique():,}",
        "wafers scored": f"{len(predictions):,}",
        "distinct wafers": f"{predictions['Wafer'].nunique():,}",
        "alarms": f"{alarms:,}{rate}",
        "model version": ", ".join("not registered" if v == 0 else str(v) for v in versions) or "–",
    }
    return listing(rows)


def ingest_totals(report: dict[str, Any]) -> pd.DataFrame:
    """What was delivered and what became of it, in counts; counts of zero that need no attention are left out."""
    if not report:
        return pd.DataFrame()
    always = ("files", "accepted", "quarantined", "wafers")
    rows = {text: f"{report[key]:,}" for key, text in TOTALS.items() if report.get(key) or key in always}
    return listing(rows)


def quarantined_table(report: dict[str, Any], limit: int = 5) -> pd.DataFrame:
    """Each file that was turned away and why: file, rule, reason, place; at most `limit` reasons a file."""
    rows = []
    for batch in report.get("batches", []):
        if batch["verdict"] != "quarantined":
            continue
        reasons = batch["reasons"]
        rows += [(batch["file"], reason["rule"], reason["message"], _place(reason)) for reason in reasons[:limit]]
        if len(reasons) > limit:
            rows.append((batch["file"], "", f"and {len(reasons) - limit:,} more reasons", ""))
    return pd.DataFrame(rows, columns=["file", "rule", "reason", "place"]).set_index("file")


def warnings_table(report: dict[str, Any]) -> pd.DataFrame:
    """What was tolerated and is worth knowing: each rule that warned, in how many accepted files, with an example."""
    found: dict[str, list[tuple[str, str]]] = {}
    for batch in report.get("batches", []):
        if batch["verdict"] == "accepted":
            for warning in batch["warnings"]:
                found.setdefault(warning["rule"], []).append((batch["file"], warning["message"]))
    rows = [
        (rule, len({file for file, _ in cases}), len(cases), f"{cases[0][0]}: {cases[0][1]}")
        for rule, cases in sorted(found.items())
    ]
    return pd.DataFrame(rows, columns=["rule", "files", "times", "for example"]).set_index("rule")


def files_table(report: dict[str, Any]) -> pd.DataFrame:
    """Every delivered file with its verdict, wafers, and number of reasons and warnings."""
    rows = [
        (
            batch["file"],
            "known already" if batch.get("known") else batch["verdict"],
            batch.get("wafers", 0),
            len(batch["reasons"]),
            len(batch["warnings"]),
        )
        for batch in report.get("batches", [])
    ]
    return pd.DataFrame(rows, columns=["file", "verdict", "wafers", "reasons", "warnings"]).set_index("file")


def _place(reason: dict[str, Any]) -> str:
    line = f"line {reason['line']}" if reason.get("line") is not None else ""
    return ", ".join(part for part in (line, str(reason.get("column") or "")) if part)
