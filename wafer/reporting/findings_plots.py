"""Plots of what a run found besides its predictions: the readings behind the alarms, and the drift of the batches."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wafer.reporting.findings import Findings, named_sensors, telling_reasons
from wafer.reporting.plots import batch_ticks, in_percent
from wafer.reporting.style import FAINT, FAULTY, GOOD, INK, new_figure, new_panels, say_nothing_to_show, styled
from wafer.scoring.bundle import Bundle
from wafer.shown import counted

COLUMNS = 3  # panels side by side
OUTER, INNER = (5.0, 95.0), (25.0, 75.0)  # percentiles of good wafers that bars reach to
REACH = 1.0  # how far beyond all good wafers readings are drawn in their place, in the range of these


@styled
def plot_named_sensors(judged: pd.DataFrame, findings: Findings, bundle: Bundle, top: int = 6) -> Figure:
    """Readings of the alarms that name a sensor, against good wafers of the same cluster.

    A panel for each of the `top` sensors that most alarms of `findings.telling_reasons` name. The bar holds the middle
    half of the good training wafers, the thin line nine in ten of them; a triangle is a reading beyond the edge.

    Args:
        judged: as of `findings.with_findings`.
        findings: of the same run.
        bundle: that made the predictions.
    """
    sensors = named_sensors(judged, findings, top).index.tolist() if findings.shown else []
    if not sensors:
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "Sensors that alarms name", "no alarm has reasons to show")
        return figure
    reasons = telling_reasons(judged, findings)
    rows = -(-len(sensors) // COLUMNS)
    figure, panels = new_panels(rows, COLUMNS, 2.9 * rows, squeeze=False)
    for axes, sensor in zip(panels.flat, sensors, strict=False):
        _draw_named(axes, sensor, reasons.loc[reasons["sensor"] == sensor], bundle.good_percentiles(sensor))
    for axes in panels.flat[len(sensors) :]:
        axes.set_visible(False)
    return figure


def _draw_named(axes: Axes, sensor: str, named: pd.DataFrame, good: pd.DataFrame) -> None:
    for cluster in good.columns:
        readings = good[cluster]
        axes.vlines(cluster, *readings.loc[list(OUTER)], color=FAINT, linewidth=1.5, zorder=2)
        axes.vlines(cluster, *readings.loc[list(INNER)], color=GOOD, linewidth=9, zorder=2)
        axes.plot(cluster, readings.loc[50.0], "_", color=INK, markersize=11, zorder=3)
    there = named.dropna(subset=["reading"])
    # beside each other in the sequence of their readings, so that wafers of like readings do not hide each other
    place = there["cluster"] + there.groupby("cluster")["reading"].rank(method="first", pct=True) * 0.5 - 0.25
    low, high = float(np.nanmin(good)), float(np.nanmax(good))
    room = REACH * max(high - low, 1e-9)  # one reading far away must not flatten all others
    seen = there["reading"].clip(low - room, high + room)
    for marker, rows in (
        ("D", seen == there["reading"]),
        ("^", there["reading"] > seen),
        ("v", there["reading"] < seen),
    ):
        axes.plot(place[rows], seen[rows], marker, color=FAULTY, markersize=5, zorder=4, linestyle="none")
    gone = len(named) - len(there)
    more = f"\n{gone} without a reading" if gone else ""  # a panel is too narrow for both
    axes.set_title(f"{sensor}: {len(named)} {'alarm' if len(named) == 1 else 'alarms'}{more}", fontsize=9)
    axes.set_xticks(list(good.columns), [str(number) for number in good.columns])
    axes.set(xlabel="cluster", ylabel="reading (own unit)", xlim=(-0.6, len(good.columns) - 0.4))
    axes.grid(False, axis="x")
    axes.tick_params(labelsize=8)


@styled
def plot_batch_drift(findings: Findings) -> Figure:
    """Each batch's drift against what is usual, and its share of wafers that are unlike anything seen."""
    batches = pd.DataFrame(findings.drift["batches"])
    if batches.empty:
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "Drift of the batches", "no batch was scored")
        return figure
    figure, (above, below) = new_panels(2, 1, 5.0, sharex=True, height_ratios=[3, 2])
    batches["unknown"] = batches["unknown"].astype(np.float64)
    draw_scores(above, batches)
    above.set(
        ylabel="drift score",
        title=f"Drift of {counted(len(batches), 'batch', 'batches')}, {counted(int(batches['wafers'].sum()), 'wafer')}",
    )
    below.bar(np.arange(len(batches)), batches["unknown"], width=0.6, color=GOOD, edgecolor=INK, linewidth=0.6)
    expected = findings.drift["usual_unknown"]
    if expected is not None:
        text = f"past batches: {100 * expected:.1f} %"
        below.axhline(expected, color=INK, linewidth=1.2, linestyle="--", label=text)
        below.legend(loc="upper right")
    below.set(ylabel="unknown, share of wafers")
    below.set_ylim(0, 1.3 * max(0.02, batches["unknown"].fillna(0.0).max(), expected or 0.0))
    in_percent(below, "y")
    batch_ticks(below, batches["batch"], batches["wafers"])
    return figure


def draw_scores(above: Axes, batches: pd.DataFrame) -> None:
    """Batches' drift: columns score, drifted (missing where not judged) and threshold."""
    score = batches["score"].astype(np.float64)
    states = {
        "drifted": ((batches["drifted"] == True), "D", FAULTY, "full"),  # noqa: E712 - it may be None
        "as usual": ((batches["drifted"] == False), "o", GOOD, "full"),  # noqa: E712
        "not judged": (batches["drifted"].isna() & score.notna(), "o", FAINT, "none"),
    }
    for label, (chosen, marker, colour, fill) in states.items():
        rows = np.flatnonzero(chosen)
        if len(rows):
            named = f"{label}: {len(rows):,}"
            above.plot(rows, score.iloc[rows], marker, color=colour, fillstyle=fill, markersize=8, label=named)
    for x in np.flatnonzero(score.isna()):
        above.annotate("not\njudged", (x, 0), ha="center", va="bottom", fontsize=8, color=FAINT)
    usual = batches["threshold"].astype(np.float64)
    if usual.notna().any():
        label = "usual up to" + (f" {usual.dropna().iloc[0]:.2f}" if usual.nunique() == 1 else "")
        edges = np.arange(len(batches) + 1) - 0.5
        above.stairs(usual, edges, baseline=None, color=INK, linewidth=1.2, linestyle="--", label=label)
    most = float(np.nanmax([*score, *usual, 0.1]))
    above.set_ylim(min(0.0, float(np.nanmin([*score, 0.0]))) - 0.1 * most, 1.5 * most)  # room for the legend
    if above.get_legend_handles_labels()[0]:
        above.legend(loc="upper right", ncols=2)
