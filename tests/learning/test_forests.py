import json
from itertools import combinations
from math import comb

import numpy as np
import pytest
import xgboost
from numpy.testing import assert_allclose
from sklearn.ensemble import RandomForestClassifier

from wafer.learning.forests import Trees
from wafer.learning.members import MEMBERS, RandomForest, member

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


@pytest.mark.parametrize("kind", list(MEMBERS))
def test_contributions_and_a_constant_make_the_score(kind: str) -> None:
    """The contributions of all features differ from the score by the same constant for every wafer."""
    F, faulty = _table()
    one = member(kind).fit(SETTINGS[kind], F, faulty, seed=0)
    rest = one.score(F) - one.contributions(F).sum(axis=1)
    assert_allclose(rest, rest[0], atol=2e-6)


def test_contributions_of_deep_trees_make_the_score() -> None:
    """Also where trees are deep, contributions sum to the score; each wafer's are the same alone as in a batch."""
    chance = np.random.default_rng(0)
    F = np.cumsum(chance.normal(size=(400, 40)), axis=1)
    faulty = F @ chance.normal(size=40) + 20 * chance.normal(size=400) > 0
    deep = member("extra_trees").fit({"n_estimators": 5, "max_features": 0.02}, F, faulty, seed=0)
    assert max(len(one.levels) for one in deep._branches) > 20
    rest = deep.score(F) - deep.contributions(F).sum(axis=1)
    assert_allclose(rest, rest[0], atol=1e-6)
    assert_allclose(deep.contributions(F[:7]), deep.contributions(F)[:7], rtol=0, atol=0)


@pytest.mark.parametrize("kind", list(MEMBERS))
def test_sensors_that_matter_contribute_most(kind: str) -> None:
    """The two features that make faults have the largest contributions, the same with two threads as with one."""
    F, faulty = _table()
    one = member(kind).fit(SETTINGS[kind], F, faulty, seed=0)
    found = one.contributions(F)
    assert (one.contributions(F, n_jobs=2) == found).all()
    assert set(np.argsort(-np.abs(found).mean(axis=0))[:2]) == {2, 6}


def test_a_forest_as_a_booster_is_what_xgboost_itself_would_write() -> None:
    """XGBoost reads the bytes, writes the same trees again, and walks them also for readings that lie on a cut."""
    F, faulty = _table()
    forest = RandomForestClassifier(15, max_depth=4, random_state=0).fit(F, faulty)
    data = Trees.of([one.tree_ for one in forest.estimators_]).as_booster(8)
    booster = xgboost.Booster()
    booster.load_model(bytearray(data))
    again = xgboost.Booster()
    again.load_model(bytearray(booster.save_raw("ubj")))
    assert json.loads(booster.save_raw("json")) == json.loads(again.save_raw("json"))
    assert_allclose(booster.inplace_predict(F.astype(np.float32)), forest.predict_proba(F)[:, 1], atol=1e-6)


def test_contributions_of_a_forest_are_shapley_values() -> None:
    """On a small forest the contributions are those of the definition, counted over all subsets of features."""
    F, faulty = _table()
    grown = RandomForestClassifier(3, max_depth=3, random_state=0).fit(F[:, 2:7], faulty)
    trees = Trees.of([one.tree_ for one in grown.estimators_])
    expected = [_shapley_values(trees, wafer) for wafer in F[:4, 2:7]]
    assert_allclose(RandomForest(trees.as_booster(5)).contributions(F[:4, 2:7]), expected, atol=1e-8)


def _shapley_values(forest: Trees, wafer: np.ndarray) -> np.ndarray:
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
