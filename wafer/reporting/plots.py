"""Plots of a model and of its predictions: frames in, figures out.

Frames of scores are those of `wafer.learning.evaluation`; the points that are drawn come from `wafer.reporting.tables`,
so that a plot and a table never disagree.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wafer.learning.curves import PROTOCOLS as SCORED
from wafer.learning.curves import of_protocol, precision_recall_points, roc_points
from wafer.learning.decision import Policy, threshold_curve
from wafer.learning.intervals import wilson
from wafer.learning.model import WaferModel
from wafer.reporting import tables
from wafer.reporting.style import (
    FAINT,
    FAULTY,
    GOOD,
    INK,
    PROTOCOLS,
    cut_name,
    new_figure,
    new_panels,
    say_nothing_to_show,
    styled,
)
from wafer.shown import counted

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g} %")  # 2.5 % is not told as 2 %
FEW_BATCHES = 4  # whose names stand beside each other
NO_CURVE = "no protocol scored both faulty and good wafers"
NO_SCORE = "no protocol scored a wafer"


@styled
def plot_elbow(elbow: pd.DataFrame) -> Figure:
    """How much closer wafers get to their cluster's centre with each further cluster.

    Args:
        elbow: columns k (number of clusters) and inertia (sum of squared distances); where there is a column `chosen`,
            its true row is marked.
    """
    figure, axes = new_figure(3.4)
    if elbow.empty:
        say_nothing_to_show(axes, "Elbow of the clusters", "no number of clusters was tried")
        return figure
    axes.plot(elbow["k"], elbow["inertia"], **_line("shuffled"))
    chosen = elbow.loc[elbow["chosen"].astype(bool)] if "chosen" in elbow.columns else elbow.head(0)
    for k, inertia in zip(chosen["k"], chosen["inertia"], strict=True):
        axes.plot(k, inertia, marker="o", markersize=14, fillstyle="none", markeredgewidth=2, color=FAULTY)
        axes.annotate(f"{k} taken", (k, inertia), (12, 12), textcoords="offset points", color=FAULTY)
    axes.set(xlabel="number of clusters", ylabel="inertia (squared scaled distance)", title="Elbow of the clusters")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(0, 1.15 * max(float(elbow["inertia"].max()), 1e-9))
    return figure


@styled
def plot_curves(scores: pd.DataFrame, metrics: Mapping[str, Any] | None = None) -> Figure:
    """ROC, and precision against recall, both protocols; `metrics` gives the areas and intervals of the legends."""
    figure, (left, right) = new_panels(1, 2, 4.7)
    _draw_roc(left, scores, metrics)
    _draw_precision_recall(right, scores, metrics)
    return figure


def _draw_roc(axes: Axes, scores: pd.DataFrame, metrics: Mapping[str, Any] | None) -> None:
    curves = roc_points(scores)
    if curves.empty:
        say_nothing_to_show(axes, "ROC", NO_CURVE)
        return
    for protocol, points in curves.groupby("protocol", sort=False):
        axes.plot(
            points["false_alarm_rate"],
            points["recall"],
            **_line(str(protocol), marker=""),
            label=_legend(str(protocol), scores, metrics, "auc", "AUC"),
        )
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="chance")
    axes.set(xlabel="false alarms, share of good wafers", ylabel="faults found, share of faulty wafers", title="ROC")
    in_percent(axes, "xy")
    axes.set_box_aspect(1)
    axes.legend(loc="lower right", fontsize=8)


def _draw_precision_recall(axes: Axes, scores: pd.DataFrame, metrics: Mapping[str, Any] | None) -> None:
    curves = precision_recall_points(scores)
    if curves.empty:
        say_nothing_to_show(axes, "Precision and recall", NO_CURVE)
        return
    for protocol, points in curves.groupby("protocol", sort=False):
        axes.plot(
            points["recall"],
            points["precision"],
            **_line(str(protocol), marker="", linewidth=1.4),
            label=_legend(str(protocol), scores, metrics, "average_precision", "average precision"),
        )
    share = float((scores.drop_duplicates("row")["label"] == 1).mean())
    axes.axhline(share, color=FAINT, linewidth=1, linestyle=":", label=f"chance: {100 * share:.1f} % are faulty")
    axes.set(
        xlabel="faults found, share of faulty wafers", ylabel="alarms that are right", title="Precision and recall"
    )
    axes.set_ylim(0, 1.02)
    axes.set_box_aspect(1)
    in_percent(axes, "xy")
    axes.legend(loc="upper right", fontsize=8)


@styled
def plot_calibration(scores: pd.DataFrame) -> Figure:
    """Does a probability of 10 % mean one fault in ten? Bins of equal size with 95 % intervals, both protocols."""
    figure, axes = new_figure(4.4)
    bins = tables.calibration_bins(scores)
    if bins.empty:
        say_nothing_to_show(axes, "Calibration", NO_SCORE)
        return figure
    for protocol, points in bins.groupby("protocol", sort=False):
        wafers = int(points["wafers"].sum())
        axes.errorbar(
            points["predicted"],
            points["observed"],
            yerr=[points["observed"] - points["low"], points["high"] - points["observed"]],
            capsize=3,
            elinewidth=1,
            **_line(str(protocol), linewidth=1.2),
            label=f"{protocol}, {wafers:,} wafers",
        )
    top = 1.05 * max(0.05, float(bins[["predicted", "high"]].to_numpy(np.float64).max()))
    axes.plot([0, top], [0, top], color=FAINT, linewidth=1, linestyle=":", label="perfect")
    axes.set(xlabel="probability said", ylabel="share of faulty wafers found", title="Calibration")
    axes.set(xlim=(0, 1.15 * max(0.01, float(bins["predicted"].max()))), ylim=(0, top))
    in_percent(axes, "xy")
    axes.legend(loc="upper left")
    return figure


@styled
def plot_forward(scores: pd.DataFrame) -> Figure:
    """Each batch scored by a model of the batches before it: ROC AUC with 95 % interval, and alarms raised."""
    batches = tables.forward_by_batch(scores)
    if batches.empty:
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "Forward in time", "no batch was scored by a model of the batches before it")
        return figure
    figure, (above, below) = new_panels(2, 1, 5.2, sharex=True, height_ratios=[3, 2])
    place = np.arange(len(batches))
    defined = batches["auc"].notna().to_numpy()
    shown = batches.loc[defined]
    above.errorbar(
        place[defined],
        shown["auc"],
        yerr=[shown["auc"] - shown["low"], shown["high"] - shown["auc"]],
        **_line("forward", linestyle="none", markersize=8),
        capsize=4,
        elinewidth=1.2,
    )
    for x in place[~defined]:
        above.annotate("one label\nonly", (x, 0.5), ha="center", va="center", fontsize=8, color=FAINT)
    above.axhline(0.5, color=FAINT, linewidth=1, linestyle=":")
    faults, wafers = int(batches["faulty"].sum()), int(batches["wafers"].sum())
    above.set(ylabel="ROC AUC", ylim=(0, 1.02), title=f"Forward in time: {wafers:,} wafers, {faults} faulty")
    below.bar(place, batches["alarm_rate"], width=0.6, color=GOOD, edgecolor=INK, linewidth=0.6, label="alarm rate")
    below.plot(place, batches["faulty"] / batches["wafers"], "D", color=FAULTY, label="share of faulty wafers")
    below.set(ylabel="share of wafers")
    below.set_ylim(0, 1.25 * max(0.05, batches["alarm_rate"].max(), (batches["faulty"] / batches["wafers"]).max()))
    in_percent(below, "y")
    batch_ticks(below, batches["batch"], batches["wafers"])
    below.legend(loc="upper right", ncols=2)
    return figure


@styled
def plot_threshold(scores: pd.DataFrame, policy: Policy) -> Figure:
    """What each alarm rate costs and finds, and where the model's threshold came to lie; both protocols.

    Args:
        scores: out-of-fold scores.
        policy: the costs, and the ceiling of the alarm rate.
    """
    parts = {protocol: of_protocol(scores, protocol) for protocol in SCORED}
    if all(part.empty for part in parts.values()):
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "What alarms cost and find", NO_SCORE)
        return figure
    figure, (cost, recall) = new_panels(1, 2, 4.0)
    for protocol, part in parts.items():
        if part.empty:
            continue
        faulty = part["label"].to_numpy() == 1
        curve = threshold_curve(faulty, part["probability"].to_numpy(np.float64), policy)
        alarm = part["alarm"].to_numpy(dtype=bool)
        found = float(alarm[faulty].mean()) if faulty.any() else np.nan
        line, point = _line(protocol, marker=""), _line(protocol, linestyle="none", markersize=9, markeredgecolor=INK)
        decided = f"{protocol}, as decided: {100 * alarm.mean():.1f} %"
        cost.plot(curve["alarm_rate"], curve["cost_per_1000"], **line, label=protocol)
        cost.plot(alarm.mean(), policy.cost(faulty, alarm), **point)
        recall.plot(curve["alarm_rate"], curve["recall"], **line, label=protocol)
        recall.plot(alarm.mean(), found, **point, label=decided)
    for axes in (cost, recall):
        axes.axvline(policy.alarm_rate_ceiling, color=FAINT, linewidth=1, linestyle="--")
        axes.set(xlabel="alarm rate, share of all wafers", xlim=(0, 1))
        in_percent(axes, "x")
    cost.set(ylabel=f"cost per 1,000 wafers (false alarm = {policy.cost_false_alarm:g})", title="What alarms cost")
    cost.set_ylim(bottom=0)
    cost.annotate(
        "ceiling", (policy.alarm_rate_ceiling, 0), (3, 6), textcoords="offset points", fontsize=8, color=FAINT
    )
    recall.set(ylabel="faults found, share of faulty wafers", title="What alarms find", ylim=(0, 1.02))
    in_percent(recall, "y")
    if recall.get_legend_handles_labels()[0]:
        recall.legend(loc="lower right")
    return figure


@styled
def plot_probabilities(predictions: pd.DataFrame) -> Figure:
    """How probabilities are distributed, wafers with and without alarm apart; the count axis is logarithmic.

    Args:
        predictions: columns Prediction (−1 or 1) and probability.
    """
    figure, axes = new_figure(3.4)
    given = len(predictions)
    predictions = predictions[predictions["probability"].notna()]
    if predictions.empty:
        why = "no wafer was scored" if not given else f"none of {given:,} wafers has readings to judge it by"
        say_nothing_to_show(axes, "Probabilities of all scored wafers", why)
        return figure
    alarm = predictions["Prediction"].to_numpy() == 1
    probability = predictions["probability"].to_numpy(np.float64)
    bins = np.linspace(0, max(0.05, float(probability.max()) * 1.02), 40).tolist()
    counts = [probability[~alarm], probability[alarm]]
    labels = [f"no alarm: {int((~alarm).sum()):,} wafers", f"alarm: {int(alarm.sum()):,} wafers"]
    axes.hist(counts, bins=bins, stacked=True, color=[GOOD, FAULTY], label=labels, edgecolor="white", linewidth=0.4)
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlabel="probability of a fault", ylabel="wafers (logarithmic)", title="Probabilities of all scored wafers")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    in_percent(axes, "x")
    axes.legend(loc="upper right")
    return figure


@styled
def plot_alarm_rates(batches: pd.DataFrame) -> Figure:
    """The alarm rate of each batch with its 95 % interval.

    Args:
        batches: columns batch, wafers, alarms.
    """
    figure, axes = new_figure(3.6)
    batches = batches[batches["wafers"] > 0]
    if batches.empty:
        say_nothing_to_show(axes, "Alarm rate", "no batch with wafers was scored")
        return figure
    rate = (batches["alarms"] / batches["wafers"]).to_numpy(np.float64)
    low, high = wilson(batches["alarms"].to_numpy(), batches["wafers"].to_numpy())
    place = np.arange(len(batches))
    axes.bar(place, rate, width=0.6, color=GOOD, edgecolor=INK, linewidth=0.6)
    axes.errorbar(place, rate, yerr=[rate - low, high - rate], fmt="none", ecolor=INK, capsize=3, elinewidth=1)
    mean = batches["alarms"].sum() / batches["wafers"].sum()
    axes.axhline(mean, color=FAULTY, linewidth=1.2, linestyle="--", label=f"all batches: {100 * mean:.1f} %")
    axes.set(ylabel="alarms, share of wafers", title=f"Alarm rate of {counted(len(batches), 'batch', 'batches')}")
    axes.set_ylim(0, 1.2 * max(0.02, float(high.max())))
    in_percent(axes, "y")
    batch_ticks(axes, batches["batch"], batches["wafers"])
    axes.legend(loc="upper right")
    return figure


def policy_of(model: WaferModel) -> Policy:
    """The costs and the ceiling that the model's threshold was set by."""
    return model.policy_


