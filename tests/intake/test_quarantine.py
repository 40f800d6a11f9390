import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest

from wafer.contract.facts import Delivery
from wafer.contract.suites import DroppedRow, Reason, Verdict
from wafer.errors import UnreadError
from wafer.intake.quarantine import Entry, Quarantine
from wafer.shown import shown_text

REASON = Reason("file_name", "the file is named lot.csv, agreed is …", None, None, "wafer_….csv", "lot.csv")


def deliver(folder: Path, content: bytes, file: str = "lot.csv") -> Delivery:
    """A delivery of `content`, lying in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_bytes(content)
    return Delivery(path, file, hashlib.sha256(content).hexdigest(), {"size": len(content)}, None)


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
    """The bytes stay as they came, and the reasons lie beside them as JSON, both named by the bytes' digest."""
    delivery = deliver(tmp_path / "raw", b"\x00\xff broken")
    entry = quarantine.keep(delivery, rejected(delivery))
    kept, digest = tree(quarantine.folder), delivery.digest
    assert kept.keys() == {f"{digest}.csv", f"{digest}.reasons.json"}
    assert kept[f"{digest}.csv"] == b"\x00\xff broken"
    record = {**rejected(delivery).as_dict(), "digest": digest, "size": 9, "bytes_kept": 9}
    assert json.loads(kept[f"{digest}.reasons.json"]) == record
    assert record["verdict"] == "quarantined"
    assert record["reasons"] == [REASON.as_dict()]
    assert quarantine.entries() == [entry] and len(quarantine) == 1
    assert entry == Entry(quarantine.folder / f"{digest}.csv", "lot.csv", digest, record)
    assert entry.whole


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


def test_files_of_one_name_never_meet(quarantine, tmp_path):
    """Other bytes under the same name are an entry of their own, in whatever order they come."""
    first, second = deliver(tmp_path / "one", b"first"), deliver(tmp_path / "two", b"second")
    for delivery in (first, second, first, second):
        quarantine.keep(delivery, rejected(delivery))
    kept = tree(quarantine.folder)
    assert len(kept) == 4
    assert (kept[f"{first.digest}.csv"], kept[f"{second.digest}.csv"]) == (b"first", b"second")
    assert [entry.file for entry in quarantine.entries()] == ["lot.csv", "lot.csv"]
    assert {entry.digest for entry in quarantine.entries()} == {first.digest, second.digest}


def test_a_file_above_the_agreed_size_is_kept_by_its_first_bytes(quarantine, tmp_path):
    """Its record has the size, the digest, the path and how many bytes are kept; it costs no more than these."""
    content = b"x" * 1_000_000
    delivery = dataclasses.replace(deliver(tmp_path / "raw", content), start=content[:100])
    entry = quarantine.keep(delivery, rejected(delivery))
    assert tree(quarantine.folder).keys() == {f"{delivery.digest}.start", f"{delivery.digest}.reasons.json"}
    assert entry.path.read_bytes() == content[:100]
    assert not entry.whole
    told = {"size": 1_000_000, "bytes_kept": 100, "path": str(tmp_path / "raw" / "lot.csv")}
    assert told.items() <= entry.verdict.items()
    assert quarantine.entries() == [entry]
    assert quarantine.discard(delivery.digest)
    assert tree(quarantine.folder) == {}


def test_a_large_file_that_was_sent_has_no_place_that_is_told(quarantine, tmp_path):
    """What came under another name than it lies under lies there only until it is judged."""
    content = b"x" * 1_000_000
    delivery = dataclasses.replace(deliver(tmp_path / "raw", content), start=content[:100], file="sent.csv")
    entry = quarantine.keep(delivery, rejected(delivery))
    assert "path" not in entry.verdict
    assert str(tmp_path / "raw") not in json.dumps(entry.verdict)


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
    (quarantine.folder / f"{delivery.digest}.csv").write_bytes(b"a")
    assert quarantine.entries() == [] and len(quarantine) == 0
    quarantine.keep(delivery, rejected(delivery))
    assert tree(quarantine.folder).keys() == {f"{delivery.digest}.csv", f"{delivery.digest}.reasons.json"}


def test_other_files_in_the_folder_are_no_entries(quarantine, tmp_path):
    """What is not named by a digest is left alone."""
    entry = quarantine.keep(delivery := deliver(tmp_path / "raw", b"a"), rejected(delivery))
    (quarantine.folder / "lot.csv.reasons.json").write_text("{}")
    assert Quarantine(quarantine.folder).entries() == [entry]


NAMES = [
    *("lot.csv.reasons.json", "lot.csv.dropped.jsonl", ".lot.csv", "x" * 251 + ".csv", "\udcff.csv", "é" * 100),
    *("..\\..\\lot.csv", "C:lot.csv", "CON", "NUL.csv", "lot.csv ", "-rf", "~", "\x1b[2J\r\n.csv", "\u202egpj.csv"),
]


