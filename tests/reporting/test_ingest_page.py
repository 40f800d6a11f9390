"""The page for reviewers of one ingest run."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from wafer.contract.facts import Delivery
from wafer.contract.suites import Contract, check
from wafer.intake.ingest import IngestedFile, IngestReport
from wafer.intake.statistics import DeliveryStatistics
from wafer.reporting.deliveries import ingest_totals
from wafer.reporting.ingest_page import LARGEST, write_ingest_page
from wafer.reporting.ingest_plots import missing_map, plain, row_groups
from wafer.reporting.ingest_rows import number, share

SENSORS = [f"Sensor-{number}" for number in range(1, 31)]
HOSTILE = "<img src=x onerror=alert(1)>$\\frac{'\"</script>\u202e\u4e2d.csv"
REASON = {"rule": "file_name", "message": f"the file is named {HOSTILE}", "line": None, "column": None}


class Page(HTMLParser):
    """The parts of a page that tests ask for: tags with attributes, and the rows of each table as texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag, and begin a row or a cell."""
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        if tag == "td":
            self._cell = False

    def handle_data(self, data: str) -> None:
        """Add to the cell."""
        if self._cell:
            self.rows[-1][-1] += data


def batch(number: int, name: str = "", *, readable: bool = True, labelled: bool = True) -> Delivery:
    """Fifty wafers; Sensor-30 is empty, Sensor-29 constant; every tenth wafer is faulty."""
    file = name or f"Wafer_{number % 28 + 1:02d}012020_{number:06d}.csv"
    readings = np.random.default_rng(number).uniform(0, 1, (50, len(SENSORS)))
    readings[:, 28], readings[:, 29] = 3.0, np.nan
    columns = {"wafer": pa.array([f"Wafer-{50 * number + row}" for row in range(50)])}
    columns |= {sensor: pa.array(readings[:, at], from_pandas=True) for at, sensor in enumerate(SENSORS)}
    if labelled:
        columns["label"] = pa.array([1 if row % 10 == 0 else -1 for row in range(50)], pa.int8())
    facts = {"delivered": "2020-01-02T03:04:05"}
    return Delivery(Path("x"), file, f"{number:064x}", facts, pa.table(columns) if readable else None)


def ingested(delivery: Delivery, verdict: str = "accepted", **more: Any) -> IngestedFile:
    accepted = verdict == "accepted"
    defaults = {"reasons": [] if accepted else [REASON], "warnings": [], "wafers": 50 * accepted}
    return IngestedFile(delivery.file, delivery.digest, verdict, **(defaults | more))


@pytest.fixture
def statistics() -> DeliveryStatistics:
    return DeliveryStatistics(SENSORS)


def written(
    folder: Path, statistics: DeliveryStatistics, files: list[tuple[Delivery, IngestedFile]], kind: str = "training"
) -> str:
    for delivery, entry in files:
        statistics.add(delivery, accepted=entry.verdict == "accepted")
    report = IngestReport(kind, tuple(entry for _, entry in files)).as_dict()
    path = write_ingest_page(report, statistics, folder)
    assert [file.name for file in folder.iterdir()] == [f"ingest-{kind}.html"]
    return path.read_text(encoding="utf-8")


def test_files_are_told_with_verdict_and_reasons(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """Files turned away come first, then those with remarks, then the others; each with its numbers."""
    good, warned, away = batch(1), batch(2), batch(3, "odd.csv", readable=False)
    warning = {"rule": "empty_sensors", "message": "1 sensor has no reading", "line": None}
    bad_cell = {"rule": "bad_cells", "message": "'1,5' is no number", "line": 7}
    files = [
        (good, ingested(good, known=True)),
        (warned, ingested(warned, warnings=[warning], dropped=2)),
        (away, ingested(away, "quarantined", reasons=[bad_cell])),
    ]
    page = Page(written(tmp_path, statistics, files))
    assert page.rows[1] == ["bad_cells", "1", "odd.csv: '1,5' is no number (line 7)"]
    dated = "2020-01-02 03:04:05"
    assert page.rows[3:6] == [
        ["odd.csv", "quarantined", dated, "–", "–", "–", "–", "–", "'1,5' is no number (line 7)"],
        [
            warned.file, "accepted", dated, "50", "5", "3.3 %", "1", "0",
            "2 remarks1 sensor has no reading2 wafers were dropped by agreement",
        ],
        [good.file, "known already", dated, "50", "5", "3.3 %", "1", "0", ""],
    ]  # fmt: skip


def test_sensors_are_told_with_what_is_unusual(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """Of each sensor there is one row; constant and empty ones and planted readings are told."""
    files = [batch(number) for number in range(6)]
    table = files[4].table
    assert table is not None
    planted = pa.array([999.0, *([0.5] * 49)])
    files[4] = Delivery(Path("x"), "odd.csv", files[4].digest, {}, table.set_column(1, "Sensor-1", planted))
    page = Page(written(tmp_path, statistics, [(file, ingested(file)) for file in files]))
    sensors = {row[0]: row for row in page.rows if row and row[0].startswith("Sensor-")}
    assert sorted(sensors) == sorted(SENSORS)
    assert sensors["Sensor-1"][1] == "outside in 1 file"
    assert (sensors["Sensor-1"][8], sensors["Sensor-1"][10]) == ("999", "odd.csv")
    assert sensors["Sensor-29"][1:] == ["constant", "0.0 %", "3", "3", "3", "3", "3", "–", "–", ""]
    assert sensors["Sensor-30"][1:] == ["empty", "100.0 %", "–", "–", "–", "–", "–", "–", "–", ""]


def test_page_needs_nothing_from_elsewhere(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """The only links are to the report beside it and to pictures inside; pictures have a text; one script may run."""
    text = written(tmp_path, statistics, [(file := batch(1), ingested(file))])
    page = Page(text)
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("href", "src")]
    assert [str(link)[:22] for link in links] == ["ingest-training.json", *(["data:image/png;base64,"] * 2)]
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    policy = next(str(a["content"]) for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in policy


def test_hostile_file_name_is_only_text(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """Marks, formulas and turned writing in a file's name and its reasons change nothing in the page but its text."""
    odd, away = batch(1, HOSTILE), batch(2, HOSTILE + "2", readable=False)
    conflict = {"wafer": HOSTILE, "stored_file": HOSTILE, "what": "Sensor-1", "stored": 1.0, "came": 2.0}
    files = [(odd, ingested(odd, conflicts=(conflict,))), (away, ingested(away, "quarantined"))]
    text = written(tmp_path, statistics, files)
    page = Page(text)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "map-data"},
        {},
    ]
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    assert "onerror" not in {key for _, attributes in page.tags for key in attributes}
    assert HOSTILE in [row[0] for row in page.rows if row]


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    """Without a time of writing the page depends on the run alone."""
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = [(file, ingested(file)) for file in (batch(1), batch(2))]
        pages.append(written(tmp_path / name, DeliveryStatistics(SENSORS), files))
    assert pages[0] == pages[1]


