"""Documents that people write, as YAML or JSON: read strictly, and refused in one sentence of a stated length.

A key that stands twice is refused at any depth, since one of the two would win in silence. Models say which keys there
are, with their types, bounds and meaning; this module says in words what does not fit them.
"""

import difflib
import json
import math
import re
import reprlib
import stat
import typing
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from wafer.shown import shown_text
from wafer.storage import AnyPath

MOST_PROBLEMS = 5
"""How many problems of a document are told; of the others only how many they are."""
LONGEST_PROBLEM = 240
"""Characters of one problem."""
MOST_BYTES = 10_000_000
"""A larger document is not read."""

Model = TypeVar("Model", bound=BaseModel)


# what is told instead of pydantic's own words
_EXPECTED = {
    **dict.fromkeys(("model_type", "dict_type"), "expected an object of keys and values"),
    "list_type": "expected a list",
    "string_type": "expected text",
    "string_unicode": "expected text of whole characters",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "literal_error": "expected {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "expected {min_length} or more items",
    "string_too_short": "expected {min_length} or more characters",
    "string_too_long": "expected at most {max_length} characters",
    "invalid_key": "a key must be text",
}


class Part(BaseModel):
    """A document or a part of one: frozen, with no other keys than its fields, each of exactly its type, and finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DocumentError(ValueError):
    """A document that cannot be used; its sentence has no more than `MOST_PROBLEMS` times `LONGEST_PROBLEM` characters.

    Whoever reads the document adds the file's name and raises an error of `wafer.errors`.
    """


def read_file(path: AnyPath) -> bytes:
    """The bytes of a document's file, which is not read where it is none: a pipe or a device might never end.

    Raises:
        DocumentError: it is a pipe, a socket or a device, or too large.
        OSError: it cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise DocumentError("expected a file, got a pipe, a socket or a device")
    if found.st_size > MOST_BYTES:
        raise DocumentError(f"expected at most {MOST_BYTES} bytes, got {found.st_size}")
    return path.read_bytes()


