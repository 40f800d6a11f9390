"""The tables of `docs/model-card.md`, between markers; the words around them are written by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

METRICS = {
    "auc": "ROC AUC",
    "average_precision": "average precision",
    "balanced_error_rate": "balanced error rate",
    "recall_at_alarm_rate_5": "recall at 5 % alarms",
    "recall_at_alarm_rate_10": "recall at 10 % alarms",
    "recall_at_alarm_rate_20": "recall at 20 % alarms",
    "brier_skill": "Brier skill",
    "calibration_error": "calibration error",
    "alarm_rate": "alarm rate",
    "cost_per_1000": "cost per 1,000 wafers",
    "accuracy": "accuracy",
}


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Both protocols side by side, with intervals."""
    lines = ["| metric | shuffled | forward |", "|---|---|---|"]
    for name, title in METRICS.items():
        cells = [_interval(metrics[protocol], name) for protocol in ("shuffled", "forward")]
        lines.append(f"| {title} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def ablation_table(ablation: pd.DataFrame) -> str:
    """One line a variant: its AUC and what the default gains over it, with the paired interval."""
    lines = ["| without | shuffled | default gains | forward | default gains |", "|---|---|---|---|---|"]
    for row in ablation.to_dict("records"):
        cells = [row["without"]]
        for protocol in ("shuffled", "forward"):
            bounds = f"[{row[f'{protocol}_gain_low']:+z.3f}, {row[f'{protocol}_gain_high']:+z.3f}]"
            cells += [f"{row[f'{protocol}_auc']:.3f}", f"{row[f'{protocol}_gain']:+z.3f} {bounds}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figures_table(figures: Mapping[str, float]) -> str:
    """Every figure of `bench/model.json`."""
    return "\n".join(
        ["| figure | value |", "|---|---|", *(f"| {name} | {value:,.3f} |" for name, value in figures.items())]
    )


def write_tables(card: Path, figures: Mapping[str, float], metrics: Mapping[str, Any], ablation: pd.DataFrame) -> None:
    """The tables of `bench.model`."""
    tables = {
        "metrics": metrics_table(metrics),
        "ablation": ablation_table(ablation),
        "figures": figures_table(figures),
    }
    fill(card, tables)


def markdown(table: pd.DataFrame) -> str:
    """A table of texts, its index first."""
    named = table.reset_index()
    rows = [named.columns.astype(str).tolist(), ["---"] * named.shape[1], *named.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def fill(card: Path, tables: Mapping[str, str]) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in the card."""
    text = card.read_text(encoding="utf-8")
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = text.split(start, 1)
        text = f"{before}{start}\n{table}\n{end}{rest.split(end, 1)[1]}"
    card.write_text(text, encoding="utf-8")


def _interval(summary: Mapping[str, Any], name: str) -> str:
    digits = 0 if name == "cost_per_1000" else 3
    value, low, high = (f"{summary[key]:.{digits}f}" for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} [{low}, {high}]"
