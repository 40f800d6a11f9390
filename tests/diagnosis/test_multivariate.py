import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.monitoring import good_wafers, halves
from wafer.diagnosis.multivariate import PcaCharts, spe_limit, t2_limit
from wafer.fab.simulate import simulate_frame

Floats = NDArray[np.float64]


def _good(wafers: int, seed: int, sensors: int = 60) -> Floats:
    """Sensors that follow eight common causes, of unlike units, 3 % of readings missing; the last is constant."""
    chance, causes = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(8, sensors))
    X = (chance.normal(size=(wafers, 8)) @ causes + chance.normal(size=(wafers, sensors))) * np.logspace(-2, 3, sensors)
    X[chance.random(X.shape) < 1 / 30] = np.nan
    X[:, -1] = 5.0
    return X


def _learned(good: Floats, **options: float) -> PcaCharts:
    charts = PcaCharts.learn(good, **options)
    assert charts is not None
    return charts


@pytest.mark.slow
@pytest.mark.invariant
def test_distances_limits_and_contributions_are_those_of_process_improve() -> None:
    """On the same standardised readings, of the wafers learned from and of new ones, within one in a million."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it imports
        from process_improve.multivariate.methods import PCA
    good, new = _good(300, 0), _good(80, 1) * 1.5
    charts = _learned(good)
    Z, theirs = charts.standardise(good), PCA(n_components=len(charts.variances), algorithm="svd")
    theirs.fit(Z)
    assert Z.mean(axis=0) == pytest.approx(0.0, abs=1e-12)
    assert charts.loadings == pytest.approx(theirs.loadings_.to_numpy(), abs=1e-6)
    assert charts.variances == pytest.approx(theirs.explained_variance_, rel=1e-6)
    for wafers in (good, new):
        S, found, own = charts.standardise(wafers), charts.distances(wafers), charts.contributions(wafers)
        expected = theirs.diagnose(S)
        assert found.t2 == pytest.approx(expected.hotellings_t2.to_numpy()[:, -1], rel=1e-6)
        assert np.sqrt(found.spe) == pytest.approx(expected.spe.to_numpy(), rel=1e-6)
        assert own.t2 == pytest.approx(theirs.t2_contributions(S).to_numpy(), abs=1e-6)
        assert own.spe == pytest.approx(theirs.spe_contributions(S).to_numpy() ** 2, abs=1e-6)
    limit = t2_limit(len(charts.variances), len(good), 0.01)
    assert limit == pytest.approx(theirs.hotellings_t2_limit(conf_level=0.99), rel=1e-6)
    assert spe_limit(charts.distances(good).spe, 0.01) == pytest.approx(
        theirs.spe_limit(conf_level=0.99) ** 2, rel=1e-6
    )


def test_contributions_add_up_and_limits_are_no_smaller_than_theory() -> None:
    """Each wafer's contributions sum to its T² and SPE; a tenth of the wafers far off widens the limits."""
    good = _good(300, 0)
    charts = _learned(good)
    found, own = charts.distances(good), charts.contributions(good)
    assert own.t2.sum(axis=1) == pytest.approx(found.t2)
    assert own.spe.sum(axis=1) == pytest.approx(found.spe)
    assert 59 not in charts.sensors
    assert charts.t2_limit >= t2_limit(len(charts.variances), 300, 0.01)
    assert charts.spe_limit >= spe_limit(found.spe, 0.01)
    good[::10] *= 4.0
    wide = _learned(good)
    assert wide.spe_limit > 2 * spe_limit(wide.distances(good).spe, 0.01) or wide.t2_limit > 2 * charts.t2_limit


def test_a_wafer_is_measured_alike_alone_and_in_any_batch() -> None:
    """To the bit, with missing readings and absurd ones, through more wafers than are measured at a time."""
    charts, wafers = _learned(_good(300, 0)), _good(1500, 1)
    wafers[3, 4], wafers[4] = 1e308, np.nan
    found = np.stack(charts.distances(wafers))
    assert np.isfinite(found).all()
    for rows in ([3], [4], [1400, 3, 7], list(range(1490, 1000, -7))):
        assert np.array_equal(np.stack(charts.distances(wafers[rows])), found[:, rows])
    assert charts.distances(wafers[:0]).t2.shape == (0,)


def test_few_wafers_have_few_components_and_too_few_no_model() -> None:
    """One for every ten wafers; fewer than twenty wafers, or sensors that never vary, teach nothing."""
    assert len(_learned(_good(30, 0)).variances) == 3
    assert PcaCharts.learn(_good(19, 0)) is None
    assert PcaCharts.learn(np.full((50, 4), 2.0)) is None
    assert PcaCharts.learn(np.full((50, 4), np.nan)) is None


def test_sensors_that_one_component_explains_wholly_do_not_signal_by_rounding() -> None:
    """Of one sensor, and of six that are the same, nothing lies outside the plane."""
    chance = np.random.default_rng(0)
    for sensors in (1, 6):
        charts = _learned(np.repeat(chance.normal(size=(300, 1)), sensors, axis=1))
        new = np.repeat(chance.normal(size=(1000, 1)), sensors, axis=1)
        assert not (charts.distances(new).spe > charts.spe_limit).any()


def test_a_larger_rate_has_lower_limits_that_hold_on_new_wafers() -> None:
    """Of 2,000 new wafers of the same kind, no more than the stated share and sampling error are out of control."""
    good, new = _good(600, 0), _good(2000, 1)
    limits = []
    for rate in (0.01, 0.05):
        charts = _learned(good, false_alarm_rate=rate)
        found = charts.distances(new)
        limits.append([charts.t2_limit, charts.spe_limit])
        for share in ((found.t2 > charts.t2_limit).mean(), (found.spe > charts.spe_limit).mean()):
            assert 0.2 * rate < share <= rate + 3 * np.sqrt(rate * (1 - rate) / 600)
    assert np.all(np.array(limits[0]) > limits[1])


def test_a_hundred_wafers_take_less_than_half_a_second() -> None:
    """Distances and contributions of 100 wafers of 590 sensors; processor time of one thread."""
    frames = [simulate_frame(batch, wafers=100, seed=7).filter(like="Sensor-").to_numpy() for batch in range(4)]
    charts = _learned(np.vstack(frames[:3]))
    start = time.process_time()
    charts.distances(frames[3]), charts.contributions(frames[3])
    assert time.process_time() - start < 0.5


@pytest.mark.slow
def test_limits_hold_on_real_good_wafers_that_were_not_learned_from(real_wafers: Path) -> None:
    """A random fifth of them, within three standard errors of the stated rate."""
    known, new = halves(good_wafers(real_wafers), shuffled=True)
    charts = _learned(known)
    found = charts.distances(new)
    allowed = 0.01 + 3 * np.sqrt(0.01 * 0.99 * (1 / len(new) + 1 / len(known)))
    assert (found.t2 > charts.t2_limit).mean() <= allowed
    assert (found.spe > charts.spe_limit).mean() <= allowed
