"""The embedded database server: shared while used, stopped when the last user is gone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pymongo
import pytest

from wafer.errors import StoreError
from wafer.store.embedded import embedded_server, wait_until_stopped

USER = """
import sys, time
from pathlib import Path
from wafer.store.embedded import embedded_server
with embedded_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(60)
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """The server keeps its files in the folder, stops when its user is gone, and starts again on them."""
    with embedded_server(tmp_path) as url, pymongo.MongoClient(url) as client:
        client.shop.things.insert_one({"_id": 1})
    assert wait_until_stopped(tmp_path)
    assert not (tmp_path / "server.json").exists()
    with embedded_server(tmp_path) as url, pymongo.MongoClient(url) as client:
        assert list(client.shop.things.find()) == [{"_id": 1}]
    assert wait_until_stopped(tmp_path)


def test_users_share_one_server_and_a_killed_one_leaves_none_behind(tmp_path: Path) -> None:
    """Two processes get the same server; killed with -9, the last user takes the server with it."""
    with embedded_server(tmp_path) as url:
        user = subprocess.Popen([sys.executable, "-c", USER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert user.stdout is not None
        assert user.stdout.readline().strip() == url
        server = json.loads((tmp_path / "server.json").read_text())["server"]
    time.sleep(1.5)
    assert alive(server), "the other process still uses it"
    user.send_signal(signal.SIGKILL)
    user.communicate()
    assert wait_until_stopped(tmp_path)
    assert not alive(server)


def test_a_server_that_cannot_start_is_told(tmp_path: Path) -> None:
    """Where the server program cannot use its folder, the error gives its last words and the way out."""
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(StoreError, match="did not start") as caught, embedded_server(tmp_path):
        pass
    assert "MONGODB_URL" in str(caught.value)
    assert wait_until_stopped(tmp_path)
