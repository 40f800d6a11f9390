"""Regular expressions that people write into agreements and suites: refused where one text could keep them busy.

Python's `re` tries one way of reading a text after the other, and nested or overlapping repeats have exponentially many
of them. So the ways are counted before a pattern is used, from its parsed form, with an upper bound: a repeat or a
choice has one way where the next character decides it, and all of its ways where that does not.
"""

import re
import re._compiler as compiler  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from wafer.documents import quoted
from wafer.shown import shown_text

LONGEST = 255
"""Characters of a text that a pattern is matched with: of a file's name, and more than an id may have."""
MOST_WAYS = 250_000  # two repeats that overlap
"""Of reading a text of that length, which take some 10 ms."""

_REPEATS = (parser.MAX_REPEAT, parser.MIN_REPEAT, parser.POSSESSIVE_REPEAT)
_REFERENCES = (parser.GROUPREF, parser.GROUPREF_EXISTS)
_ONE_CHARACTER = (parser.LITERAL, parser.NOT_LITERAL, parser.IN, parser.ANY)
_CHARACTERS = "".join(map(chr, range(0x3001)))  # digits, letters and blanks of many scripts, and all else
_END = ""  # of the text, where a character could come


def check_pattern(text: str, groups: Sequence[str] = ()) -> str:
    """`text`, if it is a pattern with the `groups` in each match; else a ValueError for a model to tell.

    Refused is also a pattern that could read a text of `LONGEST` characters in more than `MOST_WAYS` ways.
    """
    try:
        pattern = re.compile(text)
        tree = parser.parse(text)
        sure = {value[0] for op, value, _, always in _nodes(tree, 0) if op is parser.SUBPATTERN and always}
        busy = _Ways(text).of(tree, pattern.flags, frozenset([_END])) > MOST_WAYS
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{shown_text(error)}, got {quoted(text)}") from error
    if missing := [name for name in groups if pattern.groupindex.get(name) not in sure]:
        raise ValueError(f"needs the groups {', '.join(missing)} in each match, got {quoted(text)}")
    if busy:
        raise ValueError(
            "expected repeats that the next character ends or that have small bounds, since a text could be read in "
            f"too many ways, got {quoted(text)}"
        )
    return text


def check_numbered(text: str, group: str, digits: int) -> str:
    """`text`, if it is a pattern whose `group` is a number, one of up to `digits` digits among them; else as above."""
    check_pattern(text, [group])
    pattern = re.compile(text)
    named = pattern.groupindex[group]
    nodes = _nodes(parser.parse(text), pattern.flags)
    body, flags = next((v[3], flags) for op, v, flags, _ in nodes if op is parser.SUBPATTERN and v[0] == named)
    inside = list(_nodes(body, flags))
    taken = [_Ways(text).taken(op, value, flags) for op, value, flags, _ in inside if op in _ONE_CHARACTER]
    fits = all(all(map(str.isdecimal, each)) and each & set("0123456789") for each in taken)
    least = body.getwidth()[0]
    if not fits or not 0 < least <= digits or any(op in _REFERENCES for op, *_ in inside):
        raise ValueError(f"expected 1 to {digits} digits and nothing else in the group {group}, got {quoted(text)}")
    return text


def _bodies(op: Any, value: Any, flags: int) -> list[tuple[Any, int]]:
    """The parts that a node of a parsed pattern is made of, each with its flags."""
    if op in _REPEATS:
        return [(value[2], flags)]
    if op is parser.SUBPATTERN:
        return [(value[3], (flags | value[1]) & ~value[2])]
    if op is parser.BRANCH:
        return [(each, flags) for each in value[1]]
    if op is parser.GROUPREF_EXISTS:
        return [(each or (), flags) for each in value[1:]]
    if op is parser.ATOMIC_GROUP:
        return [(value, flags)]
    return [(value[1], flags)] if op in (parser.ASSERT, parser.ASSERT_NOT) else []


def _nodes(items: Any, flags: int, always: bool = True) -> Iterator[tuple[Any, Any, int, bool]]:
    """All nodes of a parsed pattern: kind, value, flags, and whether each match has it."""
    for op, value in items:
        yield op, value, flags, always
        sure = always and (op in (parser.SUBPATTERN, parser.ATOMIC_GROUP) or (op in _REPEATS and value[0] > 0))
        for body, within in _bodies(op, value, flags):
            yield from _nodes(body, within, sure)


class _Ways:
    """In how many ways a text of `LONGEST` characters can be read by parts of the pattern `text`; an upper bound.

    `after` are the characters that may come behind a part: a way counts only if one of them follows.
    """

    def __init__(self, text: str) -> None:
        self._characters = _CHARACTERS + text  # with each character that the pattern names

    def of(self, items: Any, flags: int, after: frozenset[str]) -> int:
        """The ways of parts that stand one after the other."""
        ways = 1
        for op, value in reversed(list(items)):
            ways = min(ways * self._of_one(op, value, flags, after), MOST_WAYS + 1)
            after = self._starts(op, value, flags, after)
        return ways

    def taken(self, op: Any, value: Any, flags: int) -> frozenset[str]:
        """The characters that a node of one character takes."""
        one = parser.SubPattern(parser.State(), [(op, value)])
        return frozenset(compiler.compile(one, flags).findall(self._characters))

    def _of_one(self, op: Any, value: Any, flags: int, after: frozenset[str]) -> int:
        if op in _REPEATS:
            return self._of_repeat(op, value, flags, after)
        bodies = _bodies(op, value, flags)
        if op in (parser.ATOMIC_GROUP, parser.ASSERT, parser.ASSERT_NOT):
            within = self.of(*bodies[0], frozenset([_END]))  # once it has matched, its other ways are not tried
            return within if within > MOST_WAYS else 1
        ways = [self.of(*part, after) for part in bodies]
        starts = [self._first(*part, after) for part in bodies]
        decided = sum(map(len, starts)) == len(frozenset().union(*starts))
        return max(ways, default=1) if decided else sum(ways)

    def _of_repeat(self, op: Any, value: Any, flags: int, after: frozenset[str]) -> int:
        least, most, body = value
        most = min(most, LONGEST)
        starts = self._first(body, flags, frozenset())
        once = self.of(body, flags, after if most == 1 else after | starts)
        ended = body.getwidth()[0] > 0 and not starts & after
        ways = once**most * (1 if ended or least >= most else most - least + 1)
        return 1 if op is parser.POSSESSIVE_REPEAT and ways <= MOST_WAYS else ways

    def _first(self, items: Any, flags: int, after: frozenset[str]) -> frozenset[str]:
        """The characters with which `items` and what comes behind them can begin."""
        for op, value in reversed(list(items)):
            after = self._starts(op, value, flags, after)
        return after

    def _starts(self, op: Any, value: Any, flags: int, after: frozenset[str]) -> frozenset[str]:
        if op in _ONE_CHARACTER:
            return self.taken(op, value, flags)
        if op in (parser.AT, parser.ASSERT, parser.ASSERT_NOT):
            return after
        if op in _REFERENCES:
            return after.union(self._characters)
        found = frozenset(chain.from_iterable(self._first(*part, after) for part in _bodies(op, value, flags)))
        return found | after if op in _REPEATS and value[0] == 0 else found
