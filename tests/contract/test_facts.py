import dataclasses
import gzip
import hashlib
import json
import math
import re
import time
from pathlib import Path

import pyarrow as pa
import pytest

from wafer.contract.agreement import init_agreement, make_suite, read_agreement
from wafer.contract.facts import BYTES_OF_START, FACTS, Delivery, read_delivery
from wafer.contract.form import Finding, Form
from wafer.errors import AgreementError

NAME = "wafer_31012020_235959.csv"
HEADER = ",Sensor-1,Sensor-2,Sensor-3,Good/Bad"
GOOD = f"{HEADER}\r\nWafer-7,1.5,,-2e-3,-1\r\nWafer-8,2.5,,4,1\r\n"


@pytest.fixture
def form(tmp_path: Path) -> Form:
    """The form of a training agreement on three sensors, with files of at most 10,000 bytes."""
    agreement = init_agreement(tmp_path / "agreement.json", "training", sensors=3)
    suite = make_suite(read_agreement(agreement))
    return Form.of(suite["meta"]["form"], max_bytes=10_000, listed=4)


@pytest.fixture
def read(tmp_path: Path, form: Form):
    """Writes a file of the given text or bytes and reads it."""

    def write_and_read(content: str | bytes, name: str = NAME) -> Delivery:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_delivery(path, form)

    return write_and_read


def test_a_good_file_becomes_its_facts_and_its_table(read, tmp_path):
    """A file as agreed is reduced to one row of facts, and its table has the canonical columns, types and values."""
    delivery = read(GOOD)
    assert delivery.file == NAME
    assert delivery.path == tmp_path / NAME
    assert delivery.digest == hashlib.sha256(GOOD.encode()).hexdigest()
    assert delivery.facts == {
        "name": NAME,
        "date_stamp": "31012020",
        "time_stamp": "235959",
        "stamp": "31012020_235959",
        "delivered": "2020-01-31T23:59:59",
        "size": len(GOOD),
        "encoding": "utf-8",
        "final_newline": True,
        "header_unknown": 0,
        "columns": 5,
        "columns_missing": 0,
        "columns_extra": 0,
        "columns_doubled": 0,
        "columns_misplaced": 0,
        "wafers": 2,
        "unreadable": None,
        "blank_lines": 0,
        "broken_lines": 0,
        "ragged_lines": 0,
        "bad_cells": 0,
        "infinite_cells": 0,
        "ids_empty": 0,
        "ids_malformed": 0,
        "ids_doubled": 0,
        "labels_missing": 0,
        "labels_unknown": 0,
        "faulty": 1,
        "empty_sensors": 1,
        "constant_sensors": 0,
        "missing_share": 1 / 3,
    }
    assert delivery.findings == {"empty_sensors": [Finding(None, "Sensor-2", "a reading", None)]}
    assert list(delivery.lines) == [2, 3]
    number = pa.float64()
    schema = {"wafer": pa.string(), "Sensor-1": number, "Sensor-2": number, "Sensor-3": number, "label": pa.int8()}
    assert delivery.table.schema == pa.schema(schema)
    assert delivery.table.to_pylist() == [
        {"wafer": "Wafer-7", "Sensor-1": 1.5, "Sensor-2": None, "Sensor-3": -0.002, "label": -1},
        {"wafer": "Wafer-8", "Sensor-1": 2.5, "Sensor-2": None, "Sensor-3": 4.0, "label": 1},
    ]


def test_facts_are_always_the_same_ones(read):
    """Whatever a file holds, its row of facts has the same names."""
    for content in (GOOD, b"", b"\x00\x01", "a,b\n", HEADER + "\n"):
        assert list(read(content).facts) == list(FACTS)


