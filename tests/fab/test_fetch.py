"""Fetching SECOM, against a real HTTP server on loopback; the zip file is made here, with the true shape."""

import errno
import hashlib
import io
import random
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wafer.errors import FetchError
from wafer.fab.fetch import LICENCE, NOTICE, FetchRecord, fetch_secom
from wafer.fab.simulate import header_line

Answer = tuple[int, dict[str, str], bytes]
START = datetime(2008, 7, 19, 11, 55)


@cache
def measurements(wafers: int = 1567, sensors: int = 590) -> str:
    """Text of a `secom.data`: a few thousand different rows would prove no more than these."""
    rng = random.Random(179)
    cells = [rng.choice(["NaN", "0", "100", f"{rng.uniform(-50, 3000):.4f}"]) for _ in range(sensors + 40)]
    return "".join(" ".join(cells[row % 40 : row % 40 + sensors]) + "\n" for row in range(wafers))


def labels(wafers: int = 1567, faulty: int = 104, step: timedelta = timedelta(minutes=80)) -> str:
    """Text of a `secom_labels.data`: the first `faulty` wafers of the data are faulty."""
    return "".join(f'{1 if row < faulty else -1} "{START + row * step:%d/%m/%Y %H:%M:%S}"\n' for row in range(wafers))


@cache
def archive(data: str | None = None, label: str | None = None, folder: str = "") -> bytes:
    """A zip file as UCI gives it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr(f"{folder}secom.data", measurements() if data is None else data)
        file.writestr(f"{folder}secom_labels.data", labels() if label is None else label)
        file.writestr(f"{folder}secom.names", "SECOM")
    return packed.getvalue()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[str, list[str]]]]:
    """Start a server that gives these answers in turn (the last one again and again); its URL and the paths asked."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    started: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(*answers: Answer) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = answers[min(len(asked), len(answers) - 1)]
                asked.append(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Keep the test's output clean."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/179/secom.zip", asked

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(body: bytes) -> Answer:
    return 200, {"Content-Length": str(len(body)), "Content-Type": "application/zip"}, body


def test_writes_batches_of_a_hundred_wafers_and_the_attribution(
    tmp_path: Path, serve: Callable[..., tuple[str, list[str]]]
) -> None:
    """A good download becomes 16 batch files named after their first wafer's time, and a notice in the folder above."""
    body = archive()
    url, asked = serve(whole(body))
    seen: list[tuple[int, int]] = []
    record = fetch_secom(tmp_path / "raw" / "training", url=url, progress=lambda *step: seen.append(step))
    assert record == FetchRecord(16, 1567, 590, 104, hashlib.sha256(body).hexdigest(), LICENCE)
    first_times = [START + 100 * number * timedelta(minutes=80) for number in range(16)]
    files = sorted((tmp_path / "raw" / "training").iterdir())
    assert {file.name for file in files} == {f"wafer_{time:%d%m%Y_%H%M%S}.csv" for time in first_times}
    assert (tmp_path / "raw" / NOTICE).read_text() == LICENCE + "\n"
    assert asked == ["/179/secom.zip"]
    assert seen[-1] == (len(body), len(body))


def test_files_are_in_the_delivered_format(tmp_path: Path, serve: Callable[..., tuple[str, list[str]]]) -> None:
    """Readings keep their digits, missing ones are empty, wafers are numbered by row, lines end with CRLF."""
    url, _ = serve(whole(archive()))
    fetch_secom(tmp_path / "training", url=url)
    last = tmp_path / "training" / f"wafer_{START + 1500 * timedelta(minutes=80):%d%m%Y_%H%M%S}.csv"
    source = [line.split() for line in measurements().splitlines()]
    rows = [
        ",".join([f"Wafer-{row + 1}", *("" if cell == "NaN" else cell for cell in source[row]), "-1"])
        for row in range(1500, 1567)
    ]
    assert last.read_bytes().decode() == "\r\n".join([header_line(labelled=True), *rows, ""])
    first = tmp_path / "training" / f"wafer_{START:%d%m%Y_%H%M%S}.csv"
    assert [line.rsplit(",", 1)[1] for line in first.read_text().splitlines()[1:]] == ["1"] * 100


def test_fetching_again_gives_the_same_files(tmp_path: Path, serve: Callable[..., tuple[str, list[str]]]) -> None:
    """A second download of the same data leaves the same bytes and no other file."""
    url, _ = serve(whole(archive(folder="secom/")))
    first = fetch_secom(tmp_path / "training", url=url)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert fetch_secom(tmp_path / "training", url=url) == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(before) == 17


@pytest.mark.slow
@pytest.mark.invariant
def test_tries_again_after_passing_trouble(tmp_path: Path, serve: Callable[..., tuple[str, list[str]]]) -> None:
    """A busy server and a download that breaks off are tried again; a server that names no size is believed."""
    body = archive()
    cut = (200, {"Content-Length": str(len(body))}, body[:1000])
    url, asked = serve((503, {"Content-Length": "0"}, b""), cut, (200, {}, body))
    seen: list[tuple[int, int]] = []
    record = fetch_secom(tmp_path / "training", url=url, progress=lambda *step: seen.append(step))
    assert (record.files, len(asked)) == (16, 3)
    assert seen == [(len(body), len(body))]


@pytest.mark.parametrize(
    ("answer", "sentence", "asks"),
    [
        ((404, {"Content-Length": "0"}, b""), "the server answered HTTP 404 Not Found", 1),
        (
            (500, {"Content-Length": "0"}, b""),
            "the server answered HTTP 500 Internal Server Error (attempts: 2)",
            2,
        ),
        ((200, {"Content-Length": "9"}, b"PK"), "the download broke off (attempts: 2)", 2),
        (
            (200, {}, b"<html>sorry</html>"),
            "expected a whole zip file, got 18 bytes that are none (File is not a zip file)",
            1,
        ),
    ],
)
def test_an_answer_that_is_no_data_set(
    tmp_path: Path, serve: Callable[..., tuple[str, list[str]]], answer: Answer, sentence: str, asks: int
) -> None:
    """An HTTP error, a broken download or another file is one clear sentence, and nothing is written."""
    url, asked = serve(answer)
    with pytest.raises(FetchError) as caught:
        fetch_secom(tmp_path / "training", url=url, attempts=2)
    assert str(caught.value) == f"{url}: {sentence}"
    assert len(asked) == asks
    assert list(tmp_path.iterdir()) == []


def without_last_row(text: str) -> str:
    return text[: text.rstrip("\n").rindex("\n") + 1]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (lambda: archive(measurements(1566)), "expected 1567 rows in secom.data, got 1566"),
        (lambda: archive(label=labels(1568)), "expected 1567 rows in secom_labels.data, got 1568"),
        (lambda: archive(measurements(sensors=589)), "row 1 of secom.data: expected 590 sensors, got 589"),
        (lambda: archive(label=labels(faulty=103)), "expected 104 faulty wafers, got 103"),
        (
            lambda: archive(without_last_row(measurements()) + " ".join(["0"] * 589 + ["inf"])),
            "row 1567 of secom.data, sensor 590: expected a number, got 'inf'",
        ),
        (
            lambda: archive(label=labels().replace('-1 "', '0 "')),
            "row 105 of secom_labels.data: expected -1 or 1 and a time, got '0 \"25/07/2008 06:35:00\"'",
        ),
        (
            lambda: archive(label=labels().replace("19/07/2008", "31/02/2008")),
            "row 1 of secom_labels.data: expected -1 or 1 and a time, got '1 \"31/02/2008 11:55:00\"'",
        ),
        (
            lambda: archive(label=labels(step=timedelta(0))),
            "expected another time for wafer 101 than for the batches before, got wafer_19072008_115500.csv",
        ),
        (lambda: archive(data="\u00e9"), "expected text in secom.data, got the byte 0xc3"),
    ],
)
def test_a_data_set_of_another_shape(
    tmp_path: Path, serve: Callable[..., tuple[str, list[str]]], body: Callable[[], bytes], sentence: str
) -> None:
    """Data that are not 1,567 wafers with 590 sensors and 104 faults are refused by name, and nothing is written."""
    url, _ = serve(whole(body()))
    with pytest.raises(FetchError) as caught:
        fetch_secom(tmp_path / "training", url=url)
    assert str(caught.value) == f"{url}: {sentence}"
    assert list(tmp_path.iterdir()) == []


