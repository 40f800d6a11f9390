"""How a notebook shows a table, a plot or advice, so that it reads well there, as a page and to a screen reader."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML, Image
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from wafer.reporting.advice import Advice
from wafer.reporting.marks import DOT, SHORT, bar, whole_names

SHARP = 2  # points of a picture for one of the page
MOST_DECIMALS = 4
LOOK = (
    "<style>.box{overflow-x:auto}.box table tr :is(th,td){vertical-align:top}"
    ".box table tr .n{text-align:right;white-space:nowrap}.box table tr .s{text-align:left;white-space:nowrap}"
    ".box table tr .l{text-align:left;min-width:14em;overflow-wrap:anywhere}.box table tr .c{text-align:center}"
    ".box table thead tr th[scope]{white-space:normal;vertical-align:bottom}"
    ".box table svg{max-width:none}.box{container-type:inline-size}"
    "@container (max-width:640px){.box table tr :is(th,td){padding-left:.3em;padding-right:.3em}"
    ".box table .n svg{display:none}}"
    ".now li{margin:.3em 0}</style>"
)  # also where no page of ours is around it: JupyterLab's own rules of tables would be stronger than a bare class, and
# its pictures, which may shrink to nothing, would lie over the next column


def show_table(
    frame: pd.DataFrame,
    nothing: str = "Nothing to list.",
    limit: int = 200,
    bars: Mapping[str, float | None] | None = None,
    once: Sequence[str] = (),
) -> HTML:
    """`frame` as an HTML table of at most `limit` rows; the sentence `nothing` where it has none.

    Args:
        frame: numbers are right-aligned, true is a dot, an object with `__html__` shows itself, all else is escaped.
        nothing: plain text.
        limit: rows.
        bars: columns of numbers that get a bar, and what fills it, None being the largest number shown.
        once: columns that are told in a line below the table where all rows have the same there.
    """
    if frame.empty:
        return HTML(f"<p>{escape(nothing)}</p>")  # type: ignore[no-untyped-call]
    same = [name for name in once if len(frame) > 1 and frame[name].nunique(dropna=False) == 1]
    shown, bars = frame.drop(columns=same).head(limit), bars or {}
    columns = [_column(shown.iloc[:, place], bars) for place in range(shown.shape[1])]
    names, kind = _column(shown.index.to_series(), {})
    kind = kind.replace("n", "s")  # at the left edge, as all else on the page
    lines = [
        f'<tr><th scope="row" class="{kind}">{name}</th>'
        + "".join(f'<td class="{kind_of}">{cells[row]}</td>' for cells, kind_of in columns)
        for row, name in enumerate(names)
    ]
    heads = [(frame.index.name, kind), *zip(shown.columns, [kind_of for _, kind_of in columns], strict=True)]
    words = [(str(escape(name if name is not None else "")).replace(" %", "\u00a0%"), kind) for name, kind in heads]
    titles = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in words)
    head = "" if list(shown.columns) == [""] else f"<thead><tr>{titles}</tr></thead>"
    table = (
        f'{LOOK}<div class="box" tabindex="0"><table>{head}<tbody>{"</tr>".join([*lines, ""])}</tbody></table></div>'
    )
    rest = len(frame) - len(shown)
    if rest:
        table += f"<p>… and {rest:,} more rows.</p>"
    if same:
        told = (f"<em>{escape(name)}</em> {_column(frame[name].head(1), {})[0][0]}" for name in same)
        table += f"<p>In all rows: {'; '.join(told)}</p>"
    return HTML(table)  # type: ignore[no-untyped-call]


def _column(values: "pd.Series[Any]", bars: Mapping[str, float | None]) -> tuple[list[Markup], str]:
    """The cells of a column, and its class: number, centred, short or long text."""
    if pd.api.types.is_bool_dtype(values):
        return [DOT if value else Markup("") for value in values], "c"
    if pd.api.types.is_numeric_dtype(values):
        texts = [escape(text) for text in _numbers(values)]
        if values.name not in bars:
            return texts, "n"
        full = bars[str(values.name)] or float(values.max()) or 1.0
        shares = [0.0 if pd.isna(value) else float(value) / full for value in values]
        return [text + Markup(" ") + bar(share) for text, share in zip(texts, shares, strict=True)], "n"
    cells = [escape("–" if value is None or value is pd.NA or value != value else value) for value in values]
    words = [str(value) for value in values]
    plain = [word.partition(" (")[0] for word in words]  # such as 9 of "9 (9.0 % of wafers)"
    figures = [any(map(str.isdigit, word)) and not any(map(str.isalpha, word)) for word in plain]
    if 2 * sum(figures) > sum(map(bool, words)) - words.count("–"):
        return cells, "n"
    if max(map(len, words)) <= SHORT:
        return cells, "s"
    return [
        whole_names(value) if isinstance(value, str) and not isinstance(value, Markup) else cell
        for value, cell in zip(values, cells, strict=True)
    ], "l"


def _numbers(values: "pd.Series[Any]") -> list[str]:
    """Numbers with as many decimals each as the column needs, so that they stand below each other."""
    there = values.dropna().astype(float)
    finest = there.round(MOST_DECIMALS)
    enough = (d for d in range(MOST_DECIMALS) if (there.round(d) - finest).abs().max() < 1e-9)
    decimals = 0 if there.empty else next(enough, MOST_DECIMALS)
    return ["–" if pd.isna(value) else f"{value:z,.{decimals}f}" for value in values]


def show_plot(figure: Figure, description: str) -> Image:
    """`figure` as a picture, with `description` for those who do not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=96 * SHARP, metadata={"Software": None})
    width = int(figure.get_figwidth() * 96)
    data = buffer.getvalue()
    return Image(data=data, format="png", width=width, alt=description)  # type: ignore[no-untyped-call]


def show_advice(advice: Sequence[Advice]) -> HTML:
    """What to do now, the first thing first."""
    items = "".join(f"<li><b>{escape(one.what)}</b> {escape(one.why)}</li>" for one in advice)
    return HTML(  # type: ignore[no-untyped-call]
        f'<section class="now"><h2 id="What-to-do-now">What to do now</h2><ol>{items}</ol></section>'
    )
