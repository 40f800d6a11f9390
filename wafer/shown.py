"""Text as it may be shown: control characters escaped, cut at a stated length, secrets masked.

`shown_text` is for a value from outside (a file's name, a cell, a key) that is put into a sentence, a page or a log;
`shown_message` is for a whole sentence before it is printed; `masked` is for every address and for log files; and
`facts_html` is how objects show themselves in a notebook. This is a module of the foundation: any room may use it, and
it imports no other one.
"""

import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, quote_plus, unquote, unquote_plus

LONGEST_VALUE = 200
"""Characters of a quoted value that are shown."""
LONGEST_MESSAGE = 1500
"""Characters of a message that are shown."""
LONGEST_LIST = 8
"""Entries of a list that a notebook shows of an object."""
MASK = "***"

_ADDRESS = re.compile(r"\b([A-Za-z][\w+.-]{0,40}://)(\S+)")
_PARAMETER = re.compile(
    r"\b([\w.-]{0,40}(?:password|passwd|pwd|token|secret|key|signature|credential)[\w.-]{0,20}=)(?!\s)[^&;\s'\"<>]+",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|AUTH_STRING|WEBHOOK|KEY$|KEY_ID$|_PASS$", re.IGNORECASE)
_ADDRESS_START = re.compile(r"[A-Za-z][\w+.-]*://")
_ADDRESS_NAME = re.compile(r"(URL|URI|ADDRESS|ENDPOINT)$", re.IGNORECASE)
_ADDRESS_PASSWORD = re.compile(r"^(?:[A-Za-z][\w+.-]*://)?[^:]*:(.+)@", re.DOTALL)
_SHORTEST_ANYWHERE = 8  # characters; a shorter secret is masked where it stands as a word of its own
_SHORTEST = 4  # an even shorter one only within an address
_LEFT = ' style="text-align:left;vertical-align:top"'  # JupyterLab would set all cells at the right
_files = {Path(".env")}  # Prefect reads that of the working directory


def shown_text(value: object, longest: int = LONGEST_VALUE) -> str:
    """`value` as text on one line, at most `longest` characters of it; whatever is not printable is escaped.

    Escaped are terminal sequences, line ends, marks that change the direction of writing, and lone surrogates (bytes of
    a file's name that are not UTF-8); letters of all scripts stay as they are. What was cut ends with `…`.
    """
    text = str(value)
    cut = text[: longest + 1]
    told = cut if cut.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in cut)
    return told if len(told) <= longest else f"{told[:longest]}…"


