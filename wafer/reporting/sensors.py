"""Plots and tables of readings: what is missing, what drifts, which sensors belong together, what one sensor did.

Frames of wafers are a snapshot's: columns wafer, order, batch, label (−1 good, 1 faulty) and one column per sensor, NaN
where a reading is missing, sorted by production order.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from wafer.records import TABLE
from wafer.reporting.plots import PERCENT, batch_ticks, short_batch
from wafer.reporting.style import (
    CLUSTERS,
    DIVERGING,
    FAULTY,
    GOOD,
    INK,
    MARKERS,
    SEQUENTIAL,
    new_figure,
    new_panels,
    say_nothing_to_show,
    styled,
)

Floats = NDArray[np.float64]
FEWEST = 20  # readings that a median is taken of


def sensor_names(wafers: pd.DataFrame) -> list[str]:
    """The columns that are sensors, in their order."""
    return [name for name in wafers.columns if name not in TABLE]


def missing_by_batch(wafers: pd.DataFrame) -> pd.DataFrame:
    """Share of missing readings, one row per batch in production order, one column per sensor."""
    sensors = sensor_names(wafers)
    return wafers[sensors].isna().groupby(wafers["batch"], sort=False).mean()


def sensors_table(wafers: pd.DataFrame) -> pd.DataFrame:
    """How many sensors are constant, always or often missing, or appear later; with examples."""
    columns = ["sensors that are", "count", "for example"]
    if wafers.empty:
        return pd.DataFrame(columns=columns).set_index(columns[0])
    readings = wafers[sensor_names(wafers)]
    missing, distinct = readings.isna().mean(), readings.nunique()
    by_batch = missing_by_batch(wafers)
    appears = (by_batch.iloc[0] == 1) & (by_batch.iloc[-1] < 1)
    groups = {
        "constant (one value only)": distinct == 1,
        "never read": distinct == 0,
        "missing in more than half of the wafers": (missing > 0.5) & (distinct > 0),
        "not there in the first batch, there in the last": appears,
        "missing in at least one wafer": missing > 0,
        "complete": missing == 0,
    }
    rows = [(name, int(mask.sum()), _named(readings.columns[mask.to_numpy()])) for name, mask in groups.items()]
    return pd.DataFrame(rows, columns=columns).set_index(columns[0])


def _why_nothing(wafers: pd.DataFrame) -> str:
    return "there are no wafers" if wafers.empty else "there are no sensors"


def _named(names: "pd.Index[str]", most: int = 8) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def drift_table(wafers: pd.DataFrame, top: int = 20) -> pd.DataFrame:
    """The sensors that moved most from the first to the last third of the wafers.

    `moved` is the difference of medians in units of the first third's robust spread (interquartile range / 1.349);
    sensors without spread or with fewer than `FEWEST` readings in a third are left out.
    """
    third = max(len(wafers) // 3, 1)
    readings = wafers[sensor_names(wafers)]
    first, last = readings.iloc[:third], readings.iloc[-third:]
    spread = (first.quantile(0.75) - first.quantile(0.25)) / 1.349
    usable = (spread > 0) & (first.notna().sum() >= FEWEST) & (last.notna().sum() >= FEWEST)
    moved = ((last.median() - first.median()) / spread)[usable]
    ranked = moved.reindex(moved.abs().sort_values(ascending=False, kind="stable").index).head(top)
    table = pd.DataFrame(
        {
            "moved": ranked.round(2),
            "median first": first.median()[ranked.index].round(4),
            "median last": last.median()[ranked.index].round(4),
        }
    )
    return table.rename_axis("sensor")


def batch_shifts(wafers: pd.DataFrame, sensors: Sequence[str], fewest: int = 1) -> pd.DataFrame:
    """How far each batch's median lies from that of the first third of the wafers, in units of the robust spread there.

    Args:
        wafers: the training table.
        sensors: with a spread in the first third, such as those of `drift_table`; the columns of what is returned.
        fewest: readings that a batch's median is taken of; where it has fewer, none is given.
    """
    readings = wafers[list(sensors)]
    first = readings.iloc[: max(len(wafers) // 3, 1)]
    spread = (first.quantile(0.75) - first.quantile(0.25)) / 1.349
    batches = readings.groupby(wafers["batch"], sort=False)
    return ((batches.median() - first.median()) / spread).where(batches.count() >= fewest)


def telling_sensors(wafers: pd.DataFrame, top: int = 20) -> pd.DataFrame:
    """The sensors whose readings, one at a time, tell faulty wafers from good ones best.

    `auc` is the chance that a faulty wafer's reading is the higher one (missing readings left out); far from 0.5 in
    either direction is telling. The best of 590 looks better than it is: `times chance` is its distance from 0.5 over
    the largest that a sensor without any meaning would reach among so many, by the normal approximation.
    """
    readings, faulty = wafers[sensor_names(wafers)], (wafers["label"] == 1).to_numpy()
    there_faulty, there_good = readings[faulty].notna().sum(), readings[~faulty].notna().sum()
    usable = readings.columns[((there_faulty >= 10) & (there_good >= 10) & (readings.nunique() > 1)).to_numpy()]
    n, m = there_faulty[usable], there_good[usable]
    rank_sums = readings[usable].rank()[faulty].sum()
    auc = (rank_sums - n * (n + 1) / 2) / (n * m)
    chance = np.sqrt(2 * np.log(max(len(usable), 2))) * np.sqrt((n + m + 1) / (12 * n * m))
    table = pd.DataFrame({"auc": auc, "times chance": (auc - 0.5).abs() / chance, "faulty read": n})
    ranked = table.sort_values("times chance", ascending=False, kind="stable").head(top)
    return ranked.round({"auc": 3, "times chance": 2}).rename_axis("sensor")


@styled
def plot_missing(wafers: pd.DataFrame) -> Figure:
    """A map of missing readings: a row per batch, a column per sensor; dark is missing."""
    share = missing_by_batch(wafers)
    if share.empty:
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "Missing readings", _why_nothing(wafers))
        return figure
    height = min(2.2 + 0.16 * len(share), 9.0)
    figure, axes = new_figure(height)
    image = axes.imshow(share.to_numpy(), aspect="auto", interpolation="nearest", cmap="Greys", vmin=0, vmax=1)
    step = int(np.ceil(len(share) / 40))
    axes.set_yticks(range(0, len(share), step), [short_batch(str(name)) for name in share.index[::step]], fontsize=8)
    axes.set(xlabel=f"sensor number (of {share.shape[1]})", ylabel="batch, in production order")
    axes.set_title(f"Missing readings: {100 * float(np.mean(share.to_numpy())):.1f} % of all, {len(wafers):,} wafers")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="share missing", format=PERCENT, pad=0.01)
    return figure


@styled
def plot_drift(wafers: pd.DataFrame, top: int = 12) -> Figure:
    """The batch medians of the sensors that moved most, each in units of its own spread in the first third."""
    sensors = [str(name) for name in drift_table(wafers, top).index]
    figure, axes = new_figure(0.9 + 0.34 * max(len(sensors), 4))
    if not sensors:
        say_nothing_to_show(axes, "Sensors that moved", "no sensor has enough readings to say whether it moved")
        return figure
    moved = batch_shifts(wafers, sensors).T
    image = axes.imshow(moved.to_numpy(), aspect="auto", interpolation="nearest", cmap=DIVERGING, vmin=-5, vmax=5)
    axes.set_yticks(range(len(sensors)), sensors, fontsize=8)
    step = int(np.ceil(moved.shape[1] / 30))
    names = [short_batch(str(name)) for name in moved.columns[::step]]
    axes.set_xticks(range(0, moved.shape[1], step), names, rotation=45, ha="right", fontsize=8)
    axes.set(xlabel="batch, in production order", ylabel="sensor", title=f"The {len(sensors)} sensors that moved most")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="median, in spreads of the first third", pad=0.01, extend="both")
    return figure


@styled
def plot_labels(wafers: pd.DataFrame) -> Figure:
    """Faulty wafers by batch, in production order, with the number of wafers of each batch."""
    grouped = (wafers["label"] == 1).groupby(wafers["batch"], sort=False)
    faulty, size = grouped.sum(), grouped.size()
    figure, axes = new_figure(3.4)
    if wafers.empty:
        say_nothing_to_show(axes, "Faulty wafers", _why_nothing(wafers))
        return figure
    place = np.arange(len(size))
    axes.bar(place, faulty, width=0.6, color=FAULTY, edgecolor=INK, linewidth=0.6)
    batch_ticks(axes, size.index.to_series().astype(str), size)
    axes.set(ylabel="faulty wafers", xlabel="batch (wafers), in production order")
    axes.set_title(f"{int(faulty.sum()):,} faulty of {len(wafers):,} wafers ({100 * faulty.sum() / len(wafers):.1f} %)")
    return figure


@styled
def plot_sensors(wafers: pd.DataFrame, sensors: Sequence[str]) -> Figure:
    """Readings of some sensors over the production order, faulty wafers marked; one panel per sensor.

    The panel shows the middle 99 % of the readings; what lies outside is drawn at its edge.
    """
    rows = max(len(sensors), 1)
    figure, panels = new_panels(rows, 1, 0.6 + 1.5 * rows, squeeze=False, sharex=True)
    if not sensors:
        say_nothing_to_show(panels[0, 0], "Readings", "no sensor was asked for, or tells faulty wafers from good ones")
    for axes, sensor in zip(panels[:, 0], sensors, strict=False):
        _draw_sensor(axes, wafers, sensor)
    drawn = [axes for axes in panels[:, 0] if axes.get_legend_handles_labels()[0]]
    if drawn:
        drawn[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, borderpad=0)
    panels[-1, 0].set_xlabel("wafers in production order")
    return figure


def _draw_sensor(axes: Axes, wafers: pd.DataFrame, sensor: str) -> None:
    values, faulty = wafers[sensor].to_numpy(np.float64), (wafers["label"] == 1).to_numpy()
    place = np.arange(len(values))
    if np.isnan(values).all():
        say_nothing_to_show(axes, sensor, "no wafer has a reading of it")
        return
    low, high = np.nanquantile(values, [0.005, 0.995])
    shown = np.clip(values, low, high)
    axes.plot(place[~faulty], shown[~faulty], "o", color=GOOD, markersize=2.5, label=f"good: {int((~faulty).sum()):,}")
    axes.plot(
        place[faulty], shown[faulty], "D", color=FAULTY, markersize=5, label=f"faulty: {int(faulty.sum()):,}", zorder=3
    )
    missing = int(np.isnan(values).sum())
    axes.set_title(f"{sensor}" + (f" ({missing:,} readings missing)" if missing else ""), fontsize=9)
    axes.set_ylabel("reading", fontsize=8)


@styled
def plot_groups(wafers: pd.DataFrame, most: int = 120) -> Figure:
    """Which sensors move together: rank correlations, sensors sorted so that groups stand together.

    At most `most` sensors are shown, those that are read in at least 80 % of the wafers and correlate with most others.
    """
    correlation = correlations(wafers, most)
    figure, axes = new_figure(7.4)
    if correlation.empty:
        say_nothing_to_show(axes, "Groups of sensors", "fewer than three sensors have enough different readings")
        return figure
    image = axes.imshow(correlation.to_numpy(), cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    step = int(np.ceil(len(correlation) / 20))
    names = [str(name).removeprefix("Sensor-") for name in correlation.index[::step]]
    axes.set_xticks(range(0, len(correlation), step), names, rotation=90, fontsize=7)
    axes.set_yticks(range(0, len(correlation), step), names, fontsize=7)
    axes.set(xlabel="sensor number", ylabel="sensor number")
    axes.set(title=f"Groups among {len(correlation)} sensors, {len(wafers):,} wafers")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="rank correlation (Spearman)", shrink=0.8)
    return figure


def correlations(wafers: pd.DataFrame, most: int = 120) -> pd.DataFrame:
    """Spearman's rank correlations of the sensors that have most company, in the order of a hierarchical clustering.

    Average linkage on 1 − |correlation|; missing readings stand in the middle. Empty with fewer than three sensors.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    readings = wafers[sensor_names(wafers)]
    usable = readings.columns[((readings.notna().mean() >= 0.8) & (readings.nunique() > 5)).to_numpy()]
    if len(usable) < 3:
        return pd.DataFrame()
    ranks = readings[usable].rank(pct=True).fillna(0.5)
    matrix = np.corrcoef(ranks.to_numpy(), rowvar=False)
    company = (np.abs(matrix) > 0.5).sum(axis=0)
    chosen = np.sort(np.argsort(-company, kind="stable")[:most])
    matrix = matrix[np.ix_(chosen, chosen)]
    distance = np.clip(1 - np.abs((matrix + matrix.T) / 2), 0, None)
    np.fill_diagonal(distance, 0)
    leaves = leaves_list(linkage(squareform(distance, checks=False), "average"))
    names = usable[chosen][leaves]
    return pd.DataFrame(matrix[np.ix_(leaves, leaves)], index=names, columns=names)


