"""Broken files without number: each ends in the store or in the quarantine, for a reason that is true.

Hypothesis draws recipes: a good file and up to three ways to break it. An oracle reads the outcome by hand and says
which rules are broken, in which lines, and which values are left.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.intake.fuzzing import IMPLIED, Recipe, broken, draw_recipes, file_name
from tests.intake.oracle import WAFER_RULES, Truth, find_truth
from wafer.contract.agreement import init_agreement, make_suite, read_agreement
from wafer.contract.facts import BYTES_OF_START
from wafer.contract.suites import Contract
from wafer.intake.ingest import IngestedFile, ingest
from wafer.intake.quarantine import Quarantine
from wafer.settings import Settings
from wafer.store.snapshot import freeze, read_snapshot, write_snapshot
from wafer.store.wafers import Store, open_store

SENSORS = 6
MAX_DROPPED_SHARE = 0.5
CHUNK = 250
MEGABYTES_OF_GROWTH = 150
KINDS = ("training", "prediction")
MEGABYTE = 2**20 if sys.platform == "darwin" else 2**10


Kept = tuple[bytes, int | None]


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Contract]:
    """For both kinds contracts on six sensors that reject files or drop wafers, and the real one."""
    folder = tmp_path_factory.mktemp("agreement")
    found = {}
    for kind in KINDS:
        found["real", kind] = Contract.load(kind, Path(__file__).parents[2] / "expectations")
        for bad in ("reject file", "drop wafer"):
            path = folder / f"{kind}, {bad}.json"
            init_agreement(path, kind, sensors=SENSORS)
            terms = {"BadWafers": bad, "MaxDroppedShare": MAX_DROPPED_SHARE, "MaxBytes": 200_000, "Listed": 50}
            path.write_text(json.dumps({**json.loads(path.read_text()), **terms}))
            found[bad, kind] = Contract.of(make_suite(read_agreement(path)), kind)
    return found


def judged_truly(entry: IngestedFile, truth: Truth, drops: bool) -> None:
    """The verdict is the oracle's: the same rules, in lines where they are broken."""
    rules, bad = set(truth.broken), truth.bad_lines()
    rules = {rule for rule in rules if truth.broken[rule]}
    too_many = drops and len(bad) > MAX_DROPPED_SHARE * len(truth.lines)
    rejecting = rules - set(WAFER_RULES) if drops and not too_many else rules
    told = rules | ({"max_dropped_share"} if too_many else set())
    if rejecting:
        assert entry.verdict == "quarantined"
        assert {reason["rule"] for reason in entry.reasons} == told
        assert {reason["rule"] for reason in entry.warnings} == truth.warned
    else:
        assert entry.verdict == "accepted"
        assert entry.reasons == []
        assert {reason["rule"] for reason in entry.warnings} == truth.warned | told
        assert entry.dropped == (len(bad) if drops else 0)
    for reason in (*entry.reasons, *entry.warnings):
        if reason["rule"] in truth.broken and reason["line"] is not None:
            assert reason["line"] in truth.broken[reason["rule"]]


def judged_as_implied(entry: IngestedFile, recipe: Recipe, data: bytes, good: bytes) -> None:
    """A change of the `good` file whose effect is plain has that effect, and the good file is accepted."""
    if recipe.name == 0 and data == good:
        assert entry.verdict == "accepted"
    if len(recipe.changes) == 1 and recipe.name == 0 and data != good:
        (change,) = recipe.changes
        rules = {reason["rule"] for reason in entry.reasons}
        if change.way == "cut" and data.endswith(b"\n"):
            return
        if change.way in IMPLIED:
            assert rules & IMPLIED[change.way] or not (rules or IMPLIED[change.way])


def stand_in_the_quarantine(
    quarantine: Quarantine, files: dict[str, tuple[bytes, IngestedFile]], max_bytes: int
) -> None:
    """The bytes of each rejected file, the first ones of one that is too large, with its reasons, and of no other."""
    entries = {entry.digest: entry for entry in quarantine.entries()}
    rejected = {digest for digest, (_, entry) in files.items() if entry.verdict == "quarantined"}
    assert entries.keys() == rejected
    for digest in rejected:
        data, entry = files[digest]
        assert entries[digest].whole == (len(data) <= max_bytes)
        assert entries[digest].path.read_bytes() == (data if len(data) <= max_bytes else data[:BYTES_OF_START])
        assert {reason["rule"] for reason in entries[digest].verdict["reasons"]} == {r["rule"] for r in entry.reasons}


