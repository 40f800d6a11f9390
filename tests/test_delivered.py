"""What of a delivered folder is read, and what is not even opened."""

import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from wafer.delivered import LARGEST_READ, Entry, list_files, read_parts
from wafer.errors import DeliveryError, StorageError, UnreadError
from wafer.settings import Settings

OUTSIDE = "it is a link to {}, outside of its folder and of those that WAFER_LINK_ROOTS names"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A delivered folder beside one with a secret."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret").write_bytes(b"secret")
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def sockets() -> Iterator[Callable[[Path], None]]:
    """Makes sockets that are closed again."""
    held: list[socket.socket] = []

    def make(path: Path) -> None:
        held.append(socket.socket(socket.AF_UNIX))
        place = os.open(path.parent, os.O_RDONLY)
        try:
            held[-1].bind(f"/proc/self/fd/{place}/{path.name}" if Path("/proc/self/fd").exists() else str(path))
        finally:
            os.close(place)

    yield make
    for one in held:
        one.close()


def content(path: Path, roots: tuple[Path, ...] = ()) -> dict[str, bytes | str]:
    """What is read of each file that `path` means, by name, or why it is not."""
    found: dict[str, bytes | str] = {}
    for entry in list_files([path], roots).files:
        try:
            found[entry.path.name] = b"".join(read_parts(entry.path, entry.within))
        except UnreadError as error:
            found[entry.path.name] = str(error)
    return found


def test_a_folder_means_its_files_and_a_missing_path_is_an_error(tmp_path: Path) -> None:
    """A folder stands for every visible finished file in it by name, whatever its ending; a wrong path is refused."""
    for name in ("b.txt", "a.csv", ".hidden.csv", "c.csv.part"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "d.csv").touch()
    listing = list_files([tmp_path])
    assert listing.files == (Entry(tmp_path / "a.csv", (tmp_path,)), Entry(tmp_path / "b.txt", (tmp_path,)))
    assert (listing.folders, listing.hidden, listing.why_empty) == (("inner",), 2, None)
    assert listing.left_out == "1 folder inside (inner) and 2 hidden or unfinished files were left out"
    both = list_files([tmp_path / "b.txt", tmp_path / "inner"])
    assert both.files == (Entry(tmp_path / "b.txt"), Entry(tmp_path / "inner" / "d.csv", (tmp_path / "inner",)))
    assert both.left_out is None
    with pytest.raises(DeliveryError, match=re.escape(f"{tmp_path / 'none'}: no such file or folder")):
        list_files([tmp_path / "none"])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "no batch file lies in {}"),
        (["2020/01/a.csv"], "no batch file lies in {}; 1 folder inside (2020) was left out"),
        (
            ["e/a.csv", "d/a.csv", "c/a.csv", "\x1b[2J\n/a.csv", ".a.csv", "b.csv.part"],
            r"no batch file lies in {}; 4 folders inside (\x1b[2J\n, c, d, …) and 2 hidden or unfinished files were "
            "left out",
        ),
    ],
)
def test_an_empty_selection_says_what_was_left_out(tmp_path: Path, names: list[str], told: str) -> None:
    """A folder without batch files is told in words, with the number of folders in it and the first names."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listing = list_files([tmp_path])
    assert listing.files == ()
    assert listing.why_empty == told.format(tmp_path)


def test_links_that_lead_elsewhere_are_not_followed(raw: Path, tmp_path: Path) -> None:
    """A link out of the folder, whole or by a folder on its way, to nowhere or around is told with its reason."""
    secret = tmp_path / "private" / "secret"
    (raw / "absolute.csv").symlink_to(secret)
    (raw / "relative.csv").symlink_to("../private/secret")
    (raw / "elsewhere").symlink_to(tmp_path / "private")
    (raw / "through.csv").symlink_to("elsewhere/secret")
    (raw / "gone.csv").symlink_to("nothing.csv")
    (raw / "around.csv").symlink_to("around.csv")
    (raw / "whole.csv").symlink_to(tmp_path / "private")
    (raw / "raw2.csv").symlink_to(Path(f"{raw}2") / "a.csv")
    (tmp_path / "raw2").mkdir()
    (tmp_path / "raw2" / "a.csv").write_bytes(b"beside")
    assert content(raw) == {
        "absolute.csv": OUTSIDE.format(secret),
        "around.csv": "Too many levels of symbolic links",
        "gone.csv": "No such file or directory",
        "raw2.csv": OUTSIDE.format(tmp_path / "raw2" / "a.csv"),
        "relative.csv": OUTSIDE.format(secret),
        "through.csv": OUTSIDE.format(secret),
        "whole.csv": OUTSIDE.format(tmp_path / "private"),
    }
    assert list_files([raw]).folders == ("elsewhere",)


def test_links_within_the_folder_and_named_roots_pass(raw: Path, tmp_path: Path) -> None:
    """A link that ends in the folder, below it, or in a folder that a setting names is read; a hard link is a file."""
    (raw / "below").mkdir()
    (raw / "below" / "b.csv").write_bytes(b"below")
    (raw / "a.csv").write_bytes(b"a")
    (raw / "beside.csv").symlink_to("a.csv")
    (raw / "below.csv").symlink_to(raw / "below" / "b.csv")
    (raw / "hard.csv").hardlink_to(tmp_path / "private" / "secret")
    (raw / "out.csv").symlink_to(tmp_path / "private" / "secret")
    (tmp_path / "alias").symlink_to(tmp_path / "private")
    expected = {"a.csv": b"a", "below.csv": b"below", "beside.csv": b"a", "hard.csv": b"secret"}
    assert content(raw) == expected | {"out.csv": OUTSIDE.format(tmp_path / "private" / "secret")}
    for root in (tmp_path / "private", tmp_path, tmp_path / "alias"):
        assert content(raw, (tmp_path / "none", root)) == expected | {"out.csv": b"secret"}


def test_what_is_no_file_is_not_opened(raw: Path, sockets: Callable[[Path], None]) -> None:
    """Pipes, sockets and folders with a file's name are told with what they are; opening a pipe would wait for ever."""
    os.mkfifo(raw / "pipe.csv")
    os.mkfifo(raw / "pipe")
    sockets(raw / "socket.csv")
    (raw / "folder.CSV").mkdir()
    (raw / "linked.csv").symlink_to("pipe.csv")
    (raw / "device.csv").symlink_to("/dev/zero")
    expected = {
        "device.csv": OUTSIDE.format("/dev/zero"),
        "folder.CSV": "it is a folder, a file was expected",
        "linked.csv": "it is a pipe, a file was expected",
        "pipe": "it is a pipe, a file was expected",
        "pipe.csv": "it is a pipe, a file was expected",
        "socket.csv": "it is a socket, a file was expected",
    }
    assert content(raw) == expected
    expected["device.csv"] = "it is a device, a file was expected"
    assert content(raw, (Path("/dev"),)) == expected