@pytest.mark.parametrize(
    "header",
    [
        "Wafer,Sensor-1,Sensor-2,Sensor-3,Output",
        "Unnamed: 0,Sensor - 1,Sensor - 2,Sensor - 3,Good/Bad",
        '"","Sensor-1","Sensor-2","Sensor-3","Good/Bad"',
    ],
)
def test_agreed_names_and_their_aliases_mean_the_same(read, header):
    """The agreement's spelling, the files' spelling and quoted names lead to the same table."""
    delivery = read(GOOD.replace(HEADER, header))
    assert delivery.table.equals(read(GOOD).table)
    assert set(delivery.findings) == {"empty_sensors"}


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace("\r\n", "\n"),
        GOOD.replace("Wafer-7", '"Wafer-7"').replace("1.5", '"1.5"'),
        GOOD.replace("1.5", " 1.5").replace("2.5", "+2.5"),
        GOOD.removesuffix("\r\n"),
    ],
)
def test_line_ends_quotes_and_blanks_around_numbers_do_not_change_values(read, content):
    """LF, quoted fields, blanks beside a number, a plus sign and a missing last line feed give the same table."""
    assert read(content).table.equals(read(GOOD).table)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (gzip.compress(GOOD.encode(), mtime=0), "gzip"),
        (GOOD.encode("utf-8-sig"), "utf-8 with a byte order mark"),
        (GOOD.encode("utf-16"), "utf-16"),
        (GOOD.encode("utf-16-le"), "utf-16"),
        (GOOD.encode("utf-32"), "utf-32"),
        (GOOD.encode("utf-32-be"), "utf-32"),
        (GOOD.encode().replace(b"1.5", b"1.\0"), "binary (NUL bytes)"),
        (GOOD.encode().replace(b"2.5", b"2\xe9"), "not utf-8 (byte 0xe9 in line 3)"),
    ],
)
def test_bytes_that_are_not_plain_text_are_recognised(read, content, encoding):
    """Packed, marked, two-byte, binary and otherwise encoded files are told apart before any parsing."""
    delivery = read(content)
    assert delivery.facts["encoding"] == encoding
    assert delivery.facts["columns"] is None
    assert delivery.table is None


def test_a_file_that_is_too_large_is_hashed_but_not_parsed(read):
    """A file above the agreed size has its true size and digest and its first 64 KiB, and nothing of it is parsed."""
    for lines in (1_000, 200_000):
        content = HEADER + "\n" + "Wafer-1,1,2,3,-1\n" * lines
        delivery = read(content)
        assert delivery.digest == hashlib.sha256(content.encode()).hexdigest()
        assert (delivery.facts["size"], delivery.facts["encoding"]) == (len(content), None)
        assert delivery.table is None
        assert delivery.start == content.encode()[:BYTES_OF_START]
    assert read(GOOD).start is None


def test_what_is_kept_of_a_bad_value_does_not_grow_with_it(tmp_path, form):
    """An id, a reading, a column's name of a megabyte are told by their ends."""
    roomy, long = dataclasses.replace(form, max_bytes=10**7), "x" * 1_000_000
    path = tmp_path / NAME
    path.write_text(f"{HEADER},{long}\nWafer-1,{long},2,3,{long},1\n{long},1,2,3,-1,1\n")
    findings = read_delivery(path, roomy).findings
    assert findings.keys() == {"columns_extra", "bad_cells", "ids_malformed"}
    for found in findings.values():
        assert all(len(text) <= 120 for one in found for text in (one.column, one.got) if text), found


@pytest.mark.parametrize(
    ("name", "date", "time", "delivered"),
    [
        ("Wafer_29022020_000000.csv", "29022020", "000000", "2020-02-29T00:00:00"),
        ("wafer_29022021_000000.csv", "29022021", "000000", None),
        ("wafer_01012020_240000.csv", "01012020", "240000", None),
        ("wafer_15010_130532.csv", "15010", "130532", None),
        ("anything_01012020_101010.csv", "01012020", "101010", "2020-01-01T10:10:10"),
        ("wafer_٠١٠١٢٠٢٠_101010.csv", None, None, None),
        ("wafer_01012020_101010.csv.gz", None, None, None),
        ("wafer_01012020_101010.csv\n", None, None, None),
    ],
)
def test_stamps_are_read_from_the_end_of_the_name(read, name, date, time, delivered):
    """Date and time stamp are the digits 0 to 9 before the ending, and a moment only if the calendar has it."""
    facts = read(GOOD, name).facts
    assert (facts["date_stamp"], facts["time_stamp"], facts["delivered"]) == (date, time, delivered)


