"""The plots of the ingest page: missing readings by file and sensor, and labels in production order.

File names are whatever was delivered: they are shortened, and drawn as plain text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wafer.learning.intervals import wilson
from wafer.reporting.style import DPI, FAULTY, INK, LONGEST_NAME, cut_name, new_figure, say_nothing_to_show, styled

MOST_ROWS = 400
WIDTH, HEIGHT, TALLEST_ROW = 1180, 800, 18  # points of the map's picture
LOWEST = 120  # the map of a few files, beside which the name of its axis has room
MOST_BARS = 60
NAMED_BARS = 30


@dataclass(frozen=True)
class MissingMap:
    """Shares of missing readings, as many files a row as it takes to have at most 400 rows.

    `share` has the shape (rows, sensors); `names` says which files a row stands for; `box` is where the map stands in
    its picture: left, top, width, height as shares of the picture.
    """

    share: NDArray[np.floating[Any]]
    names: list[str]
    sensors: Sequence[str]
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def missing_map(share: NDArray[np.floating[Any]], files: Sequence[str], sensors: Sequence[str]) -> MissingMap:
    """The map of `share`, shape (files, sensors), in the order given; rows are means of neighbouring files."""
    groups = row_groups(len(files), MOST_ROWS)
    rows = [share[group.start : group.stop].mean(axis=0) for group in groups]
    names = [_group_name(files, group) for group in groups]
    width = len(sensors)
    column, line = _cell(width, len(groups))
    left, right, top, bottom = 245, 130, 34, 52
    wide, high = left + column * width + right, top + max(line * len(groups), LOWEST) + bottom
    box = (left / wide, top / high, 1 - (left + right) / wide, 1 - (top + bottom) / high)
    return MissingMap(np.array(rows, np.float32).reshape(len(groups), width), names, sensors, box)


def _cell(sensors: int, rows: int) -> tuple[int, int]:
    """Width and height of one sensor of one row, in points of the picture."""
    return max(1, WIDTH // max(sensors, 1)), max(1, min(TALLEST_ROW, HEIGHT // max(rows, 1)))


def row_groups(count: int, most: int) -> list[range]:
    """`count` things in order as at most `most` groups of neighbours, as equal as can be."""
    if not count:
        return []
    edges = np.linspace(0, count, min(count, most) + 1).round().astype(int)
    return [range(start, stop) for start, stop in pairwise(edges)]


def _group_name(files: Sequence[str], group: range) -> str:
    first, last = files[group.start], files[group.stop - 1]
    return first if len(group) == 1 else f"{first} … {last} ({len(group)} files)"


def plain(name: str, longest: int = LONGEST_NAME) -> str:
    """A file's name as a plot can show it: printable ASCII, cut in the middle."""
    text = "".join(sign if sign.isascii() and sign.isprintable() else "?" for sign in name).removesuffix(".csv")
    return cut_name(text, longest)


@styled
def plot_missing_map(shown: MissingMap, files: Sequence[str]) -> Figure:
    """The map as a picture, a whole number of points for each sensor and file; dark is missing."""
    rows, width = shown.share.shape
    if not rows or not width:
        figure, axes = new_figure(2.0)
        say_nothing_to_show(axes, "Missing readings", "no file could be read")
        return figure
    column, line = _cell(width, rows)
    box = shown.box
    figure = Figure(figsize=(column * width / box[2] / DPI, max(line * rows, LOWEST) / box[3] / DPI))
    figure.set_layout_engine("none")
    axes = figure.add_axes((box[0], 1 - box[1] - box[3], box[2], box[3]))
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # a few missing readings must be seen beside a whole empty sensor
    image = axes.imshow(shown.share, aspect="auto", interpolation="nearest", cmap="Greys", norm=norm)
    axes.set_title("dark: missing", fontsize=9, loc="right", fontweight="normal")
    axes.set_title("Missing readings")
    axes.set(xlabel="sensor, in the agreed order", ylabel="file, in production order")
    ticks = [0, *range(49, width, 50)]
    axes.set_xticks(ticks, [shown.sensors[at].rpartition("-")[2] for at in ticks], fontsize=8)
    _name_rows(axes, files, rows)
    axes.grid(False)
    axes.spines[["top", "right"]].set_visible(True)
    bar = figure.add_axes((box[0] + box[2] + 0.012, 1 - box[1] - box[3], 0.012, box[3]))
    shares = [0, 0.01, 0.1, 0.5, 1] if line * rows > 150 else [0, 0.1, 0.5, 1]
    legend = figure.colorbar(image, cax=bar, ticks=shares)
    legend.ax.set_yticklabels([f"{100 * s:.0f} %" for s in shares], fontsize=8)
    legend.set_label("share missing", fontsize=8)
    return figure


