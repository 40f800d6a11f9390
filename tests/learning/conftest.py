"""Small wafers that every test of this room may use."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray


class Wafers(NamedTuple):
    """A table of wafers, as a snapshot holds it."""

    X: pd.DataFrame
    y: NDArray[np.int64]
    order: NDArray[np.int64]
    batch: NDArray[np.str_]


def make_wafers(wafers: int = 240, sensors: int = 24, faults: int = 30, seed: int = 0) -> Wafers:
    """Drifting wafers in batches of 40; sensors 1 to 3 are higher on faulty wafers, the last is constant."""
    chance = np.random.default_rng(seed)
    order = np.arange(wafers) * 2 + 1
    group = np.sign(chance.normal(size=wafers))
    X = chance.normal(size=(wafers, sensors)) + np.linspace(0, 3, wafers)[:, None]
    X[:, 4:8] += 4 * group[:, None]
    y = np.full(wafers, -1)
    y[chance.choice(wafers, faults, replace=False)] = 1
    X[y == 1, :3] += 2.5
    X[chance.random(X.shape) < 0.05] = np.nan
    X[: wafers // 3, sensors - 2] = np.nan
    X[:, sensors - 1] = 7.0
    names = [f"Sensor-{number}" for number in range(1, sensors + 1)]
    batch = np.array([f"batch_{number // 40:02d}.csv" for number in range(wafers)])
    return Wafers(pd.DataFrame(X, columns=names), y, order, batch)


@pytest.fixture(scope="session")
def wafers() -> Wafers:
    """240 drifting wafers of 24 sensors, 30 of them faulty."""
    return make_wafers()


@pytest.fixture(scope="session")
def quick() -> dict[str, int]:
    """Parameters with which a model is fitted in well under a second."""
    return {"trees": 20, "search_budget": 1, "max_clusters": 4, "calibration_folds": 3, "reference_window": 60}


@pytest.fixture(scope="session")
def real_table(real_wafers: Path) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.int64]]:
    """Readings, labels and production order of the real training wafers, in production order."""
    table = pd.concat([pd.read_csv(file) for file in sorted((real_wafers / "training").glob("*.csv"))])
    order = table.iloc[:, 0].str.removeprefix("Wafer-").astype(np.int64).to_numpy()
    table, order = table.iloc[np.argsort(order, kind="stable")], np.sort(order)
    return table.filter(like="Sensor-").astype(np.float64), table["Good/Bad"].to_numpy(np.int64), order
