"""Trials: wafers chosen, models in the same folds, scores kept and found again, recipes handed over."""

import ast
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import psutil
import pytest
from joblib._store_backends import FileSystemStoreBackend
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import wafer
from tests.conftest import REPOSITORY
from tests.learning.conftest import make_wafers
from wafer import steps
from wafer.errors import EmptyError, HandOverError, ParameterError
from wafer.fab.simulate import simulate_batches
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.params import Params, read_params
from wafer.records import Frozen
from wafer.reporting.notebooks import run_notebook
from wafer.trials import kept
from wafer.trials.compare import CHAMPION, PLAIN, as_text, compare_models, plot_gains, rivals, under
from wafer.trials.handover import check_hand_over, hand_to_gate, keep_run, recipe_params
from wafer.trials.wafers import Wafers, _of_table, choose_wafers
from wafer.workspace import Workspace

PARAMS = read_params(REPOSITORY / "params.yaml")
POLICY = Policy(**PARAMS.policy.model_dump())
FEW = PARAMS.evaluate.model_copy(update={"folds": 2, "first_batch": 5})


def logistic(C: float = 0.001) -> Any:
    """A linear classifier of readings."""
    return make_pipeline(
        SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(C=C, class_weight="balanced")
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Any:
    """A storage in which nothing was done yet; fits happen in this process."""
    with wafer.open(storage_url=str(tmp_path / "data"), jobs=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def small() -> Wafers:
    """Wafers of few sensors, which take no time."""
    made = make_wafers()
    table = {
        "wafer": [f"W-{number}" for number in made.order],
        "order": made.order,
        "batch": made.batch,
        "label": made.y,
    }
    return _of_table("Few sensors", pd.concat([pd.DataFrame(table), made.X.drop(columns="Sensor-24")], axis=1))


@pytest.fixture(scope="module")
def wafers(tmp_path_factory: pytest.TempPathFactory) -> Wafers:
    """The simulated wafers."""
    with wafer.open(storage_url=str(tmp_path_factory.mktemp("empty"))) as opened:
        return choose_wafers(opened)


def test_without_a_training_wafers_are_simulated(workspace: Workspace, wafers: Wafers) -> None:
    """They say so, are the same each time, and need neither registry nor database."""
    again = choose_wafers(workspace)
    assert (again.digest, again.frozen, again.simulated) == (wafers.digest, None, True)
    assert again.told.startswith(
        f"Simulated wafers, made on the spot, because {workspace.storage.root} holds no training: "
    )
    assert again.told.endswith("480 wafers of 6 batches, 31 of them faulty.")
    beaten = rivals(workspace, again, PARAMS)
    assert (beaten[CHAMPION].trees, beaten[PLAIN].trees, beaten[CHAMPION].search_folds) == (40, 40, 3)
    assert not workspace.settings.state.exists()


@pytest.mark.slow
@pytest.mark.invariant
def test_wafers_of_files_are_judged_by_the_agreement(workspace: Workspace, wafers: Wafers, tmp_path: Path) -> None:
    """Accepted files give the wafers that they hold; the others are counted; none at all is an error."""
    files = [str(file) for file in simulate_batches(tmp_path / "in", batches=2, wafers=30, seed=3)]
    Path(files[1]).write_text(Path(files[1]).read_text().replace("Sensor-7,", "Sensor-x,", 1))
    found = choose_wafers(workspace, files=[str(tmp_path / "in")])
    told = (
        "Wafers of 1 of 2 files keep the agreement, which are not in the store: 30 wafers of 1 batch, 1 of them faulty."
    )
    assert (found.told, found.simulated, set(found.batches)) == (told, False, {Path(files[0]).name})
    assert_array_equal(found.order, np.arange(1, 31))
    assert found.readings.shape == (30, 590)
    assert found.names[0] == "Wafer-1"
    with pytest.raises(EmptyError, match="no labelled wafer to try a model on: 0 of 1 files keep the agreement"):
        choose_wafers(workspace, files=files[1:])


@pytest.mark.slow
@pytest.mark.invariant
def test_gains_are_those_computed_by_hand(workspace: Workspace, small: Wafers) -> None:
    """ROC AUC and cost of two pipelines, and their differences, are what scikit-learn and the policy say of scores."""
    compared = compare_models(workspace, small, {"one": logistic(), CHAMPION: logistic(1.0)}, FEW, POLICY)
    assert compared.left_out == {}
    gains, worth = compared.gains(), compared.worth()
    for protocol in ("shuffled", "forward"):
        aucs, costs = {}, {}
        for name, scores in compared.scores.items():
            part = scores[scores["protocol"] == protocol]
            groups = [(group["label"], group["probability"]) for _, group in part.groupby("fold")]
            faults = [int((label == 1).sum()) if protocol == "forward" else 1 for label, _ in groups]
            aucs[name] = np.average([roc_auc_score(*each) for each in groups], weights=faults)
            missed = ((part["label"] == 1) & ~part["alarm"]).sum() * POLICY.cost_missed_fault
            false = ((part["label"] == -1) & part["alarm"]).sum() * POLICY.cost_false_alarm
            costs[name] = 1000 * (missed + false) / len(part)
            assert worth.loc[(protocol, name), "auc"] == pytest.approx(aucs[name])
            assert worth.loc[(protocol, name), "cost_per_1000"] == pytest.approx(costs[name])
        found = gains.loc[(protocol, "one", CHAMPION)]
        assert found["auc"] == pytest.approx(aucs["one"] - aucs[CHAMPION])
        assert found["cost"] == pytest.approx(costs["one"] - costs[CHAMPION])
        assert found["auc_low"] <= found["auc"] <= found["auc_high"]
        assert found["cost_low"] <= found["cost"] <= found["cost_high"]
    assert as_text(worth).columns.tolist()[:4] == ["protocol", "model", "ROC AUC", "faults caught"]
    texts = [text.get_text() for text in plot_gains(compared).axes[0].get_yticklabels()]
    assert texts == ["one, over champion"]


def test_a_protocol_that_wafers_are_too_few_for_is_left_out(workspace: Workspace, small: Wafers) -> None:
    """The other is compared all the same, and the reason stands in words; without both nothing fails."""
    few = FEW.model_copy(update={"first_batch": 50})
    compared = compare_models(workspace, small, {CHAMPION: logistic(), "one": logistic(1.0)}, few, POLICY)
    assert compared.left_out == {"forward": "batches are scored from number 50 on, there are 6"}
    assert set(compared.gains().index.get_level_values("protocol")) == {"shuffled"}
    none = few.model_copy(update={"folds": 60})
    nothing = compare_models(workspace, small, {CHAMPION: logistic()}, none, POLICY)
    assert as_text(nothing.worth()).empty and as_text(nothing.gains()).empty
    assert plot_gains(nothing).axes


def counted(workspace: Workspace, wafers: Wafers, model: Any, **changes: Any) -> tuple[int, pd.DataFrame]:
    """How many of the four folds were found again, and all scores."""
    params = FEW.model_copy(update=changes)
    compared = compare_models(workspace, wafers, {"one": model}, params, POLICY)
    kept = re.search(r"(\d+) kept from an earlier trial", compared.told["one"])
    return int(kept[1]) if kept else 0, compared.scores["one"]


@pytest.mark.slow
@pytest.mark.invariant
def test_scores_are_found_again_where_nothing_has_changed(
    workspace: Workspace, small: Wafers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same is a hit, bit by bit; another parameter, policy, wafer, fold or library is a miss."""
    miss, first = counted(workspace, small, logistic())
    hit, again = counted(workspace, small, logistic())
    assert (miss, hit) == (0, 4)
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert counted(workspace, small, logistic(0.002))[0] == 0
    other = compare_models(workspace, small, {"one": logistic()}, FEW, replace(POLICY, cost_missed_fault=9.0))
    assert other.told["one"] == "4 of 4 folds scored now"
    assert counted(workspace, small, logistic(), folds=3)[0] == 2  # those forward are the same
    readings = small.readings.copy()
    readings.iloc[0, 0] += 1e-9
    assert counted(workspace, _again(small, readings), logistic())[0] == 0
    monkeypatch.setattr(kept, "_versions", lambda: "numpy==0")
    assert counted(workspace, small, logistic())[0] == 0
    monkeypatch.undo()
    assert counted(workspace, small, logistic())[0] == 4


def _again(wafers: Wafers, readings: pd.DataFrame) -> Wafers:
    names = {"wafer": wafers.names, "order": wafers.order, "batch": wafers.batches, "label": wafers.labels}
    return _of_table("Others", pd.concat([pd.DataFrame(names), readings], axis=1))


def test_the_code_is_part_of_what_must_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another line in the library, in the module of a class or in one that it takes names from, is another recipe."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "code.py").write_text("one = 1\n")
    (tmp_path / "trial_base.py").write_text("factor = 1\n")
    own = tmp_path / "trial_own.py"
    own.write_text("from trial_base import factor as f\nimport trial_base\ndef twice(X):\n    return X * 2 * f\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(kept, "LIBRARY", library)
    monkeypatch.setattr(kept, "STARTED", time.time() + 60)
    model = make_pipeline(FunctionTransformer(importlib.import_module("trial_own").twice), logistic())
    seen = [kept.fingerprint(model)]
    assert kept.fingerprint(clone(model)) == seen[0]
    for file in (library / "code.py", own, tmp_path / "trial_base.py"):
        file.write_text(file.read_text() + "# another line\n")
        seen.append(kept.fingerprint(model))
    assert None not in seen and len(set(seen)) == 4


@pytest.mark.slow
@pytest.mark.invariant
def test_what_is_not_known_for_sure_is_not_kept(workspace: Workspace, small: Wafers, monkeypatch: Any) -> None:
    """A function of no module, and a file that changed since the process started, leave nothing to be found."""
    local = make_pipeline(FunctionTransformer(lambda X: X), logistic())
    assert [counted(workspace, small, local)[0] for _ in range(2)] == [0, 0]
    monkeypatch.setattr(kept, "STARTED", 0.0)
    assert kept.fingerprint(logistic()) is None
    monkeypatch.undo()
    written = "class Mine(LogisticRegression): pass"
    code = f"from sklearn.linear_model import LogisticRegression\nfrom wafer.trials.kept import fingerprint\n{written}"
    shown = f"{code}\nprint(fingerprint(Mine()), fingerprint(LogisticRegression()) is None)"
    found = subprocess.run([sys.executable, "-c", shown], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["None", "False"]


@pytest.mark.slow
@pytest.mark.invariant
def test_a_kept_score_that_cannot_be_read_is_scored_again(workspace: Workspace, small: Wafers) -> None:
    """A file that was cut, as by a full disk, costs its fold and nothing else."""
    _, first = counted(workspace, small, logistic())
    file = next((workspace.settings.state / "trials").rglob("output.pkl"))
    file.write_bytes(file.read_bytes()[:100])
    found, again = counted(workspace, small, logistic())
    assert found == 3
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert counted(workspace, small, logistic())[0] == 4


@pytest.mark.slow
@pytest.mark.invariant
def test_what_was_being_written_at_the_interrupt_is_removed(
    workspace: Workspace, small: Wafers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C between writing and renaming leaves no file; nor does a process that was killed there."""

    def interrupted(*names: str) -> None:
        raise KeyboardInterrupt

    folder = workspace.settings.state / "trials"
    monkeypatch.setattr(FileSystemStoreBackend, "_move_item", staticmethod(interrupted))
    with pytest.raises(KeyboardInterrupt):
        counted(workspace, small, logistic())
    monkeypatch.undo()
    assert not list(folder.rglob("*.*.*"))
    dead, living = (folder / f"output.pkl.{'0' * 32}-{process}-1" for process in (2**22 + 1, os.getppid()))
    for file in (dead, living):
        file.touch()
    assert counted(workspace, small, logistic())[0] == 0
    assert (dead.exists(), living.exists()) == (False, True)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (logistic(), "a Pipeline in the place of the whole model cannot be handed over"),
        (under(POLICY, logistic()), "a Pipeline in the place of the whole model cannot be handed over"),
        (
            WaferModel(members=[logistic()]),
            "a model with Pipeline among its members or candidates cannot be handed over",
        ),
        (WaferModel(candidates=[LogisticRegression()]), "with LogisticRegression among its members or candidates"),
        (WaferModel(), "a recipe is handed over with a snapshot, so that its version can be rebuilt. Simulated wafers"),
    ],
)
def test_what_cannot_become_a_version_is_refused_ahead(model: Any, told: str, wafers: Wafers) -> None:
    """Classifiers of one's own and wafers that are no snapshot are refused before any work, with the reason."""
    with pytest.raises(HandOverError, match=told):
        check_hand_over(wafers, model)


def test_a_recipe_becomes_parameters(wafers: Wafers) -> None:
    """A changed recipe and its policy take the place of the project's; an impossible value is refused by its key."""
    check_hand_over(replace(wafers, frozen=Frozen("snapshot/x", "x", 480, 31)), WaferModel(panel="linear"))
    model = WaferModel(panel="linear", trees=50, policy=Policy(alarm_rate_ceiling=0.2))
    found = recipe_params(model, PARAMS)
    assert (found.fit.panel, found.fit.trees, found.policy.alarm_rate_ceiling) == ("linear", 50, 0.2)
    assert found.evaluate == PARAMS.evaluate
    with pytest.raises(ParameterError, match=r"cannot be handed over: .*trees"):
        recipe_params(WaferModel(trees=1), PARAMS)


@pytest.mark.slow
def test_the_notebook_runs_untouched_where_nothing_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder and without a parameter, it simulates wafers, says so, compares, and makes no version."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAFER_STORAGE", str(tmp_path / "data"))
    report = run_notebook("study", {}, tmp_path, notebooks=REPOSITORY / "notebooks")
    text = Path(str(report.page)).read_text()
    assert "Simulated wafers, made on the spot, because" in text
    assert "Simulated wafers: nothing is kept." in text
    assert "Nothing was handed over." in text
    assert "Traceback" not in text
    assert not (tmp_path / "data" / "state" / "mlflow").exists()


