"""The registry's fake answers as MLflow does: each test runs on both."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tests.simulation.tracking import Tracking, TrackingServer

pytestmark = [pytest.mark.slow, pytest.mark.invariant]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without content, whose tables take MLflow some seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}").search_registered_models()
    return file


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A client of an empty registry."""
    if request.param == "fake":
        return Tracking(TrackingServer())
    file = tmp_path / "mlflow.db"
    shutil.copyfile(request.getfixturevalue("tables"), file)
    return MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}")


@pytest.fixture
def run(client: Any, tmp_path: Path) -> str:
    """A run of a new experiment."""
    experiment = client.create_experiment("fab", artifact_location=str(tmp_path / "artifacts"))
    return str(client.create_run(experiment, run_name="training", tags={"kind": "training"}).info.run_id)


def code(refused: pytest.ExceptionInfo[MlflowException]) -> str:
    return str(refused.value.error_code)


def test_an_experiment_is_made_once(client: Any, run: str) -> None:
    """It is found by its name, and another one of that name is refused."""
    assert client.get_experiment_by_name("other") is None
    assert client.get_experiment_by_name("fab").experiment_id
    with pytest.raises(MlflowException) as refused:
        client.create_experiment("fab", artifact_location="elsewhere")
    assert code(refused) == "RESOURCE_ALREADY_EXISTS"


def test_what_a_run_keeps(client: Any, run: str) -> None:
    """A param is taken once, the same again is no error, another value is refused; the last metric counts."""
    client.log_param(run, "00000001", "a")
    client.log_param(run, "00000001", "a")
    with pytest.raises(MlflowException) as refused:
        client.log_param(run, "00000001", "b")
    assert code(refused) == "INVALID_PARAMETER_VALUE"
    client.log_batch(run, params=[Param("x", "1")])
    client.log_batch(run, metrics=[Metric("auc", 0.7, 1, 0)])
    found = client.get_run(run)
    assert (found.data.params, found.data.metrics) == ({"00000001": "a", "x": "1"}, {"auc": 0.7})
    assert found.data.tags["kind"] == "training"
    assert found.info.status == "RUNNING"
    client.set_terminated(run, "FAILED")
    assert client.get_run(run).info.status == "FAILED"
    client.set_terminated(run)
    assert client.get_run(run).info.status == "FINISHED"
    with pytest.raises(MlflowException) as missing:
        client.get_run("0" * 32)
    assert code(missing) == "RESOURCE_DOES_NOT_EXIST"


def test_files_of_a_run(client: Any, run: str, tmp_path: Path) -> None:
    """Files are listed by folder and come back as they were."""
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.json").write_text("1")
    (folder / "sub" / "b.txt").write_text("2")
    client.log_artifacts(run, str(folder))
    client.log_artifacts(run, str(folder / "sub"), "reports")
    assert sorted(item.path for item in client.list_artifacts(run, None)) == ["a.json", "reports", "sub"]
    assert [item.path for item in client.list_artifacts(run, "reports")] == ["reports/b.txt"]
    assert client.list_artifacts(run, "none") == []
    target = tmp_path / "target"
    target.mkdir()
    assert Path(client.download_artifacts(run, "a.json", str(target))).read_text() == "1"
    assert Path(client.download_artifacts(run, "sub/b.txt", str(target))).read_text() == "2"
    with pytest.raises((MlflowException, OSError)):
        client.download_artifacts(run, "none.json", str(target))


def test_a_model_and_its_versions(client: Any, run: str, tmp_path: Path) -> None:
    """Versions are counted from 1, tags are kept, aliases move, and the files of a logged model come back."""
    experiment = client.get_experiment_by_name("fab").experiment_id
    model = client.create_logged_model(experiment, name="model", source_run_id=run, params={}, model_type="wafer")
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    folder = tmp_path / "packed"
    (folder / "parts").mkdir(parents=True)
    (folder / "MLmodel").write_text("m")
    (folder / "parts" / "one").write_text("1")
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    source = client.get_logged_model(model.model_id).artifact_location
    with pytest.raises(MlflowException) as missing:
        client.get_registered_model("wafer")
    assert code(missing) == "RESOURCE_DOES_NOT_EXIST"
    client.create_registered_model("wafer", description="")
    with pytest.raises(MlflowException) as there:
        client.create_registered_model("wafer", description="")
    assert code(there) == "RESOURCE_ALREADY_EXISTS"
    made = [
        client.create_model_version("wafer", source, run_id=run, tags={"stage": stage}, model_id=model.model_id)
        for stage in ("one", "two")
    ]
    assert [int(version.version) for version in made] == [1, 2]
    found = client.search_model_versions("name='wafer'", max_results=10)
    assert {(int(v.version), v.run_id, v.tags["stage"]) for v in found} == {(1, run, "one"), (2, run, "two")}
    client.set_model_version_tag("wafer", "1", "stage", "archived")
    version = client.get_model_version("wafer", "1")
    assert (version.tags["stage"], version.source) == ("archived", source)
    (target := tmp_path / "kept").mkdir()
    if isinstance(client, Tracking):
        kept = Path(client.download(source, target))
    else:
        address = client._tracking_client.tracking_uri
        kept = Path(download_artifacts(artifact_uri=source, dst_path=str(target), tracking_uri=address))
    assert sorted(str(f.relative_to(kept)) for f in kept.rglob("*") if f.is_file()) == ["MLmodel", "parts/one"]


def test_aliases(client: Any, run: str) -> None:
    """An alias names one version of those that there are; to remove one that is not there is no error."""
    client.create_registered_model("wafer", description="")
    for _ in range(2):
        client.create_model_version("wafer", "somewhere", run_id=run, tags={}, model_id=None)
    client.set_registered_model_tag("wafer", "ledger", run)
    for version in ("1", "2"):
        client.set_registered_model_alias("wafer", "champion", version)
    client.set_registered_model_alias("wafer", "previous", "1")
    client.delete_registered_model_alias("wafer", "previous")
    client.delete_registered_model_alias("wafer", "previous")
    found = client.get_registered_model("wafer")
    assert {alias: int(version) for alias, version in found.aliases.items()} == {"champion": 2}
    assert found.tags["ledger"] == run
    with pytest.raises(MlflowException) as missing:
        client.set_registered_model_alias("wafer", "champion", "9")
    assert code(missing) == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(MlflowException) as nowhere:
        client.get_model_version("wafer", "9")
    assert code(nowhere) == "RESOURCE_DOES_NOT_EXIST"
