"""Rules as the suites state them: one expectation with the meaning that its `meta` gives it, and reasons in words."""

import math
import string
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import Field, field_validator

from wafer.contract.facts import FACTS
from wafer.contract.form import SHOWN_TOGETHER, Finding, shorten
from wafer.contract.patterns import check_pattern
from wafer.documents import DocumentError, Part, did_you_mean, fitted, quoted
from wafer.errors import AgreementError
from wafer.shown import shown_text

Severity = Literal["reject file", "drop wafer", "warn", "stop training"]
Section = Literal["expectations", "readings", "snapshot"]

SEVERITIES: tuple[Severity, ...] = ("reject file", "drop wafer", "warn", "stop training")
_ALLOWED: Mapping[str, tuple[Severity, ...]] = {
    "table": ("reject file",),
    "wafer": ("reject file", "drop wafer"),
    "file": ("reject file", "warn"),
    "reading": ("reject file", "drop wafer", "warn"),
    "snapshot": ("stop training",),
}
_WORDS = {"file", "line", "column", "expected", "got", "count"}


class _RuleMeta(Part):
    rule: str = Field(min_length=1, max_length=200)
    severity: str
    message: str
    source: str
    expected: str | None = Field(None, max_length=SHOWN_TOGETHER)
    told: Literal["each", "together"] = "each"
    tolerance: float = Field(0.0, ge=0, lt=1)

    @field_validator("rule", "expected")
    @classmethod
    def _can_be_printed(cls, text: str | None) -> str | None:
        if text is not None and not text.isprintable():
            raise ValueError(f"expected text on one line, got {quoted(text)}")
        return text

    @field_validator("message")
    @classmethod
    def _can_be_filled_in(cls, message: str) -> str:
        check_message(message, _WORDS)
        return message


class RulePart(Part):
    """A rule as JSON has it: an expectation of Great Expectations, and in `meta` what it means."""

    type: str
    kwargs: dict[str, Any]
    meta: _RuleMeta