def test_a_path_that_the_user_names_is_followed(raw: Path, tmp_path: Path) -> None:
    """A named link is read wherever it leads, a named link to a folder is that folder; its entries are not followed."""
    (tmp_path / "named").symlink_to(tmp_path / "private" / "secret")
    (tmp_path / "folder").symlink_to(raw)
    (raw / "a.csv").write_bytes(b"a")
    (raw / "inside.csv").symlink_to("a.csv")
    (raw / "out.csv").symlink_to(tmp_path / "private" / "secret")
    assert content(tmp_path / "named") == {"named": b"secret"}
    assert content(tmp_path / "folder") == {
        "a.csv": b"a",
        "inside.csv": b"a",
        "out.csv": OUTSIDE.format(tmp_path / "private" / "secret"),
    }
    assert content(Path("/dev/null")) == {"null": "it is a device, a file was expected"}


def test_a_file_that_becomes_a_link_is_not_followed(raw: Path, tmp_path: Path) -> None:
    """A link put in a file's place after the listing is refused like any other, also on the way to a link's target."""
    (raw / "inner").mkdir()
    (raw / "inner" / "b.csv").write_bytes(b"b")
    (raw / "a.csv").symlink_to("inner/b.csv")
    (raw / "c.csv").write_bytes(b"c")
    linked, plain = list_files([raw]).files
    (raw / "c.csv").unlink()
    (raw / "c.csv").symlink_to(tmp_path / "private" / "secret")
    (raw / "inner" / "b.csv").unlink()
    (raw / "inner" / "b.csv").symlink_to(tmp_path / "private" / "secret")
    for entry in (linked, plain):
        with pytest.raises(UnreadError, match="outside of its folder"):
            list(read_parts(entry.path, entry.within))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_a_file_gives_no_more_than_its_size(raw: Path) -> None:
    """What gives bytes without having a size, as files below /proc do, is refused, so that an endless one ends."""
    (raw / "endless.csv").symlink_to(f"/proc/{os.getpid()}/status")
    assert content(raw, (Path("/proc"),)) == {"endless.csv": "it has a size of 0 bytes and gave more"}


def test_a_file_that_shrinks_while_it_is_read_is_refused(raw: Path) -> None:
    """A file that is cut between two parts is told as one that gave fewer bytes than it had."""
    (raw / "a.csv").write_bytes(b"x" * 3_000_000)
    parts = read_parts(raw / "a.csv", (raw,))
    next(parts)
    os.truncate(raw / "a.csv", 1_500_000)
    with pytest.raises(UnreadError, match=re.escape("it has a size of 3,000,000 bytes and gave 1,500,000")):
        list(parts)


def test_a_giant_file_is_not_read_at_all(raw: Path) -> None:
    """A file that costs nothing to make and hours to read holds up no other."""
    with (raw / "a.csv").open("wb") as file:
        file.truncate(LARGEST_READ + 1)
    assert content(raw) == {"a.csv": "it has 17,179,869,185 bytes, and more than 17,179,869,184 are never read"}


def _linked(path: Path, target: str | Path) -> None:
    path.symlink_to(target)


