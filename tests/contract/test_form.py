"""The form of a delivered file: which wafer an id names."""

import dataclasses
import re
from pathlib import Path

import pytest

from wafer.contract.agreement import init_agreement, make_suite, read_agreement
from wafer.contract.facts import read_delivery
from wafer.contract.form import Finding, Form


@pytest.fixture
def form(tmp_path: Path) -> Form:
    """The form of a training agreement on one sensor."""
    suite = make_suite(read_agreement(init_agreement(tmp_path / "agreement.json", "training", sensors=1)))
    return Form.of(suite["meta"]["form"], max_bytes=10_000, listed=4)


def test_a_wafer_has_one_spelling(form: Form, tmp_path: Path) -> None:
    """Small letters and zeros in front of the number are gone from the table; findings quote what was delivered."""
    ids = ["wafer-7", "Wafer-008", "wafer-0", "Wafer-000000000000000", "Wafer-07", "Wafer-70"]
    path = tmp_path / "wafer_01012020_120000.csv"
    path.write_text("".join(f"{line}\n" for line in ("Wafer,Sensor-1,Output", *(f"{wafer},1,-1" for wafer in ids))))
    delivery = read_delivery(path, form)
    assert delivery.table is not None
    assert delivery.table["wafer"].to_pylist() == ["Wafer-7", "Wafer-8", "Wafer-0", "Wafer-0", "Wafer-7", "Wafer-70"]
    assert delivery.findings == {
        "ids_doubled": [
            Finding(5, "Wafer", "once (first in line 4)", "Wafer-000000000000000"),
            Finding(6, "Wafer", "once (first in line 2)", "Wafer-07"),
        ]
    }


@pytest.mark.parametrize(
    ("pattern", "delivered", "known_as"),
    [
        ("[Ww]afer-(?P<number>[0-9]{1,15})", ["wafer-1", "Wafer-01"], "Wafer-1"),
        ("(?i:wafer)-(?P<number>[0-9]+)", ["wafer-1", "WAFER-1", "wAfer-001"], "Wafer-1"),
        ("[Ll]OT-(?P<number>[0-9]+)-A", ["LOT-07-A", "lOT-7-A"], "LOT-7-A"),
        ("wafer-(?P<number>[0-9]{4})", ["wafer-0012"], "wafer-0012"),
        ("wafer-(?P<number>[0-9]{2,4})", ["wafer-0001", "wafer-001", "wafer-01"], "wafer-01"),
        ("[0-9]+[ab](?P<number>[0-9]+)", ["7a01"], "7a1"),
        (r"W(?P<number>\d+)", ["W\u0661", "W1234567890123456789"], None),
    ],
)
def test_the_one_spelling_is_as_agreed(form: Form, pattern: str, delivered: list[str], known_as: str | None) -> None:
    """Whatever ids are agreed, the spelling that stands for others is one of them, and its number is a whole number."""
    agreed = dataclasses.replace(form, wafer_id=re.compile(pattern))
    assert {agreed.wafer_named(text) for text in delivered} == {known_as}
