"""Files are told of once they have settled, and once altogether."""

import os
from pathlib import Path
from typing import Any

import boto3
import pytest

from wafer.intake.watching import Watch
from wafer.settings import Settings
from wafer.storage import AnyPath, Storage


def names(watch: Watch) -> list[str]:
    return [Path(one.path).name for one in watch.look()]


def test_a_file_that_still_grows_waits(tmp_path: Path) -> None:
    """One that is the same at two looks is told of once; a change of size or of time alone lets it wait again."""
    storage, raw = Storage(str(tmp_path / "data")), tmp_path / "raw"
    watch = Watch(raw, storage)
    assert names(watch) == [], "the folder is not there yet"
    raw.mkdir()
    (raw / "b.csv").write_text("1")
    (raw / "a.csv").write_text("1")
    (raw / ".hidden.csv").write_text("1")
    (raw / "c.csv.part").write_text("1")
    assert names(watch) == []
    (raw / "b.csv").write_text("12")
    assert names(watch) == ["a.csv"]
    os.utime(raw / "b.csv", (1_700_000_000, 1_700_000_000))
    assert names(watch) == []
    assert names(watch) == ["b.csv"]
    assert names(watch) == []
    (raw / "a.csv").unlink()
    (raw / "d.csv").symlink_to(tmp_path / "nowhere")
    assert names(watch) == []
    (raw / "b.csv").write_text("changed later")
    assert (names(watch), names(watch), names(watch)) == ([], ["b.csv"], [])


def test_of_several_watchers_one_tells(tmp_path: Path) -> None:
    """Also of one that was started again."""
    storage, raw = Storage(str(tmp_path / "data")), tmp_path / "raw"
    raw.mkdir()
    for number in range(5):
        (raw / f"{number}.csv").write_text("1")
    watches = [Watch(raw, storage) for _ in range(2)]
    assert [names(watch) for watch in watches] == [[], []]
    told = [names(watch) for watch in watches]
    assert sorted(told[0] + told[1]) == [f"{number}.csv" for number in range(5)]
    again = Watch(raw, storage)
    assert (names(again), names(again)) == ([], [])


def test_what_cannot_be_noted_is_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before it are told of at once, and it waits for the next look."""
    storage, raw = Storage(str(tmp_path / "data")), tmp_path / "raw"
    raw.mkdir()
    for name in "abc":
        (raw / f"{name}.csv").write_text(name)
    watch, told = Watch(raw, storage), list[str]()
    names(watch)
    note, answers = storage.put_new, iter([True, False])

    def put(*given: Any) -> bool:
        if next(answers, True):
            return note(*given)
        raise ConnectionError("no answer")

    monkeypatch.setattr(Storage, "put_new", lambda _, *given: put(*given))
    with pytest.raises(ConnectionError):
        for one in watch.look():
            told.append(Path(one.path).name)
    assert told == ["a.csv"]
    assert names(watch) == ["b.csv", "c.csv"]


def test_a_bucket_is_watched_too(s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that was put anew waits for the next look."""
    client = boto3.client("s3", endpoint_url=s3_address)
    client.create_bucket(Bucket="watched")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    settings = Settings.read(storage_url="s3://watched/data", state_folder=tmp_path)
    folder: AnyPath = settings.opened("s3://watched/raw")
    watch = Watch(folder, settings.storage)
    assert names(watch) == []
    client.put_object(Bucket="watched", Key="raw/a.csv", Body=b"1")
    assert names(watch) == []
    client.put_object(Bucket="watched", Key="raw/a.csv", Body=b"12")
    assert (names(watch), names(watch), names(watch)) == ([], ["a.csv"], [])