@pytest.mark.parametrize(
    ("header", "findings"),
    [
        (
            ",Sensor-1,Sensor-3",
            {
                "columns_missing": [
                    Finding(1, "Sensor-2", "Sensor-2", None),
                    Finding(1, "Good/Bad", "Good/Bad", None),
                ]
            },
        ),
        (
            ",Sensor-1,Sensor-2,Sensor-4,Sensor-3,,Good/Bad",
            {"columns_extra": [Finding(1, "Sensor-4", None, "column 4"), Finding(1, "", None, "column 6")]},
        ),
        (
            "Wafer,Sensor-1,Sensor-2,Sensor-2,Sensor-3,Output,Good/Bad",
            {
                "columns_doubled": [
                    Finding(1, "Sensor-2", "once", "column 4"),
                    Finding(1, "Good/Bad", "once", "column 7"),
                ]
            },
        ),
        (
            ",Sensor-3,Sensor-1,Sensor-2,Good/Bad",
            {"columns_misplaced": [Finding(1, "Sensor-3", "after Sensor-2", "column 2")]},
        ),
        (
            "Good/Bad,Wafer,Sensor-1,Sensor-2,Sensor-3",
            {"columns_misplaced": [Finding(1, "Good/Bad", "after Sensor-3", "column 1")]},
        ),
        (
            ",Sensor-1,Sensor-2,Sensor-3,Good/Bad, ",
            {"columns_extra": [Finding(1, " ", None, "column 6")]},
        ),
        (
            f'{HEADER}\rWafer-1,"1",2,3,-1',
            {"header_unknown": [Finding(1, None, "Wafer, Sensor-1, …", "a carriage return without a line feed")]},
        ),
        ("Wafer-7,1.5,,4,1", {"header_unknown": [Finding(1, None, "Wafer, Sensor-1, …", "Wafer-7,1.5,,4,1")]}),
        (',"Sensor-1', {"header_unknown": [Finding(1, None, "Wafer, Sensor-1, …", "unexpected end of data")]}),
    ],
)
def test_a_header_is_compared_column_by_column(read, header, findings):
    """The header says which columns are missing, extra, doubled or out of place, the fewest that explain it."""
    delivery = read(header + "\n")
    assert delivery.findings == findings
    assert {fact: delivery.facts[fact] for fact in findings} == {fact: len(found) for fact, found in findings.items()}


def test_lines_of_endless_fields_are_counted_and_not_taken_apart(tmp_path, form):
    """A header or a line of 200,000 fields is told by its length alone."""
    path = tmp_path / NAME
    roomy = dataclasses.replace(form, max_bytes=10**6)
    path.write_text("," * 200_000 + "\n")
    header = read_delivery(path, roomy).findings["header_unknown"]
    assert header == [Finding(1, None, "Wafer, Sensor-1, …", "200001 columns")]
    path.write_text(HEADER + "\n" + '"a",' * 200_000 + "\n")
    assert read_delivery(path, roomy).findings == {"ragged_lines": [Finding(2, None, "5", "200001")]}


@pytest.mark.parametrize("line", ["", ",", '"'])
def test_millions_of_bad_lines_are_told_in_seconds(tmp_path, form, line):
    """Blank and ragged ones are counted to the last; of those to be taken apart the first hundred thousand are."""
    path, many = tmp_path / NAME, 1_500_000
    path.write_text(f"{HEADER}\nWafer-1,1,2,3,-1\n" + f"{line}\n" * many + "Wafer-2,1,2,3,1\n")
    started = time.process_time()
    found = read_delivery(path, dataclasses.replace(form, max_bytes=10**7))
    assert time.process_time() - started < 4
    if line == '"':
        told = "more than 100,000 lines are not as agreed, and those after line 100003 were not looked at"
        assert (found.facts["unreadable"], found.facts["broken_lines"], found.table) == (told, 100_001, None)
    else:
        fact = "ragged_lines" if line else "blank_lines"
        assert (found.facts[fact], found.facts["wafers"]) == (many, many * bool(line) + 2)
        assert found.findings[fact][0].line == 3
        assert list(found.lines) == [2, many + 3]


