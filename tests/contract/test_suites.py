import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wafer.contract.agreement import init_agreement, make_suite, read_agreement
from wafer.contract.facts import read_delivery
from wafer.contract.suites import Contract, check
from wafer.errors import AgreementError, DeliveryError

EXPECTATIONS = Path(__file__).parents[2] / "expectations"
NAME = "wafer_31012020_235959.csv"
HEADER = ",Sensor-1,Sensor-2,Sensor-3,Good/Bad"
RANGE = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "Sensor-2", "min_value": 0, "max_value": 10},
    "meta": {
        "rule": "sensor_2_range",
        "severity": "reject file",
        "message": "line {line}: {column} reads {got}, agreed is {expected}",
        "source": "customer",
    },
}


def small_suite(folder: Path, kind: str = "training", **terms: Any) -> dict[str, Any]:
    """The suite of an agreement on three sensors with further `terms`."""
    folder.mkdir(exist_ok=True)
    path = folder / f"agreement-{len(list(folder.iterdir()))}.json"
    init_agreement(path, kind, sensors=3)
    path.write_text(json.dumps({**json.loads(path.read_text()), **terms}))
    return make_suite(read_agreement(path))


def rule(suite: dict[str, Any], name: str) -> dict[str, Any]:
    """One rule's entry in a suite."""
    return next(entry for entry in suite["expectations"] + suite["readings"] if entry["meta"]["rule"] == name)


def deliver(folder: Path, lines: Sequence[str], name: str = NAME) -> Path:
    """A file of the header and `lines`."""
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in (HEADER, *lines)))
    return path


def wafers(number: int) -> list[str]:
    """Sound lines of wafers 1 to `number`."""
    return [f"Wafer-{at},{at},{at % 7},0.5,{1 if at % 5 == 0 else -1}" for at in range(1, number + 1)]


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """A contract on three sensors in which every broken rule rejects its file."""
    return Contract.of(small_suite(tmp_path_factory.mktemp("agreement")), "training")


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """A contract on three sensors that drops bad wafers, at most a fifth of a file, and knows a range."""
    suite = small_suite(tmp_path_factory.mktemp("agreement"), BadWafers="drop wafer", MaxDroppedShare=0.2)
    suite["readings"].append({**RANGE, "meta": {**RANGE["meta"], "severity": "drop wafer"}})
    return Contract.of(suite, "training")


def test_a_verdict_has_the_agreed_json_shape(contract, tmp_path):
    """A rejected file's verdict names file, verdict, reasons and warnings, each reason with its six keys."""
    path = deliver(tmp_path, ["Wafer-1,1,x,3,-1", "Wafer-1,1,2,3,-1"], "wafer_1012020_235959.csv")
    [verdict] = contract.judge([read_delivery(path, contract.form)])
    assert verdict.as_dict() == {
        "file": "wafer_1012020_235959.csv",
        "verdict": "quarantined",
        "reasons": [
            {
                "rule": "date_stamp",
                "message": "the date stamp in the file's name is 1012020, agreed are 8 digits, DDMMYYYY",
                "line": None,
                "column": None,
                "expected": "8 digits, DDMMYYYY",
                "got": "1012020",
            },
            {
                "rule": "bad_cells",
                "message": "line 2, column Sensor-2: 'x' is no number",
                "line": 2,
                "column": "Sensor-2",
                "expected": "a finite number or nothing",
                "got": "x",
            },
        ],
        "warnings": [],
    }


@pytest.mark.slow
@pytest.mark.invariant
@pytest.mark.parametrize(
    "lines",
    [
        ["x" * 10_000_000],
        [f"{HEADER},{'x' * 10_000_000}", "Wafer-1,1,2,3,-1,1"],
        [f"{HEADER},{','.join(f'x{at}' for at in range(90_000))}", "Wafer-1,1,2,3,-1"],
        [HEADER, f"{'x' * 5_000_000},1,2,3,-1", f"Wafer-2,{'y' * 5_000_000},2,3,{'z' * 5_000_000}"],
        [HEADER, *(f"Wafer-{at},x,y,z,w" for at in range(100_000))],
        [HEADER, *["Wafer-1,\x1b[2J\u202e,2,3,-1"] * 1_000],
    ],
    ids=["header", "name", "columns", "cells", "lines", "escapes"],
)
def test_no_verdict_grows_with_its_file(contract, tmp_path, lines):
    """However long a header, a cell or a file is, each reason stays short and printable, and their number bounded."""
    path = tmp_path / NAME
    path.write_text("".join(f"{line}\n" for line in lines))
    [(_, verdict)] = check([path], contract)
    assert verdict.reasons
    assert all(len(reason.message) < 1_000 and reason.message.isprintable() for reason in verdict.reasons)
    assert len(json.dumps(verdict.as_dict())) < 150_000


