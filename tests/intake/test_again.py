"""Files that come again: as the other kind, under another agreement, gone or changed before they are taken in."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.delivery import agree, line, write
from wafer.contract.agreement import make_suite, read_agreement
from wafer.contract.facts import BYTES_OF_START, Delivery
from wafer.contract.suites import Contract, Verdict
from wafer.errors import DeliveryError, UnreadError
from wafer.intake.ingest import IngestReport, ingest
from wafer.intake.quarantine import Quarantine
from wafer.intake.release import release_entry
from wafer.settings import Settings
from wafer.store.documents import BatchRecord, Conflict, with_late
from wafer.store.wafers import open_store

OTHER_KIND = (
    "the same bytes were taken in for {} before, as wafer_01012020_120000.csv, and are taken in for one kind only"
)


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    """Suites on four sensors; bad wafers are dropped."""
    agree(tmp_path / "agreed", BadWafers="drop wafer", MaxDroppedShare=0.9)
    return tmp_path / "agreed" / "expectations"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An empty folder of deliveries."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def contract_with(suites: Path, kind: str, change: Callable[[dict[str, Any]], object]) -> Contract:
    """The contract of a changed suite."""
    suite = json.loads((suites / f"{kind}.json").read_text())
    change(suite)
    return Contract.of(suite, kind)


def warn_of(rule: str) -> Callable[[dict[str, Any]], object]:
    """A change of a suite, by which one rule only warns."""

    def change(suite: dict[str, Any]) -> None:
        (entry,) = [e for e in suite["expectations"] if e["meta"]["rule"] == rule]
        entry["meta"]["severity"] = "warn"

    return change


def drop_above(limit: float) -> Callable[[dict[str, Any]], object]:
    """A change of a suite, by which wafers with a larger reading of the first sensor are dropped."""
    meta = {"rule": "range", "severity": "drop wafer", "message": "{got}", "source": "customer"}
    kwargs = {"column": "Sensor-1", "max_value": limit}
    rule = {"type": "expect_column_values_to_be_between", "kwargs": kwargs, "meta": meta}
    return lambda suite: suite["readings"].append(rule)


def outcomes(report: IngestReport) -> list[tuple[str, list[str]]]:
    return [(f.verdict, [reason["rule"] for reason in f.reasons]) for f in report.files]


def test_a_training_file_is_no_prediction_file(settings: Settings, suites: Path, raw: Path, tmp_path: Path) -> None:
    """Bytes known as one kind are judged by the other kind's agreement when they come as that, and quarantined."""
    write(raw, 1, [line(1, -1), line(2, 1)])
    training, prediction = Contract.load("training", suites), Contract.load("prediction", suites)
    kept = Quarantine(tmp_path / "prediction")
    with open_store(settings) as store:
        ingest([raw], training, store, Quarantine(tmp_path / "training"))
        ledger = store.batches("training")
        assert outcomes(ingest([raw], prediction, store, kept)) == [("quarantined", ["columns_extra"])]
        assert outcomes(ingest([raw], training, store, Quarantine(tmp_path / "training"))) == [("accepted", [])]
        assert (store.batches("training"), store.batches("prediction")) == (ledger, [])
    assert [entry.verdict["reasons"][0]["rule"] for entry in kept.entries()] == ["columns_extra"]


