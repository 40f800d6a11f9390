"""The contract: the suites of `expectations/` as rules, and a verdict for each delivered file.

The rules about files judge one table of facts, a row a file, in one validation for many files. Rules about readings,
the suite's second section, are validated over only the columns that they name. What a broken rule does, and in which
words, stands in the suite.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import pyarrow as pa
from pydantic import Field, field_validator

from wafer.contract.facts import FACTS, LABEL_FACTS, TEXT_FACTS, Delivery, read_delivery
from wafer.contract.form import WAFER, Finding, Form, Kind
from wafer.contract.rules import Reason, Rule, RulePart, Section, check_message, check_names, leaves_no_room
from wafer.contract.validation import Suite
from wafer.contract.verdicts import Breach, DroppedRow, Verdict, keep_rows, pass_verdict, unread_verdict
from wafer.delivered import Entry, list_files
from wafer.documents import DocumentError, Part, fitted, quoted, read_file, read_json
from wafer.errors import AgreementError, UnreadError
from wafer.settings import DEFAULTS
from wafer.shown import facts_html, shown_number
from wafer.storage import AnyPath

__all__ = ["Contract", "DroppedRow", "Reason", "Verdict", "check", "judge_files"]


class _MetaPart(Part):
    kind: str
    agreement: dict[str, Any]
    form: dict[str, Any]
    order: Literal["wafer_number", "file_time"]
    repeat_tolerance: float = Field(ge=0, lt=1)
    listed: int = Field(ge=1, le=10_000)
    max_dropped_share: float = Field(ge=0, lt=1)
    max_dropped_message: str

    @field_validator("max_dropped_message")
    @classmethod
    def _can_be_filled_in(cls, message: str) -> str:
        check_message(message, {"file", "expected", "got"})
        return message


class _SuitePart(Part):
    """A suite as JSON has it; what its parts mean together is looked at when a `Contract` is made of it."""

    name: str
    meta: _MetaPart
    expectations: list[RulePart] = Field(min_length=1)  # an empty suite would accept everything
    readings: list[RulePart]


_UNDATED = Reason("order", "the file's name tells no date and time, from which the agreed order of production is taken")


# what the rule about such a fact must say at least, in words; about all others that no more than 0 are allowed
_NEEDED = {
    "encoding": "the value_set ['utf-8']",
    "unreadable": "to be null",
    "size": "min_value 1 or more",
    "wafers": "min_value 1 or more",
}


@dataclass(frozen=True)
class Contract:
    """What one kind of delivery may look like; made by `Contract.load`.

    `suite` is the whole JSON document, `meta` its `meta`, `form` the file-level agreement, `rules` what the suite
    states.
    """

    kind: Kind
    suite: dict[str, Any]
    meta: dict[str, Any]
    form: Form
    rules: tuple[Rule, ...]
    _suites: Mapping[Section, Suite]
    _place: str = ""

    @classmethod
    def load(cls, kind: str, folder: Path = DEFAULTS / "expectations") -> "Contract":
        """The contract in `folder` for "training" or "prediction" files.

        Raises:
            AgreementError: there is no such suite, or it cannot be used as it is.
        """
        suite = _read_suite(kind, folder)
        try:
            return replace(cls.of(suite, kind), _place=f"{_suite_path(kind, folder)}: ")
        except AgreementError as error:
            raise AgreementError(f"{_suite_path(kind, folder)}: {error}") from error

    @classmethod
    def load_form(cls, kind: str, folder: Path = DEFAULTS / "expectations") -> Form:
        """Only the file-level agreement, for who needs the sensors or the order but judges nothing; quick.

        Raises:
            AgreementError: as `load`.
        """
        suite = _read_suite(kind, folder)
        try:
            return Form.of(suite["meta"]["form"], _max_bytes(suite), suite["meta"]["listed"])
        except AgreementError as error:
            raise AgreementError(f"{_suite_path(kind, folder)}: {error}") from error

    @classmethod
    def of(cls, suite: dict[str, Any], kind: str) -> "Contract":
        """The contract that a suite, as JSON has it, states.

        Raises:
            AgreementError: the suite cannot be used; the message names the key or the rule.
        """
        _check_suite(suite, kind)
        meta = suite["meta"]
        form = Form.of(meta["form"], _max_bytes(suite), meta["listed"])
        facts = frozenset(FACTS) - (frozenset() if form.label else LABEL_FACTS)
        known: dict[Section, frozenset[str]] = {"expectations": facts, "readings": frozenset(form.sensors)}
        rules = tuple(
            Rule.of(entry, section, columns, f"{section}[{at}]")
            for section, columns in known.items()
            for at, entry in enumerate(suite[section])
        )
        _check_rules(rules, facts)
        chosen = {section: [rule for rule in rules if rule.section == section] for section in known}
        suites = {section: Suite(section, of_section) for section, of_section in chosen.items() if of_section}
        _check_bounds(rules, facts)
        return cls(cast(Kind, kind), suite, meta, form, rules, suites)

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it."""
        counted = Counter(rule.severity for rule in self.rules)
        rules = ", ".join(f"{count} {severity.replace(' ', ' a ')}" for severity, count in counted.items())
        columns = f"{self.form.told(WAFER)}, {self.sensors[0]} … {self.sensors[-1]}"
        return {
            "kind": self.kind,
            "suite": f"{self._place.removesuffix(': ')} ({self.suite['name']})",
            "columns": f"{columns}, {self.form.label[0]}" if self.form.label else columns,
            "sensors": len(self.sensors),
            "wafer ids": self.form.wafer_id.pattern,
            "production order": self.order,
            "rules": f"{len(self.rules)}: {rules}",
        }

    _repr_html_ = facts_html

    @property
    def sensors(self) -> tuple[str, ...]:
        """The agreed sensors in their order."""
        return self.form.sensors

    @property
    def order(self) -> str:
        """What production order is taken from: "wafer_number" or "file_time"."""
        return str(self.meta["order"])

    @property
    def repeat_tolerance(self) -> float:
        """The relative difference up to which two readings are the same."""
        return float(self.meta["repeat_tolerance"])

    def judge(self, deliveries: Sequence[Delivery]) -> list[Verdict]:
        """A verdict for each delivery, in the same order; files do not influence each other.

        Raises:
            AgreementError: a rule could not be evaluated, or the suite accepts a file that has no table.
        """
        readable = [delivery for delivery in deliveries if delivery.unread is None]
        with self._named():
            verdicts = iter(self._judge(readable) if readable else ())
        return [next(verdicts) if d.unread is None else unread_verdict(d.file, d.unread) for d in deliveries]

    def rehearse(self) -> None:
        """Apply each rule once to a file that is made up.

        Raises:
            AgreementError: a rule could not be evaluated, see `judge`.
        """
        with self._named():
            for suite in self._suites.values():
                suite.rehearse(TEXT_FACTS)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Tell the suite's file of a rule that could not be evaluated."""
        try:
            yield
        except AgreementError as error:
            raise AgreementError(f"{self._place}{error}") from error

    def _judge(self, deliveries: Sequence[Delivery]) -> list[Verdict]:
        breaches: list[list[Breach]] = [[] for _ in deliveries]
        rules = {rule.name: rule for rule in self.rules}
        for name, rows in self._suites["expectations"].broken(self._facts(deliveries)).items():
            for row in rows:
                breaches[row].append(_file_breach(rules[name], deliveries[row]))
        if "readings" in self._suites:
            self._judge_readings(deliveries, rules, breaches)
        order = {rule.name: at for at, rule in enumerate(self.rules)}
        for found in breaches:
            found.sort(key=lambda breach: order[breach.rule.name])
        return [self._verdict(delivery, found) for delivery, found in zip(deliveries, breaches, strict=True)]

    def _verdict(self, delivery: Delivery, breaches: Sequence[Breach]) -> Verdict:
        share, message = self.meta["max_dropped_share"], self.meta["max_dropped_message"]
        try:
            verdict = pass_verdict(delivery, breaches, self.form.listed, share, message)
        except UnreadError as error:
            return unread_verdict(delivery.file, str(error))
        if verdict.accepted and self.order == "file_time" and delivery.facts["delivered"] is None:
            return Verdict(delivery.file, False, (_UNDATED,), verdict.warnings)
        return verdict

    def _facts(self, deliveries: Sequence[Delivery]) -> pd.DataFrame:
        """The facts that rules are about, a row a file."""
        columns = {column for rule in self.rules if rule.section == "expectations" for column in rule.columns}
        values = {fact: [delivery.facts[fact] for delivery in deliveries] for fact in FACTS if fact in columns}
        text = {fact: pd.Series(column, dtype=object) for fact, column in values.items() if fact in TEXT_FACTS}
        return pd.DataFrame(values | text)

    def _judge_readings(
        self, deliveries: Sequence[Delivery], rules: Mapping[str, Rule], breaches: list[list[Breach]]
    ) -> None:
        """Add what the rules about readings find, over only the columns that they name."""
        columns = sorted({column for rule in self.rules if rule.section == "readings" for column in rule.columns})
        with_table = [at for at, delivery in enumerate(deliveries) if delivery.table is not None]
        if not with_table:
            return
        tables = [cast(pa.Table, deliveries[at].table).select(columns) for at in with_table]
        frame = pa.concat_tables(tables).to_pandas()
        owner = [(at, row) for at, table in zip(with_table, tables, strict=True) for row in range(table.num_rows)]
        if frame.empty:
            return
        for name, rows in self._suites["readings"].broken(frame).items():
            by_file: dict[int, list[Finding]] = {}
            for row in rows:
                at, inside = owner[row]
                by_file.setdefault(at, []).append(_reading(rules[name], deliveries[at], inside, frame.loc[row]))
            for at, found in by_file.items():
                if len(found) > rules[name].tolerance * cast(pa.Table, deliveries[at].table).num_rows:
                    breaches[at].append(Breach(rules[name], tuple(found), len(found)))