def embedding(wafers: pd.DataFrame) -> pd.DataFrame:
    """Each wafer as a point: the first two principal components of robustly scaled readings; columns first, second.

    Sensors read in under half of the wafers are left out; missing readings stand at the median; readings are cut at
    five spreads, so that a single outlier does not make the picture.
    """
    points = np.zeros((len(wafers), 2))
    readings = wafers[sensor_names(wafers)]
    readings = readings.loc[:, (readings.notna().mean() >= 0.5).to_numpy()]
    spread = (readings.quantile(0.75) - readings.quantile(0.25)) / 1.349
    kept = readings.columns[(spread > 0).to_numpy()]
    if len(kept) < 2:
        return pd.DataFrame(points, columns=["first", "second"], index=wafers.index)
    scaled = ((readings[kept] - readings[kept].median()) / spread[kept]).clip(-5, 5).fillna(0.0).to_numpy(np.float64)
    scaled = scaled - scaled.mean(axis=0)
    with threadpool_limits(1):  # a small problem, which many threads only make wait for each other
        _, axes = np.linalg.eigh(scaled.T @ scaled)
        strongest = axes[:, [-1, -2]]
        points = scaled @ (strongest * np.sign(strongest[np.abs(strongest).argmax(axis=0), [0, 1]]))
    return pd.DataFrame(points, columns=["first", "second"], index=wafers.index)


