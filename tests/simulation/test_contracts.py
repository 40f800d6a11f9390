"""The fakes answer as the real services do: each test runs on both."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from botocore.exceptions import ClientError
from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError
from upath import UPath

from tests.simulation.bucket import Bucket
from tests.simulation.mongo import Client, Server
from wafer.settings import Settings
from wafer.storage import Storage, written_folder

WAFERS = [
    {"_id": "a", "order": 3, "label": None, "replaced": [], "conflicts": []},
    {"_id": "b", "order": 1, "label": -1, "replaced": ["a", "c"], "conflicts": [{"wafer": "x", "n": 1}]},
    {"_id": "c", "order": 2, "label": 1, "conflicts": [{"wafer": "y", "n": 2}, {"wafer": "z", "n": 3}]},
]


@pytest.fixture(params=["fake", "real"])
def collection(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty collection of a database of the test's own."""
    if request.param == "fake":
        yield Client(Server())["contracts"]["things"]
        return
    with pymongo.MongoClient(request.getfixturevalue("mongodb_url"), tz_aware=True) as client:
        name = f"contracts_{abs(hash(request.node.nodeid)):x}"
        yield client[name]["things"]
        client.drop_database(name)


@pytest.fixture
def filled(collection: Any) -> Any:
    """The same with three documents."""
    collection.insert_many(WAFERS, ordered=False)
    return collection


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "abc"),
        ({"_id": "b"}, "b"),
        ({"_id": {"$in": ["c", "a", "none"]}}, "ac"),
        ({"label": {"$in": [None, -1]}}, "ab"),
        ({"label": 1}, "c"),
        ({"order": {"$gt": 1, "$lt": 3}}, "c"),
        ({"order": {"$lte": 1}}, "b"),
        ({"order": {"$gte": 2}}, "ac"),
        ({"label": {"$gt": ""}}, ""),
        ({"replaced": {"$gt": ""}}, "b"),
        ({"replaced": "c"}, "b"),
        ({"conflicts.wafer": {"$gt": ""}}, "bc"),
        ({"conflicts.wafer": "z"}, "c"),
        ({"missing": {"$lte": 1}}, ""),
        ({"_id": "b", "label": 1}, ""),
    ],
)
def test_what_is_found(filled: Any, wanted: dict[str, Any], found: str) -> None:
    """The same documents fit each kind of condition that the store uses."""
    assert "".join(sorted(one["_id"] for one in filled.find(wanted))) == found
    assert filled.count_documents(wanted) == len(found)


def test_how_it_is_given(filled: Any) -> None:
    """Sorted, so many, and some fields of each."""
    assert [one["_id"] for one in filled.find().sort([("order", -1), ("_id", 1)])] == ["a", "c", "b"]
    assert [one["_id"] for one in filled.find({"order": {"$gt": 1}}).sort("order", 1).limit(1)] == ["c"]
    assert filled.find_one({"_id": "a"}) == WAFERS[0]
    assert filled.find_one({"_id": "none"}) is None
    assert list(filled.find({"_id": "b"}, ("order",))) == [{"_id": "b", "order": 1}]
    assert list(filled.find({"_id": "b"}, {"_id": 0, "conflicts": 0, "replaced": 0})) == [{"order": 1, "label": -1}]
    assert list(filled.find({"label": 1}, {"label": 1}).sort([("order", 1)])) == [{"_id": "c", "label": 1}]
    filled.find_one({"_id": "b"})["conflicts"].clear()
    assert filled.find_one({"_id": "b"}) == WAFERS[1]


def test_an_insert_tells_what_was_there(filled: Any) -> None:
    """What is new is inserted, each document that was there is named and stays as it was."""
    with pytest.raises(BulkWriteError) as told:
        filled.insert_many([{"_id": "b", "order": 9}, {"_id": "d"}, {"_id": "a"}], ordered=False)
    assert [(p["code"], p["op"]["_id"], p["index"]) for p in told.value.details["writeErrors"]] == [
        (11000, "b", 0),
        (11000, "a", 2),
    ]
    assert sorted(one["_id"] for one in filled.find()) == ["a", "b", "c", "d"]
    assert filled.find_one({"_id": "b"}) == WAFERS[1]


def test_changes(filled: Any) -> None:
    """A change touches what its condition finds, a replacement makes what is not there only where it is told to."""
    done = filled.bulk_write(
        [
            pymongo.UpdateOne({"_id": "a", "label": {"$in": [None, 1]}}, {"$set": {"label": 1}}),
            pymongo.UpdateOne({"_id": "b", "label": {"$in": [None, 1]}}, {"$set": {"label": 1}}),
            pymongo.ReplaceOne({"_id": "c", "order": 2}, {"_id": "c", "new": True}),
            pymongo.ReplaceOne({"_id": "d"}, {"_id": "d"}),
            pymongo.ReplaceOne({"_id": "e"}, {"_id": "e", "x": 1}, upsert=True),
        ],
        ordered=False,
    )
    assert done.matched_count == 2
    assert list(filled.find().sort("_id", 1)) == [
        {**WAFERS[0], "label": 1},
        WAFERS[1],
        {"_id": "c", "new": True},
        {"_id": "e", "x": 1},
    ]
    assert filled.update_one({"_id": "e", "x": 1}, {"$set": {"x": 2}}).matched_count == 1
    assert filled.update_one({"_id": "e", "x": 1}, {"$set": {"x": 2}}).matched_count == 0
    assert filled.delete_one({"_id": "e", "x": 1}).deleted_count == 0
    assert filled.delete_one({"_id": "e", "x": 2}).deleted_count == 1