def trained(workspace: Workspace, params: Params) -> None:
    """A first version, of a small fab."""
    list(simulate_batches(Path(str(workspace.storage.place("raw/training"))), batches=5, wafers=60, seed=7))
    with steps.working(workspace, "ingest-training") as run:
        steps.ingest(workspace, run, "training")
    with steps.working(workspace, "training") as run:
        steps.snapshot(workspace, run)
        steps.look_back(workspace, run, params)
        steps.fit(workspace, run, params.fit, params.policy, params.monitor)
        steps.evaluate(workspace, run, params.evaluate, params.fit, params.policy)
        steps.register(workspace, run, params)
        assert steps.gate(workspace, run, params.gate, params.policy).promoted


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_recipe_of_a_trial_becomes_champion(workspace: Workspace) -> None:
    """Handed over, it is trained, judged by the gate and in use; the same again makes no version."""
    small = {"trees": 20, "search_budget": 1, "panel": "linear"}
    lenient = {"minimum_auc": 0.0, "maximum_calibration_error": 1.0, "canary_z": 100.0, "auc_margin": 1.0}
    given = PARAMS.model_dump() | {"evaluate": FEW.model_dump() | {"first_batch": 4}}
    params = Params(**given | {"fit": given["fit"] | small, "gate": given["gate"] | lenient | {"cost_margin": 100.0}})
    trained(workspace, params)
    wafers = choose_wafers(workspace)
    assert (wafers.simulated, len(wafers.labels)) == (False, 300)
    beaten = rivals(workspace, wafers, params)
    mine = clone(beaten[CHAMPION]).set_params(panel="forests")
    compared = compare_models(workspace, wafers, {**beaten, "mine": mine}, params.evaluate, POLICY)
    assert compared.told[CHAMPION] == "the scores of version 1, which was trained so"
    run = keep_run(workspace, compared, "forests alone")
    logged = workspace.registry._client.get_run(run)
    assert (logged.data.tags["kind"], logged.data.tags["note"]) == ("trial", "forests alone")
    assert logged.data.metrics["mine.forward.auc"] == compared.worth().loc[("forward", "mine"), "auc"]
    handed = hand_to_gate(workspace, wafers, mine, params)
    assert (handed.version, handed.promoted, dict(handed.changed)) == (2, True, {"fit.panel": "forests"})
    assert "Put `fit.panel: forests` into `params.yaml`, or the next training goes back" in handed.told
    champion = workspace.registry.champion()
    assert champion is not None and (champion.version, champion.training) == (2, "finished")
    stored = workspace.registry.scores(2)
    forward = stored.loc[stored["protocol"] == "forward", "probability"].to_numpy()
    mine_scores = compared.scores["mine"]
    assert_array_equal(forward, mine_scores.loc[mine_scores["protocol"] == "forward", "probability"])
    again = hand_to_gate(workspace, wafers, mine, params)
    assert (again.version, again.promoted) == (2, None)
    monitor = params.monitor.model_copy(update={"rules": ["ewma"]})
    other = hand_to_gate(workspace, wafers, mine, params.model_copy(update={"monitor": monitor}))
    assert other.version == 3, "other control charts are another model"