@pytest.mark.parametrize("first", ["training", "prediction"])
def test_one_file_as_agreed_for_both_kinds_is_taken_in_once(
    settings: Settings, suites: Path, raw: Path, tmp_path: Path, first: str
) -> None:
    """The second kind's delivery is quarantined as a whole, labels and all, until it comes with bytes of its own."""
    contracts = {
        "training": Contract.load("training", suites),
        "prediction": contract_with(suites, "prediction", warn_of("columns_extra")),
    }
    path = write(raw, 1, [line(1, -1), line(2, 1)])
    (second,) = contracts.keys() - {first}
    kept = Quarantine(tmp_path / second)
    with open_store(settings) as store:
        ingest([raw], contracts[first], store, Quarantine(tmp_path / first))
        (held,) = store.batches(first)
        report = ingest([raw], contracts[second], store, kept)
        assert outcomes(report) == [("quarantined", ["other_kind"])]
        assert report.files[0].reasons[0]["message"] == OTHER_KIND.format(first)
        (entry,) = kept.entries()
        assert release_entry(entry, kept, contracts[second], store).verdict == "quarantined"
        assert (store.batches(first), store.batches(second)) == ([held], [])
        assert [e.path.read_bytes() for e in kept.entries()] == [path.read_bytes()]
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        again = ingest([raw], contracts[second], store, kept)
        assert outcomes(again) == [("accepted", [])], "with bytes of its own it is taken in"
        assert [d["label"] for d in store.find(["Wafer-1", "Wafer-2"]).values()] == [-1, 1]


def test_replacing_under_another_agreement_loses_no_wafer(
    settings: Settings, suites: Path, raw: Path, tmp_path: Path
) -> None:
    """Wafers that today's agreement would drop stay in the ledger, and conflicts that it drops stay quarantined."""
    write(raw, 1, [line(n, -1) for n in (1, 5)])
    write(raw, 2, [line(n, -1, shift=0.5 * (n in (1, 5))) for n in (2, 1, 3, 4, 5)])
    kept = Quarantine(tmp_path / "quarantine")
    with open_store(settings) as store:
        ingest([raw], Contract.load("training", suites), store, kept)
        assert [row["line"] for row in kept.dropped()] == [3, 6]
        stricter = contract_with(suites, "training", drop_above(2.5))
        report = ingest([raw], stricter, store, kept, replacing=True)
        (_, second) = store.batches("training")
        assert second.wafers == ("Wafer-2", "Wafer-1", "Wafer-3", "Wafer-4")
        assert (second.replaced, [c.wafer for c in second.conflicts]) == (("Wafer-1",), ["Wafer-5"])
        assert store.find(["Wafer-1", "Wafer-5"]).keys() == {"Wafer-1", "Wafer-5"}
    assert [row["line"] for row in kept.dropped()] == [6], "only the replaced wafer leaves the quarantine"
    assert [f.dropped for f in report.files] == [0, 0], "a known file drops nothing more"


def test_a_late_wafer_stands_behind_those_before_it_in_its_file() -> None:
    """The ledger's wafers keep their order, and late ones come where their file has them."""
    conflicts = tuple(Conflict(w, "b.csv", "a.csv", "label", 1, -1) for w in "xyz")
    record = BatchRecord("d", "b.csv", "training", 1, tuple("abcd"), 0, 0, conflicts)
    late = replace(record, wafers=tuple("xz"), conflicts=(), replaced=tuple("xz"))
    merged = with_late(record, late, list("xacz"))
    assert (merged.wafers, merged.late, merged.conflicts) == (tuple("xabczd"), tuple("xz"), conflicts[1:2])
    assert merged.wafers_when(4) == tuple("abcd")


def test_an_unreadable_file_holds_up_no_other(settings: Settings, suites: Path, raw: Path, tmp_path: Path) -> None:
    """A link to nowhere is told as unread, with its reason; files before and behind it are taken in."""
    write(raw, 1, [line(1, -1)])
    (raw / "wafer_02012020_120000.csv").symlink_to(raw / "gone")
    write(raw, 3, [line(3, 1)])
    with open_store(settings) as store:
        report = ingest([raw], Contract.load("training", suites), store, Quarantine(tmp_path / "quarantine"))
        assert store.counts()["wafers"] == 2
    assert outcomes(report) == [("accepted", []), ("unread", ["unread"]), ("accepted", [])]
    assert report.files[1].reasons[0]["message"].endswith("could not be read: No such file or directory")
    totals = report.as_dict()
    assert (totals["files"], totals["accepted"], totals["quarantined"], totals["unread"]) == (3, 2, 0, 1)


