"""`wafer monitor`, as a person uses it."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import wafer
from tests.cli.test_models import make
from tests.conftest import REPOSITORY
from wafer import steps
from wafer.cli.main import main
from wafer.fab.simulate import simulate_batches, simulate_frame
from wafer.learning.model import WaferModel
from wafer.scoring.bundle import fit_bundle

pytestmark = [pytest.mark.slow, pytest.mark.invariant]


def run(arguments: list[str], storage: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("WAFER_STORAGE", str(storage))
    monkeypatch.setattr(sys, "argv", ["wafer", "monitor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_files_are_looked_at_by_the_model_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every accepted wafer counts, a file that breaks the agreement is named and left out; text and JSON agree."""
    past = pd.concat([simulate_frame(batch, wafers=100, seed=7) for batch in range(4)], ignore_index=True)
    recipe = WaferModel(trees=10, search_budget=1, search_folds=2, calibration_folds=2, max_clusters=1)
    X = past.filter(like="Sensor-")
    fit_bundle(recipe, X, past["label"], np.arange(400), reasons=False).save(tmp_path / "model")
    make(tmp_path / "storage", tmp_path / "model", X)
    list(simulate_batches(tmp_path / "raw", batches=2, wafers=100, seed=7, labelled=False, first_batch=4))
    (tmp_path / "raw" / "wafer_01012020_000000.csv").write_text("nothing\n")
    assert run([str(tmp_path / "raw"), "--json"], tmp_path / "storage", monkeypatch) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert "quarantined: wafer_01012020_000000.csv" in captured.err
    assert told["wafers"] == 200 and [one["wafers"] for one in told["batches"]] == [100, 100]
    assert {one["Wafer"] for one in told["contributions"]} <= {f"Wafer-{number}" for number in range(401, 601)}
    assert len({one["Wafer"] for one in told["contributions"]}) == told["out_of_control"]
    assert run([str(tmp_path / "raw")], tmp_path / "storage", monkeypatch) == 0
    assert f"{told['out_of_control']} of 200 wafers are beyond a limit of T² or SPE" in capsys.readouterr().out
    with wafer.open(storage_url=str(tmp_path / "storage")) as workspace, workspace.runs.started("prediction") as made:
        steps.ingest(workspace, made, "prediction", str(tmp_path / "raw"))
        steps.predict(workspace, made)
    capsys.readouterr()
    assert run(["--json"], tmp_path / "storage", monkeypatch) == 0
    assert json.loads(capsys.readouterr().out) == told


def test_where_there_is_nothing_to_look_at_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No prediction yet, a folder that is not there, and no model in use are one sentence each."""
    assert run([], tmp_path / "storage", monkeypatch) == 1
    assert "nothing was predicted yet" in capsys.readouterr().err
    assert run([str(tmp_path / "gone")], tmp_path / "storage", monkeypatch) == 2
    assert "gone" in capsys.readouterr().err
    list(simulate_batches(tmp_path / "raw", batches=1, wafers=20, seed=7, labelled=False))
    assert run([str(tmp_path / "raw")], tmp_path / "storage", monkeypatch) == 2
    assert "has no champion yet" in capsys.readouterr().err
