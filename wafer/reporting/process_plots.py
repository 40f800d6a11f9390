"""Plots of the process beside the model: T² and SPE wafer by wafer, and which sensors are named by whom and when."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from wafer.reporting.plots import short_batch
from wafer.reporting.process import WAYS, named_most
from wafer.reporting.style import (
    FAINT,
    FAULTY,
    GOOD,
    INK,
    SEQUENTIAL,
    new_figure,
    new_panels,
    say_nothing_to_show,
    styled,
)
from wafer.scoring.control import Control

MOST_BATCHES = 30  # that are named on an axis
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
LOWEST = 1e-2  # of a limit, below which nothing is drawn


@styled
def plot_distances(control: Control) -> Figure:
    """T² and SPE of each wafer as multiples of their limits, in production order, batch by batch."""
    wafers = control.wafers
    if wafers["t2"].notna().sum() == 0:
        figure, axes = new_figure(2.0)
        why = "no wafer was looked at" if wafers.empty else "the model learned no limits of them"
        say_nothing_to_show(axes, "T² and SPE", why)
        return figure
    figure, panels = new_panels(2, 1, 5.0, sharex=True)
    place = np.arange(len(wafers))
    for axes, (chart, name) in zip(panels, (("t2", "T²"), ("spe", "SPE")), strict=True):
        times = (wafers[chart] / wafers[f"{chart}_limit"]).clip(lower=LOWEST).to_numpy(np.float64)
        beyond = times > 1
        axes.plot(place[~beyond], times[~beyond], ".", color=GOOD, markersize=4)
        axes.plot(place[beyond], times[beyond], "D", color=FAULTY, markersize=4)
        axes.axhline(1.0, color=INK, linewidth=1.2, linestyle="--")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 5)))  # several, also within a decade
        axes.yaxis.set_major_formatter(PLAIN)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(-1, len(wafers))
        axes.set_ylabel(f"{name} / limit")
        axes.set_title(f"{name}: {int(beyond.sum()):,} of {int(np.isfinite(times).sum()):,} wafers beyond its limit")
    _mark_batches(panels, wafers["batch"])
    return figure


def _mark_batches(panels: np.ndarray, batch: "pd.Series[str]") -> None:
    starts = np.flatnonzero((batch != batch.shift()).to_numpy())
    for axes in panels:
        for start in starts[1:]:
            axes.axvline(start - 0.5, color=FAINT, linewidth=0.7)
        axes.grid(False, axis="x")
    middle = (starts + np.append(starts[1:], len(batch))) / 2
    step = -(-len(starts) // MOST_BATCHES)
    names = [short_batch(str(name)) for name in batch.iloc[starts]]
    slant = {"rotation": 45.0, "ha": "right"} if len(starts) > 5 else {}
    panels[-1].set_xticks(middle[::step], names[::step], fontsize=8, **slant)
    panels[-1].set_xlabel("batch, its wafers in production order")


@styled
def plot_named_most(named: pd.DataFrame, sensors: int, top: int = 10) -> Figure:
    """Pareto charts: how often each way names the sensors that it names most, and what chance reaches.

    Args:
        named, sensors: as of `named_most`.
        top: sensors in each.
    """
    figure, panels = new_panels(1, len(WAYS), 0.28 * top + 1.5)
    table = named_most(named, sensors, top)
    for axes, way in zip(panels, WAYS, strict=True):
        own = table.loc[table["way"] == way]
        if own.empty:
            say_nothing_to_show(axes, way, "no sensor is named")
            continue
        rows, beyond = np.arange(len(own)), own["beyond chance"].to_numpy(bool)
        axes.barh(rows[beyond], own["times"][beyond], color=FAULTY, edgecolor=INK, linewidth=0.6)
        axes.barh(rows[~beyond], own["times"][~beyond], color=GOOD, edgecolor=INK, linewidth=0.6)
        axes.axvline(own["floor"].iloc[0], color=INK, linewidth=1.2, linestyle="--")
        for row, share in zip(rows, own["share"].cumsum(), strict=True):
            axes.annotate(f" {100 * share:.0f} %", (own["times"].iloc[row], row), va="center", fontsize=7, color=INK)
        axes.set_yticks(rows, own["sensor"], fontsize=8)
        axes.set_xlim(0, 1.25 * max(own["times"].max(), own["floor"].iloc[0]))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel("times named" if way != WAYS[2] else "batches")
        axes.set_title(way)
        axes.set_ylabel("sensor", fontsize=8)
    return figure


@styled
def plot_named_by_batch(named: pd.DataFrame, batches: "pd.Series[str]", top: int = 12) -> Figure:
    """How often each way named the sensors that are named most, batch by batch.

    Args:
        named: as of `named_by`.
        batches: names of all batches in production order; the newest thirty are drawn.
        top: sensors, by how often all ways together named them.
    """
    shown = batches.drop_duplicates().tail(MOST_BATCHES).tolist()
    table = named.loc[named["batch"].isin(shown)]
    total = table["sensor"].value_counts(sort=False)
    if total.empty:
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "Named sensors by batch", "no sensor is named")
        return figure
    sensors = total.index[np.argsort(-total.to_numpy(), kind="stable")][:top].tolist()
    figure, panels = new_panels(1, len(WAYS), 0.28 * len(sensors) + 2.0, sharey=True)
    for axes, way in zip(panels, WAYS, strict=True):
        own = table.loc[table["way"] == way]
        counts = own.groupby(["sensor", "batch"]).size().unstack(fill_value=0).reindex(index=sensors, columns=shown)
        _draw_counts(figure, axes, counts.fillna(0), way)
    panels[0].set_yticks(np.arange(len(sensors)), sensors, fontsize=8)
    panels[0].set_ylabel("sensor, the most named first")
    return figure


def _draw_counts(figure: Figure, axes: Axes, counts: pd.DataFrame, way: str) -> None:
    most = max(1, int(counts.to_numpy().max()))
    image = axes.imshow(
        counts.where(counts > 0), aspect="auto", cmap=SEQUENTIAL, vmin=0, vmax=most, interpolation="nearest"
    )
    step = -(-counts.shape[1] // 10)
    place = np.arange(0, counts.shape[1], step)
    axes.set_xticks(
        place, [short_batch(str(name)) for name in counts.columns[::step]], fontsize=7, rotation=45, ha="right"
    )
    axes.set_xlabel("batch")
    axes.set_title(way)
    axes.grid(False)
    bar = figure.colorbar(image, ax=axes, location="top", shrink=0.6, ticks=[0, most])
    bar.ax.tick_params(labelsize=7)
    bar.set_label("times named" if way != WAYS[2] else "left control", fontsize=7)
