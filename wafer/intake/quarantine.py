"""What was turned away and why: the bytes of each rejected file beside its reasons, and single dropped wafers.

Everything is named by the SHA-256 of the file's bytes: `<digest>.csv` and `<digest>.reasons.json`; the dropped wafers
of an accepted file are `<digest>.dropped.jsonl`, an object a line. So the same bytes end here once, however often they
come, files of one name never meet, and no name from outside becomes a path; the record holds it. Of a file above the
agreed size only the first bytes are kept, as `<digest>.start`.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from upath import UPath

from wafer.contract.facts import Delivery
from wafer.contract.suites import Verdict
from wafer.delivered import read_parts
from wafer.errors import DeliveryError, UnreadError
from wafer.intake.conflicts import CONFLICT
from wafer.shown import shown_text
from wafer.storage import AnyPath, is_local, read_json, remove, write_bytes, write_json, write_text

_WHOLE = ".csv"
_START = ".start"
_REASONS = ".reasons.json"
_PARTS = (_WHOLE, _START, _REASONS)
_DROPPED = ".dropped.jsonl"
_DIGEST = re.compile("[0-9a-f]{64}")
_SHORTEST_DIGEST = 6  # characters of a digest by which a file may be named
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Entry:
    """One rejected file: where its bytes lie, the name it was delivered under, and its record.

    `verdict` is the verdict as JSON has it, with digest, size and `bytes_kept`; of a file that is not kept whole it has
    the path where it lay, unless it was sent.
    """

    path: AnyPath
    file: str
    digest: str
    verdict: dict[str, Any]

    @property
    def whole(self) -> bool:
        """Whether all its bytes are kept."""
        return bool(self.verdict["bytes_kept"] == self.verdict["size"])


def is_called(file: str, digest: str, name: str) -> bool:
    """Whether a person means this file by `name`: its name, as it is or as it is shown, or the start of its digest."""
    return name in (file, shown_text(file)) or (len(name) >= _SHORTEST_DIGEST and digest.startswith(name))


class Quarantine:
    """The rejected files of one kind, in one folder that a single process writes at a time."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self._held: dict[str, set[str]] | None = None

    def keep(self, delivery: Delivery, verdict: Verdict) -> Entry:
        """Keep a rejected file with its reasons; the bytes first, so that reasons always have their file.

        Raises:
            UnreadError: the file is gone, or no longer what was judged.
            DeliveryError: it cannot be written here.
        """
        size = delivery.facts["size"]
        record = {**verdict.as_dict(), "digest": delivery.digest, "size": size, "bytes_kept": size}
        target = self._file(delivery.digest, _WHOLE)
        try:
            if delivery.start is not None and not target.exists():
                record["bytes_kept"] = len(delivery.start)
                if delivery.path.name == delivery.file:  # under another name it lies there only for a while
                    record["path"] = shown_text(delivery.path.absolute(), _LONGEST_PATH)
                write_bytes(self._file(delivery.digest, _START), delivery.start)
                self._kept(delivery.digest).add(_START)
            elif not target.exists() or _digest(target) != delivery.digest:
                _copy(delivery, target)
                self._kept(delivery.digest).add(_WHOLE)
            write_json(self._file(delivery.digest, _REASONS), record)
        except OSError as error:
            raise DeliveryError(
                f"{shown_text(delivery.path)}: cannot be quarantined: {error.strerror or error}"
            ) from error
        self._kept(delivery.digest).add(_REASONS)
        return self._entry(record)

    def keep_rows(self, delivery: Delivery, verdict: Verdict) -> AnyPath | None:
        """Keep the wafers that an accepted file's verdict dropped, each with its original line; None without any."""
        if not verdict.dropped:
            return None
        records = [
            {
                "file": delivery.file,
                "digest": delivery.digest,
                "row": row.row,
                "line": row.line,
                "text": row.text,
                "reasons": [reason.as_dict() for reason in row.reasons],
            }
            for row in verdict.dropped
        ]
        target = self._file(delivery.digest, _DROPPED)
        _write_json_lines(target, records)
        return target

    def entries(self) -> list[Entry]:
        """The rejected files, sorted by name."""
        told = [digest for digest, endings in self._all().items() if _REASONS in endings]
        entries = [self._entry(read_json(self._file(digest, _REASONS))) for digest in told]
        return sorted(entries, key=lambda entry: (entry.file, entry.digest))

    def __len__(self) -> int:
        """How many files were rejected; reads none of them."""
        return sum(_REASONS in endings for endings in self._all().values())

    def dropped(self) -> list[dict[str, Any]]:
        """The wafers that were dropped from accepted files, as `keep_rows` recorded them, sorted by the file's name."""
        records = [record for path in self._listed(_DROPPED) for record in _json_lines(path)]
        return sorted(records, key=lambda record: (record["file"], record["digest"]))

    def find(self, name: str) -> list[Entry]:
        """The entries that `name` means, see `is_called`; several where files of one name are here."""
        return [entry for entry in self.entries() if is_called(entry.file, entry.digest, name)]

    def discard(self, digest: str) -> bool:
        """Remove what is kept of these bytes, which are at home elsewhere by now; whether there was anything.

        A run that was killed may have left the bytes alone; the reasons go last, so that they always have their file.
        """
        endings = self._all().get(digest, set())
        for ending in sorted(endings, key=_PARTS.index):
            remove(self._file(digest, ending))
        return self._all().pop(digest, None) is not None

    def forget_conflicts(self, digest: str, lines: Collection[int]) -> None:
        """Let go of wafers of an accepted file that contradicted stored ones: those of `lines`, settled by now."""
        path = self._file(digest, _DROPPED)
        if not path.exists():
            return
        records = list(_json_lines(path))
        kept = [r for r in records if r["line"] not in lines or any(s["rule"] != CONFLICT for s in r["reasons"])]
        if not kept:
            remove(path)
        elif len(kept) < len(records):
            _write_json_lines(path, kept)

    def _file(self, digest: str, ending: str) -> AnyPath:
        return self.folder / f"{digest}{ending}"

    def _entry(self, record: dict[str, Any]) -> Entry:
        ending = _WHOLE if record["bytes_kept"] == record["size"] else _START
        return Entry(self._file(record["digest"], ending), record["file"], record["digest"], record)

    def _all(self) -> dict[str, set[str]]:
        """What is kept of files, the ends of their names by digest; listed once."""
        if self._held is None:
            self._held = {}
            for digest, dot, ending in (path.name.partition(".") for path in self._listed(*_PARTS)):
                if _DIGEST.fullmatch(digest):
                    self._kept(digest).add(f"{dot}{ending}")
        return self._held

    def _kept(self, digest: str) -> set[str]:
        return self._all().setdefault(digest, set())

    def _listed(self, *endings: str) -> list[AnyPath]:
        if not self.folder.exists():
            return []
        files = (
            file for file in self.folder.iterdir() if file.name.endswith(endings) and not file.name.startswith(".")
        )
        return sorted(files, key=lambda file: file.name)


