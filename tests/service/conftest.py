"""A project of twelve sensors with a small real champion, and the service on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from tests.registry.rules import with_canary
from wafer.contract.agreement import import_agreement, init_agreement
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.registry import Registry
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.service.app import create_app
from wafer.service.core import Options, Service
from wafer.settings import Settings
from wafer.workspace import Workspace

SENSORS = [f"Sensor-{number}" for number in range(1, 13)]
SCOPES = ("read", "score", "operate")
HOST = "http://127.0.0.1"


def make_readings(wafers: int = 160, seed: int = 0) -> pd.DataFrame:
    """Wafers of which every eighth, a faulty one, is high in its third sensor."""
    values = np.random.default_rng(seed).normal(size=(wafers, len(SENSORS)))
    values[::8, 2] += 4.0
    return pd.DataFrame(values, columns=SENSORS)


def batch_file(first: int = 1, wafers: int = 8, seed: int = 1) -> bytes:
    """The bytes of a batch file to be predicted; its first wafer is faulty."""
    table = make_readings(wafers, seed).round(6)
    table.insert(0, "Wafer", [f"Wafer-{first + row}" for row in range(wafers)])
    return table.to_csv(index=False, lineterminator="\n").encode()


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved bundle with reasons."""
    folder = tmp_path_factory.mktemp("fitted")
    recipe = WaferModel(
        trees=20,
        search_budget=1,
        search_folds=2,
        calibration_folds=2,
        max_clusters=2,
        policy=Policy(),
        reference_window=40,
    )
    labels = np.where(np.arange(160) % 8 == 0, 1, -1)
    names = [f"wafer_{row // 40}.csv" for row in range(160)]
    order = np.arange(160)
    fit_bundle(recipe, make_readings(), labels, order, names, permutations=2).save(folder)
    return folder


def log_version(registry: Registry, folder: Path, readings: pd.DataFrame) -> int:
    """Register the saved model as a version with made-up scores."""
    labels = np.where(np.arange(len(readings)) % 8 == 0, 1, -1)
    scores = pd.DataFrame(
        {
            "protocol": "forward",
            "repeat": 0,
            "fold": "one.csv",
            "row": np.arange(len(readings)),
            "label": labels,
            "probability": np.where(labels == 1, 0.8, 0.1),
            "alarm": labels == 1,
            "wafer": [f"Wafer-{row}" for row in range(len(readings))],
        }
    )
    version = registry.log_training(
        params={"fit": {"trees": 20}},
        metrics={"forward": {"auc": 0.9}},
        scores=with_canary(scores),
        model_folder=folder,
        example=readings.head(4),
        tags={"snapshot": "abc"},
    )
    return version.version


def make_place(folder: Path, database: Path, fitted: Path, url: str, name: str) -> Settings:
    """A project with its agreement, and a storage whose registry has a champion."""
    expectations = folder / "expectations"
    for kind in ("training", "prediction"):
        init_agreement(folder / f"{kind}.json", kind, len(SENSORS))
        import_agreement(folder / f"{kind}.json", kind, folder=expectations)
    settings = Settings.read(
        project=folder, storage_url=str(folder / "data"), mongodb_url=url, mongodb_database=name, jobs=1
    )
    state = settings.state / "mlflow"
    state.mkdir(parents=True)
    shutil.copyfile(database, state / "mlflow.db")
    with Workspace(settings) as workspace:
        log_version(workspace.registry, fitted, make_readings())
        workspace.registry.promote(1, "the first")
    return settings


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, fitted: Path, mongodb_url: str) -> Settings:
    """The settings of a project with a champion, shared by the tests that do not replace it."""
    return make_place(tmp_path_factory.mktemp("fab"), empty_database, fitted, mongodb_url, "service")


def ready(client: TestClient) -> TestClient:
    """The client, once a model is loaded."""
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    service.champion.look()
    assert client.get("/readyz").status_code == 200, client.get("/readyz").text
    return client


@pytest.fixture(scope="module")
def client(place: Settings) -> Iterator[TestClient]:
    """A client of a service that asks for no token."""
    with Workspace(place) as workspace, TestClient(create_app(workspace, Options(seconds=0.2)), HOST) as client:
        yield ready(client)


@pytest.fixture(scope="module")
def guarded(place: Settings) -> Iterator[TestClient]:
    """A client of a service that asks for tokens; those of each scope lie in its state by the scope's name."""
    with Workspace(place) as workspace:
        app = create_app(workspace, Options(tokens=True, seconds=0.2))
        app.state.known = {scope: app.state.service.tokens.create(scope, (scope,))[1] for scope in SCOPES}
        with TestClient(app, HOST) as client:
            yield ready(client)


@pytest.fixture(scope="session")
def bundle(fitted: Path) -> Bundle:
    return Bundle.load(fitted)
