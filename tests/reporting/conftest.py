"""A small training and delivery, in the files that reports are made from."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.working import keep_training
from wafer.diagnosis.rivals import rivals
from wafer.learning.evaluation import evaluate
from wafer.learning.model import WaferModel
from wafer.records import Ingested, Predicted
from wafer.runs import Run, Runs
from wafer.scoring.batches import judge_batch, result_rows
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.details import Details
from wafer.scoring.timeline import PLACE
from wafer.storage import Storage

SENSORS = [f"Sensor-{number}" for number in range(1, 21)]
WAFERS, BATCH = 240, 40


@pytest.fixture(scope="session")
def wafers() -> pd.DataFrame:
    """240 wafers in six batches; every eighth is faulty and reads high on Sensor-3; Sensor-20 comes with batch four."""
    chance = np.random.default_rng(0)
    values = chance.normal(size=(WAFERS, len(SENSORS)))
    values[::8, 2] += 2.0
    values[:, 4] = 7.0
    values[:, 6] += np.arange(WAFERS) / 40
    values[:, 8] = values[:, 7] + 0.1 * values[:, 8]
    values[chance.random(values.shape) < 0.03] = np.nan
    values[: 3 * BATCH, 19] = np.nan
    table = pd.DataFrame(values, columns=SENSORS)
    numbers = np.arange(WAFERS)
    table.insert(0, "wafer", pd.Series([f"Wafer-{number + 1}" for number in numbers], dtype="str"))
    table.insert(1, "order", numbers.astype(np.int64) + 1)
    batches = [f"Wafer_{number // BATCH + 1:02d}012020_080000.csv" for number in numbers]
    table.insert(2, "batch", pd.Series(batches, dtype="str"))
    table.insert(3, "label", np.where(numbers % 8 == 0, 1, -1).astype(np.int8))
    return table


@pytest.fixture(scope="session")
def bundle(wafers: pd.DataFrame) -> Bundle:
    recipe = WaferModel(trees=10, search_budget=1, search_folds=2, calibration_folds=2, max_clusters=3)
    X, y, order = wafers[SENSORS], wafers["label"].to_numpy(), wafers["order"].to_numpy()
    return fit_bundle(recipe, X, y, order, wafers["batch"].to_numpy(object), permutations=4)


@pytest.fixture(scope="session")
def model(bundle: Bundle) -> WaferModel:
    return bundle.classifier


@pytest.fixture(scope="session")
def evaluated(model: WaferModel, wafers: pd.DataFrame) -> tuple[dict, pd.DataFrame]:
    return evaluate(
        WaferModel(**{**model.get_params(), "max_clusters": 1}),
        wafers[SENSORS],
        wafers["label"].to_numpy(),
        wafers["order"].to_numpy(),
        wafers["batch"].to_numpy(object),
        folds=2,
        repeats=1,
        permutations=1,
        rivals=rivals(trees=20),
        first_batch=4,
    )


@pytest.fixture(scope="session")
def ingest_report() -> dict:
    reason = {"line": None, "column": None, "expected": "", "got": ""}
    turned_away = [{"rule": "file_name", "message": f"reason {number} <b>", **reason} for number in range(7)]
    warned = [{"rule": "empty_sensor", "message": "Sensor-20 holds no reading", **reason}]
    return {
        "kind": "prediction",
        "files": 3,
        "accepted": 2,
        "quarantined": 1,
        "quarantined_by_rule": {"file_name": 1},
        "known_batches": 0,
        "wafers": 80,
        "wafers_stored": 80,
        "duplicates": 0,
        "conflicts": 0,
        "wafers_dropped": 0,
        "labels_added": 0,
        "batches": [
            {"file": "bad.csv", "verdict": "quarantined", "reasons": turned_away, "warnings": []},
            {"file": "first.csv", "verdict": "accepted", "reasons": [], "warnings": warned, "wafers": 40},
            {"file": "second.csv", "verdict": "accepted", "reasons": [], "warnings": warned, "wafers": 40},
        ],
    }


@pytest.fixture(scope="session")
def predictions(bundle: Bundle, wafers: pd.DataFrame) -> pd.DataFrame:
    scored = wafers.tail(80)
    rows = result_rows(scored, judge_batch(bundle, scored, 3))
    rows.insert(0, "batch", np.repeat(["first", "second"], 40))
    return rows.astype({"Prediction": "int64"})


@pytest.fixture(scope="session")
def details(bundle: Bundle, wafers: pd.DataFrame, predictions: pd.DataFrame, tmp_path_factory) -> Path:
    """What the run found besides: the labels of `first` are known; `second` is made later and has drifted.

    The limit is one that a longer history gives: that of three past batches is too high for anything to exceed it.
    """
    folder = tmp_path_factory.mktemp("details")
    assert bundle.drift is not None
    bundle = replace(bundle, drift=replace(bundle.drift, threshold=0.5))
    told = Details(bundle)
    for batch, later in (("first", 0), ("second", 1000)):
        mine = predictions.loc[predictions["batch"] == batch]
        rows = wafers.set_index("wafer").loc[mine["Wafer"]].reset_index()
        rows["order"] += later
        if later:
            rows = rows.assign(label=None)
            rows[SENSORS[9:15]] += 8.0
            rows.loc[0, SENSORS] = 1e4
        told.add(batch, rows, judge_batch(bundle, rows, 3, reasons=True, drift=True))
    told.write(folder)
    return folder


@pytest.fixture(scope="session")
def timeline(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """Both batches, the first with labels; the second has drifted."""
    made = []
    for number, (batch, part) in enumerate(predictions.groupby("batch")):
        alarms = int((part["Prediction"] == 1).sum())
        entry = {"file": f"{batch}.csv", "digest": str(number), "order": number, "predictions": f"{batch}.csv"}
        entry |= {"wafers": len(part), "alarms": alarms, "unknown": number, "model_version": 3, "run": "prediction"}
        entry |= {"score": 0.1 + number, "threshold": 0.5, "drifted": bool(number), "t2": number, "spe": 2 * number}
        made.append(entry | {"delivered": f"2020-01-0{number + 1}", "labelled": 40 * (1 - number), "faulty": 3})
    return made


@pytest.fixture(scope="session")
def outputs(tmp_path_factory, wafers, bundle, evaluated, ingest_report, predictions, details, timeline) -> Path:
    """A storage with the training and the prediction that every notebook can be made from; to be left as it is."""
    storage = Storage(str(tmp_path_factory.mktemp("outputs")))
    bundle.save(Path(str(storage.place("models/one"))))
    metrics, scores = evaluated
    check = {"name": "minimum ROC AUC", "passed": True, "value": 0.7, "limit": 0.0, "text": "0.7, asked for is 0"}
    decision = {"challenger": 1, "champion": None, "promoted": True, "reason": "Version 1 is it.", "checks": [check]}
    with Runs(storage).started("training") as run:
        keep_training(run, wafers, "models/one", metrics, scores, decision)
        storage.write_json(run.key("ingest-training.json"), ingest_report)
        run.write(_ingested(run, "training", ingest_report), "ingest-training")
    with Runs(storage).started("prediction") as run:
        storage.write_json(run.key("ingest-prediction.json"), ingest_report)
        run.write(_ingested(run, "prediction", ingest_report), "ingest-prediction")
        shutil.copytree(details, str(run.place("details")))
        for name, part in predictions.groupby("batch"):
            table = part.drop(columns="batch").to_csv(index=False)
            storage.write_text(run.key(f"predictions/{name}.csv"), table)
        storage.write_json(run.key(PLACE), timeline)
        files = ("first.csv", "second.csv")
        alarms = int((predictions["Prediction"] == 1).sum())
        keys = {"folder": run.key("predictions"), "details": run.key("details"), "model_folder": "models/one"}
        run.write(Predicted(**keys, files=files, wafers=80, alarms=alarms, model_version=3, run_id=None))
    return Path(str(storage.root))


def _ingested(run: Run, kind: str, report: dict) -> Ingested:
    counts = {name: report[name] for name in ("files", "accepted", "quarantined", "wafers_stored")}
    return Ingested(run.key(f"ingest-{kind}.json"), run.key(f"ingest-{kind}.html"), unread=0, **counts)


@pytest.fixture(scope="session")
def notebooks() -> Path:
    return Path(__file__).parents[2] / "notebooks"
