import numpy as np

from wafer.learning.novelty import Novelty


def _wafers(wafers: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    missing = chance.random((wafers, 30)) < 0.05
    return np.where(missing, 0.0, chance.normal(size=(wafers, 30))), missing


def test_p_values_cover() -> None:
    """Of new wafers of the same kind, no larger share than the level has so small a p-value."""
    novelty = Novelty.of(*_wafers(500, 0))
    p_value = novelty.p_value(*_wafers(4000, 1))
    for level in (0.01, 0.05, 0.1, 0.2):
        assert np.mean(p_value <= level) <= level + 0.015
    assert np.mean(p_value <= 0.1) > 0.03


def test_strange_wafers_have_the_smallest_p_value() -> None:
    """A wafer with far readings and one without any reading are both unlike anything seen."""
    novelty = Novelty.of(*_wafers(500, 0))
    far = novelty.p_value(np.full((1, 30), 4.0), np.zeros((1, 30), bool))
    empty = novelty.p_value(np.zeros((1, 30)), np.ones((1, 30), bool))
    assert far[0] == empty[0] == 2 / 501
