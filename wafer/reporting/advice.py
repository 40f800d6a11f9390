"""What to do now: the first lines of each report, in plain words that follow from its data.

Each function returns pieces of advice, the first thing first: what to do, and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.learning.intervals import wilson
from wafer.records import SAME_MODEL
from wafer.reporting import sensors
from wafer.reporting.findings import Findings, named_sensors, telling_reasons
from wafer.reporting.style import cut_name
from wafer.scoring.control import Control
from wafer.shown import counted, shown_message, shown_text

NAMED = 3  # wafers, sensors, files or batches that are named
FAR = 3.0  # spreads from which on a sensor that moved is worth a look
USUAL_TIMES = 3.0  # as many unknown wafers as usual ask for a look
LONGEST = 120  # signs of a file's name, and of why it was turned away
INSPECTED = 0.1  # share of the wafers
NEAR_HALF = 0.1  # how far from 0.5 the AUC on permuted labels may lie


@dataclass(frozen=True)
class Advice:
    """What to do, as a sentence, and why, as some more; both plain text."""

    what: str
    why: str


def prediction_advice(
    judged: pd.DataFrame, findings: Findings, report: dict[str, Any], control: Control
) -> list[Advice]:
    """Which wafers to inspect first, which sensors to look at, whether the model is to be trusted, what to ask back.

    Args:
        judged: as of `findings.with_findings`.
        findings: of the same run.
        report: of the ingest.
        control: what left control in the same run.
    """
    alarms = judged.loc[(judged["Prediction"] == 1) & ~judged["label_known"]]
    alarms = alarms.sort_values(["probability", "Wafer"], ascending=[False, True], kind="stable")
    alarms = alarms.drop_duplicates("Wafer")
    told = [_inspect(alarms, judged)]
    if len(alarms) and findings.shown:
        told.append(_look_at(judged, findings))
    told.append(_trust(findings))
    if len(control.sensors):
        told.append(_check(control))
    strange = judged.loc[judged["unknown"] & judged["Prediction"].notna() & ~judged["label_known"]]
    strange = strange.sort_values("p_value", kind="stable")
    if names := strange["Wafer"].drop_duplicates().tolist():
        why = f"{_listed(names)}: unlike anything the model has seen, so its probability means little there."
        told.append(Advice(f"Have an engineer look at {counted(len(names), 'strange wafer')}.", why))
    if silent := judged.loc[judged["Prediction"].isna(), "Wafer"].drop_duplicates().tolist():
        why = f"{_listed(silent)} came with too few readings to be judged."
        told.append(Advice(f"Measure {counted(len(silent), 'wafer')} again.", why))
    return told + _ask_back(report)


def _inspect(alarms: pd.DataFrame, judged: pd.DataFrame) -> Advice:
    if alarms.empty:
        known = int(((judged["Prediction"] == 1) & judged["label_known"]).sum())
        several = f"{known:,} alarms are of wafers"
        rest = f" {'1 alarm is of a wafer' if known == 1 else several} whose label is known already." if known else ""
        return Advice("No wafer to inspect.", f"No wafer without a known label raised an alarm.{rest}")
    pairs = zip(alarms["Wafer"], alarms["probability"], strict=True)
    first = _listed([f"{wafer} ({100 * probability:.0f} %)" for wafer, probability in pairs])
    wafers = counted(judged["Wafer"].nunique(), "scored wafer")
    start = f"Start with {first}, the most probable" if len(alarms) > 1 else f"It is {first}, by its probability"
    return Advice(f"Inspect {counted(len(alarms), 'wafer')}.", f"{start} of a fault, among {wafers}.")


def _look_at(judged: pd.DataFrame, findings: Findings) -> Advice:
    table, total = named_sensors(judged, findings, NAMED), telling_reasons(judged, findings)["Wafer"].nunique()
    shared = table.loc[table["alarms"] > 1, "alarms"]
    if shared.empty:
        why = "Each alarm has reasons of its own, or none; they stand beside it below."
        return Advice("No sensor is behind several alarms.", why)
    counts = ", ".join(f"{sensor} ({count})" for sensor, count in shared.items())
    why = f"Of {total} alarms with reasons these name it: {counts}."
    return Advice(f"Look at {shared.index[0]} first.", why)


def _trust(findings: Findings) -> Advice:
    judged = [one for one in findings.drift["batches"] if one["drifted"] is not None]
    drifted = [str(one["batch"]) for one in judged if one["drifted"]]
    if not judged:
        return Advice("Take the probabilities with care.", _unjudged(findings.drift["batches"]))
    batches = counted(len(judged), "judged batch", "judged batches")
    if drifted:
        why = f"{len(drifted)} of {batches} drifted from what it learned: {_listed(drifted)}."
        return Advice("Trust the model less than usual, and train again with newer labels.", why)
    usual, wafers = findings.drift["usual_unknown"], sum(one["wafers"] for one in judged)
    strange = sum(one["wafers"] * (one["unknown"] or 0.0) for one in judged) / max(wafers, 1)
    if usual is not None and strange > max(USUAL_TIMES * usual, 0.05):
        why = f"{100 * strange:.0f} % of the wafers are unlike anything it has seen; usual are {100 * usual:.1f} %."
        return Advice("Trust the model less than usual.", why)
    told = "The judged batch has not" if len(judged) == 1 else f"None of {batches} has"
    return Advice("Trust the model as usual.", f"{told} drifted; no new training is due for that.")


def _unjudged(batches: Sequence[dict[str, Any]]) -> str:
    told = "Whether the process has moved could not be judged"
    unsaid = [one for one in batches if one.get("why_not")]
    if not unsaid:
        return f"{told}."
    why, instance = shown_message(str(unsaid[0]["why_not"])), " for instance" if len(batches) > 1 else ""
    return f"{told}, of {_file(unsaid[0]['batch'])}{instance}: {why[:1].lower()}{why[1:]}"


def _check(control: Control) -> Advice:
    first = control.sensors.groupby("sensor", sort=False)["first"].first()
    named = _listed([f"{sensor} (first at {wafer})" for sensor, wafer in first.items()])
    return Advice(f"Have {counted(len(first), 'sensor')} checked that left control.", f"By their own charts: {named}.")


def _ask_back(report: dict[str, Any]) -> list[Advice]:
    told = []
    for verdict, ask in (("quarantined", "corrected"), ("unread", "readable")):
        batches = [one for one in report.get("batches", []) if one["verdict"] == verdict]
        if batches:
            whose = "Its" if len(batches) == 1 else "Their"
            why = f"{whose} wafers are in no report: {_listed([_complaint(one) for one in batches])}."
            told.append(Advice(f"Ask the sender for {counted(len(batches), f'{ask} file')}.", why))
    return told


def _complaint(batch: dict[str, Any]) -> str:
    why = f" ({shown_message(batch['reasons'][0]['message'], LONGEST)})" if batch["reasons"] else ""
    return f"{_file(batch['file'])}{why}"


def _file(name: object) -> str:
    return cut_name(shown_text(name), LONGEST)


def training_advice(metrics: dict[str, Any], decision: dict[str, Any] | None) -> list[Advice]:
    """Whether the new version is in use and why, what to expect of it, and what speaks against relying on it."""
    told = [_use(decision)]
    protocol = next((name for name in ("forward", "shuffled") if name in metrics), None)
    if protocol is None:
        why = "; ".join(f"{name}: {text}" for name, text in metrics.get("left_out", {}).items()) or "too few wafers"
        return [*told, Advice("Do not rely on it yet.", f"How good it is could not be measured ({why}).")]
    if (found := metrics[protocol].get("recall_at_alarm_rate_10")) is not None:
        beside = _beside(metrics.get("plain", {}).get(protocol, {}))
        told.append(_expect(found, metrics[protocol].get("recall_at_alarm_rate_10_low"), protocol, beside))
    canary = metrics.get("permuted", {}).get("auc")
    if canary is not None and abs(canary - 0.5) > NEAR_HALF:
        why = f"A model of shuffled labels should score 0.5, and scored {canary:.2f}."
        told.append(Advice("Look for a leak before you rely on these numbers.", why))
    return told


def _use(decision: dict[str, Any] | None) -> Advice:
    if decision is None:
        return Advice("Nothing is put into use.", "This training was a study apart from the registry.")
    version, champion, why = decision["challenger"], decision["champion"], str(decision["reason"])
    if decision["promoted"]:
        return Advice(f"Use version {version}: it is in use from now on.", why)
    if decision.get("kind") == SAME_MODEL:
        return Advice(f"Go on with version {champion}: the new one is the same model.", why)
    stays = "no version is in use" if champion is None else f"version {champion} stays in use"
    return Advice(f"Do not use version {version}: {stays}.", why)


def _expect(found: float, low: float | None, protocol: str, beside: str) -> Advice:
    faults = "faults of the next batch" if protocol == "forward" else "faults of the same weeks"
    share = f"Of the {faults} it finds {100 * found:.0f} % where one wafer in ten is inspected"
    if low is not None and low > INSPECTED:
        return Advice("Inspect by its alarms.", f"{share}, a random tenth 10 %. {beside}".strip())
    why = f"{share}; that is not shown to be more than the 10 % of a random tenth. {beside}".strip()
    return Advice("Do not rely on it alone.", why)


def _beside(plain: dict[str, Any]) -> str:
    low, high = plain.get("gain_low"), plain.get("gain_high")
    if low is None or high is None:
        return ""
    if low > 0:
        return "By ROC AUC it is ahead of a plain forest."
    behind = "behind a plain forest" if high < 0 else "not shown to be ahead of a plain forest"
    return f"By ROC AUC it is {behind}: difference {plain['gain']:z.2f} [{low:z.2f}, {high:z.2f}]."


def quality_advice(wafers: pd.DataFrame, report: dict[str, Any]) -> list[Advice]:
    """Which files to ask back, and which sensors to have looked at.

    Args:
        wafers: the training table.
        report: of the ingest; empty where there was none.
    """
    told = _ask_back(report)
    if not told:
        files = report.get("files")
        why = f"None of {counted(files, 'delivered file')} was turned away." if files else "No delivery was reported."
        told = [Advice("Ask for no file again.", why)]
    by_batch = sensors.missing_by_batch(wafers)
    gone = by_batch.columns[((by_batch.head(1) < 1).any() & (by_batch.tail(1) == 1).any()).to_numpy()].tolist()
    if gone:
        why = f"{_listed(gone)}: read in the first batch, without any reading in the newest."
        told.append(Advice(f"Ask what became of {counted(len(gone), 'sensor')}.", why))
    moved = sensors.drift_table(wafers, wafers.shape[1])["moved"]
    far = moved[moved.abs() >= FAR]
    if len(far):
        names = _listed([f"{name} ({_signed(shift)} spreads)" for name, shift in far.items()])
        why = f"{names} since the first third of the wafers: a change of the process, or of the sensor."
        told.append(Advice(f"Have {counted(len(far), 'sensor')} checked that moved far.", why))
    passing = _passing(
        sensors.batch_shifts(wafers, moved.index.difference(far.index, sort=False).tolist(), sensors.FEWEST)
    )
    if len(moved) and not len(far) and not passing:
        why = f"The farthest, {moved.index[0]}, moved by {_signed(moved.iloc[0])} spreads."
        told.append(Advice("No sensor has moved far.", why))
    return told + passing


def _passing(shifts: pd.DataFrame) -> list[Advice]:
    """Sensors that lay far off in single batches and not over the last third of the wafers."""
    farthest = shifts.abs().max().dropna().sort_values(ascending=False, kind="stable")
    names = farthest.index[farthest >= FAR].tolist()
    if not names:
        return []
    where = {name: shifts[name].abs().idxmax() for name in names}
    told = [f"{name} ({_signed(shifts.at[at, name])} spreads in {_file(at)})" for name, at in where.items()]
    why = f"{_listed(told)}: the median of a batch lay far off, that of the last third of the wafers does not."
    return [Advice(f"Ask what happened to {counted(len(names), 'sensor')} in single batches.", why)]


def exploration_advice(wafers: pd.DataFrame, clusters: Sequence[int] | NDArray[np.int64]) -> list[Advice]:
    """Which single sensors and which cluster of wafers to look at first.

    Args:
        wafers: the training table.
        clusters: of its wafers.
    """
    telling = sensors.telling_sensors(wafers)
    sure = telling[telling["times chance"] > 1]
    if telling.empty:
        told = [Advice("Collect more labels first.", "No sensor has ten readings of faulty and ten of good wafers.")]
    elif sure.empty:
        first = _listed(telling.index.tolist())
        why = f"The best, {first}, tell no more than the luckiest of meaningless ones would: faults show in several."
        told = [Advice("Do not hunt for a single guilty sensor.", why)]
    else:
        names = [f"{name} ({'high' if auc > 0.5 else 'low'} in faulty wafers)" for name, auc in sure["auc"].items()]
        why = f"{_listed(names)}: more telling than luck among so many sensors explains."
        told = [Advice(f"Look at {sure.index[0]} first.", why)]
    told += _rich_cluster(wafers, clusters)
    moved = sensors.drift_table(wafers, NAMED)["moved"].abs()
    if len(moved) and moved.iloc[0] >= FAR:
        why = f"The process has moved ({_listed(moved.index.tolist())} most), so time alone tells wafers apart."
        told.append(Advice("Compare wafers of the same weeks.", why))
    return told


def _rich_cluster(wafers: pd.DataFrame, clusters: Sequence[int] | NDArray[np.int64]) -> list[Advice]:
    faulty = (wafers["label"] == 1).groupby(np.asarray(clusters), sort=True).agg(["sum", "count"])
    if len(faulty) < 2:
        return []
    low, _ = wilson(faulty["sum"].to_numpy(), faulty["count"].to_numpy())
    overall = faulty["sum"].sum() / faulty["count"].sum()
    shares = (faulty["sum"] / faulty["count"])[low > overall]
    if shares.empty:
        why = f"In each cluster the share of faulty wafers is what it is in all, {100 * overall:.1f} %, within chance."
        return [Advice("No group of wafers stands out.", why)]
    worst = shares.idxmax()
    why = f"{100 * shares.max():.1f} % of its wafers are faulty, of all wafers {100 * overall:.1f} %."
    return [Advice(f"Ask what sets cluster {worst} apart.", why)]


def _listed(names: Sequence[Any]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more


def _signed(shift: Any) -> str:
    return f"{shift:+z.1f}".replace("-", "−")
