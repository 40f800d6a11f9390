"""Which delivered files have settled: whole, as far as can be seen from outside, and told of once.

A file has settled when two looks find the same size and the same time of its last change; one that still grows waits.
Who is the first to note it in the storage tells of it, so that of several watchers, or one that was started again, one
does. A file that is changed later settles anew.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wafer.delivered import list_files
from wafer.storage import AnyPath, Storage, as_json, is_local

PLACE = "watched"  # of notes in the storage, one a settled file


@dataclass(frozen=True)
class Settled:
    """A file that has settled: its place, size in bytes, and time of its last change (seconds since 1970)."""

    path: str
    size: int
    changed: float

    @property
    def key(self) -> str:
        """The same for the same state of the same file, and for no other."""
        return hashlib.sha256(f"{self.path}\n{self.size}\n{self.changed!r}".encode()).hexdigest()[:32]


@dataclass
class Watch:
    """Looks at the batch files of a folder again and again.

    Attributes:
        folder: which need not be there yet.
        storage: where it is noted what was told of.
        link_roots: as `wafer.delivered.list_files` takes them.
    """

    folder: AnyPath
    storage: Storage
    link_roots: Sequence[Path] = ()
    _before: set[Settled] = field(default_factory=set)
    _told: set[Settled] = field(default_factory=set)

    def look(self) -> list[Settled]:
        """The files that have settled since the last look and that nobody has told of, by name."""
        present = self._present()
        settled = [one for one in present if one in self._before and one not in self._told]
        self._before = set(present)
        self._told = (self._told & self._before) | set(settled)
        return [one for one in settled if self.storage.put_new(f"{PLACE}/{one.key}.json", as_json(asdict(one)))]

    def settling(self, seconds: float, minutes: float) -> Iterator[Settled]:
        """The files that settle within so many minutes, each as soon as a look finds it; `seconds` pass between two."""
        end = time.monotonic() + 60.0 * minutes
        while True:
            yield from self.look()
            if time.monotonic() + seconds > end:
                return
            time.sleep(seconds)

    def _present(self) -> list[Settled]:
        """The files as they are now; one that goes meanwhile is none."""
        if not is_local(self.folder):
            self.folder.fs.invalidate_cache()  # type: ignore[union-attr]
        found = []
        for entry in list_files([self.folder], self.link_roots).files if self.folder.exists() else ():
            try:
                state = entry.path.stat()
            except FileNotFoundError:
                continue
            found.append(Settled(str(entry.path), state.st_size, state.st_mtime))
        return found
