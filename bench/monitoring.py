"""What monitoring by T² and SPE finds, how late, how often it is wrong and what it takes, for docs/monitoring.md.

`python -m bench.monitoring` needs no real wafers. Good wafers of the synthetic fab, drawn in random sequence so that
nothing but the fault changes, are learned from and then measured with a fault in one sensor; with
`--raw` real ones too.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.model import read_wafers
from wafer.boundary import bounded
from wafer.diagnosis.multivariate import PcaCharts
from wafer.errors import ModelError
from wafer.fab.simulate import simulate_frame

RESULT = Path(__file__).with_name("monitoring.json")
FAULTS = ("5 sigma step", "3 sigma drift", "stuck at an end of its range", "stuck at its last reading")
SIMULATIONS = 100
LASTING = 100  # wafers that a fault lasts
TOGETHER = 25  # of them, the last, whose contributions are taken together
NAMED = 3  # sensors that are named

Floats = NDArray[np.float64]


def good_wafers(folder: Path) -> Floats:
    """Readings of the good wafers of the batches in `folder`/training, in production order."""
    table = read_wafers(folder)
    return table.X.to_numpy(np.float64)[table.y == -1]


def synthetic_wafers(batches: int = 13, seed: int = 7) -> Floats:
    """Readings of the good wafers of the synthetic fab, in production order."""
    table = pd.concat([simulate_frame(batch, wafers=100, seed=seed) for batch in range(batches)])
    return table.loc[table["label"] == -1].filter(like="Sensor-").to_numpy(np.float64)


def halves(good: Floats, *, shuffled: bool) -> tuple[Floats, Floats]:
    """Four fifths of the wafers to learn from, and the others: a random fifth, or the newest."""
    sequence = np.random.default_rng(0).permutation(len(good)) if shuffled else np.arange(len(good))
    cut = 4 * len(good) // 5
    return good[sequence[:cut]], good[sequence[cut:]]


def simulate(known: Floats, new: Floats, charts: PcaCharts, fault: str, simulations: int) -> pd.DataFrame:
    """The last `LASTING` of the new wafers with a fault in a random sensor that is used, again and again.

    Returns: columns named (among the first three by `PcaCharts.shift` of the last 25), delay (wafers to the first
        signal of either chart, NaN for none).
    """
    chance = np.random.default_rng(FAULTS.index(fault))
    rows = []
    for place in chance.integers(len(charts.sensors), size=simulations).tolist():
        wafers = new[-LASTING:].copy()
        sensor = int(charts.sensors[place])
        wafers[:, sensor] = _faulty(wafers[:, sensor], known[:, sensor], float(charts.scale[place]), fault, chance)
        shift, found = charts.shift(wafers[-TOGETHER:]), charts.distances(wafers)
        signals = np.flatnonzero((found.t2 > charts.t2_limit) | (found.spe > charts.spe_limit))
        named = bool(np.sum(shift > shift[place]) < NAMED)
        rows.append({"named": named, "delay": signals[0] + 1 if len(signals) else np.nan})
    return pd.DataFrame(rows)


def _faulty(readings: Floats, known: Floats, sigma: float, fault: str, chance: np.random.Generator) -> Floats:
    sign, known = chance.choice([-1.0, 1.0]), known[~np.isnan(known)]
    stuck = {FAULTS[2]: np.quantile(known, 0.995 if sign > 0 else 0.005), FAULTS[3]: chance.choice(known)}
    if fault in stuck:
        return np.full_like(readings, stuck[fault])
    return readings + sign * sigma * (5.0 if fault == FAULTS[0] else np.linspace(0.0, 3.0, len(readings)))


def measure(good: Floats) -> Iterator[tuple[str, float]]:
    """Every figure of one fab."""
    for shuffled in (True, False):
        known, new = halves(good, shuffled=shuffled)
        charts = _learned(known)
        found, name = charts.distances(new), "shuffled" if shuffled else "forward"
        t2, spe = found.t2 > charts.t2_limit, found.spe > charts.spe_limit
        yield f"{name}: false alarm rate of T²", float(t2.mean())
        yield f"{name}: false alarm rate of SPE", float(spe.mean())
        yield f"{name}: wafers between false alarms", len(new) / max(1, int((t2 | spe).sum()))
        for fault in FAULTS:
            table = simulate(known, new, charts, fault, SIMULATIONS)
            yield f"{name}: {fault}, named", float(table["named"].mean())
            yield f"{name}: {fault}, median wafers to a signal", float(table["delay"].fillna(np.inf).median())


def speed(good: Floats) -> Iterator[tuple[str, float]]:
    """Seconds to learn, for a batch of 100 wafers with all contributions, and how time grows with batches."""
    start = time.perf_counter()
    charts = _learned(good)
    yield "seconds to learn", time.perf_counter() - start
    batch, spent = good[:100], {}
    for batches in (1, 100, 1000):
        start = time.perf_counter()
        for _ in range(batches):
            charts.distances(batch), charts.contributions(batch), charts.shift(batch)
        spent[batches] = time.perf_counter() - start
    yield "seconds for 100 wafers", spent[1]
    yield "seconds for 1,000 batches of 100 wafers", spent[1000]
    yield "time for 1,000 batches to ten times that for 100", spent[1000] / spent[100] / 10


def _learned(good: Floats) -> PcaCharts:
    charts = PcaCharts.learn(good)
    if charts is None:
        raise ModelError("there are too few good wafers, or no sensor that varies")
    return charts


@click.command(help=__doc__)
@click.option(
    "--raw",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="WAFER_REAL_DATA",
    help="Folder with training/.",
)
def main(raw: Path | None) -> None:
    """Measure, print a line a figure, and keep them as JSON."""
    fabs = {"synthetic": synthetic_wafers()} | ({"real": good_wafers(raw)} if raw else {})
    figures: dict[str, Any] = {name: dict(measure(good)) for name, good in fabs.items()}
    figures["speed"] = dict(speed(fabs["synthetic"]))
    RESULT.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    for name, own in figures.items():
        print(name, *(f"  {label:<60}  {value:>10,.3f}" for label, value in own.items()), sep="\n")


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench.monitoring", standalone_mode=False)))
