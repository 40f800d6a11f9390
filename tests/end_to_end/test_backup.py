"""What a backup must hold, so that production goes on from it in another place."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import wafer
from tests.cli.test_models import make
from wafer import steps
from wafer.fab.simulate import simulate_batches, simulate_frame
from wafer.learning.model import WaferModel
from wafer.records import Predicted
from wafer.scoring.bundle import fit_bundle
from wafer.store.embedded import wait_until_stopped

pytestmark = [pytest.mark.slow, pytest.mark.invariant]


def predict(storage: Path, raw: Path) -> dict[str, str]:
    """The result files of the batches in `raw`, by name."""
    with wafer.open(storage_url=str(storage)) as workspace, steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction", str(raw))
        predicted = steps.predict(workspace, run)
        folder = workspace.storage.place(predicted.folder)
        return {name: (folder / name).read_text() for name in predicted.files}


def test_production_goes_on_from_a_copied_storage(tmp_path: Path) -> None:
    """Store, registry and models, copied while nothing runs into a new place, give the same predictions.

    The copy also knows the champion, the runs, the ledger and the thresholds' past; the first place is gone.
    """
    past = pd.concat([simulate_frame(batch, wafers=100, seed=7) for batch in range(3)], ignore_index=True)
    recipe = WaferModel(trees=10, search_budget=1, search_folds=2, calibration_folds=2, max_clusters=1)
    X = past.filter(like="Sensor-")
    fit_bundle(recipe, X, past["label"], np.arange(300), reasons=False).save(tmp_path / "model")
    first, second = tmp_path / "first", tmp_path / "second" / "place"
    make(first, tmp_path / "model", X)
    for number in (3, 4):
        raw = tmp_path / f"raw-{number}"
        list(simulate_batches(raw, batches=1, wafers=100, seed=7, labelled=False, first_batch=number))
    scored = predict(first, tmp_path / "raw-3")
    with wafer.open(storage_url=str(first)) as workspace:
        champion, held = workspace.registry.champion(), workspace.store.status()
    wait_until_stopped(first / "state" / "mongodb")
    shutil.copytree(first, second)
    expected = predict(first, tmp_path / "raw-4")
    wait_until_stopped(first / "state" / "mongodb")
    shutil.rmtree(first)
    with wafer.open(storage_url=str(second)) as workspace:
        assert workspace.registry.champion() == champion
        assert workspace.store.status() == held
        latest = workspace.runs.latest("prediction")
        assert latest is not None and latest.read(Predicted).wafers == 100
    assert predict(second, tmp_path / "raw-3") == scored
    assert predict(second, tmp_path / "raw-4") == expected
    wait_until_stopped(second / "state" / "mongodb")
