"""How a notebook shows a table or a plot, so that it reads well as a page and to a screen reader."""

import io

import pandas as pd
from IPython.display import HTML, Image
from matplotlib.figure import Figure

from wafer.reporting.style import DPI


def show_table(frame: pd.DataFrame, nothing: str = "Nothing to list.", limit: int = 200) -> HTML:
    """`frame` as an HTML table of at most `limit` rows; the sentence `nothing` where it has none."""
    if frame.empty:
        return HTML(f"<p>{nothing}</p>")  # type: ignore[no-untyped-call]
    shown = frame.head(limit)
    table = shown.to_html(border=0, na_rep="–", header=list(shown.columns) != [""], index_names=False)
    rest = len(frame) - len(shown)
    more = f"<p>… and {rest:,} more rows.</p>" if rest else ""
    return HTML(table + more)  # type: ignore[no-untyped-call]


def show_plot(figure: Figure, description: str) -> Image:
    """`figure` as a picture, with `description` for those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    width = int(figure.get_figwidth() * 96)
    data = buffer.getvalue()
    return Image(data=data, format="png", width=width, alt=description)  # type: ignore[no-untyped-call]
