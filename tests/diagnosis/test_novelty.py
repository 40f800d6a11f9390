from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from wafer.diagnosis.novelty import Novelty, is_unknown, usual_unknown
from wafer.learning.features import WaferFeatures
from wafer.learning.model import WaferModel
from wafer.scoring.bundle import fit_bundle
from wafer.scoring.judge import judge


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


def test_more_gaps_than_ever_seen_leave_a_wafer_unmeasured() -> None:
    """As many missing readings as the worst training wafer are still judged; one more, or none at all, are not."""
    known = np.zeros((40, 10), dtype=bool)
    known[7, :4] = True
    novelty = Novelty.of(np.zeros((40, 10)), known)
    missing = np.arange(10)[None, :] < np.array([0, 4, 5, 10])[:, None]
    assert novelty.unmeasured(missing).tolist() == [False, False, True, True]
    empty = Novelty.of(np.zeros((2, 10)), np.ones((2, 10), dtype=bool))
    assert empty.unmeasured(missing).tolist() == [False, False, False, True]


def test_unknown_is_a_p_value_of_one_in_a_hundred() -> None:
    """The level itself still counts as unknown."""
    assert is_unknown(np.array([0.002, 0.01, 0.0101, 1.0])).tolist() == [True, True, False, False]


def test_the_usual_share_of_unknown_wafers_is_of_later_batches() -> None:
    """Each batch is told by the wafers before it: here one of the last batch's 50 wafers is far from all of them."""
    X, missing = _wafers(300, 0)
    X[missing] = np.nan
    X[299] = 50.0
    order, batches = np.arange(300), np.repeat([f"b{n}" for n in range(6)], 50).astype(object)

    def make_features(window: int = 200) -> WaferFeatures:
        return WaferFeatures(reference_window=window)

    share: Any = usual_unknown(X, order, batches, make_features)
    assert 0.01 <= share <= 0.05
    assert usual_unknown(X[:299], order[:299], batches[:299], make_features) < share  # type: ignore[operator]
    assert usual_unknown(X, order, batches, lambda: make_features(400)) is None


def test_a_model_calls_few_wafers_unknown_that_are_like_those_it_learned_from(quick: dict[str, int]) -> None:
    """Of 400 wafers that the model has not seen, no more have a p-value of at most a level than the level allows."""
    chance = np.random.default_rng(0)
    X = chance.normal(size=(800, 30))
    X[chance.random(X.shape) < 0.03] = np.nan
    y = np.where(chance.random(800) < 0.1, 1, -1)
    bundle = fit_bundle(WaferModel(**quick), X[:400], y[:400], np.arange(400), reasons=False)
    p_value = judge(bundle, X[400:], np.arange(400, 800)).wafers["p_value"]
    for level in (0.01, 0.05, 0.1, 0.2):
        assert np.mean(p_value <= level) <= level + 2 * np.sqrt(level * (1 - level) / 400)
    assert np.mean(judge(bundle, X[400:] * 3.0).wafers["p_value"] <= 0.01) > 0.95


@pytest.mark.slow
def test_real_wafers_outside_the_training_are_as_often_unknown_as_the_level_says(
    real_table: tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.int64]], quick: dict[str, int]
) -> None:
    """A random quarter of the real wafers, held out, within three standard errors of each level."""
    X, y, order = real_table
    held_out = np.random.default_rng(0).random(len(y)) < 0.25
    bundle = fit_bundle(WaferModel(**quick), X[~held_out], y[~held_out], order[~held_out], reasons=False)
    p_value = judge(bundle, X[held_out], order[held_out]).wafers["p_value"]
    for level in (0.01, 0.05, 0.1, 0.2):
        allowed = level + 3 * np.sqrt(level * (1 - level) / held_out.sum())
        assert np.mean(p_value <= level) <= allowed, level
