from pathlib import Path

import numpy as np
import pandas as pd

from tests.intake.storing import add
from tests.learning.conftest import make_wafers
from wafer.learning.model import WaferModel
from wafer.scoring.batches import COLUMNS, score_batches
from wafer.scoring.bundle import fit_bundle
from wafer.settings import Settings
from wafer.store.documents import IncomingBatch
from wafer.store.wafers import open_store


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