def test_a_hand_over_does_what_a_training_does() -> None:
    """The steps of the flow, in its sequence."""
    tasks = {
        function.name: call.func.attr
        for module in ("train", "report")
        for function in ast.parse((REPOSITORY / f"flows/{module}.py").read_text()).body
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("steps.")
    }
    flow = [tasks.get(name, name) for name in calls(REPOSITORY / "flows/train.py", "train_version")]
    handed = calls(REPOSITORY / "wafer/trials/handover.py", "hand_to_gate")
    known = {*tasks.values()} - {"snapshot", "count_refusals"}  # a trial has one, and only a retraining counts them
    assert [name for name in handed if name in known] == [name for name in flow if name in known]


def calls(file: Path, name: str) -> list[str]:
    """The last names of what a function calls, from its first line to its last."""
    (function,) = (
        one for one in ast.parse(file.read_text()).body if isinstance(one, ast.FunctionDef) and one.name == name
    )
    found = [one for one in ast.walk(function) if isinstance(one, ast.Call)]
    return [
        ast.unparse(one.func).rpartition(".")[2] for one in sorted(found, key=lambda one: (one.lineno, one.col_offset))
    ]


INTERRUPTED = """
import sys, wafer
from tests.trials.test_trials import FEW, POLICY
from wafer.trials.compare import SMALL, compare_models
from wafer.trials.wafers import choose_wafers
from wafer.learning.model import WaferModel
with wafer.open(storage_url=sys.argv[1], jobs=2) as workspace:
    wafers = choose_wafers(workspace)
    try:
        compare_models(workspace, wafers, {"one": WaferModel(trees=int(sys.argv[2]))}, FEW, POLICY)
    except KeyboardInterrupt:
        import psutil, time
        left = [p.cmdline() for p in psutil.Process().children(recursive=True) if "loky" in " ".join(p.cmdline())]
        print("interrupted", [line for line in left if "resource_tracker" not in " ".join(line)], flush=True)
"""


@pytest.mark.slow
@pytest.mark.invariant
def test_an_interrupted_trial_leaves_nothing_half_done(tmp_path: Path) -> None:
    """After Ctrl-C no worker runs and no file is half written; what was scored until then is found again."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "data"), "1500"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        kept_one, deadline = tmp_path / "data" / "state" / "trials", time.monotonic() + 240
        while not list(kept_one.rglob("output.pkl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(running.pid, signal.SIGINT)
        told, _ = running.communicate(timeout=60)
    assert told == "interrupted []\n"
    assert running.returncode == 0
    files = {file.name for file in kept_one.rglob("*") if file.is_file()}
    assert files <= {"output.pkl", "metadata.json", "func_code.py", ".gitignore"}
    for file in kept_one.rglob("output.pkl"):
        assert len(joblib.load(file)) > 0
    assert [p.pid for p in psutil.process_iter() if _of(p, str(tmp_path))] == []


def _of(process: psutil.Process, place: str) -> bool:
    try:
        return place in " ".join(process.cmdline())
    except psutil.Error:
        return False