def test_deliveries_for_prediction_have_no_labels(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """The page of a delivery without labels says so, and has no column for faulty wafers."""
    text = written(tmp_path, statistics, [(file := batch(1, labelled=False), ingested(file))], "prediction")
    assert "Deliveries for prediction carry no labels." in text
    assert "Faulty" not in text


def test_nothing_delivered_or_nothing_readable(tmp_path: Path) -> None:
    """A run without a file, and one without a readable file, still have a page."""
    (tmp_path / "one").mkdir()
    assert "No file was delivered." in written(tmp_path / "one", DeliveryStatistics(SENSORS), [])
    (tmp_path / "two").mkdir()
    broken = batch(1, readable=False)
    text = written(tmp_path / "two", DeliveryStatistics(SENSORS), [(broken, ingested(broken, "quarantined"))])
    assert text.count("No file could be read.") == 2


@pytest.mark.slow
@pytest.mark.invariant
def test_thousands_of_bad_files_stay_below_the_limit(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """Of 5,000 files with fifty long reasons each, as much is told as fits into 6 MB; each file has its row."""
    long = {"rule": "bad_cells", "message": "<&'\"" * 200, "line": None}
    broken = [Delivery(Path("x"), f"wafer_{n}.csv", f"{n:064x}", {}, None) for n in range(5000)]
    files = [(file, ingested(file, "quarantined", reasons=[long] * 50)) for file in broken]
    files.append((first := batch(1), ingested(first)))
    text = written(tmp_path, statistics, files)
    assert len(text.encode()) < LARGEST
    assert text.count('data-is="quarantined remarks"') == 5000


def test_outcome_and_counts_stand_first(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """The page begins with the outcome in words and the counts, in the words that the notebooks use too."""
    good, away = batch(1), batch(2, readable=False)
    text = written(tmp_path, statistics, [(good, ingested(good, stored=50)), (away, ingested(away, "quarantined"))])
    assert "<p>1 of 2 files was turned away and kept in the quarantine.</p>" in text
    assert "What to do now:</b> Ask the sender for 1 corrected file: until then its wafers are missing.</p>" in text
    assert "What to do now:</b> Ask for no file again.</p>" in written(tmp_path, statistics, [(good, ingested(good))])
    counts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert counts == {
        "files delivered": "2",
        "files accepted": "1",
        "files quarantined": "1",
        "wafers accepted": "50",
        "wafers new in the store": "50",
        "readings missing": "3.3 %",
        "faulty wafers": "10.0 %",
    }
    report = IngestReport("training", (ingested(good, stored=50), ingested(away, "quarantined"))).as_dict()
    assert ingest_totals(report).iloc[:, -1].tolist() == list(counts.values())[:5]


def test_an_unread_file_is_told_as_such(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """A file that could not be read is counted apart from the quarantined ones, and stands first with its reason."""
    good = batch(1)
    lost = Delivery(Path("x"), "lost.csv", "", {}, None, unread="Input/output error")
    reason = {"rule": "unread", "message": "Input/output error", "line": None}
    text = written(tmp_path, statistics, [(good, ingested(good)), (lost, ingested(lost, "unread", reasons=[reason]))])
    assert "<p>1 of 2 files could not be read and was not taken in.</p>" in text
    assert "<dt>files that could not be read</dt><dd>1</dd>" in text
    [row] = [row for row in Page(text).rows if row and row[0] == "lost.csv"]
    assert (row[1], row[-1].strip()) == ("unread", "Input/output error")
    assert text.index('data-is="unread remarks"') < text.index('data-is="accepted')


def test_files_beyond_the_table_are_told_to_be_in_the_report(
    tmp_path: Path, statistics: DeliveryStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence about files left out holds whatever became of them."""
    monkeypatch.setattr("wafer.reporting.ingest_page.MOST_FILES", 2)
    broken = [batch(number, f"odd_{number}.csv", readable=False) for number in range(3)]
    text = written(tmp_path, statistics, [(file, ingested(file, "quarantined")) for file in broken])
    assert "Of all files the first 2 are told here" in text
    assert "all others (1) are in the report." in text


def test_map_of_many_files_has_few_rows() -> None:
    """Neighbouring files share a row of the map, all are in it, and a row is their mean."""
    part = np.zeros((5000, 3), np.float32)
    part[:2500, 1] = 1
    shown = missing_map(part, [f"{number}.csv" for number in range(5000)], SENSORS[:3])
    assert shown.share.shape == (400, 3)
    assert shown.share.mean(axis=0) == pytest.approx([0, 0.5, 0])
    assert shown.names[0] == "0.csv … 11.csv (12 files)"
    groups = row_groups(5000, 400)
    assert [at for group in groups for at in group] == list(range(5000))


def test_map_has_whole_points_for_each_cell(tmp_path: Path, statistics: DeliveryStatistics) -> None:
    """The box that the pointer is measured by is where the picture shows the map: the empty sensor is black there."""
    text = written(tmp_path, statistics, [(file, ingested(file)) for file in (batch(1), batch(2))])
    data = re.search(r'class="map".*?base64,([^"]*)"', text, re.DOTALL)
    box = re.search(r'"box": \[([^\]]*)\]', text)
    assert data is not None and box is not None
    picture = Image.open(io.BytesIO(base64.b64decode(data[1]))).convert("L")
    left, top, width, height = (float(value) for value in box[1].split(","))
    shades = [
        picture.getpixel(
            (int(picture.width * (left + width * (at + 0.5) / 30)), int(picture.height * (top + height / 4)))
        )
        for at in range(30)
    ]
    assert shades == [255] * 29 + [0]


def test_plain_names() -> None:
    """What a plot cannot show safely becomes a question mark; long names lose their middle."""
    assert plain("Wafer_01012020_010203.csv") == "Wafer_01012020_010203"
    assert plain("a\nb\u202e\u4e2d$") == "a?b??$"
    assert plain("x" * 20 + "y" * 20) == "x" * 14 + "…" + "y" * 15


def test_numbers_as_told() -> None:
    """Readings have four digits and a true minus; a share is never rounded to none."""
    assert [number(v) for v in (-1234.56, 0.00012345, 1e300, float("nan"))] == ["−1235", "0.0001234", "1e+300", "–"]
    assert [share(v) for v in (0, 0.0004, 0.0456, 1)] == ["0.0 %", "< 0.1 %", "4.6 %", "100.0 %"]


def test_real_delivery(tmp_path: Path, real_wafers: Path) -> None:
    """Of the real training files with the malformed ones among them, thirteen are accepted and seven explained."""
    contract = Contract.load("training")
    statistics = DeliveryStatistics(contract.sensors, contract.order)
    entries = []
    for delivery, verdict in check([real_wafers / "training", real_wafers / "malformed"], contract):
        statistics.add(delivery, accepted=verdict.accepted)
        told = verdict.as_dict()
        entries.append(IngestedFile(delivery.file, delivery.digest, told["verdict"], told["reasons"], told["warnings"]))
    summary = statistics.summary()
    assert (int(summary.files["faulty"].sum()), int(summary.files["wafers"].sum())) == (59, 1237)
    assert int(summary.sensors["constant"].sum()) == 116
    assert int((summary.sensors["missing"] > 0.5).sum()) == 28
    assert int((summary.sensors["empty_files"] == 6).sum()) == 16
    path = write_ingest_page(IngestReport("training", tuple(entries)).as_dict(), statistics, tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    verdicts = [row[1] for row in page.rows if len(row) == 9]
    assert verdicts == ["quarantined"] * 7 + ["accepted"] * 13
