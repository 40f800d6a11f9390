"""What a run needs is told before anything starts, and nothing is made where nothing runs."""

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import working
from tests.conftest import REPOSITORY
from tests.faults.delivery import agree, line, write
from tests.terminal import wafer
from wafer import preflight
from wafer.errors import DeliveryError, EmptyError, PreflightError, RegistryError
from wafer.fab.simulate import simulate_batches
from wafer.preflight import look_ahead, need_batch_files, need_champion, need_labelled_wafers
from wafer.settings import Settings
from wafer.workspace import Workspace


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, in no project, and the storage `data` in it."""
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("WAFER_STORAGE", "data")
    return tmp_path / "place"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of this machine at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        yield taken.getsockname()[1]


def test_where_all_is_there_nothing_is_said_or_made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own suites, notebooks and parameters, and folders that can be made."""
    (file,) = simulate_batches(place / "raw", batches=1, wafers=2, seed=1)
    monkeypatch.chdir(REPOSITORY)
    settings = Settings.read(storage_url=str(place / "a" / "b"))
    look_ahead(
        settings,
        raw=[place / "raw", place / "raw"],
        params=Path("params.yaml"),
        kinds=["training", "prediction"],
        guard=True,
        notebooks=["training", "prediction"],
    )
    assert sorted(place.rglob("*")) == [place / "raw", file]


@pytest.mark.parametrize("variable", ["storage_url", "state_folder", "prefect_folder"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("file", "is a file, and a folder is needed"),
        ("file/below", "is a file, and a folder is needed"),
        ("dangling/below", "is a link that leads nowhere, and a folder is needed"),
        ("/proc/x", "nothing can be written there"),
        ("x" * 300, "nothing can be written there (the name is too long)"),
        ("circle/below", "nothing can be written there (its links lead round in a circle)"),
    ],
)
def test_a_place_that_cannot_be_written_is_told(name: str, problem: str, variable: str, place: Path) -> None:
    """The variable, the folder and the cause; nothing is made."""
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    Path("circle").symlink_to("circle")
    before = sorted(place.rglob("*"))
    with pytest.raises(PreflightError) as caught:
        look_ahead(Settings.read(**{variable: name}))
    (told,) = caught.value.problems
    assert told.startswith(f"{Settings.model_fields[variable].alias} is /")
    assert problem in told
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("name", ["sp ace", "qu'o\"te", "per%3Fcent", "ha#sh", "Größe & [1]"])
def test_a_folder_of_an_odd_name_is_a_place_like_any_other(name: str, place: Path) -> None:
    """Blanks, quotes, percent signs, hashes, brackets and letters of all scripts."""
    look_ahead(Settings.read(storage_url=name))
    assert list(place.iterdir()) == []


def test_a_full_disk_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than the stated minimum of free space, once where storage and state share a disk."""
    monkeypatch.setattr(preflight, "LEAST_FREE", 2**80)
    with pytest.raises(PreflightError, match=r"WAFER_STORAGE is .*/data: less than .* MB are free there") as caught:
        look_ahead(Settings.read())
    assert len(caught.value.problems) == 1


def test_the_named_folder_of_temporary_files_is_looked_at(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Python itself would pass it over and take another."""
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setenv("TMPDIR", "/proc")
    with pytest.raises(PreflightError, match=r"^TMPDIR is /proc: nothing can be written there"):
        look_ahead(Settings.read())


def test_all_problems_are_told_at_once(place: Path, silent_port: int) -> None:
    """Folders, parameters, suites, notebooks and servers: a sentence each, within seconds, without a password."""
    for name in ("expectations", "notebooks", "params.yaml"):
        (place / name).mkdir()
    before = sorted(place.rglob("*"))
    settings = Settings.read(
        project=place,
        mongodb_url=f"mongodb://me:secret@127.0.0.1:{silent_port}/",
        mlflow_url=f"http://127.0.0.1:{silent_port}",
        prefect_url=f"http://127.0.0.1:{silent_port}/api",
    )
    start = time.monotonic()
    with pytest.raises(PreflightError) as caught:
        look_ahead(
            settings,
            raw=[Path("raw/training"), Path("raw/prediction")],
            params=settings.default("params.yaml"),
            kinds=["training"],
            guard=True,
            notebooks=["training"],
        )
    assert time.monotonic() - start < 60
    starts = [told.split(":")[0] for told in caught.value.problems]
    assert starts == [
        f"{place}/params.yaml is not a file",
        f"{place}/expectations/training.json",
        f"{place}/expectations/snapshot.json",
        f"there is no notebook 'training' in {place}/notebooks, only",
        "raw/training",
        "raw/prediction",
        "MONGODB_URL is mongodb",
        "MLFLOW_TRACKING_URI is http",
        "PREFECT_API_URL is http",
    ]
    assert "secret" not in str(caught.value)
    assert sorted(place.rglob("*")) == before


