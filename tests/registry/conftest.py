"""A small real model, its scores, and a real MLflow on SQLite for each test."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.registry.rules import another_model as copy_with_another_digest
from tests.registry.rules import with_canary
from wafer.learning.model import WaferModel
from wafer.registry import Registry, Version
from wafer.scoring.bundle import fit_bundle

SENSORS = [f"Sensor-{number}" for number in range(1, 13)]
WAFERS = 160

LogTraining = Callable[..., Version]
MakeScores = Callable[..., pd.DataFrame]


@pytest.fixture(scope="session")
def readings() -> pd.DataFrame:
    """160 wafers; the third sensor is higher in every eighth, which is the faulty one."""
    values = np.random.default_rng(0).normal(size=(WAFERS, len(SENSORS)))
    values[::8, 2] += 2.0
    return pd.DataFrame(values, columns=SENSORS)


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return np.where(np.arange(WAFERS) % 8 == 0, 1, -1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, readings: pd.DataFrame, labels: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("model")
    recipe = WaferModel(trees=5, search_budget=1, search_folds=2, calibration_folds=2, max_clusters=2)
    fit_bundle(recipe, readings, labels, reasons=False).save(folder)
    return folder


@pytest.fixture(scope="session")
def make_scores(labels: np.ndarray) -> MakeScores:
    def make(quality: float, *, first: int = 0, alarm_from: float = 1.5) -> pd.DataFrame:
        """Forward scores of the wafers from number `first` on; faulty ones lie `quality` above the others."""
        score = np.random.default_rng(1).normal(size=WAFERS) + quality * (labels == 1)
        frame = pd.DataFrame(
            {
                "protocol": "forward",
                "repeat": 0,
                "fold": [f"Wafer_{number // 40:02d}.csv" for number in range(WAFERS)],
                "row": np.arange(WAFERS) - first,
                "label": labels,
                "probability": 1 / (1 + np.exp(-score)),
                "alarm": score > alarm_from,
                "wafer": [f"Wafer-{number}" for number in range(WAFERS)],
            }
        )
        return frame.iloc[first:].reset_index(drop=True)

    return make


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> Registry:
    state = tmp_path / "state" / "mlflow"
    state.mkdir(parents=True)
    shutil.copyfile(empty_database, state / "mlflow.db")
    return Registry(f"sqlite:///{state / 'mlflow.db'}", str(state / "artifacts"))


@pytest.fixture
def another_model(model_folder: Path, tmp_path: Path) -> Callable[[], Path]:
    """The same model under another digest each time."""
    numbers = count(1)

    def make() -> Path:
        number = next(numbers)
        return copy_with_another_digest(model_folder, tmp_path / "models" / str(number), number)

    return make


@pytest.fixture
def log_training(
    registry: Registry, another_model: Callable[[], Path], readings: pd.DataFrame, make_scores: MakeScores
) -> LogTraining:
    def log(
        quality: float = 2.0,
        *,
        scores: pd.DataFrame | None = None,
        auc: float = 0.71,
        model: Path | None = None,
        files: dict[str, Path | pd.DataFrame] | None = None,
    ) -> Version:
        return registry.log_training(
            params={"fit": {"trees": 5, "seed": 0}},
            metrics={"forward": {"auc": auc, "confusion": {"tp": 3}}, "permuted": {"auc": 0.49}, "note": "text"},
            scores=with_canary(make_scores(quality) if scores is None else scores),
            model_folder=model or another_model(),
            example=readings.head(4),
            files=files,
            tags={"snapshot": "abc"},
        )

    return log
