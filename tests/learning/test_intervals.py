"""Whatever the counts, an interval holds its estimate and lies where the measure can lie."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from wafer.learning import intervals
from wafer.learning.intervals import delong, interval_text, percentile_interval, wilson
from wafer.learning.metrics import compare, summarise

MOST = 2000
BEYOND_ONE = ("cost_per_1000", "brier_skill")


def test_every_interval_is_tried_here() -> None:
    """A new interval gets its tests, over all counts."""
    own = {name for name, found in inspect.getmembers(intervals, inspect.isfunction) if not name.startswith("_")}
    assert own - {"interval_text"} == {"wilson", "delong", "percentile_interval"}


def test_an_interval_is_written_behind_its_estimate() -> None:
    """Each number by the same format, and one alone where there is no width."""
    assert interval_text({"auc": 0.7, "auc_low": 0.65, "auc_high": 0.754}, "auc", ".2f") == "0.70 [0.65, 0.75]"
    assert interval_text({"cost": 5.0, "cost_low": 5.0, "cost_high": 5.0}, "cost", ".0f") == "5"


def test_wilson_gives_the_textbook_interval() -> None:
    """Ten of a hundred: 5.5 % to 17.4 %; none of ten reaches from 0 to 27.8 %; 1 of 10 from 1.8 % to 40.4 %."""
    low, high = wilson([10, 0, 1], [100, 10, 10])
    assert low.tolist() == pytest.approx([0.0552, 0.0, 0.0179], abs=1e-4)
    assert high.tolist() == pytest.approx([0.1744, 0.2775, 0.4042], abs=1e-4)


def test_wilson_agrees_with_its_formula() -> None:
    """Made free of differences of nearly equal numbers, the ends are still those of Wilson's formula."""
    hits, trials, z = np.arange(51.0), np.full(51, 50.0), 1.96
    share = hits / trials
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    low, high = wilson(hits, trials)
    np.testing.assert_allclose(low, middle - half, atol=1e-15)
    np.testing.assert_allclose(high, middle + half, atol=1e-15)


def test_wilson_holds_its_share_at_every_count() -> None:
    """For all hits of all trials up to 2,000: within 0 to 1, around the share, growing with the hits, mirrored."""
    for trials in range(1, MOST + 1):
        hits = np.arange(trials + 1)
        share = hits / trials
        low, high = wilson(hits, np.full(trials + 1, trials))
        assert np.all((low >= 0) & (low <= share) & (share <= high) & (high <= 1)), trials
        assert np.all(np.diff(low) > 0) and np.all(np.diff(high) > 0), trials
        assert (low[0], high[-1]) == (0.0, 1.0)
        np.testing.assert_allclose(low, 1 - high[::-1], rtol=0, atol=3e-16)


def test_wilson_narrows_with_more_wafers() -> None:
    """Without a fault the high end falls with each further wafer; of no wafer at all nothing is known."""
    high = wilson(np.zeros(MOST), np.arange(1, MOST + 1))[1]
    assert np.all(np.diff(high) < 0)
    assert [float(end) for end in wilson(0, 0)] == [0.0, 1.0]


def test_the_interval_of_an_auc_covers_it_and_narrows_with_wafers() -> None:
    """The interval holds the area, shrinks with more wafers, and says nothing where one label has a single wafer."""
    chance = np.random.default_rng(0)
    faulty = np.arange(2000) % 10 == 0
    probability = chance.normal(size=2000) + faulty
    auc, low, high = delong(faulty, probability)
    assert auc == pytest.approx(roc_auc_score(faulty, probability))
    assert low < auc < high
    few = delong(faulty[:100], probability[:100])
    assert few[2] - few[1] > high - low
    assert delong(np.array([True, False, False]), np.array([3.0, 1.0, 2.0])) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("score", [np.arange, np.zeros, lambda n: np.arange(n) % 7 / 3], ids=["apart", "alike", "ties"])
