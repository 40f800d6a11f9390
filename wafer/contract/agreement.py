"""The data sharing agreement of a customer, and the suites in `expectations/` that follow from it.

An agreement names a sample file, the lengths of its date and time stamp, and every column with its type. Further keys
may agree on more than that; what they leave open gets the house's defaults.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from wafer.contract.agreed_rules import agreed_rules
from wafer.contract.form import MOST_DIGITS, check_apart, check_labels
from wafer.contract.patterns import check_numbered
from wafer.contract.suites import Contract
from wafer.documents import DocumentError, Part, fitted, quoted, read_file, read_json
from wafer.errors import AgreementError
from wafer.records import TABLE
from wafer.shown import shown_text
from wafer.storage import AnyPath, write_json

DATE_FORMATS: Mapping[int, str] = {8: "%d%m%Y", 6: "%d%m%y"}
TIME_FORMATS: Mapping[int, str] = {6: "%H%M%S", 4: "%H%M"}
TYPES: Mapping[str, str] = {"varchar": "wafer", "float": "sensor", "integer": "label"}
MOST_SENSORS = 50_000  # of a first agreement; a line with more than some 100,000 fields is not taken apart
_DROPPED_MESSAGE = "too many wafers would have to be dropped: {got}, agreed is {expected}"


class Agreement(Part):
    """An agreement that holds together; the keys that it may have, with what is meant where one is left out.

    Files leave the id's header empty, or carry the name that pandas gives to an empty one, and call the label by its
    meaning; hence the further names of both columns.
    """

    sample: str = Field(alias="SampleFileName", max_length=200)
    date_length: Literal[8, 6] = Field(alias="LengthOfDateStampInFile")
    time_length: Literal[6, 4] = Field(alias="LengthOfTimeStampInFile")
    number: int = Field(alias="NumberofColumns")
    columns: dict[str, str] = Field(alias="ColName")
    wafer_names: list[str] = Field(["", "Unnamed: 0"], alias="WaferNames")
    label_names: list[str] = Field(["Good/Bad"], alias="LabelNames")
    wafer_id: str = Field("[Ww]afer-(?P<number>[0-9]{1,15})", alias="WaferId")
    labels: dict[str, int] = Field({"-1": -1, "1": 1, "+1": 1}, alias="Labels")
    max_bytes: int = Field(32_000_000, alias="MaxBytes", ge=1, le=2**40)
    max_missing_share: float = Field(0.25, alias="MaxMissingShare", ge=0, le=1)
    empty_sensors: Literal["tolerate", "reject"] = Field("tolerate", alias="EmptySensors")
    bad_wafers: Literal["reject file", "drop wafer"] = Field("reject file", alias="BadWafers")
    max_dropped_share: float = Field(0.1, alias="MaxDroppedShare", ge=0, lt=1)
    order: Literal["wafer_number", "file_time"] = Field("wafer_number", alias="Order")
    repeat_tolerance: float = Field(1e-9, alias="RepeatTolerance", ge=0, lt=1)
    listed: int = Field(50, alias="Listed", ge=1, le=10_000)

    @field_validator("date_length", "time_length", mode="before")
    @classmethod
    def _whole(cls, length: Any) -> Any:
        if isinstance(length, float):  # 8.0 would pass for 8
            raise ValueError(f"expected a whole number, got {quoted(length)}")
        return length

    @field_validator("wafer_id")
    @classmethod
    def _finds_number(cls, text: str) -> str:
        return check_numbered(text, "number", MOST_DIGITS)

    @field_validator("labels")
    @classmethod
    def _told_apart(cls, labels: dict[str, int]) -> dict[str, int]:
        check_labels(labels)
        return labels

    @field_validator("columns")
    @classmethod
    def _three_roles(cls, columns: dict[str, str]) -> dict[str, str]:
        _check_columns(columns)
        return columns

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.number != len(self.columns):
            raise ValueError(f"NumberofColumns: {quoted(self.number)}, but ColName lists {len(self.columns)} columns")
        _check_sample(self.sample, self.date_length, self.time_length)
        further = {"WaferNames": [name for name in self.wafer_names if _plain(name) != _plain(self.wafer)]}
        if self.label is not None:
            further["LabelNames"] = [name for name in self.label_names if _plain(name) != _plain(self.label)]
            if not all(map(_plain, self.label_names)):
                raise ValueError("LabelNames: expected names, got an empty one")
        check_apart({"ColName": list(self.columns), **further})
        return self

    @property
    def prefix(self) -> str:
        """What the sample file's name has before its stamps."""
        return self.sample.rsplit("_", 2)[0]

    @property
    def ending(self) -> str:
        """What it has after them, with the dot."""
        return Path(self.sample).suffix

    @property
    def wafer(self) -> str:
        """The id's column."""
        return next(iter(self.columns))

    @property
    def sensors(self) -> list[str]:
        """The sensors' columns in their order, as the agreement writes them."""
        return [name for name, kind in self.columns.items() if _role(kind) == "sensor"]

    @property
    def label(self) -> str | None:
        """The label's column, where there is one."""
        return next((name for name, kind in self.columns.items() if _role(kind) == "label"), None)

    @property
    def kind(self) -> str:
        """The kind of delivery: with a label it is for training."""
        return "training" if self.label is not None else "prediction"

    @property
    def stamp_format(self) -> str:
        """The stamps' format, as `strptime` reads it."""
        return f"{DATE_FORMATS[self.date_length]}_{TIME_FORMATS[self.time_length]}"