# each kind of entry: how it is made, and what is read of it; a reason in words, or None where it is left out
ENTRIES: dict[str, tuple[Callable[[Path], object], bytes | str | None]] = {
    "file": (lambda path: path.write_bytes(b"own"), b"own"),
    "empty": (lambda path: path.touch(), b""),
    "hard link": (lambda path: path.hardlink_to(path.parent.parent / "linked"), b"linked"),
    "link inside": (lambda path: _linked(path, ".inside"), b"inside"),
    "link below": (lambda path: _linked(path, path.parent / ".below" / "x"), b"below"),
    "link by a link": (lambda path: _linked(path, ".chain"), b"inside"),
    "link to the root": (lambda path: _linked(path, path.parent.parent / "allowed" / "x"), b"allowed"),
    "link out": (lambda path: _linked(path, path.parent.parent / "private" / "x"), "outside of its folder"),
    "link out by ..": (lambda path: _linked(path, "../private/x"), "outside of its folder"),
    "link out and in": (lambda path: _linked(path, f"../private/../{path.parent.name}/.inside"), b"inside"),
    "link out by a folder": (lambda path: _linked(path, ".way/x"), "outside of its folder"),
    "link out of the root": (lambda path: _linked(path, "../allowed/way"), "outside of its folder"),
    "link to nowhere": (lambda path: _linked(path, ".nothing"), "No such file or directory"),
    "link to itself": (lambda path: _linked(path, path.name), "Too many levels of symbolic links"),
    "link to a device": (lambda path: _linked(path, "/dev/zero"), "outside of its folder"),
    "link to a pipe": (lambda path: _linked(path, ".pipe"), "it is a pipe"),
    "link through a file": (lambda path: _linked(path, ".inside/x"), "Not a directory"),
    "link of great length": (lambda path: _linked(path, "x" * 300), "File name too long"),
    "pipe": (os.mkfifo, "it is a pipe"),
    "folder": (lambda path: path.mkdir(), "it is a folder"),
    "link to a folder": (lambda path: _linked(path, ".below"), "it is a folder"),
}
STEMS = [
    *(
        "a",
        "b",
        "wafer_01012020_000000",
        "x" * 240,
        "é" * 100,
        "\udcff",
        "\x1b[2J",
        "a\nb",
        "\r",
        "\t",
        "\x9b31m",
        "\u202e",
    ),
    *(" ", "-rf", "--", "~", "*", "$(id)", "`id`", "%s", "{x}", "a\\b", "C:", "CON", "'", '"', "a.csv", "#", "\u2028"),
]
entries = st.dictionaries(
    st.builds("{}{}".format, st.sampled_from(STEMS), st.sampled_from([".csv", ".CSV", "", ".part"])),
    st.sampled_from([*ENTRIES]),
    max_size=6,
)


def _is_told_truly(delivered: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "raw")
        for folder in ("raw/.below", "private", "allowed"):
            Path(scratch, folder).mkdir(parents=True)
            Path(scratch, folder, "x").write_text(Path(folder).name.lstrip("."))
        (raw / ".inside").write_bytes(b"inside")
        (raw / ".chain").symlink_to(".inside")
        (raw / ".way").symlink_to("../private")
        (raw.parent / "allowed" / "way").symlink_to("../private/x")
        (raw.parent / "linked").write_bytes(b"linked")
        os.mkfifo(raw / ".pipe")
        expected, left_out = {}, set()
        for name, kind in delivered.items():
            make, told = ENTRIES[kind]
            make(raw / name)
            if name.endswith(".part"):
                continue
            if told == "it is a folder" and not name.lower().endswith(".csv"):
                left_out.add(name)
            else:
                expected[name] = told
        found = content(raw, (raw.parent / "allowed",))
        assert found.keys() == expected.keys()
        for name, told in expected.items():
            assert found[name] == told if isinstance(told, bytes) else str(told) in str(found[name]), (name, delivered)
        listing = list_files([raw])
        assert set(listing.folders) == left_out
        words = f"{listing.left_out} {listing.why_empty}"
        assert words.isprintable()
        assert len(words) < 1_000


@hypothesis.given(entries)
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_whatever_a_folder_holds_is_told_truly(delivered: dict[str, str]) -> None:
    """Files and allowed links are read, all else is told with its reason or as left out, whatever it is called."""
    _is_told_truly(delivered)


@pytest.mark.slow
@hypothesis.given(entries)
@hypothesis.settings(max_examples=5_000, deadline=None, database=None)
def test_whatever_many_folders_hold_is_told_truly(delivered: dict[str, str]) -> None:
    """The same for thousands of folders, others each time."""
    _is_told_truly(delivered)


def test_a_bucket_that_is_not_there_is_told(s3_address: str) -> None:
    """Not as a file or folder that is missing in it, which is told where the bucket is there."""
    settings = Settings.read(storage_url=os.devnull, s3_endpoint=s3_address)
    place = settings.opened("s3://nosuch-bucket/x")
    with pytest.raises(
        StorageError, match=r"^s3://nosuch-bucket/x: there is no bucket 'nosuch-bucket', and none is made"
    ):
        list_files([place])
    place.fs.mkdir("bucket-of-deliveries")
    with pytest.raises(DeliveryError, match=r"^s3://bucket-of-deliveries/x: no such file or folder$"):
        list_files([settings.opened("s3://bucket-of-deliveries/x")])