@styled
def plot_embedding(wafers: pd.DataFrame, clusters: Sequence[int] | NDArray[np.int64]) -> Figure:
    """The wafers as points (see `embedding`): coloured by time, with faults marked, and by cluster."""
    if wafers.empty:
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "Wafers as points", _why_nothing(wafers))
        return figure
    points = embedding(wafers)
    figure, (by_time, by_cluster) = new_panels(1, 2, 4.2, sharex=True, sharey=True)
    faulty = (wafers["label"] == 1).to_numpy()
    dots = by_time.scatter(points["first"], points["second"], c=np.arange(len(points)), cmap=SEQUENTIAL, s=8)
    by_time.scatter(
        points["first"][faulty],
        points["second"][faulty],
        facecolors="none",
        edgecolors=FAULTY,
        marker="D",
        s=36,
        linewidths=1.4,
        label=f"faulty: {int(faulty.sum()):,}",
    )
    by_time.legend(loc="upper right", frameon=True, framealpha=0.8, edgecolor="none")
    by_time.set(title="By time", xlabel="first principal component", ylabel="second principal component")
    bar = figure.colorbar(dots, ax=by_time, orientation="horizontal", aspect=40)  # upright it would name the next axis
    bar.set_label("colour: place in production order (wafers)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    numbers = np.asarray(clusters)
    for place, cluster in enumerate(np.unique(numbers)):
        inside = numbers == cluster
        by_cluster.scatter(
            points["first"][inside],
            points["second"][inside],
            color=CLUSTERS[place % len(CLUSTERS)],
            marker=MARKERS[place % len(MARKERS)],
            s=12,
            label=f"{cluster}: {int(inside.sum()):,} wafers",
        )
    by_cluster.set(title="By cluster", xlabel="first principal component")
    by_cluster.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, title="cluster")
    return figure
