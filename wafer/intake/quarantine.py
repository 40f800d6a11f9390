"""What was turned away and why: the bytes of each rejected file beside its reasons, and single dropped wafers.

An entry is `<file>` with `<file>.reasons.json`; the dropped wafers of an accepted file are `<file>.dropped.jsonl`, an
object a line. The same bytes end once, however often they come; other bytes under the same name go beside them as
`<stem>.<first 8 of the digest><ending>`.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from upath import UPath

from wafer.contract.facts import Delivery
from wafer.contract.suites import Verdict
from wafer.errors import DeliveryError, UnreadError
from wafer.intake.conflicts import CONFLICT
from wafer.storage import AnyPath, is_local, look_anew, read_json, write_json, write_text

_REASONS = ".reasons.json"
_DROPPED = ".dropped.jsonl"
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Entry:
    """One rejected file: where its bytes lie, the name it was delivered under, and its verdict as JSON has it."""

    path: AnyPath
    file: str
    digest: str
    verdict: dict[str, Any]


class Quarantine:
    """The rejected files of one kind, in one folder that a single process writes at a time."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self._digests: dict[str, str] | None = None

    def keep(self, delivery: Delivery, verdict: Verdict) -> Entry:
        """Keep a rejected file with its reasons; the bytes first, so that reasons always have their file.

        Raises:
            UnreadError: the file is gone, or no longer what was judged.
            DeliveryError: it cannot be written here.
        """
        name = self._names().get(delivery.digest) or self._free_name(delivery)
        target = self.folder / name
        if not target.exists() or _digest(target) != delivery.digest:
            _copy(delivery.path, target, delivery.digest)
        record = {**verdict.as_dict(), "digest": delivery.digest}
        write_json(self.folder / f"{name}{_REASONS}", record)
        self._names()[delivery.digest] = name
        return Entry(target, delivery.file, delivery.digest, record)

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
        target = self.folder / f"{_safe(delivery)}{_DROPPED}"
        if target.exists() and next(_json_lines(target))["digest"] != delivery.digest:
            target = self.folder / f"{_with_digest(delivery)}{_DROPPED}"
        _write_json_lines(target, records)
        return target

    def entries(self) -> list[Entry]:
        """The rejected files, sorted by name."""
        entries = []
        for name in sorted(self._names().values()):
            record = read_json(self.folder / f"{name}{_REASONS}")
            entries.append(Entry(self.folder / name, record["file"], record["digest"], record))
        return entries

    def dropped(self) -> list[dict[str, Any]]:
        """The wafers that were dropped from accepted files, as `keep_rows` recorded them."""
        return [record for path in self._listed(_DROPPED) for record in _json_lines(path)]

    def find(self, name: str) -> Entry:
        """The entry of a file's name, of the name it has here, or of the start of its digest.

        Raises:
            DeliveryError: there is none, or more than one.
        """
        entries = self.entries()
        fits = [entry for entry in entries if name in (entry.file, entry.path.name)]
        if len(name) >= 6:
            fits = fits or [entry for entry in entries if entry.digest.startswith(name)]
        exact = [entry for entry in fits if entry.path.name == name] or fits
        if len(exact) != 1:
            raise DeliveryError(f"{self.folder}: {len(exact) or 'no'} entries fit {name!r}, expected one")
        return exact[0]

    def discard(self, digest: str) -> bool:
        """Remove the entry of these bytes, which are at home elsewhere by now; whether there was one."""
        name = self._names().get(digest)
        if name is None:
            return False
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / f"{name}{_REASONS}").unlink(missing_ok=True)
        del self._names()[digest]
        return True

    def forget_conflicts(self, digest: str, lines: Collection[int]) -> None:
        """Let go of wafers of an accepted file that contradicted stored ones: those of `lines`, settled by now."""
        for path in self._listed(_DROPPED):
            records = list(_json_lines(path))
            if any(record["digest"] != digest for record in records):
                continue
            kept = [r for r in records if r["line"] not in lines or any(s["rule"] != CONFLICT for s in r["reasons"])]
            if not kept:
                path.unlink()
            elif len(kept) < len(records):
                _write_json_lines(path, kept)

    def _names(self) -> dict[str, str]:
        """The entries' names by digest; read once."""
        if self._digests is None:
            self._digests = {}
            for path in self._listed(_REASONS):
                self._digests[read_json(path)["digest"]] = path.name.removesuffix(_REASONS)
        return self._digests

    def _listed(self, ending: str) -> list[AnyPath]:
        look_anew(self.folder)
        if not self.folder.exists():
            return []
        files = (file for file in self.folder.iterdir() if file.name.endswith(ending) and not file.name.startswith("."))
        return sorted(files, key=lambda file: file.name)

    def _free_name(self, delivery: Delivery) -> str:
        """The delivered name where it is free or has these very bytes, left by a run that was cut short."""
        name = _safe(delivery)
        target = self.folder / name
        if name in self._names().values() or (target.exists() and _digest(target) != delivery.digest):
            return _with_digest(delivery)
        return name


def _safe(delivery: Delivery) -> str:
    """The delivered name, if no file of the quarantine itself could be called so."""
    name = delivery.file
    if name.endswith((_REASONS, _DROPPED)) or name.startswith(".") or len(name.encode()) > _LONGEST_NAME:
        return _with_digest(delivery)
    return name


def _with_digest(delivery: Delivery) -> str:
    name = Path(delivery.file)
    stem = name.stem.lstrip(".").encode()[:100].decode(errors="ignore")
    ending = name.suffix if len(name.suffix) <= 20 else ""
    return f"{stem}.{delivery.digest[:8]}{ending}"


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


def _copy(source: AnyPath, target: AnyPath, digest: str) -> None:
    """Copy a file of any size, whole or not at all, if its bytes are still those of `digest`."""
    try:
        stream = source.open("rb")
    except OSError as error:
        raise UnreadError(f"{source}: cannot be quarantined: {error.strerror or error}") from error
    try:
        with stream:
            if is_local(target):
                _copy_to_folder(stream, Path(str(target)), digest)
            else:
                _copy_to_bucket(stream, UPath(target), digest)
    except _SourceError as error:
        raise UnreadError(f"{source}: {error}") from None
    except OSError as error:
        raise DeliveryError(f"{source}: cannot be quarantined: {error.strerror or error}") from error


class _SourceError(Exception):
    """The bytes cannot be had any more, or are not those of the digest."""


def _copy_to_folder(stream: IO[bytes], target: Path, digest: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{digest[:16]}.part")
    try:
        with aside.open("wb") as copy:
            _copy_bytes(stream, copy, digest)
            copy.flush()
            os.fsync(copy.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _copy_to_bucket(stream: IO[bytes], target: UPath, digest: str) -> None:
    """Put the bytes in parts, which become a file only when all are there and have proved to be the right ones."""
    copy: Any = target.open("wb", autocommit=False)
    try:
        with copy:
            _copy_bytes(stream, copy, digest)
        copy.commit()
    except BaseException:
        copy.discard()
        raise


def _copy_bytes(stream: IO[bytes], copy: IO[bytes], digest: str) -> None:
    copied = hashlib.sha256()
    while part := _read_part(stream):
        copied.update(part)
        copy.write(part)
    if copied.hexdigest() != digest:
        raise _SourceError("changed while it was judged")


def _read_part(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(1 << 20)
    except OSError as error:
        raise _SourceError(f"cannot be quarantined: {error.strerror or error}") from error
