"""A database in memory that answers the store's calls as MongoDB does; `test_contracts.py` holds the two together."""

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import bson
import pymongo
from pymongo.errors import AutoReconnect, BulkWriteError, DuplicateKeyError

from tests.simulation import world as worlds
from tests.simulation.world import Service, called, here

Document = dict[str, Any]
UTC_AWARE = bson.CodecOptions(tz_aware=True)
DUPLICATE_KEY = 11000
TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$in": lambda value, wanted: value in wanted,
    "$gt": lambda value, than: _comparable(value, than) and value > than,
    "$gte": lambda value, than: _comparable(value, than) and value >= than,
    "$lt": lambda value, than: _comparable(value, than) and value < than,
    "$lte": lambda value, than: _comparable(value, than) and value <= than,
}


class Server:
    """What outlives a client: databases of collections of documents, as BSON by id."""

    def __init__(self) -> None:
        self.service = Service("store", lambda: AutoReconnect("sim:27017: connection closed"))
        self.collections: dict[tuple[str, str], dict[Any, bytes]] = {}


class Client:
    """As `pymongo.MongoClient`, of the server that it is given."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.admin = SimpleNamespace(command=self._command)
        self.topology_description = SimpleNamespace(server_descriptions=lambda: {("sim", 27017): None})

    def __getitem__(self, name: str) -> "Database":
        return Database(self, name)

    def close(self) -> None:
        """Nothing is held open."""

    def _command(self, name: str) -> Document:
        return called(self.server.service, name, lambda: {"localTime": _now(), "version": "0"}, writes=False)


class Database:
    """As `pymongo.database.Database`."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    def __getitem__(self, name: str) -> "Collection":
        return Collection(self, name)


class Cursor:
    """As `pymongo.cursor.Cursor`: asked once it is read."""

    def __init__(self, ask: Callable[[], list[Document]], fields: Any) -> None:
        self._ask, self._fields = ask, fields
        self._keys: list[tuple[str, int]] = []
        self._most: int | None = None

    def sort(self, keys: str | Sequence[tuple[str, int]], direction: int = 1) -> "Cursor":
        self._keys = [(keys, direction)] if isinstance(keys, str) else list(keys)
        return self

    def limit(self, most: int) -> "Cursor":
        self._most = most or None
        return self

    def __iter__(self) -> Iterator[Document]:
        found = self._ask()
        for key, direction in reversed(self._keys):
            found.sort(key=lambda document: document[key], reverse=direction < 0)
        return (_projected(one, self._fields) for one in found[: self._most])


