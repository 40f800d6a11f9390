"""`dvc repro`: works from nothing, reruns what changed and nothing else, and agrees with the flows."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.end_to_end.conftest import Run

pytestmark = pytest.mark.slow


def results(storage: Path) -> dict[str, object]:
    """Metrics, predictions (without the registry's number) and the digests of the model's parts."""
    (model,) = (storage / "models").iterdir()
    (scored,) = (storage / "runs").glob("*/predictions")
    (metrics,) = (storage / "runs").glob("*/metrics.json")
    predictions = {f.name: pd.read_csv(f).drop(columns="model_version") for f in scored.iterdir()}
    return {
        "metrics": json.loads(metrics.read_text()),
        "predictions": {name: frame.to_csv() for name, frame in sorted(predictions.items())},
        "model": (model / "manifest.json").read_text(),
        "snapshot": [p.name for p in (storage / "snapshot").iterdir()],
    }


@pytest.mark.invariant
def test_a_study_is_reproducible_and_agrees_with_the_flows(checkout: Path, run: Run, tmp_path: Path) -> None:
    """Once as a study and once by the flows on the same raw files: the same metrics, predictions and parts."""
    run("dvc", "repro")
    study = checkout / "data" / "repro"
    first = results(study)
    raw = study / "runs" / "study" / "raw"
    assert set(first["predictions"]) == {p.name for p in (raw / "prediction").iterdir()}  # type: ignore[call-overload]
    assert "Running stage" not in run("dvc", "repro")
    production = tmp_path / "production"
    run("wafer", "run", "--raw", str(raw), WAFER_STORAGE=str(production))
    assert results(production) == first


def test_a_study_from_nothing_is_the_same_and_reruns_what_is_concerned(checkout: Path, run: Run) -> None:
    """Twice from nothing: the same. Another number of folds reruns the evaluation and its report, and nothing else."""
    run("dvc", "repro")
    study = checkout / "data" / "repro"
    first = results(study)
    for made in (study, checkout / ".dvc" / "cache", checkout / ".dvc" / "tmp"):
        shutil.rmtree(made)
    (checkout / "dvc.lock").unlink()
    run("dvc", "repro")
    assert results(study) == first
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    params["evaluate"]["folds"] += 1
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))
    said = run("dvc", "repro")
    ran = [line for line in said.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'evaluate':", "Running stage 'report-training':"]
