from itertools import combinations
from math import comb

import numpy as np
import pytest
from numpy.testing import assert_allclose

from wafer.learning.attribution import as_booster, contributions
from wafer.learning.members import KINDS, Forest, fit_member

SETTINGS = {
    "extra_trees": {"n_estimators": 15, "min_samples_leaf": 2, "columns": [2, 8]},
    "random_forest": {"n_estimators": 15, "max_depth": 4},
    "xgboost": {"n_estimators": 12, "max_depth": 3},
    "logistic": {"C": 0.1, "max_iter": 500},
}


def _table() -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    F = chance.normal(size=(150, 8))
    F[:, 6] = np.round(F[:, 6])  # readings that lie exactly on cuts
    return F, F[:, 2] + F[:, 6] + 0.5 * chance.normal(size=150) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_and_a_constant_make_the_score(kind: str) -> None:
    """The parts of all features differ from the score by the same constant for every wafer."""
    F, faulty = _table()
    member = fit_member(kind, SETTINGS[kind], F, faulty, seed=0)
    rest = member.score(F) - contributions(member, F).sum(axis=1)
    assert_allclose(rest, rest[0], atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_sensors_that_matter_contribute_most(kind: str) -> None:
    """The two features that make faults have the largest parts."""
    F, faulty = _table()
    member = fit_member(kind, SETTINGS[kind], F, faulty, seed=0)
    strength = np.abs(contributions(member, F)).mean(axis=0)
    assert set(np.argsort(-strength)[:2]) == {2, 6}


def test_a_forest_as_a_booster_predicts_the_same() -> None:
    """XGBoost walks the same trees, also for readings that lie on a cut."""
    F, faulty = _table()
    forest = fit_member("random_forest", SETTINGS["random_forest"], F, faulty, seed=0)
    assert isinstance(forest, Forest)
    assert_allclose(as_booster(forest, 8).inplace_predict(F.astype(np.float32)), forest.score(F), atol=1e-6)


def test_contributions_of_a_forest_are_shapley_values() -> None:
    """On a small forest the parts are those of the definition, counted over all subsets of features."""
    F, faulty = _table()
    forest = fit_member("random_forest", {"n_estimators": 3, "max_depth": 3}, F[:, 2:7], faulty, seed=0)
    assert isinstance(forest, Forest)
    expected = [_shapley_values(forest, wafer) for wafer in F[:4, 2:7]]
    assert_allclose(contributions(forest, F[:4, 2:7]), expected, atol=1e-6)


def _shapley_values(forest: Forest, wafer: np.ndarray) -> np.ndarray:
    def expected(node: int, known: frozenset[int]) -> float:
        left, right, feature = int(forest.left[node]), int(forest.right[node]), int(forest.feature[node])
        if left == node:
            return float(forest.value[node])
        if feature in known:
            return expected(left if np.float32(wafer[feature]) <= forest.cut[node] else right, known)
        covers = forest.cover[left], forest.cover[right]
        return float((covers[0] * expected(left, known) + covers[1] * expected(right, known)) / sum(covers))

    def worth(known: frozenset[int]) -> float:
        return float(np.mean([expected(int(root), known) for root in forest.roots]))

    features = range(len(wafer))
    parts = np.zeros(len(wafer))
    for feature in features:
        others = [other for other in features if other != feature]
        for size in range(len(wafer)):
            weight = 1 / (len(wafer) * comb(len(wafer) - 1, size))
            for subset in map(frozenset, combinations(others, size)):
                parts[feature] += weight * (worth(subset | {feature}) - worth(subset))
    return parts
