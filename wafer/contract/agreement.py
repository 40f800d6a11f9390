"""The data sharing agreement of a customer, and the suites in `expectations/` that follow from it.

An agreement names a sample file, the lengths of its date and time stamp, and every column with its type. Further keys
may agree on more than that; what they leave open gets the house's defaults.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wafer.contract.agreed_rules import agreed_rules
from wafer.contract.suites import Contract
from wafer.errors import AgreementError
from wafer.storage import AnyPath, write_json

DATE_FORMATS: Mapping[int, str] = {8: "%d%m%Y", 6: "%d%m%y"}
TIME_FORMATS: Mapping[int, str] = {6: "%H%M%S", 4: "%H%M"}
TYPES: Mapping[str, str] = {"varchar": "wafer", "float": "sensor", "integer": "label"}
NEEDED = ("SampleFileName", "LengthOfDateStampInFile", "LengthOfTimeStampInFile", "NumberofColumns", "ColName")

# further names for the id and the label column: files leave the id's header empty, or carry the name that pandas gives
# to an empty one, and call the label by its meaning
DEFAULTS: Mapping[str, Any] = {
    "WaferNames": ["", "Unnamed: 0"],
    "LabelNames": ["Good/Bad"],
    "WaferId": "[Ww]afer-(?P<number>[0-9]{1,15})",
    "Labels": {"-1": -1, "1": 1, "+1": 1},
    "MaxBytes": 32_000_000,
    "MaxMissingShare": 0.25,
    "EmptySensors": "tolerate",
    "BadWafers": "reject file",
    "MaxDroppedShare": 0.1,
    "Order": "wafer_number",
    "RepeatTolerance": 1e-9,
    "Listed": 50,
}
_IN_META = {"MaxDroppedShare": "max_dropped_share", "Order": "order", "RepeatTolerance": "repeat_tolerance"}
_IN_META |= {"Listed": "listed"}
_DROPPED_MESSAGE = "too many wafers would have to be dropped: {got}, agreed is {expected}"


@dataclass(frozen=True)
class Agreement:
    """An agreement that holds together.

    `prefix` and `ending` are the sample file's name around its stamps; `wafer`, `sensors` and `label` the columns as
    the agreement writes them; `terms` all further keys, with the defaults filled in; `said` those that were given.
    """

    sample: str
    prefix: str
    ending: str
    date_length: int
    time_length: int
    wafer: str
    sensors: tuple[str, ...]
    label: str | None
    terms: Mapping[str, Any]
    said: frozenset[str]

    @property
    def kind(self) -> str:
        """The kind of delivery: with a label it is for training."""
        return "training" if self.label is not None else "prediction"

    @property
    def stamp_format(self) -> str:
        """The stamps' format, as `strptime` reads it."""
        return f"{DATE_FORMATS[self.date_length]}_{TIME_FORMATS[self.time_length]}"


def read_agreement(path: AnyPath) -> Agreement:
    """Read a customer's agreement.

    Raises:
        AgreementError: it is not there, no JSON, or a key is missing, unknown, or does not fit the others.
    """
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=_once)
    except OSError as error:
        raise AgreementError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise AgreementError(f"{path}: no JSON document: {error}") from error
    except AgreementError as error:
        raise AgreementError(f"{path}: {error}") from error
    try:
        return _agreement(document)
    except AgreementError as error:
        raise AgreementError(f"{path}: {error}") from error


def import_agreement(path: AnyPath, kind: str | None = None, folder: Path = Path("expectations")) -> Path:
    """Write the suite that the agreement at `path` states to `folder`; its file.

    Rules in an existing suite that came from an agreement are replaced; the customer's own (any other `source`) stay
    and win over one of the same name. `order`, tolerances and limits in the suite's `meta` stay where the agreement
    says nothing about them.

    Raises:
        AgreementError: the agreement, or what stands in `folder`, cannot be used; nothing is written then.
    """
    agreement = read_agreement(path)
    if kind is not None and kind != agreement.kind:
        label = "has no" if agreement.label is None else "has a"
        raise AgreementError(f"{path}: ColName {label} label column (Integer), so it is no {kind} agreement")
    target = Path(folder) / f"{agreement.kind}.json"
    present = None
    if target.exists():
        try:
            present = json.loads(target.read_bytes())
        except ValueError as error:
            raise AgreementError(f"{target}: no JSON document: {error}") from error
    suite = make_suite(agreement, present)
    try:
        Contract.of(suite, agreement.kind)
    except AgreementError as error:
        raise AgreementError(f"{path}: the suite that follows cannot be used: {error}") from error
    write_json(target, suite)
    return target