def read_text(data: bytes, most_bytes: int = MOST_BYTES) -> str:
    """The text of a document: UTF-8, with or without a byte order mark.

    Raises:
        DocumentError: it is too large, or in another encoding; the message names the line.
    """
    if len(data) > most_bytes:
        raise DocumentError(f"expected at most {most_bytes} bytes, got {len(data)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(f"expected UTF-8 text, got the byte 0x{data[error.start]:02x} in line {line}") from error


def read_yaml(data: bytes) -> Any:
    """The one YAML document in `data`.

    Raises:
        DocumentError: it is no YAML, has a key twice, or uses aliases, merge keys or tags, with which a short document
            can mean a huge one or another than its reader sees.
    """
    text = read_text(data, MOST_BYTES // 100)  # of which YAML's reader makes little more than this a second
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = [f"line {mark.line + 1}"] if mark is not None else []
        told = ": ".join([*place, *(part for part in (error.context, error.problem) if part)])
        raise DocumentError(f"no YAML document that can be used: {shown_text(told, LONGEST_PROBLEM)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        told = f"line {line}: the character #x{error.character:04x} is not allowed"
        raise DocumentError(f"no YAML document that can be used: {told}") from error
    except RecursionError as error:
        raise DocumentError("no YAML document that can be used: it is nested too deeply") from error
    except (ValueError, OverflowError) as error:  # of an escape that means no character
        line = 1 if loader is None else loader.line + 1
        told = f"line {line}: {shown_text(error, LONGEST_PROBLEM)}"
        raise DocumentError(f"no YAML document that can be used: {told}") from error


def read_json(data: bytes) -> Any:
    """The JSON document in `data`.

    Raises:
        DocumentError: it is no JSON, has a key twice, or a number or character that cannot be kept; the message names
            the key.
    """
    text = read_text(data)
    try:
        document = json.loads(
            text, object_pairs_hook=_once, parse_int=_whole, parse_float=_finite, parse_constant=_no_number
        )
    except json.JSONDecodeError as error:
        raise DocumentError(f"no JSON document: {error.msg} in line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise DocumentError("no JSON document that can be read: it is nested too deeply") from error
    _check_kept(document)
    return document


def fitted(model: type[Model], document: Any, place: str = "") -> Model:
    """`document` as the `model` has it; `place` is where it stands in a larger one.

    Raises:
        DocumentError: it does not fit; the message names the keys, what was expected and what came.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        told = [shown_text(_problem(model, dict(found), place), LONGEST_PROBLEM) for found in problems[:MOST_PROBLEMS]]
        if len(problems) > MOST_PROBLEMS:
            told.append(f"and {len(problems) - MOST_PROBLEMS} more")
        raise DocumentError("; ".join(told)) from error


def quoted(value: object) -> str:
    """`value` as it is written in a message: in quotes where it is text, and cut where it is long."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        return shown_text(_SHORT.repr(value))
    except ValueError:  # Python writes no whole number of more than some thousand digits
        return "a number of thousands of digits"


def did_you_mean(name: object, known: typing.Iterable[str]) -> str:
    """`, did you mean 'trees'?` where one of the `known` names is like `name`, also in other letters; else nothing."""
    folded = {other.casefold(): other for other in known}
    found = difflib.get_close_matches(str(name)[:100].casefold(), folded, n=1, cutoff=0.7)
    return f", did you mean {folded[found[0]]!r}?" if found else ""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlevel = 2
_SHORT.maxlist = _SHORT.maxdict = 4


NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_HALF = re.compile("[\ud800-\udfff]")  # of a character; it could never be written
DECIMAL = re.compile(
    r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Loader(yaml.SafeLoader):
    """A safe loader that takes a document as it reads: no key twice, no aliases, no merge keys, no tags."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            _refuse(event, f"an alias (*{event.anchor}) is not taken, write the value itself")
        if getattr(event, "tag", None) is not None:
            _refuse(event, f"a tag ({event.tag}) is not taken, write the value itself")
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag in NUMBERS and not DECIMAL.fullmatch(node.value):  # 0600 would mean 384, and 10:00 would mean 600
            _refuse(node, f"the number {quoted(node.value)} must be written in decimal digits, without a leading zero")
        try:
            return super().construct_object(node, deep=deep)
        except ValueError:  # as of the date 2020-99-99, or of a number of thousands of digits
            _refuse(node, f"the value {quoted(node.value)} cannot be read")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                _refuse(key_node, "a merge key (<<) is not taken, write the values themselves")
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                _refuse(key_node, "a key must be a name")
            if key in seen:
                _refuse(key_node, f"the key {quoted(key)} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge nothing: `construct_mapping` refuses what would be merged."""


def _refuse(at: Any, problem: str) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, at.start_mark)


@dataclass(frozen=True)
class _Unkept:
    """What a JSON document may not have, in the place where it has it; there it is told by `_check_kept`."""

    why: str
    keys: tuple[str, ...] = ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Unkept:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            return _Unkept("stands twice", (key,))
        found[key] = value
    return found


def _whole(text: str) -> int | _Unkept:
    try:
        return int(text)
    except ValueError:
        return _Unkept("a number of thousands of digits cannot be kept")


def _finite(text: str) -> float | _Unkept:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> _Unkept:
    return _Unkept(f"{shown_text(text, 80)} is no number that can be kept")


def _check_kept(document: Any) -> None:
    """Refuse the first thing in a JSON document that cannot be kept, by its path, with a `DocumentError`."""
    above: list[int | str] = []
    levels: list[Iterator[tuple[int | str, Any]]] = [iter([("", document)])]
    while levels:
        for key, here in levels[-1]:
            if (type(key) is str and _HALF.search(key)) or (type(here) is str and _HALF.search(here)):
                here = _Unkept("expected text of whole characters")
            if isinstance(here, _Unkept):
                path = _path("", (*above, key, *here.keys)[1:]) or "the document"
                told = path if len(path) <= LONGEST_PROBLEM else f"…{path[-LONGEST_PROBLEM:]}"
                raise DocumentError(f"{told}: {here.why}")
            if isinstance(here, dict | list):
                above.append(key)
                levels.append(iter(here.items() if isinstance(here, dict) else enumerate(here)))
                break
        else:
            levels.pop()
            del above[-1:]


def _problem(model: type[BaseModel], problem: Mapping[str, Any], place: str) -> str:
    """One problem of a `ValidationError` in words."""
    parts, kind, message = problem["loc"], problem["type"], str(problem["msg"])
    key = _path(place, parts)
    if kind == "extra_forbidden":
        return f"{key}: unknown key{did_you_mean(parts[-1], _names_at(model, parts[:-1]))}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "value_error":  # said by a model of this project, in its own words, which may start with a key
        own = message.partition(", ")[2]
        return f"{key}{'.' if re.match('[A-Za-z_]+: ', own) else ': '}{own}" if key else own
    message = _EXPECTED.get(kind, message).format(**problem.get("ctx", {}))
    return f"{key or 'the document'}: {message[:1].lower()}{message[1:]}, got {quoted(problem['input'])}"


def _path(place: str, parts: tuple[int | str, ...]) -> str:
    path = place
    for part in parts:
        name = shown_text(part, 80)
        path += f"[{part}]" if isinstance(part, int) else f".{name}" if path else name
    return re.sub(r"\.\[key\]$", "", path)


def _names_at(model: type[BaseModel], parts: tuple[int | str, ...]) -> list[str]:
    """The keys that there are at a place of a model."""
    here: Any = model
    for part in parts:
        fields = {field.alias or name: field.annotation for name, field in here.model_fields.items()}
        here = _inner_model(fields[part]) if part in fields else here
        if here is None:
            return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for one in typing.get_args(annotation) if (inner := _inner_model(one)) is not None), None)
