"""What real use has brought, each as it was typed: the exit status, the sentence, and what is left on the disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.terminal import wafer
from wafer.errors import PreflightError
from wafer.fab.simulate import simulate_batches
from wafer.preflight import look_ahead
from wafer.settings import Settings


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
