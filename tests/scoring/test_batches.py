from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.intake.storing import add
from tests.learning.conftest import make_wafers
from wafer.learning.model import WaferModel
from wafer.registry.packaging import scored_wafers
from wafer.scoring.batches import COLUMNS, score_batches
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.judge import judge
from wafer.settings import Settings
from wafer.store.documents import IncomingBatch
from wafer.store.wafers import Store, open_store


def test_a_batch_of_which_no_wafer_is_left_holds_up_no_other(settings: Settings, tmp_path: Path) -> None:
    """Where all wafers of a file contradict stored ones, it gets a CSV without rows, and the others are scored."""
    wafers = make_wafers()
    recipe = WaferModel(trees=20, search_budget=1, max_clusters=4, calibration_folds=3, reference_window=60)
    model = fit_bundle(recipe, *wafers, permutations=2)
    sensors = list(wafers.X.columns)

    def batch(digest: str, file: str, shift: float) -> IncomingBatch:
        readings, order = wafers.X.to_numpy(float)[:5] + shift, np.asarray(wafers.order[:5], np.int64)
        ids = [f"Wafer-{number}" for number in order]
        return IncomingBatch(digest, file, "prediction", ids, order, sensors, readings, None).prepared()

    with open_store(settings) as store:
        add(store, batch("b" * 64, "b.csv", 0.0), 1e-9)
        empty = add(store, batch("a" * 64, "a.csv", 1.0), 1e-9)
        assert (empty.wafers, len(empty.conflicts)) == ((), 5)
        index = score_batches(model, 1, store, sensors, ["a" * 64, "b" * 64], tmp_path / "csv", tmp_path / "details")
        assert store.status().predictions == 5
    assert [(entry["file"], entry["wafers"]) for entry in index] == [("a.csv", 0), ("b.csv", 5)]
    assert pd.read_csv(tmp_path / "csv" / "a.csv").columns.tolist() == COLUMNS
    assert [len(pd.read_csv(tmp_path / "csv" / f"{name}.csv")) for name in "ab"] == [0, 5]
    assert pd.read_csv(tmp_path / "details" / "wafers.csv")["batch"].unique().tolist() == ["b"]


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Bundle]:
    wafers = make_wafers()
    recipe = WaferModel(trees=20, search_budget=1, max_clusters=1, calibration_folds=3, reference_window=60)
    rows = slice(0, 120)
    return wafers, fit_bundle(recipe, wafers.X[rows], wafers.y[rows], wafers.order[rows], reasons=False)


def test_batches_follow_each_other_in_production_order_and_again(
    settings: Settings, trained: tuple[Any, Bundle], tmp_path: Path
) -> None:
    """In any sequence of delivery each threshold is that of one judgement of all; a batch again gets the same bytes."""
    wafers, model = trained
    sensors, digests = list(wafers.X.columns), ["a" * 64, "b" * 64, "c" * 64]

    def scored(store: Store, version: int, wanted: list[str], name: str) -> list[str]:
        score_batches(model, version, store, sensors, wanted, tmp_path / name, tmp_path / name / "details")
        return [(tmp_path / name / f"{file}.csv").read_text() for file in "abc"]

    with open_store(settings) as store:
        for number, digest in enumerate(digests):
            rows = slice(120 + 40 * number, 160 + 40 * number)
            order = np.asarray(wafers.order[rows], np.int64)
            ids = [f"Wafer-{place}" for place in order]
            readings = wafers.X.to_numpy(float)[rows]
            came = IncomingBatch(digest, f"{'abc'[number]}.csv", "prediction", ids, order, sensors, readings, None)
            add(store, came.prepared(), 1e-9)
        first = scored(store, 1, digests[::-1], "first")
        assert scored(store, 1, digests, "again") == first
        score_batches(model, 2, store, sensors, digests[:1], tmp_path / "one", tmp_path / "one" / "details")
        score_batches(model, 2, store, sensors, digests[1:], tmp_path / "one", tmp_path / "one" / "details")
        assert [(tmp_path / "one" / f"{file}.csv").read_text().replace(",2,", ",1,") for file in "bc"] == first[1:]
    together = judge(model, wafers.X.iloc[120:], wafers.order[120:]).wafers
    table = pd.concat([pd.read_csv(tmp_path / "first" / f"{file}.csv") for file in "abc"], ignore_index=True)
    assert_allclose(table["threshold"], together["threshold"], rtol=1e-12)
    assert_array_equal(table["Prediction"], together["verdict"].astype(int))
    assert together["threshold"].nunique() > 10


def test_the_registry_serves_the_same_verdicts(trained: tuple[Any, Bundle]) -> None:
    """What MLflow serves of the first wafers after a training, in production order, is what the judgement says."""
    wafers, model = trained
    found = judge(model, wafers.X.iloc[120:160], None).wafers
    served = scored_wafers(model, wafers.X.iloc[120:160])
    assert_array_equal(served["Prediction"], found["verdict"].astype(float))
    assert found["threshold"].nunique() > 1
