"""The rules of control charts against the cases that are published."""

from math import factorial, pi
from typing import Any

import numpy as np
import pytest

from wafer.diagnosis.runs_rules import EWMA, KINDS, RULES, ewma, strengths

ZIGZAG = {4: 5, 6: 61, 8: 1385, 10: 50521, 14: 199360981}  # Euler's zigzag numbers, OEIS A000111


def broken(rule: str, scores: Any) -> list[int]:
    """Where the rule is broken on the chart of one sensor."""
    kind, limit, _ = RULES[rule]
    found = strengths(np.array(scores, dtype=np.float64)[:, None], [kind], 0.2)[0, :, 0]
    return np.flatnonzero(found > limit).tolist()


NAN = float("nan")
CASES = [
    ("nelson-1", [0, 3.5, 0, -4.0], [1, 3]),
    ("nelson-1", [0, 3.0, -2.9], []),
    ("nelson-2", [0.5] * 9, [8]),
    ("nelson-2", [0.5] * 8, []),
    ("nelson-2", [-0.5] * 10, [8, 9]),
    ("nelson-2", [0.5] * 4 + [0] + [0.5] * 8, []),
    ("nelson-3", [0, 0.1, 0.2, 0.3, 0.4, 0.5], [5]),
    ("nelson-3", [0, 0.1, 0.1, 0.3, 0.4, 0.5], []),
    ("nelson-3", [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], [5]),
    ("nelson-4", [0.5, -0.5] * 7, [13]),
    ("nelson-4", ([0.5, -0.5] * 7)[:13], []),
    ("nelson-5", [2.5, 0.0, 2.5], [2]),
    ("nelson-5", [2.5, 0.0, -2.5], []),
    ("nelson-5", [2.5, 2.5, 0.0], [1]),
    ("nelson-6", [1.5, 1.5, 0.0, 1.5, 1.5], [4]),
    ("nelson-6", [1.5, 1.5, 0.0, 0.0, 1.5], []),
    ("nelson-7", [0.2] * 15, [14]),
    ("nelson-7", [0.2] * 14, []),
    ("nelson-8", [1.5, -1.5] * 4, [7]),
    ("nelson-8", ([1.5, -1.5] * 4)[:7], []),
    ("western-electric-1", [0, 3.5, 0, -4.0], [1, 3]),
    ("western-electric-2", [-2.5, 0.0, -2.5], [2]),
    ("western-electric-3", [-1.5, -1.5, 0.0, -1.5, -1.5], [4]),
    ("western-electric-4", [0.5] * 8, [7]),
    ("western-electric-4", [0.5] * 7, []),
    ("nelson-2", [0.5] * 4 + [NAN] * 3 + [0.5] * 5, [11]),
    ("nelson-3", [0, NAN, 0.1, 0.2, NAN, 0.3, 0.4, 0.5], [7]),
    ("nelson-5", [NAN, 2.5, NAN, NAN, 0.0, 2.5, NAN], [5]),
]


@pytest.mark.parametrize(("rule", "scores", "expected"), CASES)
def test_a_rule_speaks_at_the_reading_that_completes_its_pattern(
    rule: str, scores: list[float], expected: list[int]
) -> None:
    """Nelson's and Western Electric's patterns, those just short of them, and patterns across missing readings."""
    assert broken(rule, scores) == expected


def test_the_ewma_example_of_the_nist_handbook() -> None:
    """Section 6.3.2.4: target 50, sigma 2.0539, weight 0.3; the averages and limits as printed there."""
    data = [52.0, 47.0, 53.0, 49.3, 50.1, 47.0, 51.0, 50.1, 51.2, 50.5]
    data += [49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6, 52.1]
    printed = [50.60, 49.52, 50.56, 50.18, 50.16, 49.21, 49.75, 49.85, 50.26, 50.33]
    printed += [50.11, 49.36, 49.52, 50.05, 49.38, 49.92, 50.73, 51.23, 51.94, 51.99]
    average, sigma = ewma((np.array(data)[:, None] - 50) / 2.0539, 0.3)
    assert np.round(50 + 2.0539 * average[:, 0], 2).tolist() == printed
    assert 50 + 2.0539 * 3 * np.sqrt(0.3 / 1.7) == pytest.approx(52.5884, abs=1e-4)
    assert sigma[0, 0] == pytest.approx(0.3)
    assert sigma[-1, 0] == pytest.approx(np.sqrt(0.3 / 1.7), abs=1e-3)


def test_missing_readings_are_no_points_of_the_moving_average() -> None:
    """Averages and their exact sigma count the readings that are there."""
    with_gaps = strengths(np.array([[1.0], [NAN], [2.0], [NAN], [-1.0]]), [EWMA], 0.2)[0, :, 0]
    without = strengths(np.array([[1.0], [2.0], [-1.0]]), [EWMA], 0.2)[0, :, 0]
    assert np.isnan(with_gaps[[1, 3]]).all()
    assert with_gaps[[0, 2, 4]].tolist() == without.tolist()
    assert without[1] == pytest.approx((0.2 * 2 + 0.8 * 0.2) / np.sqrt(0.2 / 1.8 * (1 - 0.8**4)))


@pytest.mark.parametrize("kind", [*KINDS, EWMA])
def test_the_chance_of_a_limit_is_what_it_says(kind: str) -> None:
    """Independent normal readings exceed the limit of a level at most so often; a run is a whole number of them."""
    Z = np.random.default_rng(0).normal(size=(40_000, 5))
    level = 0.002
    found = strengths(Z, [kind], 0.2)[0]
    share = float((found > KINDS["beyond" if kind == EWMA else kind].limit(level)).mean())
    assert level / 8 < share < 1.1 * level


def test_the_chance_of_an_alternation_is_that_of_zigzag_permutations() -> None:
    """The asymptote of Euler's numbers is right to one in a thousand from four readings on."""
    for length, zigzag in ZIGZAG.items():
        assert 4 * (2 / pi) ** (length + 1) == pytest.approx(2 * zigzag / factorial(length), rel=5e-3)
