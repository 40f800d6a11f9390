"""Wafers that contradict the stored ones, kept in the quarantine as their original lines while their file goes on."""

from collections.abc import Sequence

from wafer.contract.facts import Delivery
from wafer.contract.suites import DroppedRow, Reason
from wafer.contract.verdicts import original_lines
from wafer.shown import shown_number, shown_text
from wafer.store.documents import Conflict

CONFLICT = "conflict"  # the rule that its reason names


def conflict_rows(delivery: Delivery, conflicts: Sequence[Conflict]) -> tuple[DroppedRow, ...]:
    """The lines of `delivery` that its conflicts turn away, each with a reason that names both files.

    Raises:
        UnreadError: the file is gone, or no longer what was judged.
    """
    if not conflicts or delivery.table is None:
        return ()
    texts = original_lines(delivery)
    by_wafer = dict(zip(delivery.table["wafer"].to_pylist(), delivery.lines, strict=True))
    rows = []
    for conflict in sorted(conflicts, key=lambda c: by_wafer[c.wafer]):
        line = by_wafer[conflict.wafer]
        rows.append(DroppedRow(*texts[line], (_reason(conflict, line),)))
    return tuple(rows)


def _reason(conflict: Conflict, line: int) -> Reason:
    column = conflict.what if conflict.what != "number of sensors" else None
    stored, came = (shown_number(value) for value in (conflict.stored, conflict.came))
    return Reason(
        rule=CONFLICT,
        message=f"line {line}: {shown_text(conflict.wafer)} came before in {shown_text(conflict.stored_file)} with "
        f"{conflict.what} {stored}, in {shown_text(conflict.file)} it has {came}",
        line=line,
        column=column,
        expected=stored,
        got=came,
    )
