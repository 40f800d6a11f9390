from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from wafer.errors import ModelError
from wafer.fab.simulate import planted_sensors, simulate_frame
from wafer.learning.explain import Reasons, good_percentiles, group_sensors, tell
from wafer.learning.model import WaferModel


@pytest.fixture(scope="module")
def explained(wafers: Any, quick: dict[str, int]) -> WaferModel:
    model = WaferModel(**quick).fit(wafers.X, wafers.y, wafers.order)
    return model.learn_reasons(wafers.X, wafers.y, wafers.order, permutations=8)


def test_correlated_sensors_are_one_group() -> None:
    """Sensors that move together, also in opposite directions, share a group; unused ones have none."""
    chance = np.random.default_rng(0)
    base = chance.normal(size=(200, 2))
    relative = np.column_stack([base[:, 0], -base[:, 0] + 0.1 * chance.normal(size=200), base[:, 1]])
    groups = group_sensors(relative, np.array([1, 2, 4]), 5)
    assert groups[0] == groups[3] == -1
    assert groups[1] == groups[2] != groups[4]
    assert set(groups[[1, 2, 4]]) == {0, 1}


def test_reasons_lead_with_the_strongest_sensor_of_each_group() -> None:
    """Groups are ranked by their sum, led by their strongest sensor, with direction and percentile."""
    readings = np.array([[50.0, 1.0, 99.0, np.nan]])
    known = np.repeat(np.linspace(0.0, 100.0, 101)[None, :, None], 4, axis=2)
    reasons = Reasons(np.array([0, 0, 1, 2]), known, floor=0.1, strength=1.0)
    found = tell(reasons, np.array([[0.2, 0.5, 0.4, 0.05]]), readings, np.array([0]), ["a", "b", "c", "d"])
    assert found["reading"].tolist() == pytest.approx([1.0, 99.0, np.nan], nan_ok=True)
    assert found.drop(columns=["percentile", "reading", "strength"]).to_dict("records") == [
        {"row": 0, "rank": 1, "sensor": "b", "together_with": "a", "direction": "low"},
        {"row": 0, "rank": 2, "sensor": "c", "together_with": "", "direction": "high"},
        {"row": 0, "rank": 3, "sensor": "d", "together_with": "", "direction": "missing"},
    ]
    assert found["strength"].tolist() == pytest.approx([0.7, 0.4, 0.05])
    assert found["percentile"].tolist()[:2] == pytest.approx([1.5, 98.5], abs=0.1)


def test_reasons_that_chance_would_give_are_withheld() -> None:
    """A model whose reasons are no stronger than those of permuted labels gives none; nor does a weak wafer."""
    known = np.zeros((1, 101, 2))
    parts, readings = np.array([[0.3, 0.1], [3.0, 0.0]]), np.zeros((2, 2))
    cluster, names = np.array([0, 0]), ["a", "b"]
    chance = Reasons(np.array([0, 1]), known, floor=0.5, strength=0.5)
    assert tell(chance, parts, readings, cluster, names).empty
    sure = Reasons(np.array([0, 1]), known, floor=0.5, strength=0.9)
    assert tell(sure, parts, readings, cluster, names)["row"].tolist() == [1]


def test_percentiles_are_of_good_wafers_of_the_cluster() -> None:
    """Faulty wafers do not count; a cluster with few good wafers is compared with all."""
    readings = np.arange(60.0)[:, None]
    faulty = np.arange(60) >= 50
    cluster = (np.arange(60) >= 45).astype(int)
    found = good_percentiles(readings, faulty, cluster, 2)
    assert found.shape == (2, 101, 1)
    assert found[0, [0, -1], 0].tolist() == [0.0, 44.0]
    assert found[1, [0, -1], 0].tolist() == [0.0, 49.0]


def test_alarms_name_the_sensors_that_make_faults(explained: WaferModel, wafers: Any) -> None:
    """The sensors that are higher on faulty wafers lead the reasons of nearly all alarms that are right."""
    assert explained.reasons_shown_
    alarms = np.flatnonzero((explained.predict(wafers.X, wafers.order) == 1) & (wafers.y == 1))
    found = explained.explain(wafers.X.iloc[alarms], wafers.order[alarms])
    first = found[found["rank"] == 1]
    assert len(first) >= 0.9 * len(alarms)
    assert np.mean(first["sensor"].isin(["Sensor-1", "Sensor-2", "Sensor-3"])) > 0.9
    assert (first["direction"] == "high").mean() > 0.9
    assert found["rank"].max() <= 5


def test_reasons_of_permuted_labels_are_withheld(wafers: Any, quick: dict[str, int]) -> None:
    """A model of shuffled labels says nothing about any wafer."""
    y = np.random.default_rng(3).permutation(wafers.y)
    model = WaferModel(**quick).fit(wafers.X, y, wafers.order).learn_reasons(wafers.X, y, wafers.order, permutations=8)
    assert not model.reasons_shown_
    assert model.explain(wafers.X, wafers.order).empty


