"""The public SECOM measurements as batch files: download, check, cut into deliveries.

M. McCann, A. Johnston: SECOM, UCI Machine Learning Repository, 2008, https://doi.org/10.24432/C54305 (CC BY 4.0).
"""

import hashlib
import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any

import pooch
import requests

from wafer.errors import FetchError
from wafer.fab.simulate import SENSORS, header_line
from wafer.progress import Progress
from wafer.storage import AnyPath, write_bytes

SECOM_URL = "https://archive.ics.uci.edu/static/public/179/secom.zip"
WAFERS = 1567
FAULTY = 104
WAFERS_PER_FILE = 100
NOTICE = "ATTRIBUTION-SECOM.txt"
LICENCE = (
    "SECOM, by Michael McCann and Adrian Johnston, UCI Machine Learning Repository (2008), "
    "https://doi.org/10.24432/C54305, licensed under CC BY 4.0, https://creativecommons.org/licenses/by/4.0/. "
    "Changed: cut into batch files with wafer ids, missing readings left empty; the readings are unchanged."
)

_LARGEST = 64 * 2**20  # bytes; the download has about 2 MB and its largest file about 5 MB
_CHUNK = 2**16


@dataclass(frozen=True)
class FetchRecord:
    """What was fetched: numbers of batch files, wafers, sensors and faulty wafers, and where it comes from."""

    files: int
    wafers: int
    sensors: int
    faulty: int
    sha256: str  # of the download, in hex
    licence: str  # the attribution that must stay with the data


@dataclass(frozen=True)
class _Measurement:
    """One wafer: its readings as delivered text (590, empty where missing), label and time of measurement."""

    readings: tuple[str, ...]
    label: int
    time: datetime


def fetch_secom(
    out: AnyPath,
    *,
    url: str = SECOM_URL,
    progress: Progress | None = None,
    timeout: float = 30.0,
    attempts: int = 3,
) -> FetchRecord:
    """Download SECOM and write it into `out` as labelled batch files of 100 wafers, in production order.

    A wafer's number is its row; a file is named after the time of its first wafer. The attribution is written beside
    the folder, as `ATTRIBUTION-SECOM.txt` in its parent, because every file in a folder of batches is a delivery.

    Args:
        out: folder of the batch files; made where it is missing. Files of the same names are replaced.
        url: address of the data set's zip file.
        progress: called with the bytes that have come and their total; where the server does not say the total, once
            at the end.
        timeout: seconds without an answer after which an attempt is given up.
        attempts: how often to try, 1 or more; only what may pass by itself is tried again, after some seconds.

    Raises:
        FetchError: there is no answer, the answer is not the data set, or cannot be written; no new file is left then.
    """
    data = _download(url, progress, timeout, attempts)
    wafers = _read_wafers(data, url)
    files = _cut(wafers, url)
    _write_all(out, files)
    return FetchRecord(
        files=len(files),
        wafers=len(wafers),
        sensors=SENSORS,
        faulty=sum(wafer.label == 1 for wafer in wafers),
        sha256=hashlib.sha256(data).hexdigest(),
        licence=LICENCE,
    )


class _Bar:
    """What pooch asks of a progress bar; it ends a download that grows too large."""

    def __init__(self, url: str, progress: Progress | None) -> None:
        self.url, self.progress = url, progress
        self.total = self.done = 0

    def update(self, size: int) -> None:
        self.done += size
        if self.done > _LARGEST:
            raise FetchError(f"{self.url}: expected a zip file of about 2 MB, got more than {_LARGEST // 2**20} MB")
        if self.progress is not None and self.total:
            self.progress(min(self.done, self.total), self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        """Nothing is held open."""


def _download(url: str, progress: Progress | None, timeout: float, attempts: int) -> bytes:
    """The bytes at `url`; passing troubles are tried again."""
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url}: expected an address that starts with https:// or http://")
    bar = _Bar(url, progress)
    ask = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=timeout)

    def download(url: str, file: str, owner: Any) -> None:
        bar.reset()
        try:
            ask(url, file, owner)
        except requests.HTTPError as error:
            code = 0 if error.response is None else error.response.status_code
            if 400 <= code < 500 and code not in (408, 429):
                raise FetchError(f"{url}: {_trouble(error)}") from error
            raise

    pooch.get_logger().setLevel("WARNING")
    with TemporaryDirectory() as folder:
        source = pooch.create(folder, "", registry={"data": None}, urls={"data": url}, retry_if_failed=attempts - 1)
        try:
            data = Path(source.fetch("data", downloader=download)).read_bytes()
        except requests.RequestException as error:
            raise FetchError(f"{url}: {_trouble(error)} (attempts: {attempts})") from error
    if progress is not None and not bar.total:
        progress(len(data), len(data))
    return data


