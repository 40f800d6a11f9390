"""Where all outputs lie, a folder or a prefix of an S3 bucket: what is written is complete or absent.

`Storage` turns a key, such as ``runs/train-20260131-083000/metrics.json``, into something to open, with its own
endpoint and credentials; nothing else does. Sets of files get a prefix of their own and become visible by one small
file that is written last: a manifest, a run's record, or a pointer (`Storage.point`). Files and folders get the mode
that the umask gives; only what is nobody else's business is narrower, by `private_folder`.
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

from upath import UPath

from wafer.errors import StorageError

AnyPath = Path | UPath

LISTED_LAST = "manifest"
SECONDS_LOCKED = 60.0  # of a file; whoever has one lets go soon
# a bucket that hangs is told within half a minute: three attempts of the client, none by s3fs on top of them
PATIENCE = {"connect_timeout": 5, "read_timeout": 8, "retries": {"total_max_attempts": 3, "mode": "standard"}}
S3_SPAN = timedelta(minutes=15)  # between its clock and what it is asked
ATTEMPTS = 100  # of a pointer; each one that fails means that another writer has changed it


class Storage:
    """A folder or a bucket's prefix, by keys: relative paths with `/`.

    Args:
        url: a folder, or ``s3://bucket/prefix``.
        options: what s3fs takes besides: endpoint_url, key, secret, token.

    Raises:
        StorageError: the address is of another kind, or names no bucket.
    """

    def __init__(self, url: str, **options: Any) -> None:
        scheme, separator, rest = url.partition("://")
        if not separator:
            self.root = UPath(Path(url).absolute())
        elif scheme != "s3":
            raise StorageError(f"WAFER_STORAGE must be a folder or s3://bucket/prefix, got {scheme}://…")
        elif not rest.split("/", 1)[0]:
            raise StorageError("WAFER_STORAGE names no bucket: expected s3://bucket/prefix")
        else:
            self.root = bucket_path(url, **options)

    def __repr__(self) -> str:
        return f"Storage({str(self.root)!r})"

    def place(self, key: str) -> UPath:
        """What opens `key`: a path of this machine, or one of the bucket with its endpoint and credentials."""
        return self.root.joinpath(*key.split("/"))

    def key(self, place: AnyPath) -> str:
        """The key of a place below this storage."""
        return str(place).removeprefix(str(self.root)).strip("/")

    def check(self) -> None:
        """Make sure that something can be written here, before anything long starts; makes a missing folder.

        Raises:
            StorageError: the folder cannot be made, or nothing can be written, or as `need_bucket` says. A bucket is
                never made.
        """
        self.need_bucket()
        probe = self.place(f".check-{os.getpid()}")
        try:
            write_bytes(probe, b"")
            remove(probe)
        except _failures() as error:
            told = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise StorageError(f"WAFER_STORAGE: {self.root} cannot be written: {told}") from error

    def need_bucket(self) -> None:
        """Make sure that the bucket is there, where this is one, see the function `need_bucket`."""
        need_bucket(self.root, f"WAFER_STORAGE is {self.root}")

    def headers(self) -> dict[str, str]:
        """What the server of the bucket says with an answer: its name, its time."""
        answer = self.root.fs.call_s3("head_bucket", Bucket=self.root.path.split("/", 1)[0])
        return dict(answer["ResponseMetadata"]["HTTPHeaders"])

    def exists(self, key: str) -> bool:
        """Whether there is a file or folder of this key."""
        return bool(self.place(key).exists())

    def children(self, key: str) -> list[str]:
        """The names in a folder, sorted, without hidden ones; none where there is no such folder."""
        folder = self.place(key)
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []

    def read_json(self, key: str) -> Any:
        """The JSON document of `key`.

        Raises:
            StorageError: it is not there, or is not JSON.
        """
        try:
            return read_json(self.place(key))
        except FileNotFoundError as error:
            raise StorageError(f"{self.place(key)} is not there") from error
        except ValueError as error:
            raise StorageError(f"{self.place(key)} is not JSON: {error}") from error

    def write_json(self, key: str, value: Any) -> None:
        """Write `value` as JSON, whole or not at all; NaN is refused."""
        write_json(self.place(key), value)

    def write_text(self, key: str, text: str) -> None:
        """Write `text` as UTF-8, whole or not at all."""
        write_text(self.place(key), text)

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write `data`, whole or not at all."""
        write_bytes(self.place(key), data)

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """The folder `key` on this machine: itself where it is local, else a temporary copy."""
        with local_folder(self.place(key)) as folder:
            yield folder

    def point(self, key: str, value: Any, *, newer: Callable[[Any], bool] = lambda _: True) -> bool:
        """Let the pointer `key` hold `value`, if it is `newer` than what the pointer holds now, or that is nothing.

        Of two writers at the same moment one comes first, and the other then sees what that one has written.

        Returns: whether the pointer holds `value` now.
        """
        data = as_json(value)
        for _ in range(ATTEMPTS):
            if is_local(self.root):
                with _locked(Path(str(self.place(key)))) as (file, present):
                    if present is not None and not newer(json.loads(present)):
                        return False
                    write_bytes(file, data)
                    return True
            present, tag = self._look(key)
            if present is not None and not newer(json.loads(present)):
                return False
            if self._put(key, data, tag):
                return True
        raise self._contested(key)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write `data` where nothing is yet; whether this writer was the first."""
        if not is_local(self.root):
            for _ in range(ATTEMPTS):
                if self._put(key, data, None):
                    return True
                if self._look(key)[0] is not None:
                    return False
            raise self._contested(key)
        with _locked(Path(str(self.place(key)))) as (file, present):
            if present is None:
                write_bytes(file, data)
            return present is None

    def _contested(self, key: str) -> StorageError:
        return StorageError(f"{self.place(key)} could not be written: other writers came first again and again")

    def _look(self, key: str) -> tuple[bytes | None, str | None]:
        """What a bucket holds under `key`, with its ETag."""
        from fsspec.asyn import sync

        place = self.place(key)
        bucket, _, name = place.path.partition("/")
        for _ in range(ATTEMPTS):
            try:
                tag = place.fs.call_s3("head_object", Bucket=bucket, Key=name)["ETag"]
                found = place.fs.call_s3("get_object", Bucket=bucket, Key=name, IfMatch=tag)
                return bytes(sync(place.fs.loop, found["Body"].read)), str(tag)
            except FileNotFoundError:
                return None, None
            except OSError as error:
                if not _refused(error):
                    raise
        raise self._contested(key)

    def _put(self, key: str, data: bytes, tag: str | None) -> bool:
        """Put `data` if the object still has this ETag, or is still absent; S3 lets one of many writers through.

        The client asks again where an answer was lost, and is then refused by its own first try: its mark tells.
        """
        place, mark = self.place(key), secrets.token_hex(8)
        bucket, _, name = place.path.partition("/")
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            place.fs.call_s3("put_object", Bucket=bucket, Key=name, Body=data, Metadata={"writer": mark}, **condition)
        except OSError as error:
            if not _refused(error):
                raise
            try:
                return bool(place.fs.call_s3("head_object", Bucket=bucket, Key=name)["Metadata"].get("writer") == mark)
            except FileNotFoundError:
                return False
        return True


def _refused(error: BaseException) -> bool:
    """Whether a conditional request came second: 412, or 409 for one that must be tried again."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412)