def test_an_auc_lies_in_its_interval_at_every_count(score: Callable[[int], Any]) -> None:
    """Of 2 to 2,000 wafers one, two, all but one or all but two are faulty, of some sizes half: first or last ones."""
    for wafers in range(2, MOST + 1):
        half = [wafers // 2] * (wafers % 100 == 0)
        for faults in {1, 2, wafers - 1, wafers - 2, *half} - {0, wafers}:
            faulty = np.arange(wafers) < faults
            first, last = (delong(some, score(wafers).astype(float)) for some in (faulty, faulty[::-1]))
            assert all(0 <= low <= auc <= high <= 1 for auc, low, high in (first, last)), (wafers, faults)


def test_draws_of_every_number_hold_their_point() -> None:
    """Of 0 to 2,000 draws, spread or all alike, the interval holds a point among, below and above them."""
    chance = np.random.default_rng(0).random(MOST)
    for number in range(MOST + 1):
        for draws in (chance[:number], np.full(number, 1 / 3)):
            for point in (1 / 3, -1e-17, 1 + 1e-9):
                low, high = percentile_interval(point, draws)
                assert low <= point <= high, number
                assert number or low == high


scored = st.integers(1, 60).flatmap(
    lambda wafers: st.tuples(
        st.lists(st.booleans(), min_size=wafers, max_size=wafers),
        st.lists(st.sampled_from([0.0, 1e-17, 0.1, 0.3, 0.5, 1 / 3, 0.9, 1.0]), min_size=wafers, max_size=wafers),
        st.lists(st.booleans(), min_size=wafers, max_size=wafers),
    )
)


@given(scored)
@settings(max_examples=120, deadline=None)
def test_an_auc_lies_in_its_interval_and_mirrors(case: tuple[list[bool], list[float], list[bool]]) -> None:
    """Whatever the scores, the area lies in its interval and in 0 to 1; turned scores give the mirror."""
    faulty, score = np.array(case[0]), np.array(case[1])
    auc, low, high = delong(faulty, score)
    if faulty.all() or not faulty.any():
        assert np.isnan([auc, low, high]).all()
        return
    assert 0 <= low <= auc <= high <= 1
    assert delong(faulty, -score) == pytest.approx((1 - auc, 1 - high, 1 - low), abs=1e-12)


@given(scored, st.sampled_from(["shuffled", "forward"]))
@settings(max_examples=50, deadline=None)
def test_every_metric_lies_in_its_interval(case: tuple[list[bool], list[float], list[bool]], protocol: str) -> None:
    """Whatever was scored, each metric is finite, lies in its interval, and a share lies in 0 to 1 with it."""
    faulty, probability, alarm = (np.array(part) for part in case)
    if faulty.all() or not faulty.any():
        return
    rows = np.arange(len(faulty))
    scores = pd.DataFrame({"protocol": protocol, "repeat": 0, "fold": (rows % 3).astype(str), "row": rows})
    scores = scores.assign(label=np.where(faulty, 1, -1), probability=probability, alarm=alarm)
    found = summarise(scores, draws=15)
    for name in (name for name in found if f"{name}_low" in found):
        low, value, high = found[f"{name}_low"], found[name], found[f"{name}_high"]
        assert np.isfinite([low, value, high]).all(), name
        assert low <= value <= high, name
        assert name in BEYOND_ONE or (low >= 0 and high <= 1), name
    both = compare(scores, scores.assign(probability=1 - probability, alarm=~alarm), draws=15)
    assert both.cost_low <= both.cost_difference <= both.cost_high
    if not any(0 < faulty[rows % 3 == fold].sum() < (rows % 3 == fold).sum() for fold in range(3)):
        assert (both.difference, both.difference_low, both.difference_high) == (None, None, None)
        return
    assert -1 <= both.difference_low <= both.difference <= both.difference_high <= 1


def test_a_biased_measure_lies_in_its_interval() -> None:
    """Draws that all lie beside the point, as of a calibration error, still give an interval that holds it."""
    assert percentile_interval(0.1, np.array([0.2, 0.3])) == pytest.approx((0.1, 0.2975))
    assert percentile_interval(0.9, np.array([0.2, 0.3])) == pytest.approx((0.2025, 0.9))
    assert percentile_interval(0.5, np.empty(0)) == (0.5, 0.5)
    assert percentile_interval(0.5, np.linspace(0, 1, 101), (5, 95)) == pytest.approx((0.05, 0.95))
