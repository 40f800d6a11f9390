"""Tables behind the prediction report: predictions by batch, and what became of each file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from wafer.errors import ReportError
from wafer.learning.model import WaferModel
from wafer.records import UNITS, with_units
from wafer.reporting.findings import Findings
from wafer.reporting.frames import read_frame
from wafer.reporting.ingest_rows import ingest_counts
from wafer.reporting.tables import listing
from wafer.storage import AnyPath

PREDICTIONS = "predictions/<batch>.csv"
PREDICTION_COLUMNS = tuple(UNITS[PREDICTIONS])


def read_predictions(folder: AnyPath, batches: Sequence[str] | None = None) -> pd.DataFrame:
    """The predictions of several batches in one frame, with the batch's name as first column.

    Args:
        folder: holds one CSV per batch, with the columns of `wafer.scoring.batches.result_rows`.
        batches: names of batch files, with or without ending; None means every one in the folder.

    Raises:
        ReportError: the folder or a batch is not there, or a file lacks a column.
    """
    if batches is None:
        if not folder.is_dir():
            raise ReportError(f"{folder} is not a folder: expected predictions/<batch>.csv in it")
        stems = sorted((file.stem for file in folder.glob("*.csv")), key=str.lower)
    else:
        stems = [Path(name).stem for name in batches]
    parts = [part for stem in stems if len(part := _read_batch(folder / f"{stem}.csv", stem))]
    if not parts:  # nor is there a type of column in a file without rows
        return pd.DataFrame(columns=["batch", *PREDICTION_COLUMNS])
    return with_units(pd.concat(parts, ignore_index=True), PREDICTIONS)


def _read_batch(file: AnyPath, stem: str) -> pd.DataFrame:
    frame = read_frame(file, PREDICTIONS, f"batch {stem} has no predictions")
    frame.insert(0, "batch", stem)
    return frame


def batches_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per batch: wafers, alarms, alarm rate, mean and largest probability in percent, version of the model."""
    grouped = predictions.groupby("batch", sort=False)
    alarms = (predictions["Prediction"] == 1).groupby(predictions["batch"], sort=False).sum()
    table = pd.DataFrame(
        {
            "wafers": grouped.size(),
            "alarms": alarms,
            "alarm rate %": (100 * alarms / grouped.size()).round(1),
            "mean probability %": (100 * grouped["probability"].mean()).round(1),
            "largest probability %": (100 * grouped["probability"].max()).round(1),
            "model version": grouped["model_version"].first(),
        }
    )
    return table.rename_axis("batch").reset_index()


def _start(judged: pd.DataFrame, model: WaferModel) -> str:
    """The probability that alarms start at, in words; where the threshold is rolling, its range."""
    ends = (judged["threshold"].min(), judged["threshold"].max()) if len(judged) else (model.threshold_,)
    low, *high = dict.fromkeys(f"{100 * end:.1f}" for end in ends)
    if not high:
        return f"that is a probability of a fault of at least {low} %."
    return f"by a threshold that follows the wafers before each: from {low} to {high[0]} % probability of a fault."


def prediction_summary(judged: pd.DataFrame, findings: Findings, report: dict[str, Any], model: WaferModel) -> str:
    """The outcome in some sentences, as Markdown; `judged` as of `findings.with_findings`."""
    alarm = judged["Prediction"] == 1
    alarms, known = int(alarm.sum()), int((alarm & judged["label_known"]).sum())
    sentences = [f"**{alarms:,} of {len(judged):,} wafers** raised an alarm, {_start(judged, model)}"]
    if known:
        which = (
            "All of these alarms are no findings" if known == alarms else f"No findings are {known:,} of these alarms"
        )
        sentences.append(
            f"**{which}**: the wafers' labels are known already, and the model has probably learned from them."
            + (f" That leaves {alarms - known:,}." if alarms > known else "")
        )
    if judged["unknown"].any():
        count = int(judged["unknown"].sum())
        are = "wafer is" if count == 1 else "wafers are"
        sentences.append(f"**{count:,} {are} unlike anything seen**, so that the probability means little there.")
    if judged["Prediction"].isna().any():
        count = int(judged["Prediction"].isna().sum())
        have = "wafer has" if count == 1 else "wafers have"
        sentences.append(f"**{count:,} {have} no verdict**, for want of readings.")
    drifted = [one["batch"] for one in findings.drift["batches"] if one["drifted"]]
    if drifted:
        sentences.append(f"**{len(drifted):,} of {len(findings.drift['batches']):,} batches** drifted.")
    if report["quarantined"]:
        were = "was" if report["quarantined"] == 1 else "were"
        away = f"**{report['quarantined']:,} of {report['files']:,} files**"
        sentences.append(f"{away} {were} turned away and not scored.")
    if report.get("without_wafers"):
        left = f"{report['without_wafers']:,} of {report['files']:,} files"
        sentences.append(f"Of **{left}** no wafer is left to score: all contradict those in the store.")
    return " ".join(sentences)


def prediction_totals(judged: pd.DataFrame) -> pd.DataFrame:
    """How many batches, wafers and alarms, those of known labels apart, and by which version of the model."""
    alarm, known = judged["Prediction"] == 1, judged["label_known"]
    versions = sorted(judged["model_version"].unique())
    rows = {
        "batches scored": f"{judged['batch'].nunique():,}",
        "wafers scored": f"{len(judged):,}",
        "distinct wafers": f"{judged['Wafer'].nunique():,}",
        "wafers with a known label": _share(int(known.sum()), len(judged), "wafers"),
        "alarms": _share(int(alarm.sum()), len(judged), "wafers"),
        "alarms of wafers without a known label": _share(
            int((alarm & ~known).sum()), int((~known).sum()), "those wafers"
        ),
        "wafers unlike anything seen": _share(int(judged["unknown"].sum()), len(judged), "wafers"),
        "model version": ", ".join("not registered" if v == 0 else str(v) for v in versions) or "–",
    }
    return listing(rows)


def _share(count: int, total: int, what: str) -> str:
    return f"{count:,} ({100 * count / total:.1f} % of {what})" if total else f"{count:,}"


def ingest_totals(report: dict[str, Any]) -> pd.DataFrame:
    """What was delivered and what became of it, in counts; counts of zero that need no attention are left out."""
    if not report:
        return pd.DataFrame()
    return listing({text: value for text, value, _ in ingest_counts(report)})


def quarantined_table(report: dict[str, Any], limit: int = 5) -> pd.DataFrame:
    """Each file that was turned away and why: file, rule, reason, and place if any is told; `limit` reasons a file."""
    rows = []
    for batch in report.get("batches", []):
        if batch["verdict"] == "accepted":
            continue
        reasons = batch["reasons"]
        rows += [(batch["file"], reason["rule"], reason["message"], _place(reason)) for reason in reasons[:limit]]
        if len(reasons) > limit:
            rows.append((batch["file"], "", f"and {len(reasons) - limit:,} more reasons", ""))
    table = pd.DataFrame(rows, columns=["file", "rule", "reason", "place"]).set_index("file")
    return table if table["place"].any() else table.drop(columns="place")


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


def _place(reason: dict[str, Any]) -> str:
    line = f"line {reason['line']}" if reason.get("line") is not None else ""
    return ", ".join(part for part in (line, str(reason.get("column") or "")) if part)
