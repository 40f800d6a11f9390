"""Labels that come later than their wafers: added once, conflicts told, and earlier snapshots stay what they were."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests import terminal, working
from tests.faults.delivery import agree
from tests.intake.storing import add
from wafer import steps
from wafer.errors import DeliveryError
from wafer.intake.labels import LabelConflict, LabelReport, import_labels
from wafer.records import Labelled
from wafer.settings import Settings
from wafer.store.documents import IncomingBatch
from wafer.store.snapshot import find_manifest, rebuild
from wafer.store.wafers import Store, open_store
from wafer.workspace import Workspace

PREDICTED = "wafer_02012020_120000.csv"


SENSORS = [f"Sensor-{n}" for n in range(1, 5)]


def batch(kind: str, day: int, wafers: dict[int, int | None], shift: float = 0.0) -> IncomingBatch:
    """Wafers by number with their labels, as a delivery brings them."""
    numbers = np.array(list(wafers))
    return IncomingBatch(
        digest=f"{kind} {day}",
        file=f"wafer_{day:02}012020_120000.csv",
        kind=kind,
        wafers=[f"Wafer-{n}" for n in wafers],
        order=numbers,
        sensors=SENSORS,
        readings=numbers[:, None] + shift + np.arange(4.0),
        labels=None if kind == "prediction" else np.array(list(wafers.values()), np.int8),
    )


@pytest.fixture
def fab(settings: Settings, tmp_path: Path) -> Settings:
    """Wafers 5 (faulty) and 6 (good) of a training delivery, and 1 to 4 without labels of a prediction."""
    agree(tmp_path)
    with open_store(settings) as store:
        add(store, batch("training", 1, {5: 1, 6: -1}), 1e-9)
        add(store, batch("prediction", 2, dict.fromkeys(range(1, 5))), 1e-9)
    return settings.model_copy(update={"project": tmp_path})


def give(settings: Settings, text: str, name: str = "late.csv") -> LabelReport:
    """Import a file with this text, after its header."""
    file = Path(settings.project or "", name)
    file.write_text(f"Wafer,Good/Bad\n{text}")
    with Workspace(settings) as workspace:
        return import_labels(file, workspace.form("training"), workspace.store)


def labels(store: Store) -> dict[str, int | None]:
    return {
        wafer: found["label"] for wafer, found in store.find([f"Wafer-{n}" for n in range(1, 100)], "label").items()
    }


def test_late_labels_are_added_and_conflicts_named(fab: Settings) -> None:
    """New ones are stored, the same ones counted, others and unknown wafers told by line; again, nothing is new."""
    text = "Wafer-5,-1\nWafer-6,-1\nwafer-01,1\n\nWafer-2,-1\nWafer-99,1\n"
    done = give(fab, text)
    assert (done.wafers, done.labelled, done.repeats, done.known) == (5, 2, 1, False)
    assert done.conflicts == (LabelConflict(2, "Wafer-5", 1, -1, "wafer_01012020_120000.csv"),)
    assert done.unknown == ((7, "Wafer-99"),)
    assert done.complaints == (
        "late.csv, line 2: Wafer-5 is labelled -1, and +1 by wafer_01012020_120000.csv, which stays",
        "late.csv: 1 of 5 wafers are not stored: Wafer-99 (line 7)",
    )
    expected = {"Wafer-1": 1, "Wafer-2": -1, "Wafer-3": None, "Wafer-4": None, "Wafer-5": 1, "Wafer-6": -1}
    again = give(fab, text)
    assert again == LabelReport(**{**vars(done), "known": True})
    assert "Wafer-99" in again._repr_html_()
    contrary = give(fab, "Wafer-1,-1\n", "other.csv")
    assert contrary.conflicts == (LabelConflict(2, "Wafer-1", 1, -1, "late.csv"),)
    with open_store(fab) as store:
        assert labels(store) == expected
        assert store.status().batches == {"training": 1, "prediction": 1, "labels": 2}


def test_a_labelled_wafer_of_a_prediction_is_trained_on_and_every_snapshot_can_be_rebuilt(fab: Settings) -> None:
    """It counts to the batch that brought it; snapshots from before, between and after give their digests again."""
    text = "Wafer-1,1\nWafer-50,-1\n"
    taken = [working.snapshot(fab)]
    give(fab, text)
    taken.append(working.snapshot(fab))
    with open_store(fab) as store:
        add(store, batch("prediction", 3, {50: None}), 1e-9)
    assert give(fab, text).unknown == (), "the wafer that the labels came too early for has its label now"
    taken.append(working.snapshot(fab))
    with open_store(fab) as store:
        add(store, batch("training", 4, {1: 1}, shift=1.0), 1e-9, replacing=True)
    taken.append(working.snapshot(fab))
    assert [one.wafers for one in taken] == [2, 3, 4, 4]
    assert len({one.digest for one in taken}) == 4
    with Workspace(fab) as workspace:
        manifests = [find_manifest(fab.storage.place("snapshot"), one.digest) for one in taken]
        tables = [rebuild(workspace.store, manifest).table for manifest in manifests]
    assert "labels" not in manifests[0]
    assert [one["wafers"] for manifest in manifests[1:] for one in manifest["labels"]] == [1, 2, 2]
    assert dict(zip(tables[2]["wafer"], tables[2]["batch"], strict=True)) == {
        "Wafer-1": PREDICTED,
        "Wafer-5": "wafer_01012020_120000.csv",
        "Wafer-6": "wafer_01012020_120000.csv",
        "Wafer-50": "wafer_03012020_120000.csv",
    }
    assert [table.set_index("wafer").loc["Wafer-1", "Sensor-1"] for table in tables[1:]] == [1.0, 1.0, 2.0]


def test_a_label_that_was_put_right_is_a_conflict_from_then_on(fab: Settings) -> None:
    """The file of the wrong one says so again; who contradicts a late label is told where it came from."""
    assert give(fab, "Wafer-1,-1\n").labelled == 1
    with open_store(fab) as store:
        told = add(store, batch("training", 3, {1: 1}), 1e-9).conflicts
        assert [(one.what, one.stored_file, one.stored, one.came) for one in told] == [("label", "late.csv", -1, 1)]
        add(store, batch("training", 4, {1: 1}), 1e-9, replacing=True)
    assert give(fab, "Wafer-1,-1\n").conflicts == (LabelConflict(2, "Wafer-1", 1, -1, "wafer_04012020_120000.csv"),)


def test_an_import_that_was_killed_is_completed(fab: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels without a line in the ledger are in no snapshot; the same file again counts as the first time."""
    before = working.snapshot(fab)
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(Store, "write_ledger", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        give(fab, "Wafer-1,1\nWafer-2,-1\n")
    assert working.snapshot(fab).digest == before.digest
    done = give(fab, "Wafer-1,1\nWafer-2,-1\n")
    assert (done.labelled, done.repeats, done.known) == (2, 0, False)
    assert working.snapshot(fab).wafers == before.wafers + 2


REFUSED = {
    "Wafer,Good/Bad\nWafer-1,2\n": "line 2, Good/Bad: labels unknown, expected -1 or 1 or +1, got '2'",
    "Wafer,Good/Bad\nWafer-2,1\nWafer-1\n": "line 3: ragged lines, expected 2, got '1'",
    "Wafer,Good/Bad\nWafer-2,1\nWafer-2,1\n": "line 3, Wafer: ids doubled, expected once (first in line 2)",
    "Wafer,Good/Bad\nWafer-2,1\nWafer-1,-1": "has no line feed at its end, so it may have been cut",
    "Wafer,Good/Bad\nlot 7,1\n": "line 2, Wafer: ids malformed",
    "Wafer,Sensor-1,Good/Bad\nWafer-1,1,1\n": "line 1, Sensor-1: columns extra, got 'column 2'",
    "wafers and labels\n": "line 1: header unknown, expected Wafer, Good/Bad, got 'wafers and labels'",
    "Wafer,Good/Bad\n": "it has no wafers",
    "": "it is empty",
}


def test_a_file_that_is_not_as_agreed_is_refused_as_a_whole(fab: Settings) -> None:
    """Line and column are told, and nothing was changed."""
    file = Path(fab.project or "", "late.csv")
    with Workspace(fab) as workspace:
        for text, why in REFUSED.items():
            file.write_text(text)
            with pytest.raises(DeliveryError) as refused:
                import_labels(file, workspace.form("training"), workspace.store)
            assert why in str(refused.value)
        assert labels(workspace.store)["Wafer-1"] is None
        assert workspace.store.batches("labels") == []


def test_a_key_of_the_storage_is_a_file_too_and_the_command_tells_what_was_not_applied(fab: Settings) -> None:
    """From a notebook in two lines; on the command line with exit status 1, 2 where the file is refused."""
    fab.storage.write_text("labels/late.csv", "Unnamed: 0,Output\nWafer-1,+1\n")
    with Workspace(fab) as workspace, steps.working(workspace, "labels") as run:
        done = steps.import_labels(workspace, run, "labels/late.csv")
    assert (done.labelled, done.complaints) == (1, ())
    assert working.latest(fab, "labels").read(Labelled) == done
    command = partial(
        terminal.wafer,
        cwd=fab.project,
        WAFER_STORAGE=fab.storage_url,
        MONGODB_URL=fab.mongodb_url or "",
        MONGODB_DATABASE=fab.mongodb_database,
    )
    Path(fab.project or "", "more.csv").write_text("Wafer,Good/Bad\nWafer-1,-1\nWafer-2,1\n")
    told = command("labels", "import", "more.csv")
    assert (told.returncode, told.stdout) == (
        1,
        "more.csv: 2 wafers: 1 labelled by it, 0 had that label, 1 in conflict, 0 unknown\n",
    )
    assert told.stderr == "wafer: more.csv, line 2: Wafer-1 is labelled -1, and +1 by late.csv, which stays\n"
    assert json.loads(command("labels", "import", "more.csv", "--json").stdout)["conflicts"] == 1
    refused = command("labels", "import", "nowhere.csv")
    assert (refused.returncode, refused.stdout) == (2, "")