def init_agreement(path: AnyPath, kind: str = "training", sensors: int = 590, customer: str = "wafer") -> AnyPath:
    """Write a first agreement for a new customer to `path`, with every key that can be agreed on; `path`.

    `customer` starts the names of the files; `kind` is "training" (with a label) or "prediction".

    Raises:
        AgreementError: there is a file already, or an argument cannot be used.
    """
    if path.exists():
        raise AgreementError(f"{path}: is there already and stays as it is")
    if kind not in ("training", "prediction"):
        raise AgreementError(f"kind: expected training or prediction, got {kind!r}")
    if sensors < 1:
        raise AgreementError(f"sensors: expected at least 1, got {sensors}")
    if not re.fullmatch("[A-Za-z][A-Za-z0-9-]*", customer):
        raise AgreementError(f"customer: expected letters, digits and hyphens, got {customer!r}")
    columns = {"Wafer": "varchar"} | {f"Sensor - {number}": "float" for number in range(1, sensors + 1)}
    if kind == "training":
        columns["Output"] = "Integer"
    labelled = {} if kind == "training" else {"LabelNames", "Labels"}
    document = {
        "SampleFileName": f"{customer}_08012020_120000.csv",
        "LengthOfDateStampInFile": 8,
        "LengthOfTimeStampInFile": 6,
        "NumberofColumns": len(columns),
        **{key: value for key, value in DEFAULTS.items() if key not in labelled},
        "ColName": columns,
    }
    write_json(path, document)
    return path


