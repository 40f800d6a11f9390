"""Addresses of servers: checked before they are used, knocked at before anything long starts.

Every message is without secrets. A path never becomes part of an address unquoted: `sqlite_address` makes the one kind
that names a file.
"""

import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import parse_qsl

from wafer.errors import SettingsError
from wafer.shown import masked, shown_text

CONNECT_SECONDS = 5.0
PORTS = {
    "http": 80,
    "https": 443,
    "mongodb": 27017,
    "postgresql": 5432,
    "mysql": 3306,
    "mssql": 1433,
}
WEB = ("http", "https")
MONGODB = ("mongodb", "mongodb+srv")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
REGISTRY = (*WEB, *DATABASES)

NO_ANSWER = frozenset(
    {
        "builtins.ConnectionError",
        "pymongo.errors.ConnectionFailure",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.RetryError",
        "requests.exceptions.Timeout",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
    }
)
"""Errors that say that a server is away, does not answer or hangs up; by name, so that no library is loaded for it."""
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500

_SQLITE = re.compile(r"sqlite(\+\w+)?:////[^?]+(\?.*)?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]+)(?::(\d{1,5}))?")


def check_address(variable: str, address: str, schemes: Sequence[str]) -> None:
    """Refuse an address that no server can be reached by.

    Raises:
        SettingsError: another scheme than `schemes`, no host, or a host and port that cannot be read.
    """
    told = f"{variable} is {shown_text(masked(address))!r}"
    scheme, separator, _ = address.partition("://")
    if not separator or (scheme not in schemes and _plain(scheme) not in schemes):
        raise SettingsError(f"{told}: expected an address that starts with {', '.join(f'{s}://' for s in schemes)}")
    if _plain(scheme) == "sqlite":
        if not _SQLITE.fullmatch(address):
            raise SettingsError(f"{told}: expected sqlite:////folder/file.db, with the absolute path of a file")
    elif not hosts_of(address):
        raise SettingsError(
            f"{told}: expected a host and a port from 1 to 65535; in a user's name or a password, "
            "/ : @ and % are written as %2F %3A %40 and %25"
        )


def check_durable(variable: str, address: str) -> None:
    """Refuse MongoDB's address where it asks for writes that a lost server or process takes back.

    Raises:
        SettingsError: another `w` than majority, or no journal.
    """
    _, _, query = address.partition("?")
    for name, value in parse_qsl(query.replace(";", "&"), keep_blank_values=True):
        lowered = {"w": value != "majority", "journal": value.lower() != "true", "j": value.lower() != "true"}
        if lowered.get(name.lower(), False):
            raise SettingsError(
                f"{variable} holds {shown_text(f'{name}={value}')!r}: writes are made by a majority and journalled, "
                "which it may not lower; leave it out"
            )


def hosts_of(address: str) -> list[tuple[str, int]]:
    """Hosts and ports that an address names; empty where one of them cannot be read, or there is none."""
    scheme, _, rest = address.partition("://")
    named, _, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    if "@" in path:  # then that `/` stands in a name or a password
        return []
    found = []
    for part in named.rpartition("@")[2].split(","):
        match = _HOST.fullmatch(part)
        port = int(match[2] or PORTS.get(_plain(scheme), 1)) if match else 0
        if match is None or not 0 < port < 65536:
            return []
        found.append((match[1].strip("[]"), port))
    return found


def knock(address: str) -> str | None:
    """Why nobody answers at any host of `address` within five seconds; None where somebody does.

    A host that only the server's own library can find (`mongodb+srv`, a socket's file) is not knocked at.
    """
    hosts = hosts_of(address)
    if not hosts or address.startswith("mongodb+srv") or any("%2F" in host.upper() for host, _ in hosts):
        return None
    answers: SimpleQueue[tuple[tuple[str, int], str | None]] = SimpleQueue()
    for place in hosts:  # each by itself, since a name server that is silent cannot be interrupted
        Thread(target=lambda place=place: answers.put((place, _refusal(place))), name="knock", daemon=True).start()
    why = dict.fromkeys(hosts, f"no answer within {CONNECT_SECONDS:g} seconds, neither its own nor a name server's")
    deadline = time.monotonic() + CONNECT_SECONDS
    with suppress(Empty):
        for _ in hosts:
            place, refused = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            if refused is None:
                return None
            why[place] = refused
    host, port = hosts[0]
    return f"nobody answers at {shown_text(host)}:{port} ({why[hosts[0]]})"


def _refusal(place: tuple[str, int]) -> str | None:
    try:
        socket.create_connection(place, timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:  # a host's name may not be encodable
        return str(getattr(error, "strerror", None) or error)
    return None


def sqlite_address(file: Path) -> str:
    """SQLAlchemy's address of a database file, whose path may not hold a `?` (see `wafer.settings`)."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def missing_driver(address: str) -> str | None:
    """Why the database of `address` cannot be talked to by what is installed; None where it can."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(address).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        return f"it needs the database driver {error.name}: pip install {error.name}"
    except SQLAlchemyError as error:
        return masked(str(error).partition("\n")[0])
    return None


def _plain(scheme: str) -> str:
    """The scheme without its driver: `postgresql+psycopg2` is `postgresql`."""
    return scheme.partition("+")[0]


def gave_no_answer(error: BaseException | None) -> bool:
    """Whether a server gave no answer or, as a bucket may, one that says to try again later; as its cause counts, too.

    What is wrong with data, parameters, keys or rights is none of these, and is the same when it is tried again.
    """
    while error is not None:
        names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
        status = status_of(error)
        if names & NO_ANSWER or status == TOO_MANY_REQUESTS or status >= SERVER_ERROR:
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def status_of(error: BaseException) -> int:
    """The HTTP status of a bucket's answer that an error of botocore tells; 0 of others."""
    response = getattr(error, "response", None)  # that of other libraries is no mapping
    told = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return int(told.get("HTTPStatusCode", 0))