def shown_message(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """A sentence as it may be printed: secrets masked, one line, no more than `longest` characters."""
    return shown_text(masked(text[: 10 * longest]), longest)


def masked(text: str) -> str:
    """`text` without secrets: each becomes `***`.

    Masked are the password of every address, also of one that cannot be parsed because the password holds `/`, `@`, `:`
    or `%`; the values of parameters named like a secret (`?token=…`, `password=…`); and wherever they stand, in plain,
    percent-encoded, quoted or HTML spelling, the secrets of the environment, of the working directory's `.env` and of
    the files named to `hide_secrets_of`: the values of variables named like a secret (`PREFECT_API_KEY`,
    `AWS_SECRET_ACCESS_KEY`, a webhook's address, …) and the passwords of addresses in any variable.
    """
    for secret in sorted(set(_secrets()), key=len, reverse=True):  # first, while an address that is one is whole
        if len(secret) >= _SHORTEST_ANYWHERE:
            text = text.replace(secret, MASK)
        elif len(secret) >= _SHORTEST and secret in text:
            text = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", MASK, text)
    return _PARAMETER.sub(rf"\g<1>{MASK}", _ADDRESS.sub(_without_password, text))


def hide_secrets_of(file: Path) -> None:
    """Let `masked` also mask the secrets of this file of variables, from now on."""
    _files.add(file)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _without_password(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    before, at, host = rest.rpartition("@")
    if not at and found.end() == len(found.string) and not rest.startswith("["):
        user, colon, after = rest.partition(":")  # cut off before the host, if no port follows
        return found[0] if not colon or re.match(r"\d{1,5}(?!\w)", after) else f"{scheme}{user}:{MASK}"
    user, colon, _ = before.partition(":")
    if not at or not (colon or "/" not in before):
        return found[0]
    return f"{scheme}{user}:{MASK}@{host}" if colon else f"{scheme}{MASK}@{host}"


def _secrets() -> Iterator[str]:
    """Each secret that a variable holds, in each spelling in which a library may tell it."""
    for name, value in _variables():
        if _SECRET_NAME.search(name):
            yield from _spellings(value)
        if _ADDRESS_START.match(value) or _ADDRESS_NAME.search(name):
            for password in _ADDRESS_PASSWORD.findall(value):
                yield from _spellings(password)


def _spellings(secret: str) -> Iterator[str]:
    for plain in (secret, unquote(secret), unquote_plus(secret)):
        yield plain
        yield from (quote(plain), quote(plain, safe=""), quote_plus(plain), repr(plain)[1:-1], json.dumps(plain)[1:-1])
        yield from (html.escape(plain), html.escape(plain, quote=False))


def _variables() -> Iterator[tuple[str, str]]:
    from dotenv import dotenv_values

    yield from os.environ.items()
    for file in tuple(_files):
        with suppress(OSError, UnicodeError):
            if file.is_file():
                yield from ((name, value) for name, value in dotenv_values(file).items() if value)


def shown_number(value: float | None) -> str:
    """A number in the fewest digits that mean this very double; a whole one without `.0`, None as missing."""
    return "missing" if value is None else repr(float(value)).removesuffix(".0")


class HasFacts(Protocol):
    """What `facts_html` shows."""

    def facts(self) -> Mapping[str, object]:
        """What there is to know of the object, by name."""


def facts_html(thing: HasFacts) -> str:
    """A compact table of what `thing.facts()` says: `_repr_html_ = facts_html` in a class shows it in notebooks.

    A list has an entry a line, and one of mappings is a table of its own; all text is escaped, cut and without secrets.
    It never raises: where the facts cannot be had, the table says why.
    """
    name = type(thing).__name__
    try:
        return f"<strong>{name}</strong>{_rows_html(thing.facts())}"
    except Exception as error:  # noqa: BLE001 - to look at an object must not end what a notebook is doing
        return f"<strong>{name}</strong>{_rows_html({'cannot be shown': f'{type(error).__name__}: {error}'})}"


def _rows_html(facts: Mapping[str, object]) -> str:
    rows = (
        f"<tr><th{_LEFT}>{_cell(name)}</th><td{_LEFT}>{_value_html(value)}</td></tr>" for name, value in facts.items()
    )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _value_html(value: object) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _cell(value)
    shown, more = value[:LONGEST_LIST], len(value) - LONGEST_LIST
    rest = [f"… and {more:,} more"] if more > 0 else []
    if shown and all(isinstance(one, Mapping) for one in shown):
        head = "".join(f"<th{_side(one)}>{_cell(name)}</th>" for name, one in shown[0].items())
        body = ("".join(f"<td{_side(one)}>{_cell(one)}</td>" for one in row.values()) for row in shown)
        table = f"<table><thead><tr>{head}</tr></thead><tbody><tr>{'</tr><tr>'.join(body)}</tr></tbody></table>"
        return "".join([table, *rest])
    return "<br>".join([*map(_cell, shown), *rest]) or "none"


def _side(value: object) -> str:
    return _LEFT if isinstance(value, str) else ""


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    return html.escape(shown_message(text, LONGEST_VALUE))


def counted(count: int, one: str, several: str = "") -> str:
    """A number of things in words: 1 batch, 1,200 batches; `several` where that is not `one` with an s."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