def test_an_accepted_file_has_no_reasons(contract, tmp_path):
    """A file as agreed is accepted, without reasons, warnings or dropped wafers."""
    [(delivery, verdict)] = check([deliver(tmp_path, wafers(10))], contract)
    assert verdict.as_dict() == {"file": NAME, "verdict": "accepted", "reasons": [], "warnings": []}
    assert (verdict.dropped, delivery.table.num_rows) == ((), 10)


BROKEN: list[tuple[bytes, list[str]]] = [
    (b"", ["empty_file"]),
    (b"\x1f\x8b\x08", ["encoding", "final_newline"]),
    (b"hello", ["final_newline", "header_unknown"]),
    (f"{HEADER}\r\n".encode(), ["wafers"]),
    (f"{HEADER}\r\n\r\n".encode(), ["wafers"]),
    (f"{HEADER}\nWafer-1,1,2,3,-1".encode(), ["final_newline"]),
    (f"{HEADER}\nWafer-1,1,2,3\n".encode(), ["ragged_lines"]),
    (f'{HEADER}\nWafer-1,1,"2,3,-1\n'.encode(), ["broken_lines"]),
    (f"{HEADER}\nWafer-1,1,2,inf,-1\n".encode(), ["infinite_cells"]),
    (f"{HEADER}\nWafer-1,1,2,3,\n".encode(), ["labels_missing"]),
    (f"{HEADER}\nWafer-1,1,2,3,2\n".encode(), ["labels_unknown"]),
    (f"{HEADER}\n,1,2,3,1\n".encode(), ["ids_empty"]),
    (f"{HEADER}\nX,1,2,3,1\nWafer-1,1,2,3,1\nWafer-1,1,2,3,1\n".encode(), ["ids_malformed", "ids_doubled"]),
    (b",Sensor-1,Sensor-2,Sensor-3\nWafer-1,1,2,3\n", ["columns_missing"]),
    (b",Sensor-1,Sensor-3,Sensor-2,Good/Bad\nWafer-1,1,2,3,1\n", ["columns_misplaced"]),
    (f"{HEADER},X\nWafer-1,1,2,3,1,4\n".encode(), ["columns_extra"]),
    (f"{HEADER},Sensor-1\nWafer-1,1,2,3,1,4\n".encode(), ["columns_doubled"]),
    (HEADER.encode() + b"\n" + b"Wafer-1,1,2,3,1\n" * 2_100_000, ["too_large"]),
    ("".join(f"{line}\n" for line in (HEADER, *wafers(9))).encode(), []),
]


def test_each_kind_of_broken_file_is_rejected_by_its_rule(contract, tmp_path):
    """What is wrong with a file leads to exactly the rules that say so, and nothing wrong to none."""
    found = []
    for at, (content, _) in enumerate(BROKEN):
        (tmp_path / f"wafer_{at + 1:02}012020_000000.csv").write_bytes(content)
    for _, verdict in check([tmp_path], contract):
        assert verdict.accepted == (not verdict.reasons)
        found.append([reason.rule for reason in verdict.reasons])
    assert found == [rules for _, rules in BROKEN]


def test_a_file_with_several_problems_lists_them_all(contract, tmp_path):
    """Name, header, lines, cells, ids and labels are judged in one go."""
    path = tmp_path / "lot.csv"
    path.write_bytes(b",Sensor-1,Sensor-3,Good/Bad,X\nWafer-1,a,2,-1,\nWafer-2,1\nLot-3,1,2,,\n\nWafer-4,inf,2,1,0")
    [(_, verdict)] = check([path], contract)
    assert [(reason.rule, reason.line, reason.column, reason.got) for reason in verdict.reasons] == [
        ("file_name", None, None, "lot.csv"),
        ("final_newline", None, None, None),
        ("columns_missing", 1, "Sensor-2", None),
        ("columns_extra", 1, "X", "column 5"),
        ("ragged_lines", 3, None, "2"),
        ("bad_cells", 2, "Sensor-1", "a"),
        ("infinite_cells", 6, "Sensor-1", "inf"),
        ("ids_malformed", 4, "Wafer", "Lot-3"),
        ("labels_missing", 4, "Good/Bad", ""),
    ]
    assert [(reason.rule, reason.line) for reason in verdict.warnings] == [("blank_lines", 5)]


def test_many_findings_end_in_one_that_counts_the_rest(tmp_path):
    """At most the agreed number of findings is told one by one, and the last reason counts the others."""
    contract = Contract.of(small_suite(tmp_path / "a", Listed=3), "training")
    path = deliver(tmp_path, ["Wafer-1,a,b,c,-1", "Wafer-2,d,e,f,-1"])
    [(_, verdict)] = check([path], contract)
    assert [reason.message for reason in verdict.reasons] == [
        "line 2, column Sensor-1: 'a' is no number",
        "line 2, column Sensor-2: 'b' is no number",
        "line 2, column Sensor-3: 'c' is no number",
        "and 3 more, 6 in all",
    ]


