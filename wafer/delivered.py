"""What lies in a folder that somebody else fills: which entries are files to be read, and how one is opened.

An entry is never followed to where its deliverer wants it to lead. A link passes where its target stays in the
delivered folder or in a folder that `WAFER_LINK_ROOTS` names; any other link, and a pipe, socket, device or folder in
the place of a file, is told as one that cannot be read, and is not opened. A path that the user has named is followed,
its entries are not. A hard link is an ordinary file.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wafer.errors import DeliveryError, UnreadError
from wafer.shown import shown_text
from wafer.storage import AnyPath, is_local, need_bucket

BATCH_ENDING = ".csv"
LARGEST_READ = 16 * 2**30
"""Bytes of the largest file that is read, if only for its digest; a larger one would hold up the others for minutes."""
PART = 2**20  # bytes read at a time
_NAMED = 3  # folders that a sentence names
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


@dataclass(frozen=True)
class Entry:
    """One entry to be read as a file: where it lies, and the folders within which it may lead, see `read_parts`."""

    path: AnyPath
    within: tuple[Path, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """The entries that some paths mean, and what was left out of folders: the names of inner ones, hidden files.

    `places` are the paths, in words.
    """

    files: tuple[Entry, ...]
    places: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    hidden: int = 0

    @property
    def left_out(self) -> str | None:
        """What was left out, in words; None where nothing was."""
        told = []
        if self.folders:
            names = ", ".join(shown_text(name, 60) for name in self.folders[:_NAMED])
            told.append(f"{_count(len(self.folders), 'folder')} inside ({names}{', …' * (len(self.folders) > _NAMED)})")
        if self.hidden:
            told.append(f"{_count(self.hidden, 'hidden or unfinished file')}")
        one = len(self.folders) + self.hidden == 1
        return f"{' and '.join(told)} {'was' if one else 'were'} left out" if told else None

    @property
    def why_empty(self) -> str | None:
        """A sentence that says that there is no batch file, and what was left out; None where there is one."""
        if self.files:
            return None
        places = ", ".join(shown_text(place) for place in self.places[:_NAMED])
        left_out = f"; {self.left_out}" if self.left_out else ""
        return f"no batch file lies in {places}{', …' * (len(self.places) > _NAMED)}{left_out}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def list_files(paths: Iterable[AnyPath], link_roots: Sequence[Path] = ()) -> Listing:
    """The files that `paths` mean: a file itself, of a folder every file in it, whatever its ending, sorted by name.

    Hidden entries, those still being written (`.part`) and inner folders are left out of folders, unless one bears the
    name of a batch file (`.csv`). Everything else is listed, also what cannot be read as a file: `read_parts` says why.
    Links may lead into `link_roots` as well as into the folder.

    Raises:
        DeliveryError: a path is not there, or cannot be looked into.
        StorageError: its bucket is not there.
    """
    files: list[Entry] = []
    folders: list[str] = []
    places: list[str] = []
    hidden = 0
    for path in paths:
        places.append(str(path))
        try:
            if not path.is_dir():
                if not path.exists():
                    need_bucket(path, shown_text(path))
                    raise DeliveryError(f"{shown_text(path)}: no such file or folder")
                files.append(Entry(path))
                continue
            within = (Path(str(path)), *link_roots) if is_local(path) else ()
            inside: list[AnyPath] = list(path.iterdir())
            for inner in sorted(inside, key=lambda file: file.name):
                if inner.name.startswith(".") or inner.suffix == ".part":
                    hidden += 1
                elif inner.suffix.lower() != BATCH_ENDING and _is_folder(inner):
                    folders.append(inner.name)
                else:
                    files.append(Entry(inner, within))
        except OSError as error:
            raise DeliveryError(f"{shown_text(path)}: {error.strerror or error}") from error
    return Listing(tuple(files), tuple(places), tuple(folders), hidden)


def _is_folder(path: AnyPath) -> bool:
    """Whether it is a folder, or a link to one; what cannot be told is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read_parts(path: AnyPath, within: Sequence[Path] | None = None) -> Iterator[bytes]:
    """The bytes of one delivered file, a megabyte at a time: as many as it had when it was opened.

    `within` are the folders in which it may end where it is a link; None where the user named the path itself, which is
    followed wherever it leads.

    Raises:
        UnreadError: it is no file, leads elsewhere, is larger than `LARGEST_READ`, gives more or fewer bytes than its
            size, or cannot be read; the message says which, without the path.
    """
    try:
        stream = _open(Path(str(path)), within) if is_local(path) else path.open("rb")
        with stream:
            size = os.fstat(stream.fileno()).st_size if is_local(path) else getattr(stream, "size", None)
            if size is not None and size > LARGEST_READ:
                raise UnreadError(f"it has {size:,} bytes, and more than {LARGEST_READ:,} are never read")
            done = 0
            while part := stream.read(PART):
                done += len(part)
                if size is not None and done > size:
                    break
                yield part
            if size is not None and done != size:
                got = "more" if done > size else f"{done:,}"
                raise UnreadError(f"it has a size of {size:,} bytes and gave {got}")
    except OSError as error:
        raise UnreadError(error.strerror or str(error)) from error


def _open(path: Path, within: Sequence[Path] | None) -> IO[bytes]:
    """Open a regular file; between the look and the opening nobody can put a link in its place."""
    if within is None:
        _require_file(path.stat())
        target = Path(os.path.realpath(path, strict=True))
        root = target.parent
    elif path.is_symlink():
        target = Path(os.path.realpath(path, strict=True))
        roots = [Path(os.path.realpath(folder)) for folder in within]
        found = next((folder for folder in roots if target.is_relative_to(folder)), None)
        if found is None:
            raise UnreadError(
                f"it is a link to {shown_text(target)}, outside of its folder and of those that WAFER_LINK_ROOTS names"
            )
        root = found
    else:
        target, root = path, path.parent
    return os.fdopen(_open_below(root, target.relative_to(root).parts), "rb")


def _open_below(root: Path, parts: Sequence[str]) -> int:
    """The descriptor of the regular file `parts` below `root`, none of which may be a link."""
    held = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=held)
            os.close(held)
            held = inner
        name = parts[-1] if parts else "."
        _require_file(os.stat(name, dir_fd=held, follow_symlinks=False))  # a device is not even opened
        descriptor = os.open(name, _FILE, dir_fd=held)
    finally:
        os.close(held)
    try:
        _require_file(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_file(state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise UnreadError(f"it is {_KINDS.get(stat.S_IFMT(state.st_mode), 'something else')}, a file was expected")
