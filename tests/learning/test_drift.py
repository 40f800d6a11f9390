from typing import Any

import numpy as np
import pandas as pd
import pytest

from wafer.errors import ModelError
from wafer.learning.drift import measure_drift, stability_index, usual_drift


def _table(wafers: int, seed: int) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(size=(wafers, 6))
    return pd.DataFrame(values, columns=[f"Sensor-{n}" for n in range(1, 7)])


def test_stability_index_of_equal_and_of_moved_readings() -> None:
    """Equal shares give zero; all readings moved into one bin give what the formula says."""
    before = np.arange(100.0)
    assert stability_index(before, before) == 0.0
    moved = stability_index(before, np.full(100, 99.0))
    shares = (np.array([10] * 10 + [0]) + 0.5) / 105.5, (np.array([0] * 9 + [100, 0]) + 0.5) / 105.5
    assert moved == pytest.approx(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def test_readings_that_vanish_are_drift() -> None:
    """A sensor that is suddenly missing has a large index."""
    assert stability_index(np.arange(100.0), np.full(100, np.nan)) > 1.0


def test_a_quiet_process_has_not_drifted() -> None:
    """Wafers of the same kind are not told apart."""
    drift = measure_drift(_table(200, 0), _table(100, 1), threshold=0.65)
    assert 0.35 < drift.score < 0.65
    assert not drift.drifted
    assert np.isnan(drift.unknown)


def test_the_sensors_responsible_come_first() -> None:
    """A moved sensor and one that vanished lead the table, with how they changed."""
    batch = _table(100, 1)
    batch["Sensor-3"] += 4.0
    batch["Sensor-5"] = np.nan
    drift = measure_drift(_table(200, 0), batch, threshold=0.65, conformity=np.linspace(0.001, 1, 100))
    assert drift.score > 0.95
    assert drift.drifted
    assert drift.unknown == 0.01
    assert set(drift.sensors["sensor"].iloc[:2]) == {"Sensor-3", "Sensor-5"}
    by_name = drift.sensors.set_index("sensor")
    assert by_name.loc["Sensor-3", "shift"] == pytest.approx(4.0, abs=0.6)
    assert by_name.loc["Sensor-5", ["missing_before", "missing_now"]].tolist() == [0.0, 1.0]


def test_history_says_what_is_usual(wafers: Any) -> None:
    """Where batches always differ, the threshold is high; without history nothing is unusual."""
    usual = usual_drift(wafers.X, wafers.order, wafers.batch, window=60)
    assert 0.6 < usual <= 1.0
    assert usual_drift(wafers.X.iloc[:30], wafers.order[:30], wafers.batch[:30], window=60) == 1.0


def test_unfit_tables_are_refused() -> None:
    """A batch without a sensor of the window, or of one wafer, is refused."""
    with pytest.raises(ModelError, match="lacks 1 sensors of the reference window, Sensor-4 first"):
        measure_drift(_table(50, 0), _table(50, 1).drop(columns="Sensor-4"))
    with pytest.raises(ModelError, match="two wafers on each side, got 50 and 1"):
        measure_drift(_table(50, 0), _table(1, 1))