def test_files_are_judged_apart(contract, tmp_path):
    """A file's verdict is the same alone, beside broken neighbours and in chunks of any size."""
    names = [f"wafer_0{day}012020_000000.csv" for day in range(1, 5)]
    for at, name in enumerate(names):
        deliver(tmp_path, wafers(5) if at % 2 else ["Wafer-1,x,2,3,-1"], name)
    alone = [next(check([tmp_path / name], contract))[1] for name in names]
    for chunk in (3, 200):
        assert [verdict for _, verdict in check([tmp_path], contract, chunk=chunk)] == alone
    assert [verdict.accepted for verdict in alone] == [False, True, False, True]


@pytest.mark.slow
@pytest.mark.invariant
def test_large_files_are_not_held_in_memory_together(contract, tmp_path):
    """What a chunk holds is bounded by the size of its tables too: later files are read when earlier ones are done."""
    paths = [deliver(tmp_path, wafers(5), f"wafer_{day:02}012020_000000.csv") for day in range(1, 21)]
    judging = check([tmp_path], contract, chunk_bytes=1)
    first = next(judging)
    paths[-1].write_text("")
    assert [verdict.accepted for _, verdict in (first, *judging)] == [True] * 19 + [False]


def test_progress_is_told_file_by_file(contract, tmp_path):
    """Who listens hears how many files of how many are judged."""
    for day in (1, 2, 3):
        deliver(tmp_path, wafers(5), f"wafer_0{day}012020_000000.csv")
    heard: list[tuple[int, int]] = []
    list(check([tmp_path], contract, chunk=2, progress=lambda done, total: heard.append((done, total))))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_nothing_delivered_is_nothing_judged(contract, tmp_path):
    """An empty folder has no verdicts; a missing one is an error."""
    assert list(check([tmp_path], contract)) == []
    assert contract.judge([]) == []
    with pytest.raises(DeliveryError, match="no such file or folder"):
        list(check([tmp_path / "none"], contract))


def test_bad_wafers_are_dropped_where_the_agreement_says_so(dropping, tmp_path):
    """Bad rows are taken out with their original line and reasons, and the rest of the file is accepted."""
    lines = wafers(20)
    lines[2] = "Wafer-3,bad,worse,0.5,-1"
    lines[6] = "Wafer-7,1,2"
    lines[9] = "Wafer-10,1,99,0.5,1"
    [(delivery, verdict)] = check([deliver(tmp_path, lines)], dropping)
    assert verdict.accepted
    assert [(row.row, row.line, row.text, [r.message for r in row.reasons]) for row in verdict.dropped] == [
        (
            2,
            4,
            "Wafer-3,bad,worse,0.5,-1",
            ["line 4, column Sensor-1: 'bad' is no number", "line 4, column Sensor-2: 'worse' is no number"],
        ),
        (6, 8, "Wafer-7,1,2", ["line 8 has 3 fields, the header has 5"]),
        (9, 11, "Wafer-10,1,99,0.5,1", ["line 11: Sensor-2 reads 99, agreed is 0 to 10"]),
    ]
    kept = [at for at in range(1, 21) if at not in (3, 7, 10)]
    assert delivery.table["wafer"].to_pylist() == [f"Wafer-{at}" for at in kept]
    assert delivery.lines == [at + 1 for at in kept]
    assert [warning.rule for warning in verdict.warnings] == [
        "ragged_lines",
        "bad_cells",
        "bad_cells",
        "sensor_2_range",
    ]


def test_more_bad_wafers_than_agreed_reject_the_file(dropping, tmp_path):
    """A fifth of the wafers may be dropped; one more, and the file is rejected with all reasons."""
    lines = wafers(10)
    lines[0], lines[1] = ",1,1,1,-1", "Wafer-3,1,1,1,-1"
    fifth = deliver(tmp_path, lines)
    [(delivery, verdict)] = check([fifth], dropping)
    assert (verdict.accepted, len(verdict.dropped), delivery.table.num_rows) == (True, 2, 8)
    lines[4] = "Wafer-5,1,1,1,7"
    [(_, verdict)] = check([deliver(tmp_path, lines)], dropping)
    assert (verdict.accepted, verdict.dropped) == (False, ())
    assert [reason.rule for reason in verdict.reasons] == [
        "max_dropped_share",
        "ids_empty",
        "ids_doubled",
        "labels_unknown",
    ]
    assert verdict.reasons[0].message == "too many wafers would have to be dropped: 3 of 10, agreed is at most 20%"


def test_more_bad_wafers_than_are_kept_reject_the_file(dropping, tmp_path):
    """Beyond 10,000 bad lines not each is known, so the file is rejected though their share would be agreed."""
    lines = [f"Wafer-{at},1,2,3,-1" if at % 6 else "x" for at in range(1, 61_001)]
    [(delivery, verdict)] = check([deliver(tmp_path, lines)], dropping)
    assert delivery.facts["ragged_lines"] == 10_166
    assert (verdict.accepted, verdict.dropped, verdict.reasons[0].rule) == (False, (), "max_dropped_share")


