"""A delivery copied from where real batch files lie."""

import os
import re
from pathlib import Path

import pytest

from wafer.errors import DeliveryError
from wafer.fab.delivery import bring_delivery, copy_delivery


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of two batch files, one by a link within, and an empty target."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "a.csv").write_bytes(b"a")
    (source / "b.csv").symlink_to("a.csv")
    (source / ".hidden").write_bytes(b"hidden")
    return source, target


def test_the_files_of_a_folder_are_copied(places: tuple[Path, Path]) -> None:
    """Each batch file is a file of its own in the target, and nothing else comes along."""
    source, target = places
    copy_delivery(source, target)
    assert {path.name: (path.read_bytes(), path.is_symlink()) for path in target.iterdir()} == {
        "a.csv": (b"a", False),
        "b.csv": (b"a", False),
    }


def test_a_delivery_is_brought_once(places: tuple[Path, Path]) -> None:
    """Files that are there already are left alone, those with other bytes are replaced, others stay; a missing folder
    is named."""
    source, target = places
    (target / "old.csv").write_bytes(b"old")
    assert bring_delivery(source, target) == ["a.csv", "b.csv"]
    (source / "b.csv").unlink()
    (source / "b.csv").write_bytes(b"new")
    assert bring_delivery(source, target) == ["b.csv"]
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "a.csv": b"a",
        "b.csv": b"new",
        "old.csv": b"old",
    }
    with pytest.raises(DeliveryError, match="nowhere is not a folder"):
        bring_delivery(source / "nowhere", target)


def test_what_may_not_be_read_is_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    """A link out of the folder, unless into an allowed one, and a pipe are named and not copied."""
    source, target = places
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret").write_bytes(b"secret")
    (source / "c.csv").symlink_to(tmp_path / "private" / "secret")
    with pytest.raises(DeliveryError, match=re.escape(f"{source / 'c.csv'} cannot be delivered: it is a link to")):
        copy_delivery(source, target)
    assert not any(b"secret" in path.read_bytes() for path in target.iterdir())
    copy_delivery(source, target, (tmp_path / "private",))
    assert (target / "c.csv").read_bytes() == b"secret"
    os.mkfifo(source / "d.csv")
    with pytest.raises(DeliveryError, match="it is a pipe, a file was expected"):
        copy_delivery(source, target, (tmp_path / "private",))


def test_a_folder_with_nothing_but_folders_is_refused(tmp_path: Path) -> None:
    """Where the batch files lie one level deeper, that is said."""
    (tmp_path / "source" / "2020").mkdir(parents=True)
    with pytest.raises(DeliveryError, match=r"no batch file lies in .*source; 1 folder inside \(2020\) was left out"):
        copy_delivery(tmp_path / "source", tmp_path)
    with pytest.raises(DeliveryError, match="none is not a folder"):
        copy_delivery(tmp_path / "none", tmp_path)