def check(
    paths: Sequence[AnyPath],
    contract: Contract,
    chunk: int = 200,
    progress: Callable[[int, int], None] | None = None,
    chunk_bytes: int = 256_000_000,
) -> Iterator[tuple[Delivery, Verdict]]:
    """Read and judge the files that `paths` mean, see `list_files` and `judge_files`.

    Raises:
        AgreementError: as `Contract.judge` does.
        DeliveryError: a path is not there.
    """
    return judge_files(list_files(paths).files, contract, chunk, progress, chunk_bytes)


def judge_files(
    files: Sequence[Entry],
    contract: Contract,
    chunk: int = 200,
    progress: Callable[[int, int], None] | None = None,
    chunk_bytes: int = 256_000_000,
) -> Iterator[tuple[Delivery, Verdict]]:
    """Read and judge `files`, a chunk at a time so that memory stays flat.

    A chunk ends after `chunk` files, or earlier when their tables hold `chunk_bytes` or more. The table of an accepted
    delivery has no wafers that its verdict dropped. `progress` hears of files judged and all files.

    Raises:
        AgreementError: as `Contract.judge` does.
    """
    done = 0
    with ThreadPoolExecutor(2, "parse") as pool:
        reading = _ahead(pool, files, contract.form)
        while deliveries := _chunk(reading, chunk, chunk_bytes):
            for verdict in contract.judge(deliveries):
                delivery = deliveries.pop(0)
                yield keep_rows(delivery, verdict), verdict
                done += 1
                if progress is not None:
                    progress(done, len(files))


