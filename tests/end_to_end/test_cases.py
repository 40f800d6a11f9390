"""What real use has brought, each as it was typed: the exit status, the sentence, and what is left on the disk."""

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.terminal import wafer
from wafer.errors import ModelError, PreflightError
from wafer.fab.simulate import simulate_batches, simulate_frame
from wafer.learning.model import WaferModel
from wafer.preflight import look_ahead
from wafer.reporting.tables import calibration_bins
from wafer.runs import Runs
from wafer.settings import Settings
from wafer.storage import Storage


def typed(place: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m` with a command, typed in the folder `place`."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=place, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with one good batch file, in no project."""
    list(simulate_batches(tmp_path / "raw", batches=1, wafers=3, seed=1))
    return tmp_path / "raw"


@pytest.mark.parametrize("storage", ["file", "file/below", "/proc/x", "a?b"])
def test_a_storage_that_cannot_be_made(storage: str, raw: Path) -> None:
    """One sentence that names WAFER_STORAGE and the folder, and nothing else on the terminal or the disk."""
    (raw.parent / "file").touch()
    before = sorted(raw.parent.rglob("*"))
    done = wafer("ingest", "--raw", "raw", cwd=raw.parent, WAFER_STORAGE=storage)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("wafer: WAFER_STORAGE is ")
    assert storage in line
    assert sorted(raw.parent.rglob("*")) == before


def test_a_folder_one_level_too_high(raw: Path) -> None:
    """Checked or scored, in no project: no batch file lies there, one folder was left out, exit status 1."""
    (raw.parent / "wrong" / "2020").mkdir(parents=True)
    for command in ("check", "wrong"), ("predict", "--raw", "wrong"):
        done = wafer(*command, cwd=raw.parent, WAFER_STORAGE="storage")
        assert done.returncode == 1, done.stderr
        (line,) = (done.stdout + done.stderr).splitlines()
        assert "no batch file lies in" in line
        assert "1 folder inside (2020) was left out" in line
    assert not (raw.parent / "storage").exists()


def test_a_check_needs_no_project(raw: Path) -> None:
    """It writes nothing, so it works wherever it is typed, by the library's suites or by those of that folder."""
    done = wafer("check", "raw", cwd=raw.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 files: 1 accepted, 0 quarantined"
    (raw.parent / "expectations").mkdir()
    done = wafer("check", "raw", cwd=raw.parent)
    assert done.returncode == 2
    assert done.stderr.startswith(f"wafer: {raw.parent}/expectations/training.json: ")


def test_a_flow_in_no_project(raw: Path) -> None:
    """One sentence says where to go or what to name; the folder stays as it was."""
    (raw.parent / "elsewhere").mkdir()
    done = wafer("ingest", "--raw", raw, cwd=raw.parent / "elsewhere")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("wafer: no project lies in ")
    assert list((raw.parent / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("  trees: 600\n", "  trees: 600\n  trees: 10\n"), "line {line}: the key 'trees' stands twice"),
        (("deliver:", "# Größe\ndeliver:"), "expected UTF-8 text, got the byte 0xf6 in line"),
        (
            ("cost_missed_fault: 20.0", "cost_missed_fault: .inf"),
            "cost_missed_fault: expected a finite number, got inf",
        ),
        (("  canary_z: 3.0", "  canary_low: 0.9\n  canary_high: 0.1"), "gate.canary_low: "),
    ],
    ids=["twice", "latin-1", "infinite", "swapped"],
)
def test_parameters_that_cannot_be_used(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    """One sentence with the file's name and the key, before anything starts."""
    text = (REPOSITORY / "params.yaml").read_text()
    assert change[0] in text
    file = tmp_path / "params.yaml"
    file.write_bytes(text.replace(*change, 1).encode("latin-1"))
    with pytest.raises(PreflightError) as caught:
        look_ahead(Settings.read(storage_url=str(tmp_path / "data")), params=file)
    (sentence,) = caught.value.problems
    assert sentence.startswith(f"{file}: ")
    assert told.format(line=text[: text.index("  trees: 600")].count("\n") + 2) in sentence
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("section", ["fit", "evaluate", "gate"])
def test_a_seed_that_no_library_takes(section: str, tmp_path: Path) -> None:
    """2**32 is refused by its key at the start, and not by scikit-learn after minutes."""
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    content[section]["seed"] = 2**32
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    done = wafer("params", "check", "params.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"wafer: params.yaml: {section}.seed: must be at most 4294967295, got 4294967296\n"


@pytest.mark.slow
def test_a_task_that_fails_is_told_once(tmp_path: Path) -> None:
    """Scoring without a model fails within a task: Prefect's log shows no traceback of it beside the one sentence."""
    list(simulate_batches(tmp_path / "raw", batches=1, wafers=3, seed=1, labelled=False))
    done = typed(tmp_path, "wafer", "predict", "--raw", "raw", WAFER_STORAGE="storage", WAFER_JOBS="1")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "ERROR" not in done.stderr
    assert "INFO" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("wafer: ")
    assert "run the training first" in last


AGREEMENT: dict[str, Any] = {
    "SampleFileName": "wafer_08012020_120000.csv",
    "LengthOfDateStampInFile": 8,
    "LengthOfTimeStampInFile": 6,
    "NumberofColumns": 4,
    "ColName": {"Wafer": "varchar", "Sensor - 1": " float", "Sensor - 2": " float", "Output": "Integer"},
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"Labels": {"0": -1, "1": 1}}, None),
        (
            {"NumberofColumns": None, "NumberOfColumns": 4},
            "NumberofColumns: missing; NumberOfColumns: unknown key, did you mean 'NumberofColumns'?",
        ),
        ({"ColName": ["Wafer", "Sensor - 1"]}, "ColName: expected an object of keys and values, got ['Wafer', "),
        (
            {"ColName": {**AGREEMENT["ColName"], "Sensor - 1": "DECIMAL"}},
            "ColName: expected varchar, float or Integer for 'Sensor - 1', got 'DECIMAL'",
        ),
        ({"LabelNames": ["Sensor-1"]}, "LabelNames: each name once, but 'Sensor-1' stands in ColName too"),
        ({"WaferNames": ["Sensor-1"]}, "WaferNames: each name once, but 'Sensor-1' stands in ColName too"),
        ({"Labels": {}}, "Labels: expected spellings of -1 (good) and 1 (faulty), got {}"),
        ({"Labels": {"0": 1}}, "Labels: expected spellings of -1 (good) and 1 (faulty), got {'0': 1}"),
        ({"Labels": {"0": -1.0, "1": 1.0}}, "Labels.0: expected a whole number, got -1.0; Labels.1: expected a whole"),
        ({"Labels": {"0": [-1]}}, "Labels.0: expected a whole number, got [-1]"),
    ],
)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "marked"])
def test_agreements_as_they_circulate(
    changes: dict[str, Any], told: str | None, mark: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usable ones are written, with a byte order mark too; of others one sentence names the key."""
    monkeypatch.chdir(tmp_path)
    terms = {key: value for key, value in {**AGREEMENT, **changes}.items() if value is not None}
    Path("agreement.json").write_bytes(mark + json.dumps(terms).encode())
    done = wafer("agreement", "import", "agreement.json", "--expectations", "suites")
    if told is None:
        assert (done.returncode, done.stdout) == (0, "suites/training.json written\n")
        return
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"wafer: agreement.json: {told}")
    assert not Path("suites").exists()


@pytest.mark.parametrize(("good", "bad"), [("Good", "Bad"), ("Pass", "Fail"), ("0", "1"), (2, 3)])
def test_labels_whose_order_says_nothing(good: Any, bad: Any) -> None:
    """They are refused, both named, until the faulty one is; then the model is that of -1 and 1."""
    past = pd.concat([simulate_frame(batch, wafers=40, seed=7) for batch in range(3)])
    X, y = past.filter(like="Sensor-").iloc[:, :30], past["label"].to_numpy()
    small: dict[str, Any] = {"trees": 5, "search_budget": 1, "calibration_folds": 2, "search_folds": 2}
    labels = np.where(y > 0, bad, good)
    with pytest.raises(ModelError, match=f"{bad!r}.*{good!r}|{good!r}.*{bad!r}"):
        WaferModel(**small).fit(X, labels)
    named = WaferModel(**small, faulty_label=bad).fit(X, labels).predict(X)
    assert np.array_equal(named == bad, WaferModel(**small).fit(X, y).predict(X) == 1)


@pytest.fixture(scope="module")
def fab(tmp_path_factory: pytest.TempPathFactory, small_params: Path) -> Path:
    """A folder with six batches of 60 wafers, the parameters, and three deliveries without labels.

    `mixed` holds a file of stored wafers with other readings and a sound one, `contradicting` the first of them alone,
    `broken` a file that is none.
    """
    place = tmp_path_factory.mktemp("fab")
    (place / "params.yaml").write_bytes(small_params.read_bytes())
    list(simulate_batches(place / "raw" / "training", batches=6, wafers=60, seed=7))
    other: dict[str, Any] = {"batches": 1, "wafers": 21, "labelled": False}
    for folder in ("raw/prediction", "contradicting"):
        list(simulate_batches(place / folder, first_batch=6, seed=8, **other))  # Wafer-127 to Wafer-147
    list(simulate_batches(place / "raw" / "prediction", first_batch=30, seed=7, **other))
    for kind in ("training", "prediction"):
        (place / "broken" / kind).mkdir(parents=True)
        (place / "broken" / kind / "wafer_01012020_120000.csv").write_text("nonsense\n")
    return place


@pytest.mark.slow
def test_a_whole_job_with_bins_without_a_fault_and_wafers_that_contradict(fab: Path) -> None:
    """Calibration bins of 22 good wafers stop no training, a file whose wafers all contradict no prediction.

    Where nothing else came, and where no file is accepted, that is told with exit status 1.
    """
    given = {"WAFER_STORAGE": "storage", "WAFER_JOBS": "1"}
    done = typed(fab, "wafer", "run", "--raw", "raw", "--params", "params.yaml", **given)
    assert (done.returncode, done.stderr.count("wafer: ")) == (0, 0), done.stderr
    runs = Runs(Storage(str(fab / "storage")))
    training, prediction = runs.latest("training"), runs.latest("prediction")
    assert training is not None
    assert prediction is not None
    bins = calibration_bins(pd.read_parquet(str(training.place("scores.parquet"))))
    good = bins[(bins["protocol"] == "forward") & (bins["wafers"] == 22) & (bins["observed"] == 0)]
    assert (good["low"] == 0).all()
    assert len(good) > 0
    assert "no wafers to score, since all contradict stored ones" in done.stdout
    assert "2 batches, 21 wafers" in done.stdout
    tables = {file.name: pd.read_csv(str(file)) for file in prediction.place("predictions").iterdir()}
    assert sorted(map(len, tables.values())) == [0, 21]
    assert all(set(table["model_version"]) <= {1} for table in tables.values())
    assert prediction.place("prediction.html").exists()
    listed = typed(fab, "wafer", "quarantine", "list", **given).stdout.splitlines()
    assert listed[-1] == "0 files and 21 single wafers in quarantine"
    for raw, told in (
        ("contradicting", "no wafer was scored: all of the accepted files contradict stored ones"),
        ("broken/prediction", "no file was accepted, 1 went to the quarantine; the report says why"),
    ):
        done = typed(fab, "wafer", "predict", "--raw", raw, **given)
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1] == f"wafer: {told}"
        latest = runs.latest("prediction")
        assert latest is not None
        assert latest.place("prediction.html").exists()


@pytest.mark.slow
def test_a_whole_job_of_which_no_file_is_accepted(fab: Path) -> None:
    """Each step that has nothing to work on says so; the pages of both ingests are there, in a study too."""
    given = {"WAFER_STORAGE": "nothing", "WAFER_JOBS": "1"}
    refused = "no file was accepted, 1 went to the quarantine; the report says why"
    unlabelled = "the store holds no labelled wafer: ingest training batches first"
    done = typed(fab, "wafer", "run", "--raw", "broken", "--params", "params.yaml", **given)
    assert done.returncode == 1, done.stderr
    assert [line.removeprefix("wafer: ") for line in done.stderr.splitlines() if line.startswith("wafer: ")] == [
        refused,
        unlabelled,
        "nothing was predicted, since no model is in use yet",
    ]
    assert len(list((fab / "nothing" / "runs").glob("ingest-training-*/ingest-training.html"))) == 1
    steps = ("deliver", "ingest-prediction", "ingest-training", "snapshot")
    told = ("--storage", "study", "--raw", "broken", "--params", "params.yaml")
    done = typed(fab, "wafer", "study", *steps, *told, **given)
    assert done.returncode == 1, done.stderr
    assert [line.removeprefix("wafer: ") for line in done.stderr.splitlines() if line.startswith("wafer: ")] == [
        refused,
        refused,
        unlabelled,
    ]
    assert (fab / "study" / "runs" / "study" / "ingest-prediction.html").exists()
