"""The rules that every agreement states, with their words: what `agreement.py` writes into a suite."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wafer.contract.agreement import Agreement

Entry = dict[str, Any]


def agreed_rules(agreement: "Agreement") -> list[Entry]:
    """The rules of one agreement as entries of a suite, in the order in which their reasons are told."""
    return [
        *_name_rules(agreement),
        *_byte_rules(agreement),
        *_header_rules(),
        *_line_rules(agreement),
        *_wafer_rules(agreement),
        *_reading_rules(agreement),
    ]


def _rule(
    rule: str, fact: str, kind: str, kwargs: Entry, message: str, severity: str = "reject file", **meta: Any
) -> Entry:
    return {
        "type": kind,
        "kwargs": {"column": fact, **kwargs},
        "meta": {"rule": rule, "severity": severity, "message": message, **meta, "source": "agreement"},
    }


def _none(rule: str, message: str, severity: str = "reject file", **meta: Any) -> Entry:
    """A rule that a count, whose name it bears, is zero."""
    bounds = {"min_value": 0, "max_value": 0}
    return _rule(rule, rule, "expect_column_values_to_be_between", bounds, message, severity, **meta)


def _name_rules(agreement: "Agreement") -> list[Entry]:
    first, rest = agreement.prefix[0], re.escape(agreement.prefix[1:])
    start = f"[{first.upper()}{first.lower()}]" if first.isalpha() else re.escape(first)
    date = "DDMMYYYY" if agreement.date_length == 8 else "DDMMYY"
    time = "HHMMSS" if agreement.time_length == 6 else "HHMM"
    shape = f"{agreement.prefix}_{date}_{time}{agreement.ending}"
    pattern = f"\\A{start}{rest}_[0-9]+_[0-9]+{re.escape(agreement.ending)}\\Z"
    return [
        _rule(
            "file_name",
            "name",
            "expect_column_values_to_match_regex",
            {"regex": pattern},
            "the file is named {got}, agreed is {expected}",
            expected=shape,
        ),
        _stamp_rule("date", agreement.date_length, date),
        _stamp_rule("time", agreement.time_length, time),
        _rule(
            "calendar",
            "stamp",
            "expect_column_values_to_match_strftime_format",
            {"strftime_format": agreement.stamp_format},
            "{got} in the file's name is no date and time of the form {expected}",
            expected=f"{date}_{time}",
        ),
    ]


def _stamp_rule(which: str, digits: int, shape: str) -> Entry:
    fact, kind = f"{which}_stamp", "expect_column_value_lengths_to_equal"
    message = f"the {which} stamp in the file's name is {{got}}, agreed are {{expected}}"
    return _rule(fact, fact, kind, {"value": digits}, message, expected=f"{digits} digits, {shape}")


def _byte_rules(agreement: "Agreement") -> list[Entry]:
    between, among = "expect_column_values_to_be_between", "expect_column_values_to_be_in_set"
    limit = agreement.max_bytes
    return [
        _rule("empty_file", "size", between, {"min_value": 1}, "the file is empty", expected="at least 1 byte"),
        _rule(
            "too_large",
            "size",
            between,
            {"max_value": limit},
            "the file has {got} bytes, agreed are {expected}",
            expected=f"at most {limit}",
        ),
        _rule(
            "encoding",
            "encoding",
            among,
            {"value_set": ["utf-8"]},
            "the file's bytes are {got}, agreed is plain text in {expected}",
            expected="utf-8",
        ),
        _rule(
            "final_newline",
            "final_newline",
            among,
            {"value_set": [True]},
            "the last line has no line feed at its end, so the file may have been cut",
            expected="a line feed at the end",
        ),
    ]


def _header_rules() -> list[Entry]:
    return [
        _none("header_unknown", "the first line is no header with the agreed names: {got}"),
        _none("columns_missing", "column {column} is missing"),
        _none("columns_extra", "{got} is called '{column}', which is not agreed", expected="no further column"),
        _none("columns_doubled", "column '{column}' stands again as {got}"),
        _none("columns_misplaced", "column {column} stands as {got}, agreed is {expected}"),
    ]


def _line_rules(agreement: "Agreement") -> list[Entry]:
    bad = agreement.bad_wafers
    return [
        _rule(
            "wafers",
            "wafers",
            "expect_column_values_to_be_between",
            {"min_value": 1},
            "the file has no wafers",
            expected="at least one wafer",
        ),
        _none(
            "blank_lines", "line {line} is blank and was left out", "warn", told="together", expected="no blank line"
        ),
        _none("broken_lines", "line {line} cannot be taken apart: {got}", bad),
        _none("ragged_lines", "line {line} has {got} fields, the header has {expected}", bad),
        _none("bad_cells", "line {line}, column {column}: '{got}' is no number", bad),
        _none("infinite_cells", "line {line}, column {column}: '{got}' is infinite", bad),
        _rule(
            "unreadable",
            "unreadable",
            "expect_column_values_to_be_null",
            {},
            "the file cannot be read: {got}",
            expected="readable lines",
        ),
    ]


def _wafer_rules(agreement: "Agreement") -> list[Entry]:
    bad = agreement.bad_wafers
    rules = [
        _none("ids_empty", "line {line}: the wafer has no id", bad),
        _none("ids_malformed", "line {line}: '{got}' is no wafer id of the form {expected}", bad),
        _none("ids_doubled", "line {line}: wafer {got} stands in the file more than once, agreed is {expected}", bad),
    ]
    if agreement.label is not None:
        rules += [
            _none("labels_missing", "line {line}: the wafer has no label", bad),
            _none("labels_unknown", "line {line}: the label is '{got}', agreed are {expected}", bad),
        ]
    return rules


def _reading_rules(agreement: "Agreement") -> list[Entry]:
    share = agreement.max_missing_share
    empty = "warn" if agreement.empty_sensors == "tolerate" else "reject file"
    return [
        _none(
            "empty_sensors",
            "{count} sensors have no reading in the whole file: {column}",
            empty,
            told="together",
        ),
        _rule(
            "missing_share",
            "missing_share",
            "expect_column_values_to_be_between",
            {"max_value": share},
            "the share of missing readings is {got}, usual is {expected}",
            "warn",
            expected=f"at most {share}",
        ),
    ]