def _name_rows(axes: Axes, files: Sequence[str], rows: int) -> None:
    groups = row_groups(len(files), MOST_ROWS)
    step = int(np.ceil(13 / _cell(1, rows)[1]))  # names need 13 points
    names = [plain(files[groups[at].start]) for at in range(0, rows, step)]
    axes.set_yticks(range(0, rows, step), names, fontsize=8, family="monospace")  # none is wider than its room
    for text in axes.get_yticklabels():
        text.set_parse_math(False)


@styled
def plot_labels_over_time(files: pd.DataFrame) -> Figure:
    """Share of faulty wafers along the production, with 95 % intervals (Wilson); neighbours share a bar if many.

    `files` has the columns file, labelled and faulty, in production order.
    """
    figure, axes = new_figure(3.9, width=12.0)
    files = files[files["labelled"] > 0]
    if files.empty:
        say_nothing_to_show(axes, "Faulty wafers", "no accepted file has labels")
        return figure
    groups = row_groups(len(files), MOST_BARS)
    labelled, faulty = (
        np.array([files[name].iloc[group.start : group.stop].sum() for group in groups], float)
        for name in ("labelled", "faulty")
    )
    share, (low, high), place = faulty / labelled, wilson(faulty, labelled), np.arange(len(groups))
    axes.bar(place, 100 * share, width=0.7, color=FAULTY)
    axes.errorbar(
        place,
        100 * share,
        100 * np.stack([share - low, high - share]),
        fmt="none",
        ecolor=INK,
        elinewidth=0.9,
        capsize=2,
    )
    overall = 100 * faulty.sum() / labelled.sum()
    axes.axhline(overall, color=INK, linestyle="--", linewidth=1, label=f"all together: {overall:.1f} %")
    axes.set_ylim(0, min(100.0, max(1.0, 115 * float(high.max()))))
    _name_bars(axes, files, groups, labelled, faulty)
    axes.set_ylabel("faulty wafers, %")
    axes.set_title(f"{int(faulty.sum()):,} of {int(labelled.sum()):,} labelled wafers are faulty")
    axes.grid(False, axis="x")
    axes.legend(loc="upper right")
    return figure


def _name_bars(
    axes: Axes, files: pd.DataFrame, groups: list[range], labelled: NDArray[Any], faulty: NDArray[Any]
) -> None:
    names, several = files["file"].to_numpy(object), len(groups) < len(files)
    step = max(1, int(np.ceil(len(groups) / NAMED_BARS)))
    shown = range(0, len(groups), step)
    if several:
        texts = [f"from {plain(names[groups[at].start], 24)}" for at in shown]
        label = f"accepted files in production order, about {len(files) / len(groups):.0f} a bar"
    else:
        texts = [f"{plain(names[at], 24)} ({faulty[at]:.0f} of {labelled[at]:.0f})" for at in shown]
        label = "accepted files in production order (faulty of labelled wafers)"
    axes.set_xticks(list(shown), texts, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    for text in axes.get_xticklabels():
        text.set_parse_math(False)
    axes.set_xlabel(label)
