"""Bearer tokens: who calls, and what they may do. Of a token the storage keeps no more than a digest.

A token is `wafer_<id>_<secret>`. Its secret has 256 random bits, so that a plain SHA-256 cannot be searched for it. The
record lies at `service/tokens/<id>.json`.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from wafer.errors import ParameterError
from wafer.shown import shown_text
from wafer.storage import Storage

Scope = Literal["read", "score", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PLACE = "service/tokens"
SECONDS_KNOWN = 5.0
"""For which a record is not looked up again; so long a revoked token may still be good."""
MOST_KNOWN = 1000
LONGEST_NAME = 80
TAKEN = ("local", "nobody")
"""Names of those who came without a token."""
_TOKEN = re.compile(r"wafer_([0-9a-f]{12})_([\w-]{43})", re.ASCII)


@dataclass(frozen=True)
class Token:
    """What is kept of a token: times are ISO 8601 in UTC, None where it does not expire or is not revoked."""

    id: str
    name: str
    scopes: tuple[str, ...]
    digest: str
    created: str
    expires: str | None = None
    revoked: str | None = None

    @property
    def valid(self) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or datetime.fromisoformat(self.expires) > _now())


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    name: str
    scopes: frozenset[str]


class Tokens:
    """The tokens of one storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[str, tuple[float, Token | None]] = {}
        self._lock = threading.Lock()

    def create(self, name: str, scopes: tuple[str, ...], days: int | None = None) -> tuple[Token, str]:
        """A new token: its record, and the text that is told once and kept nowhere.

        Raises:
            ParameterError: it has no name, or no scope that is known.
        """
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name in TAKEN:
            raise ParameterError(
                f"a token's name has 1 to {LONGEST_NAME} printable characters and is not one of {', '.join(TAKEN)}, "
                f"got {shown_text(name)!r}"
            )
        if not scopes or set(scopes) - set(SCOPES):
            raise ParameterError(
                f"a token has some of the scopes {', '.join(SCOPES)}, got {', '.join(scopes) or 'none'}"
            )
        number, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        expires = None if days is None else _text(_now() + timedelta(days=days))
        token = Token(number, name, tuple(sorted(set(scopes))), _digest(secret), _text(_now()), expires)
        self._write(token)
        return token, f"wafer_{number}_{secret}"

    def all(self) -> list[Token]:
        """All that were made, oldest first."""
        names = self._storage.children(PLACE)
        found = [self._read(name.removesuffix(".json")) for name in names]
        return sorted((one for one in found if one is not None), key=lambda one: one.created)

    def revoke(self, number: str) -> Token:
        """Make a token worthless.

        Raises:
            ParameterError: there is none of this id.
        """
        token = self._read(number) if re.fullmatch("[0-9a-f]{12}", number) else None
        if token is None:
            raise ParameterError(f"there is no token {shown_text(number)!r}: `wafer token list` shows their ids")
        if token.revoked is None:
            token = Token(**{**asdict(token), "revoked": _text(_now())})
            self._write(token)
        return token

    def caller(self, text: str) -> Caller | None:
        """Whose token this is; None where it is no valid one."""
        found = _TOKEN.fullmatch(text)
        token = None if found is None else self._lookup(found[1])
        if found is None or token is None:
            return None
        right = hmac.compare_digest(token.digest, _digest(found[2]))
        return Caller(token.name, frozenset(token.scopes)) if right and token.valid else None

    def remembers(self, text: str) -> bool:
        """Whether `caller` answers at once, without a look at the storage."""
        found = _TOKEN.fullmatch(text)
        known = self._known.get(found[1]) if found else None
        return found is None or (known is not None and time.monotonic() - known[0] < SECONDS_KNOWN)

    def _lookup(self, number: str) -> Token | None:
        now = time.monotonic()
        with self._lock:
            known = self._known.get(number)
        if known is not None and now - known[0] < SECONDS_KNOWN:
            return known[1]
        token = self._read(number)
        with self._lock:
            if len(self._known) >= MOST_KNOWN:  # somebody tries ids
                self._known.clear()
            self._known[number] = now, token
        return token

    def _read(self, number: str) -> Token | None:
        key = f"{PLACE}/{number}.json"
        if not self._storage.exists(key):
            return None
        kept = self._storage.read_json(key)
        return Token(**{**kept, "scopes": tuple(kept["scopes"])})

    def _write(self, token: Token) -> None:
        self._storage.write_json(f"{PLACE}/{token.id}.json", asdict(token))
        with self._lock:
            self._known.pop(token.id, None)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