def test_columns_in_another_order_are_still_the_same_columns(read):
    """A file whose columns were moved is read by their names, not by their places."""
    moved = "Sensor-3,Good/Bad,Wafer,Sensor-1,Sensor-2\n-2e-3,-1,Wafer-7,1.5,\n4,1,Wafer-8,2.5,\n"
    assert read(moved).table.equals(read(GOOD).table)


def test_every_bad_cell_is_listed_with_line_and_column(read):
    """Not only the first bad cell of a file is found, and the sound lines remain as a table."""
    lines = [HEADER, "Wafer-1,x,nan,3,-1", "Wafer-2,1,2,3,-1", "Wafer-3,1e400,0x10,-Infinity,-1", "Wafer-4,1_0,,+-1,1"]
    delivery = read("\n".join(lines) + "\n")
    agreed = "a finite number or nothing"
    assert delivery.findings["bad_cells"] == [
        Finding(2, "Sensor-1", agreed, "x"),
        Finding(2, "Sensor-2", agreed, "nan"),
        Finding(4, "Sensor-2", agreed, "0x10"),
        Finding(5, "Sensor-1", agreed, "1_0"),
    ]
    assert delivery.facts["bad_cells"] == 5
    assert delivery.findings["infinite_cells"] == [
        Finding(4, "Sensor-1", agreed, "1e400"),
        Finding(4, "Sensor-3", agreed, "-Infinity"),
    ]
    assert delivery.facts["wafers"] == 4
    assert delivery.table["wafer"].to_pylist() == ["Wafer-2"]
    assert delivery.lines == [3]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("nan", "bad_cells"),
        ("NAN", "bad_cells"),
        ("-nan", "bad_cells"),
        ("inf", "infinite_cells"),
        ("Infinity", "infinite_cells"),
        ("-1e400", "infinite_cells"),
    ],
)
def test_words_and_sizes_that_a_parser_takes_for_numbers_are_found(read, text, fact):
    """A single reading that is no finite number is found even where a parser would take it."""
    findings = read(f"{HEADER}\nWafer-1,1,2,3,-1\nWafer-2,1,{text},3,-1\n").findings
    assert findings == {fact: [Finding(3, "Sensor-2", "a finite number or nothing", text)]}


def test_lines_of_another_length_and_broken_quotes_are_found(read):
    """Lines that are too short, too long, cut within a quote or broken by a lone carriage return are listed."""
    lines = [
        HEADER,
        "Wafer-1,1,2,3",
        "Wafer-2,1,2,3,-1,9",
        'Wafer-3,"1,2,3,-1',
        "Wafer-4,1\r,2,3,-1",
        "Wafer-5,1,2,3,1",
    ]
    delivery = read("\n".join(lines) + "\n")
    assert delivery.findings == {
        "ragged_lines": [Finding(2, None, "5", "4"), Finding(3, None, "5", "6")],
        "broken_lines": [
            Finding(4, None, "fields and commas", "unexpected end of data"),
            Finding(5, None, "fields and commas", "a carriage return without a line feed"),
        ],
    }
    assert delivery.table["wafer"].to_pylist() == ["Wafer-5"]


def test_a_doubled_carriage_return_is_found(read):
    """A carriage return too many at the end of a line is found, though no value is lost by it."""
    findings = read(f"{HEADER}\nWafer-1,1,2,3,-1\r\r\nWafer-2,1,2,3,-1\n").findings
    assert findings == {
        "broken_lines": [Finding(2, None, "fields and commas", "a carriage return without a line feed")],
    }


def test_blank_lines_do_not_shift_line_numbers(read):
    """A blank line is counted, and a bad cell after it has the line that an editor shows."""
    delivery = read(f"{HEADER}\r\n\r\nWafer-1,1,2,3,-1\r\n\r\nWafer-2,y,2,3,1\r\n")
    assert delivery.findings == {
        "blank_lines": [Finding(2), Finding(4)],
        "bad_cells": [Finding(5, "Sensor-1", "a finite number or nothing", "y")],
    }
    assert delivery.lines == [3]


