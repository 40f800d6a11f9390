"""Tables and sentences about a fitted model: its threshold, its clusters, and what it says besides a probability."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from wafer.diagnosis.novelty import UNKNOWN_LEVEL
from wafer.learning.budget import budget
from wafer.learning.curves import PROTOCOLS, of_protocol
from wafer.learning.decision import Policy, threshold_curve
from wafer.learning.model import WaferModel
from wafer.learning.worth import worth
from wafer.params import RECENT
from wafer.reporting.tables import listing
from wafer.scoring.bundle import Bundle
from wafer.scoring.details import describe_reasons

ALARM_RATES = (0.01, 0.02, 0.05, 0.10, 0.15, 0.20, 0.30, 0.50)


def policy_text(model: WaferModel) -> str:
    """Why the threshold lies where it lies, in words, as Markdown."""
    policy = model.policy_
    ceiling = f"{100 * policy.alarm_rate_ceiling:g} %"
    costs = (
        f"A missed fault costs {policy.cost_missed_fault:g}, a false alarm {policy.cost_false_alarm:g}: an alarm is "
        f"worth its cost from a probability of **{100 * policy.worthwhile:.1f} %** on. But no more than "
        f"**{ceiling}** of the wafers may raise an alarm"
    )
    if policy.threshold == "rolling":
        return (
            f"{costs}. The threshold is **rolling**: a wafer raises an alarm where it is among the most suspicious "
            f"{ceiling} of itself and the {RECENT} wafers made before it. When the model was trained, alarms "
            f"started at about **{100 * model.threshold_:.1f} %**."
        )
    costs = f"{costs}, which is measured on the newest wafers as if they were still to come."
    if model.threshold_ > policy.worthwhile:
        return f"{costs} It is the ceiling that decides: alarms start at **{100 * model.threshold_:.1f} %**."
    return f"{costs} The ceiling is not reached, so alarms start at **{100 * model.threshold_:.1f} %**."


def worth_text(scores: pd.DataFrame, policy: Policy) -> str:
    """What the alarms cost beside the cheapest way without a model, and for which costs they pay, as Markdown."""
    said = worth(scores, policy).sentences()
    return "\n\n".join(said) or "**What the alarms are worth could not be measured**: wafers of both kinds are needed."


def worth_table(scores: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """What each way to do without the model, and the model, costs per 1,000 wafers with its interval, as text."""
    return worth(scores, policy).table()


def budget_table(scores: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """What a fixed and a rolling threshold make of the same scores, batch by batch, as text."""
    found = budget(scores, policy)
    rows = {
        f"{row['protocol']}, {row['threshold']}" + (" (in use)" if row["threshold"] == policy.threshold else ""): {
            "alarms": f"{100 * row['alarm_rate']:.1f} %",
            "most in a batch": f"{100 * row['largest']:.0f} %",
            "batches within twice the ceiling": f"{100 * row['within_twice']:.0f} %",
            "finds": f"{100 * row['recall']:.0f} %",
            "finds beyond as many fixed alarms": _percent_text(row, "gain"),
            "costs": f"{row['cost']:,.0f}",
        }
        for row in found.to_dict("records")
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("threshold")


def _percent_text(row: Mapping[Any, Any], name: str) -> str:
    point, low, high = (f"{100 * row[key]:+z.1f} %" for key in (name, f"{name}_low", f"{name}_high"))
    return point if low == high else f"{point} [{low}, {high}]"


def threshold_table(scores: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """What some alarm rates would have found and cost, and what the decisions did, as text.

    Columns for each protocol: from (the lowest probability with no more alarms than that), finds (share of the faults)
    and costs (per 1,000 wafers).
    """
    columns: dict[str, list[str]] = {}
    for protocol in PROTOCOLS:
        part = of_protocol(scores, protocol)
        faulty = part["label"].to_numpy() == 1
        if not faulty.any() or faulty.all():
            continue
        curve = threshold_curve(faulty, part["probability"].to_numpy(np.float64), policy)
        possible = [curve.loc[curve["alarm_rate"] <= rate].head(1) for rate in ALARM_RATES]
        points = [one.to_dict("records")[0] if len(one) else None for one in possible]
        alarm = part["alarm"].to_numpy(dtype=bool)
        decided = [f"{100 * alarm.mean():.1f} % alarms", f"{100 * alarm[faulty].mean():.0f} %"]
        decided.append(f"{policy.cost(faulty, alarm):,.0f}")
        texts = [_point_texts(point) for point in points] + [decided]
        names = ("from", "finds", "costs")
        columns |= {f"{protocol} {name}": list(one) for name, one in zip(names, zip(*texts, strict=True), strict=True)}
    index = pd.Index([*(f"{100 * rate:g} %" for rate in ALARM_RATES), "as decided"], name="alarms")
    return pd.DataFrame(columns, index=index) if columns else pd.DataFrame()


def _point_texts(point: Mapping[Any, Any] | None) -> list[str]:
    if point is None:  # so few wafers that one alarm is more
        return ["–", "–", "–"]
    return [f"{100 * point['threshold']:.1f} %", f"{100 * point['recall']:.0f} %", f"{point['cost_per_1000']:,.0f}"]


def elbow_table(elbow: pd.DataFrame) -> pd.DataFrame:
    """Each number of clusters that was tried: inertia, silhouette, and which was taken."""
    table = pd.DataFrame(
        {
            "inertia": [f"{value:,.0f}" for value in elbow["inertia"]],
            "silhouette": [f"{v:.3f}" if k > 1 else "–" for k, v in zip(elbow["k"], elbow["silhouette"], strict=True)],
            "": np.where(elbow["chosen"].astype(bool), "taken", ""),
        }
    )
    return table.set_index(pd.Index(elbow["k"], name="clusters"))


def profile_table(model: WaferModel) -> pd.DataFrame:
    """The sensors that set each cluster apart, in words: `Sensor-60 higher by 1.2`; one row a cluster."""
    if len(model.clusters_) < 2:
        return pd.DataFrame({"wafers": model.clusters_["wafers"], "differs in": "there is one cluster alone"})
    names = model.sensor_names_
    told: dict[int, list[str]] = {}
    columns = (model.profile_[name].tolist() for name in ("cluster", "sensor", "shift"))
    for cluster, sensor, shift in zip(*columns, strict=True):
        direction = "higher" if shift > 0 else "lower"
        told.setdefault(cluster, []).append(f"{names[sensor]} {direction} by {abs(shift):.1f}")
    table = model.clusters_[["cluster", "wafers"]].copy()
    table["differs in"] = [", ".join(told.get(number, [])) for number in table["cluster"]]
    return table.set_index("cluster")


def abilities_text(bundle: Bundle) -> str:
    """Whether the model gives reasons, tells drift, and says when it does not know; in words, as Markdown."""
    reasons = describe_reasons(bundle)
    if reasons["shown"]:
        first = (
            f"**Reasons are shown**: the strongest reason of an alarm counts {reasons['strength']:.2f} in log-odds on "
            f"wafers outside the training, while models of shuffled labels reach {reasons['floor']:.2f} at most."
        )
    else:
        first = f"**No reasons are shown.** {reasons['why_not']}"
    drift = bundle.drift
    if drift is None or drift.threshold is None:
        return f"{first} **Drift is not judged**: the model knows too few past batches to say what is usual."
    unknown = "" if drift.unknown is None else f" Of later batches, {100 * drift.unknown:.1f} % of wafers were unknown."
    return f"{first} **Drift is judged**: a batch has drifted when it scores more than {drift.threshold:.2f}.{unknown}"


def abilities_table(bundle: Bundle) -> pd.DataFrame:
    """The figures behind `abilities_text`."""
    reasons, drift = describe_reasons(bundle), bundle.drift
    past = None if drift is None else drift.unknown
    return listing(
        {
            "strength of a first reason, log-odds": _figure(reasons["strength"]),
            "the same of models of shuffled labels, at most": _figure(reasons["floor"]),
            "drift score is usual up to": _figure(None if drift is None else drift.threshold),
            "the domain classifier's AUC is usual up to": _figure(None if drift is None else drift.domain_auc),
            "wafers in the window that batches are compared with": "–" if drift is None else f"{len(drift.readings):,}",
            "unknown means a p-value of at most": f"{UNKNOWN_LEVEL:g}",
            "unknown wafers in past batches, told by those before": "–" if past is None else f"{100 * past:.1f} %",
        }
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
