"""How often the drift limit is wrong, how soon it tells a shift, what it says of real batches; for docs/monitoring.md.

Run by `bench.monitoring`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.model import Table, read_wafers
from wafer.diagnosis.drift import domain_auc, domain_limit, drift_limit, mean_excess, usual_drift
from wafer.fab.simulate import simulate_frame

HISTORIES = (6, 12, 25, 50)  # past batches
WAFERS = 100  # of a batch; the window holds two

Floats = NDArray[np.float64]


def regrouped(readings: Floats, batches: int, *, seed: int = 0) -> list[Floats]:
    """Batches of wafers drawn at random from all of them, so that nothing changes from one to the next."""
    chance = np.random.default_rng(seed)
    return [readings[chance.choice(len(readings), WAFERS, replace=False)] for _ in range(batches)]


def scores_of(batches: list[Floats], before: int = 2) -> Floats:
    """Drift score of each batch against so many before it, shape (batches - before,)."""
    return np.array([mean_excess(np.vstack(batches[n - before : n]), batches[n]) for n in range(before, len(batches))])


def limit_from(scores: Floats) -> float:
    """The limit from past batches of so many wafers, against a window of two of them."""
    limit = drift_limit(scores, [1 / WAFERS + 1 / (2 * WAFERS)])
    assert limit is not None
    return limit


def false_alarms(chains: list[Floats], history: int) -> tuple[float, float]:
    """Share of batches above the limit from so many before them, and above the largest of those and 0.02."""
    past = [(chain[n - history : n], chain[n]) for chain in chains for n in range(history, len(chain))]
    found = [(score > limit_from(own), score > own.max() + 0.02) for own, score in past]
    return float(np.mean(found, axis=0)[0]), float(np.mean(found, axis=0)[1])


def drift_figures(readings: Floats, batches: int = 1500, repeats: int = 50) -> Iterator[tuple[str, float]]:
    """False alarms of the drift limit where nothing changes, and how soon it tells a tenth of the sensors that move."""
    stationary = regrouped(readings, batches)
    chain = scores_of(stationary)
    for history in HISTORIES:
        limit, largest = false_alarms([chain], history)
        yield f"regrouped: false alarm rate after {history} batches", limit
        yield f"regrouped: by the largest score after {history} batches", largest
    limits = [limit_from(chain[12 * n : 12 * (n + 1)]) for n in range(repeats)]
    for sigma in (0.25, 0.5, 1.0):
        told = [_moved_score(stationary, n, sigma) > limit for n, limit in enumerate(limits)]
        yield f"regrouped: batches told at once of a step of {sigma} sigma", float(np.mean(told))
    told = [next(k for k in range(1, 100) if _moved_score(stationary, n, 0.1 * k) > limits[n]) for n in range(repeats)]
    yield "regrouped: batches to tell 0.1 sigma more in each, median", float(np.median(told))


def _moved_score(batches: list[Floats], number: int, sigma: float) -> float:
    """Of a batch in which a tenth of the sensors that vary moved, against the two before it."""
    chance = np.random.default_rng(number)
    window, batch = np.vstack(batches[3 * number : 3 * number + 2]), batches[3 * number + 2].copy()
    spread = np.nan_to_num(pd.DataFrame(window).std().to_numpy())
    some = chance.choice(np.flatnonzero(spread > 0), window.shape[1] // 10, replace=False)
    batch[:, some] += sigma * spread[some] * chance.choice([-1.0, 1.0], len(some))
    return mean_excess(window, batch)


def own_drift(seeds: int = 8, batches: int = 52) -> Iterator[tuple[str, float]]:
    """The same of fabs whose sensors wander without end and without trend, in their own sequence."""
    chains = []
    for seed in range(100, 100 + seeds):
        chains.append(scores_of([simulated(batch, seed) for batch in range(batches)]))
    for history in HISTORIES[:-1]:
        limit, largest = false_alarms(chains, history)
        yield f"wandering: false alarm rate after {history} batches", limit
        yield f"wandering: by the largest score after {history} batches", largest


def forward_drift(table: Table) -> Iterator[tuple[str, float]]:
    """Which later batches have drifted, of a model of the first so many: number of them."""
    X, names = table.X.to_numpy(np.float64), pd.unique(np.asarray(table.batch))
    batches = [X[np.asarray(table.batch) == name] for name in names]
    for known in (5, 8, 10, 12):
        window = np.vstack(batches[:known])[-200:]
        rows = np.isin(np.asarray(table.batch), names[:known])
        limit = usual_drift(table.X[rows], np.asarray(table.order)[rows], np.asarray(table.batch)[rows])
        assert limit is not None
        later = np.array([mean_excess(window, batch) for batch in batches[known:]])
        yield f"trained on {known} batches: limit", limit
        yield f"trained on {known} batches: later ones", len(later)
        yield f"trained on {known} batches: of them drifted", int((later > limit).sum())


def domain_figures(readings: Floats, batches: int = 200) -> Iterator[tuple[str, float]]:
    """False alarms of the domain classifier's limit where nothing changes."""
    groups = [regrouped(readings, 3, seed=seed) for seed in range(batches)]
    aucs = np.array([domain_auc(np.vstack(own[:2]), own[2]) for own in groups])
    for history in HISTORIES[:2]:
        told = [aucs[n] > (domain_limit(aucs[n - history : n]) or np.inf) for n in range(history, batches)]
        yield f"regrouped: false alarm rate of the domain AUC after {history} batches", float(np.mean(told))


def figures(raw: Path | None) -> dict[str, dict[str, float]]:
    """Every figure by fab."""
    synthetic = np.vstack([simulated(batch, 7) for batch in range(13)])
    found = {
        "drift, synthetic": {**dict(drift_figures(synthetic)), **dict(own_drift()), **dict(domain_figures(synthetic))}
    }
    if raw is not None:
        table = read_wafers(raw)
        found["drift, real"] = {**dict(drift_figures(table.X.to_numpy(np.float64))), **dict(forward_drift(table))}
    return found


def simulated(batch: int, seed: int) -> Floats:
    """Readings of a batch of a synthetic fab, shape (wafers, sensors)."""
    return simulate_frame(batch, wafers=WAFERS, seed=seed).filter(like="Sensor-").to_numpy(np.float64)