def test_lines_of_carriage_returns_are_dropped_like_others(dropping, tmp_path):
    """A line of two carriage returns is a broken line, not a blank one, when it is dropped too."""
    path = deliver(tmp_path, wafers(20))
    path.write_bytes(path.read_bytes() + b"\r\r\n\r\nWafer-21,1\r\r\n")
    [(_, verdict)] = check([path], dropping)
    assert verdict.accepted
    assert [(row.row, row.line, row.text) for row in verdict.dropped] == [(20, 22, "\r"), (21, 24, "Wafer-21,1\r")]
    assert [(reason.rule, reason.line) for reason in verdict.warnings] == [
        ("blank_lines", 23),
        ("broken_lines", 22),
        ("broken_lines", 24),
    ]


def test_a_file_that_changes_under_the_judgement_is_unread(dropping, tmp_path):
    """Original lines are kept only from the bytes that were judged, so the file is not taken in, and that is said."""
    path = deliver(tmp_path, [*wafers(10), "Wafer-11,x,1,1,-1"])
    delivery = read_delivery(path, dropping.form)
    deliver(tmp_path, wafers(10))
    [verdict] = dropping.judge([delivery])
    assert (verdict.word, verdict.accepted) == ("unread", False)
    assert "changed while it was judged" in verdict.reasons[0].message


@pytest.mark.parametrize(("severity", "accepted"), [("reject file", False), ("warn", True)])
def test_a_customers_own_rule_needs_no_code(tmp_path, severity, accepted):
    """A range for one sensor, added to the JSON, names the file's line, column and value, and does what it says."""
    suite = small_suite(tmp_path / "a")
    suite["readings"].append({**RANGE, "meta": {**RANGE["meta"], "severity": severity}})
    other = deliver(tmp_path, wafers(5), "wafer_01012020_000000.csv")
    path = deliver(tmp_path, ["Wafer-1,1,10,3,-1", "Wafer-2,1,10.5,3,-1", "Wafer-3,1,,3,1"])
    [(_, first), (_, verdict)] = check([other, path], Contract.of(suite, "training"))
    assert first.accepted
    assert verdict.accepted == accepted
    [reason] = verdict.warnings if accepted else verdict.reasons
    assert reason.as_dict() == {
        "rule": "sensor_2_range",
        "message": "line 3: Sensor-2 reads 10.5, agreed is 0 to 10",
        "line": 3,
        "column": "Sensor-2",
        "expected": "0 to 10",
        "got": "10.5",
    }


def test_a_rule_about_readings_may_be_broken_by_an_agreed_share(tmp_path):
    """A tolerance of a quarter lets one wafer of four pass, and not two."""
    suite = small_suite(tmp_path / "a")
    suite["readings"].append({**RANGE, "meta": {**RANGE["meta"], "tolerance": 0.25}})
    lines = ["Wafer-1,1,11,3,-1", "Wafer-2,1,2,3,-1", "Wafer-3,1,2,3,-1", "Wafer-4,1,2,3,1"]
    one = deliver(tmp_path, lines, "wafer_01012020_000000.csv")
    lines[1] = "Wafer-2,1,-1,3,-1"
    two = deliver(tmp_path, lines, "wafer_02012020_000000.csv")
    [(_, first), (_, second)] = check([one, two], Contract.of(suite, "training"))
    assert first.accepted
    assert [reason.line for reason in second.reasons] == [2, 3]


