"""What monitoring finds, how late, how often it is wrong and what it takes, for docs/monitoring.md.

`python -m bench.monitoring` needs no real wafers. Good wafers of the synthetic fab, drawn in random sequence so that
nothing but the fault changes, are learned from and then measured with a fault in one sensor; with
`--raw` real ones too.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import drift
from bench.model import read_wafers
from wafer.boundary import bounded
from wafer.diagnosis.monitoring import Monitor
from wafer.diagnosis.multivariate import spe_limit, t2_limit
from wafer.fab.simulate import SENSOR_NAMES, simulate_frame

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


def simulate(known: Floats, new: Floats, monitor: Monitor, fault: str, simulations: int) -> pd.DataFrame:
    """The last `LASTING` of the new wafers with a fault in a random sensor that is used, again and again.

    Returns: columns named (among the first three by `ControlCharts.change` of the last 25), delay (wafers to the first
        signal of T² or SPE that there is not without the fault, NaN for none), own_delay (of the sensor's own chart).
    """
    pca = monitor.pca
    assert pca is not None
    before = _signals(monitor, new[-LASTING:])
    chance = np.random.default_rng(FAULTS.index(fault))
    rows = []
    for place in chance.integers(len(pca.sensors), size=simulations).tolist():
        wafers = new[-LASTING:].copy()
        sensor = int(pca.sensors[place])
        wafers[:, sensor] = _faulty(wafers[:, sensor], known[:, sensor], float(pca.scale[place]), fault, chance)
        named, caused = _named(monitor, wafers, place), np.flatnonzero(_signals(monitor, wafers) & ~before)
        own = np.flatnonzero(_own_signals(monitor, wafers, sensor) & ~_own_signals(monitor, new[-LASTING:], sensor))
        delays = {name: one[0] + 1 if len(one) else np.nan for name, one in (("delay", caused), ("own_delay", own))}
        rows.append({"named": named, **delays})
    return pd.DataFrame(rows)


def _named(monitor: Monitor, wafers: Floats, place: int) -> bool:
    """Whether the sensor at this place of those used is among the first three of the last wafers."""
    assert monitor.pca is not None
    change = monitor.charts.change(wafers[-TOGETHER:])[monitor.pca.sensors]
    return bool(np.sum(change > change[place]) < NAMED)


def coarse(known: Floats, new: Floats, monitor: Monitor) -> Iterator[tuple[str, float]]:
    """Of sensors of which one value holds more than half of the readings, what is told when they are stuck at it."""
    assert monitor.pca is not None
    named = []
    for place, sensor in enumerate(monitor.pca.sensors):
        values, counts = np.unique(known[~np.isnan(known[:, sensor]), sensor], return_counts=True)
        if counts.max() > counts.sum() / 2:
            wafers = new[-LASTING:].copy()
            wafers[:, sensor] = values[counts.argmax()]
            named.append(_named(monitor, wafers, place))
    yield "sensors with one value in more than half of their readings", len(named)
    yield "of them named when stuck at it", sum(named)


def _signals(monitor: Monitor, wafers: Floats) -> NDArray[np.bool_]:
    assert monitor.pca is not None
    found = monitor.pca.distances(wafers)
    return np.asarray((found.t2 > monitor.pca.t2_limit) | (found.spe > monitor.pca.spe_limit))


def _own_signals(monitor: Monitor, wafers: Floats, sensor: int) -> NDArray[np.bool_]:
    whole, one = monitor.charts, [sensor]
    by_sensor = {name: getattr(whole, name)[..., one] for name in ("centre", "sigma", "ranked", "tails", "limits")}
    return np.asarray(replace(whole, **by_sensor).signals(wafers[:, one]).any(axis=(0, 2)))


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
        monitor, name = Monitor.learn(known, SENSOR_NAMES), "shuffled" if shuffled else "forward"
        pca = monitor.pca
        assert pca is not None
        found, theory = pca.distances(new), t2_limit(len(pca.variances), len(known), 0.01)
        yield f"{name}: false alarm rate of T²", float((found.t2 > pca.t2_limit).mean())
        yield f"{name}: false alarm rate of T² by theory", float((found.t2 > theory).mean())
        yield f"{name}: false alarm rate of SPE", float((found.spe > pca.spe_limit).mean())
        theory = spe_limit(pca.distances(known).spe, 0.01)
        yield f"{name}: false alarm rate of SPE by theory", float((found.spe > theory).mean())
        yield f"{name}: wafers between false alarms", len(new) / max(1, int(_signals(monitor, new).sum()))
        yield (
            f"{name}: sensors that signal in {LASTING} wafers",
            monitor.charts.signals(new[-LASTING:]).any(axis=(0, 1)).sum().item(),
        )
        for fault in FAULTS:
            table = simulate(known, new, monitor, fault, SIMULATIONS)
            yield f"{name}: {fault}, named", float(table["named"].mean())
            for column, chart in (("delay", "T² or SPE"), ("own_delay", "own chart")):
                delay = table[column]
                yield f"{name}: {fault}, {chart} within {LASTING} wafers", float(delay.notna().mean())
                yield f"{name}: {fault}, {chart}, median delay where there is one", float(delay.median())
        yield from ((f"{name}: {label}", value) for label, value in coarse(known, new, monitor))


def speed(good: Floats) -> Iterator[tuple[str, float]]:
    """Processor time to learn, of a batch of 100 wafers, and how it grows with batches."""
    start = time.process_time()
    monitor = Monitor.learn(good, SENSOR_NAMES)
    yield "seconds to learn", time.process_time() - start
    batch, spent = good[:100], {}
    for batches in (1, 10, 100):
        start = time.process_time()
        for _ in range(batches):
            monitor.watch(batch, SENSOR_NAMES)
        spent[batches] = time.process_time() - start
    yield "seconds for 100 wafers", spent[1]
    yield "seconds for 100 batches of 100 wafers", spent[100]
    yield "time for 100 batches to ten times that for 10", spent[100] / spent[10] / 10


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
    figures |= drift.figures(raw)
    figures["speed"] = dict(speed(fabs["synthetic"]))
    RESULT.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    for name, own in figures.items():
        print(name, *(f"  {label:<60}  {value:>10,.3f}" for label, value in own.items()), sep="\n")


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench.monitoring", standalone_mode=False)))