def make_suite(agreement: Agreement, present: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The suite that an agreement states, as JSON; of the `present` one the customer's own rules are kept.

    Raises:
        AgreementError: the present suite is none.
    """
    own = _own(present)
    names = {rule["meta"]["rule"] for rules in own.values() for rule in rules}
    agreed = [rule for rule in agreed_rules(agreement) if rule["meta"]["rule"] not in names]
    return {
        "name": agreement.kind,
        "meta": _meta(agreement, present),
        "expectations": agreed + own["expectations"],
        "readings": own["readings"],
    }


def _own(present: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    sections: dict[str, list[Any]] = {"expectations": [], "readings": []}
    if present is None:
        return sections
    for section, rules in sections.items():
        try:
            rules += [
                rule for rule in present[section] if rule["meta"]["rule"] and rule["meta"]["source"] != "agreement"
            ]
        except (KeyError, TypeError) as error:
            raise AgreementError(f"the present suite's {section}: {error!r}, so its own rules would be lost") from error
    return sections


def _meta(agreement: Agreement, present: Mapping[str, Any] | None) -> dict[str, Any]:
    old = present["meta"] if present else {}
    meta = {
        "kind": agreement.kind,
        "agreement": {
            "sample_file_name": agreement.sample,
            "date_stamp_length": agreement.date_length,
            "time_stamp_length": agreement.time_length,
            "columns": 1 + len(agreement.sensors) + (agreement.label is not None),
        },
    }
    for key, name in _IN_META.items():
        stays = name in old and key not in agreement.said
        meta[name] = old[name] if stays else agreement.terms[key]
    meta["max_dropped_message"] = old.get("max_dropped_message", _DROPPED_MESSAGE)
    label = agreement.label
    meta["form"] = {
        "stamps": f"_(?P<date>[0-9]+)_(?P<time>[0-9]+){re.escape(agreement.ending)}\\Z",
        "stamp_format": agreement.stamp_format,
        "wafer_id": agreement.terms["WaferId"],
        "labels": dict(agreement.terms["Labels"]) if label is not None else {},
        "ignore_spaces": True,
        "wafer": _names([agreement.wafer, *agreement.terms["WaferNames"]]),
        "label": _names([*agreement.terms["LabelNames"], label]) if label is not None else [],
        "sensors": [_plain(name) for name in agreement.sensors],
    }
    return meta


def _names(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _plain(name: str) -> str:
    return name.replace(" ", "")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys all differ: a column that stands twice would silently be one."""
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise AgreementError(f"{key}: stands twice")
        seen[key] = value
    return seen


def _agreement(document: Any) -> Agreement:
    if not isinstance(document, dict):
        raise AgreementError(f"an agreement is an object, got {type(document).__name__}")
    for key in NEEDED:
        if key not in document:
            raise AgreementError(f"{key}: missing")
    for key in document.keys() - set(NEEDED) - DEFAULTS.keys():
        raise AgreementError(f"{key}: unknown key")
    date = _length(document, "LengthOfDateStampInFile", DATE_FORMATS)
    time = _length(document, "LengthOfTimeStampInFile", TIME_FORMATS)
    prefix, ending = _name_parts(document["SampleFileName"], date, time)
    wafer, sensors, label = _columns(document["ColName"], document["NumberofColumns"])
    said = frozenset(document.keys() & DEFAULTS.keys())
    terms = {key: document.get(key, default) for key, default in DEFAULTS.items()}
    _check_terms(terms)
    return Agreement(document["SampleFileName"], prefix, ending, date, time, wafer, sensors, label, terms, said)


def _length(document: Mapping[str, Any], key: str, formats: Mapping[int, str]) -> int:
    length = document[key]
    if type(length) is not int or length not in formats:
        raise AgreementError(f"{key}: expected {' or '.join(map(str, formats))}, got {length!r}")
    return length


def _name_parts(sample: Any, date_length: int, time_length: int) -> tuple[str, str]:
    grammar = f"([^/]+)_([0-9]{{{date_length}}}_[0-9]{{{time_length}}})(\\.[A-Za-z0-9]+)"
    found = re.fullmatch(grammar, sample) if isinstance(sample, str) else None
    shape = f"name_{'D' * date_length}_{'T' * time_length}.csv"
    if found is None:
        raise AgreementError(f"SampleFileName: expected {shape} with stamps of the agreed lengths, got {sample!r}")
    try:
        datetime.strptime(found[2], f"{DATE_FORMATS[date_length]}_{TIME_FORMATS[time_length]}")
    except ValueError as error:
        raise AgreementError(f"SampleFileName: {found[2]} is no date and time") from error
    return found[1], found[3]


def _columns(columns: Any, number: Any) -> tuple[str, tuple[str, ...], str | None]:
    if not isinstance(columns, dict):
        raise AgreementError(f"ColName: expected an object of names and types, got {columns!r}")
    if number != len(columns) or type(number) is not int:
        raise AgreementError(f"NumberofColumns: {number!r}, but ColName lists {len(columns)} columns")
    found: dict[str, list[str]] = {"wafer": [], "sensor": [], "label": []}
    for name, kind in columns.items():
        role = TYPES.get(kind.strip().lower()) if isinstance(kind, str) else None
        if role is None:
            raise AgreementError(f"ColName.{name}: expected varchar, float or Integer, got {kind!r}")
        found[role].append(name)
    if len(found["wafer"]) != 1 or len(found["label"]) > 1 or not found["sensor"]:
        counts = ", ".join(f"{len(names)} {role}" for role, names in found.items())
        raise AgreementError(f"ColName: expected one varchar, floats and at most one Integer, got {counts}")
    if list(columns) != [*found["wafer"], *found["sensor"], *found["label"]]:
        raise AgreementError("ColName: expected the id (varchar) first and the label (Integer) last")
    plain = [_plain(name) for name in columns]
    for name in plain:
        if plain.count(name) > 1:
            raise AgreementError(f"ColName.{name}: stands twice, spaces apart")
    return found["wafer"][0], tuple(found["sensor"]), found["label"][0] if found["label"] else None


def _check_terms(terms: Mapping[str, Any]) -> None:
    choices = {
        "EmptySensors": ("tolerate", "reject"),
        "BadWafers": ("reject file", "drop wafer"),
        "Order": ("wafer_number", "file_time"),
    }
    for key, allowed in choices.items():
        if terms[key] not in allowed:
            raise AgreementError(f"{key}: expected {' or '.join(allowed)}, got {terms[key]!r}")
    for key in ("MaxDroppedShare", "MaxMissingShare", "RepeatTolerance"):
        if isinstance(terms[key], bool) or not isinstance(terms[key], int | float) or not 0 <= terms[key] <= 1:
            raise AgreementError(f"{key}: expected a number from 0 to 1, got {terms[key]!r}")
    for key in ("MaxBytes", "Listed"):
        if type(terms[key]) is not int or terms[key] < 1:
            raise AgreementError(f"{key}: expected a whole number above 0, got {terms[key]!r}")
    for key in ("WaferNames", "LabelNames"):
        if not isinstance(terms[key], list) or not all(isinstance(name, str) for name in terms[key]):
            raise AgreementError(f"{key}: expected a list of names, got {terms[key]!r}")
    if not isinstance(terms["Labels"], dict) or not set(terms["Labels"].values()) <= {-1, 1}:
        raise AgreementError(f"Labels: expected spellings of -1 (good) and 1 (faulty), got {terms['Labels']!r}")
    if not isinstance(terms["WaferId"], str):
        raise AgreementError(f"WaferId: expected a pattern, got {terms['WaferId']!r}")