def test_a_zip_file_without_the_data(tmp_path: Path, serve: Callable[..., tuple[str, list[str]]]) -> None:
    """A zip file that lacks a part, or whose part is damaged, is refused."""
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("readme.txt", "nothing here")
    url, _ = serve(whole(empty.getvalue()))
    with pytest.raises(FetchError, match=r"expected one file secom\.data in the zip file, got 0$"):
        fetch_secom(tmp_path / "training", url=url)
    damaged = bytearray(archive())
    damaged[2000:2100] = bytes(100)
    url, _ = serve(whole(bytes(damaged)))
    with pytest.raises(FetchError, match="expected a whole zip file"):
        fetch_secom(tmp_path / "training", url=url)
    assert list(tmp_path.iterdir()) == []


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection says so, hints at the internet and writes nothing."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/secom.zip"
        with pytest.raises(FetchError) as caught:
            fetch_secom(tmp_path / "training", url=url, attempts=2)
    reason = f"[Errno {errno.ECONNREFUSED}] Connection refused"
    assert str(caught.value) == f"{url}: no connection, perhaps no internet: {reason} (attempts: 2)"
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and stays silent is given up after the timeout."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/secom.zip"
        with pytest.raises(FetchError, match=r"timed out.* \(attempts: 1\)$"):
            fetch_secom(tmp_path / "training", url=url, attempts=1, timeout=0.2)
    assert list(tmp_path.iterdir()) == []


def test_only_web_addresses(tmp_path: Path) -> None:
    """An address of another kind than http or https is refused before anything is opened."""
    with pytest.raises(FetchError) as caught:
        fetch_secom(tmp_path / "training", url="file:///etc/passwd")
    assert str(caught.value) == "file:///etc/passwd: expected an address that starts with https:// or http://"


def test_a_folder_that_cannot_be_filled(tmp_path: Path, serve: Callable[..., tuple[str, list[str]]]) -> None:
    """When writing fails half way, the files written so far are taken back, and what was there before stays."""
    url, _ = serve(whole(archive()))
    (tmp_path / "training").mkdir()
    blocked = tmp_path / "training" / f"wafer_{START + 500 * timedelta(minutes=80):%d%m%Y_%H%M%S}.csv"
    blocked.mkdir()
    with pytest.raises(FetchError) as caught:
        fetch_secom(tmp_path / "training", url=url)
    assert str(caught.value) == f"{tmp_path / 'training'}: the batch files cannot be written (Is a directory)"
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "training", blocked]