def test_ids_and_labels_are_checked_line_by_line(read):
    """Ids that are empty, malformed or doubled and labels that are missing or unknown are listed; their rows stay."""
    lines = [HEADER, ",1,2,3,-1", "Lot-1,1,2,3,1", "Wafer-1,1,2,3,", "wafer-1,1,2,3,0", "Wafer-2,1,2,3,+1"]
    delivery = read("\n".join(lines) + "\n")
    pattern = "[Ww]afer-(?P<number>[0-9]{1,15})"
    assert delivery.findings == {
        "ids_empty": [Finding(2, "Wafer", pattern, "")],
        "ids_malformed": [Finding(3, "Wafer", pattern, "Lot-1")],
        "ids_doubled": [Finding(5, "Wafer", "once (first in line 4)", "wafer-1")],
        "labels_missing": [Finding(4, "Good/Bad", "-1 or 1 or +1", "")],
        "labels_unknown": [Finding(5, "Good/Bad", "-1 or 1 or +1", "0")],
    }
    assert delivery.table["label"].to_pylist() == [-1, 1, None, None, 1]


def test_blanks_around_a_label_are_blanks_and_tabs(read):
    """A label may stand between blanks and tabs; a sign that only Unicode calls a blank makes it another text."""
    labels = [" 1", "-1\t", "1\u2003", "\x1c-1", " "]
    delivery = read("".join(f"{line}\n" for line in (HEADER, *(f"Wafer-{n},1,2,3,{t}" for n, t in enumerate(labels)))))
    assert delivery.table["label"].to_pylist() == [1, -1, None, None, None]
    assert [finding.got for finding in delivery.findings["labels_unknown"]] == ["1\u2003", "\x1c-1"]
    assert [finding.got for finding in delivery.findings["labels_missing"]] == [" "]


def test_a_byte_order_mark_within_the_file_is_not_swallowed(read):
    """A mark before the first wafer's id is part of that id, and so makes it malformed."""
    delivery = read(f"{HEADER}\n\ufeffWafer-1,1,2,3,-1\nWafer-2,1,2,3,-1\n")
    assert delivery.table["wafer"].to_pylist() == ["\ufeffWafer-1", "Wafer-2"]
    assert [finding.got for finding in delivery.findings["ids_malformed"]] == ["\ufeffWafer-1"]


def test_findings_are_bounded_and_their_number_is_not(read):
    """However many cells are bad, one finding a line is kept beyond the listed ones, and all are counted."""
    delivery = read(HEADER + "\n" + "Wafer-1,x,y,z,-1\n" * 50)
    assert delivery.facts["bad_cells"] == 150
    assert [finding.line for finding in delivery.findings["bad_cells"]] == [2, 2, 2, *range(3, 52)]


@pytest.mark.parametrize(
    "text",
    ["0.1", "-0", "1e-400", "4.9e-324", "1.7976931348623157e308", "123456789012345678901234567890", "5.", ".5e1"],
)
def test_readings_are_the_nearest_float64_of_their_text(read, text):
    """A reading equals its decimal text parsed as float64, bit for bit, also an underflow or a negative zero."""
    reading = read(f"{HEADER}\nWafer-1,{text},1,2,-1\n").table["Sensor-1"].to_pylist()[0]
    assert (reading, math.copysign(1, reading)) == (float(text), math.copysign(1, float(text)))


def test_a_file_that_cannot_be_read_is_no_error(tmp_path, form):
    """Its delivery has the reason, and no fact but its name."""
    (tmp_path / "a.csv").symlink_to(tmp_path / "gone.csv")
    delivery = read_delivery(tmp_path / "a.csv", form, within=(tmp_path,))
    assert (delivery.digest, delivery.table, delivery.unread) == ("", None, "No such file or directory")
    assert delivery.facts == {**dict.fromkeys(FACTS), "name": "a.csv"}


