"""New files are scored once each, however many processes look for them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.faults.delivery import SENSORS, agree, line, write
from tests.faults.scene import processes
from wafer import steps
from wafer.learning.model import WaferModel
from wafer.registry import Registry
from wafer.scoring.bundle import fit_bundle
from wafer.scoring.timeline import INDEX
from wafer.settings import Settings
from wafer.store.wafers import open_store
from wafer.workspace import Workspace


def predict_new(settings: Settings, raw: Path) -> None:
    """What a scheduled prediction does."""
    with Workspace(settings) as workspace, steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction", str(raw))
        steps.predict(workspace, run, new_only=True)


def scored(settings: Settings) -> Counter[str]:
    """How often each file was scored, over all runs."""
    runs = Workspace(settings).runs
    kept = [runs.get(name) for name in runs.names("prediction")]
    found = [run.storage.read_json(run.key(INDEX)) for run in kept if run.storage.exists(run.key(INDEX))]
    return Counter(one["file"] for index in found for one in index)


@pytest.fixture
def in_use(settings: Settings, tmp_path: Path) -> Settings:
    """A champion of four sensors."""
    agree(tmp_path)
    settings = settings.model_copy(update={"project": tmp_path})
    readings = pd.DataFrame(
        np.random.default_rng(0).normal(size=(80, SENSORS)), columns=[f"Sensor-{n + 1}" for n in range(SENSORS)]
    )
    labels = np.where(np.arange(80) % 8 == 0, 1, -1)
    recipe = WaferModel(trees=10, search_budget=1, search_folds=2, calibration_folds=2, max_clusters=2)
    fit_bundle(recipe, readings, labels, reasons=False).save(tmp_path / "model")
    scores = pd.DataFrame({"protocol": "forward", "repeat": 0, "fold": "a", "row": [0, 1], "label": [1, -1]})
    registry = Registry.open(settings)
    registry.log_training(
        params={},
        metrics={},
        scores=scores.assign(probability=[0.9, 0.1], alarm=[True, False], wafer=["a", "b"]),
        model_folder=tmp_path / "model",
        example=readings.head(4),
    )
    registry.promote(1, "for a test")
    return settings


@pytest.mark.slow
@pytest.mark.invariant
def test_two_processes_score_each_new_file_once(in_use: Settings, tmp_path: Path) -> None:
    """At the same time and one after the other; a file that was taken in but not scored is made up for."""
    raw = tmp_path / "raw"
    raw.mkdir()
    expected: Counter[str] = Counter()
    for day in (1, 3):
        for number in (day, day + 1):
            expected[write(raw, number, [line(10 * number + n) for n in range(5)], labelled=False).name] += 1
        started = [processes.Process(target=predict_new, args=(in_use, raw)) for _ in range(2)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        assert [process.exitcode for process in started] == [0, 0]
        assert scored(in_use) == expected
    expected[write(raw, 5, [line(50), line(51)], labelled=False).name] += 1
    with Workspace(in_use) as workspace, steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction", str(raw))  # and killed before it scores
    predict_new(in_use, raw)
    predict_new(in_use, raw)
    assert scored(in_use) == expected
    with open_store(in_use) as store:
        assert all(record.scored for record in store.batches("prediction"))