def test_a_customers_own_rule_about_facts_needs_no_code(tmp_path):
    """Any fact about a file can be bounded in the JSON."""
    suite = small_suite(tmp_path / "a")
    own = copy.deepcopy(RANGE)
    own["kwargs"] = {"column": "faulty", "max_value": 2}
    own["meta"] |= {"rule": "too_many_faulty", "message": "{got} wafers are faulty, agreed is {expected}"}
    suite["expectations"].append(own)
    [(_, verdict)] = check([deliver(tmp_path, wafers(20))], Contract.of(suite, "training"))
    assert [reason.message for reason in verdict.reasons] == ["4 wafers are faulty, agreed is at most 2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(expectations=[]), "expectations: expected 1 or more items, got []"),
        (lambda s: s.pop("readings"), "readings: missing"),
        (lambda s: s.update(extra=1), "extra: unknown key"),
        (lambda s: s["meta"].pop("order"), "meta.order: missing"),
        (
            lambda s: s["meta"].update(order="alphabet"),
            "meta.order: expected 'wafer_number' or 'file_time', got 'alphabet'",
        ),
        (lambda s: s["meta"].update(max_dropped_share=1), "meta.max_dropped_share: must be below 1.0, got 1"),
        (lambda s: s["meta"].update(kind="prediction"), "meta.kind: expected 'training', got 'prediction'"),
        (
            lambda s: rule(s, "file_name").update(type="expect_nothing"),
            "rule file_name: expect_nothing is no known expectation",
        ),
        (
            lambda s: rule(s, "file_name")["kwargs"].update(reg="x"),
            "rule file_name: expect_column_values_to_match_regex refuses its kwargs: reg; extra fields not permitted",
        ),
        (
            lambda s: rule(s, "file_name").update(type="expect_column_values_to_be_unique", kwargs={"column": "name"}),
            "rule file_name: expect_column_values_to_be_unique does not judge each row by itself",
        ),
        (
            lambda s: rule(s, "wafers").update(type="expect_column_mean_to_be_between"),
            "rule wafers: expect_column_mean_to_be_between does not judge each row by itself",
        ),
        (lambda s: rule(s, "wafers")["kwargs"].update(mostly=0.5), "rule wafers: kwargs.mostly would judge files"),
        (
            lambda s: rule(s, "wafers")["kwargs"].update(column="wavers"),
            "rule wafers: 'wavers' is no fact and no agreed sensor that a rule could be about, did you mean 'wafers'?",
        ),
        (
            lambda s: rule(s, "wafers")["kwargs"].update(min_value=9, max_value=3),
            "rule wafers: kwargs.min_value 9 is above max_value 3",
        ),
        (
            lambda s: rule(s, "file_name")["kwargs"].update(regex="("),
            "rule file_name: kwargs.regex: missing ), unterminated subpattern at position 0, got '('",
        ),
        (
            lambda s: rule(s, "file_name").update(
                type="expect_column_values_to_match_regex_list",
                kwargs={"column": "name", "regex_list": ["wafer", "(w+)+_"]},
            ),
            "rule file_name: kwargs.regex_list: expected repeats that the next character ends",
        ),
        (
            lambda s: rule(s, "wafers")["kwargs"].update(min_value="1"),
            "rule wafers: kwargs.min_value: expected a number, got '1'",
        ),
        (lambda s: s["meta"].update(Order="file_time"), "meta.Order: unknown key, did you mean 'order'?"),
        (lambda s: s["meta"].update(repeat_tolerance=True), "meta.repeat_tolerance: expected a number, got true"),
        (lambda s: s["meta"].update(repeat_tolerance=float("inf")), "meta.repeat_tolerance: expected a finite number"),
        (lambda s: s["meta"].update(listed=1.5), "meta.listed: "),
        (lambda s: s["meta"]["form"].update(label=["Sensor-1"]), "meta.form.label: each name once, but 'Sensor-1'"),
        (
            lambda s: s["meta"]["form"].update(wafer=["a", " a"]),
            "meta.form.wafer: each name once, but ' a' stands twice",
        ),
        (
            lambda s: s["meta"]["form"].update(labels={"1": 1}),
            "meta.form.labels: expected spellings of -1 (good) and 1",
        ),
        (lambda s: rule(s, "wafers")["meta"].update(message="{got.real}"), "meta.message: knows no {got.real}"),
        (
            lambda s: rule(s, "wafers")["meta"].update(message="{got:>99999}"),
            "meta.message: {got} must stand by itself",
        ),
        (lambda s: rule(s, "wafers")["meta"].update(severity="shout"), "rule wafers: meta.severity is 'reject file'"),
        (
            lambda s: rule(s, "bad_cells")["meta"].update(severity="warn"),
            "rule bad_cells: meta.severity is 'reject file' or 'drop wafer', got 'warn'",
        ),
        (
            lambda s: rule(s, "file_name")["meta"].update(severity="drop wafer"),
            "rule file_name: meta.severity is 'reject file' or 'warn', got 'drop wafer'",
        ),
        (lambda s: rule(s, "wafers")["meta"].update(message="{x}"), "expectations[13].meta.message: knows no {x}"),
        (
            lambda s: rule(s, "wafers")["meta"].update(message="none\nwafer: accepted"),
            r"meta.message: expected one line of at most 600 characters, got 'none\nwafer: accepted'",
        ),
        (lambda s: rule(s, "wafers")["meta"].update(message="x" * 601), "meta.message: expected one line of at most"),
        (
            lambda s: rule(s, "wafers")["meta"].update(expected="\x1b[2K"),
            r"meta.expected: expected text on one line, got",
        ),
        (lambda s: rule(s, "wafers")["meta"].update(rule="a\u202eb"), "meta.rule: expected text on one line, got"),
        (lambda s: s["meta"].update(max_dropped_message="a\tb"), "meta.max_dropped_message: expected one line of at"),
        (lambda s: rule(s, "wafers")["meta"].update(message="{"), "expectations[13].meta.message: cannot be used"),
        (lambda s: rule(s, "wafers")["meta"].update(colour=1), "expectations[13].meta.colour: unknown key"),
        (lambda s: rule(s, "wafers")["meta"].pop("source"), "expectations[13].meta.source: missing"),
        (lambda s: rule(s, "wafers")["meta"].update(rule="encoding"), "rule encoding: stands twice in the suite"),
        (lambda s: s["expectations"].remove(rule(s, "bad_cells")), "no rule guards 'bad_cells'"),
        (lambda s: s["expectations"].remove(rule(s, "too_large")), "no rule bounds the size of a file"),
        (
            lambda s: s["readings"].append({**RANGE, "kwargs": {"column": "Sensor-9", "min_value": 0}}),
            "rule sensor_2_range: 'Sensor-9' is no fact and no agreed sensor",
        ),
    ],
)
def test_a_suite_that_cannot_be_used_is_refused_by_name(tmp_path, change, message):
    """An unknown, dropped, unusable or missing rule is an error that names it, never a pass."""
    suite = small_suite(tmp_path / "a")
    change(suite)
    with pytest.raises(AgreementError, match=re.escape(message)):
        Contract.of(suite, "training")