class Collection:
    """As `pymongo.collection.Collection`, as far as the store uses it; one call changes one document at a time."""

    def __init__(self, database: Database, name: str) -> None:
        self.name = name
        self.database = database
        server = database.client.server
        self._service = server.service
        self._documents = server.collections.setdefault((database.name, name), {})

    def create_index(self, keys: Sequence[tuple[str, int]], name: str) -> str:
        return called(self._service, f"create_index {self.name}.{name}", lambda: name)

    def find(self, wanted: Mapping[str, Any] | None = None, fields: Any = None) -> Cursor:
        return Cursor(lambda: self._call("find", lambda: self._matching(wanted or {}), writes=False), fields)

    def find_one(self, wanted: Mapping[str, Any]) -> Document | None:
        return self._call("find_one", lambda: next(iter(self._matching(wanted)), None), writes=False)

    def count_documents(self, wanted: Mapping[str, Any]) -> int:
        return self._call("count", lambda: len(self._matching(wanted)), writes=False)

    def insert_many(self, documents: Sequence[Document], *, ordered: bool) -> None:
        self._several("insert_many", documents, self._insert)

    def bulk_write(self, changes: Sequence[Any], *, ordered: bool = True) -> SimpleNamespace:
        return SimpleNamespace(matched_count=self._several("bulk_write", changes, self._change))

    def update_one(self, wanted: Mapping[str, Any], change: Document) -> SimpleNamespace:
        return self._call("update_one", lambda: SimpleNamespace(matched_count=self._update(wanted, change)))

    def delete_one(self, wanted: Mapping[str, Any]) -> SimpleNamespace:
        def delete() -> SimpleNamespace:
            found = self._matching(wanted)[:1]
            for one in found:
                del self._documents[one["_id"]]
            return SimpleNamespace(deleted_count=len(found))

        return self._call("delete_one", delete)

    def find_one_and_update(
        self, wanted: Mapping[str, Any], change: Document, *, upsert: bool, return_document: bool
    ) -> Document | None:
        def do() -> Document | None:
            if not self._update(wanted, change):
                if wanted["_id"] in self._documents:
                    raise DuplicateKeyError("E11000 duplicate key", DUPLICATE_KEY)
                given = {key: value for key, value in wanted.items() if not isinstance(value, Mapping)}
                self._put({**given, **change["$set"]})
            return self._get(wanted["_id"])

        return self._call("find_one_and_update", do)

    def _call(self, what: str, do: Callable[[], Any], *, writes: bool = True) -> Any:
        return called(self._service, f"{what} {self.name}", do, writes=writes)

    def _several(self, what: str, things: Sequence[Any], do: Callable[[Any], int]) -> int:
        def carry_out(some: Sequence[Any]) -> int:
            problems, done = [], 0
            for index, thing in enumerate(some):
                try:
                    done += do(thing)
                except DuplicateKeyError as error:
                    problems.append({"index": index, "code": DUPLICATE_KEY, "errmsg": str(error), "op": thing})
            if problems:
                raise BulkWriteError({"writeErrors": problems})
            return done

        def half() -> None:
            with worlds.suppressed():
                carry_out(things[: len(things) // 2])

        several = half if len(things) > 1 else None
        done: int = called(
            self._service, f"{what} {self.name} ({len(things)})", lambda: carry_out(things), half=several
        )
        return done

    def _insert(self, document: Document) -> int:
        if document["_id"] in self._documents:
            raise DuplicateKeyError("E11000 duplicate key", DUPLICATE_KEY)
        self._put(document)
        return 1

    def _change(self, change: Any) -> int:
        """Carry it out; how many documents it found."""
        if isinstance(change, pymongo.UpdateOne):
            return self._update(change._filter, change._doc)
        found = self._matching(change._filter)
        if found or change._upsert:
            self._put({**change._doc, "_id": change._filter["_id"]})
        return len(found)

    def _update(self, wanted: Mapping[str, Any], change: Mapping[str, Any]) -> int:
        found = self._matching(wanted)[:1]
        for one in found:
            self._put({**one, **change["$set"]})
        return len(found)

    def _matching(self, wanted: Mapping[str, Any]) -> list[Document]:
        wanted = bson.decode(bson.encode(wanted), UTC_AWARE)  # as it arrives: times in UTC
        ids = wanted.get("_id")
        if ids is not None:
            asked = dict.fromkeys(ids["$in"]) if isinstance(ids, Mapping) else [ids]
            found = [self._get(one) for one in asked if one in self._documents]
        else:
            found = [self._get(one) for one in self._documents]
        return [one for one in found if all(_fits(one, *condition) for condition in wanted.items())]

    def _get(self, key: Any) -> Document:
        return bson.decode(self._documents[key], UTC_AWARE)

    def _put(self, document: Document) -> None:
        self._documents[document["_id"]] = bson.encode(document)


def _now() -> datetime.datetime:
    now = here().server_time() if worlds.WORLD is not None else datetime.datetime.now(datetime.UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000, tzinfo=None)


def _comparable(value: Any, than: Any) -> bool:
    numbers = (int, float)
    return isinstance(value, numbers) if isinstance(than, numbers) else isinstance(value, type(than))


def _fits(document: Document, path: str, wanted: Any) -> bool:
    conditions = wanted if isinstance(wanted, Mapping) else {"$in": [wanted]}
    values = _reached(document, path.split("."))
    return all(any(TESTS[name](value, than) for value in values) for name, than in conditions.items())


def _reached(value: Any, path: Sequence[str]) -> list[Any]:
    """All values at the end of a path, that of a missing field is None; an array stands for itself and its elements."""
    if isinstance(value, list):
        return [found for element in value for found in _reached(element, path)] if path else [*value, value]
    if not path:
        return [value]
    return _reached(value.get(path[0]), path[1:]) if isinstance(value, dict) else [None]


def _projected(document: Document, fields: Any) -> Document:
    if not fields:
        return document
    chosen = fields if isinstance(fields, Mapping) else dict.fromkeys(fields, 1)
    kept = {name for name, keep in chosen.items() if keep}
    if not kept:
        return {name: value for name, value in document.items() if name not in chosen}
    return {name: value for name, value in document.items() if name in kept or (name == "_id" and chosen.get("_id", 1))}
