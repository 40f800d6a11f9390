"""Addresses of servers: what can be used, what is refused and how it is told."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pymongo
import pytest

from wafer import addresses
from wafer.addresses import (
    MONGODB,
    REGISTRY,
    WEB,
    check_address,
    check_durable,
    gave_no_answer,
    hosts_of,
    knock,
    missing_driver,
)
from wafer.errors import SettingsError
from wafer.preflight import need_champion
from wafer.settings import Settings
from wafer.storage import Storage
from wafer.workspace import Workspace


@pytest.mark.parametrize(
    ("address", "schemes", "hosts"),
    [
        ("mongodb://a,b:27018/x?replicaSet=r", MONGODB, [("a", 27017), ("b", 27018)]),
        ("mongodb+srv://me:p%40ss@cluster.example.org/", MONGODB, [("cluster.example.org", 27017)]),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/x", MONGODB, [("%2Ftmp%2Fmongodb-27017.sock", 27017)]),
        ("http://[::1]:5000/path", WEB, [("::1", 5000)]),
        ("https://me:a@b@host", WEB, [("host", 443)]),
        ("postgresql+psycopg2://me:p@host/db", REGISTRY, [("host", 5432)]),
        ("sqlite:////tmp/x.db", REGISTRY, []),
        ("sqlite+pysqlite:////tmp/x.db?timeout=3", REGISTRY, []),
    ],
)
def test_a_usable_address_is_read(address: str, schemes: tuple[str, ...], hosts: list[tuple[str, int]]) -> None:
    """Hosts with their ports, the scheme's own where none is given."""
    check_address("VARIABLE", address, schemes)
    assert hosts_of(address) == hosts


