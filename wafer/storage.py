"""Files in a folder or in S3 through one interface: a `UPath` is a `pathlib.Path` that also speaks `s3://`.

Whatever is written here is complete or absent: locally it is written aside and renamed, on S3 one put is atomic. Files
and folders get the mode that the umask gives; only what is nobody else's business is narrower, by `private_folder`.
"""

import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

AnyPath = Path | UPath


def is_local(path: AnyPath) -> bool:
    """Whether `path` lies on this machine's own file system."""
    return isinstance(path, Path) or path.protocol in ("", "file", "local")


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; missing folders are made."""
    if not is_local(path):
        path.write_bytes(data)
        return
    local = Path(str(path))
    local.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(local)
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(local)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: AnyPath, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` as indented JSON with a newline at the end, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: AnyPath) -> Any:
    """Read the JSON document at `path`."""
    return json.loads(path.read_bytes())


@contextmanager
def written_folder(target: AnyPath) -> Iterator[Path]:
    """A local folder to fill; it appears at `target` when the block ends without an error, replacing what was there.

    On S3 the files are put one by one, those whose name starts with `manifest` last, so that a folder with its manifest
    is complete.
    """
    local = Path(str(target)) if is_local(target) else None
    if local is not None:
        local.parent.mkdir(parents=True, exist_ok=True)
        aside = _aside(local)
        aside.mkdir()
    else:
        aside = Path(tempfile.mkdtemp(suffix=".part"))
    mode = aside.stat().st_mode
    try:
        yield aside
        if local is not None:
            aside.chmod(mode)  # a tree copied into it has brought its own, that of a temporary folder
            _swap(aside, local)
        else:
            files = sorted((p for p in aside.rglob("*") if p.is_file()), key=lambda p: p.name.startswith("manifest"))
            for file in files:
                target.joinpath(*file.relative_to(aside).parts).write_bytes(file.read_bytes())
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def private_folder(path: Path) -> Path:
    """Make the folder `path` and those above it; nobody but its owner may enter it, also where it was there before.

    A folder of somebody else and one that is shared on purpose (with the sticky bit, as `/tmp`) stay as they are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.stat()
    if found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX and found.st_uid == os.geteuid():
        path.chmod(0o700)
    return path


def _aside(local: Path) -> Path:
    """Where what will be `local` is written first: a hidden name of its own beside it."""
    return local.with_name(f".{local.name}.{secrets.token_hex(4)}.part")


def _swap(aside: Path, target: Path) -> None:
    if target.exists():
        old = aside.with_name(aside.name + ".old")
        target.replace(old)
        aside.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        aside.replace(target)


@contextmanager
def local_folder(source: AnyPath) -> Iterator[Path]:
    """The folder `source` on this machine: itself where it is local, else a temporary copy."""
    if is_local(source):
        yield Path(str(source))
        return
    remote = UPath(source)
    with tempfile.TemporaryDirectory() as copy:
        for file in remote.rglob("*"):
            if file.is_file():
                to = Path(copy, *file.relative_to(remote).parts)
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(file.read_bytes())
        yield Path(copy)
