"""Tables behind the prediction report that say more than a probability: doubts, reasons of the alarms, drift.

They are made from the files that `wafer.scoring.details.Details` writes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from wafer.errors import ReportError
from wafer.records import with_units
from wafer.reporting.frames import read_frame
from wafer.reporting.marks import WIDE, strip, whole_names
from wafer.storage import AnyPath, read_json

KEYS = ["batch", "Wafer"]
NO_DETAILS = "expected what the prediction step writes; of a run of an earlier release, run wafer predict again"
MOST_TOLD = 3  # reasons of an alarm that are told in words
MOST_NAMED = 3  # sensors of one group that a reason names


@dataclass(frozen=True)
class Findings:
    """What was said of the wafers of one run besides their predictions.

    Attributes:
        wafers: columns batch, Wafer, p_value, unknown, why, label_known.
        reasons: columns batch, Wafer, rank, sensor, together_with, direction, percentile, reading, strength.
        drift: the document `drift.json`.
    """

    wafers: pd.DataFrame
    reasons: pd.DataFrame
    drift: dict[str, Any]

    @property
    def shown(self) -> bool:
        """Whether the model gives reasons."""
        return bool(self.drift["reasons"]["shown"])


@dataclass(frozen=True, repr=False)
class Reasons:
    """The strongest reasons of one alarm: words as text, each with a strip in a table; see `reason_text`."""

    rows: tuple[dict[Any, Any], ...] = ()

    def __repr__(self) -> str:
        return "; ".join(map(reason_text, self.rows)) or "none above chance"

    def __html__(self) -> Markup:
        lines = [
            Markup('<div style="{}">{} <b>{}</b> {} <span style="opacity:.7">{}</span></div>').format(
                f"padding-left:{WIDE + 5}px;text-indent:-{WIDE + 5}px",
                strip(float(row["percentile"]), reason_text(row)),
                whole_names(str(row["sensor"])),
                "no reading" if row["direction"] == "missing" else row["direction"],
                whole_names(_company(row)),
            )
            for row in self.rows
        ]
        return Markup("").join(lines) or Markup('<span style="opacity:.7">none above chance</span>')


def read_findings(folder: AnyPath) -> Findings:
    """The findings of one run in `folder`, local or S3.

    Raises:
        ReportError: a file is not there, or lacks a column.
    """
    wafers, reasons = (
        read_frame(folder / f"{name}.csv", f"details/{name}.csv", NO_DETAILS) for name in ("wafers", "reasons")
    )
    flags = wafers.astype({"unknown": bool, "label_known": bool})
    return Findings(flags, reasons, read_json(folder / "drift.json"))


def with_findings(predictions: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """The predictions with the columns p_value, unknown, why and label_known.

    Raises:
        ReportError: the findings are of other wafers.
    """
    own = predictions.drop(columns="unknown", errors="ignore")  # as `findings` say it
    table = own.merge(findings.wafers, on=KEYS, how="left", validate="one_to_one", indicator="found")
    lost = table.loc[table["found"] == "left_only", "Wafer"]
    if len(lost):
        raise ReportError(f"wafers.csv lacks {len(lost)} of the {len(table)} scored wafers, {lost.iloc[0]} first")
    told = table.drop(columns="found").astype({"unknown": bool, "label_known": bool})
    return with_units(told, "predictions/<batch>.csv", "details/wafers.csv")


def alarms_table(judged: pd.DataFrame, findings: Findings, *, label_known: bool = False) -> pd.DataFrame:
    """Alarms, most probable faults first, with their reasons.

    Args:
        judged: as of `with_findings`.
        findings: of the same run.
        label_known: list the alarms of wafers whose label is known already, instead of those where it is not.

    Returns:
        By wafer: batch, probability %, unknown, cluster and, where the model gives reasons, `Reasons`. Each wafer
        stands once for each batch that it came in.
    """
    alarms = judged.loc[(judged["Prediction"] == 1) & (judged["label_known"] == label_known)]
    table = alarms.sort_values(["probability", *KEYS], ascending=[False, True, True], kind="stable")
    shown = pd.DataFrame(
        {
            "batch": table["batch"],
            "probability %": (100 * table["probability"]).round(1),
            "unknown": table["unknown"],
            "cluster": table["cluster"],
        }
    )
    if findings.shown:
        told = reasons_told(findings.reasons)
        found = [told.get((batch, wafer), Reasons()) for batch, wafer in table[KEYS].to_numpy().tolist()]
        shown["reasons, the strongest first"] = pd.Series(found, index=table.index, dtype=object)
    return shown.set_index(pd.Index(table["Wafer"], name="wafer"))


def reasons_told(reasons: pd.DataFrame) -> dict[tuple[str, str], Reasons]:
    """The strongest reasons of each wafer, at most `MOST_TOLD`, by batch and wafer."""
    told = reasons.loc[reasons["rank"] <= MOST_TOLD].sort_values([*KEYS, "rank"], kind="stable")
    rows: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    for row in told.to_dict("records"):
        rows.setdefault((row["batch"], row["Wafer"]), []).append(row)
    return {key: Reasons(tuple(parts)) for key, parts in rows.items()}


def reason_text(reason: dict[Any, Any]) -> str:
    """One reason in words, such as: Sensor-60 high (above 99 % of good wafers; with Sensor-61)."""
    company = _company(reason)
    if reason["direction"] == "missing":
        return f"{reason['sensor']} without a reading" + (f" ({company})" if company else "")
    high = reason["direction"] == "high"
    share = float(reason["percentile"]) if high else 100.0 - float(reason["percentile"])
    of_good = "all" if share >= 99.5 else f"{share:.0f} % of"
    position = f"{'above' if high else 'below'} {of_good} good wafers"
    return f"{reason['sensor']} {reason['direction']} ({'; '.join(filter(None, (position, company)))})"


def _company(reason: dict[Any, Any]) -> str:
    together = [name for name in str(reason["together_with"]).split(", ") if name]
    more = f" and {len(together) - MOST_NAMED} more" if len(together) > MOST_NAMED else ""
    return f"with {', '.join(together[:MOST_NAMED])}{more}" if together else ""


def named_sensors(judged: pd.DataFrame, findings: Findings, top: int = 10) -> pd.DataFrame:
    """The sensors that most alarms of `telling_reasons` name, at most `top`.

    Columns: alarms (that name it), high, low, missing (how they read), median percentile and median strength.
    """
    reasons = telling_reasons(judged, findings)
    grouped = reasons.groupby("sensor", sort=False)
    table = pd.DataFrame({"alarms": grouped.size()})
    for direction in ("high", "low", "missing"):
        table[direction] = (reasons["direction"] == direction).groupby(reasons["sensor"], sort=False).sum()
    table["median percentile"] = grouped["percentile"].median().round(1)
    table["median strength"] = grouped["strength"].median().round(2)
    ranking = table.rename_axis("sensor").reset_index()
    ranking = ranking.sort_values(["alarms", "median strength", "sensor"], ascending=[False, False, True])
    return ranking.head(top).set_index("sensor")


def telling_reasons(judged: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """The reasons of alarms, with their clusters, every wafer once: of wafers without a known label, or else of all."""
    alarms = judged.loc[judged["Prediction"] == 1]
    new = alarms.loc[~alarms["label_known"]]
    chosen = (alarms if new.empty else new)[[*KEYS, "cluster"]]
    return findings.reasons.merge(chosen.drop_duplicates("Wafer"), on=KEYS, how="inner")


def telling_sentence(judged: pd.DataFrame, findings: Findings) -> str:
    """Which alarms `telling_reasons` is about, as Markdown."""
    wafers = telling_reasons(judged, findings)["Wafer"].nunique()
    alarms = judged.loc[judged["Prediction"] == 1]
    if wafers and alarms["label_known"].all():
        return f"These are {wafers:,} wafers **whose labels are known already**: what the model looks at, no findings."
    return f"These are {wafers:,} wafers without a known label." if wafers else "There are no such wafers."


def unknown_table(judged: pd.DataFrame) -> pd.DataFrame:
    """The wafers that are unlike anything seen, the strangest first."""
    table = judged.loc[judged["unknown"]].sort_values(["p_value", *KEYS], kind="stable")
    shown = table[["batch", "p_value"]].round({"p_value": 4})
    shown["probability %"] = (100 * table["probability"]).round(1)
    shown = shown.assign(**{"alarm": table["Prediction"] == 1, "label known": table["label_known"]})
    return shown.set_index(pd.Index(table["Wafer"], name="wafer"))


def unknown_sentence(judged: pd.DataFrame, findings: Findings) -> str:
    """How many wafers are unlike anything seen, against what is usual, as Markdown."""
    count, wafers = int(judged["unknown"].sum()), len(judged)
    share = f" ({100 * count / wafers:.1f} %)" if wafers else ""
    usual = findings.drift["usual_unknown"]
    before = "" if usual is None else f" In past batches it was {100 * usual:.1f} %."
    are = "is" if count == 1 else "are"
    return f"**{count:,} of {wafers:,} wafers**{share} {are} unlike anything that the model has seen.{before}"


def drift_table(findings: Findings) -> pd.DataFrame:
    """Each batch: its wafers, drift score and AUC of the classifier, each with what is usual, and what follows."""
    rows = [
        {
            "batch": one["batch"],
            "wafers": one["wafers"],
            "score": _rounded(one["score"]),
            "usual up to": _rounded(one["threshold"]),
            "domain AUC": _rounded(one["domain_auc"]),
            "AUC usual up to": _rounded(one["usual_domain_auc"]),
            "unknown %": np.nan if one["unknown"] is None else round(100 * one["unknown"], 1),
            "verdict": verdict(one),
        }
        for one in findings.drift["batches"]
    ]
    columns = ["batch", "wafers", "score", "usual up to", "domain AUC", "AUC usual up to", "unknown %", "verdict"]
    return pd.DataFrame(rows, columns=columns).set_index("batch")


def verdict(batch: dict[str, Any]) -> str:
    """What a batch's drift came to, in words."""
    if batch["drifted"] is None:
        return f"not judged. {batch['why_not']}"
    if batch["drifted"]:
        return "has drifted"
    auc, usual = batch["domain_auc"], batch["usual_domain_auc"]
    if auc is None or usual is None or auc <= usual:
        return "as usual"
    return "score as usual, but the domain classifier's AUC is more than usual"


