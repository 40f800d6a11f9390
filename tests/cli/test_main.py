"""The command `wafer`, run as a person runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.terminal import wafer
from wafer.fab.simulate import simulate_batches


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delivery")
    list(simulate_batches(folder, batches=2, wafers=3, seed=1))
    return folder


def test_check_accepts_what_keeps_the_agreement(delivery: Path) -> None:
    """Good files: exit status 0 and a line each, by the installed program too."""
    program = Path(sys.executable).with_name("wafer")
    done = subprocess.run([program, "check", delivery], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 files: 2 accepted, 0 quarantined"


def test_deliver_brings_batch_files_to_the_storage(delivery: Path, tmp_path: Path) -> None:
    """To raw/KIND, once; a folder that is not there is told."""
    told = [wafer("deliver", delivery, "--kind", "prediction", WAFER_STORAGE=str(tmp_path)) for _ in range(2)]
    place = tmp_path / "raw" / "prediction"
    assert [done.stdout for done in told] == [f"{files} batch files brought to {place}\n" for files in (2, 0)]
    assert {file.name: file.read_bytes() for file in place.iterdir()} == {
        file.name: file.read_bytes() for file in delivery.iterdir()
    }
    missing = wafer("deliver", tmp_path / "none", WAFER_STORAGE=str(tmp_path))
    assert (missing.returncode, "none is not a folder" in missing.stderr) == (2, True)


def test_automations_need_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is named, that is told, and Prefect's own local one is not started for it."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    done = wafer("automate", WAFER_STORAGE=str(tmp_path))
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "no Prefect server is named: set PREFECT_API_URL" in done.stderr


def test_check_prints_nothing_but_json(delivery: Path) -> None:
    """With --json standard output is the list of verdicts, and exit status 1 says that one was turned away."""
    done = wafer("check", delivery, "--kind", "prediction", "--json")
    assert done.returncode == 1
    verdicts = json.loads(done.stdout)
    assert [v["verdict"] for v in verdicts] == ["quarantined"] * 2
    assert verdicts[0].keys() == {"file", "verdict", "reasons", "warnings"}
    (reason,) = verdicts[0]["reasons"]
    assert reason.keys() == {"rule", "message", "line", "column", "expected", "got"}
    assert (reason["rule"], reason["line"], reason["column"]) == ("columns_extra", 1, "Good/Bad")
    assert "Good/Bad" in reason["message"]


def test_check_goes_on_behind_a_file_that_cannot_be_read(delivery: Path, tmp_path: Path) -> None:
    """A link to nowhere is told as unread with the reason, the others are judged, and the exit status is 1."""
    (first, second) = sorted(delivery.iterdir())
    (tmp_path / first.name).symlink_to(tmp_path / "gone")
    (tmp_path / second.name).write_bytes(second.read_bytes())
    done = wafer("check", tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[0].split() == ["unread", first.name]
    assert "No such file or directory" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 files: 1 accepted, 0 quarantined, 1 unread"


def test_check_says_that_there_is_no_batch_file(tmp_path: Path) -> None:
    """A folder one level too high has exit status 1 and a sentence that tells of the folders inside."""
    (tmp_path / "2020" / "01").mkdir(parents=True)
    told = f"no batch file lies in {tmp_path}; 1 folder inside (2020) was left out\n"
    done = wafer("check", tmp_path)
    assert (done.returncode, done.stdout) == (1, told)
    done = wafer("check", tmp_path, "--json")
    assert (done.returncode, json.loads(done.stdout), told in done.stderr) == (1, [], True)


def test_no_file_forges_a_line_of_check(tmp_path: Path) -> None:
    """Terminal sequences and line ends in names, headers and cells are escaped; each file has one line of its own."""
    header = ",".join(["", *(f"Sensor-{n}" for n in range(1, 591)), "Good/Bad"])
    forged = "x\naccepted   wafer_01012020_000000.csv\n\x1b[2J\u202e"
    (tmp_path / f"a{forged}.csv").write_text("nothing\n")
    (tmp_path / "b.csv").write_text(f'{header},"\x1b[31mred"\n')
    (tmp_path / "c.csv").write_text(f"{header}\nWafer-\x1b]0;title\x07,{','.join(['1'] * 590)},\x1b[2J\n")
    done = wafer("check", tmp_path)
    assert done.returncode == 1, done.stderr
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert [line.split()[0] for line in done.stdout.splitlines() if line[0] != " "] == ["quarantined"] * 3 + ["3"]
    verdicts = wafer("check", tmp_path, "--json").stdout
    assert all(line.isprintable() for line in verdicts.splitlines())
    assert json.loads(verdicts)[0]["file"] == f"a{forged}.csv"


def test_no_folder_forges_a_line(tmp_path: Path) -> None:
    """What is written is told in one line each, whatever the folder is called."""
    folder = tmp_path / "p\nwafer: forged\x1b[2J"
    folder.mkdir()
    (folder / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    for words in (
        ("params", "check", folder / "params.yaml"),
        ("simulate", "--out", folder / "raw", "--batches", "1", "--wafers", "2"),
        ("agreement", "init", folder / "a.json"),
        ("agreement", "import", folder / "a.json", "--expectations", folder / "suites"),
    ):
        done = wafer(*words)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        assert done.stdout.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "no/such/folder"), "no/such/folder"),
        (("check", ".", "--expectations", "no/such/suites"), "no/such/suites"),
        (("check", ".", "--kind", "dinner"), "'dinner' is not one of"),
        (("agreement", "import", "no/such/agreement.json"), "no/such/agreement.json"),
        (("simulate", "--batches", "0", "--out", "x"), "0 is not in the range"),
    ],
)
def test_wrong_use_is_one_clear_sentence(arguments: tuple[str, ...], message: str) -> None:
    """Exit status 2, the thing concerned is named, and there is no traceback."""
    done = wafer(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_simulate_writes_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    """Two runs with one seed give the same files."""
    for name in ("a", "b"):
        done = wafer("simulate", "--batches", "2", "--wafers", "4", "--seed", "3", "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("a", "b"))
    assert len(first) == 2
    assert first == second


def test_an_agreement_for_a_new_customer_becomes_a_suite(tmp_path: Path) -> None:
    """`agreement init` writes a file that `agreement import` takes, and its rules judge files."""
    suites = tmp_path / "suites"
    assert wafer("agreement", "init", tmp_path / "a.json", "--sensors", "4").returncode == 0
    done = wafer("agreement", "import", tmp_path / "a.json", "--expectations", suites)
    assert done.returncode == 0, done.stderr
    assert wafer("check", tmp_path / "a.json", "--expectations", suites).returncode == 1


def test_the_help_lists_the_commands_in_the_order_of_the_work() -> None:
    """First deliveries, then the runs and what they leave, then the models."""
    listed = wafer("--help").stdout.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "]
    assert names[:18] == [
        *("init", "simulate", "fetch", "agreement", "params", "check", "deliver", "run", "ingest"),
        *("quarantine", "labels", "store", "train", "retrain", "models", "predict", "monitor", "study"),
    ]


def test_every_help_tells_the_exit_status() -> None:
    """Of every command and group, in the same words."""
    from click.testing import CliRunner

    from tests.test_docs import commands
    from wafer.cli.main import cli

    for name in ["wafer", "wafer models", *commands(cli)]:
        told = " ".join(CliRunner().invoke(cli, [*name.split()[1:], "--help"]).output.split())
        assert "Exit status: 0 done, 1 a negative result, 2 wrong use, or something that you can mend," in told, name


def test_the_help_of_a_study_names_every_step() -> None:
    """The steps stand in the help as the library knows them, and another name is refused."""
    from wafer.study import NAMES

    told = wafer("study", "--help").stdout.partition("STEPs")[2].partition("Steps that")[0].split()
    assert [word for word in told if word in NAMES] == sorted(NAMES, key=told.index)
    done = wafer("study", "dance")
    assert done.returncode == 2
    assert "there is no step 'dance', only: deliver, ingest-training" in done.stderr


@pytest.mark.parametrize(
    "command", [(), ("check",), ("simulate",), ("fetch",), ("agreement", "import"), ("run",), ("study",), ("ingest",)]
)
def test_help_teaches(command: tuple[str, ...]) -> None:
    """Each command explains itself; the larger ones with an example."""
    done = wafer(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert len(done.stdout.splitlines()) > 5


def test_help_needs_no_heavy_library() -> None:
    """`wafer check --help` imports none of the libraries that take seconds."""
    heavy = (
        "pandas",
        "sklearn",
        "great_expectations",
        "mlflow",
        "xgboost",
        "prefect",
        "pydantic",
        "sqlalchemy",
        "numpy",
    )
    script = f"import sys; import wafer.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
