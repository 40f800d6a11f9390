"""The supervisor of one embedded database: a small process that is the server's parent, and stops it when it is unused.

It is started by `wafer.store.embedded`, as `python -m wafer.store.supervisor FOLDER PORT`, and tells on its standard
output in one line of JSON how that went: `{"port": …}` or `{"failed": …}`. It then lives until nobody holds
`in-use.lock`.

At a folder's first start the server has no user yet and lets everybody in. Then it runs on a port that nobody is told,
only for as long as it takes to make the user; it starts again asking for the password, and only when no other user and
in a new folder no data are found does the secret become the folder's, and the port known. What an unfinished first
start leaves is thrown away by the next.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from wafer.errors import StoreError
from wafer.lifeline import tie_children
from wafer.storage import sync_folder, write_secret
from wafer.store.embedded import SECRET, USER, url_of

if TYPE_CHECKING:
    from pymongo import MongoClient

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_STOP = 20.0
LISTENING = re.compile(r"secantus listening on 127\.0\.0\.1:(\d+)")
LAST_WORDS = re.compile(r"^([\w.]*(?:Error|Exception)|secantusdb): (?:\[Errno (\d+)\] )?(.+)$")
BYTES_TO_START = 16 * 2**20  # it makes a journal of 10 MB at once
FULL = "the disk is full: make room"
BUSY = "another process has its data open: end that"
DAMAGED = "its data are damaged or of another version: restore them, or move the folder away and ingest again"
READ_ONLY = "the folder may not be written: mend its mode"
IN_THE_WAY = "there is a file where its folder of data should be: move that away"
DEAF = "it may not listen on 127.0.0.1: allow that"
# what the system's error means for the person
MEANINGS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), READ_ONLY),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), IN_THE_WAY),
    **dict.fromkeys((errno.EBUSY, errno.EAGAIN), BUSY),
    **dict.fromkeys((errno.EADDRNOTAVAIL, errno.EADDRINUSE), DEAF),
}
# an error of the server's storage, WiredTiger, has no number, but only the system's own words for one
NUMBERS = {os.strerror(number): number for number in MEANINGS}
# and is about the data where it has none of these
OF_DATA = ("_wiredtiger.WiredTigerError", "secantus.storage.IncompatibleStorageFormatError")


class Server:
    """The server program on the data of `folder`, on a port of 127.0.0.1 that the system chooses."""

    def __init__(self, program: str, folder: Path, *arguments: str) -> None:
        self._folder = folder
        config = folder / "secantusd.toml"
        config.write_text("# the server's only configuration file; what it needs, it is told on its command line\n")
        command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", "0", "--log-level", "INFO"]
        command += ["--storage-path", str(folder / "data"), "--sync-on-commit", *arguments]
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._said: deque[str] = deque(maxlen=100)
        self._listens = threading.Event()
        self.port = 0
        self._reader = threading.Thread(target=self._read, args=(folder / "server.log",), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def wait_until_it_listens(self) -> None:
        """Return when clients may connect.

        Raises:
            StoreError: it ended instead.
        """
        while not self._listens.wait(0.05):
            if self._process.poll() is not None:
                self._reader.join(5)
                raise StoreError(self._cause())

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def stop(self, *, at_once: bool = False) -> None:
        """Let it end, which takes some seconds, and make it where it does not, or `at_once`."""
        if self.runs():
            if at_once:
                self._process.kill()
            else:
                self._process.terminate()
            try:
                self._process.wait(timeout=SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _read(self, log: Path) -> None:
        """Keep what it says in `log`, as long as there is room, and look for its port."""
        stream = self._process.stdout
        assert stream is not None
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            self._said.append(text)
            if not self.port and (found := LISTENING.search(text)):
                self.port = int(found[1])
                self._listens.set()
            try:
                with log.open("ab") as file:
                    file.write(line)
            except OSError:
                continue  # a full disk must not stop the reading

    def _cause(self) -> str:
        said = [found for line in self._said if (found := LAST_WORDS.match(line))]
        if not said:
            return cause(f"it ended with status {self._process.returncode}", self._folder)
        kind, number, message = said[-1].groups()
        meaning = MEANINGS.get(int(number) if number else NUMBERS.get(message, 0), DAMAGED if kind in OF_DATA else None)
        return cause(message, self._folder, meaning)


def cause(message: str, folder: Path, meaning: str | None = None) -> str:
    """What an error of the server or the system about `folder` means for the person, with its own `message`."""
    if shutil.disk_usage(folder).free < BYTES_TO_START:
        meaning = FULL  # the server speaks of damaged data then, since it could not write them whole
    return f"{meaning} ({message[:200]})" if meaning else message[:200]


def _start(program: str, folder: Path, port: int) -> Server:
    """The server, asking for the password, on this port, or for 0 on one that the system chooses."""
    data, secret, unfinished = folder / "data", folder / SECRET, folder / "first-start"
    if unfinished.exists():
        secret.unlink(missing_ok=True)
        shutil.rmtree(data, ignore_errors=True)
    if secret.exists():
        secret.chmod(0o600)
        return _listening(program, folder, "--auth", "--port", str(port))
    fresh = not data.exists()
    if fresh:
        if (free := shutil.disk_usage(folder).free) < BYTES_TO_START:
            raise StoreError(f"{FULL} ({free} bytes are free, {BYTES_TO_START} are needed)")
        unfinished.touch()
    password = secrets.token_urlsafe(32)
    _make_user(program, folder, password, fresh=fresh)
    server = _listening(program, folder, "--auth", "--port", str(port))
    try:
        _refuse_others(server.port, password, fresh=fresh)
        write_secret(secret, password)
        unfinished.unlink(missing_ok=True)
        sync_folder(folder)
    except BaseException:
        server.stop()
        raise
    return server


def _listening(program: str, folder: Path, *arguments: str) -> Server:
    """A server that clients may connect to; one whose supervisor was killed may need some seconds to be gone."""
    deadline = time.monotonic() + SECONDS_TO_STOP
    while _in_use(folder / "data" / "WiredTiger.lock"):
        if time.monotonic() > deadline:
            raise StoreError(BUSY)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    server = Server(program, folder, *arguments)
    try:
        server.wait_until_it_listens()
    except BaseException:
        server.stop()
        raise
    return server


def _in_use(lock: Path) -> bool:
    """Whether a process holds the lock that a server keeps on its data."""
    try:
        with lock.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # where there is none, or data that cannot be read, the server starts or says why not
    return False


def _make_user(program: str, folder: Path, password: str, *, fresh: bool) -> None:
    """Make the one user, in place of all that there were, on a server that does not ask for a password yet."""
    server = _listening(program, folder)
    try:
        with _client(url_of(server.port)) as client:
            for user in client.admin["system.users"].find():
                client[user["db"]].command("dropUser", user["user"])
            client.admin.command("createUser", USER, pwd=password, roles=["root"], mechanisms=["SCRAM-SHA-256"])
    finally:
        server.stop(at_once=fresh)  # all that it wrote is the user, which is on the disk


def _refuse_others(port: int, password: str, *, fresh: bool) -> None:
    """Drop users that somebody else made meanwhile; in a `fresh` folder there must be no data of anybody."""
    with _client(url_of(port, password)) as client:
        for user in client.admin["system.users"].find():
            if (user["db"], user["user"]) != ("admin", USER):
                client[user["db"]].command("dropUser", user["user"])
        strange = sorted(set(client.list_database_names()) - {"admin", "config", "local"})
        if fresh and strange:
            raise StoreError(f"somebody else wrote to it during its first start (database {strange[0]!r}): start again")


@contextmanager
def _client(url: str) -> Iterator["MongoClient[dict[str, Any]]"]:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    try:
        with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=10_000) as client:
            yield client
    except PyMongoError as error:
        raise StoreError(f"its user could not be made: {str(error)[:200]}") from error


def _program() -> str:
    found = shutil.which("secantusd-py", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise StoreError("its program secantusd-py is not installed: pip install 'wafer[embedded]'")
    return found


def supervise(folder: Path, port: int, told: IO[str]) -> int:
    """Run the server of `folder` until nobody holds its `in-use.lock`, then stop it; `told` hears how it started."""
    tie_children()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    published = folder / "server.json"
    server = None
    with (folder / "supervisor.lock").open("ab") as alive, (folder / "in-use.lock").open("ab") as in_use:
        fcntl.flock(alive, fcntl.LOCK_EX)
        try:
            published.unlink(missing_ok=True)
            server = _start(_program(), folder, port)
            aside = folder / "server.json.part"
            aside.write_text(json.dumps({"port": server.port, "server": server.pid, "supervisor": os.getpid()}))
            aside.replace(published)
            _tell(told, port=server.port)
            _wait_until_unused(server, in_use)
        except StoreError as error:
            _tell(told, failed=str(error))
        except OSError as error:
            message = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
            _tell(told, failed=cause(message, folder, MEANINGS.get(error.errno or 0)))
        finally:
            # a newcomer now waits for the lock in use, and finds no server.json once it has it
            published.unlink(missing_ok=True)
            if server is not None:
                server.stop()
    return 0


def _wait_until_unused(server: Server, in_use: IO[bytes]) -> None:
    """Return when the lock could be had, which is held from then on, or when the server has ended."""
    while server.runs():
        time.sleep(SECONDS_BETWEEN_LOOKS)
        try:
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return


def _tell(told: IO[str], **news: object) -> None:
    try:
        print(json.dumps(news), file=told, flush=True)
    except BrokenPipeError:
        return  # whoever started it is gone; others may need it


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1]), int(sys.argv[2]), sys.stdout))