def test_a_rule_that_cannot_be_evaluated_is_an_error(tmp_path):
    """An expectation that raises on the data is named with its file, ahead and in use; nothing is accepted by it."""
    suite = small_suite(tmp_path / "a")
    rule(suite, "file_name").update(
        type="expect_column_values_to_be_between", kwargs={"column": "name", "min_value": 1}
    )
    (tmp_path / "training.json").write_text(json.dumps(suite))
    contract = Contract.load("training", tmp_path)
    told = f"^{re.escape(str(tmp_path))}/training.json: rule file_name: could not be evaluated"
    with pytest.raises(AgreementError, match=told):
        contract.rehearse()
    with pytest.raises(AgreementError, match=told):
        list(check([deliver(tmp_path, wafers(3))], contract))


@pytest.mark.parametrize(
    ("kind", "section", "kwargs"),
    [
        ("expect_column_values_to_be_between", "expectations", {"column": "name", "min_value": 1}),
        ("expect_column_pair_values_a_to_be_greater_than_b", "expectations", {"column_A": "size", "column_B": "name"}),
        ("expect_column_values_to_be_of_type", "readings", {"column": "Sensor-1", "type_": "int"}),
    ],
)
def test_a_rule_that_no_file_can_be_judged_by_is_told_ahead(tmp_path, kind, section, kwargs):
    """What an expectation makes of facts or readings is tried on a made-up file; the suite's own rules pass that."""
    suite = small_suite(tmp_path / "a")
    Contract.of(suite, "training").rehearse()
    meta = {"rule": "own", "severity": "warn", "message": "{got}", "source": "house"}
    suite[section].append({"type": kind, "kwargs": kwargs, "meta": meta})
    with pytest.raises(AgreementError, match="rule own: "):
        Contract.of(suite, "training").rehearse()


LAX = {
    **{key: {"max_value": 5} for key in ("bad_cells", "infinite_cells", "broken_lines", "ragged_lines")},
    **{key: {"max_value": 5} for key in ("ids_empty", "ids_malformed", "ids_doubled")},
    **{key: {"max_value": 1} for key in ("labels_missing", "labels_unknown", "columns_missing", "header_unknown")},
    "encoding": {"value_set": ["utf-8", "gzip"]},
    "wafers": {"min_value": 0},
    "empty_file": {"min_value": 0},
}


@pytest.mark.parametrize(("name", "kwargs"), LAX.items(), ids=LAX.keys())
def test_a_rule_that_would_let_broken_wafers_pass_is_refused(tmp_path, name, kwargs):
    """A bound that leaves room where nothing sound could be stored makes the suite unusable, and its rule is named."""
    suite = small_suite(tmp_path / "a")
    rule(suite, name)["kwargs"].update(kwargs)
    with pytest.raises(AgreementError, match=f"rule .*{name}.*: would let files pass whose wafers cannot be stored"):
        Contract.of(suite, "training")


WRONG_TYPES: list[tuple[str, Any]] = [
    ("meta: expected an object of keys and values, got []", lambda s: s.update(meta=[])),
    ("meta.form: expected an object of keys and values, got []", lambda s: s["meta"].update(form=[])),
    ("meta.form.sensors: expected a list", lambda s: s["meta"]["form"].update(sensors="Sensor-1")),
    ("meta.form.stamp_format: expected date and time", lambda s: s["meta"]["form"].update(stamp_format="%d%m%Y%H")),
    ("meta.form.wafer_id: expected text, got 5", lambda s: s["meta"]["form"].update(wafer_id=5)),
    (
        "meta.form.labels: expected an object of keys and values, got [1]",
        lambda s: s["meta"]["form"].update(labels=[1]),
    ),
    ("meta.max_dropped_message: knows no {line}", lambda s: s["meta"].update(max_dropped_message="{line}")),
    ("readings: expected a list, got {}", lambda s: s.update(readings={})),
    ("expectations[0]: expected an object of keys and values, got 'x'", lambda s: s["expectations"].insert(0, "x")),
    (
        "expectations[0].kwargs: expected an object of keys and values, got []",
        lambda s: s["expectations"][0].update(kwargs=[]),
    ),
    (
        "expectations[0].meta: expected an object of keys and values, got []",
        lambda s: s["expectations"][0].update(meta=[]),
    ),
    ("expectations[0].meta.rule: expected text, got []", lambda s: s["expectations"][0]["meta"].update(rule=[])),
    ("expectations[0].meta.severity: expected text", lambda s: s["expectations"][0]["meta"].update(severity=[])),
    ("'size': expected a whole number, got '9'", lambda s: rule(s, "too_large")["kwargs"].update(max_value="9")),
    (
        "rule sensor_2_range: kwargs.column_list: expected a list of names, got 'Sensor-1'",
        lambda s: s["readings"].append({**RANGE, "kwargs": {"column_list": "Sensor-1"}}),
    ),
]


