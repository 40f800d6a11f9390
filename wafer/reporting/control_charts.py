"""The control charts of one sensor, as an engineer looks at them: individuals above, EWMA below."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wafer.diagnosis.charts import ControlCharts
from wafer.diagnosis.runs_rules import EWMA, Flags, Floats, ewma
from wafer.reporting.style import FAULTY, GOOD, INK, PROTOCOLS, cut_name, new_panels, say_nothing_to_show, styled

BROKEN = PROTOCOLS["forward"]["color"]


@styled
def plot_control_charts(charts: ControlCharts, readings: pd.DataFrame, sensor: str) -> Figure:
    """One sensor's readings and their moving average against the limits frozen at training, with the rules broken.

    The number of a rule stands where it is first broken (W1 to W4: Western Electric).

    Args:
        charts: learned from sensors of the same names and sequence as the columns of `readings`.
        readings: of wafers in production order, (wafers × sensors), NaN for missing.
        sensor: the column to draw.
    """
    figure, (above, below) = new_panels(2, 1, 6.0, sharex=True, height_ratios=[3, 2])
    column = list(readings.columns).index(sensor)
    values = readings[sensor].to_numpy(np.float64)
    present = ~np.isnan(values)
    centre, sigma = float(charts.centre[column]), float(charts.sigma[column])
    title = f"{cut_name(sensor)}: individuals"
    if not present.any() or np.isnan(sigma):
        why = "no wafer has a reading" if not present.any() else "the sensor never varied in training"
        say_nothing_to_show(above, title, why)
        say_nothing_to_show(below, "EWMA", why)
        return figure
    own = readings.to_numpy(np.float64)
    published, controlled = (found[:, :, column] for found in (charts.textbook(own), charts.signals(own)))
    moving = np.array([name == EWMA for name in charts.rules], dtype=bool)
    average, limit = (np.full(len(values), np.nan) for _ in range(2))
    found, spread = ewma((values[present, None] - centre) / sigma, charts.ewma_weight)
    average[present], limit[present] = centre + sigma * found[:, 0], charts.ewma_limit * sigma * spread[:, 0]
    _draw(above, values, published[~moving], controlled[~moving])
    _draw(below, average, published[moving], controlled[moving])
    for side in (-1, 1):
        for distance, line in ((1, ":"), (2, ":"), (3, "--")):
            above.axhline(centre + side * distance * sigma, color=INK, linestyle=line, linewidth=0.8)
        below.plot(np.arange(1, len(limit) + 1), centre + side * limit, color=INK, linewidth=0.8, linestyle="--")
    _name_rules(above, values, published[~moving], [name for name in charts.rules if name != EWMA])
    for axes in (above, below):
        axes.axhline(centre, color=INK, linewidth=0.8)
        axes.set_ylabel("reading")
    above.set_title(f"{title}, centre {centre:.4g}, sigma {sigma:.4g}")
    above.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    below.set(title=f"EWMA, weight {charts.ewma_weight:g}, limits {charts.ewma_limit:g} sigma of the average")
    below.set_xlabel("wafer, in production order")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw(axes: Axes, values: Floats, published: Flags, controlled: Flags) -> None:
    """The points of a chart, those that break a rule as published, and those that signal among all sensors."""
    wafer, broken, signal = np.arange(1, len(values) + 1), published.any(axis=0), controlled.any(axis=0)
    axes.plot(wafer, values, color=GOOD, linewidth=1, marker="o", markersize=3.5, markeredgecolor=INK, mew=0.4)
    circle: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 8, "fillstyle": "none", "mew": 1.2}
    axes.plot(wafer[broken], values[broken], color=BROKEN, label="a rule as published", **circle)
    axes.plot(wafer[signal], values[signal], "D", color=FAULTY, markersize=6, label="signal among all sensors")


def _name_rules(axes: Axes, values: Floats, published: Flags, rules: Sequence[str]) -> None:
    names: dict[int, list[str]] = {}
    for name, broken in zip(rules, published, strict=True):
        if broken.any():
            names.setdefault(int(np.argmax(broken)), []).append(("W" * name.startswith("west")) + name[-1])
    for place, found in names.items():
        at = (place + 1, values[place])
        axes.annotate(" ".join(found), at, (0, 7), textcoords="offset points", ha="center", fontsize=8, color=INK)
