"""Labels that come later than their wafers: a CSV with the agreed id and label columns alone.

What breaks the agreement refuses the whole file; a wafer that is not stored, or has another label, is told, and the
others get theirs. The file is a line of the ledger like any delivery, so that snapshots from before it can be rebuilt.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wafer.contract.facts import Delivery, read_delivery
from wafer.contract.form import LABEL, WAFER, Form
from wafer.errors import DeliveryError
from wafer.shown import facts_html, shown_text
from wafer.storage import AnyPath
from wafer.store.documents import IncomingLabels
from wafer.store.wafers import Store

TOLD = 5  # findings that a refusal tells


@dataclass(frozen=True)
class LabelConflict:
    """A label that contradicts the stored one, which `stored_file` brought; `line` counts from 1, the header."""

    line: int
    wafer: str
    stored: int
    given: int
    stored_file: str


@dataclass(frozen=True)
class LabelReport:
    """What became of one file of labels.

    Attributes:
        file: its name.
        digest: SHA-256 of its bytes.
        wafers: that it names.
        labelled: that got their label from it, now or before.
        repeats: that had this label from elsewhere.
        conflicts: that have another one, which stays.
        unknown: (line, id) of those that are not stored.
        known: whether the file had brought all of it before.
    """

    file: str
    digest: str
    wafers: int
    labelled: int
    repeats: int
    conflicts: tuple[LabelConflict, ...]
    unknown: tuple[tuple[int, str], ...]
    known: bool

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it."""
        told: dict[str, Any] = {**vars(self), "conflicts": [vars(one) for one in self.conflicts]}
        return {**told, "unknown": [f"line {line}: {wafer}" for line, wafer in self.unknown]}

    _repr_html_ = facts_html

    @property
    def complaints(self) -> tuple[str, ...]:
        """What was not applied, in sentences that name file, line and wafer."""
        file = shown_text(self.file)
        told = [
            f"{file}, line {one.line}: {one.wafer} is labelled {one.given:+d}, and {one.stored:+d} by "
            f"{shown_text(one.stored_file)}, which stays"
            for one in self.conflicts
        ]
        if self.unknown:
            some = ", ".join(f"{shown_text(wafer)} (line {line})" for line, wafer in self.unknown[:TOLD])
            more = ", …" * (len(self.unknown) > TOLD)
            told.append(f"{file}: {len(self.unknown):,} of {self.wafers:,} wafers are not stored: {some}{more}")
        return tuple(told)


def labels_file(labels: Mapping[str, int], form: Form) -> bytes:
    """The file that brings these labels (-1, +1), as `import_labels` takes it.

    Parameters:
        form: of training deliveries, whose names and spellings hold.
    """
    spelled = {label: text for text, label in list(form.labels.items())[::-1]}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([form.wafer[0], form.label[0]])
    rows.writerows([wafer, spelled[label]] for wafer, label in labels.items())
    return text.getvalue().encode()


def import_labels(path: AnyPath, form: Form, store: Store) -> LabelReport:
    """Give stored wafers the labels that the file at `path` has for them; the same again changes nothing.

    Parameters:
        form: of training deliveries, whose names and spellings hold.

    Raises:
        DeliveryError: the file cannot be read, or is not as agreed; nothing was changed.
        StoreError: the database fails; the same call again completes the work.
    """
    delivery = read_delivery(path, form.of_labels())
    if why := "; ".join(_problems(delivery)):
        raise DeliveryError(f"{shown_text(delivery.file)} is no file of labels: {why}")
    assert delivery.table is not None
    wafers = delivery.table[WAFER].to_pylist()
    labels = dict(zip(wafers, delivery.table[LABEL].to_pylist(), strict=True))
    record, stored, changed = store.add_labels(IncomingLabels(delivery.digest, delivery.file, labels))
    contradicted = [
        (line, stored[wafer])
        for wafer, line in zip(wafers, delivery.lines, strict=True)
        if wafer in stored and stored[wafer]["label"] not in (None, labels[wafer])
    ]
    files = store.label_files([old for _, old in contradicted])
    conflicts = tuple(
        LabelConflict(line, old["_id"], old["label"], labels[old["_id"]], files[old["_id"]])
        for line, old in contradicted
    )
    unknown = ((line, wafer) for wafer, line in zip(wafers, delivery.lines, strict=True) if wafer not in stored)
    return LabelReport(
        delivery.file,
        delivery.digest,
        len(wafers),
        record.labelled,
        record.repeats,
        conflicts,
        tuple(unknown),
        not changed,
    )


def _problems(delivery: Delivery) -> Iterator[str]:
    """What speaks against a file of labels, the first few findings with their places."""
    facts = delivery.facts
    if delivery.unread is not None:
        yield delivery.unread
    elif delivery.start is not None:
        yield f"it has {facts['size']:,} bytes, which is above the agreed size"
    elif facts["encoding"] != "utf-8":
        yield f"it is {facts['encoding'] or 'empty'}, expected plain text in utf-8"
    elif not facts["final_newline"]:
        yield "its last line has no line feed at its end, so it may have been cut"
    elif facts["unreadable"]:
        yield str(facts["unreadable"])
    found = [(fact, one) for fact, some in delivery.findings.items() for one in some if fact != "blank_lines"]
    for fact, one in sorted(found, key=lambda each: each[1].line or 0)[:TOLD]:
        column = "" if one.column is None else f", {shown_text(one.column)}"
        expected = "" if one.expected is None else f", expected {one.expected}"
        got = "" if one.got is None else f", got {shown_text(one.got)!r}"
        yield f"line {one.line}{column}: {fact.replace('_', ' ')}{expected}{got}"
    if len(found) > TOLD:
        yield f"and {len(found) - TOLD:,} more"
    if not found and facts["wafers"] == 0:
        yield "it has no wafers"
