from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from bench.drift import HISTORIES, false_alarms, regrouped, scores_of, simulated
from wafer.diagnosis.drift import (
    FALSE_ALARM_RATE,
    domain_limit,
    drift_limit,
    measure_drift,
    stability_indices,
    usual_domain_auc,
    usual_drift,
)
from wafer.errors import ModelError
from wafer.learning.model import WaferModel
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.judge import judge


def _table(wafers: int, seed: int) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(size=(wafers, 6))
    return pd.DataFrame(values, columns=[f"Sensor-{n}" for n in range(1, 7)])


def stability(before: NDArray[np.float64], now: NDArray[np.float64]) -> tuple[float, float]:
    """The index of one sensor, and what chance gives."""
    index, chance = stability_indices(before[:, None], now[:, None])
    return float(index[0]), float(chance[0])


def test_the_stability_index_of_equal_readings_is_nothing() -> None:
    """Equal shares give zero."""
    assert stability(np.arange(100.0), np.arange(100.0))[0] == 0.0


@pytest.mark.parametrize("moved", [0.1, 0.25, 0.5])
def test_the_stability_index_is_the_divergence_of_jeffreys(moved: float) -> None:
    """Of two normal distributions of spread 1 that is the square of their distance (Kullback, Information Theory and
    Statistics, 1959, chapter 9); ten bins keep some 95 % of it, and no bins can add to it."""
    before = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert 0.93 * moved**2 < stability(before, before + moved)[0] < moved**2


def test_the_stability_index_without_any_change_is_what_is_published() -> None:
    """On average 9 (1/n + 1/m) for ten bins (Yurdakul, Naranjo, Journal of Risk Model Validation 14(4), 2020)."""
    chance = np.random.default_rng(0)
    found = stability_indices(chance.normal(size=(400, 2000)), chance.normal(size=(300, 2000)))[0]
    assert found.mean() == pytest.approx(9 * (1 / 400 + 1 / 300), rel=0.05)
    assert stability(chance.normal(size=400), chance.normal(size=300))[1] == pytest.approx(9 * (1 / 400 + 1 / 300))


def test_readings_that_vanish_are_drift() -> None:
    """A sensor that is suddenly missing has a large index."""
    assert stability(np.arange(100.0), np.full(100, np.nan))[0] > 1.0


def test_a_quiet_process_has_not_drifted() -> None:
    """Wafers of the same kind score next to nothing, in a large batch as in a small one."""
    drift = measure_drift(_table(200, 0), _table(100, 1), threshold=0.1)
    assert abs(drift.score) < 0.06
    assert abs(np.mean([measure_drift(_table(200, 0), _table(25, n)).score for n in range(1, 9)])) < 0.1
    assert not drift.drifted
    assert np.isnan(drift.unknown)


def test_the_sensors_responsible_come_first() -> None:
    """A moved sensor and one that vanished lead the table, with how they changed."""
    batch = _table(100, 1)
    batch["Sensor-3"] += 4.0
    batch["Sensor-5"] = np.nan
    drift = measure_drift(_table(200, 0), batch, threshold=0.2, p_value=np.linspace(0.001, 1, 100))
    assert drift.score == pytest.approx(np.mean(drift.sensors["stability_index"]), abs=0.2)
    assert drift.drifted
    assert drift.unknown == 0.01
    assert set(drift.sensors["sensor"].iloc[:2]) == {"Sensor-3", "Sensor-5"}
    by_name = drift.sensors.set_index("sensor")
    assert by_name.loc["Sensor-3", "shift"] == pytest.approx(4.0, abs=0.6)
    assert by_name.loc["Sensor-5", ["missing_before", "missing_now"]].tolist() == [0.0, 1.0]


