"""The wheel in an empty environment: what a customer has who never saw this repository."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
Install = Callable[[str], Path]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Install the wheel with some extras into an empty environment, in the locked versions; returns its folder."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed, which makes environments here")

    def install(extras: str) -> Path:
        environment = folder / f"environment{extras}"
        locked = ["--constraint", str(REPOSITORY / "requirements.lock")]
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
        into = [uv, "pip", "install", "--quiet", "--python", str(environment / "bin" / "python"), *locked]
        subprocess.run([*into, f"{wheel}{extras}"], check=True)
        return environment

    return install


def run(environment: Path, folder: Path, *command: str, status: int = 0) -> str:
    """What a command of the environment prints that is run in `folder`, with nothing of this checkout in sight."""
    kept = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV") and not k.startswith("WAFER_")
    }
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    given = {**kept, "PATH": path, "PWD": str(folder), "WAFER_JOBS": "2", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def whole(install: Install) -> Path:
    """An environment that holds the wheel with all that a job needs."""
    return install("[pipeline,embedded,dvc]")


@pytest.fixture(scope="module")
def fab(whole: Path, small_params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the whole job was done once."""
    folder = tmp_path_factory.mktemp("customer")
    assert "README.md" in run(whole, folder, "wafer", "init", "fab")
    shutil.copyfile(small_params, folder / "fab" / "params.yaml")
    run(whole, folder / "fab", "wafer", "run")
    return folder / "fab"


def test_the_whole_job_is_done_from_the_wheel(whole: Path, fab: Path) -> None:
    """`wafer init fab && cd fab && wafer run`: a champion, predictions of every batch, and every page."""
    (champion,) = [
        v for v in json.loads(run(whole, fab, "wafer", "models", "list", "--json")) if "champion" in v["aliases"]
    ]
    assert champion["version"] == 1
    (prediction,) = (fab / "data" / "runs").glob("prediction-*")
    assert len(list((prediction / "predictions").glob("*.csv"))) == 2
    pages = {page.name for page in (fab / "data" / "runs").glob("*/*.html")}
    named = {"data_quality.html", "exploration.html", "training.html", "prediction.html"}
    assert pages == {*named, "ingest-training.html", "ingest-prediction.html"}
    assert (fab / "data" / "reports" / "index.html").is_file()


def test_the_study_of_a_project_runs_and_rests(whole: Path, fab: Path) -> None:
    """`dvc repro` makes everything once; again, it sees that neither files nor the library have changed."""
    run(whole, fab, "git", "init", "--quiet")
    run(whole, fab, "dvc", "init", "--quiet")
    assert "Running stage 'report-prediction'" in run(whole, fab, "dvc", "repro")
    again = run(whole, fab, "dvc", "repro")
    assert [line for line in again.splitlines() if line.startswith("Running")] == ["Running stage 'library':"]


def test_the_core_scores_with_a_model_of_the_job(install: Install, fab: Path) -> None:
    """Without extras, a saved model scores a batch file as the job did; the job itself says which extra it lacks."""
    core = install("")
    script = """
import sys
import pandas as pd
import wafer
from wafer.scoring.judge import judge
with wafer.open() as workspace:
    bundle = workspace.bundle("models/" + workspace.storage.children("models")[0])
wafers = pd.read_csv(sys.argv[1])
order = wafers.iloc[:, 0].str.removeprefix("Wafer-").astype(int)
judged = judge(bundle, wafers.filter(like="Sensor-"), order).wafers
judged.to_csv(sys.stdout, index=False)
"""
    (scored,) = (fab / "data" / "runs").glob("prediction-*/predictions")
    said = pd.read_csv(min(scored.glob("*.csv")))
    (raw,) = (fab / "data" / "runs").glob(f"delivery-*/raw/prediction/{min(scored.glob('*.csv')).name}")
    judged = pd.read_csv(io.StringIO(run(core, fab, "python", "-c", script, str(raw))))
    assert judged["probability"].to_numpy() == pytest.approx(said["probability"].to_numpy(), abs=1e-9)
    assert judged["verdict"].tolist() == said["Prediction"].tolist()
    told = run(core, fab, "wafer", "run", status=2)
    assert "is not installed: install wafer[pipeline]" in told
