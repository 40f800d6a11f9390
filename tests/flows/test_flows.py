"""The flows on a real, temporary Prefect server: the main job, and what a person sees when something is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

import wafer
from flows.ingest import ingest
from flows.predict import predict
from flows.train import train
from tests import terminal
from tests.conftest import REPOSITORY
from wafer import steps
from wafer.errors import DeliveryError, RegistryError, UnfitError
from wafer.fab.simulate import simulate_batches
from wafer.params import read_params
from wafer.registry import Registry
from wafer.settings import Settings
from wafer.storage import read_json


def at_length_on_a_server(test: Callable[..., None]) -> Callable[..., None]:
    """Run on one Prefect server, which takes its time to start, with the others that need it."""
    for mark in pytest.mark.slow, pytest.mark.xdist_group("prefect"):
        test = mark(test)
    return pytest.mark.usefixtures("prefect_server")(test)


def on_a_server(test: Callable[..., None]) -> Callable[..., None]:
    """The same, of what must never break."""
    return pytest.mark.invariant(at_length_on_a_server(test))


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """One server for the module."""
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture
def storage(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The environment names the test's own storage and database, as for a real run."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("WAFER_STORAGE", settings.storage_url)
    monkeypatch.setenv("MONGODB_URL", settings.mongodb_url or "")
    monkeypatch.setenv("MONGODB_DATABASE", settings.mongodb_database)
    monkeypatch.setenv("WAFER_JOBS", "1")
    return Settings.read()


def runs_of(storage: Settings, kind: str) -> list[str]:
    """The ids of MLflow's runs of a kind."""
    client = MlflowClient(storage.tracking_uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    return [run.info.run_id for run in client.search_runs(experiments, f"tags.kind = '{kind}'")]


def kept_files(storage: Settings, run_id: str) -> list[str]:
    """The names of the reports that MLflow keeps with a run."""
    return sorted(Path(file.path).name for file in MlflowClient(storage.tracking_uri).list_artifacts(run_id, "reports"))


@on_a_server
def test_the_flows_do_the_whole_job(storage: Settings, small_params: Path) -> None:
    """Ingest, train and predict: reports, a champion, and each accepted wafer scored once in its batch's order."""
    with wafer.open() as workspace:
        steps.deliver_where_empty(workspace, read_params(small_params).deliver)
        assert ingest(None, "training").complaints == ()
        done = workspace.runs.get(train(str(small_params)).run_id)
    champion = Registry.open(storage).champion()
    assert champion is not None
    assert champion.version == 1
    notebooks = ("data_quality", "exploration", "training")
    files = [f"{name}.{ending}" for name in notebooks for ending in ("html", "ipynb")]
    assert sorted(p.name for p in done.place("").iterdir() if p.suffix in (".html", ".ipynb")) == files
    assert kept_files(storage, champion.run_id) == files
    scored_run = workspace.runs.get(predict().run_id)
    (prediction,) = runs_of(storage, "prediction")
    assert kept_files(storage, prediction) == ["details", "prediction.html", "prediction.ipynb"]
    assert len(read_json(scored_run.place("predictions.json"))) == 2
    for file in sorted(workspace.raw("prediction").iterdir()):
        scored = pd.read_csv(Path(str(scored_run.place("predictions"))) / file.name)
        assert scored["Wafer"].tolist() == pd.read_csv(file).iloc[:, 0].tolist()
        assert set(scored["model_version"]) == {1}


def relabel(file: Path, faults: int) -> int:
    """Give the first wafers of a labelled batch file the label of a fault, the others that of none; how many got it."""
    header, *lines = file.read_text().splitlines()
    labels = [1 if number < faults else -1 for number in range(len(lines))]
    written = [f"{line.rpartition(',')[0]},{label}" for line, label in zip(lines, labels, strict=True)]
    file.write_text("\n".join([header, *written, ""]))
    return labels.count(1)


@at_length_on_a_server
@pytest.mark.parametrize(
    ("batches", "wafers", "faults"),
    [
        (1, 20, 0),
        (1, 20, 1),
        (1, 40, 2),
        (1, 40, 40),
        (9, 5, 4),
        (1, 200, 1),
        (2, 30, 18),
        (3, 40, 0),
        (3, 40, 1),
        (4, 30, 12),
        (1, 200, 20),
        (9, 44, 40),
        (2, 60, 119),
    ],
)
def test_an_odd_fab_goes_through_the_training(
    batches: int, wafers: int, faults: int, storage: Settings, tmp_path: Path, small_params: Path
) -> None:
    """Its batch files are taken in and trained on, whole with figures and pages; what is too few is told."""
    left = faults
    for file in simulate_batches(tmp_path / "raw", batches=batches, wafers=wafers, seed=7):
        left -= relabel(Path(str(file)), left)
    assert left == 0
    assert ingest(str(tmp_path / "raw"), "training").complaints == ()
    if batches * wafers < 40 or faults < 2 or faults > 0.3 * batches * wafers:
        with pytest.raises(UnfitError, match="is not fit to train on") as caught:
            train(str(small_params))
        assert "\n" not in str(caught.value)
        assert Registry.open(storage).versions() == []
        return
    assert train(str(small_params)).complaints == ()
    assert [version.training for version in Registry.open(storage).versions()] == ["finished"]


@on_a_server
def test_predicting_before_any_training_says_so(storage: Settings, tmp_path: Path, small_params: Path) -> None:
    """Without a champion the prediction flow fails with the sentence that tells what to do, and takes nothing in."""
    with wafer.open() as workspace:
        steps.deliver_where_empty(workspace, read_params(small_params).deliver)
    with pytest.raises(RegistryError, match="run the training first"):
        predict()
    (failed, _) = workspace.runs.all()
    assert (failed["kind"], failed["state"]) == ("prediction", "failed")
    assert "run the training first" in failed["error"]
    with wafer.open() as again:
        assert again.store.status().batches["prediction"] == 0


@on_a_server
def test_a_missing_folder_is_an_error_of_the_delivery(storage: Settings) -> None:
    """A folder that is not there is named."""
    with pytest.raises(DeliveryError, match="no/such/folder"):
        ingest("no/such/folder", "training")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["ingest", "--raw", "no/such/folder"], {}, "no/such/folder"),
        (["train", "--params", "no/such/params.yaml"], {}, "no/such/params.yaml is not a file"),
        (["train"], {"MONGODB_URL": "mongodb://127.0.0.1:9/"}, "nobody answers at 127.0.0.1:9"),
        (["predict", "--raw", "."], {"WAFER_JOBS": "none"}, "WAFER_JOBS"),
    ],
)
def test_a_persons_mistake_ends_in_one_sentence(
    arguments: list[str], environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    """On the command line of a flow: exit status 2, one clear sentence, no traceback."""
    done = terminal.wafer(*arguments, cwd=REPOSITORY, WAFER_STORAGE=str(tmp_path), **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_an_unreadable_file_shows_in_the_exit_status(tmp_path: Path) -> None:
    """The good file beside it is taken in, the report names it, and the command ends with 1."""
    raw = tmp_path / "raw"
    (good,) = simulate_batches(raw, batches=1, wafers=20, seed=7)
    (raw / "wafer_01012020_000000.csv").symlink_to(tmp_path / "nowhere")
    done = subprocess.run(
        [Path(sys.executable).with_name("wafer"), "ingest", "--raw", str(raw)],
        cwd=REPOSITORY,
        env={**os.environ, "WAFER_STORAGE": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (file,) = (tmp_path / "data" / "runs").glob("*/ingest-training.json")
    report = json.loads(file.read_text())
    verdicts = {batch["file"]: batch["verdict"] for batch in report["batches"]}
    assert verdicts == {good.name: "accepted", "wafer_01012020_000000.csv": "unread"}


def test_deployments_name_flows_that_exist() -> None:
    """prefect.yaml's entrypoints are flows whose parameters are all explained; each deployment is called `wafer`, one
    run of it works at a time, and its schedules have a time zone and are inactive."""
    import yaml

    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    known_flows = {"flows.ingest:ingest": ingest, "flows.train:train": train, "flows.predict:predict": predict}
    assert [d["entrypoint"] for d in deployments] == list(known_flows)
    for deployment in deployments:
        flow = known_flows[deployment["entrypoint"]]
        assert deployment["name"] == "wafer"
        assert deployment["tags"] == ["wafer", flow.name]
        assert [(s["active"], s["timezone"]) for s in deployment["schedules"]] == [(False, "UTC")]
        assert deployment["concurrency_limit"]["limit"] == 1
        known = flow.parameters.properties
        assert set(deployment.get("parameters", {})) <= known.keys(), json.dumps(deployment)
        assert [name for name, schema in known.items() if not schema.get("description")] == []