@pytest.mark.parametrize(("message", "change"), WRONG_TYPES, ids=[message for message, _ in WRONG_TYPES])
def test_a_value_of_another_type_is_told_with_file_and_key(tmp_path, message, change):
    """A suite with a list where an object belongs, or the like, is refused in a sentence about the file and the key."""
    suite = small_suite(tmp_path / "a")
    change(suite)
    (tmp_path / "training.json").write_text(json.dumps(suite))
    with pytest.raises(AgreementError, match=f"training\\.json: .*{re.escape(message)}"):
        Contract.load("training", tmp_path)


def test_what_the_suite_says_was_agreed_is_told(tmp_path):
    """Words of the suite's own about what was agreed win over those of the finding."""
    suite = small_suite(tmp_path / "a")
    rule(suite, "bad_cells")["meta"]["expected"] = "a reading in volts"
    [(_, verdict)] = check([deliver(tmp_path, ["Wafer-1,x,2,3,-1"])], Contract.of(suite, "training"))
    assert verdict.reasons[0].expected == "a reading in volts"


def test_more_bad_wafers_than_are_known_by_line_are_not_counted_wrong(dropping, tmp_path):
    """Where findings end at their bound the reason says "at least", and the file is quarantined."""
    number, bad = 61_000, 10_166
    lines = [f"Wafer-{at},1,2,3,-1" if at % 6 else "x" for at in range(1, number + 1)]
    assert lines.count("x") == bad
    [(_, verdict)] = check([deliver(tmp_path, lines)], dropping)
    [share, *_] = verdict.reasons
    assert (share.rule, share.got) == ("max_dropped_share", f"at least 10000 of {number}")
    assert share.expected == "at most 20%, and less than 10000"
    assert f"{bad} in all" in verdict.reasons[-1].message


def test_without_a_time_in_its_name_no_file_has_a_place(tmp_path):
    """Where the order is taken from the file's name, a name without a time is a reason, even if names only warn."""
    suite = small_suite(tmp_path / "a", Order="file_time")
    rule(suite, "file_name")["meta"]["severity"] = "warn"
    [(_, verdict)] = check([deliver(tmp_path, wafers(3), "lot.csv")], Contract.of(suite, "training"))
    assert [reason.rule for reason in verdict.reasons] == ["order"]
    assert [warning.rule for warning in verdict.warnings] == ["file_name"]


def test_a_suite_file_is_read_or_named(tmp_path):
    """A missing or broken suite file is an error with its path."""
    with pytest.raises(AgreementError, match=r"training\.json: No such file or directory, a suite was expected"):
        Contract.load("training", tmp_path)
    for content, message in (
        ("{", "no JSON document: "),
        ('{"meta": {"kind": 1, "kind": 2}}', "meta.kind: stands twice"),
        ('{"meta": NaN}', "meta: NaN is no number"),
        ('{"meta": 1e999}', "meta: 1e999 is no number"),
        ('{"meta": "\\ud800"}', "meta: expected text of whole characters"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "\xfc"}', "expected UTF-8 text, got the byte 0xfc in line 1"),
    ):
        (tmp_path / "training.json").write_text(content, encoding="latin-1")
        with pytest.raises(AgreementError, match=rf"training\.json: .*{message}"):
            Contract.load("training", tmp_path)


def test_the_contract_says_how_wafers_are_ordered_and_compared():
    """Order, tolerance and sensors of the committed suites are at hand for the store."""
    for kind in ("training", "prediction"):
        contract = Contract.load(kind, EXPECTATIONS)
        assert (contract.kind, contract.order, contract.repeat_tolerance) == (kind, "wafer_number", 1e-9)
        assert contract.sensors == tuple(f"Sensor-{number}" for number in range(1, 591))
        assert Contract.load_form(kind, EXPECTATIONS) == contract.form


