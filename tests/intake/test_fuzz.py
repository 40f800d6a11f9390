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
from wafer.intake.agreement import init_agreement, make_suite, read_agreement
from wafer.intake.contract import Contract
from wafer.intake.ingest import IngestedFile, ingest
from wafer.intake.quarantine import Quarantine
from wafer.intake.snapshot import freeze, read_snapshot, write_snapshot
from wafer.intake.store import Store, open_store
from wafer.settings import Settings

SENSORS = 6
MAX_DROPPED_SHARE = 0.5
CHUNK = 250
MEGABYTES_OF_GROWTH = 150
MEGABYTE = 2**20 if sys.platform == "darwin" else 2**10


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Contract]:
    """Contracts on six sensors that reject files or drop wafers, and the real one."""
    folder = tmp_path_factory.mktemp("agreement")
    found = {"real": Contract.load("training", Path(__file__).parents[2] / "expectations")}
    for bad in ("reject file", "drop wafer"):
        path = folder / f"{bad}.json"
        init_agreement(path, "training", sensors=SENSORS)
        terms = {"BadWafers": bad, "MaxDroppedShare": MAX_DROPPED_SHARE, "MaxBytes": 200_000, "Listed": 50}
        path.write_text(json.dumps({**json.loads(path.read_text()), **terms}))
        found[bad] = Contract.of(make_suite(read_agreement(path)), "training")
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


def judged_as_implied(entry: IngestedFile, recipe: Recipe, data: bytes, number: int, sensors: int) -> None:
    """A change whose effect is plain has that effect, and a file that was not changed is accepted."""
    good = broken(replace(recipe, changes=()), number, sensors)
    if recipe.name == 0 and data == good:
        assert entry.verdict == "accepted"
    if len(recipe.changes) == 1 and recipe.name == 0 and data != good:
        (change,) = recipe.changes
        rules = {reason["rule"] for reason in entry.reasons}
        if change.way == "cut" and data.endswith(b"\n"):
            return
        if change.way in IMPLIED:
            assert rules & IMPLIED[change.way] or not (rules or IMPLIED[change.way])


def stand_in_the_quarantine(quarantine: Quarantine, files: dict[str, tuple[bytes, IngestedFile]]) -> None:
    """The bytes of each rejected file, with its reasons, and of no other."""
    entries = {entry.digest: entry for entry in quarantine.entries()}
    rejected = {digest for digest, (_, entry) in files.items() if entry.verdict == "quarantined"}
    assert entries.keys() == rejected
    for digest in rejected:
        data, entry = files[digest]
        assert entries[digest].path.read_bytes() == data
        assert {reason["rule"] for reason in entries[digest].verdict["reasons"]} == {r["rule"] for r in entry.reasons}


def are_stored_bit_for_bit(
    store: Store, contract: Contract, expected: dict[str, tuple[bytes, int]], place: Path
) -> None:
    """The snapshot has the accepted wafers and no others, with the readings and labels of their files."""
    frozen = read_snapshot(write_snapshot(freeze(store, contract.sensors), place))
    rows = zip(frozen.table["wafer"], frozen.readings.to_numpy(), frozen.labels.tolist(), strict=True)
    assert {wafer: (readings.tobytes(), label) for wafer, readings, label in rows} == expected


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE


def take_in(
    part: list[tuple[int, Recipe]], contract: Contract, store: Store, quarantine: Quarantine, place: Path
) -> Iterator[tuple[int, Recipe, bytes, IngestedFile]]:
    """Write the files of some recipes and ingest them together."""
    paths = []
    for at, recipe in part:
        paths.append(place / f"{at}" / file_name(recipe, at))
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_bytes(broken(recipe, at, len(contract.sensors)))
    report = ingest(paths, contract, store, quarantine)
    assert [entry.file for entry in report.files] == [os.fsencode(path.name).decode(errors="replace") for path in paths]
    for (at, recipe), path, entry in zip(part, paths, report.files, strict=True):
        yield at, recipe, path.read_bytes(), entry


@pytest.mark.parametrize(
    ("kind", "number", "seed"),
    [
        ("reject file", 130, 1),
        ("drop wafer", 130, 2),
        ("real", 40, 3),
        *(pytest.param("reject file", 1_500, seed, marks=pytest.mark.slow) for seed in (4, 5, 6)),
        *(pytest.param("drop wafer", 1_500, seed, marks=pytest.mark.slow) for seed in (7, 8, 9)),
        *(pytest.param("real", 500, seed, marks=pytest.mark.slow) for seed in (10, 11)),
    ],
)
def test_each_file_is_stored_exactly_or_quarantined_truly(
    contracts: dict[str, Contract], settings: Settings, tmp_path: Path, kind: str, number: int, seed: int
) -> None:
    """Whatever becomes of a file, it is accepted and kept bit for bit, or quarantined for a reason that is true."""
    contract, quarantine = contracts[kind], Quarantine(tmp_path / "quarantine")
    drawn = list(enumerate(draw_recipes(number, seed)))
    assert len(drawn) == number
    files: dict[str, tuple[bytes, IngestedFile]] = {}
    expected: dict[str, tuple[bytes, int]] = {}
    wrong, peaks = [], []
    with open_store(settings) as store:
        for start in range(0, number, CHUNK):
            part = drawn[start : start + CHUNK]
            for at, recipe, data, entry in take_in(part, contract, store, quarantine, tmp_path / "raw"):
                truth = find_truth(file_name(recipe, at), data, len(contract.sensors), contract.form.max_bytes)
                try:
                    judged_truly(entry, truth, kind == "drop wafer")
                    judged_as_implied(entry, recipe, data, at, len(contract.sensors))
                except AssertionError as error:
                    wrong.append(f"{error}\n{recipe}\n{entry}\n{dict(truth.broken)}\n{data[:300]!r}")
                files[entry.digest] = (data, entry)
                for wafer, *values in truth.sound() if entry.verdict == "accepted" else ():
                    expected.setdefault(wafer, tuple(values))
            peaks.append(peak_megabytes())
        assert not wrong, f"{len(wrong)} of {number} files:\n\n" + "\n\n".join(wrong[:5])
        stand_in_the_quarantine(quarantine, files)
        are_stored_bit_for_bit(store, contract, expected, tmp_path / "snapshot")
    assert peaks[-1] - peaks[0] < MEGABYTES_OF_GROWTH
    assert min(len(expected), len(quarantine.entries())) > number // 5
