"""From broken rules to a verdict about one file: what rejects it, what drops a wafer, what only warns."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from wafer.contract.facts import Delivery
from wafer.contract.form import Finding
from wafer.contract.linescan import KEPT
from wafer.contract.rules import Reason, Rule
from wafer.delivered import read_parts
from wafer.errors import AgreementError, UnreadError
from wafer.shown import facts_html, shown_text

UNREAD = "unread"  # the rule that the reason of an unread file names


@dataclass(frozen=True)
class Breach:
    """One rule that one file breaks; `count` is how often, which may be more than the findings that were kept."""

    rule: Rule
    findings: tuple[Finding, ...]
    count: Any


@dataclass(frozen=True)
class DroppedRow:
    """A wafer that was dropped by agreement while its file was accepted.

    `row` counts the file's wafers from 0, `line` its lines from 1; `text` is the original line.
    """

    row: int
    line: int
    text: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Verdict:
    """What is to become of one file, and why.

    `reasons` quarantine it, `warnings` do not; the reasons of wafers that were `dropped` stand in the warnings too. A
    file that was `unread` could not be judged, nor can its bytes be kept.
    """

    file: str
    accepted: bool
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()
    dropped: tuple[DroppedRow, ...] = ()
    unread: bool = False

    @property
    def word(self) -> str:
        """The verdict in one word."""
        return "unread" if self.unread else "accepted" if self.accepted else "quarantined"

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON has it."""
        return {
            "file": self.file,
            "verdict": self.word,
            "reasons": [reason.as_dict() for reason in self.reasons],
            "warnings": [reason.as_dict() for reason in self.warnings],
        }

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it."""
        said = {"reasons": self.reasons, "warnings": self.warnings}
        told = {name: [f"{one.rule}: {one.message}" for one in reasons] for name, reasons in said.items() if reasons}
        return {"file": self.file, "verdict": self.word, **told, "dropped wafers": len(self.dropped)}

    _repr_html_ = facts_html


def unread_verdict(file: str, why: str) -> Verdict:
    """The verdict on a file that could not be read as a whole."""
    return Verdict(
        file, False, (Reason(UNREAD, f"the file was not taken in, since it could not be read: {why}"),), unread=True
    )


def pass_verdict(
    delivery: Delivery, breaches: Sequence[Breach], listed: int, max_dropped_share: float, dropped_message: str
) -> Verdict:
    """The verdict that `breaches` amount to; at most `listed` findings of one rule are told one by one.

    Raises:
        AgreementError: nothing speaks against the file, yet it has no table.
        UnreadError: the file changed since it was read, so that dropped lines cannot be kept.
    """
    said = {severity: _reasons(delivery, breaches, severity, listed) for severity in ("reject file", "warn")}
    reasons, warnings = said["reject file"], said["warn"]
    drops = [breach for breach in breaches if breach.rule.severity == "drop wafer"]
    spoken = _reasons(delivery, breaches, "drop wafer", listed)
    lines = {finding.line for breach in drops for finding in breach.findings if finding.line is not None}
    wafers = delivery.facts["wafers"] or 0
    uncounted = any(KEPT <= len(breach.findings) < breach.count for breach in drops)
    if drops and (uncounted or len(lines) > max_dropped_share * wafers):
        agreed, got = f"at most {max_dropped_share:.0%}", f"{len(lines)} of {wafers}"
        if uncounted:  # beyond some number the lines are not known any more, only how many findings there are
            agreed, got = f"{agreed}, and less than {KEPT}", f"at least {got}"
        message = dropped_message.format(file=shown_text(delivery.file), expected=agreed, got=got)
        reasons = (*reasons, Reason("max_dropped_share", message, None, None, agreed, got))
    if reasons:
        return Verdict(delivery.file, False, (*reasons, *spoken), warnings)
    if delivery.table is None:
        raise AgreementError(f"{delivery.file} has no table, and yet no rule of the suite rejects it")
    return Verdict(delivery.file, True, (), (*warnings, *spoken), _dropped(delivery, drops))


def keep_rows(delivery: Delivery, verdict: Verdict) -> Delivery:
    """The delivery without the wafers that its verdict dropped."""
    gone = {row.line for row in verdict.dropped}
    if not gone or delivery.table is None:
        return delivery
    stay = [line not in gone for line in delivery.lines]
    lines = [line for line in delivery.lines if line not in gone]
    return replace(delivery, table=delivery.table.filter(pa.array(stay, pa.bool_())), lines=lines)


def _reasons(delivery: Delivery, breaches: Sequence[Breach], severity: str, listed: int) -> tuple[Reason, ...]:
    reasons: list[Reason] = []
    for breach in breaches:
        if breach.rule.severity == severity:
            reasons += _told(delivery.file, breach, listed)
    return tuple(reasons)


def _told(file: str, breach: Breach, listed: int) -> list[Reason]:
    rule, count = breach.rule, breach.count
    if rule.together:
        return [rule.reason(file, _together(breach.findings), count)]
    reasons = [rule.reason(file, finding, count) for finding in breach.findings[:listed]]
    more = count - len(reasons) if len(breach.findings) > 1 else 0
    if more > 0:
        reasons.append(Reason(rule.name, f"and {more} more, {count} in all"))
    return reasons


def _together(findings: Sequence[Finding]) -> Finding:
    """One finding that stands for several of one kind."""
    columns = [finding.column for finding in findings if finding.column is not None]
    got = [finding.got for finding in findings if finding.got is not None]
    return Finding(
        line=next((finding.line for finding in findings if finding.line is not None), None),
        column=", ".join(dict.fromkeys(columns)) or None,
        expected=findings[0].expected,
        got=", ".join(got) or None,
    )


def _dropped(delivery: Delivery, drops: Sequence[Breach]) -> tuple[DroppedRow, ...]:
    by_line: dict[int, list[Reason]] = {}
    for breach in drops:
        for finding in breach.findings:
            if finding.line is not None:
                by_line.setdefault(finding.line, []).append(breach.rule.reason(delivery.file, finding, breach.count))
    if not by_line:
        return ()
    originals = original_lines(delivery)
    return tuple(DroppedRow(*originals[line], tuple(by_line[line])) for line in sorted(by_line))


def original_lines(delivery: Delivery) -> Mapping[int, tuple[int, int, str]]:
    """Row, line number and text of each wafer by line number, read again from where the file lies."""
    try:
        data = b"".join(read_parts(delivery.path, delivery.within))
    except UnreadError as error:
        raise UnreadError(f"{shown_text(delivery.path)}: {error}") from error
    if hashlib.sha256(data).hexdigest() != delivery.digest:
        raise UnreadError(f"{shown_text(delivery.path)}: changed while it was judged")
    numbered = enumerate((line.removesuffix("\r") for line in data.decode().split("\n")), start=1)
    wafers = [(number, line) for number, line in numbered if line and number > 1]
    return {number: (row, number, line) for row, (number, line) in enumerate(wafers)}