def test_a_file_may_lie_under_another_name_than_its_own(tmp_path, form):
    """Facts are about the name that a file was delivered under, where that one is given."""
    (tmp_path / "lot.csv").write_text(GOOD)
    delivery = read_delivery(tmp_path / "lot.csv", form, NAME)
    assert (delivery.file, delivery.facts["name"], delivery.facts["date_stamp"]) == (NAME, NAME, "31012020")


@pytest.mark.parametrize("text", ["1" * 1_000_000 + "x", "." + "1" * 1_000_000 + "x", "1e" + "1" * 1_000_000 + "x"])
def test_a_long_text_is_refused_in_one_pass(tmp_path, form, text):
    """A million digits that end in a letter are one bad cell, found without trying all ways of reading them."""
    path = tmp_path / NAME
    path.write_text(f"{HEADER}\nWafer-1,{text},1,2,-1\n")
    delivery = read_delivery(path, dataclasses.replace(form, max_bytes=2_000_000))
    assert delivery.facts["bad_cells"] == 1


def test_an_id_with_too_large_a_number_is_told_so(tmp_path):
    """An id that fits the agreed pattern but has more than 18 digits is malformed, and the reason names the bound."""
    path = init_agreement(tmp_path / "agreement.json", "training", sensors=3)
    path.write_text(json.dumps({**json.loads(path.read_text()), "WaferId": "Wafer-(?P<number>[0-9]+)"}))
    form = Form.of(make_suite(read_agreement(path))["meta"]["form"], max_bytes=10_000, listed=4)
    (tmp_path / NAME).write_text(f"{HEADER}\nWafer-{'9' * 18},1,1,2,-1\nWafer-{'9' * 19},1,1,2,-1\nLot-1,1,1,2,-1\n")
    assert [(f.line, f.expected) for f in read_delivery(tmp_path / NAME, form).findings["ids_malformed"]] == [
        (
            3,
            "Wafer-(?P<number>[0-9]+), of at most 200 characters, its number having 1 to 18 digits from 0 to 9",
        ),
        (4, "Wafer-(?P<number>[0-9]+)"),
    ]


def test_a_pattern_may_find_a_name_without_stamps(tmp_path, form):
    """Stamps that are optional in the suite's pattern and not there have no digits, and the name no date."""
    lenient = dataclasses.replace(form, stamps=re.compile(r"(_(?P<date>[0-9]+))?(_(?P<time>[0-9]+))?\.csv\Z"))
    (tmp_path / "wafer.csv").write_text(f"{HEADER}\nWafer-1,1,1,2,-1\n")
    facts = read_delivery(tmp_path / "wafer.csv", lenient).facts
    assert (facts["date_stamp"], facts["time_stamp"], facts["stamp"], facts["delivered"]) == ("", "", None, None)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stamps", "[", "meta.form.stamps: unterminated character set"),
        ("stamps", "_(?P<date>[0-9]+)?_(?P<time>[0-9]+)", "meta.form.stamps: needs the groups date in each match"),
        ("stamps", "(_+)+(?P<date>[0-9]+)_(?P<time>[0-9]+)", "meta.form.stamps: expected repeats that the next"),
        ("wafer_id", "Wafer-[0-9]+", "meta.form.wafer_id: needs the groups number in each match"),
        ("sensors", ["a", "a"], "meta.form.sensors: each name once"),
        ("sensors", ["a", "order"], "meta.form.sensors: each needs a name, and none of them is one of wafer, order, "),
        ("sensors", ["a", "b\x1b"], r"meta.form.sensors: expected a name that can be printed, got 'b\x1b'"),
        ("labels", {"bad": 2}, "meta.form.labels: expected spellings of -1 (good) and 1 (faulty), got"),
        ("colour", "blue", "meta.form.colour: unknown key"),
    ],
)
def test_a_form_that_cannot_be_used_names_its_key(tmp_path, key, value, message):
    """A broken file-level agreement is refused with the key that is wrong."""
    path = init_agreement(tmp_path / "agreement.json", "training", sensors=3)
    meta = json.loads(json.dumps(make_suite(read_agreement(path))["meta"]["form"]))
    with pytest.raises(AgreementError, match=re.escape(message)):
        Form.of({**meta, key: value}, max_bytes=100, listed=5)
