"""Run All works in every notebook as it is: what it shows where nobody has named a run."""

import json
from pathlib import Path

import nbformat
import pytest

from tests.conftest import REPOSITORY
from tests.reporting.test_notebooks import PARAMETERS, PICTURES, check_page
from wafer.errors import ReportError
from wafer.fab.simulate import simulate_batches
from wafer.reporting import newest
from wafer.reporting.notebooks import NotebookReport, run_notebook
from wafer.reporting.sources import PredictionSources, TrainingSources
from wafer.runs import Runs
from wafer.storage import Storage

SIMULATED = "**Simulated wafers, not yours:**"
WORKING = {"first_steps": 2, "study": 1}  # notebooks to work in, and their pictures


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache, which starts empty: the first Run All makes the simulated run, the others use it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def elsewhere(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which there is nothing, nor above it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def no_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing may be simulated."""

    def refuse(*_: object) -> None:
        raise AssertionError("a run was simulated")

    monkeypatch.setattr(newest, "make_simulated", refuse)


def told(report: NotebookReport) -> list[str]:
    """The paragraphs that the notebook says by itself."""
    outputs = [one for cell in nbformat.read(str(report.notebook), 4).cells for one in cell.get("outputs", ())]
    return [one["data"]["text/markdown"] for one in outputs if "text/markdown" in one.get("data", {})]


def test_the_newest_run_of_the_named_storage_is_shown(
    outputs: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, no_study: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the environment names a storage with a run of the kind, that is it, and nothing needs to be said."""
    monkeypatch.setenv("WAFER_STORAGE", str(outputs))
    assert TrainingSources().run.id == TrainingSources(storage=str(outputs)).run.id
    assert PredictionSources().run.id == PredictionSources(storage=str(outputs)).run.id
    assert capsys.readouterr().out == ""


def test_after_make_run_the_demonstration_is_shown(
    outputs: Path, elsewhere: Path, tmp_path: Path, no_study: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook opened below a project finds what `make run` has left in data/demo, and says that it is simulated."""
    (tmp_path / "project" / "expectations").mkdir(parents=True)
    (tmp_path / "project" / "notebooks").mkdir()
    (tmp_path / "project" / "data").mkdir()
    (tmp_path / "project" / "data" / "demo").symlink_to(outputs)
    with pytest.MonkeyPatch.context() as there:
        there.chdir(tmp_path / "project" / "notebooks")
        found = TrainingSources()
    assert found.run.place("") == Storage(str(tmp_path / "project/data/demo")).place(found.run.key(""))
    said = f"{SIMULATED} `{tmp_path}/project/data` holds no training yet. This is `{found.run.id}` of "
    assert capsys.readouterr().out.startswith(said)
    assert found.metrics["shuffled"]["auc"] > 0.5


def test_a_report_of_record_never_shows_a_simulated_run(tmp_path: Path, no_study: None) -> None:
    """Whoever names a run or a storage gets that, or an error; so do the flows, which name both."""
    with pytest.raises(ReportError, match="holds no run of the kind 'prediction' yet"):
        PredictionSources(storage=str(tmp_path))
    with Runs(Storage(str(tmp_path))).started("training") as run:
        pass
    assert TrainingSources(run.id, str(tmp_path)).run.id == run.id


@pytest.mark.slow
def test_a_study_that_fails_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process that simulates a run says last is what the notebook says, and nothing is taken for made."""
    monkeypatch.setattr(newest, "STEPS", ("no-such-step",))
    with pytest.raises(ReportError, match=r"no run could be simulated: .*there is no step 'no-such-step'"):
        newest.make_simulated(tmp_path / "simulated")
    assert not (tmp_path / "simulated" / newest.MADE_FROM).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_run_all_works_untouched_from_anywhere(name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another working directory, in a storage without a run: said in words, and the storage is left alone."""
    storage = elsewhere.parent / "data"
    monkeypatch.setenv("WAFER_STORAGE", str(storage))
    report = run_notebook(name, {}, elsewhere.parent / "out", notebooks=REPOSITORY / "notebooks")
    check_page(Path(str(report.page)), (PICTURES | WORKING)[name])
    assert [text[: len(SIMULATED)] for text in told(report)].count(SIMULATED) == (name in PICTURES)
    assert storage.exists() == (name == "study"), "a trial keeps its scores there"
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_the_simulated_run_is_made_once(elsewhere: Path, cache: Path) -> None:
    """The next notebook finds it, another release of the code makes its own."""
    place = cache / "wafer" / "simulated"
    newest.make_simulated(place)
    made = place.stat().st_ino
    newest.make_simulated(place, lambda line: pytest.fail(f"it was made again: {line}"))
    assert place.stat().st_ino == made
    note = json.loads((place / newest.MADE_FROM).read_text())
    (place / newest.MADE_FROM).write_text(json.dumps(note | {"source": "of another release"}))
    heard: list[str] = []
    newest.make_simulated(place, heard.append)
    assert len(heard) > 5 and json.loads((place / newest.MADE_FROM).read_text()) == note


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_each_notebook_takes_its_parameters(
    name: str, outputs: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every parameter given it shows what was named; files of one's own are judged by the project's agreement."""
    monkeypatch.setenv("WAFER_PROJECT", str(REPOSITORY))
    storage = {"storage": str(outputs)}
    training, prediction = (kind(**storage).run.id for kind in (TrainingSources, PredictionSources))
    given: dict[str, dict[str, object]] = {name: {"run": training, **storage} for name in ("training", "data_quality")}
    given["exploration"] = {"run": training, **storage, "sensors_shown": ["Sensor-3"]}
    given["prediction"] = {"run": prediction, **storage, "batches": ["second"]}
    given["first_steps"] = {"past": str(tmp_path / "past"), "new": str(tmp_path / "new"), "labelled": True}
    given["study"] = {"storage": str(tmp_path / "data"), "files": [str(tmp_path / "past")], "note": "linear alone"}
    list(simulate_batches(tmp_path / "past", batches=3, wafers=60, seed=3))
    list(simulate_batches(tmp_path / "new", batches=1, wafers=60, seed=3, first_batch=3))
    report = run_notebook(name, given[name], tmp_path / "out", notebooks=REPOSITORY / "notebooks")
    assert not any(text.startswith(SIMULATED) for text in told(report))
    check_page(Path(str(report.page)), (PICTURES | WORKING)[name])