def _chunk(reading: Iterator[Delivery], files: int, most_bytes: int) -> list[Delivery]:
    """The next deliveries, to be judged and held in memory together."""
    deliveries: list[Delivery] = []
    held = 0
    while len(deliveries) < files and held < most_bytes and (delivery := next(reading, None)) is not None:
        deliveries.append(delivery)
        held += 0 if delivery.table is None else 8 * delivery.table.num_rows * delivery.table.num_columns
    return deliveries


def _ahead(pool: ThreadPoolExecutor, files: Sequence[Entry], form: Form) -> Iterator[Delivery]:
    """The deliveries of `files` in their order, the next few being read already."""
    waiting: deque[Future[Delivery]] = deque()
    for file in files:
        waiting.append(pool.submit(read_delivery, file.path, form, None, file.within))
        if len(waiting) > 4:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _file_breach(rule: Rule, delivery: Delivery) -> Breach:
    """What breaks a rule about facts: the findings behind its fact, else the fact itself."""
    found = [finding for column in rule.columns for finding in delivery.findings.get(column, ())]
    if found:
        return Breach(rule, tuple(found), sum(delivery.facts[column] for column in rule.columns))
    fact = delivery.facts[rule.columns[0]]
    if fact is None or isinstance(fact, bool):
        return Breach(rule, (Finding(),), fact)
    return Breach(rule, (Finding(got=f"{fact:.3g}" if isinstance(fact, float) else f"{fact}"),), fact)