def test_one_takes_it(collection: Any) -> None:
    """Who finds nothing that fits makes it, who finds another one's is refused; times are cut to milliseconds."""
    command = collection.database.client.admin.command
    now = command("hello")["localTime"].replace(tzinfo=None)
    assert now.microsecond % 1000 == 0

    def take(token: str, condition: dict[str, Any]) -> Any:
        return collection.find_one_and_update(
            {"_id": "lease", **condition},
            {"$set": {"token": token, "expires": now}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )

    assert take("one", {"token": "none"})["token"] == "one"
    with pytest.raises(DuplicateKeyError):
        take("two", {"token": "none"})
    found = take("two", {"expires": {"$lte": now}})
    assert found["token"] == "two"
    assert found["expires"].replace(tzinfo=None) == now
    assert found["expires"].utcoffset().total_seconds() == 0
    assert collection.count_documents({}) == 1


@pytest.fixture(params=["fake", "real"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The storage in an empty bucket."""
    if request.param == "fake":
        monkeypatch.setattr("wafer.storage.bucket_path", Bucket(tmp_path.name).path)
        return Storage(f"s3://{tmp_path.name}/data")
    address = request.getfixturevalue("s3_address")
    storage = Settings.read(
        storage_url=f"s3://{tmp_path.name}/data", s3_endpoint=address, state_folder=tmp_path
    ).storage
    storage.root.fs.mkdir(tmp_path.name)
    return storage


def names(places: Iterator[UPath], root: UPath) -> list[str]:
    return sorted(str(place).removeprefix(str(root)) for place in places)


def test_what_lies_in_a_bucket(storage: Storage) -> None:
    """Objects and what looks like folders, listed, read, removed."""
    root = storage.root
    for key in ("a/b.json", "a/c/d.json", "e"):
        storage.write_bytes(key, key.encode())
    assert names(root.iterdir(), root) == ["/a", "/e"]
    assert names((p for p in root.rglob("*") if p.is_file()), root) == ["/a/b.json", "/a/c/d.json", "/e"]
    assert storage.children("a") == ["b.json", "c"]
    assert storage.children("none") == []
    for key, kind in {"a": "dir", "a/b.json": "file", "a/c": "dir", "none": None, "a/b": None}.items():
        place = storage.place(key)
        assert (place.exists(), place.is_dir(), place.is_file()) == (bool(kind), kind == "dir", kind == "file"), key
    with storage.place("a/b.json").open("rb") as stream:
        assert (stream.size, stream.read(3), stream.read(), stream.read()) == (8, b"a/b", b".json", b"")
    storage.place("a/b.json").unlink()
    storage.place("a/b.json").unlink(missing_ok=True)
    storage.place("a/c/d.json").unlink()
    assert not storage.exists("a")
    with pytest.raises(FileNotFoundError):
        storage.place("a/b.json").read_bytes()


def test_a_put_has_a_condition(storage: Storage) -> None:
    """An object that is there is not made again, and changed only by who has seen what it holds."""
    assert storage.put_new("new", b"1")
    assert not storage.put_new("new", b"2")
    assert storage.place("new").read_bytes() == b"1"
    data, tag = storage._look("new")
    assert data == b"1"
    assert storage._put("new", b"3", tag)
    assert not storage._put("new", b"4", tag)
    assert storage._look("none") == (None, None)
    bucket, _, name = storage.place("new").path.partition("/")
    storage.root.fs.call_s3("put_object", Bucket=bucket, Key="told", Body=b"", Metadata={"writer": "me"})
    assert storage.root.fs.call_s3("head_object", Bucket=bucket, Key="told")["Metadata"] == {"writer": "me"}
    assert storage.root.fs.call_s3("head_object", Bucket=bucket, Key=name)["Metadata"].keys() == {"writer"}
    with pytest.raises(OSError, match=r".") as told:
        storage.root.fs.call_s3("put_object", Bucket=bucket, Key=name, Body=b"", IfNoneMatch="*")
    assert isinstance(told.value.__cause__, ClientError)
    assert told.value.__cause__.response["ResponseMetadata"]["HTTPStatusCode"] == 412


def test_an_upload_appears_when_it_is_committed(storage: Storage) -> None:
    """Until then nobody sees it, and it may be discarded."""
    for key, ending in {"kept": "commit", "dropped": "discard"}.items():
        upload = storage.place(key).open("wb", autocommit=False)
        with upload:
            upload.write(b"all")
        assert not storage.exists(key)
        getattr(upload, ending)()
    assert storage.children("") == ["kept"]


def test_a_folder_is_put_file_by_file(storage: Storage) -> None:
    """What is written takes the place of what was there."""
    for files in (["old", "both"], ["both", "sub/new"]):
        with written_folder(storage.place("folder")) as aside:
            for name in files:
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_text(name)
    with storage.local("folder") as copy:
        assert sorted(str(f.relative_to(copy)) for f in copy.rglob("*") if f.is_file()) == ["both", "sub/new"]
