"""The guard before a training: whether a snapshot is a table that a model may learn from.

As with delivered files, the code finds out facts, one row of them; the suite `expectations/snapshot.json` says which
are as they should be, and in which words it is told where they are not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from wafer.contract.form import Finding
from wafer.contract.rules import Rule, check_names, leaves_no_room
from wafer.contract.suites import Contract
from wafer.contract.validation import Suite
from wafer.documents import DocumentError, Part, fitted, read_file, read_json
from wafer.errors import AgreementError, UnfitError
from wafer.records import TABLE
from wafer.settings import DEFAULTS
from wafer.store.snapshot import Snapshot

# a table in which one of these is counted is broken, and one that lacks any of those teaches nothing
NONE_OF = (
    "columns_missing",
    "columns_extra",
    "columns_mistyped",
    "wafers_doubled",
    "labels_unknown",
    "infinite_readings",
)
SOME_OF = ("wafers", "good", "faulty")
# without a rule about each of these a broken table could pass
GUARDED = (*NONE_OF, *SOME_OF, "fault_rate", "missing_share")
KNOWN = frozenset({*GUARDED, "wafers_disordered", "empty_sensors", "constant_sensors"})
_NAMED = 3


class _MetaPart(Part):
    kind: Literal["snapshot"]


class _SuitePart(Part):
    """`expectations/snapshot.json` as JSON has it; its rules are read one by one."""

    name: str
    meta: _MetaPart
    expectations: list[Any]


def check_snapshot(snapshot: Snapshot, folder: Path = DEFAULTS / "expectations") -> None:
    """Pass if a model may be trained on `snapshot`; the agreed sensors and the rules stand in `folder`.

    Raises:
        UnfitError: a rule fails; the message names each one that does, with what was expected and what came.
        AgreementError: a suite in `folder` is missing or cannot be used.
    """
    rules, suite = load_guard(folder)
    facts, told = snapshot_facts(snapshot.table, Contract.load_form("training", folder).sensors)
    broken = suite.broken(pd.DataFrame([facts]))
    reasons = [
        f"{rule.name}: {rule.reason('', _finding(rule, facts, told), facts[rule.columns[0]]).message}"
        for rule in rules
        if rule.name in broken
    ]
    if reasons:
        raise UnfitError(f"snapshot {snapshot.digest[:12]} is not fit to train on; {'; '.join(reasons)}")


def load_guard(folder: Path = DEFAULTS / "expectations") -> tuple[tuple[Rule, ...], Suite]:
    """The rules in `folder` about a table that a model is to be trained on, and the suite of them.

    Raises:
        AgreementError: the suite is missing or cannot be used.
    """
    path = Path(folder) / "snapshot.json"
    try:
        rules = _read_rules(path)
        suite = Suite("snapshot", rules)
        suite.rehearse()
        _check_bounds(rules)
        return rules, suite
    except AgreementError as error:
        raise AgreementError(f"{path}: {error}") from error


def snapshot_facts(table: pd.DataFrame, sensors: Sequence[str]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """One row of facts about a training table (see `Snapshot.table`), and the names behind those that count things.

    A share is None for a table without wafers.
    """
    agreed = [*TABLE, *sensors]
    kinds = dict.fromkeys(agreed, "f") | {"wafer": "OTU", "batch": "OTU", "order": "i", "label": "i"}
    present = [name for name in agreed if name in table.columns]
    told = {
        "columns_missing": [name for name in agreed if name not in table.columns],
        "columns_extra": [str(name) for name in table.columns if name not in kinds],
        "columns_mistyped": [name for name in present if table[name].dtype.kind not in kinds[name]],
    }
    readings = table[[name for name in sensors if name in table.columns and name not in told["columns_mistyped"]]]
    told |= _wafer_names(table) | _sensor_names(readings)
    values = readings.to_numpy(np.float64)
    labels = table["label"] if "label" in table.columns else pd.Series(dtype="int8")
    facts: dict[str, Any] = {fact: len(names) for fact, names in told.items()}
    facts |= {"wafers": len(table), "good": int((labels == -1).sum()), "faulty": int((labels == 1).sum())}
    facts["infinite_readings"] = int(np.isinf(values).sum())
    facts["fault_rate"] = facts["faulty"] / len(table) if len(table) else None
    facts["missing_share"] = float(np.isnan(values).mean()) if values.size else None
    return facts, told


def _wafer_names(table: pd.DataFrame) -> dict[str, list[str]]:
    """Wafers that stand twice, have no label of -1 or 1, or come before one that was made earlier."""
    wafers = table["wafer"] if "wafer" in table.columns else pd.Series(dtype=str)
    wrong: dict[str, Any] = {"wafers_doubled": wafers.duplicated()}
    if "label" in table.columns:
        wrong["labels_unknown"] = ~table["label"].isin([-1, 1])
    if "order" in table.columns:
        wrong["wafers_disordered"] = table["order"].diff() < 0
    found = {fact: [] if wafers.empty else wafers[rows].astype(str).tolist() for fact, rows in wrong.items()}
    return {"labels_unknown": [], "wafers_disordered": [], **found}


def _sensor_names(readings: pd.DataFrame) -> dict[str, list[str]]:
    """Sensors without any reading, and with a single value."""
    low, high = readings.min(), readings.max()
    return {
        "empty_sensors": readings.columns[low.isna()].tolist(),
        "constant_sensors": readings.columns[low == high].tolist(),
    }


def _finding(rule: Rule, facts: dict[str, Any], told: dict[str, list[str]]) -> Finding:
    fact = rule.columns[0]
    got = f"{facts[fact]:.3g}" if isinstance(facts[fact], float) else f"{facts[fact]}"
    if names := told.get(fact):
        more = ", …" if len(names) > _NAMED else ""
        got = f"{got} ({', '.join(names[:_NAMED])}{more})"
    return Finding(got=got)


def _read_rules(path: Path) -> tuple[Rule, ...]:
    try:
        suite = fitted(_SuitePart, read_json(read_file(path)))
    except OSError as error:
        raise AgreementError(f"{error.strerror}, a suite was expected") from error
    except DocumentError as error:
        raise AgreementError(str(error)) from error
    rules = tuple(
        Rule.of(entry, "snapshot", KNOWN, f"expectations[{at}]") for at, entry in enumerate(suite.expectations)
    )
    check_names(rules)
    guarded = {column for rule in rules for column in rule.columns}
    for fact in GUARDED:
        if fact not in guarded:
            raise AgreementError(f"no rule guards {fact!r}, without which no table is fit to train on")
    return rules


def _check_bounds(rules: Sequence[Rule]) -> None:
    """Of the rules about what makes a table useless one leaves no room."""
    for fact in (*NONE_OF, *SOME_OF):
        about = [rule for rule in rules if fact in rule.columns]
        if not any(leaves_no_room(rule, from_one=fact in SOME_OF) for rule in about):
            needed = f"a rule about {fact!r} needs {'min_value 1 or more' if fact in SOME_OF else 'max_value 0'}"
            names = ", ".join(rule.name for rule in about)
            raise AgreementError(f"rule {names}: would let a table pass that no model can learn from; {needed}")