@pytest.mark.parametrize(
    ("lines", "accepted"),
    [(["nonsense"], False), ([line(2, -1), line(1, -1, shift=0.5)], True)],
    ids=["to be quarantined", "with a conflict"],
)
def test_a_file_that_vanishes_is_told_and_comes_again(
    settings: Settings, suites: Path, raw: Path, tmp_path: Path, lines: list[str], accepted: bool
) -> None:
    """A file that goes after it was judged is unread and has no line in the ledger; when it is back, it is taken in."""
    write(raw, 1, [line(1, -1)])
    path = write(raw, 2, lines)
    write(raw, 3, [line(3, 1)])
    content, kept = path.read_bytes(), Quarantine(tmp_path / "quarantine")

    def lose(delivery: Delivery, verdict: Verdict) -> None:
        if delivery.file == path.name:
            assert verdict.accepted == accepted
            path.unlink()

    with open_store(settings) as store:
        contract = Contract.load("training", suites)
        report = ingest([raw], contract, store, kept, watch=lose)
        assert [verdict for verdict, _ in outcomes(report)] == ["accepted", "unread", "accepted"]
        assert "No such file or directory" in report.files[1].reasons[0]["message"]
        assert [record.wafers for record in store.batches("training")] == [("Wafer-1",), ("Wafer-3",)]
        path.write_bytes(content)
        again = ingest([raw], contract, store, kept)
    assert [f.verdict for f in again.files] == ["accepted", "accepted" if accepted else "quarantined", "accepted"]
    assert len(again.files[1].conflicts) == len(kept.dropped()) == accepted


def test_a_quarantine_that_cannot_be_written_is_an_error(
    settings: Settings, suites: Path, raw: Path, tmp_path: Path
) -> None:
    """Where the trouble is not the file's, it is not told as unread: the run ends with a sentence about it."""
    write(raw, 1, ["nonsense"])
    (tmp_path / "quarantine").write_text("no folder")
    with open_store(settings) as store, pytest.raises(DeliveryError, match="cannot be quarantined") as caught:
        ingest([raw], Contract.load("training", suites), store, Quarantine(tmp_path / "quarantine" / "training"))
    assert not isinstance(caught.value, UnreadError)


def test_a_conflict_is_told_by_the_name_of_its_sensor(settings: Settings, raw: Path, tmp_path: Path) -> None:
    """Sensors of any name stand in the reason as the agreement calls them."""
    agree(tmp_path / "agreed")
    path = tmp_path / "agreed" / "training.agreement.json"
    columns = {"Wafer": "varchar", "Pressure": "float", "Sensor-1": "float", "Output": "Integer"}
    named = {**json.loads(path.read_text()), "ColName": columns, "NumberofColumns": 4}
    path.write_text(json.dumps(named))
    contract = Contract.of(make_suite(read_agreement(path)), "training")
    for day in (1, 2):
        file = raw / f"wafer_0{day}012020_120000.csv"
        file.write_text(f"Wafer,Pressure,Sensor-1,Output\nWafer-1,{day},7,-1\n")
    with open_store(settings) as store:
        report = ingest([raw], contract, store, Quarantine(tmp_path / "quarantine"))
    assert [conflict["what"] for conflict in report.files[1].conflicts] == ["Pressure"]


def test_a_file_with_the_longest_name_can_be_released(
    settings: Settings, suites: Path, raw: Path, tmp_path: Path
) -> None:
    """A name that fills all that a folder allows is judged as it was delivered, and its bytes are taken in."""
    kept = Quarantine(tmp_path / "quarantine")
    path = write(raw, 1, [line(1, -1)]).rename(raw / ("x" * 251 + ".csv"))
    with open_store(settings) as store:
        ingest([raw], Contract.load("training", suites), store, kept)
        path.unlink()
        (entry,) = kept.entries()
        assert release_entry(entry, kept, Contract.load("training", suites), store).verdict == "quarantined"
        lenient = contract_with(suites, "training", warn_of("file_name"))
        outcome = release_entry(entry, kept, lenient, store)
        assert (outcome.file, outcome.verdict, outcome.stored) == (path.name, "accepted", 1)
    assert kept.entries() == []


