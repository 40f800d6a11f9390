"""Runs: one piece of work, its records, and what came of it."""

import shutil
from pathlib import Path

import pytest

from wafer.errors import ModelError, StorageError
from wafer.logs import events
from wafer.records import Fitted, Ingested, Predicted
from wafer.reporting.index import write_index
from wafer.runs import Runs
from wafer.steps import working
from wafer.storage import Storage
from wafer.workspace import open


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(Storage(str(tmp_path)))


def test_a_record_comes_back_as_it_was_written(runs: Runs) -> None:
    """By its class, or by the name of its step where two steps leave the same one."""
    with runs.started("prediction") as run:
        ingested = Ingested("a", "b", 1, 1, 0, 0, 5, ("no batch file",))
        predicted = Predicted("folder", ("a.csv", "b.csv"), 2, 1, "details", "models/x", 3, None)
        run.write(ingested, "ingest-prediction")
        run.write(predicted)
    again = runs.get(run.id)
    assert (again.read(Ingested, "ingest-prediction"), again.read(Predicted)) == (ingested, predicted)
    assert again.kind == "prediction"
    with pytest.raises(StorageError, match="has no record of its step 'fit': run that first"):
        again.read(Fitted)


def test_a_record_of_another_release_is_refused(runs: Runs) -> None:
    """Its fields are not those that are expected, and the file is named."""
    with runs.started("training") as run:
        run.storage.write_json(run.key("records/fit.json"), {"folder": "x"})
    with pytest.raises(StorageError, match=r"records/fit\.json is no record of this release"):
        run.read(Fitted)


def test_the_newest_run_that_ended_well_is_the_latest(runs: Runs) -> None:
    """A failed run is told with its error and is not pointed to; none at all is None."""
    assert runs.latest("training") is None
    with runs.started("training") as first:
        pass
    with pytest.raises(ModelError), runs.started("training") as second:
        raise ModelError("no faulty wafer")
    assert runs.latest("training") == first
    (newest, oldest) = runs.all()
    assert (newest["id"], newest["state"], newest["error"]) == (second.id, "failed", "no faulty wafer")
    assert (oldest["id"], oldest["state"], oldest["error"]) == (first.id, "finished", None)


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_run_that_is_told_to_end_is_cancelled(runs: Runs, signal: type[BaseException]) -> None:
    """Its record says so, and the list of runs; it is not pointed to."""
    with pytest.raises(signal), runs.started("training") as run:
        raise signal
    (noted,) = runs.all()
    assert (noted["state"], noted["error"]) == ("cancelled", f"it was told to end ({signal.__name__})")
    assert noted["ended"] >= noted["started"]
    assert runs.latest("training") is None
    assert '<td class="cancelled">cancelled<td>' in runs.storage.place(write_index(runs)).read_text()
    assert "it was told to end" in run.place("log.jsonl").read_text()


def test_runs_of_the_same_moment_have_names_of_their_own(runs: Runs) -> None:
    """As many runs as were started, also within a millisecond."""
    started = []
    for _ in range(20):
        with runs.started("training") as run:
            started.append(run.id)
    assert len(set(started)) == 20
    assert [note["id"] for note in runs.all(3)] == sorted(started, reverse=True)[:3]


@pytest.mark.parametrize("name", ["", "nothing", "training-1", "training/../x"])
def test_a_run_that_is_not_there_is_named(runs: Runs, name: str) -> None:
    """An unknown name, and one that is no name."""
    with pytest.raises(StorageError, match="has no run"):
        runs.get(name)


def test_the_list_of_runs_tells_what_came_of_each(runs: Runs) -> None:
    """Newest first, with links to pages; errors are escaped."""
    with runs.started("ingest-training") as run:
        run.write(Ingested("a", "b", 3, 2, 1, 0, 5), "ingest-training")
        run.storage.write_text(run.key("ingest-training.html"), "")
    with pytest.raises(ModelError), runs.started("training"):
        raise ModelError("<b>")
    page = runs.storage.place(write_index(runs)).read_text()
    assert "2 of 3 files accepted, 1 quarantined" in page
    assert f'href="../runs/{run.id}/ingest-training.html"' in page
    assert "&lt;b&gt;" in page
    assert page.index("&lt;b&gt;") < page.index("2 of 3 files")


def test_a_run_that_has_ended_is_read_once_for_the_list(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, the list reads what it kept and those that are new; one that goes on is read again."""
    for _ in range(5):
        with runs.started("ingest-training") as run:
            run.write(Ingested("a", "b", 3, 2, 1, 0, 5), "ingest-training")
    with runs.started("training") as going_on:
        first = runs.storage.place(write_index(runs)).read_text()
        asked: list[str] = []
        for name in ("read_json", "exists", "children"):
            real = getattr(Storage, name)
            monkeypatch.setattr(Storage, name, lambda self, key, real=real: asked.append(key) or real(self, key))
        assert runs.storage.place(write_index(runs)).read_text() == first
        assert {key.split("/")[1] for key in asked if "/" in key} == {"index.json", going_on.id}
        asked.clear()
    assert '<td class="finished">' in runs.storage.place(write_index(runs)).read_text()
    monkeypatch.undo()
    for torn in (b"{", b"[]", b'{"x": {}}'):
        runs.storage.write_bytes("reports/index.json", torn)
        assert runs.storage.place(write_index(runs)).read_text().count("2 of 3 files accepted") == 5


def test_the_list_tells_of_a_run_of_another_release(runs: Runs) -> None:
    """Its records cannot be read, which hides no other run."""
    with runs.started("ingest-training") as run:
        run.storage.write_json(run.key("records/ingest-training.json"), {"files": 3})
    assert "is no record of this release" in runs.storage.place(write_index(runs)).read_text()


def test_what_came_of_a_run_that_has_ended_is_read_once(runs: Runs) -> None:
    """One that goes on is asked each time."""
    with runs.started("training") as run:
        assert [note["state"] for note in runs.all()] == ["running"]
    assert [note["state"] for note in runs.all()] == ["finished"]
    run.storage.write_bytes(run.key("run.json"), b"")
    assert [note["state"] for note in runs.all()] == ["finished"]


def test_a_storage_that_goes_away_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What else fails for it, the run's record and the list of runs, is noted with the first error and not told."""
    place = tmp_path / "data"
    workspace = open(storage_url=str(place))
    with pytest.raises(OSError, match="it is gone") as caught, working(workspace, "delivery"):
        shutil.rmtree(place)
        place.touch()
        raise OSError("it is gone")
    record, log, runs = caught.value.__notes__
    assert record.startswith("what came of delivery-")
    assert log.startswith(f"the log {place}/runs/delivery-")
    assert runs.startswith("the list of runs could not be written: ")
    assert [record for record in caplog.records if record.name != events.name] == []