def drift_sensors_table(findings: Findings, top: int = 10) -> pd.DataFrame:
    """The sensors most responsible for drift: of the batches that have drifted, else of all that were judged.

    Columns: batches (in which it is among the first ten), largest stability index, and from the batch with that one
    missing before and now in percent, and shift of the median in robust standard deviations.
    """
    judged = [one for one in findings.drift["batches"] if one["drifted"] is not None]
    chosen = [one for one in judged if one["drifted"]] or judged
    rows = pd.DataFrame([{"batch": one["batch"], **sensor} for one in chosen for sensor in one["sensors"]])
    if rows.empty:
        return pd.DataFrame()
    rows = rows.sort_values(["stability_index", "sensor"], ascending=[False, True], kind="stable")
    worst = rows.drop_duplicates("sensor").set_index("sensor")
    table = pd.DataFrame(
        {
            "batches": rows.groupby("sensor").size().reindex(worst.index),
            "stability index": worst["stability_index"].round(2),
            "most in batch": worst["batch"],
            "missing before %": (100 * worst["missing_before"]).round(1),
            "missing now %": (100 * worst["missing_now"]).round(1),
            "shift of the median": worst["shift"].round(1),
        }
    )
    return table.head(top)


def drift_sentence(findings: Findings) -> str:
    """How many batches have drifted, and what to do then, as Markdown."""
    judged = [one for one in findings.drift["batches"] if one["drifted"] is not None]
    drifted = [one["batch"] for one in judged if one["drifted"]]
    skipped = len(findings.drift["batches"]) - len(judged)
    rest = f" {skipped:,} could not be judged; the table says why." if skipped else ""
    if not judged:
        return "**No batch could be judged**; the table says why."
    of = f"of {len(judged):,} judged {'batch' if len(judged) == 1 else 'batches'}"
    if not drifted:
        return f"**None {of} has drifted** beyond what is usual.{rest}"
    names = ", ".join(drifted[:5]) + (f" and {len(drifted) - 5:,} more" if len(drifted) > 5 else "")
    what = "Probabilities are less to be trusted there, and a training with newer labels is due."
    return f"**{len(drifted):,} {of} drifted** beyond what is usual: {names}. {what}{rest}"


def reasons_sentence(judged: pd.DataFrame, findings: Findings) -> str:
    """Whether the alarms come with reasons, and if not, why."""
    told = findings.drift["reasons"]
    if not told["shown"]:
        return str(told["why_not"])
    alarms = judged.loc[judged["Prediction"] == 1, KEYS].drop_duplicates()
    explained = len(alarms.merge(findings.reasons[KEYS].drop_duplicates(), on=KEYS))
    return (
        f"{explained:,} of {len(alarms):,} alarms have reasons stronger than chance (strength of this model's reasons "
        f"{told['strength']:.2f}, of models of shuffled labels up to {told['floor']:.2f})."
    )


def _rounded(value: float | None) -> float:
    return np.nan if value is None else round(value, 3)