def are_stored_bit_for_bit(store: Store, contract: Contract, expected: dict[str, Kept], place: Path) -> None:
    """The store has the accepted wafers and no others, with the readings and labels of their files; so has a snapshot.

    Without labels there is no snapshot, and the ledger says which wafers there are.
    """
    sensors = list(contract.sensors)
    if contract.kind == "training":
        table = read_snapshot(write_snapshot(freeze(store, sensors), place)).table
        labels = table["label"].tolist()
    else:
        wafers = dict.fromkeys(wafer for record in store.batches("prediction") for wafer in record.wafers)
        table = store.read_wafers(list(wafers), sensors)
        labels = [None] * len(table)
        assert table["label"].isna().all()
    rows = zip(table["wafer"], table[sensors].to_numpy(), labels, strict=True)
    assert {wafer: (readings.tobytes(), label) for wafer, readings, label in rows} == expected
    assert store.counts()["wafers"] == len(expected)


def held_megabytes() -> float:
    """What the process holds now, or where that is not told the most that it ever held."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE


def take_in(
    part: list[tuple[int, Recipe]], contract: Contract, store: Store, quarantine: Quarantine, place: Path
) -> Iterator[tuple[int, Recipe, bytes, IngestedFile]]:
    """Write the files of some recipes and ingest them together."""
    paths = []
    for at, recipe in part:
        paths.append(place / f"{at}" / file_name(recipe, at))
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_bytes(broken(recipe, at, len(contract.sensors), contract.kind == "training"))
    report = ingest(paths, contract, store, quarantine)
    assert [entry.file for entry in report.files] == [os.fsencode(path.name).decode(errors="replace") for path in paths]
    for (at, recipe), path, entry in zip(part, paths, report.files, strict=True):
        yield at, recipe, path.read_bytes(), entry


QUICK = [
    ("reject file", "training", 70, 1),
    ("reject file", "prediction", 60, 2),
    ("drop wafer", "training", 60, 3),
    ("drop wafer", "prediction", 70, 4),
    ("real", "training", 20, 5),
    ("real", "prediction", 20, 6),
]
SLOW = [
    ("reject file", "training", 1_500, 7),
    ("reject file", "prediction", 1_500, 8),
    ("reject file", "training", 1_500, 9),
    ("drop wafer", "prediction", 1_500, 10),
    ("drop wafer", "training", 1_500, 11),
    ("drop wafer", "prediction", 1_500, 12),
    ("real", "training", 500, 13),
    ("real", "prediction", 500, 14),
]


@pytest.mark.parametrize(
    ("agreed", "kind", "number", "seed"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_each_file_is_stored_exactly_or_quarantined_truly(
    contracts: dict[tuple[str, str], Contract],
    settings: Settings,
    tmp_path: Path,
    agreed: str,
    kind: str,
    number: int,
    seed: int,
) -> None:
    """Whatever becomes of a file, it is accepted and kept bit for bit, or quarantined for a reason that is true."""
    contract, quarantine, labelled = contracts[agreed, kind], Quarantine(tmp_path / "quarantine"), kind == "training"
    sensors, drawn = len(contract.sensors), list(enumerate(draw_recipes(number, seed)))
    assert len(drawn) == number
    files: dict[str, tuple[bytes, IngestedFile]] = {}
    expected: dict[str, Kept] = {}
    wrong, held = [], []
    with open_store(settings) as store:
        for start in range(0, number, CHUNK):
            part = drawn[start : start + CHUNK]
            for at, recipe, data, entry in take_in(part, contract, store, quarantine, tmp_path / "raw"):
                truth = find_truth(file_name(recipe, at), data, sensors, contract.form.max_bytes, labelled)
                try:
                    judged_truly(entry, truth, agreed == "drop wafer")
                    good = broken(replace(recipe, changes=()), at, sensors, labelled)
                    judged_as_implied(entry, recipe, data, good)
                except AssertionError as error:
                    wrong.append(f"{error}\n{recipe}\n{entry}\n{dict(truth.broken)}\n{data[:300]!r}")
                files[entry.digest] = (data, entry)
                for wafer, *values in truth.sound() if entry.verdict == "accepted" else ():
                    expected.setdefault(wafer, tuple(values))
            held.append(held_megabytes())
        assert not wrong, f"{len(wrong)} of {number} files:\n\n" + "\n\n".join(wrong[:5])
        stand_in_the_quarantine(quarantine, files, contract.form.max_bytes)
        are_stored_bit_for_bit(store, contract, expected, tmp_path / "snapshot")
    if len(held) > 1:  # in the slow runs; a single chunk has nothing that it could grow beyond
        assert held[-1] - held[0] < MEGABYTES_OF_GROWTH
    assert min(len(expected), len(quarantine.entries())) > number // 5