def test_history_says_what_is_usual(wafers: Any) -> None:
    """Where batches always differ, the threshold is high; without history there is none, and nothing is unusual."""
    usual = usual_drift(wafers.X, wafers.order, wafers.batch, window=60)
    quiet = usual_drift(_table(240, 0), wafers.order, wafers.batch, window=60)
    assert usual is not None and quiet is not None
    assert usual > quiet + 0.1
    assert usual_drift(wafers.X.iloc[:30], wafers.order[:30], wafers.batch[:30], window=60) is None
    assert not measure_drift(_table(50, 0), _table(50, 0) + 100.0).drifted


def test_the_limit_is_a_prediction_limit_for_one_more_batch() -> None:
    """By hand, of cube roots 0.5, 0.6, 0.7 above a start of -0.05 and of arcsines; two past batches are too few."""
    scores = np.array([0.5, 0.6, 0.7]) ** 3 - 0.05
    assert drift_limit(scores, [0.015] * 3) == pytest.approx(
        (0.6 + 2.919986 * 0.1 * np.sqrt(4 / 3)) ** 3 - 0.05, rel=1e-6
    )
    angles = np.array([0.8, 0.85, 0.9, 0.95, 1.0])
    expected = np.sin(0.9 + 2.131847 * angles.std(ddof=1) * np.sqrt(6 / 5)) ** 2
    assert domain_limit(np.sin(angles) ** 2) == pytest.approx(expected, rel=1e-6)
    assert domain_limit([0.99, 0.999, 1.0]) == domain_limit([1.0] * 3) == 1.0
    assert drift_limit(scores[:2], [0.015] * 2) is None and domain_limit([0.5, 0.6]) is None
    assert 0.2 < drift_limit([0.2] * 4, [0.015] * 4) < 0.2 + 1e-6  # type: ignore[operator]


@pytest.mark.parametrize("history", [3, 6, 25, 100])
def test_the_false_alarm_rate_is_the_stated_one_however_long_the_history(history: int) -> None:
    """Of skewed scores that come as before, one in twenty is above; of the largest ever it would be 25 to 1 %."""
    chance = np.random.default_rng(history)
    scores = chance.chisquare(40, size=(2000, history + 1)) * 0.0005 - 0.05
    above = [new > drift_limit(past, [0.015]) for *past, new in scores]  # type: ignore[operator]
    assert np.mean(above) == pytest.approx(FALSE_ALARM_RATE, abs=3 * np.sqrt(0.05 * 0.95 / 2000))


@pytest.mark.slow
@pytest.mark.invariant
def test_batches_of_the_same_wafers_seldom_count_as_drift() -> None:
    """Of the synthetic fab's wafers in random batches the stated share, within three standard errors."""
    chain = scores_of(regrouped(np.vstack([simulated(batch, 7) for batch in range(6)]), 500))
    for history in HISTORIES:
        rate, _ = false_alarms([chain], history)
        assert rate <= FALSE_ALARM_RATE + 3 * np.sqrt(0.05 * 0.95 / (len(chain) - history))


def test_the_classifier_sees_sensors_that_change_together() -> None:
    """Two sensors that trade places keep their distributions, so the score is near 0, but a forest tells the batch."""
    first, second = (np.random.default_rng(seed).normal(size=(200, 1)) for seed in (0, 1))
    window = pd.DataFrame(np.hstack([first, first]), columns=["a", "b"])
    batch = pd.DataFrame(np.hstack([second, -second]), columns=["a", "b"])
    same = pd.DataFrame(np.hstack([second, second]), columns=["a", "b"])
    told, quiet = measure_drift(window, batch), measure_drift(window, same)
    assert abs(told.score) < 0.1
    assert told.domain_auc > 0.8
    assert quiet.domain_auc == pytest.approx(0.5, abs=0.1)


def test_history_says_which_domain_auc_is_usual(wafers: Any) -> None:
    """Where batches always differ, the usual domain AUC is high, elsewhere low; without history nobody knows it."""
    usual = usual_domain_auc(wafers.X, wafers.order, wafers.batch, window=60)
    quiet = usual_domain_auc(_table(240, 0), wafers.order, wafers.batch, window=60)
    assert usual is not None and quiet is not None
    assert quiet < 0.85 < usual <= 1.0
    assert usual_domain_auc(wafers.X.iloc[:30], wafers.order[:30], wafers.batch[:30], window=60) is None


