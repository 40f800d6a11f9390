from typing import Any

import numpy as np
import pandas as pd
import pytest

from wafer.diagnosis.reasons import Reasons, good_percentiles, group_sensors, tell
from wafer.errors import ModelError
from wafer.fab.simulate import planted_sensors, simulate_frame
from wafer.learning.model import WaferModel
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.judge import judge


@pytest.fixture(scope="module")
def explained(wafers: Any, quick: dict[str, int]) -> Bundle:
    return fit_bundle(WaferModel(**quick), wafers.X, wafers.y, wafers.order, permutations=8)


def reasons_of(bundle: Bundle, X: Any, order: Any) -> pd.DataFrame:
    """All reasons of these wafers."""
    found = judge(bundle, X, order, reasons="all").reasons
    assert found is not None
    return found


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


def test_alarms_name_the_sensors_that_make_faults(explained: Bundle, wafers: Any) -> None:
    """The sensors that are higher on faulty wafers lead the reasons of nearly all alarms that are right."""
    assert explained.reasons is not None and explained.reasons.shown
    alarms = np.flatnonzero((explained.classifier.predict(wafers.X, wafers.order) == 1) & (wafers.y == 1))
    found = reasons_of(explained, wafers.X.iloc[alarms], wafers.order[alarms])
    first = found[found["rank"] == 1]
    assert len(first) >= 0.9 * len(alarms)
    assert np.mean(first["sensor"].isin(["Sensor-1", "Sensor-2", "Sensor-3"])) >= 0.9
    assert (first["direction"] == "high").mean() >= 0.9
    assert found["rank"].max() <= 5


@pytest.mark.slow
@pytest.mark.invariant
def test_reasons_of_permuted_labels_are_withheld(wafers: Any, quick: dict[str, int]) -> None:
    """A model of shuffled labels says nothing about any wafer."""
    y = np.random.default_rng(3).permutation(wafers.y)
    bundle = fit_bundle(WaferModel(**quick), wafers.X, y, wafers.order, permutations=8)
    assert bundle.reasons is not None and not bundle.reasons.shown
    assert reasons_of(bundle, wafers.X, wafers.order).empty


def test_reasons_of_a_wafer_are_the_same_alone_and_with_any_number_of_threads(explained: Bundle, wafers: Any) -> None:
    """Strengths are the same bits in the batch, alone, and on three threads."""
    expected = reasons_of(explained, wafers.X, wafers.order)
    explained.classifier.n_jobs = 3
    try:
        pd.testing.assert_frame_equal(reasons_of(explained, wafers.X, wafers.order), expected, check_exact=True)
    finally:
        explained.classifier.n_jobs = 1
    row = int(expected["row"].iloc[0])
    alone = reasons_of(explained, wafers.X.iloc[[row]], wafers.order[[row]]).assign(row=row)
    own = expected.loc[expected["row"] == row].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, own, check_exact=True)


def test_a_model_without_reasons_says_so(wafers: Any, quick: dict[str, int]) -> None:
    """Reasons that were never learned are refused, not invented."""
    bundle = fit_bundle(WaferModel(**quick), wafers.X, wafers.y, wafers.order, reasons=False)
    with pytest.raises(ModelError, match="the model gives no reasons: it learned none when it was trained"):
        reasons_of(bundle, wafers.X, wafers.order)


def test_percentiles_of_a_sensor_are_told_by_cluster(explained: Bundle, wafers: Any) -> None:
    """Good wafers' lowest, middle and highest readings, a column for each cluster; an unknown sensor is named."""
    found = explained.good_percentiles("Sensor-2")
    clusters = explained.classifier.assign_clusters(wafers.X, wafers.order)
    assert found.shape == (101, len(explained.classifier.clusters_))
    good = wafers.X["Sensor-2"][(wafers.y == -1) & (clusters == 0)]
    assert found.loc[[0.0, 100.0], 0].tolist() == [good.min(), good.max()]
    with pytest.raises(ModelError, match="the model has no sensor 'Sensor-25', its first is Sensor-1"):
        explained.good_percentiles("Sensor-25")


@pytest.mark.slow
def test_reasons_name_planted_sensors() -> None:
    """On the synthetic fab four of five right alarms on later batches name a planted sensor among five reasons."""
    batches = [simulate_frame(number, wafers=100, seed=7) for number in range(18)]
    sensors = [name for name in batches[0].columns if name.startswith("Sensor-")]
    X = [batch[sensors].astype(float) for batch in batches]
    y = [batch["label"].to_numpy() for batch in batches]
    train, order = pd.concat(X[:14], ignore_index=True), np.arange(1800)
    bundle = fit_bundle(WaferModel(n_jobs=2), train, np.concatenate(y[:14]), order[:1400])
    assert bundle.reasons is not None and bundle.reasons.shown
    later, truth = pd.concat(X[14:], ignore_index=True), np.concatenate(y[14:])
    caught = np.flatnonzero((bundle.classifier.predict(later, order[1400:]) == 1) & (truth == 1))
    assert len(caught) >= 5
    found = reasons_of(bundle, later.iloc[caught], order[1400:][caught])
    said = found["sensor"] + ", " + found["together_with"]
    planted = set(planted_sensors(7))
    named = {row for row, text in zip(found["row"], said, strict=True) if planted & set(text.split(", "))}
    assert len(named) >= 0.8 * len(caught)
