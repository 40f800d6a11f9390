"""Which delivered files have settled: whole, as far as can be seen from outside, and told of once.

A file has settled when two looks find the same size and the same time of its last change; one that still grows waits.
Who is the first to note it in the storage tells of it, so that of several watchers, or one that was started again, one
does. A file that is changed later settles anew.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wafer.addresses import gave_no_answer
from wafer.delivered import list_files
from wafer.shown import shown_message
from wafer.storage import AnyPath, Storage, as_json

PLACE = "watched"  # of notes in the storage, one a settled file
log = logging.getLogger("wafer")


@dataclass(frozen=True)
class SettledFile:
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
    _before: set[SettledFile] = field(default_factory=set)
    _told: set[SettledFile] = field(default_factory=set)

    def look(self) -> Iterator[SettledFile]:
        """The files that have settled since the last look and that nobody has told of, by name, noted one by one."""
        present = self._present()
        settled = [one for one in present if one in self._before and one not in self._told]
        self._before = set(present)
        self._told &= self._before
        for one in settled:
            first = self.storage.put_new(f"{PLACE}/{one.key}.json", as_json(asdict(one)))
            self._told.add(one)
            if first:
                yield one

    def settling(self, seconds: float, minutes: float) -> Iterator[SettledFile]:
        """The files that settle within so many minutes, each as soon as a look finds it; `seconds` pass between two.

        A look that gets no answer from a bucket is told of, and the next one makes up for it.
        """
        end = time.monotonic() + 60.0 * minutes
        while True:
            try:
                yield from self.look()
            except Exception as error:
                if not gave_no_answer(error):
                    raise
                log.warning("%s gave no answer, and is looked at again: %s", self.folder, shown_message(str(error)))
            if time.monotonic() + seconds > end:
                return
            time.sleep(seconds)

    def _present(self) -> list[SettledFile]:
        """The files as they are now; one that goes meanwhile is none."""
        found = []
        for entry in list_files([self.folder], self.link_roots).files if self.folder.exists() else ():
            try:
                state = entry.path.stat()
            except FileNotFoundError:
                continue
            found.append(SettledFile(str(entry.path), state.st_size, state.st_mtime))
        return found
