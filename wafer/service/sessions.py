"""Who looks at the page: a cookie that stands for a token which was typed in once, for a working day."""

import hashlib
import secrets
import threading
import time

from wafer.service.tokens import Tokens

COOKIE = "wafer-session"
SECONDS = 12 * 3600
MOST = 10_000


class Sessions:
    """The sessions of one process; a cookie is worth nothing after a restart, or once its token is revoked."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self._open: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def begin(self, token: str) -> str | None:
        """The cookie of a new session; None where this is no valid token."""
        if self.tokens.caller(token) is None:
            return None
        cookie, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._open = {key: one for key, one in self._open.items() if one[1] > now}
            if len(self._open) >= MOST:
                self._open.pop(next(iter(self._open)))
            self._open[_digest(cookie)] = token, now + SECONDS
        return cookie

    def token(self, cookie: str) -> str:
        """The token that a session was begun with, which may be worth nothing by now; empty where it has ended."""
        with self._lock:
            token, ends = self._open.get(_digest(cookie), ("", 0.0))
        return token if time.monotonic() < ends else ""

    def end(self, cookie: str) -> None:
        """Let go of a session."""
        with self._lock:
            self._open.pop(_digest(cookie), None)


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
