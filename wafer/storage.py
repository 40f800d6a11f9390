"""Files in a folder or in S3 through one interface: a `UPath` is a `pathlib.Path` that also speaks `s3://`.

Whatever is written here is complete or absent: locally it is written aside and renamed, on S3 one put is atomic.
"""

import json
import os
import shutil
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
    handle, aside = tempfile.mkstemp(prefix=f".{local.name}.", suffix=".part", dir=local.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(local)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
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
    parent = Path(str(target)).parent if is_local(target) else None
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=parent))
    aside.chmod(0o755)
    try:
        yield aside
        if parent is not None:
            _swap(aside, Path(str(target)))
        else:
            files = sorted((p for p in aside.rglob("*") if p.is_file()), key=lambda p: p.name.startswith("manifest"))
            for file in files:
                target.joinpath(*file.relative_to(aside).parts).write_bytes(file.read_bytes())
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
