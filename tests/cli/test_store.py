"""`wafer store …` and `wafer quarantine …`, run as a person runs them."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests import terminal, working
from tests.faults.delivery import agree, line, write
from wafer.settings import Settings
from wafer.store import leases
from wafer.store.snapshot import read_snapshot
from wafer.store.wafers import open_store
from wafer.workspace import Workspace

Wafer = Callable[..., terminal.Done]


@pytest.fixture
def wafer(settings: Settings, tmp_path: Path) -> Wafer:
    """The command in a folder whose agreement rejects empty sensors, on the test's own storage and database."""
    agree(tmp_path, EmptySensors="reject")
    environment = {
        "WAFER_STORAGE": settings.storage_url,
        "MONGODB_URL": settings.mongodb_url or "",
        "MONGODB_DATABASE": settings.mongodb_database,
    }
    return partial(terminal.wafer, cwd=tmp_path, **environment)


def at(settings: Settings, project: Path) -> Settings:
    """The settings of the command's own project."""
    return settings.model_copy(update={"project": project})


@pytest.fixture
def taken_in(wafer: Wafer, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files: good, one conflict, an empty sensor; the raw files are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw, 1, [line(1, -1), line(2, 1)])
    write(raw, 2, [line(2, 1, shift=1.0), line(4, -1)])
    broken = write(raw, 3, ["Wafer-7,1,,3,4,-1", "Wafer-8,1,,3,4,1"])
    working.ingest(at(settings, tmp_path), "training", raw)
    for file in raw.iterdir():
        file.unlink()
    return broken