DEFAULTS: Mapping[str, Any] = {
    str(field.alias): field.default for field in Agreement.model_fields.values() if not field.is_required()
}


def read_agreement(path: AnyPath) -> Agreement:
    """Read a customer's agreement.

    Raises:
        AgreementError: it is not there, no JSON, or a key is missing, unknown, there twice, or does not fit the others.
    """
    try:
        return fitted(Agreement, read_json(read_file(path)))
    except OSError as error:
        raise AgreementError(f"{path}: {error.strerror or error}") from error
    except DocumentError as error:
        raise AgreementError(f"{path}: {error}") from error


def import_agreement(path: AnyPath, kind: str | None = None, *, folder: Path) -> Path:
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
            present = read_json(read_file(target))
        except OSError as error:
            raise AgreementError(f"{target}: {error.strerror or error}") from error
        except DocumentError as error:
            raise AgreementError(f"{target}: {error}") from error
    try:
        suite = make_suite(agreement, present)
    except AgreementError as error:
        raise AgreementError(f"{target}: {error}") from error
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
    if not 1 <= sensors <= MOST_SENSORS:
        raise AgreementError(f"sensors: expected 1 to {MOST_SENSORS}, got {quoted(sensors)}")
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
    if not isinstance(present, dict) or not isinstance(present.get("meta"), dict):
        raise AgreementError("the present suite is none, so its own rules would be lost")
    for section, rules in sections.items():
        try:
            rules += [
                rule for rule in present[section] if rule["meta"]["rule"] and rule["meta"]["source"] != "agreement"
            ]
        except (KeyError, TypeError) as error:
            raise AgreementError(
                f"the present suite's {section}: {shown_text(repr(error))}, so its own rules would be lost"
            ) from error
    return sections


def _meta(agreement: Agreement, present: Mapping[str, Any] | None) -> dict[str, Any]:
    old = present["meta"] if present else {}
    meta = {
        "kind": agreement.kind,
        "agreement": {
            "sample_file_name": agreement.sample,
            "date_stamp_length": agreement.date_length,
            "time_stamp_length": agreement.time_length,
            "columns": agreement.number,
        },
    }
    for name in ("max_dropped_share", "order", "repeat_tolerance", "listed"):
        stays = name in old and name not in agreement.model_fields_set
        meta[name] = old[name] if stays else getattr(agreement, name)
    meta["max_dropped_message"] = old.get("max_dropped_message", _DROPPED_MESSAGE)
    label = agreement.label
    meta["form"] = {
        "stamps": f"_(?P<date>[0-9]+)_(?P<time>[0-9]+){re.escape(agreement.ending)}\\Z",
        "stamp_format": agreement.stamp_format,
        "wafer_id": agreement.wafer_id,
        "labels": dict(agreement.labels) if label is not None else {},
        "ignore_spaces": True,
        "wafer": _names([agreement.wafer, *agreement.wafer_names]),
        "label": _names([*agreement.label_names, label]) if label is not None else [],
        "sensors": [_plain(name) for name in agreement.sensors],
    }
    return meta


def _names(names: list[str]) -> list[str]:
    return list({_plain(name): name for name in reversed(names)}.values())[::-1]


def _plain(name: str) -> str:
    return name.replace(" ", "")


def _role(kind: str) -> str | None:
    return TYPES.get(kind.strip().lower())


def _check_sample(sample: str, date_length: int, time_length: int) -> None:
    grammar = f"([^/]+)_([0-9]{{{date_length}}}_[0-9]{{{time_length}}})(\\.[A-Za-z0-9]+)"
    found = re.fullmatch(grammar, sample)
    shape = f"name_{'D' * date_length}_{'T' * time_length}.csv"
    if found is None or not sample.isprintable() or sample.startswith(".") or found[3] == ".part":
        got = quoted(sample)
        raise ValueError(f"SampleFileName: expected {shape} with stamps of the agreed lengths, got {got}")
    try:
        datetime.strptime(found[2], f"{DATE_FORMATS[date_length]}_{TIME_FORMATS[time_length]}")
    except ValueError as error:
        raise ValueError(f"SampleFileName: {found[2]} is no date and time") from error


def _check_columns(columns: Mapping[str, str]) -> None:
    found: dict[str, list[str]] = {"wafer": [], "sensor": [], "label": []}
    for name, kind in columns.items():
        role = _role(kind)
        if role is None:
            raise ValueError(f"expected varchar, float or Integer for {quoted(name)}, got {quoted(kind)}")
        if role != "wafer" and not _plain(name):
            raise ValueError(f"a {role} needs a name")
        if role == "sensor" and _plain(name) in TABLE:
            raise ValueError(f"a sensor may not be called {quoted(name)}, as a column of a table of wafers is")
        found[role].append(name)
    if len(found["wafer"]) != 1 or len(found["label"]) > 1 or not found["sensor"]:
        counts = ", ".join(f"{len(names)} {role}" for role, names in found.items())
        raise ValueError(f"expected one varchar, floats and at most one Integer, got {counts}")
    if list(columns) != [*found["wafer"], *found["sensor"], *found["label"]]:
        raise ValueError("expected the id (varchar) first and the label (Integer) last")