def _digest(path: AnyPath) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _json_lines(path: AnyPath) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        yield json.loads(line)


def _write_json_lines(path: AnyPath, records: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _copy(delivery: Delivery, target: AnyPath) -> None:
    """Copy a file of any size, whole or not at all, if its bytes are still those that were judged."""
    try:
        if is_local(target):
            _copy_to_folder(delivery, Path(str(target)))
        else:
            _copy_to_bucket(delivery, UPath(target))
    except UnreadError as error:
        raise UnreadError(f"{shown_text(delivery.path)}: {error}") from error


def _copy_to_folder(delivery: Delivery, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{delivery.digest[:16]}.part")
    try:
        with aside.open("wb") as copy:
            _copy_bytes(delivery, copy)
            copy.flush()
            os.fsync(copy.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _copy_to_bucket(delivery: Delivery, target: UPath) -> None:
    """Put the bytes in parts, which become a file only when all are there and have proved to be the right ones."""
    copy: Any = target.open("wb", autocommit=False)
    try:
        with copy:
            _copy_bytes(delivery, copy)
        copy.commit()
    except BaseException:
        copy.discard()
        raise


def _copy_bytes(delivery: Delivery, copy: IO[bytes]) -> None:
    copied = hashlib.sha256()
    for part in read_parts(delivery.path, delivery.within):
        copied.update(part)
        copy.write(part)
    if copied.hexdigest() != delivery.digest:
        raise UnreadError("changed while it was judged")