@dataclass(frozen=True)
class Reason:
    """Why a file, or one of its wafers, is not as agreed."""

    rule: str
    message: str
    line: int | None = None
    column: str | None = None
    expected: str | None = None
    got: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The reason as JSON has it."""
        return {
            "rule": self.rule,
            "message": self.message,
            "line": self.line,
            "column": self.column,
            "expected": self.expected,
            "got": self.got,
        }


@dataclass(frozen=True)
class Rule:
    """One expectation of a suite, as far as verdicts need it.

    `columns` are the facts (or sensors) that it is about; `expected` is what was agreed, in words, which are the
    suite's own where `stated`, and else give way to those of a finding; `together` says that its findings make one
    reason and not one each; `tolerance` is the share of a file's wafers that may break a rule about readings.
    """

    name: str
    section: Section
    type: str
    kwargs: Mapping[str, Any]
    columns: tuple[str, ...]
    severity: Severity
    message: str
    expected: str
    stated: bool
    together: bool
    tolerance: float

    @classmethod
    def of(cls, entry: Mapping[str, Any], section: Section, known: frozenset[str], place: str) -> "Rule":
        """The rule that one entry of a suite states; `known` are the columns that it may be about.

        Raises:
            AgreementError: the entry cannot be used; the message starts with `place`.
        """
        try:
            part = fitted(RulePart, entry, place)
        except DocumentError as error:
            raise AgreementError(str(error)) from error
        kwargs, meta = part.kwargs, part.meta
        place = f"rule {shown_text(meta.rule)}"
        columns = _columns(kwargs, known, place)
        _check_severity(meta.severity, section, columns, place)
        _check_bounds(part, place)
        _check_patterns(kwargs, place)
        if "mostly" in kwargs:
            raise AgreementError(f"{place}: kwargs.mostly would judge files together, use meta.tolerance")
        if meta.tolerance and section != "readings":
            raise AgreementError(f"{place}: meta.tolerance is a share from 0 to 1 in a rule about readings")
        return cls(
            name=meta.rule,
            section=section,
            type=part.type,
            kwargs=kwargs,
            columns=columns,
            severity=cast(Severity, meta.severity),
            message=meta.message,
            expected=meta.expected or _bounds(kwargs),
            stated=bool(meta.expected),
            together=meta.told == "together",
            tolerance=meta.tolerance,
        )

    def reason(self, file: str, finding: Finding, count: Any) -> Reason:
        """The reason that one finding gives; what it leaves open, and what the suite states, the rule fills in.

        In its message values are escaped and cut; its other parts hold them as they came, but for the middle of long
        ones.
        """
        expected = self.expected if self.stated or finding.expected is None else shorten(finding.expected)
        got = None if finding.got is None else shorten(finding.got)
        column = None if finding.column is None else shorten(finding.column, SHOWN_TOGETHER)
        words = {"file": file, "column": column, "expected": expected, "got": got}
        shown = {word: value and shown_text(value, SHOWN_TOGETHER) for word, value in words.items()}
        message = self.message.format(line=finding.line, count=count, **shown)
        return Reason(self.name, message, finding.line, column, expected or None, got)


def check_names(rules: Sequence[Rule]) -> None:
    """Refuse a rule that stands twice, with an `AgreementError`."""
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise AgreementError(f"rule {name}: stands twice in the suite")


def leaves_no_room(rule: Rule, *, from_one: bool) -> bool:
    """Whether the rule is one of bounds that let a count pass only where it is 0, or is at least 1."""
    given = {key: value for key, value in rule.kwargs.items() if key != "column" and value is not None}
    if rule.type != "expect_column_values_to_be_between" or not given.keys() <= {"min_value", "max_value"}:
        return False
    return bool(given.get("min_value", 0) >= 1 if from_one else given.get("max_value") == 0)


def check_message(message: str, words: Set[str]) -> None:
    """Refuse a message that has other than the given `words` in braces or is no short line, with a ValueError."""
    if len(message) > SHOWN_TOGETHER or not message.isprintable():
        raise ValueError(f"expected one line of at most {SHOWN_TOGETHER} characters, got {quoted(message)}")
    try:
        parsed = [parts[1:3] for parts in string.Formatter().parse(message) if parts[1] is not None]
    except ValueError as error:
        raise ValueError(f"cannot be used: {error}") from error
    for name, width in parsed:
        if name not in words:
            raise ValueError(f"knows no {{{shown_text(name)}}}, only {', '.join(sorted(words))}")
        if width:
            raise ValueError(f"{{{name}}} must stand by itself, without a format")


def _check_bounds(part: RulePart, place: str) -> None:
    """Bounds of a range are finite numbers, the lower one below the other."""
    if part.type != "expect_column_values_to_be_between":
        return
    bounds = {key: part.kwargs[key] for key in ("min_value", "max_value") if part.kwargs.get(key) is not None}
    for key, value in bounds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            raise AgreementError(f"{place}: kwargs.{key}: expected a number, got {quoted(value)}")
    if len(bounds) == 2 and bounds["min_value"] > bounds["max_value"]:
        low, high = (quoted(bounds[key]) for key in ("min_value", "max_value"))
        raise AgreementError(
            f"{place}: kwargs.min_value {low} is above max_value {high}, so that nothing could keep it"
        )


def _check_patterns(kwargs: Mapping[str, Any], place: str) -> None:
    """Regular expressions are ones that no text keeps busy; all else of them Great Expectations looks at."""
    for key in ("regex", "regex_list"):
        given = kwargs.get(key)
        for pattern in given if isinstance(given, list) else [given]:
            try:
                if isinstance(pattern, str):
                    check_pattern(pattern)
            except ValueError as error:
                raise AgreementError(f"{place}: kwargs.{key}: {error}") from error


def _columns(kwargs: Mapping[str, Any], known: frozenset[str], place: str) -> tuple[str, ...]:
    listed = kwargs.get("column_list", [])
    if not isinstance(listed, list):
        raise AgreementError(f"{place}: kwargs.column_list: expected a list of names, got {quoted(listed)}")
    names = [*(kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs), *listed]
    if not names:
        raise AgreementError(f"{place}: kwargs name no column")
    for name in names:
        if not isinstance(name, str) or name not in known:
            said = (
                f"{quoted(name)} is no fact and no agreed sensor that a rule could be about{did_you_mean(name, known)}"
            )
            raise AgreementError(f"{place}: {said}")
    return tuple(names)


def _check_severity(severity: Any, section: Section, columns: tuple[str, ...], place: str) -> None:
    if section == "expectations":
        allowed = set.intersection(*(set(_ALLOWED[FACTS[column]]) for column in columns))
    else:
        allowed = set(_ALLOWED["reading" if section == "readings" else "snapshot"])
    if severity not in allowed:
        choice = " or ".join(repr(name) for name in SEVERITIES if name in allowed)
        raise AgreementError(f"{place}: meta.severity is {choice}, got {quoted(severity)}")


def _bounds(kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is not None and high is not None:
        return str(low) if low == high else f"{low} to {high}"
    if low is not None or high is not None:
        return f"at least {low}" if high is None else f"at most {high}"
    return ", ".join(f"{key} {value}" for key, value in kwargs.items() if not key.startswith("column"))
