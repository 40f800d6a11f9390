"""Tables behind the training report: metrics with their intervals, curves from out-of-fold scores, the decision.

Frames of scores have the columns protocol, repeat, fold, row, label (−1 good, 1 faulty), probability and alarm, as made
by `wafer.learning.evaluation`; those of the forward protocol name their batch in `batch` or `fold`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wafer.diagnosis.rivals import RIVALS
from wafer.learning.curves import PROTOCOLS, of_protocol, precision_recall_points, roc_points, stacked
from wafer.learning.intervals import delong, wilson
from wafer.learning.metrics import ALARM_RATES, recall_name
from wafer.learning.model import WaferModel
from wafer.records import SAME_MODEL

MODEL = "this model"
METRIC_NAMES = {
    "auc": "ROC AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy at the threshold",
    "balanced_error_rate": "balanced error rate",
    "recall_at_alarm_rate_5": "faults found at 5 % alarms",
    "recall_at_alarm_rate_10": "faults found at 10 % alarms",
    "recall_at_alarm_rate_20": "faults found at 20 % alarms",
    "alarm_rate": "alarm rate",
    "cost_per_1000": "cost per 1,000 wafers",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
CLUSTER_COLUMNS = ("cluster", "wafers", "faulty", "faulty %", "model", "auc", "weight", "settings")
SHARES = frozenset({"alarm_rate", *map(recall_name, ALARM_RATES), *(f"gain_{recall_name(r)}" for r in ALARM_RATES)})


def metrics_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Both protocols side by side, each figure with its interval where it has one; text, for reading."""
    rows = {
        label: {protocol: _with_interval(metrics.get(protocol, {}), key) for protocol in PROTOCOLS}
        for key, label in METRIC_NAMES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


def rivals_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The model's ROC AUC and each rival's, each followed by what the model gains over it; text, for reading."""
    rows = {MODEL: [_with_interval(metrics.get(protocol, {}), "auc") for protocol in PROTOCOLS]}
    for name, title in RIVALS.items():
        if found := metrics.get(name):
            for way, key in ((title, "auc"), (f"{MODEL} less {title}", "gain")):
                rows[way] = [_with_interval(found.get(protocol, {}), key) for protocol in PROTOCOLS]
    return _by_way(rows, PROTOCOLS, "ROC AUC") if len(rows) > 1 else pd.DataFrame()


def equal_alarms_table(metrics: dict[str, Any], protocol: str) -> pd.DataFrame:
    """Share of faults caught at equal alarms, by the model, its rivals and chance; text, for reading.

    Below each rival's share stands what the model catches more, with its paired interval.
    """
    rivals = {title: metrics[name][protocol] for name, title in RIVALS.items() if protocol in metrics.get(name, {})}
    if protocol not in metrics or not rivals:
        return pd.DataFrame()
    rows = {
        MODEL: [_with_interval(metrics[protocol], recall_name(rate)) for rate in ALARM_RATES],
        "chance": [f"{100 * rate:.1f} %" for rate in ALARM_RATES],
    }
    for title, found in rivals.items():
        rows[title] = [_with_interval(found, recall_name(rate)) for rate in ALARM_RATES]
        rows[f"{MODEL} less {title}"] = [_with_interval(found, f"gain_{recall_name(rate)}") for rate in ALARM_RATES]
    return _by_way(rows, [f"at {100 * rate:.0f} % alarms" for rate in ALARM_RATES], f"faults caught, {protocol}")


def _by_way(rows: Mapping[str, Sequence[str]], columns: Sequence[str], title: str) -> pd.DataFrame:
    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=list(columns))
    return table.rename_axis(title)


def _with_interval(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    if value is None:
        return "–"
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    shown = _number(value, key)
    return shown if low is None or high is None else f"{shown} [{_number(low, key)}, {_number(high, key)}]"


def _number(value: float, key: str) -> str:
    if key in SHARES:
        return f"{100 * value:z.1f} %"  # z: no negative zero
    return f"{value:z,.0f}" if key == "cost_per_1000" else f"{value:z.3f}"


def confusion_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """What the alarms came to, by protocol: counts of wafers over all scored folds."""
    names = {"tp": "faulty, alarm", "fn": "faulty, missed", "fp": "good, false alarm", "tn": "good, no alarm"}
    counts = {protocol: metrics.get(protocol, {}).get("confusion", {}) for protocol in PROTOCOLS}
    columns = {protocol: {label: found.get(key) for key, label in names.items()} for protocol, found in counts.items()}
    table = pd.DataFrame(columns)
    return table.astype("Int64").rename_axis("wafers")


def training_facts(manifest: dict[str, Any], metrics: dict[str, Any], model: WaferModel) -> pd.DataFrame:
    """What the model was trained on and what came of it, in counts."""
    share = 100 * manifest["faulty"] / max(manifest["wafers"], 1)
    rows = {
        "batches": f"{len(manifest['batches']):,}",
        "wafers": f"{manifest['wafers']:,}",
        "faulty wafers": f"{manifest['faulty']:,} ({share:.1f} %)",
        "sensors": f"{len(manifest['sensors']):,}",
        "clusters": f"{len(model.clusters_):,}",
        "alarm from probability": model.told_threshold(),
        "ROC AUC on permuted labels": _with_interval(metrics.get("permuted", {}), "auc"),
        "snapshot": str(manifest["digest"])[:12],
    }
    return listing(rows)


def training_summary(metrics: dict[str, Any], decision: dict[str, Any] | None) -> str:
    """The outcome in some sentences, as Markdown: ROC AUC, what could not be measured and why, what became of it."""
    known = [protocol for protocol in PROTOCOLS if protocol in metrics]
    numbers = " and ".join(f"**{_with_interval(metrics[protocol], 'auc')}** {protocol}" for protocol in known)
    said = [f"ROC AUC is {numbers}."] if known else ["**How good the model is could not be measured.**"]
    said += [f"Not measured {protocol}: {why}." for protocol, why in metrics.get("left_out", {}).items()]
    if decision is None:
        fate = "No decision about its use was taken: this training was a study apart from the registry."
    elif decision["promoted"]:
        fate = f"Version {decision['challenger']} is **in use** from now on."
    elif decision["champion"] is None:
        fate = f"Version {decision['challenger']} was **refused**, and no version is in use."
    elif decision.get("kind") == SAME_MODEL:
        fate = (
            f"Version {decision['challenger']} is the same model as version {decision['champion']}, which stays in use."
        )
    else:
        fate = f"Version {decision['challenger']} was **refused**; version {decision['champion']} stays in use."
    return " ".join([*said, fate])


def listing(rows: dict[str, str]) -> pd.DataFrame:
    """Names and values, one below the other."""
    return pd.DataFrame({"": list(rows.values())}, index=pd.Index(list(rows), name=""))


def clusters_table(clusters: pd.DataFrame) -> pd.DataFrame:
    """The model's clusters, rounded for reading; the share of faulty wafers is added."""
    table = clusters.copy()
    if {"wafers", "faulty"} <= set(table.columns):
        place = list(table.columns).index("faulty") + 1
        table.insert(place, "faulty %", (100 * table["faulty"] / table["wafers"]).round(1))
    if "settings" in table.columns:
        table["settings"] = [_settings(text) for text in table["settings"]]
    first = [name for name in CLUSTER_COLUMNS if name in table.columns]
    table = table[first + [name for name in table.columns if name not in first]].round(3)
    return table.set_index("cluster") if "cluster" in table.columns else table


def _settings(text: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads(text).items()) if text else ""


def decision_table(decision: dict[str, Any] | None) -> pd.DataFrame:
    """Each condition of the gate, whether it held, and the sentence with its numbers."""
    checks = (decision or {}).get("checks", [])
    table = pd.DataFrame(
        [(check["name"], "held" if check["passed"] else "failed", check["text"]) for check in checks],
        columns=["condition", "result", "numbers"],
    )
    return table.set_index("condition")


def changes_table(decision: dict[str, Any] | None) -> pd.DataFrame:
    """What was made differently from the champion: parameters, training table, code and libraries, one row each."""
    rows = [(row["name"], row["first"] or "–", row["second"] or "–") for row in (decision or {}).get("changes", [])]
    return pd.DataFrame(rows, columns=["what", "champion", "this version"]).set_index("what")


def decision_sentence(decision: dict[str, Any] | None) -> str:
    """What became of the new version, in one sentence."""
    if decision is None:
        return "No decision was taken: this training was a study apart from the registry."
    return str(decision["reason"])


def calibration_bins(scores: pd.DataFrame, bins: int = 8) -> pd.DataFrame:
    """Said and found share of faults in bins of equal size, with 95 % Wilson intervals of the share found.

    Columns: protocol, wafers (distinct), predicted, observed, low, high. A wafer that was scored in several repeats
    counts once, by its mean probability, so that the intervals are not too narrow.
    """
    parts = []
    for protocol in PROTOCOLS:
        per_wafer = _mean_by_wafer(of_protocol(scores, protocol))
        if per_wafer.empty:
            continue
        place = np.arange(len(per_wafer)) * bins // len(per_wafer)
        grouped = per_wafer.sort_values("probability", kind="stable").groupby(place)
        wafers, faults = grouped.size(), grouped["faulty"].sum()
        low, high = wilson(faults.to_numpy(np.int64), wafers.to_numpy(np.int64))
        parts.append(
            pd.DataFrame(
                {
                    "protocol": protocol,
                    "wafers": wafers,
                    "predicted": grouped["probability"].mean(),
                    "observed": faults / wafers,
                    "low": low,
                    "high": high,
                }
            )
        )
    return stacked(parts, ["protocol", "wafers", "predicted", "observed", "low", "high"])


def forward_by_batch(scores: pd.DataFrame) -> pd.DataFrame:
    """The forward protocol batch by batch, in the order of production.

    Columns: batch, wafers, faulty, auc with low and high (95 %, DeLong et al., Biometrics 44, 1988; missing where a
    batch lacks one label), alarm_rate, recall.
    """
    forward = of_protocol(scores, "forward")
    column = "batch" if "batch" in forward.columns else "fold"
    rows = [_batch_row(str(name), part) for name, part in forward.groupby(column, sort=False)]
    columns = ["batch", "wafers", "faulty", "auc", "low", "high", "alarm_rate", "recall"]
    return pd.DataFrame(rows, columns=columns)


def _batch_row(name: str, part: pd.DataFrame) -> tuple[str, int, int, float, float, float, float, float]:
    faulty = part["label"].to_numpy() == 1
    alarm = part["alarm"].to_numpy(dtype=bool)
    recall = float(alarm[faulty].mean()) if faulty.any() else np.nan
    auc, low, high = delong(faulty, part["probability"].to_numpy(dtype=np.float64))
    return name, len(part), int(faulty.sum()), auc, low, high, float(alarm.mean()), recall


def curves(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every curve of the evaluation as a table, by name: roc, precision_recall, calibration, forward."""
    return {
        "roc": roc_points(scores),
        "precision_recall": precision_recall_points(scores),
        "calibration": calibration_bins(scores),
        "forward": forward_by_batch(scores),
    }


def _mean_by_wafer(scores: pd.DataFrame) -> pd.DataFrame:
    grouped = scores.groupby("row", sort=True)
    return pd.DataFrame({"faulty": grouped["label"].first() == 1, "probability": grouped["probability"].mean()})