def test_reasons_are_saved_with_the_model(
    explained: WaferModel, wafers: Any, quick: dict[str, int], tmp_path: Path
) -> None:
    """A loaded model gives the same reasons, for a wafer alone as in its batch; threads make no difference."""
    digests = explained.save(tmp_path)
    loaded = WaferModel.load(tmp_path)
    expected = explained.explain(wafers.X, wafers.order)
    pd.testing.assert_frame_equal(loaded.explain(wafers.X, wafers.order), expected, check_exact=True)
    assert loaded.save(tmp_path / "again") == digests
    threads = WaferModel(n_jobs=3, **quick).fit(wafers.X, wafers.y, wafers.order)
    threads.learn_reasons(wafers.X, wafers.y, wafers.order, permutations=8)
    assert threads.save(tmp_path / "threads") == digests
    row = int(expected["row"].iloc[0])
    alone = loaded.explain(wafers.X.iloc[[row]], wafers.order[[row]])
    assert alone["sensor"].tolist() == expected.loc[expected["row"] == row, "sensor"].tolist()


def test_a_model_without_reasons_says_so(wafers: Any, quick: dict[str, int]) -> None:
    """Reasons that were never learned are refused, not invented."""
    model = WaferModel(**quick).fit(wafers.X, wafers.y, wafers.order)
    with pytest.raises(ModelError, match="saved without learn_reasons"):
        model.explain(wafers.X)


def test_a_reference_search_gives_no_reasons(wafers: Any) -> None:
    """Its method is too slow to be repeated on permuted labels, so that nobody knows what its reasons are worth."""
    model = WaferModel(search="reference")
    assert not model.tells_reasons
    y = np.full(240, -1)
    y[5] = 1
    model.fit(wafers.X, y, wafers.order)
    with pytest.raises(ModelError, match='search "reference" gives no reasons'):
        model.learn_reasons(wafers.X, y, wafers.order)
    model.learn_drift(wafers.X, wafers.order, wafers.batch)
    assert model.drift(wafers.X.iloc[-40:] + 9.0).drifted


def test_percentiles_of_a_sensor_are_told_by_cluster(explained: WaferModel, wafers: Any) -> None:
    """Good wafers' lowest, middle and highest readings, a column for each cluster; an unknown sensor is named."""
    found = explained.good_percentiles("Sensor-2")
    clusters = explained.assign_clusters(wafers.X, wafers.order)
    assert found.shape == (101, len(explained.clusters_))
    good = wafers.X["Sensor-2"][(wafers.y == -1) & (clusters == 0)]
    assert found.loc[[0.0, 100.0], 0].tolist() == [good.min(), good.max()]
    with pytest.raises(ModelError, match="the model has no sensor 'Sensor-25', its first is Sensor-1"):
        explained.good_percentiles("Sensor-25")


def test_a_wafer_unlike_any_other_has_a_small_p_value(explained: WaferModel, wafers: Any) -> None:
    """Readings far from all that was seen, or none at all, are known for what they are; known wafers are not."""
    strange = wafers.X.iloc[:2].copy()
    strange.iloc[0] = 1e4
    strange.iloc[1] = np.nan
    assert_array_equal(explained.conformity(strange, wafers.order[:2]) <= 2 / 241, [True, True])
    assert np.mean(explained.conformity(wafers.X, wafers.order) <= 0.05) <= 0.06


@pytest.mark.slow
def test_reasons_name_planted_sensors() -> None:
    """On the synthetic fab four of five right alarms on later batches name a planted sensor among five reasons."""
    batches = [simulate_frame(number, wafers=100, seed=7) for number in range(18)]
    sensors = [name for name in batches[0].columns if name.startswith("Sensor-")]
    X = [batch[sensors].astype(float) for batch in batches]
    y = [batch["label"].to_numpy() for batch in batches]
    train, order = pd.concat(X[:14], ignore_index=True), np.arange(1800)
    model = WaferModel().fit(train, np.concatenate(y[:14]), order[:1400])
    model.learn_reasons(train, np.concatenate(y[:14]), order[:1400])
    assert model.reasons_shown_
    later, truth = pd.concat(X[14:], ignore_index=True), np.concatenate(y[14:])
    caught = np.flatnonzero((model.predict(later, order[1400:]) == 1) & (truth == 1))
    assert len(caught) >= 5
    found = model.explain(later.iloc[caught], order[1400:][caught])
    said = found["sensor"] + ", " + found["together_with"]
    planted = set(planted_sensors(7))
    named = {row for row, text in zip(found["row"], said, strict=True) if planted & set(text.split(", "))}
    assert len(named) >= 0.8 * len(caught)
