"""How the batches of the newest predictions followed each other, as table and plot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wafer.diagnosis.multivariate import FALSE_ALARM_RATE
from wafer.learning.intervals import interval_text, wilson
from wafer.reporting.findings_plots import draw_scores
from wafer.reporting.plots import batch_ticks, in_percent
from wafer.reporting.style import FAULTY, GOOD, INK, PROTOCOLS, new_figure, new_panels, say_nothing_to_show, styled
from wafer.scoring.timeline import NEWEST
from wafer.shown import counted

COUNTS = {"alarms": "alarm", "unknown": "unknown", "t2": "T²", "spe": "SPE"}


def timeline_table(batches: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Each batch of `wafer.scoring.timeline`, the newest first: shares in percent, drift, and who scored it."""
    table = pd.DataFrame(list(batches))
    if table.empty:
        return table
    shares = {f"{name} %": _share(table, column, "wafers") for column, name in COUNTS.items()}
    shares |= {"faulty %": _share(table, "faulty", "labelled")}
    told = pd.DataFrame({name: (100 * share).round(1) for name, share in shares.items()})
    told.insert(0, "wafers", table["wafers"])
    told.insert(len(COUNTS) + 1, "labelled", table["labelled"])
    told["drifted"] = table["drifted"].map({True: "yes", False: "no"}).fillna("not judged")
    told["version"] = table["model_version"]
    return told.set_index(table["predictions"].str.removesuffix(".csv").rename("batch"))[::-1]


def timeline_sentence(batches: Sequence[dict[str, Any]]) -> str:
    """How far it looks back, and how many labels have come, as Markdown."""
    if not batches:
        return "No batch was scored yet."
    runs, labelled = len({one["run"] for one in batches}), sum(one["labelled"] for one in batches)
    wafers, faulty = sum(one["wafers"] for one in batches), sum(one["faulty"] for one in batches)
    known = f"{labelled:,} have a label by now, {faulty:,} of them faulty" if labelled else "none has a label yet"
    return (
        f"{counted(len(batches), 'batch', 'batches')} of {counted(runs, 'prediction')}, "
        f"with {wafers:,} wafers; {known}. Shown are all batches of this prediction and the newest {NEWEST}."
    )


def live_table(figures: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """What each version was worth in use, the newest first; `figures` are those of `wafer.registry.live`."""
    rows = [
        {
            "version": one["version"],
            "scored": one["wafers"],
            "alarm rate %": _percent(one, "alarm_rate"),
            "labelled": one["labelled"],
            "caught": one["caught"],
            "missed": one["missed"],
            "false alarms": one["false_alarms"],
            "precision %": _percent(one, "precision"),
            "observed / expected": _interval(one, "observed_to_expected", ".2f"),
            "Brier score": None if one["brier"] is None else round(one["brier"], 3),
        }
        for one in reversed(figures)
    ]
    return pd.DataFrame(rows).set_index("version") if rows else pd.DataFrame()


def _percent(figures: Mapping[str, Any], name: str) -> str:
    shares = {key: 100 * one for key, one in figures.items() if key.startswith(name) and one is not None}
    return _interval(shares, name, ".1f")


def _interval(figures: Mapping[str, Any], name: str, form: str) -> str:
    return "–" if figures.get(name) is None else interval_text(figures, name, form)


@styled
def plot_timeline(batches: Sequence[dict[str, Any]]) -> Figure:
    """Batches of `wafer.scoring.timeline` in production order: faults, alarms, control, drift and unknown wafers.

    A line between two batches says that another version scored from there on.
    """
    table = pd.DataFrame([one for one in batches if one["wafers"]])
    if table.empty:
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "Batches over time", "no batch with wafers was scored")
        return figure
    figure, panels = new_panels(5, 1, 10.5, sharex=True)
    for axes, counts, of, title, colours in (
        (panels[0], ("faulty",), "labelled", "Faulty wafers, of those with a label by now", (FAULTY,)),
        (panels[1], ("alarms",), "wafers", "Alarms", (GOOD,)),
        (panels[2], ("t2", "spe"), "wafers", "Out of control", (PROTOCOLS["shuffled"]["color"], FAULTY)),
        (panels[4], ("unknown",), "wafers", "Unlike anything seen", (GOOD,)),
    ):
        _draw_shares(axes, table, counts, of, colours)
        axes.set(title=title, ylabel="share of wafers")
    draw_scores(panels[3], table)
    panels[3].set(title="Drift", ylabel="drift score")
    changes = np.flatnonzero(table["model_version"].diff().fillna(0) != 0)
    for axes in panels:
        for place in changes:
            axes.axvline(place - 0.5, color=INK, linewidth=1, linestyle=":")
    for place in changes:
        text = f" version {table['model_version'].iloc[place]}"
        panels[0].annotate(text, (place - 0.5, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    batch_ticks(panels[-1], table["file"], table["wafers"])
    panels[-1].set_xlim(-0.6, len(table) - 0.4)
    return figure


def _draw_shares(axes: Axes, table: pd.DataFrame, counts: Sequence[str], of: str, colours: Sequence[str]) -> None:
    there = np.flatnonzero((table[of] > 0) & table[list(counts)].notna().all(axis=1))
    if not len(there):
        nothing = "no label has come yet" if of == "labelled" else "not told of these batches"
        axes.text(0.5, 0.5, nothing, ha="center", va="center", transform=axes.transAxes, fontsize=9)
        axes.set_yticks([])
        return
    total, top = table[of].to_numpy(np.float64)[there], 0.02
    for number, (count, colour) in enumerate(zip(counts, colours, strict=True)):
        events = table[count].to_numpy(np.float64)[there]
        low, high = wilson(events, total)
        place = there + 0.2 * (number - (len(counts) - 1) / 2)
        label = COUNTS.get(count) if len(counts) > 1 else None
        axes.vlines(place, low, high, color=INK, linewidth=1)
        axes.plot(
            place,
            events / total,
            "os"[number],
            color=colour,
            markeredgecolor=INK,
            markersize=6,
            label=label,
            clip_on=False,
        )
        top = max(top, *high)
    if len(counts) > 1:
        chance = f"by chance {100 * FALSE_ALARM_RATE:g} % each"
        axes.axhline(FALSE_ALARM_RATE, color=INK, linewidth=1, linestyle="--", label=chance)
        axes.legend(loc="upper left", ncols=3)
    axes.set_ylim(0, min(1.05, 1.25 * top))
    in_percent(axes, "y")


def _share(table: pd.DataFrame, count: str, of: str) -> "pd.Series[float]":
    total = table[of].astype(np.float64)
    return table[count].astype(np.float64) / total.where(total > 0)


def days(batches: Sequence[dict[str, Any]]) -> "pd.Series[str]":
    """The day in the name of each batch, ISO, by the name that its predictions have; missing where it tells none."""
    return pd.Series({one["predictions"].removesuffix(".csv"): one["delivered"] for one in batches}, dtype=object)
