"""Files that are complete or absent, in a folder and in S3."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

from wafer.settings import Settings
from wafer.storage import local_folder, private_folder, read_json, write_bytes, write_json, written_folder


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """The storage of settings that name a folder, and of settings that name a bucket."""
    if request.param == "folder":
        return Settings.read(storage_url=str(tmp_path / "data")).storage
    address = request.getfixturevalue("s3_address")
    settings = Settings.read(storage_url=f"s3://{tmp_path.name}/data", s3_endpoint=address, state_folder=tmp_path)
    settings.storage.fs.mkdir(tmp_path.name)
    return settings.storage


def names(folder: UPath | Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_json_comes_back(storage: UPath) -> None:
    """A document written is the document read, also where its folder did not exist."""
    write_json(storage / "reports" / "a.json", {"é": [1, None]})
    assert read_json(storage / "reports" / "a.json") == {"é": [1, None]}


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    """NaN is no JSON: nothing is written."""
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert names(tmp_path) == []


def test_a_folder_appears_whole(storage: UPath) -> None:
    """A folder is filled aside; it appears with all its files, in place of the one before."""
    for files in (["old"], ["manifest.json", "part", "sub/part"]):
        with written_folder(storage / "m") as aside:
            for name in files:
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_text(name)
    with local_folder(storage / "m") as local:
        assert (local / "sub" / "part").read_text() == "sub/part"
        assert {"manifest.json", "part", "sub/part"} <= set(names(local))


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    """An error while a folder is being filled leaves what was there, and nothing else."""
    write_bytes(tmp_path / "m" / "a", b"old")
    with pytest.raises(RuntimeError), written_folder(tmp_path / "m") as aside:
        (aside / "a").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["m/a"]
    assert (tmp_path / "m" / "a").read_bytes() == b"old"


def test_a_failed_write_leaves_nothing_aside(tmp_path: Path) -> None:
    """A file that cannot take its place leaves no part behind."""
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask of a user who shares, and of one who does not."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_is_written_has_the_mode_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    """Files, folders, and those above them; a tree that is copied from a temporary folder included."""
    write_bytes(tmp_path / "reports" / "a.json", b"{}")
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o700)
    (scratch / "part").write_bytes(b"x")
    with written_folder(tmp_path / "models" / "m") as aside:
        shutil.copytree(scratch, aside, dirs_exist_ok=True)
    assert mode(tmp_path / "reports" / "a.json") == mode(tmp_path / "models" / "m" / "part") == 0o666 & ~umask
    folders = (tmp_path / "reports", tmp_path / "models", tmp_path / "models" / "m")
    assert {mode(folder) for folder in folders} == {0o777 & ~umask}


def test_a_private_folder_is_private_however_it_was(umask: int, tmp_path: Path) -> None:
    """A new one, and one that others could enter; one with the sticky bit is shared on purpose."""
    assert mode(private_folder(tmp_path / "storage" / "state")) == 0o700
    assert mode(tmp_path / "storage") == 0o777 & ~umask
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o775)
    assert mode(private_folder(tmp_path / "open")) == 0o700
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    assert mode(private_folder(tmp_path / "shared")) == 0o777
