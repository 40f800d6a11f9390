import hashlib
import json
from pathlib import Path

import pytest

from wafer.contract.facts import Delivery
from wafer.contract.suites import DroppedRow, Reason, Verdict
from wafer.errors import DeliveryError, UnreadError
from wafer.intake.quarantine import Quarantine

REASON = Reason("file_name", "the file is named lot.csv, agreed is …", None, None, "wafer_….csv", "lot.csv")


def deliver(folder: Path, content: bytes, file: str = "lot.csv") -> Delivery:
    """A delivery of `content`, lying in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_bytes(content)
    return Delivery(path, file, hashlib.sha256(content).hexdigest(), {}, None)


def rejected(delivery: Delivery) -> Verdict:
    """A verdict against `delivery`."""
    return Verdict(delivery.file, False, (REASON,))


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    """An empty quarantine, whose folder does not exist yet."""
    return Quarantine(tmp_path / "quarantine" / "training")


def test_a_rejected_file_is_kept_beside_its_reasons(quarantine, tmp_path):
    """The bytes stay as they came, and the reasons lie beside them as JSON."""
    delivery = deliver(tmp_path / "raw", b"\x00\xff broken")
    entry = quarantine.keep(delivery, rejected(delivery))
    kept = tree(quarantine.folder)
    assert kept.keys() == {"lot.csv", "lot.csv.reasons.json"}
    assert kept["lot.csv"] == b"\x00\xff broken"
    record = {**rejected(delivery).as_dict(), "digest": delivery.digest}
    assert json.loads(kept["lot.csv.reasons.json"]) == record
    assert record["verdict"] == "quarantined"
    assert record["reasons"] == [REASON.as_dict()]
    assert quarantine.entries() == [entry]
    assert (entry.path, entry.file, entry.digest, entry.verdict) == (
        quarantine.folder / "lot.csv",
        "lot.csv",
        delivery.digest,
        record,
    )


def test_the_same_file_ends_once(quarantine, tmp_path):
    """Delivered again, under its own or another name, by this or another process, a file makes no second entry."""
    delivery = deliver(tmp_path / "raw", b"a")
    quarantine.keep(delivery, rejected(delivery))
    before = tree(quarantine.folder)
    quarantine.keep(delivery, rejected(delivery))
    Quarantine(quarantine.folder).keep(delivery, rejected(delivery))
    assert tree(quarantine.folder) == before
    again = deliver(tmp_path / "raw", b"a", "other.csv")
    Quarantine(quarantine.folder).keep(again, rejected(again))
    assert tree(quarantine.folder).keys() == before.keys()


def test_another_file_of_the_same_name_overwrites_nothing(quarantine, tmp_path):
    """Other bytes under a name that is taken lie beside the first, named by their digest."""
    first, second = deliver(tmp_path / "one", b"first"), deliver(tmp_path / "two", b"second")
    for delivery in (first, second, first, second):
        quarantine.keep(delivery, rejected(delivery))
    beside = f"lot.{second.digest[:8]}.csv"
    kept = tree(quarantine.folder)
    assert kept.keys() == {"lot.csv", "lot.csv.reasons.json", beside, f"{beside}.reasons.json"}
    assert (kept["lot.csv"], kept[beside]) == (b"first", b"second")
    assert {entry.digest for entry in quarantine.entries()} == {first.digest, second.digest}


def test_a_new_verdict_replaces_the_old_reasons(quarantine, tmp_path):
    """Judged again after the agreement changed, an entry has the present reasons."""
    delivery = deliver(tmp_path / "raw", b"a")
    quarantine.keep(delivery, rejected(delivery))
    other = Reason("wafers", "the file has no wafers")
    quarantine.keep(delivery, Verdict(delivery.file, False, (other,)))
    [entry] = quarantine.entries()
    assert entry.verdict["reasons"] == [other.as_dict()]


def test_a_run_that_was_cut_short_is_completed(quarantine, tmp_path):
    """Bytes without reasons, as a crash leaves them, are no entry yet, and the next run makes them one."""
    delivery = deliver(tmp_path / "raw", b"a")
    quarantine.folder.mkdir(parents=True)
    (quarantine.folder / "lot.csv").write_bytes(b"a")
    assert quarantine.entries() == []
    quarantine.keep(delivery, rejected(delivery))
    assert tree(quarantine.folder).keys() == {"lot.csv", "lot.csv.reasons.json"}


def test_bytes_that_a_crash_left_are_not_overwritten_by_others(quarantine, tmp_path):
    """Another file of the same name goes beside bytes whose reasons a crash prevented."""
    delivery = deliver(tmp_path / "raw", b"new")
    quarantine.folder.mkdir(parents=True)
    (quarantine.folder / "lot.csv").write_bytes(b"old")
    entry = quarantine.keep(delivery, rejected(delivery))
    assert entry.path.name == f"lot.{delivery.digest[:8]}.csv"
    assert (quarantine.folder / "lot.csv").read_bytes() == b"old"


@pytest.mark.parametrize("file", ["lot.csv.reasons.json", "lot.csv.dropped.jsonl", ".lot.csv", "x" * 240 + ".csv"])
def test_odd_names_cannot_collide_with_the_quarantines_own_files(quarantine, tmp_path, file):
    """A file named like the quarantine's own, hidden or of extreme length is kept under a name with its digest."""
    plain, odd = deliver(tmp_path / "one", b"plain"), deliver(tmp_path / "two", b"odd", file)
    quarantine.keep(plain, rejected(plain))
    entry = quarantine.keep(odd, rejected(odd))
    assert odd.digest[:8] in entry.path.name
    assert entry.path.read_bytes() == b"odd"
    assert {found.file for found in Quarantine(quarantine.folder).entries()} == {"lot.csv", file}


