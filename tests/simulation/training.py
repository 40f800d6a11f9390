"""Trainings of the simulated fab: one real model, under another digest for each snapshot, with made-up scores.

What takes long and neither reads nor writes a service is done once: the fit, and packing it for MLflow.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.faults.delivery import SENSORS
from tests.registry.rules import another_model, with_canary
from tests.simulation import fab
from wafer import steps
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.learning.parts import MANIFEST, model_digest
from wafer.params import Params, read_params
from wafer.records import Evaluated, Fitted, Frozen, Registered
from wafer.registry import packaging
from wafer.registry.connection import silence
from wafer.runs import Run
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.storage import copy_where_missing
from wafer.store.snapshot import Snapshot
from wafer.workspace import Workspace

WAFERS = 120
MODELS = 4096  # that differ


@cache
def models() -> Path:
    """A folder for the models that are made once."""
    return fab.scratch("models")


@cache
def params() -> Params:
    """The project's parameters, with a gate that little data can pass."""
    found = read_params(Path(__file__).parents[2] / "params.yaml").model_dump()
    found["gate"] |= {"draws": 100, "minimum_auc": 0.0, "canary_z": 1000.0, "maximum_calibration_error": 1.0}
    found["policy"] |= {"threshold": "fixed"}
    return Params.model_validate(found)


@cache
def fitted() -> Path:
    """The folder of the one model that is fitted."""
    chance = np.random.default_rng(0)
    labels = np.where(np.arange(WAFERS) % 8 == 0, 1, -1)
    readings = pd.DataFrame(
        chance.normal(size=(WAFERS, SENSORS)) + 20.0, columns=[f"Sensor-{n + 1}" for n in range(SENSORS)]
    )
    readings.iloc[::8, 1] += 5.0
    recipe = WaferModel(
        trees=3,
        panel="forests",
        search_budget=1,
        search_folds=2,
        calibration_folds=2,
        max_clusters=1,
        reference_window=20,
        policy=Policy(**params().policy.model_dump()),
    )
    bundle = fit_bundle(recipe, readings, labels, np.arange(-WAFERS, 0), reasons=False)
    replace(bundle, monitor=None).save(models() / "fitted")
    return models() / "fitted"


@cache
def model_of(snapshot: str) -> Path:
    """The folder of the model of a snapshot."""
    folder = models() / snapshot
    return another_model(fitted(), folder, 1 + int(snapshot[:8], 16) % MODELS)


def fit(workspace: Workspace, run: Run) -> None:
    """As `wafer.steps.fit`, which would fit a model of the run's snapshot."""
    folder = model_of(workspace.snapshot(run.read(Frozen).folder).digest)
    digest = model_digest(folder)
    made = Fitted(f"models/{digest[:12]}", digest)
    copy_where_missing(folder, workspace.storage.place(made.folder))
    run.write(made)


def evaluate(workspace: Workspace, run: Run) -> None:
    """As `wafer.steps.evaluate`, which would score the recipe."""
    scores = scores_of(workspace.snapshot(run.read(Frozen).folder))
    run.storage.write_json(run.key("metrics.json"), {"forward": {"auc": 0.7}, "permuted": {"auc": 0.5}})
    run.storage.write_bytes(run.key("scores.parquet"), scores.to_parquet(index=False))
    run.write(Evaluated(run.key("metrics.json"), run.key("scores.parquet")))


def scores_of(snapshot: Snapshot) -> pd.DataFrame:
    """Scores that follow from the snapshot, some good and some bad."""
    table = snapshot.table
    chance = np.random.default_rng(int(snapshot.digest[:8], 16))
    score = chance.normal(size=len(table)) + chance.uniform(0, 4) * (table["label"].to_numpy() == 1)
    forward = pd.DataFrame(
        {
            "protocol": "forward",
            "repeat": 0,
            "fold": table["batch"],
            "row": np.arange(len(table)),
            "label": table["label"],
            "probability": 1 / (1 + np.exp(-score)),
            "alarm": score > 1.5,
            "tail": 0.05,
            "recent_tail": 0.05,
            "wafer": table["wafer"],
        }
    )
    return with_canary(forward)


def train(workspace: Workspace, decided: Callable[[Any], None]) -> None:
    """What `flows/train.py` does, a page in the place of its reports; `decided` is told of the decision."""
    with steps.working(workspace, "training") as run:
        steps.snapshot(workspace, run)
        known = steps.look_back(workspace, run, params())
        if known.finished:
            return
        if known.version is None:
            fit(workspace, run)
            evaluate(workspace, run)
            steps.register(workspace, run, params())
        steps.gate(workspace, run, params().gate, params().policy)
        decided(json.loads(workspace.storage.place(run.key("decision.json")).read_bytes()))
        run.storage.write_text(run.key("training.html"), "a page")
        version = run.read(Registered)
        workspace.registry.log_files(version.run_id, [run.place("training.html")], "reports")
        steps.finish(workspace, run)


# what is remembered in the place of work that is always the same


@cache
def packed() -> Path:
    """The one model as MLflow packs it."""
    folder = models() / "packed"
    example = pd.DataFrame(np.full((2, SENSORS), 20.0), columns=[f"Sensor-{n + 1}" for n in range(SENSORS)])
    scored = packaging.scored_wafers(Bundle.load(fitted()), example)
    silence()
    packaging.pack(fitted(), folder, example, scored, run_id="a-run", model_id="a-model")
    return folder


def pack(
    model_folder: Path, target: Path, example: pd.DataFrame, scored: pd.DataFrame, *, run_id: str, model_id: str
) -> dict[str, str]:
    """As `packaging.pack`, from what it made of the one model."""
    shutil.copytree(packed(), target)
    shutil.copytree(model_folder, target / packaging.PARTS, dirs_exist_ok=True)
    description = target / "MLmodel"
    description.write_text(description.read_text().replace("a-run", run_id).replace("a-model", model_id))
    return packaging.digest_folder(target)


def remembered(work: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, done once for what `key` tells apart."""
    found: dict[Any, Any] = {}

    def once(*arguments: Any, **named: Any) -> Any:
        asked = key(*arguments, **named)
        if asked not in found:
            found[asked] = work(*arguments, **named)
        return found[asked]

    return once


def parts_key(folder: Path, *, n_jobs: int = 1) -> str:
    """What tells saved models apart: every byte but the blanks that end a manifest."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        digest.update(file.name.encode() + b"\0" + (data.rstrip() if file.name == MANIFEST else data) + b"\0")
    return digest.hexdigest()


def wafers_key(bundle: Bundle, wafers: pd.DataFrame, version: int = 0, **named: Any) -> Any:
    """What tells judgements apart."""
    return id(bundle), version, wafers.to_csv(), repr(sorted(named.items()))
