"""Control charts: their limits, and how often they speak though nothing has happened."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import ndtri

from wafer.diagnosis.charts import ControlCharts, centre_and_sigma
from wafer.errors import ModelError

SENSORS = 590
NAMES = [f"Sensor-{number}" for number in range(1, SENSORS + 1)]
NAN = float("nan")


def in_control(seed: int, wafers: int) -> NDArray[np.float64]:
    """A third of the sensors each normal, skewed, and alike from wafer to wafer; 5 % of the readings missing."""
    chance = np.random.default_rng(seed)
    Z = chance.normal(size=(wafers, SENSORS))
    Z[:, ::3] = np.exp(Z[:, ::3] / 2)
    for wafer in range(1, wafers):
        Z[wafer, 1::3] = 0.5 * Z[wafer - 1, 1::3] + np.sqrt(0.75) * Z[wafer, 1::3]
    return np.where(chance.random(Z.shape) < 0.05, NAN, Z)


@pytest.mark.parametrize(
    ("readings", "centre", "sigma"),
    [
        ([49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6, 52.1], 50.81, (55.8041 - 50.81) / 3),
        ([10.0, 12.0, 11.0, 13.0, 12.0], 11.6, 1.3293403881791372),
        ([10.0, NAN, 12.0, 11.0, NAN, NAN, 13.0, 12.0], 11.6, 1.3293403881791372),
    ],
)
def test_limits_of_an_individuals_chart_as_published(readings: list[float], centre: float, sigma: float) -> None:
    """The flow rates of the NIST handbook, section 6.3.2.2 (which rounds d2 to 1.128), and a case derived by hand."""
    found = centre_and_sigma(np.array(readings)[:, None])
    assert found[0][0] == pytest.approx(centre, abs=1e-9)
    assert found[1][0] == pytest.approx(sigma, abs=1e-3)


def test_a_gross_error_does_not_widen_a_chart() -> None:
    """One training reading of a million moves centre and sigma by little; a constant or empty sensor has no chart."""
    readings = np.random.default_rng(0).normal(5.0, 2.0, size=(400, 3))
    before = centre_and_sigma(readings)
    readings[100, 0], readings[:, 1], readings[:, 2] = 1e6, 7.0, NAN
    centre, sigma = centre_and_sigma(readings)
    assert centre[0] == pytest.approx(before[0][0], abs=0.05)
    assert sigma[0] == pytest.approx(before[1][0], rel=0.05)
    assert np.isnan(sigma[1:]).all()


@pytest.fixture(scope="module")
def charts() -> ControlCharts:
    """Learned from the first 1,000 in-control wafers."""
    return ControlCharts.learn(in_control(0, 1000), NAMES)


def falsely_signalling(charts: ControlCharts, seed: int, batches: int) -> float:
    """Sensors that signal in 100 in-control wafers that follow the training, on average."""
    readings = in_control(seed, 100 * batches)
    found = [charts.signals(readings[100 * number :][:100]).any(axis=(0, 1)).sum() for number in range(batches)]
    return float(np.mean(found))


def test_at_most_one_in_control_sensor_signals_in_100_wafers(charts: ControlCharts) -> None:
    """Over 590 sensors and all rules, on wafers after the training; as published, hundreds of sensors do."""
    assert falsely_signalling(charts, 1, 5) <= 1.0
    assert charts.textbook(in_control(2, 100)).any(axis=(0, 1)).sum() > 300


@pytest.mark.slow
@pytest.mark.invariant
def test_at_most_one_in_control_sensor_signals_whatever_the_training() -> None:
    """The same of five further trainings and 20 batches each."""
    found = [
        falsely_signalling(ControlCharts.learn(in_control(seed, 1000), NAMES), seed + 100, 20) for seed in range(1, 6)
    ]
    assert np.mean(found) <= 1.0


def test_a_sensor_that_moved_signals_soon(charts: ControlCharts) -> None:
    """A step of five sigma within six wafers, a drift to three sigma and a stuck value within 50."""
    now = in_control(3, 100)
    now[50:, 2] += 5.0
    now[50:, 5] += np.linspace(0, 3, 50)
    now[50:, 8] = now[50, 8]
    table = charts.signal_table(now, NAMES).groupby("sensor")["first"].min()
    assert {"Sensor-3", "Sensor-6", "Sensor-9"} <= set(table.index)
    assert 51 <= table["Sensor-3"] <= 56
    assert charts.signals(now).any(axis=(0, 1)).sum() <= 5


def test_rules_are_switched_off_by_sensor() -> None:
    """A rule that is off for a sensor never speaks there; what is not known is refused."""
    readings = np.vstack([np.random.default_rng(0).normal(size=(300, 3)), np.full((60, 3), 9.0)])
    off = {"B": ["all"], "C": ["nelson-1"]}
    charts = ControlCharts.learn(readings[:300], list("ABC"), rules=["nelson-1", "nelson-2"], without=off)
    for found in (charts.textbook(readings[300:]), charts.signals(readings[300:])):
        assert found.any(axis=1).tolist() == [[True, False, False], [True, False, True]]
    with pytest.raises(ModelError, match="a sensor that is not there: D"):
        ControlCharts.learn(readings, list("ABC"), without={"D": ["all"]})
    with pytest.raises(ModelError, match="a rule that is not there: nelson-9"):
        ControlCharts.learn(readings, list("ABC"), rules=["nelson-9"])


def test_a_line_for_each_sensor_and_rule_with_a_signal() -> None:
    """Where a sensor left control and when, with how far it went and what it may."""
    readings = np.random.default_rng(0).normal(size=(300, 2))
    charts = ControlCharts.learn(readings, ["A", "B"], rules=["nelson-2"])
    now = np.where(np.arange(40)[:, None] < [[40, 5]], -0.1 * np.ones((40, 2)), [[0.0, 0.2]])
    limit = charts.limits[0]
    assert (limit >= 8).all()
    expected = {"sensor": ["A", "B"], "rule": "nelson-2", "first": [int(limit[0]), 5 + int(limit[1])], "last": [39, 39]}
    table = charts.signal_table(now, ["A", "B"])
    assert table[["sensor", "rule", "first", "last"]].equals(pd.DataFrame(expected))
    assert table["strength"].tolist() == [40.0, 35.0]
    assert table["limit"].tolist() == limit.tolist()


def test_change_is_a_likelihood_ratio_of_normal_scores() -> None:
    """Values by hand: readings at normal quantiles that moved by one sigma, scatter less or more, or are stuck.

    Of 999 training readings at the quantiles each is its own score; a coarse sensor that stays at the value of nine in
    ten of its readings has not changed, nor has one without readings, and a missing reading does not count.
    """
    known = ndtri(np.arange(1, 1000) / 1000)
    coarse, blank = np.where(np.arange(999) < 900, 0.0, 1.0), np.full(999, NAN)
    charts = ControlCharts.learn(np.stack([known] * 4 + [coarse, known, blank], axis=1), NAMES[:7])
    usual = known[19::20][:49]  # 49 of them, at the shares 0.02, 0.04, …
    batch = np.stack(
        [usual + 1, usual / 2, usual * 1.25, 0 * usual + known[300], 0 * usual, usual * NAN, usual], axis=1
    )
    enough, spread = 49 * 999 / 1048, np.var(usual, ddof=1)
    expected = [
        enough + (enough - 1) * (spread - 1 - np.log(spread)),
        (enough - 1) * (spread / 4 - 1 - np.log(spread / 4)),
        (enough - 1) * (1.5625 * spread - 1 - np.log(1.5625 * spread)),
        enough * known[300] ** 2 + (enough - 1) * (1e-4 - 1 - np.log(1e-4)),
    ]
    found = charts.change(batch)
    assert found[:4] == pytest.approx(np.array(expected) / 2, rel=0.03)
    assert found[4] < 5 and found[5:].tolist() == [0.0, 0.0]
    batch[::2, 3] = NAN
    assert charts.change(batch)[3] == pytest.approx(expected[3] / 4, rel=0.03)
    assert charts.change(batch[:0]).tolist() == [0.0] * 7


def test_change_is_near_one_where_nothing_has_changed() -> None:
    """On average over sensors, and large in none, whatever the number of wafers; of a single one it is half of that."""
    chance = np.random.default_rng(0)
    charts = ControlCharts.learn(chance.normal(size=(600, 300)), NAMES[:300])
    for wafers in (2, 5, 25, 100):
        found = charts.change(chance.normal(size=(wafers, 300)))
        assert found.mean() == pytest.approx(1.0, abs=0.25) and found.max() < 15
    assert charts.change(chance.normal(size=(1, 300))).mean() == pytest.approx(0.5, abs=0.1)


def test_few_training_readings_give_no_controlled_limit() -> None:
    """A sensor with too short a history has its published chart alone, and a batch of no wafers signals nothing."""
    readings = np.random.default_rng(0).normal(size=(250, 2))
    readings[:100, 1] = NAN
    charts = ControlCharts.learn(readings, ["A", "B"])
    far = np.full((1, 2), 1e3)
    assert charts.signals(far)[0].tolist() == [[True, False]]
    assert charts.textbook(far)[0].tolist() == [[True, True]]
    assert charts.signals(far[:0]).shape == (9, 0, 2)


@pytest.mark.slow
def test_real_wafers_in_shuffled_order_signal_seldom(
    real_table: tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.int64]],
) -> None:
    """Good wafers held out at random: a handful of sensors in 100 wafers, on few wafers with readings never seen."""
    X, y, _ = real_table
    good = np.random.default_rng(0).permutation(np.flatnonzero(y == -1))
    charts = ControlCharts.learn(X.to_numpy()[good[:-200]], list(X.columns))
    falsely = [charts.signals(X.to_numpy()[rows]).any(axis=(0, 1)).sum() for rows in (good[-200:-100], good[-100:])]
    assert np.mean(falsely) <= 5