def test_a_file_that_changed_since_is_not_kept(quarantine, tmp_path):
    """Reasons are never filed with other bytes than those that were judged, and nothing is left half written."""
    delivery = deliver(tmp_path / "raw", b"a")
    delivery.path.write_bytes(b"b")
    with pytest.raises(UnreadError, match=r"lot\.csv: changed while it was judged"):
        quarantine.keep(delivery, rejected(delivery))
    delivery.path.unlink()
    with pytest.raises(UnreadError, match=r"lot\.csv: cannot be quarantined: No such file or directory"):
        quarantine.keep(delivery, rejected(delivery))
    assert tree(quarantine.folder) == {}


def test_an_entry_leaves_by_its_digest(quarantine, tmp_path):
    """A file that found another home leaves with its reasons; the others stay."""
    first, second = deliver(tmp_path / "one", b"first"), deliver(tmp_path / "two", b"second")
    for delivery in (first, second):
        quarantine.keep(delivery, rejected(delivery))
    assert Quarantine(quarantine.folder).discard(first.digest)
    assert not quarantine.discard("0" * 64)
    assert tree(quarantine.folder).keys() == {
        f"lot.{second.digest[:8]}.csv",
        f"lot.{second.digest[:8]}.csv.reasons.json",
    }


def test_an_entry_is_found_by_name_or_digest(quarantine, tmp_path):
    """The name it has here, a delivered name that is unique, or the start of the digest find an entry."""
    first, second = deliver(tmp_path / "one", b"first"), deliver(tmp_path / "two", b"second")
    third = deliver(tmp_path / "one", b"third", "x.csv")
    entries = [quarantine.keep(delivery, rejected(delivery)) for delivery in (first, second, third)]
    assert quarantine.find("lot.csv") == entries[0]
    assert quarantine.find(second.digest[:10]) == entries[1]
    assert quarantine.find("x.csv") == entries[2]
    with pytest.raises(DeliveryError, match=r"no entries fit 'y\.csv', expected one"):
        quarantine.find("y.csv")


def test_dropped_wafers_keep_their_line_and_reasons(quarantine, tmp_path):
    """The wafers that an accepted file lost are one JSON object a line; the same file again changes nothing."""
    delivery = deliver(tmp_path / "raw", b"a")
    reason = Reason("bad_cells", "line 4: 'x' is no number", 4, "Sensor-1", "a number", "x")
    verdict = Verdict(delivery.file, True, dropped=(DroppedRow(2, 4, "Wafer-3,x,é", (reason,)),))
    target = quarantine.keep_rows(delivery, verdict)
    assert quarantine.keep_rows(delivery, verdict) == target == quarantine.folder / "lot.csv.dropped.jsonl"
    record = {
        "file": "lot.csv",
        "digest": delivery.digest,
        "row": 2,
        "line": 4,
        "text": "Wafer-3,x,é",
        "reasons": [reason.as_dict()],
    }
    assert quarantine.dropped() == [record]
    assert quarantine.entries() == []
    other = deliver(tmp_path / "two", b"b")
    assert quarantine.keep_rows(other, verdict).name == f"lot.{other.digest[:8]}.csv.dropped.jsonl"
    assert len(quarantine.dropped()) == 2


def test_a_file_without_dropped_wafers_leaves_nothing(quarantine, tmp_path):
    """An accepted file that lost no wafer does not show in the quarantine."""
    delivery = deliver(tmp_path / "raw", b"a")
    assert quarantine.keep_rows(delivery, Verdict(delivery.file, True)) is None
    assert not quarantine.folder.exists()