@contextmanager
def _locked(file: Path) -> Iterator[tuple[Path, bytes | None]]:
    """A local file and what it holds, while nobody else changes files of its folder through this function."""
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        take_lock(folder, file.parent)
        yield file, file.read_bytes() if file.exists() else None
    finally:
        os.close(folder)


def take_lock(handle: int | IO[bytes], path: Path, kind: int = fcntl.LOCK_EX, seconds: float = SECONDS_LOCKED) -> None:
    """Lock the open file or folder `path` once nobody else has locked it, which is waited for some time.

    Raises:
        TimeoutError: another process, which may be stuck or stopped, kept its lock.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                told = f"another process has locked it for {seconds:g} seconds: end that"
                raise TimeoutError(errno.ETIMEDOUT, told, str(path)) from error
        time.sleep(0.01)


def bucket_path(url: str, **options: Any) -> UPath:
    """What opens an address ``s3://bucket/prefix``, with what s3fs takes besides."""
    from botocore.handlers import BUILTIN_HANDLERS, add_expect_header
    from s3fs import S3FileSystem

    S3FileSystem.retries = 1  # of the class, since each thread has instances of its own
    # a put would first ask whether it may go on, and aiohttp waits for that answer without end
    BUILTIN_HANDLERS[:] = [entry for entry in BUILTIN_HANDLERS if entry[1] is not add_expect_header]
    path: UPath = UPath(url, config_kwargs=PATIENCE, **options)
    return path