@pytest.mark.parametrize(
    ("address", "schemes", "message"),
    [
        ("http://host:99999", WEB, "a port from 1 to 65535"),
        ("http://host:0", WEB, "a port from 1 to 65535"),
        ("http://host:port", WEB, "a port from 1 to 65535"),
        ("http://", WEB, "expected a host"),
        ("http:///path", WEB, "expected a host"),
        ("postgresql://me:se/cret@host/db", REGISTRY, "/ : @ and % are written as %2F"),
        ("mongodb://u:2024/secret@127.0.0.1:9/", MONGODB, "/ : @ and % are written as %2F"),
        ("mongodb://a,:27017", MONGODB, "expected a host"),
        ("ftp://me:secret@host", REGISTRY, "expected an address that starts with http://, https://, sqlite://"),
        ("host:5000", WEB, "expected an address that starts with http://, https://"),
        ("", WEB, "expected an address that starts with"),
        ("sqlite://", REGISTRY, "expected sqlite:////folder/file.db"),
        ("sqlite:///x.db", REGISTRY, "expected sqlite:////folder/file.db, with the absolute path of a file"),
        ("sqlite:///:memory:", REGISTRY, "expected sqlite:////folder/file.db"),
        ("sqlite:///?x=1", REGISTRY, "expected sqlite:////folder/file.db"),
        ("sqlite://host/x.db", REGISTRY, "expected sqlite:////folder/file.db"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address: str, schemes: tuple[str, ...], message: str) -> None:
    """The variable is named with what was expected, and no password is shown."""
    with pytest.raises(SettingsError) as caught:
        check_address("VARIABLE", address, schemes)
    assert str(caught.value).startswith("VARIABLE is ")
    assert message in str(caught.value)
    assert "cret" not in str(caught.value)


def test_what_is_not_found_by_its_name_is_not_knocked_at() -> None:
    """A service record, a socket's file and a file have no port to knock at; a name that cannot be is no crash."""
    for address in ("mongodb+srv://nowhere.invalid/", "mongodb://%2Ftmp%2Fno.sock/", "sqlite:////tmp/x.db"):
        assert knock(address) is None
    assert "nobody answers at" in (knock(f"http://{'x' * 70}.invalid:1/") or "")


def test_a_silent_name_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a name cannot be interrupted, and takes no more than the patience for all hosts together; where one of
    them answers that is enough, and soon."""
    over, look_up = threading.Event(), socket.getaddrinfo

    def slow(host: str, *more: Any, **named: Any) -> Any:
        return look_up(host, *more, **named) if host == "127.0.0.1" else over.wait(60) and []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(addresses, "CONNECT_SECONDS", 0.5)
    start = time.monotonic()
    try:
        why = "no answer within 0.5 seconds, neither its own nor a name server's"
        assert knock("mongodb://db.example.org,b.example.org:1/") == f"nobody answers at db.example.org:27017 ({why})"
        assert 0.4 < time.monotonic() - start < 5
        with socket.create_server(("127.0.0.1", 0)) as server:
            monkeypatch.setattr(addresses, "CONNECT_SECONDS", 50)
            assert knock(f"mongodb://db.example.org,127.0.0.1:{server.getsockname()[1]}/") is None
        assert time.monotonic() - start < 10
    finally:
        over.set()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("sqlite:////tmp/x.db", None),
        ("mysql+pymysql://host/db", "it needs the database driver pymysql: pip install pymysql"),
        ("postgresql+none://me:secret@host/db", "Can't load plugin: sqlalchemy.dialects:postgresql.none"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(address: str, why: str | None) -> None:
    """With how to get it; a driver that there is not at all is told as such."""
    assert missing_driver(address) == why


def away(settings: Settings, mongodb_url: str, silent: str, s3_address: str) -> Iterator[Callable[[], object]]:
    """What servers that are not there are asked."""
    yield lambda: Workspace(settings.model_copy(update={"mongodb_url": f"mongodb://{silent}"})).store
    yield lambda: pymongo.MongoClient(f"mongodb://{silent}", serverSelectionTimeoutMS=100).admin.command("ping")
    yield lambda: Workspace(settings.model_copy(update={"mlflow_url": f"http://{silent}"})).registry
    yield lambda: Storage("s3://bucket", endpoint_url=f"http://{silent}").need_bucket()


def at_fault(settings: Settings, mongodb_url: str, silent: str, s3_address: str) -> Iterator[Callable[[], object]]:
    """What is wrong however often it is asked."""
    strange = mongodb_url.replace("://wafer:", "://wafer:another")
    yield lambda: Workspace(settings.model_copy(update={"mongodb_url": strange})).store
    yield lambda: need_champion(Workspace(settings))
    yield lambda: Storage("s3://no-such-bucket", endpoint_url=s3_address).need_bucket()
    yield lambda: Workspace(settings).runs.get("training-1")
    yield lambda: Path("no/such/file").read_bytes()


@pytest.mark.parametrize("asked", [away, at_fault])
def test_a_server_that_gives_no_answer_is_told_from_a_fault(
    asked: Callable[..., Iterator[Callable[[], object]]], settings: Settings, mongodb_url: str, s3_address: str
) -> None:
    """By the types of real errors: nobody at the address, or a wrong password, no champion, bucket, run or file."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        silent = f"127.0.0.1:{taken.getsockname()[1]}"
        for ask in asked(settings, mongodb_url, silent, s3_address):
            with pytest.raises(Exception) as caught:
                ask()
            assert gave_no_answer(caught.value) == (asked is away), repr(caught.value)


@pytest.mark.parametrize(("status", "passing"), [(503, True), (500, True), (429, True), (403, False), (404, False)])
def test_a_bucket_that_asks_to_come_again_gave_no_answer(status: int, passing: bool) -> None:
    """By the status of its answer, which s3fs hides behind an error of the system."""
    told = {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    try:
        raise OSError("told") from botocore.exceptions.ClientError(told, "PutObject")
    except OSError as error:
        assert gave_no_answer(error) == passing


@pytest.mark.parametrize(
    "query", ["w=1", "w=0", "retryWrites=true&W=2", "w=", "journal=false", "j=0", "a=b;journal=no"]
)
def test_an_address_that_lowers_what_is_written_is_refused(query: str) -> None:
    """The option is named, the password is not; whatever else the address says."""
    with pytest.raises(SettingsError, match=r"^MONGODB_URL holds '\w+=\w*': writes are made by a majority") as caught:
        check_durable("MONGODB_URL", f"mongodb://me:h1dden@host/?{query}")
    assert "h1dden" not in str(caught.value)


@pytest.mark.parametrize("query", ["", "?w=majority&journal=true", "?retryWrites=false&wtimeoutMS=1000", "?appName=w"])
def test_an_address_that_lowers_nothing_passes(query: str) -> None:
    """Also one that says what holds anyway."""
    check_durable("MONGODB_URL", f"mongodb://me:p@host/{query}")