def training_plots(
    model: WaferModel, scores: pd.DataFrame, metrics: Mapping[str, Any] | None = None
) -> dict[str, Callable[[], Figure]]:
    """Every plot of one training, not yet drawn, by the file name that it is kept under; see `draw_each`."""
    return {
        "elbow.png": lambda: plot_elbow(model.elbow_),
        "curves.png": lambda: plot_curves(scores, metrics),
        "calibration.png": lambda: plot_calibration(scores),
        "forward.png": lambda: plot_forward(scores),
        "threshold.png": lambda: plot_threshold(scores, policy_of(model)),
    }


def _line(protocol: str, **changes: Any) -> dict[str, Any]:
    return {**PROTOCOLS[protocol], **changes}


def _legend(protocol: str, scores: pd.DataFrame, metrics: Mapping[str, Any] | None, key: str, name: str) -> str:
    part = scores.loc[scores["protocol"] == protocol].drop_duplicates("row")
    counted = f"{len(part):,} wafers, {int((part['label'] == 1).sum())} faulty"
    values = (metrics or {}).get(protocol, {})
    if values.get(key) is None:
        return f"{protocol}: {counted}"
    interval = f" [{values[f'{key}_low']:.2f}, {values[f'{key}_high']:.2f}]" if f"{key}_low" in values else ""
    return f"{protocol}: {name} {values[key]:.2f}{interval}\n{counted}"


