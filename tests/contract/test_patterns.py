"""Patterns that people write: which ones could keep a machine busy, and which have a number."""

import random
import re
import time

import pytest

from wafer.contract.patterns import LONGEST, check_numbered, check_pattern

BUSY = [
    "(a+)+$",
    "(?:a|a){40}",
    "(?:a|ab|b)*c",
    "a*a*a*a*b",
    "(?:a?){40}b",
    "(?:(?:a?b?)?c)*d",  # each c alone in two ways: without a group, and with an empty one
    "(?:|){40}a",
    "(?i)(?:k*K*x)*y",
    "(?=(a+)+b)a",
    r"(?:\w+\d+)*-",
    "(?:ß+ß)*1",
]
QUICK = [
    "[Ww]afer-(?P<number>[0-9]{1,15})",
    r"_(?P<date>[0-9]+)_(?P<time>[0-9]+)\.csv\Z",
    "(?:[A-Z]+-)+[0-9]+",
    "[A-Z0-9]*-?[A-Z0-9]*-?[0-9]+x",
    r"(?:\w+\s+)+x",
    ".*-[0-9]+",
    "(?:lot|fab)?-?[0-9]+",
    "(?>a+)+b",
    "(a++)+b",
    "(a)?(?(1)b|c)",
    r"(a|b)\1+c",
]


@pytest.mark.parametrize("pattern", BUSY)
def test_a_pattern_that_could_keep_a_machine_busy_is_refused(pattern: str) -> None:
    """Nested and overlapping repeats and choices, however they are written; the pattern is quoted."""
    with pytest.raises(ValueError, match=f"^expected repeats that the next .*, got {re.escape(repr(pattern))}$"):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", QUICK)
def test_a_pattern_that_is_taken_is_quick(pattern: str) -> None:
    """Whatever the text: 200 random ones of its own characters and 10 of one character take less than 2 seconds."""
    assert check_pattern(pattern) == pattern
    chosen = random.Random(pattern)
    letters = sorted({character for character in pattern if character.isalnum()} | set("_- 0aA"))
    texts = ["".join(chosen.choices(letters, k=LONGEST)) for _ in range(200)]
    texts += [chosen.choice(letters) * (LONGEST - 1) + "!" for _ in range(10)]
    start = time.process_time()
    for text in texts:
        re.fullmatch(pattern, text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("W(?P<number>.*)", "expected 1 to 18 digits and nothing else in the group number, got "),
        ("W(?P<number>[0-9a-f]+)", "expected 1 to 18 digits and nothing else"),
        ("W(?P<number>[0-9]*)", "expected 1 to 18 digits and nothing else"),
        ("W(?P<number>)", "expected 1 to 18 digits and nothing else"),
        ("W(?P<number>\u0661+)", "expected 1 to 18 digits and nothing else"),
        ("W(?P<number>[0-9]{19})", "expected 1 to 18 digits and nothing else"),
        (r"(.)(?P<number>[0-9]\1)", "expected 1 to 18 digits and nothing else"),
        ("W(?P<number>[0-9]+)?", "needs the groups number in each match, got "),
        ("W|(?P<number>[0-9]+)", "needs the groups number in each match"),
        ("W[0-9]+", "needs the groups number in each match"),
    ],
)
def test_a_group_that_is_not_always_a_number_is_refused(pattern: str, message: str) -> None:
    """One that may be missing, empty or hold anything but digits, or has more of them than are taken."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check_numbered(pattern, "number", 18)


@pytest.mark.parametrize("number", [r"\d+", "[0-9]{1,30}", "0|[1-9][0-9]*", "(?P<line>[1-4])[0-9]{3}", "(?i:7)"])
def test_a_group_that_is_always_a_number_is_taken(number: str) -> None:
    """In whatever way its digits are written."""
    assert check_numbered(f"W(?P<number>{number})", "number", 18) == f"W(?P<number>{number})"
