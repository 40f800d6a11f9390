import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bench.monitoring import FAULTS, good_wafers, halves, simulate, synthetic_wafers
from wafer.diagnosis.monitoring import Monitor
from wafer.errors import ModelError
from wafer.fab.simulate import SENSOR_NAMES, simulate_frame
from wafer.learning.model import WaferModel
from wafer.scoring.bundle import fit_bundle
from wafer.scoring.judge import judge

NAMES = [f"Sensor-{number}" for number in range(1, 31)]


def _wafers(wafers: int, seed: int) -> NDArray[np.float64]:
    X = np.random.default_rng(seed).normal(size=(wafers, len(NAMES)))
    X[:, 10:20] += np.random.default_rng(seed + 1000).normal(size=(wafers, 1))
    return X


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return Monitor.learn(_wafers(600, 0), NAMES)


def test_a_sensor_that_leaves_control_is_told_with_wafer_batch_and_rule(monitor: Monitor) -> None:
    """A step of eight sigma from the 61st wafer on is told at once by its chart, and named first in its batch."""
    X, batches = _wafers(100, 1), np.repeat(["one", "two"], 50)
    X[60:, 4] += 8.0
    found = monitor.watch(X, NAMES, np.arange(100), batches)
    own = found.sensors[found.sensors["sensor"] == "Sensor-5"]
    assert 60 <= own["first"].min() <= 63
    assert {"nelson-1", "ewma"} & set(own["rule"])
    assert found.batches["batch"].tolist() == ["one", "two"]
    assert found.batches["shifted"][1].startswith("Sensor-5, ")
    out = found.wafers["out_of_control"]
    assert out[:60].mean() < 0.1 and out[60:].mean() > 0.9
    limited = found.wafers["spe"] > found.wafers["spe_limit"]
    assert found.batches["spe"].tolist() == [int(limited[:50].sum()), int(limited[50:].sum())]
    told = found.contributions
    assert sorted(set(told["row"])) == np.flatnonzero(out).tolist()
    assert told[told["chart"] == "SPE"]["row"].tolist() == np.repeat(np.flatnonzero(limited), 3).tolist()
    assert told[told["row"] >= 60].groupby("row")["sensor"].agg(lambda own: "Sensor-5" in set(own)).mean() > 0.9


def test_a_batch_without_readings_has_moved_nowhere(monitor: Monitor) -> None:
    """No sensor is named for it."""
    found = monitor.watch(np.full((5, len(NAMES)), np.nan), NAMES)
    assert found.batches["shifted"].tolist() == [""]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"without": {"Sensor-99": ["all"]}}, "a sensor that is not there: Sensor-99"),
        ({"rules": ["nelson-9"]}, "a rule that is not there: nelson-9"),
        ({"rules": []}, "no rule"),
    ],
)
def test_rules_that_cannot_be_applied_are_told_before_anything_is_fitted(rules: Any, message: str) -> None:
    """Of sensors and rules that are not there nothing is learned; no step is counted after the first."""
    told: list[int] = []
    X = pd.DataFrame(_wafers(40, 0), columns=NAMES)
    with pytest.raises(ModelError, match=message):
        fit_bundle(
            WaferModel(trees=10),
            X,
            [-1, 1] * 20,
            np.arange(40),
            rules=rules,
            progress=lambda done, _: told.append(done),
        )
    assert told == [0]


def test_wafers_are_watched_in_production_order_and_told_by_their_row(monitor: Monitor) -> None:
    """In any sequence of rows the same wafers signal, and T² and SPE stay with theirs."""
    X, order = _wafers(100, 1), np.arange(100)
    X[60:, 4] += 6.0
    whole, rows = monitor.watch(X, NAMES, order), np.random.default_rng(0).permutation(100)
    mixed = monitor.watch(X[rows], NAMES, order[rows])
    back = mixed.sensors.assign(first=rows[mixed.sensors["first"]], last=rows[mixed.sensors["last"]])
    pd.testing.assert_frame_equal(back, whole.sensors)
    pd.testing.assert_frame_equal(mixed.wafers, whole.wafers.iloc[rows].reset_index(drop=True), check_exact=True)


def test_few_good_wafers_have_no_limits_and_no_signals() -> None:
    """Nothing is out of control where nobody knows what control is; the frames have their columns all the same."""
    found = Monitor.learn(_wafers(10, 0), NAMES).watch(_wafers(5, 1), NAMES)
    assert found.wafers["t2"].isna().all() and not found.wafers["out_of_control"].any()
    assert len(found.contributions) == len(found.sensors) == 0
    assert list(found.contributions) == ["row", "chart", "rank", "sensor", "contribution"]
    assert found.batches.to_dict("records") == [{"batch": "", "wafers": 5, "t2": 0, "spe": 0, "shifted": ""}]


def test_it_is_learned_from_good_wafers_beside_the_classifier(wafers: Any, quick: dict[str, int]) -> None:
    """Of wafers with a production order alone; a model without says so when it is asked."""
    bundle = fit_bundle(WaferModel(**quick), wafers.X, wafers.y, wafers.order, reasons=False)
    good = wafers.X.to_numpy()[wafers.y == -1]
    assert bundle.monitor is not None
    assert np.array_equal(bundle.monitor.charts.ranked, np.sort(good, axis=0), equal_nan=True)
    found = judge(bundle, wafers.X, wafers.order, monitor=True, batches=wafers.batch).monitored
    assert found is not None and found.batches["wafers"].tolist() == [40] * 6
    unordered = fit_bundle(WaferModel(**quick), wafers.X, wafers.y, reasons=False)
    with pytest.raises(ModelError, match="cannot monitor"):
        judge(unordered, wafers.X, monitor=True)


def faulty_sensors_are_named(good: NDArray[np.float64]) -> None:
    """In nine of ten simulations of each fault, in one random sensor of wafers like those that were learned from."""
    known, new = halves(good, shuffled=True)
    monitor = Monitor.learn(known, SENSOR_NAMES)
    for fault in FAULTS:
        assert simulate(known, new, monitor, fault, 100)["named"].mean() >= 0.9, fault


@pytest.mark.slow
@pytest.mark.invariant
def test_a_faulty_sensor_is_among_the_three_named() -> None:
    """Of the synthetic fab."""
    faulty_sensors_are_named(synthetic_wafers())


@pytest.mark.slow
def test_a_faulty_sensor_is_among_the_three_named_of_real_wafers(real_wafers: Path) -> None:
    """The same of real ones."""
    faulty_sensors_are_named(good_wafers(real_wafers))


@pytest.mark.slow
def test_a_hundred_wafers_of_590_sensors_take_less_than_half_a_second() -> None:
    """T², SPE and all charts of all sensors, and ten times as many wafers less than fifteen times that."""
    frames = [simulate_frame(batch, wafers=100, seed=7).filter(like="Sensor-").to_numpy() for batch in range(14)]
    monitor = Monitor.learn(np.vstack(frames[:4]), SENSOR_NAMES)
    spent = []
    for X in (frames[4], np.vstack(frames[4:])):
        start = time.process_time()
        monitor.watch(X, SENSOR_NAMES)
        spent.append(time.process_time() - start)
    assert spent[0] < 0.5
    assert spent[1] < 15 * spent[0]