def need_bucket(place: AnyPath, named: str) -> None:
    """Make sure that a place's bucket, if any, is there; in a missing one nothing is found, without an error.

    Raises:
        StorageError: it is not, or refuses the keys, or there are none, or no server answers; it starts with `named`.
    """
    if is_local(place):
        return
    remote = UPath(place)
    bucket = remote.path.split("/", 1)[0]
    try:
        remote.fs.call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError as error:
        raise StorageError(
            f"{named}: there is no bucket {bucket!r}, and none is made for you: mend the name"
        ) from error
    except PermissionError as error:
        raise StorageError(f"{named}: {_why_refused(error)}") from error
    except _failures() as error:
        told = " ".join(str(error).split()).rstrip(".")
        raise StorageError(f"{named}: {told}") from error


def _why_refused(error: PermissionError) -> str:
    """What a bucket refuses, which says no more than that it does: the keys, or a time that is too far off."""
    answer = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
    if date := answer.get("HTTPHeaders", {}).get("date"):
        apart = parsedate_to_datetime(date) - datetime.now(UTC)
        if abs(apart) > S3_SPAN:
            off = f"{abs(apart.total_seconds()) / 60:,.0f} minutes {'behind' if apart.days < 0 else 'ahead of'}"
            return f"its clock is {off} this machine's, and what is asked 15 minutes off is refused: set both by NTP"
    return "it refuses these keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"


def bucket_errors() -> tuple[type[Exception], ...]:
    """What a bucket's client raises; nothing where it was not loaded, since then no bucket was asked."""
    client = sys.modules.get("botocore.exceptions")
    return () if client is None else (client.BotoCoreError, client.ClientError)


def is_silent(error: BaseException | None) -> bool:
    """Whether an error says that a bucket gave no answer, so that whoever asks it again waits as long again."""
    client = sys.modules.get("botocore.exceptions")
    while client is not None and error is not None:
        if isinstance(error, client.HTTPClientError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _failures() -> tuple[type[Exception], ...]:
    return (OSError, *bucket_errors())


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


def remove(path: AnyPath) -> None:
    """Remove the file `path`, if it is there; a refusal is an error, which removing several keys at once is not."""
    if is_local(path):
        Path(str(path)).unlink(missing_ok=True)
        return
    remote = UPath(path)
    remote.fs.rm_file(remote.path)


def write_text(path: AnyPath, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` as indented JSON with a newline at the end, whole or not at all; NaN is refused."""
    write_bytes(path, as_json(value))


def as_json(value: Any) -> bytes:
    """`value` as indented JSON with a newline at the end; NaN is refused."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: AnyPath) -> Any:
    """Read the JSON document at `path`."""
    return json.loads(path.read_bytes())


@contextmanager
def written_folder(target: AnyPath) -> Iterator[Path]:
    """A local folder to fill; it appears at `target` when the block ends without an error, replacing what was there.

    On S3 the files are put one by one, those whose name starts with `manifest` last, so that a folder with its manifest
    is complete; what was there and is not written again is removed before the manifest is put.
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
            _upload(aside, UPath(target))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def copy_where_missing(folder: Path, target: AnyPath) -> None:
    """Copy a folder of files; a target that holds the same ones is left alone, since it may be being read.

    Of two that copy the same at the same time each leaves the same behind.
    """
    files = [file for file in folder.iterdir() if file.is_file()]
    if all((target / f.name).exists() and (target / f.name).read_bytes() == f.read_bytes() for f in files):
        return
    with written_folder(target) as aside:
        shutil.copytree(folder, aside, dirs_exist_ok=True)


def write_secret(file: Path, text: str) -> None:
    """Write `text` so that nobody but the owner can read it at any moment, and that it outlasts a loss of power."""
    aside = file.with_name(f".{file.name}.part")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Let what was renamed or removed in `folder` outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def _upload(folder: Path, target: UPath) -> None:
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.name.startswith(LISTED_LAST))
    names = [file.relative_to(folder).parts for file in files]
    earlier = {str(p): p for p in target.rglob("*") if p.is_file()} if target.exists() else {}
    for place in earlier.keys() - {str(target.joinpath(*name)) for name in names}:
        remove(earlier[place])
    for name, file in zip(names, files, strict=True):
        target.joinpath(*name).write_bytes(file.read_bytes())


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
