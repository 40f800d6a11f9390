"""What is kept beside a model: params, more files of a training, predictions; nothing is left in the process."""

import json
import os
import platform
from datetime import UTC, datetime, timedelta
from importlib.metadata import distributions, version
from pathlib import Path

import mlflow
import pytest

import wafer
from tests.conftest import REPOSITORY
from tests.registry.rules import RULES
from wafer import steps
from wafer.errors import RegistryError, ReportError
from wafer.records import Frozen, Registered
from wafer.registry import Registry, Version
from wafer.registry.versions import LIBRARIES, PARAMS


def test_params_are_kept_exactly(registry: Registry, model_folder, readings, make_scores) -> None:
    """Nested params come back as they were given, numbers as numbers."""
    params = {"fit": {"trees": 5, "max_missing": 0.1 + 0.2, "panel": "all", "nested": {"a": None}}, "seed": 0}
    version = registry.log_training(
        params=params, metrics={}, scores=make_scores(1.0), model_folder=model_folder, example=readings.head(2)
    )
    assert registry.stored_json(version, PARAMS) == params
    assert registry.stored_json(version, "snapshot/manifest.json") is None


def test_every_library_is_kept(registry: Registry, log_training) -> None:
    """Python's version and that of each installed distribution, by normalised name, sorted."""
    logged: Version = log_training()
    kept = registry.stored_json(logged, LIBRARIES)
    assert isinstance(kept, dict)
    assert list(kept) == sorted(kept)
    assert (kept["python"], kept["numpy"]) == (platform.python_version(), version("numpy"))
    assert kept["scikit-learn"] == version("scikit-learn")
    assert kept["typing-extensions"] == version("typing_extensions")
    assert len(kept) == 1 + len(
        {d.metadata["Name"].lower().replace("_", "-").replace(".", "-") for d in distributions()}
    )
    file = Path(str(registry.artifact_root)) / logged.run_id / "artifacts" / LIBRARIES
    assert json.loads(file.read_text()) == kept


def test_files_can_be_added_to_a_training(registry: Registry, log_training, tmp_path: Path) -> None:
    """Files and folders that come later, such as notebooks, are kept in the place that was named, under their names."""
    version: Version = log_training()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "part.txt").write_text("part")
    (tmp_path / "page.html").write_text("page")
    registry.log_files(version.run_id, [tmp_path / "page.html", tmp_path / "report"], "reports")
    kept = Path(str(registry.artifact_root)) / version.run_id / "artifacts" / "reports"
    assert sorted(str(p.relative_to(kept)) for p in kept.rglob("*")) == ["page.html", "report", "report/part.txt"]
    assert (kept / "page.html").read_text() == "page"
    with pytest.raises(RegistryError, match=r"could not keep files with run .*nothing\.html"):
        registry.log_files(version.run_id, [tmp_path / "nothing.html"])


def test_a_prediction_is_a_run_of_its_own(registry: Registry, log_training, tmp_path: Path) -> None:
    """It holds its numbers, files and tags in the experiment of the trainings, and is finished; it is no version."""
    log_training()
    (tmp_path / "page.html").write_text("page")
    run_id = registry.log_prediction(
        "prediction 2026-01-01", {"wafers": 80, "alarms": {"count": 3}}, [tmp_path / "page.html"], {"model.version": 1}
    )
    run = registry._client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "prediction 2026-01-01")
    assert run.info.experiment_id == registry._client.get_run(registry.version(1).run_id).info.experiment_id
    assert run.data.metrics == {"wafers": 80.0, "alarms.count": 3.0}
    assert (run.data.tags["kind"], run.data.tags["model.version"]) == ("prediction", "1")
    assert [item.path for item in registry._client.list_artifacts(run_id, "reports")] == ["reports/page.html"]
    assert [item.path for item in registry._client.list_artifacts(run_id)] == ["reports"]
    assert [version.version for version in registry.versions()] == [1]


def test_a_prediction_that_cannot_be_kept_is_marked_as_failed(registry: Registry, log_training, tmp_path: Path) -> None:
    """A missing file is one sentence, and the run does not look as if it had gone well, whatever was kept before."""
    log_training()
    (tmp_path / "page.html").write_text("page")
    with pytest.raises(RegistryError, match=r"nothing\.html"):
        registry.log_prediction("prediction", {}, (tmp_path / name for name in ("page.html", "nothing.html")))
    experiment = registry._client.get_experiment_by_name("wafer").experiment_id
    failed = registry._client.search_runs([experiment], "tags.kind = 'prediction'")
    assert [run.info.status for run in failed] == ["FAILED"]


def test_logging_leaves_the_process_as_it_was(registry: Registry, log_training) -> None:
    """No address and no run of MLflow's stays behind for whoever uses it next, in the process or its children."""
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), os.environ.get("MLFLOW_TRACKING_URI"))
    registry.decide(log_training(), RULES)
    registry.log_prediction("prediction", {})
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), os.environ.get("MLFLOW_TRACKING_URI")) == before
    assert mlflow.active_run() is None
    assert registry.tracking_uri != mlflow.get_tracking_uri()


def test_a_version_tells_when_it_was_made(log_training) -> None:
    """Its time of registration is kept with it, in UTC."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    assert before <= datetime.fromisoformat(log_training().created) <= datetime.now(UTC)


def test_the_newest_of_two_trainings_is_the_challenger(registry: Registry, log_training, monkeypatch) -> None:
    """A training that is overtaken while it is registered does not take the alias back from the newer one."""
    announce = registry._announce
    monkeypatch.setattr(registry, "_announce", lambda version: None)
    log_training()
    monkeypatch.undo()
    log_training()
    announce(1)
    assert registry.aliases() == {"challenger": 2}
    assert [version.stage for version in registry.versions()] == ["archived", "staging"]


@pytest.mark.slow
@pytest.mark.invariant
def test_a_failed_report_is_kept_with_its_training(
    registry: Registry, log_training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a cell fails the step fails with its error; the notebook, as far as it came, lies in folder and run."""
    monkeypatch.chdir(REPOSITORY)
    logged: Version = log_training()
    workspace = wafer.open(storage_url=str(tmp_path / "data"), state_folder=tmp_path / "state")
    with workspace.runs.started("training") as run:
        run.write(Frozen("snapshot/nowhere", "0" * 64, 0, 0))
        run.write(Registered(logged.version, logged.run_id))
    with pytest.raises(ReportError, match=r"SnapshotError: .*nowhere is not a snapshot"):
        steps.report(workspace, run, "data_quality")
    left = [file.name for file in run.place("").iterdir() if file.suffix in (".html", ".ipynb")]
    kept = mlflow.MlflowClient(registry.tracking_uri).list_artifacts(logged.run_id, "reports")
    assert sorted(left) == [Path(file.path).name for file in kept] == ["data_quality.html", "data_quality.ipynb"]
