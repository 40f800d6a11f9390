"""Three hundred fabs of odd sizes: each training ends in a version, or in one clear sentence."""

import itertools
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.registry.rules import rules
from tests.working import keep_training
from wafer.errors import WaferError
from wafer.fab.simulate import batch_file_name, simulate_frame
from wafer.learning.evaluation import evaluate
from wafer.learning.model import WaferModel
from wafer.registry import Registry
from wafer.reporting import model_tables, plots, sensors, tables
from wafer.reporting.notebooks import run_notebook
from wafer.reporting.style import draw_each
from wafer.runs import Runs
from wafer.scoring.bundle import fit_bundle
from wafer.storage import Storage

FABS, CHUNK = 300, 10
QUICK: dict[str, Any] = {
    "trees": 10, "search_budget": 1, "search_folds": 2, "calibration_folds": 2, "max_clusters": 3,
    "reference_window": 40, "min_cluster_faults": 4, "seed": 0,
}  # fmt: skip
WITH_NOTEBOOKS = 75  # one fab in so many has its notebooks run too
WITH_REASONS = 10  # one in so many learns to give reasons
WITH_FIGURES = 3  # one in so many is drawn
NOTEBOOKS = ("training", "exploration", "data_quality")


def odd_fab(number: int) -> pd.DataFrame:
    """Wafers of fab `number` as a snapshot has them: 20 to 400, of which 0 to 40 are faulty, in 1 to 9 batches.

    One fab in twenty has all 590 sensors, the others some, which is quicker. Faults are relabelled to the number
    wanted, those that the fab made first.
    """
    chance = np.random.default_rng((2026, number))
    wafers, batches = int(np.exp(chance.uniform(np.log(20), np.log(401)))), int(chance.integers(1, 10))
    faults = int(chance.choice([0, 1, 2, 3, chance.integers(4, 41)], p=[0.08, 0.1, 0.1, 0.1, 0.62]))
    edges = np.sort(chance.choice(np.arange(1, wafers), batches - 1, replace=False))
    sizes = np.diff([0, *edges, wafers])
    made = [simulate_frame(n, wafers=int(size), seed=number) for n, size in enumerate(sizes)]
    frame = pd.concat(made, ignore_index=True)
    names = [name for name in frame.columns if name.startswith("Sensor-")]
    width = len(names) if number % 20 == 0 else int(chance.integers(3, 60))
    chosen = [names[at] for at in np.sort(chance.choice(len(names), width, replace=False))]
    ranked = np.argsort(-1.0 * (frame["label"] == 1).to_numpy() - 0.5 * chance.random(wafers), kind="stable")
    label = np.full(wafers, -1, np.int8)
    label[ranked[: min(faults, wafers)]] = 1
    place = np.arange(wafers)
    files = np.repeat([batch_file_name(n, number) for n in range(batches)], sizes)
    table = frame[chosen].astype(np.float64)
    table.insert(0, "wafer", pd.Series([f"Wafer-{n + 1}" for n in place], dtype="str"))
    table.insert(1, "order", place.astype(np.int64) + 1)
    table.insert(2, "batch", pd.Series(files, dtype="str"))
    table.insert(3, "label", label)
    return table


def train(number: int, wafers: pd.DataFrame, registry: Registry, folder: Path) -> str:
    """Fit, evaluate, register, decide, draw and tell; what came of it in a word."""
    X, y = wafers[sensors.sensor_names(wafers)], wafers["label"].to_numpy()
    order, batch = wafers["order"].to_numpy(), wafers["batch"].to_numpy(object)
    recipe = WaferModel(**QUICK, panel=("forests", "linear", "forests", "all")[number % 4])
    bundle = fit_bundle(recipe, X, y, order, batch, reasons=number % WITH_REASONS == 0, permutations=2)
    model = bundle.classifier
    metrics, scores = evaluate(
        recipe, X, y, order, batch,
        folds=2 + number % 4, repeats=1, permutations=1, first_batch=2 + number % 3,
    )  # fmt: skip
    metrics["clusters"] = len(model.clusters_)
    scores.insert(0, "wafer", wafers["wafer"].to_numpy()[scores["row"]])
    bundle.save(folder / "model")
    version = registry.log_training(
        params={"fit": recipe.get_params()},
        metrics=metrics,
        scores=scores,
        model_folder=folder / "model",
        example=X.head(5),
    )
    decision = registry.decide(version.version, rules(draws=50, policy=recipe.policy_))
    with Runs(Storage(str(folder))).started("training") as run:
        keep_training(run, wafers, "model", metrics, scores, decision.as_dict())
    if number % WITH_FIGURES == 0:
        assert draw_each(plots.training_plots(model, scores, metrics))[1] == {}
    told = [tables.training_summary(metrics, decision.as_dict()), model_tables.abilities_text(bundle)]
    told += [model_tables.policy_text(model), decision.reason]
    assert not re.search(r"\b(nan|None|inf)\b", " ".join(told)), told
    tables.curves(scores), model_tables.threshold_table(scores, plots.policy_of(model)), tables.metrics_table(metrics)
    return "a version, which is champion" if decision.promoted else "a version, which was refused"


def show(folder: Path) -> None:
    """Run the notebooks of a training on what `train` has kept in `folder`."""
    runs = Runs(Storage(str(folder)))
    run = runs.latest("training")
    assert run is not None
    for name in NOTEBOOKS:
        run_notebook(name, {"run": run.id, "storage": str(folder)}, folder, notebooks=REPOSITORY / "notebooks")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry's database without content: making its tables takes MLflow some seconds, a copy nothing."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Registry(f"sqlite:///{file}").champion()
    return file


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, FABS, CHUNK))
def test_a_training_on_an_odd_fab_ends_in_a_version_or_a_sentence(
    first: int, tmp_path: Path, empty_database: Path, record_property: Any
) -> None:
    """Whatever its size, faults and batches, no fab ends in a traceback; only one class of labels stops a training."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"))
    outcomes: Counter[str] = Counter()
    for number in range(first, first + CHUNK):
        wafers, folder = odd_fab(number), tmp_path / str(number)
        faulty = int((wafers["label"] == 1).sum())
        folder.mkdir()
        try:
            outcome = train(number, wafers, registry, folder)
            if number % WITH_NOTEBOOKS == 1:
                show(folder)
        except WaferError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            assert faulty in (0, len(wafers)), error
            outcome = f"the sentence: {error}"
        except Exception as error:
            error.add_note(f"fab {number}: {len(wafers)} wafers, {faulty} faulty, {wafers['batch'].nunique()} batches")
            raise
        outcomes[outcome] += 1
    record_property("odd fabs", dict(outcomes))
    assert sum(outcomes.values()) == CHUNK


def test_fabs_are_as_odd_as_they_should_be() -> None:
    """Over the fabs the sizes reach from 20 to 400 wafers, 0 to 40 faults and 1 to 9 batches."""
    made = [odd_fab(number) for number in itertools.islice(range(1, FABS, 7), 12)]
    assert all(20 <= len(fab) <= 400 and 1 <= fab["batch"].nunique() <= 9 for fab in made)
    assert {int((fab["label"] == 1).sum()) for fab in made} <= set(range(41))
    assert len({len(fab) for fab in made}) > 8