def test_a_missing_driver_is_told_ahead(place: Path) -> None:
    """The database of the registry, with what to install, though nothing of the registry is needed for minutes."""
    settings = Settings.read(mlflow_url="mysql+pymysql://me:secret@127.0.0.1/registry")
    told = (
        "MLFLOW_TRACKING_URI is mysql+pymysql://me:***@127.0.0.1/registry: it needs the database driver pymysql: "
        "pip install pymysql, or unset the variable"
    )
    with pytest.raises(PreflightError) as caught:
        look_ahead(settings)
    assert caught.value.problems == (told,)


def test_a_folder_without_batch_files_is_a_negative_result(place: Path) -> None:
    """It and the folders in it, which are not looked into, are named; a missing one is an error of the delivery."""
    for name in ("2020", "2021", "2022", "2023", ".hidden"):
        (place / "level" / name).mkdir(parents=True)
    told = r"^no batch file lies in level; 4 folders inside \(2020, 2021, 2022, …\) and 1 hidden .* were left out$"
    with pytest.raises(EmptyError, match=told):
        look_ahead(Settings.read(), raw=[Path("level")])
    with pytest.raises(PreflightError, match="no batch file lies in level"):
        look_ahead(Settings.read(), raw=[Path("level"), Path("level")])
    with pytest.raises(DeliveryError, match="nowhere: no such file or folder"):
        need_batch_files(Path("nowhere"))


@pytest.mark.parametrize(
    "arguments", [["run"], ["ingest", "--raw", "raw"], ["train"], ["predict"], ["study"]], ids=" ".join
)
def test_in_another_directory_nothing_is_left_behind(
    arguments: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a project and a storage it is told what lacks, with exit status 2, and the folder is as it was."""
    monkeypatch.delenv("WAFER_STORAGE")
    list(simulate_batches(place / "raw", batches=1, wafers=2, seed=1))
    before = sorted(place.rglob("*"))
    done = wafer(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"wafer: no project lies in {place} or above it")
    assert done.stderr.count("\n") == 1
    assert sorted(place.rglob("*")) == before


def test_raw_without_prediction_is_told_before_anything_starts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wafer run` names the folder that lacks, with exit status 2, and makes nothing; also of the storage's raw/."""
    list(simulate_batches(place / "storage" / "raw" / "training", batches=1, wafers=2, seed=1))
    shutil.copytree(place / "storage" / "raw", place / "raw")
    before = sorted(place.rglob("*"))
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("WAFER_STORAGE", str(place / "storage"))
    for arguments, raw in (["run", "--raw", str(place / "raw")], place / "raw"), (["run"], place / "storage" / "raw"):
        done = wafer(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"wafer: {raw}/prediction: no such file or folder\n"
        assert sorted(place.rglob("*")) == before


def test_a_training_on_no_store_is_refused_before_one_is_made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wafer train` where nothing was ever taken in: one sentence, exit status 1, and the folder is as it was."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("WAFER_STORAGE", str(place / "data"))
    done = wafer("train")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "wafer: the store holds no labelled wafer: ingest training batches first\n"
    assert list(place.iterdir()) == []


def test_a_prediction_without_a_model_is_refused_before_anything_is_taken_in(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wafer predict` where nothing was ever trained: one sentence, exit status 2, and the folder is as it was."""
    list(simulate_batches(place / "raw", batches=1, wafers=2, seed=1, labelled=False))
    before = sorted(place.rglob("*"))
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("WAFER_STORAGE", str(place / "data"))
    done = wafer("predict", "--raw", str(place / "raw"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "wafer: the registry has no champion yet: run the training first\n"
    assert sorted(place.rglob("*")) == before


@pytest.mark.slow
def test_a_registry_without_a_champion_is_told_before_anything_starts(settings: Settings) -> None:
    """An embedded registry that is there is asked, one that is not there is not made."""
    registry = settings.state / "mlflow"
    for there in (False, True):
        with Workspace(settings) as workspace, pytest.raises(RegistryError, match="the registry has no champion yet"):
            need_champion(workspace)
        assert registry.exists() == there
        registry.mkdir(parents=True, exist_ok=True)


def test_a_store_without_both_labels_is_told_before_anything_starts(settings: Settings, tmp_path: Path) -> None:
    """No labelled wafer, good ones alone, faulty ones alone: a sentence each, with exit status 1."""
    agree(tmp_path)
    project = settings.model_copy(update={"project": tmp_path})
    told = "the store holds no labelled wafer: ingest training batches first"
    for number, label in ((1, -1), (2, 1)):
        with Workspace(project) as workspace, pytest.raises(EmptyError) as caught:
            need_labelled_wafers(workspace)
        assert (str(caught.value), caught.value.exit_status) == (told, 1)
        (tmp_path / "raw").mkdir(exist_ok=True)
        write(tmp_path / "raw", number, [line(2 * number, label), line(2 * number + 1, label)])
        working.ingest(project, "training", tmp_path / "raw")
        told = (
            "none of the 2 labelled wafers of the store is faulty, and a model learns from both: ingest batches with "
            "faulty wafers first"
        )
    with Workspace(project) as workspace:
        need_labelled_wafers(workspace)
        workspace.store._wafers.delete_many({"label": -1})
        with pytest.raises(EmptyError, match="none of the 2 labelled wafers of the store is good"):
            need_labelled_wafers(workspace)
