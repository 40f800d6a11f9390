"""Rules as the suites state them: one expectation with the meaning that its `meta` gives it, and reasons in words."""

import string
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from wafer.contract.facts import FACTS
from wafer.contract.form import SHOWN_TOGETHER, Finding, shorten
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
RULE_KEYS = {"type", "kwargs", "meta"}
_META = {"rule", "severity", "message", "source", "expected", "told", "tolerance"}
_TEXTS = {"rule", "severity", "message", "source", "expected", "told"}
_WORDS = {"file", "line", "column", "expected", "got", "count"}


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
        check_keys(entry, RULE_KEYS, RULE_KEYS, place)
        kwargs, meta = entry["kwargs"], entry["meta"]
        check_keys(meta, _META, {"rule", "severity", "message", "source"}, f"{place}.meta")
        _check_texts({"type": entry["type"], **{f"meta.{key}": meta[key] for key in _TEXTS & meta.keys()}}, place)
        place = f"rule {meta['rule']}"
        columns = _columns(kwargs, known, place)
        severity = meta["severity"]
        _check_severity(severity, section, columns, place)
        if "mostly" in kwargs:
            raise AgreementError(f"{place}: kwargs.mostly would judge files together, use meta.tolerance")
        check_message(meta["message"], f"{place}: meta.message", _WORDS)
        tolerance = meta.get("tolerance", 0.0)
        if not isinstance(tolerance, int | float) or not 0 <= tolerance < 1 or (tolerance and section != "readings"):
            raise AgreementError(f"{place}: meta.tolerance is a share from 0 to 1 in a rule about readings")
        if (told := meta.get("told", "each")) not in ("each", "together"):
            raise AgreementError(f"{place}: meta.told is 'each' or 'together', got {told!r}")
        return cls(
            name=meta["rule"],
            section=section,
            type=entry["type"],
            kwargs=kwargs,
            columns=columns,
            severity=severity,
            message=meta["message"],
            expected=meta.get("expected") or _bounds(kwargs),
            stated=bool(meta.get("expected")),
            together=told == "together",
            tolerance=float(tolerance),
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


def check_keys(value: Any, known: set[str], needed: set[str], place: str) -> None:
    """Refuse what is no object, has unknown keys or lacks needed ones, with an `AgreementError` about `place`."""
    check_object(value, place)
    for key in sorted(value.keys() - known):
        raise AgreementError(f"{place}.{key}: unknown key")
    for key in sorted(needed - value.keys()):
        raise AgreementError(f"{place}.{key}: missing")


def check_object(value: Any, place: str) -> None:
    """Refuse what is no JSON object, with an `AgreementError` about `place`."""
    if not isinstance(value, Mapping):
        raise AgreementError(f"{place}: expected an object, got {value!r}")


def check_names(rules: Sequence[Rule]) -> None:
    """Refuse a rule that stands twice, with an `AgreementError`."""
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise AgreementError(f"rule {name}: stands twice in the suite")


def check_message(message: Any, place: str, words: Set[str]) -> None:
    """Refuse a message that has other than the given `words` in braces, with an `AgreementError` about `place`."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(message) if name is not None}
    except (TypeError, ValueError) as error:
        raise AgreementError(f"{place} cannot be used: {error}") from error
    for name in sorted(fields - words):
        raise AgreementError(f"{place} knows no {{{name}}}, only {', '.join(sorted(words))}")


def _check_texts(values: Mapping[str, Any], place: str) -> None:
    for key, value in values.items():
        if not isinstance(value, str):
            raise AgreementError(f"{place}.{key}: expected text, got {value!r}")


def _columns(kwargs: Mapping[str, Any], known: frozenset[str], place: str) -> tuple[str, ...]:
    check_object(kwargs, f"{place}: kwargs")
    listed = kwargs.get("column_list", [])
    if not isinstance(listed, list):
        raise AgreementError(f"{place}: kwargs.column_list: expected a list of names, got {listed!r}")
    names = [*(kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs), *listed]
    if not names:
        raise AgreementError(f"{place}: kwargs name no column")
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise AgreementError(f"{place}: {name!r} is no fact and no agreed sensor that a rule could be about")
    return tuple(names)


def _check_severity(severity: Any, section: Section, columns: tuple[str, ...], place: str) -> None:
    if section == "expectations":
        allowed = set.intersection(*(set(_ALLOWED[FACTS[column]]) for column in columns))
    else:
        allowed = set(_ALLOWED["reading" if section == "readings" else "snapshot"])
    if severity not in allowed:
        choice = " or ".join(repr(name) for name in SEVERITIES if name in allowed)
        raise AgreementError(f"{place}: meta.severity is {choice}, got {severity!r}")


def _bounds(kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is not None and high is not None:
        return str(low) if low == high else f"{low} to {high}"
    if low is not None or high is not None:
        return f"at least {low}" if high is None else f"at most {high}"
    return ", ".join(f"{key} {value}" for key, value in kwargs.items() if not key.startswith("column"))