def _trouble(error: requests.RequestException) -> str:
    """What went wrong on the way, in words."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the download broke off"
    if isinstance(error, requests.exceptions.InvalidURL):
        return f"not a usable address ({error})"
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    return f"no connection, perhaps no internet: {cause}"


def _read_wafers(data: bytes, url: str) -> list[_Measurement]:
    """The wafers of the downloaded zip file, in its order, after a check of their shape."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            rows = [line.split() for line in _member(archive, "secom.data", url).splitlines() if line.strip()]
            labels = [line for line in _member(archive, "secom_labels.data", url).splitlines() if line.strip()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FetchError(f"{url}: expected a whole zip file, got {len(data)} bytes that are none ({error})") from error
    for what, got in (("rows in secom.data", len(rows)), ("rows in secom_labels.data", len(labels))):
        if got != WAFERS:
            raise FetchError(f"{url}: expected {WAFERS} {what}, got {got}")
    wafers = [_read_wafer(number, *pair, url) for number, pair in enumerate(zip(rows, labels, strict=True), start=1)]
    faulty = sum(wafer.label == 1 for wafer in wafers)
    if faulty != FAULTY:
        raise FetchError(f"{url}: expected {FAULTY} faulty wafers, got {faulty}")
    return wafers


def _member(archive: zipfile.ZipFile, name: str, url: str) -> str:
    """Text of the archive's file of that name, in whatever folder it lies."""
    found = [info for info in archive.infolist() if PurePosixPath(info.filename).name == name]
    if len(found) != 1:
        raise FetchError(f"{url}: expected one file {name} in the zip file, got {len(found)}")
    if found[0].file_size > _LARGEST:
        raise FetchError(f"{url}: expected {name} to have about 5 MB, got {found[0].file_size // 2**20} MB")
    with archive.open(found[0]) as file:
        return _decode(file, name, url)


def _decode(file: IO[bytes], name: str, url: str) -> str:
    try:
        return file.read().decode("ascii")
    except UnicodeDecodeError as error:
        raise FetchError(f"{url}: expected text in {name}, got the byte {error.object[error.start]:#04x}") from error


def _read_wafer(number: int, cells: list[str], label_line: str, url: str) -> _Measurement:
    """One row of `secom.data` with its row of `secom_labels.data`: `-1 "19/07/2008 11:55:00"`."""
    if len(cells) != SENSORS:
        raise FetchError(f"{url}: row {number} of secom.data: expected {SENSORS} sensors, got {len(cells)}")
    readings = tuple("" if cell == "NaN" else cell for cell in cells)
    if not _are_numbers(readings):
        column = next(n for n, cell in enumerate(readings, start=1) if not _are_numbers((cell,)))
        raise FetchError(
            f"{url}: row {number} of secom.data, sensor {column}: expected a number, got {cells[column - 1]!r}"
        )
    label, _, moment = label_line.strip().partition(" ")
    try:
        when = datetime.strptime(moment.strip().strip('"'), "%d/%m/%Y %H:%M:%S")
    except ValueError:
        when = None
    if label not in ("1", "-1") or when is None:
        raise FetchError(
            f"{url}: row {number} of secom_labels.data: expected -1 or 1 and a time, got {label_line.strip()!r}"
        )
    return _Measurement(readings, int(label), when)


def _are_numbers(readings: tuple[str, ...]) -> bool:
    """Whether every reading that is there is a finite number."""
    try:
        return all(map(math.isfinite, map(float, filter(None, readings))))
    except ValueError:
        return False


def _cut(wafers: list[_Measurement], url: str) -> dict[str, bytes]:
    """Batch files by name, in production order."""
    files: dict[str, bytes] = {}
    for first, end in pairwise([*range(0, len(wafers), WAFERS_PER_FILE), len(wafers)]):
        name = f"wafer_{wafers[first].time:%d%m%Y_%H%M%S}.csv"
        if name in files:
            raise FetchError(
                f"{url}: expected another time for wafer {first + 1} than for the batches before, got {name}"
            )
        lines = [
            ",".join([f"Wafer-{number}", *wafer.readings, str(wafer.label)])
            for number, wafer in enumerate(wafers[first:end], start=first + 1)
        ]
        files[name] = "\r\n".join([header_line(labelled=True), *lines, ""]).encode()
    return files


def _write_all(out: AnyPath, files: dict[str, bytes]) -> None:
    """Write the batch files and the attribution; on trouble take back those that were not there before."""
    targets = {out.parent / NOTICE: (LICENCE + "\n").encode()} | {out / name: data for name, data in files.items()}
    new: list[AnyPath] = []
    try:
        for path, data in targets.items():
            if not path.exists():
                new.append(path)
            write_bytes(path, data)
    except BaseException as error:
        for path in new:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FetchError(f"{out}: the batch files cannot be written ({error.strerror or error})") from error
        raise