def in_percent(axes: Axes, which: str) -> None:
    """Let the x axis, the y axis or both ("x", "y", "xy") show shares as percent."""
    if "x" in which:
        axes.xaxis.set_major_formatter(PERCENT)
    if "y" in which:
        axes.yaxis.set_major_formatter(PERCENT)


def batch_ticks(axes: Axes, names: "pd.Series[str]", wafers: "pd.Series[int]", limit: int = 30) -> None:
    """Name each batch with its number of wafers; of many batches, only some."""
    step = int(np.ceil(len(names) / limit))
    place = np.arange(0, len(names), step)
    labels = [f"{short_batch(names.iloc[i])} ({wafers.iloc[i]:,})" for i in place]
    slant: dict[str, Any] = {"rotation": 45, "ha": "right"} if len(place) > FEW_BATCHES else {}
    axes.set_xticks(place, labels, fontsize=8, **slant)
    axes.grid(False, axis="x")
    axes.set_xlabel("batch (wafers)")


def short_batch(name: str) -> str:
    """A batch file's name as plots show it: `Wafer_13012020_141000.csv` → `13012020_141000`, cut if it is long.

    A dollar sign, which would begin a formula, is shown as it is.
    """
    stem = name.rsplit(".", 1)[0]
    return cut_name(stem.partition("_")[2] or stem).replace("$", r"\$")