@pytest.mark.slow
def test_real_drift_is_told_from_what_is_usual(
    real_table: tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.int64]],
) -> None:
    """On the real process, whose batches always differ, a tenth of the sensors moved or some lost are more than usual.

    The last hundred wafers as they are, after the two hundred before them, are not.
    """
    table, _, order = real_table
    batch = np.arange(len(order)) // 100
    usual = usual_drift(table.iloc[:-100], np.arange(len(table) - 100), batch[:-100])
    window, last = table.iloc[-300:-100], table.iloc[-100:]
    assert not measure_drift(window, last, threshold=usual).drifted
    some = np.random.default_rng(0).choice(590, 59, replace=False)
    moved, lost = last.copy(), last.copy()
    moved.iloc[:, some] += 3 * window.iloc[:, some].std()
    lost.iloc[:, some[:16]] = np.nan
    assert measure_drift(window, moved, threshold=usual).drifted
    assert measure_drift(window, lost, threshold=usual).drifted


def test_unfit_tables_are_refused() -> None:
    """A batch without a sensor of the window, or of too few wafers to tell anything, is refused."""
    with pytest.raises(ModelError, match="lacks 1 sensors of the reference window, Sensor-4 first"):
        measure_drift(_table(50, 0), _table(50, 1).drop(columns="Sensor-4"))
    with pytest.raises(ModelError, match="drift needs 20 wafers on each side, got 50 and 19"):
        measure_drift(_table(50, 0), _table(19, 1))


@pytest.fixture(scope="module")
def watching(wafers: Any, quick: dict[str, int]) -> Bundle:
    """A model that learned to tell drift."""
    return fit_bundle(WaferModel(**quick), *wafers, reasons=False)


def test_a_model_tells_drift_by_what_was_usual(watching: Bundle, wafers: Any) -> None:
    """The newest window and history's threshold are the model's own; unknown wafers are told by its own p-values."""
    newest = wafers.X.iloc[-60:]
    batch = newest.iloc[:40] + 6.0
    usual = usual_drift(wafers.X, wafers.order, wafers.batch, window=60)
    judged = judge(watching, batch, np.arange(1000, 1040), drift=True)
    expected = measure_drift(newest, batch, threshold=usual, p_value=judged.wafers["p_value"])
    found = judged.drift
    assert found is not None
    assert (found.score, found.threshold, found.unknown) == (expected.score, usual, expected.unknown)
    assert found.unknown == np.mean(judged.wafers["p_value"] <= 0.01)
    pd.testing.assert_frame_equal(found.sensors, expected.sensors)
    assert watching.drift is not None
    assert watching.drift.newest == wafers.order[-1]


def test_drift_is_learned_from_enough_wafers_with_an_order(wafers: Any, quick: dict[str, int]) -> None:
    """Of 18 wafers, or without production order or batches, no drift is learned, and none is told."""
    few = fit_bundle(
        WaferModel(**quick),
        wafers.X.iloc[:18],
        np.repeat([-1, 1], 9),
        wafers.order[:18],
        wafers.batch[:18],
        reasons=False,
    )
    unordered = fit_bundle(WaferModel(**quick), wafers.X, wafers.y, reasons=False)
    assert few.drift is unordered.drift is None
    with pytest.raises(ModelError, match="cannot tell drift: it learned none when it was trained"):
        judge(unordered, wafers.X, drift=True)


def test_one_wafer_is_no_batch(watching: Bundle, wafers: Any) -> None:
    """Drift of too few wafers is refused with both numbers."""
    with pytest.raises(ModelError, match="drift needs 20 wafers on each side, got 60 and 1"):
        judge(watching, wafers.X.iloc[:1], drift=True)