def test_the_quarantine_is_listed_with_its_reasons(wafer: Wafer, taken_in: Path) -> None:
    """A line for each file with its rules and for each single wafer with its reason; the same as JSON."""
    done = wafer("quarantine", "list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert taken_in.name in lines[0]
    assert lines[0].endswith("empty_sensors")
    assert "Wafer-2 came before in wafer_01012020_120000.csv with Sensor-1 2" in lines[1]
    assert lines[2] == "1 files and 1 single wafers in quarantine"
    found = json.loads(wafer("quarantine", "list", "--json").stdout)
    assert [entry["file"] for entry in found["training"]["files"]] == [taken_in.name]
    assert [row["text"] for row in found["training"]["wafers"]] == [line(2, 1, shift=1.0)]
    assert found["prediction"] == {"files": [], "wafers": []}


def test_one_entry_is_shown(wafer: Wafer, taken_in: Path) -> None:
    """A file's every reason, by its name or digest; of an accepted file its single wafers; nothing is an error."""
    done = wafer("quarantine", "show", taken_in.name)
    assert done.returncode == 0, done.stderr
    assert "empty_sensors: " in done.stdout
    entry = json.loads(wafer("quarantine", "show", taken_in.name, "--json").stdout)
    assert wafer("quarantine", "show", entry["digest"][:8]).stdout == done.stdout
    single = wafer("quarantine", "show", "wafer_02012020_120000.csv")
    assert single.stdout.startswith("wafer_02012020_120000.csv, line 2: Wafer-2,3,")
    assert "conflict: line 2: Wafer-2 came before" in single.stdout
    missing = wafer("quarantine", "show", "wafer_01012020_120000.csv")
    assert missing.returncode == 2
    assert "no single file fits 'wafer_01012020_120000.csv'" in missing.stderr


def test_release_follows_the_agreement(wafer: Wafer, taken_in: Path, tmp_path: Path) -> None:
    """Still not as agreed: the reasons and exit status 1. As agreed by now: it is stored, and no longer here."""
    refused = wafer("quarantine", "release", taken_in.name)
    assert refused.returncode == 1
    assert "empty_sensors" in refused.stdout
    agree(tmp_path, EmptySensors="tolerate")
    done = wafer("quarantine", "release", taken_in.name)
    assert (done.returncode, done.stderr.strip().splitlines()[1:]) == (0, [])
    assert done.stdout == f"{taken_in.name}: taken in, 2 wafers, 2 of them new\n"
    assert wafer("quarantine", "list").stdout.splitlines()[-1] == "0 files and 1 single wafers in quarantine"
    held = json.loads(wafer("store", "status", "--json").stdout)
    assert held["last"]["file"] == taken_in.name
    again = wafer("quarantine", "release", taken_in.name)
    assert again.returncode == 2


def test_release_is_kept_apart_from_an_ingest(
    wafer: Wafer, taken_in: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an ingest of the kind writes, the release ends with the sentence that names its process."""
    with open_store(settings) as store, leases.lease(store, "ingest-training"):
        monkeypatch.setattr(leases, "lease", partial(leases.lease, wait=0.0))  # instead of a minute
        refused = wafer("quarantine", "release", taken_in.name)
    assert refused.returncode == 2
    assert f"lease 'ingest-training' is held by process {os.getpid()}" in refused.stderr


def test_the_store_tells_what_it_holds(wafer: Wafer, taken_in: Path) -> None:
    """Numbers of wafers, labels, batches and conflicts, and the last batch with its time; for people and as JSON."""
    done = wafer("store", "status")
    assert done.returncode == 0, done.stderr
    assert [text.split()[0] for text in done.stdout.splitlines()] == [
        "wafers",
        "batches",
        "predictions",
        "conflicts",
        "replaced",
        "last",
        "leases",
    ]
    held = json.loads(wafer("store", "status", "--json").stdout)
    last = held.pop("last")
    assert (last["file"], last["kind"]) == ("wafer_02012020_120000.csv", "training")
    assert last["time"].endswith("+00:00")
    assert held == {
        "wafers": 3,
        "labelled": 3,
        "faulty": 1,
        "batches": {"training": 2, "prediction": 0, "labels": 0},
        "conflicts": 1,
        "replaced": 0,
        "predictions": 0,
        "leases": [],
    }


def test_the_store_tells_who_writes_now(wafer: Wafer, settings: Settings) -> None:
    """Each lease that is held, with its process, run and times; for people and as JSON."""
    with Workspace(settings) as workspace, workspace.lease("ingest-training", "ingest-training-1"):
        lines = wafer("store", "status").stdout.splitlines()
        (held,) = json.loads(wafer("store", "status", "--json").stdout)["leases"]
    assert lines[-2].split() == ["leases", "1"]
    told = (
        f"lease 'ingest-training' is held by process {os.getpid()} on {held['host']} for run ingest-training-1 since "
    )
    assert lines[-1].strip().startswith(told)
    assert (held["name"], held["pid"], held["run"]) == ("ingest-training", os.getpid(), "ingest-training-1")
    assert held["since"] <= held["beat"] < held["expires"]


def test_a_store_without_a_batch_exports_nothing(wafer: Wafer, taken_in: Path, settings: Settings) -> None:
    """Without a snapshot, and with the manifest of one that the store holds nothing of: one sentence, exit status 1."""
    done = wafer("store", "export", "--manifest", "3f2a90c1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"wafer: {settings.storage_url}/snapshot holds no snapshot yet: a training makes one\n"
    frozen = working.snapshot(at(settings, taken_in.parents[1]))
    with Workspace(settings) as workspace:
        workspace.store._batches.delete_many({})
    done = wafer("store", "export", "--manifest", frozen.digest[:8])
    assert (done.returncode, done.stdout) == (1, "")
    told = f"the store holds no batch, so snapshot {frozen.digest[:12]} cannot be rebuilt from it"
    assert done.stderr == f"wafer: {told}\n"


@pytest.mark.usefixtures("taken_in")
def test_an_earlier_snapshot_is_exported(wafer: Wafer, settings: Settings, tmp_path: Path) -> None:
    """After later deliveries that replace readings, the manifest's digest still gives the table of its time."""
    frozen = working.snapshot(at(settings, tmp_path))
    before = read_snapshot(settings.storage.place(frozen.folder))
    write(tmp_path / "raw", 4, [line(1, -1, shift=2.0), line(9, -1)])
    working.ingest(at(settings, tmp_path), "training", tmp_path / "raw", replace=True)
    assert working.snapshot(at(settings, tmp_path)).digest != frozen.digest
    done = wafer("store", "export", "--manifest", frozen.digest[:8], "--out", "old")
    assert done.returncode == 0, done.stderr
    assert frozen.digest in done.stdout
    assert read_snapshot(tmp_path / "old" / frozen.digest[:12]).table.equals(before.table)
    table = wafer("store", "export", "--manifest", f"{settings.storage_url}/{frozen.folder}", "--format", "csv")
    assert table.returncode == 0, table.stderr
    text = (tmp_path / f"{frozen.digest[:12]}.csv").read_text()
    assert text.startswith(
        '"Wafer","Sensor-1","Sensor-2","Sensor-3","Sensor-4","Good/Bad"\n"Wafer-1",1,1.1428571428571428,'
    )
    unknown = wafer("store", "export", "--manifest", "feedbeef")
    assert unknown.returncode == 2
    assert "feedbeef: no snapshots in" in unknown.stderr


@pytest.mark.parametrize(
    "command",
    [("store",), ("store", "status"), ("store", "export"), ("quarantine", "list"), ("quarantine", "release")],
)
def test_help_teaches(command: tuple[str, ...]) -> None:
    """Each command explains itself."""
    done = terminal.wafer(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert len(done.stdout.splitlines()) > 5