def _reading(rule: Rule, delivery: Delivery, row: int, readings: "pd.Series[float]") -> Finding:
    got = ", ".join(shown_number(readings[column]) for column in rule.columns)
    return Finding(delivery.lines[row], ", ".join(rule.columns), None, got)


def _max_bytes(suite: Mapping[str, Any]) -> int:
    """The least upper bound that the suite sets for a file's size."""
    bounds: list[Any] = [
        e["kwargs"].get("max_value") for e in suite["expectations"] if e["kwargs"].get("column") == "size"
    ]
    limits: list[int] = [bound for bound in bounds if bound is not None]
    for limit in limits:
        if type(limit) is not int:
            raise AgreementError(f"kwargs.max_value of a rule on 'size': expected a whole number, got {quoted(limit)}")
    if not limits:
        raise AgreementError("no rule bounds the size of a file (max_value on 'size')")
    return min(limits)


def _suite_path(kind: str, folder: Path) -> Path:
    return Path(folder) / f"{kind}.json"


def _read_suite(kind: str, folder: Path) -> dict[str, Any]:
    """The suite as it stands in its file, its outline checked."""
    path = _suite_path(kind, folder)
    try:
        suite = read_json(read_file(path))
        _check_suite(suite, kind)
    except OSError as error:
        raise AgreementError(f"{path}: {error.strerror}, a suite was expected") from error
    except (DocumentError, AgreementError) as error:
        raise AgreementError(f"{path}: {error}") from error
    return cast(dict[str, Any], suite)


def _check_suite(suite: Any, kind: str) -> None:
    try:
        found = fitted(_SuitePart, suite)
    except DocumentError as error:
        raise AgreementError(str(error)) from error
    if found.meta.kind != kind:
        raise AgreementError(f"meta.kind: expected {kind!r}, got {quoted(found.meta.kind)}")


def _check_rules(rules: Sequence[Rule], facts: frozenset[str]) -> None:
    """Names are unique, and each fact that a sound table depends on is guarded by a rule."""
    check_names(rules)
    guarded = {column for rule in rules if rule.section == "expectations" for column in rule.columns}
    for fact in sorted(facts - guarded):
        if FACTS[fact] != "file":
            raise AgreementError(f"no rule guards {fact!r}, without which no file can be accepted")


def _check_bounds(rules: Sequence[Rule], facts: frozenset[str]) -> None:
    """Of the rules that guard such a fact one leaves no room: what they let pass is stored."""
    for fact in sorted(fact for fact in facts if FACTS[fact] != "file"):
        about = [rule for rule in rules if rule.section == "expectations" and fact in rule.columns]
        if not any(_guards(rule, fact) for rule in about):
            names = ", ".join(rule.name for rule in about)
            raise AgreementError(
                f"rule {names}: would let files pass whose wafers cannot be stored as they came; "
                f"a rule about {fact!r} needs {_NEEDED.get(fact, 'max_value 0')}"
            )


def _guards(rule: Rule, fact: str) -> bool:
    """Whether a file without a sound table, as `fact` tells it, always breaks the rule."""
    given = {key: value for key, value in rule.kwargs.items() if key != "column" and value is not None}
    if fact == "encoding":
        return rule.type == "expect_column_values_to_be_in_set" and given == {"value_set": ["utf-8"]}
    if fact == "unreadable":
        return rule.type == "expect_column_values_to_be_null" and not given
    return leaves_no_room(rule, from_one=fact in ("size", "wafers"))
