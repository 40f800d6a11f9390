"""One style for every plot: readable in grey and by the colour-blind, safe without a screen.

Pairs that must be told apart differ in lightness and in line or marker, not in hue alone. Figures are made without
`pyplot`, so nothing global is left behind and threads do not meet.
"""

import functools
import io
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wafer.shown import shown_message

P = ParamSpec("P")
R = TypeVar("R")

GOOD = "#86B6DD"
FAULTY = "#9C3303"
INK = "#222222"
FAINT = "#8C8C8C"
PROTOCOLS: dict[str, dict[str, Any]] = {
    "shuffled": {"color": "#0B4F8A", "linestyle": "-", "marker": "o"},
    "forward": {"color": "#E08214", "linestyle": "--", "marker": "s"},
    "permuted": {"color": FAINT, "linestyle": ":", "marker": "^"},
}
CLUSTERS = ("#0B4F8A", "#E08214", "#7FBF7B", "#9C3303", "#C2A5CF", "#4D4D4D", "#56B4E9", "#E7D4A0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SEQUENTIAL = "cividis_r"
DIVERGING = "PuOr"
DPI = 110
WIDTH = 9.0  # inches of a plot; with 96 points to an inch the text column of a page
LONGEST_NAME = 30  # signs
LONGEST_CAUSE = 300

STYLE: Any = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "text.color": INK,
    "svg.hashsalt": "wafer",
}


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Let `function` draw in the house style, and leave matplotlib's settings as they were."""

    @functools.wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(STYLE):
            return function(*args, **kwargs)

    return drawn


def new_figure(height: float = 4.2, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure with one panel; sizes in inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def new_panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure with a grid of panels, `height` inches high; `options` as for `Figure.subplots`."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots(rows, columns, **options)


def draw_each(plots: Mapping[str, Callable[[], Figure]]) -> tuple[dict[str, Figure], dict[str, str]]:
    """Draw each of `plots`, so that one that fails loses no other.

    Returns: the figures, which have been rendered once, and for each plot that failed one sentence; both by its name.
    """
    figures, failures = {}, {}
    for name, draw in plots.items():
        try:
            figure = draw()
            figure.savefig(io.BytesIO(), format="png")  # some of what can go wrong does so only now
            figures[name] = figure
        except Exception as error:  # noqa: BLE001 - whatever a plot raises, it is told, and the others are drawn
            cause = shown_message(" ".join(f"{type(error).__name__}: {error}".split()), LONGEST_CAUSE)
            failures[name] = f"the plot {name} could not be drawn: {cause}"
    return figures, failures


def say_nothing_to_show(axes: Axes, title: str, text: str) -> None:
    """Write `text` where data would stand, so that an empty plot is never mistaken for a broken one."""
    axes.set_title(title)
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=FAINT, wrap=True)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)


def cut_name(name: str, longest: int = LONGEST_NAME) -> str:
    """`name`, with its middle left out where it is longer than that."""
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[-(longest - 1 - head) :]}"