def test_a_file_above_the_agreed_size_is_released_with_its_original(
    settings: Settings, suites: Path, raw: Path, tmp_path: Path
) -> None:
    """Its first bytes are kept; when a larger size is agreed, the original is needed, and no other file will do."""
    path = write(raw, 1, [line(n, -1) for n in range(1, 2_000)])
    size = path.stat().st_size
    assert size > BYTES_OF_START

    def at_most(limit: int) -> Contract:
        def change(suite: dict[str, Any]) -> None:
            (rule,) = (rule for rule in suite["expectations"] if rule["meta"]["rule"] == "too_large")
            rule["kwargs"]["max_value"] = limit

        return contract_with(suites, "training", change)

    kept, roomy = Quarantine(tmp_path / "quarantine"), at_most(size)
    with open_store(settings) as store:
        report = ingest([raw], at_most(size - 1), store, kept)
        assert outcomes(report) == [("quarantined", ["too_large"])]
        (entry,) = kept.entries()
        assert entry.path.read_bytes() == path.read_bytes()[:BYTES_OF_START]
        original = path.rename(tmp_path / "original.csv")
        told = (
            f"only the first 65,536 of its {size:,} bytes were kept, name the original .* at {raw / path.name} and has"
        )
        with pytest.raises(DeliveryError, match=told):
            release_entry(entry, kept, roomy, store)
        other = write(raw, 2, [line(1, -1)])
        with pytest.raises(DeliveryError, match="is not the file that was quarantined"):
            release_entry(entry, kept, roomy, store, other)
        outcome = release_entry(entry, kept, roomy, store, original)
        assert (outcome.file, outcome.verdict, outcome.stored) == (path.name, "accepted", 1_999)
    assert list(kept.folder.iterdir()) == []


def test_a_link_out_of_the_delivery_is_not_taken_in(
    settings: Settings, suites: Path, raw: Path, tmp_path: Path
) -> None:
    """Nothing of its target reaches report or quarantine, and nothing of it is stored until its folder is allowed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    secret = write(elsewhere, 1, [line(1, -1), "root:$6$secret"])
    (raw / secret.name).symlink_to(secret)
    write(raw, 2, [line(2, 1)])
    kept, contract = Quarantine(tmp_path / "quarantine"), Contract.load("training", suites)
    with open_store(settings) as store:
        report = ingest([raw], contract, store, kept)
        assert outcomes(report) == [("unread", ["unread"]), ("accepted", [])]
        assert "secret" not in json.dumps(report.as_dict())
        assert kept.entries() == []
        allowed = ingest([raw], contract, store, kept, link_roots=(elsewhere,))
    assert [verdict for verdict, _ in outcomes(allowed)] == ["accepted", "accepted"]


def test_an_empty_selection_and_a_file_without_wafers_are_told(
    settings: Settings, suites: Path, raw: Path, tmp_path: Path
) -> None:
    """No file at all has its sentence, with what was left out; a file whose wafers all contradict others is counted."""
    contract, kept = Contract.load("training", suites), Quarantine(tmp_path / "quarantine")
    (raw / "2020").mkdir()
    with open_store(settings) as store:
        nothing = ingest([raw], contract, store, kept).as_dict()
        write(raw, 1, [line(1, -1)])
        write(raw, 2, [line(1, -1, shift=0.5)])
        report = ingest([raw], contract, store, kept).as_dict()
    left_out = "1 folder inside (2020) was left out"
    assert (nothing["files"], nothing["why_empty"]) == (0, f"no batch file lies in {raw}; {left_out}")
    assert (report["why_empty"], report["left_out"]) == (None, left_out)
    assert (report["accepted"], report["without_wafers"], report["conflicts"]) == (2, 1, 1)
    assert [batch["wafers"] for batch in report["batches"]] == [1, 0]