@pytest.mark.parametrize("file", [*NAMES, "../../lot.csv", "/etc/lot.csv"])
def test_no_name_from_outside_becomes_a_path(quarantine, tmp_path, file):
    """However a file is called, its bytes lie under its digest and nowhere else; its own name stands in the record."""
    delivery = dataclasses.replace(deliver(tmp_path / "raw", b"odd", file if file in NAMES else "plain.csv"), file=file)
    delivery = dataclasses.replace(delivery, file=os.fsencode(file).decode(errors="replace"))
    entry = quarantine.keep(delivery, rejected(delivery))
    quarantine.keep_rows(delivery, Verdict(delivery.file, True, dropped=(DroppedRow(0, 2, "x", (REASON,)),)))
    endings = (".csv", ".reasons.json", ".dropped.jsonl")
    assert tree(quarantine.folder).keys() == {f"{delivery.digest}{ending}" for ending in endings}
    assert entry.path.read_bytes() == b"odd"
    assert [found.file for found in Quarantine(quarantine.folder).entries()] == [delivery.file]
    assert quarantine.find(delivery.file) == quarantine.find(shown_text(delivery.file)) == [entry]


def test_a_link_in_the_place_of_the_delivered_file_is_not_copied(quarantine, tmp_path):
    """What was a file when it was judged and is a link now is told as unread, and nothing is kept."""
    delivery = dataclasses.replace(deliver(tmp_path / "raw", b"a"), within=(tmp_path / "raw",))
    delivery.path.rename(tmp_path / "secret")
    delivery.path.symlink_to(tmp_path / "secret")
    with pytest.raises(UnreadError, match=r"lot\.csv: it is a link to .*secret, outside of its folder"):
        quarantine.keep(delivery, rejected(delivery))
    assert tree(quarantine.folder) == {}


def test_a_file_that_changed_since_is_not_kept(quarantine, tmp_path):
    """Reasons are never filed with other bytes than those that were judged, and nothing is left half written."""
    delivery = deliver(tmp_path / "raw", b"a")
    delivery.path.write_bytes(b"b")
    with pytest.raises(UnreadError, match=r"lot\.csv: changed while it was judged"):
        quarantine.keep(delivery, rejected(delivery))
    delivery.path.unlink()
    with pytest.raises(UnreadError, match=r"lot\.csv: No such file or directory"):
        quarantine.keep(delivery, rejected(delivery))
    assert tree(quarantine.folder) == {}


def test_bytes_that_a_killed_run_left_without_reasons_leave_too(quarantine, tmp_path):
    """They are no entry yet; once their file is accepted nothing of it stays, and judged again it is an entry."""
    delivery = deliver(tmp_path / "raw", b"first")
    quarantine.keep(delivery, rejected(delivery))
    (quarantine.folder / f"{delivery.digest}.reasons.json").unlink()
    assert Quarantine(quarantine.folder).entries() == []
    again = Quarantine(quarantine.folder)
    assert again.keep(delivery, rejected(delivery)) == again.entries()[0]
    (quarantine.folder / f"{delivery.digest}.reasons.json").unlink()
    assert Quarantine(quarantine.folder).discard(delivery.digest)
    assert tree(quarantine.folder) == {}


def test_an_entry_leaves_by_its_digest(quarantine, tmp_path):
    """A file that found another home leaves with its reasons; the others stay."""
    first, second = deliver(tmp_path / "one", b"first"), deliver(tmp_path / "two", b"second")
    for delivery in (first, second):
        quarantine.keep(delivery, rejected(delivery))
    assert Quarantine(quarantine.folder).discard(first.digest)
    assert not quarantine.discard("0" * 64)
    assert tree(quarantine.folder).keys() == {f"{second.digest}.csv", f"{second.digest}.reasons.json"}


def test_entries_are_found_by_name_or_digest(quarantine, tmp_path):
    """A delivered name means every file of that name, the start of a digest one; too short a start means none."""
    first, second = deliver(tmp_path / "one", b"first"), deliver(tmp_path / "two", b"second")
    third = deliver(tmp_path / "one", b"third", "x.csv")
    entries = [quarantine.keep(delivery, rejected(delivery)) for delivery in (first, second, third)]
    assert sorted(quarantine.find("lot.csv"), key=entries.index) == entries[:2]
    assert quarantine.find(second.digest[:10]) == [entries[1]]
    assert quarantine.find(second.digest[:5]) == []
    assert quarantine.find("x.csv") == [entries[2]]
    assert quarantine.find("y.csv") == []


def test_dropped_wafers_keep_their_line_and_reasons(quarantine, tmp_path):
    """The wafers that an accepted file lost are one JSON object a line; the same file again changes nothing."""
    delivery = deliver(tmp_path / "raw", b"a")
    reason = Reason("bad_cells", "line 4: 'x' is no number", 4, "Sensor-1", "a number", "x")
    verdict = Verdict(delivery.file, True, dropped=(DroppedRow(2, 4, "Wafer-3,x,é", (reason,)),))
    target = quarantine.keep_rows(delivery, verdict)
    assert quarantine.keep_rows(delivery, verdict) == target
    assert target == quarantine.folder / f"{delivery.digest}.dropped.jsonl"
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
    assert quarantine.keep_rows(other, verdict).name == f"{other.digest}.dropped.jsonl"
    assert len(quarantine.dropped()) == 2


def test_a_file_without_dropped_wafers_leaves_nothing(quarantine, tmp_path):
    """An accepted file that lost no wafer does not show in the quarantine."""
    delivery = deliver(tmp_path / "raw", b"a")
    assert quarantine.keep_rows(delivery, Verdict(delivery.file, True)) is None
    assert not quarantine.folder.exists()
