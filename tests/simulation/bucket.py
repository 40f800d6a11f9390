"""A bucket in memory that answers as s3fs before an S3 server does; `test_contracts.py` holds the two together."""

import errno
import hashlib
import io
from types import SimpleNamespace
from typing import Any

import fsspec
from botocore.exceptions import ClientError, ConnectionClosedError
from fsspec import AbstractFileSystem
from fsspec.asyn import get_loop
from upath import UPath
from upath.registry import register_implementation

from tests.simulation import world as worlds
from tests.simulation.world import Service, called

PROTOCOL = "sim"


class Bucket:
    """What outlives a client: the objects by bucket and key."""

    def __init__(self, name: str) -> None:
        self.service = Service("bucket", lambda: ConnectionClosedError(endpoint_url="http://sim"), sends_again=True)
        self.name = name
        self.objects: dict[str, bytes] = {}
        self.writers: dict[str, dict[str, str]] = {}  # what was said of an object when it was put
        self.made_by: dict[str, worlds.Process] = {}

    def path(self, url: str, **options: Any) -> UPath:
        """In the place of `wafer.storage.bucket_path`."""
        return BucketPath(f"{PROTOCOL}://{url.partition('://')[2]}", held=self)


class BucketFiles(AbstractFileSystem):
    """As `s3fs.S3FileSystem` without remembered listings, of the bucket that it is given."""

    protocol = PROTOCOL
    cachable = False

    def __init__(self, held: Bucket | None = None, **options: Any) -> None:
        super().__init__(**options)
        assert held is not None
        self.bucket = held
        self.loop = get_loop()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path).rstrip("/")

        def look() -> dict[str, Any]:
            if path in self.bucket.objects:
                return self._entry(path)
            if path == self.bucket.name or any(name.startswith(f"{path}/") for name in self.bucket.objects):
                return {"name": path, "size": 0, "type": "directory"}
            raise FileNotFoundError(path)

        return self._call("head", path, look, writes=False)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path).rstrip("/")

        def listed() -> list[dict[str, Any]]:
            if path in self.bucket.objects:
                return [self._entry(path)]
            found: dict[str, dict[str, Any]] = {}
            for name in sorted(self.bucket.objects):
                if name.startswith(f"{path}/"):
                    inner, deeper, _ = name[len(path) + 1 :].partition("/")
                    place = f"{path}/{inner}"
                    found[place] = {"name": place, "size": 0, "type": "directory"} if deeper else self._entry(name)
            if not found and path != self.bucket.name:
                raise FileNotFoundError(path)
            return list(found.values())

        entries = self._call("list", path, listed, writes=False)
        return entries if detail else [entry["name"] for entry in entries]

    def find(self, path: str, maxdepth: Any = None, withdirs: bool = False, detail: bool = False, **_: Any) -> Any:
        path = self._strip_protocol(path).rstrip("/")

        def listed() -> dict[str, dict[str, Any]]:
            files = [name for name in sorted(self.bucket.objects) if name == path or name.startswith(f"{path}/")]
            return {name: self._entry(name) for name in files}

        found = self._call("list all", path, listed, writes=False)
        return found if detail else list(found)

    def rm_file(self, path: str) -> None:
        path = self._strip_protocol(path)
        self._call("delete", path, lambda: self.bucket.objects.pop(path, None))

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """A bucket has no folders."""

    def _open(self, path: str, mode: str = "rb", autocommit: bool = True, **_: Any) -> Any:
        path = self._strip_protocol(path)
        if mode == "wb":
            return Upload(self, path, autocommit=autocommit)
        size = self.info(path)["size"]
        return Download(self, path, size)

    def call_s3(self, method: str, **given: Any) -> dict[str, Any]:
        if method == "head_bucket":
            return self._call(method, given["Bucket"], self._head_bucket, writes=False)
        path = f"{given['Bucket']}/{given['Key']}"
        if method == "put_object":
            once = "IfNoneMatch" in given or "IfMatch" in given
            return self._call("put", path, lambda: self._put(path, given), once=once)
        return self._call(method, path, lambda: self._get(path, given), writes=False)

    def _head_bucket(self) -> dict[str, Any]:
        return {"ResponseMetadata": {"HTTPHeaders": {}}}

    def _get(self, path: str, given: dict[str, Any]) -> dict[str, Any]:
        data = self.bucket.objects.get(path)
        if data is None:
            raise FileNotFoundError(path)
        if given.get("IfMatch", _tag(data)) != _tag(data):
            _refuse("GetObject")
        told = self.bucket.writers.get(path, {})

        async def read() -> bytes:
            return data

        return {"ETag": _tag(data), "Metadata": told, "Body": SimpleNamespace(read=read)}

    def _put(self, path: str, given: dict[str, Any]) -> dict[str, Any]:
        present = self.bucket.objects.get(path)
        if given.get("IfNoneMatch") == "*" and present is not None:
            _refuse("PutObject")
        if "IfMatch" in given and (present is None or _tag(present) != given["IfMatch"]):
            _refuse("PutObject")
        if present is None and worlds.WORLD is not None and worlds.WORLD.me is not None:
            self.bucket.made_by[path] = worlds.WORLD.me.process
        self.bucket.objects[path] = given["Body"]
        self.bucket.writers[path] = given.get("Metadata", {})
        return {"ETag": _tag(given["Body"])}

    def _entry(self, name: str) -> dict[str, Any]:
        data = self.bucket.objects[name]
        return {"name": name, "size": len(data), "type": "file", "ETag": _tag(data)}

    def _call(self, what: str, path: str, do: Any, *, writes: bool = True, once: bool = False) -> Any:
        return called(self.bucket.service, f"{what} {path.partition('/')[2]}", do, writes=writes, once=once)


class Upload(io.BytesIO):
    """As s3fs's file that is written: it becomes an object once it is closed, or committed."""

    def __init__(self, files: BucketFiles, path: str, *, autocommit: bool) -> None:
        super().__init__()
        self._files, self._path, self._autocommit = files, path, autocommit
        self._data: bytes | None = None

    def close(self) -> None:
        if not self.closed:
            self._data = self.getvalue()
            super().close()
            if self._autocommit:
                self.commit()

    def commit(self) -> None:
        data = self._data
        assert data is not None
        objects = self._files.bucket.objects
        self._files._call("put", self._path, lambda: objects.__setitem__(self._path, data))

    def discard(self) -> None:
        self._data = None


class Download(io.RawIOBase):
    """As s3fs's file that is read: its size is looked up when it is opened, its bytes come when they are asked for."""

    def __init__(self, files: BucketFiles, path: str, size: int) -> None:
        super().__init__()
        self.size = size
        self._files, self._path = files, path
        self._data: io.BytesIO | None = None

    def read(self, length: int = -1) -> bytes:
        if self._data is None:
            self._data = io.BytesIO(self._files._call("get", self._path, self._fetch, writes=False))
        return self._data.read(length)

    def _fetch(self) -> bytes:
        data = self._files.bucket.objects.get(self._path)
        if data is None:
            raise FileNotFoundError(self._path)
        return data[: self.size]


class BucketPath(UPath):
    """A path of such a bucket."""

    __slots__ = ()


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _refuse(operation: str) -> None:
    answer = {"Error": {"Code": "PreconditionFailed"}, "ResponseMetadata": {"HTTPStatusCode": 412}}
    raise OSError(errno.EIO, "precondition failed") from ClientError(answer, operation)  # type: ignore[arg-type]


fsspec.register_implementation(PROTOCOL, BucketFiles, clobber=True)
register_implementation(PROTOCOL, BucketPath, clobber=True)
