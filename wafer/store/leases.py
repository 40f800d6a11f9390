"""Leases: who may write now.

A lease is one document of the collection ``leases``, ``{_id: "ingest-training", token: …, host: …, pid: …, run: …,
since: …, beat: …, expires: …}``. It is taken by one atomic operation, which succeeds where the document is not there or
has expired; its holder renews it every few seconds from a thread, and removes it at the end. A killed holder's lease
expires, and whoever comes next takes it over; one whose process ended on the same machine is taken over at once.

All times are the server's, asked for just before they are used, so clocks that differ between hosts do not matter. A
time that has become old on its way only makes a renewal shorter and a taking over later. Where a server's clock jumps,
as at a failover to another member, an expiry moves by as much, which must be far less than a lease lasts.

A holder that was stopped for longer than its lease lasts may have lost it: `Lease.check`, which costs nothing while the
beat goes on, tells, and is to be called before anything that lasts is written.
"""

import datetime
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pymongo
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from wafer.errors import LeaseError
from wafer.store.wafers import Store, brief

__all__ = ["Holder", "Lease", "lease", "leases", "stale_leases"]

SECONDS_BETWEEN_BEATS = 10.0
SECONDS_TO_EXPIRE = 45.0
SECONDS_TO_WAIT = 60.0  # longer than a killed holder's lease lasts
SECONDS_BETWEEN_TRIES = 1.0
SECONDS_TO_ANSWER = 5.0  # a renewal or a giving back; the next beat tries again

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: the process `pid` on `host`, for `run`, since when, and its last sign of life (UTC)."""

    name: str
    host: str
    pid: int
    run: str
    since: datetime.datetime
    beat: datetime.datetime
    expires: datetime.datetime

    def __str__(self) -> str:
        run = f" for run {self.run}" if self.run else ""
        return (
            f"lease {self.name!r} is held by process {self.pid} on {self.host}{run} since "
            f"{self.since:%Y-%m-%d %H:%M:%S} UTC, last seen at {self.beat:%H:%M:%S}"
        )


class Lease:
    """A lease that this process holds; made by `lease`."""

    def __init__(self, store: Store, name: str, run: str, expires: float) -> None:
        self.name = name
        self._store = store
        self._token = secrets.token_hex(16)
        self.expires = expires
        self._owner = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "run": run}
        self._owner |= {"machine": _machine(), "born": _born(os.getpid())}
        self._until = 0.0  # by this machine's clock of time passed, also while it sleeps
        self._lost = False
        self._ended = threading.Event()
        self._beating = threading.Lock()

    def check(self) -> None:
        """Return while the lease is held; costs a question to the store only where the beat has failed for long.

        Raises:
            LeaseError: somebody else has it, or may have it by now.
        """
        if self._lost or (_passed() >= self._until and not self._renew()):
            self._lost = True
            raise LeaseError(
                f"lease {self.name!r} was lost, since it was not renewed for {self.expires:.0f} s: run this again"
            )

    def _take(self, gone: str | None = None) -> bool:
        """Take it where it is free, has expired, or is that of the token `gone`; whether that was so."""
        asked = _passed()
        now = self._store.now()
        fields = {**self._owner, "since": now, "beat": now, "expires": now + self._span}
        free = {"expires": {"$lte": now}} if gone is None else {"token": gone}
        try:
            self._store.leases.find_one_and_update(
                {"_id": self.name, **free}, {"$set": fields}, upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:
            return False
        self._until = asked + self.expires
        return True

    def _renew(self) -> bool:
        """Prolong it where it is still this one; whether that was so."""
        with self._beating, pymongo.timeout(SECONDS_TO_ANSWER):
            asked = _passed()
            try:
                now = self._store.now()
                found = self._store.leases.update_one(
                    {"_id": self.name, "token": self._token}, {"$set": {"beat": now, "expires": now + self._span}}
                )
            except PyMongoError as error:
                log.warning("lease %s could not be renewed: %s", self.name, brief(error))
                return False
            if not found.matched_count:
                self._lost = True
                return False
            self._until = asked + self.expires
            return True

    def _beat(self, seconds: float) -> None:
        while not self._ended.wait(seconds) and not self._lost:
            self._renew()

    def _release(self) -> None:
        """Remove it where it is still this one.

        Raises:
            LeaseError: it was not.
        """
        with pymongo.timeout(SECONDS_TO_ANSWER):
            given_back = self._store.leases.delete_one({"_id": self.name, "token": self._token}).deleted_count
        if not given_back:
            self._lost = True
            self.check()

    @property
    def _span(self) -> datetime.timedelta:
        return datetime.timedelta(seconds=self.expires)


@contextmanager
def lease(
    store: Store,
    name: str,
    *,
    run: str = "",
    wait: float = SECONDS_TO_WAIT,
    expires: float = SECONDS_TO_EXPIRE,
    tell: Callable[[str], None] = log.warning,
) -> Iterator[Lease]:
    """Hold the lease `name` while the block runs; nobody else anywhere holds it then.

    Args:
        store: where it is kept; two stores know nothing of each other.
        name: of what is written, such as `ingest-training`.
        run: for which piece of work, to be shown to those who wait.
        wait: seconds to wait where somebody else holds it; the default outlasts a killed holder's lease.
        expires: seconds without a renewal after which others may take it.
        tell: hears at once who holds it, and again where that changes.

    Raises:
        LeaseError: somebody else held it for `wait` seconds, or it was lost before the block ended.
    """
    held = Lease(store, name, run, expires)
    _wait_for(held, store, wait, tell)
    beat = threading.Thread(
        target=held._beat, args=(min(SECONDS_BETWEEN_BEATS, expires / 4),), name=f"lease {name}", daemon=True
    )
    beat.start()
    try:
        yield held
    except BaseException:
        _stop(held, beat)
        try:
            held._release()
        except (LeaseError, PyMongoError):
            log.warning("lease %s could not be given back; it expires", name)
        raise
    _stop(held, beat)
    held._release()


def leases(store: Store) -> list[Holder]:
    """Who holds a lease now, by name; nobody holds one that has expired, or whose process on this machine is gone."""
    found = store.leases.find({"expires": {"$gt": store.now()}}).sort("_id", 1)
    return [_holder(document) for document in found if not _is_gone(document)]


def stale_leases(store: Store) -> list[Holder]:
    """Who holds no lease any more that was not given back: it has expired, or its process on this machine is gone."""
    now = store.now()
    return [_holder(one) for one in store.leases.find().sort("_id", 1) if one["expires"] <= now or _is_gone(one)]


def _wait_for(held: Lease, store: Store, wait: float, tell: Callable[[str], None]) -> None:
    start = time.monotonic()
    told = None
    while not held._take():
        document = store.leases.find_one({"_id": held.name})
        if document is None:
            continue  # given back meanwhile
        if _is_gone(document) and held._take(document["token"]):
            return
        holder = _holder(document)
        left = wait - (time.monotonic() - start)
        if left <= 0:
            raise LeaseError(f"{holder}: wait for it, or end it, and run this again")
        if document["token"] != told:
            told = document["token"]
            tell(f"{holder}: waiting up to {left:.0f} s")
        time.sleep(min(SECONDS_BETWEEN_TRIES, held.expires / 20, left))


def _stop(held: Lease, beat: threading.Thread) -> None:
    held._ended.set()
    beat.join()


def _holder(document: dict[str, Any]) -> Holder:
    return Holder(document["_id"], *(document[name] for name in ("host", "pid", "run", "since", "beat", "expires")))


def _machine() -> str:
    """What two processes share that see the same process numbers: this boot and namespace; empty where not known."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> float | None:
    """When the process of this number was started, by the machine's own count; None where there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _is_gone(document: dict[str, Any]) -> bool:
    """Whether the holder is known to have ended: a process of this machine, and no longer there."""
    machine = document.get("machine")
    return bool(machine) and machine == _machine() and _born(document["pid"]) != document["born"]


def _passed() -> float:
    """Seconds that have passed, those of a sleeping machine included where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
