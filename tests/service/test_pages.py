"""Pages of the service: runs and reports of a folder or a bucket, to be read by a browser and no more."""

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from pydantic import SecretStr

from tests.conftest import REPOSITORY, S3_KEYS
from wafer.reporting.look import script_source
from wafer.service.app import create_app
from wafer.settings import Settings
from wafer.workspace import Workspace

Answer = tuple[int, http.client.HTTPMessage, bytes]


@contextmanager
def shown(settings: Settings) -> Iterator[int]:
    """The port at which the pages of a storage are served."""
    with Workspace(settings) as workspace:
        config = uvicorn.Config(create_app(workspace), port=0, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield int(server.servers[0].sockets[0].getsockname()[1])
        server.should_exit = True
        thread.join()


def ask(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, f"/pages{path}", headers={"Host": host})  # as it stands, nothing is normalised
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A storage with a page and what nobody may see."""
    if request.param == "folder":
        settings = Settings.read(storage_url=str(tmp_path_factory.mktemp("pages") / "data"))
        found = settings.storage
        secret = found.root.parent / "secret.html"
        secret.write_text("secret")
        found.write_text("runs/one/page.html", "<html>page</html>")
        (found.place("runs/one/link.html")).symlink_to(secret)
    else:
        address = request.getfixturevalue("s3_address")
        settings = bucket(address, S3_KEYS["AWS_ACCESS_KEY_ID"], S3_KEYS["AWS_SECRET_ACCESS_KEY"])
        found = settings.storage
        if not found.root.fs.exists("/pages"):
            found.root.fs.call_s3("create_bucket", Bucket="pages")
        found.write_text("runs/one/page.html", "<html>page</html>")
    for key in (
        "runs/one/.hidden.html",
        "state/secret.html",
        "secret.html",
        "runs/one/a b#%.csv",
        "reports/index.html",
    ):
        found.write_text(key, f"in {key}")
    found.write_bytes("runs/one/large.parquet", bytes(3 * 2**20))
    return settings


def bucket(address: str, key: str, secret: str) -> Settings:
    """A storage in the bucket `pages` of a server."""
    return Settings.read(
        storage_url="s3://pages/data", s3_endpoint=address, s3_key=SecretStr(key), s3_secret=SecretStr(secret)
    )


def test_pages_are_shown_and_nothing_else(settings: Settings) -> None:
    """Whole files with their types and a strict policy, folders as lists; hidden files, other folders, links that lead
    out, tricks with paths, other methods and other hosts are refused."""
    with shown(settings) as port:
        status, headers, body = ask(port, "/runs/one/page.html")
        assert (status, body) == (200, b"<html>page</html>")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert (policy["default-src"], policy["script-src"]) == ("'none'", script_source())
        assert policy["frame-ancestors"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert [ask(port, "/runs/one/large.parquet")[i] for i in (0, 2)] == [200, bytes(3 * 2**20)]
        status, headers, body = ask(port, "/runs/one/a%20b%23%25.csv")
        assert (status, headers["Content-Type"], body) == (200, "text/csv; charset=utf-8", b"in runs/one/a b#%.csv")
        assert ask(port, "/runs/one")[1]["Location"] == "/pages/runs/one/"
        listed = re.findall(rb'href="(.*?)"', ask(port, "/runs/one/")[2])
        assert {b"page.html", b"large.parquet", b"a%20b%23%25.csv"} <= set(listed)
        assert b".hidden.html" not in listed
        for link in set(listed) - {b"link.html"}:
            assert ask(port, f"/runs/one/{link.decode()}")[0] == 200
        refused = ["/runs/one/.hidden.html", "/runs/one/link.html", "/state/secret.html", "/secret.html", "/runs/none"]
        refused += ["/runs/../secret.html", "/runs/%2e%2e/secret.html", "/runs/..%2fsecret.html", "//secret.html"]
        refused += ["/runs/one//page.html", "/runs/one/page.html/", "/runs/one/page.html%00", "/runs/one/..\\x", "/.."]
        assert {path: ask(port, path)[0] for path in refused} == dict.fromkeys(refused, 404)
        assert {ask(port, "/runs/one/page.html", method)[0] for method in ("POST", "PUT", "DELETE")} == {405}
        assert ask(port, "/runs/one/page.html", host="evil.example")[0] == 400
    assert settings.storage.place("runs/one/page.html").read_text() == "<html>page</html>"


@pytest.mark.slow  # the bucket's client tries three times
def test_a_storage_that_gives_no_answer_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A bucket that is away: status 503, and neither an address nor a key."""
    with shown(bucket("http://127.0.0.1:9", "h1dden", "h1dden")) as port:
        status, _, body = ask(port, "/runs/one/page.html")
    assert (status, json.loads(body)["detail"]) == (503, "a server that is needed gives no answer")


def test_what_pages_hold_is_allowed_by_the_policy() -> None:
    """No template loads anything from elsewhere, and the one script is that which the policy names."""
    templates = [file.read_text() for file in (REPOSITORY / "wafer" / "reporting").glob("*.j2")]
    assert len(templates) == 2
    assert all(not re.search(r"""(src|href)=["']?(https?:)?//""", text) for text in templates)
    assert sum(text.count("<script>") for text in templates) == 1