MISSING = [("columns_missing", f"Sensor-{number}") for number in range(7, 35)]
NO_LABEL = [("columns_missing", "Good/Bad")]
NAME_RULES = {
    "Wafer12_20012.csv": [("file_name", None)],
    "Wafer_12012020_111.csv": [("time_stamp", None)],
    "Wafer_15010_130532.csv": [("date_stamp", None)],
    "Wafer_18012020_121532.csv": [],
    "Wafer_23012020_163456.csv": [],
    "Wafer_fault_detection.csv": [("file_name", None)],
    "Waferdefault_15010_130532.csv": [("file_name", None), ("date_stamp", None)],
}
WITH_EMPTY_SENSORS = {
    "malformed": {
        "Wafer_12012020_111.csv",
        "Wafer_15010_130532.csv",
        "Wafer_fault_detection.csv",
        "Waferdefault_15010_130532.csv",
    },
    "prediction": {
        "Wafer_13012020_141000.csv",
        "Wafer_15010_130532.csv",
        "wafer_07012020_041011.csv",
        "wafer_20012020_090819.csv",
        "wafer_22022020_041119.csv",
        "wafer_23012020_011008.csv",
        "wafer_28012020_051011.csv",
        "wafer_31012020_090811.csv",
    },
    "training": {
        "wafer_07012020_041011.csv",
        "wafer_20012020_090819.csv",
        "wafer_22022020_041119.csv",
        "wafer_23012020_011008.csv",
        "wafer_28012020_051011.csv",
        "wafer_31012020_090811.csv",
    },
}
EMPTY_SENSORS = (
    "Sensor-86, Sensor-110, Sensor-111, Sensor-112, Sensor-221, Sensor-245, Sensor-246, Sensor-247, "
    "Sensor-359, Sensor-383, Sensor-384, Sensor-385, Sensor-493, Sensor-517, Sensor-518, Sensor-519"
)


def real_contract(kind: str, policy: str) -> Contract:
    """The committed contract with "warn" or "reject file" for entirely empty sensors."""
    suite = json.loads((EXPECTATIONS / f"{kind}.json").read_bytes())
    rule(suite, "empty_sensors")["meta"]["severity"] = policy
    return Contract.of(suite, kind)


def expected(folder: str, file: str, kind: str) -> list[tuple[str, str | None]]:
    """Rule and column of each reason for a real file, empty sensors apart."""
    reasons: list[tuple[str, str | None]] = []
    if folder == "malformed":
        reasons += NAME_RULES[file]
        reasons += MISSING if file == "Wafer_23012020_163456.csv" else []
        reasons += NO_LABEL if kind == "training" else []
    elif file == "Wafer_15010_130532.csv":
        reasons.append(("date_stamp", None))
    return reasons


@pytest.mark.parametrize("policy", ["warn", "reject file"])
@pytest.mark.parametrize(
    ("folder", "kind"),
    [("malformed", "training"), ("malformed", "prediction"), ("prediction", "prediction"), ("training", "training")],
)
def test_real_files_get_the_right_reasons(real_wafers, folder, kind, policy):
    """Every real file has exactly the reasons that are true of it, whether empty sensors are tolerated or not."""
    found, wanted = {}, {}
    for delivery, verdict in check([real_wafers / folder], real_contract(kind, policy)):
        assert verdict.accepted == (not verdict.reasons)
        found[verdict.file] = (
            [(reason.rule, reason.column) for reason in verdict.reasons],
            [(reason.rule, reason.column) for reason in verdict.warnings],
        )
        reasons = expected(folder, verdict.file, kind)
        empty = [("empty_sensors", EMPTY_SENSORS)] if verdict.file in WITH_EMPTY_SENSORS[folder] else []
        wanted[verdict.file] = (reasons, empty) if policy == "warn" else (reasons + empty, [])
        assert delivery.facts["wafers"] in (37, 100, 101)
    assert found == wanted
    assert len(found) == {"malformed": 7, "prediction": 15, "training": 13}[folder]


def test_tolerating_empty_sensors_keeps_every_faulty_wafer(real_wafers):
    """The reference behaviour turns away 6 of 13 training files and 39 of 59 faulty wafers; tolerance none."""
    kept = {}
    for policy in ("warn", "reject file"):
        judged = check([real_wafers / "training"], real_contract("training", policy))
        accepted = [delivery for delivery, verdict in judged if verdict.accepted]
        kept[policy] = (len(accepted), sum(delivery.facts["faulty"] for delivery in accepted))
    assert kept == {"warn": (13, 59), "reject file": (7, 20)}


def test_reasons_for_real_files_are_sentences(real_wafers):
    """The messages say in words what is wrong with the malformed files."""
    messages = {
        verdict.file: [reason.message for reason in verdict.reasons]
        for _, verdict in check([real_wafers / "malformed"], real_contract("training", "warn"))
    }
    no_label = "column Good/Bad is missing"
    shape = "agreed is wafer_DDMMYYYY_HHMMSS.csv"
    date = "the date stamp in the file's name is 15010, agreed are 8 digits, DDMMYYYY"
    assert messages == {
        "Wafer12_20012.csv": [f"the file is named Wafer12_20012.csv, {shape}", no_label],
        "Wafer_12012020_111.csv": [
            "the time stamp in the file's name is 111, agreed are 6 digits, HHMMSS",
            no_label,
        ],
        "Wafer_15010_130532.csv": [date, no_label],
        "Wafer_18012020_121532.csv": [no_label],
        "Wafer_23012020_163456.csv": [*(f"column Sensor-{n} is missing" for n in range(7, 35)), no_label],
        "Wafer_fault_detection.csv": [f"the file is named Wafer_fault_detection.csv, {shape}", no_label],
        "Waferdefault_15010_130532.csv": [f"the file is named Waferdefault_15010_130532.csv, {shape}", date, no_label],
    }
