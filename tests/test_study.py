"""The steps as DVC runs them: apart from production, with a database of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import REPOSITORY
from wafer import study
from wafer.scoring.batches import COLUMNS

ALL = (
    ("deliver",),
    ("ingest-training", "snapshot"),
    ("fit",),
    ("evaluate",),
    ("ingest-training", "ingest-prediction", "predict"),
    ("report-data-quality", "report-exploration", "report-training"),
    ("report-prediction",),
)


def run(names: tuple[str, ...], storage: Path, params: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wafer", "study", *names, "--storage", str(storage), "--params", str(params)]
    return subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_study_leaves_results_and_no_state(tmp_path: Path, small_params: Path) -> None:
    """The whole study, though the environment names a production database: its own outputs only."""
    (tmp_path / "models" / "of-an-earlier-run").mkdir(parents=True)
    for names in ALL:
        done = run(names, tmp_path, small_params, MONGODB_URL="mongodb://127.0.0.1:9/", WAFER_JOBS="1")
        assert done.returncode == 0, done.stderr
    made = tmp_path / "runs" / "study"
    metrics = json.loads((made / "metrics.json").read_text())
    assert metrics.keys() == {"shuffled", "forward", "permuted", "plain", "left_out", "wafers", "faulty", "clusters"}
    assert metrics["wafers"] == 240
    places = ["models", "quarantine", "runs", "snapshot"]
    assert sorted(p.name for p in tmp_path.iterdir()) == places
    details = pd.read_csv(made / "details" / "wafers.csv")
    for file in sorted((made / "raw" / "prediction").iterdir()):
        scored = pd.read_csv(made / "predictions" / file.name)
        assert scored.columns.tolist() == list(COLUMNS)
        assert scored["Wafer"].tolist() == pd.read_csv(file).iloc[:, 0].tolist()
        assert set(scored["Prediction"]) <= {-1, 1}
        judged = details.loc[details["batch"] == file.stem]
        assert judged["Wafer"].tolist() == scored["Wafer"].tolist()
        assert not judged["label_known"].any()
    drift = json.loads((made / "details" / "drift.json").read_text())
    assert sorted(batch["batch"] for batch in drift["batches"]) == sorted(set(details["batch"]))
    assert all(isinstance(batch["drifted"], bool) for batch in drift["batches"])
    alarms = sum(entry["alarms"] for entry in json.loads((made / "predictions.json").read_text()))
    explained = pd.read_csv(made / "details" / "reasons.csv")["Wafer"].nunique()
    assert explained <= alarms if drift["reasons"]["shown"] else explained == 0
    page = (made / "prediction.html").read_text()
    assert "Has the process moved?" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("fit",), "study has no record of its step 'snapshot': run that first"),
        (("ingest-training",), "raw/training"),
        (("evaluate",), "study has no record of its step 'snapshot': run that first"),
    ],
)
def test_a_step_without_its_inputs_says_what_is_missing(
    names: tuple[str, ...], message: str, tmp_path: Path, small_params: Path
) -> None:
    """Exit status 2 and one sentence, no traceback, nothing left behind."""
    done = run(names, tmp_path, small_params)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_the_stages_run_known_steps() -> None:
    """Each stage of dvc.yaml runs known steps and follows from files of those before it."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    made: set[str] = set()
    for name, stage in stages.items():
        command = stage["cmd"].split()
        assert command[:2] == ["wafer", "study"], name
        assert set(command[2:]) <= set(study.NAMES), name
        assert set(stage.get("params", [])) <= params.keys(), name
        for dependency in stage["deps"]:
            if dependency.startswith("data/"):
                assert any(dependency == m or dependency.startswith(f"{m}/") for m in made), (name, dependency)
            else:
                assert (REPOSITORY / dependency).exists(), (name, dependency)
        outputs = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
        paths = [next(iter(o)) if isinstance(o, dict) else o for o in outputs]
        assert all(path.startswith("data/repro/") for path in paths), name
        made |= set(paths)
    assert tuple(tuple(s["cmd"].split()[2:]) for s in stages.values()) == ALL
