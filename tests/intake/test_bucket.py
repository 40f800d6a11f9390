"""Ingest with its storage in a bucket: the quarantine and the reports lie on a real S3 server."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from upath import UPath

from tests import working
from tests.faults.delivery import agree, line, write
from tests.intake.test_quarantine import rejected
from wafer.cli.main import cli
from wafer.contract.facts import Delivery
from wafer.errors import DeliveryError
from wafer.intake.quarantine import Quarantine
from wafer.settings import Settings
from wafer.store.wafers import open_store

WAFER = Path(sys.executable).with_name("wafer")
KEPT = "fab/quarantine/training/"


def digest(file: Path) -> str:
    """The name of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Bucket:
    """A bucket of the test's own, looked at without the library."""

    def __init__(self, address: str, name: str) -> None:
        self.name = name
        self.client: Any = boto3.client("s3", endpoint_url=address)
        self.client.create_bucket(Bucket=name)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """What lies there, by key."""
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return {o["Key"]: self.client.get_object(Bucket=self.name, Key=o["Key"])["Body"].read() for o in listed}

    def unfinished(self) -> int:
        """Uploads in parts that were neither completed nor given up."""
        return len(self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []))


@pytest.fixture
def bucket(s3_address: str, tmp_path: Path) -> Bucket:
    return Bucket(s3_address, tmp_path.name.replace("_", "-"))


@pytest.fixture
def places(
    bucket: Bucket, s3_address: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings as the environment gives them: storage in the bucket, state in a folder, a database of the test's own.

    The present folder has an agreement that rejects empty sensors.
    """
    monkeypatch.setenv("WAFER_STORAGE", f"s3://{bucket.name}/fab")
    monkeypatch.setenv("WAFER_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    monkeypatch.setenv("MONGODB_URL", settings.mongodb_url or "")
    monkeypatch.setenv("MONGODB_DATABASE", settings.mongodb_database)
    monkeypatch.chdir(tmp_path)
    agree(tmp_path, EmptySensors="reject")
    return Settings.read()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A good file, one with a conflict, one with an empty sensor, one without a byte."""
    folder = tmp_path / "delivered"
    folder.mkdir()
    write(folder, 1, [line(1, -1), line(2, 1)])
    write(folder, 2, [line(2, 1, shift=1.0), line(4, -1)])
    write(folder, 3, ["Wafer-7,1,,3,4,-1", "Wafer-8,1,,3,4,1"])
    (folder / "wafer_04012020_120000.csv").touch()
    return folder


@pytest.mark.slow
@pytest.mark.invariant
def test_the_quarantine_and_the_reports_lie_in_the_bucket(places: Settings, bucket: Bucket, raw: Path) -> None:
    """Bytes, reasons and single wafers are objects, the page and the report too; a rerun changes none of them."""
    done = working.ingest(places, "training", raw)
    assert (done.files, done.accepted, done.quarantined, done.wafers_stored) == (4, 2, 2, 3)
    first = bucket.objects()
    conflicting, broken, empty = (f"{KEPT}{digest(file)}" for file in sorted(raw.iterdir())[1:])
    names = [f"{conflicting}.dropped.jsonl"]
    names += [f"{kept}{ending}" for kept in (broken, empty) for ending in (".csv", ".reasons.json")]
    runs = {key for key in first if key.startswith(("fab/runs/", "fab/latest/", "fab/reports/"))}
    assert sorted(first.keys() - runs) == [
        *sorted(names),
    ]
    assert first[f"{broken}.csv"] == (raw / "wafer_03012020_120000.csv").read_bytes()
    assert first[f"{empty}.csv"] == b""
    reasons = json.loads(first[f"{broken}.reasons.json"])["reasons"]
    assert [reason["rule"] for reason in reasons] == ["empty_sensors"]
    assert json.loads(first[f"fab/{done.report}"])["conflicts"] == 1
    assert b"Conflicts with wafers in the store: 1." in first[f"fab/{done.page}"]
    assert b"2 of 4 files accepted" in first["fab/reports/index.html"]
    with open_store(places) as store:
        counts = store.counts()
    for _ in range(2):
        again = working.ingest(places, "training", raw)
        assert (again.accepted, again.quarantined, again.wafers_stored) == (2, 2, 0)
        assert bucket.objects(KEPT) == {key: value for key, value in first.items() if key.startswith(KEPT)}
        with open_store(places) as store:
            assert store.counts() == counts
    assert bucket.unfinished() == 0


@pytest.mark.slow
@pytest.mark.invariant
def test_deliveries_may_lie_in_the_bucket_too(places: Settings, bucket: Bucket, raw: Path) -> None:
    """Without a folder the files below raw/ of the storage are taken in, and those that come later at the next run."""
    files = sorted(raw.iterdir())
    for some in (files[:2], files[2:]):
        for file in some:
            bucket.client.put_object(Bucket=bucket.name, Key=f"fab/raw/training/{file.name}", Body=file.read_bytes())
        done = working.ingest(places, "training")
    assert (done.files, done.accepted, done.quarantined, done.wafers_stored) == (4, 2, 2, 0)
    assert bucket.objects(KEPT)[f"{KEPT}{digest(files[2])}.csv"] == files[2].read_bytes()


@pytest.mark.slow
@pytest.mark.invariant
def test_the_commands_work_on_the_bucket(places: Settings, bucket: Bucket, raw: Path, tmp_path: Path) -> None:
    """What is in the bucket's quarantine is listed, shown and released; a process that saw it before goes on well."""
    name = "wafer_03012020_120000.csv"
    working.ingest(places, "training", raw)
    assert CliRunner().invoke(cli, ["quarantine", "release", name]).exit_code == 1
    shown = json.loads(CliRunner().invoke(cli, ["quarantine", "show", name, "--json"]).stdout)
    broken, empty = (digest(raw / file) for file in (name, "wafer_04012020_120000.csv"))
    assert (shown["kept"], shown["file"]) == (f"s3://{bucket.name}/{KEPT}{broken}.csv", name)
    listed = CliRunner().invoke(cli, ["quarantine", "list"])
    assert listed.exit_code == 0, listed.output
    assert listed.stdout.splitlines()[-1] == "2 files and 1 single wafers in quarantine"
    agree(tmp_path, EmptySensors="tolerate")
    released = subprocess.run([WAFER, "quarantine", "release", name], capture_output=True, text=True, check=False)
    assert released.returncode == 0, released.stderr
    assert released.stdout == f"{name}: taken in, 2 wafers, 2 of them new\n"
    assert [key for key in bucket.objects(KEPT) if broken in key] == []
    again = working.ingest(places, "training", raw)
    assert (again.accepted, again.quarantined, again.wafers_stored) == (3, 1, 0)
    assert working.ingest(places, "training", raw, replace=True).quarantined == 1
    assert sorted(bucket.objects(KEPT)) == [f"{KEPT}{empty}{ending}" for ending in (".csv", ".reasons.json")]


@pytest.mark.parametrize("size", [0, 10, 12_000_000])
def test_a_file_that_changed_is_not_put(places: Settings, bucket: Bucket, tmp_path: Path, size: int) -> None:
    """Bytes are put whole, of any size, or where they are not those that were judged, not at all."""
    path = tmp_path / "lot.csv"
    path.write_bytes(os.urandom(size))
    place = Quarantine(places.storage.place("quarantine") / "training")
    changed = Delivery(path, "lot.csv", "0" * 64, {"size": size}, None)
    with pytest.raises(DeliveryError, match=r"lot\.csv: changed while it was judged"):
        place.keep(changed, rejected(changed))
    assert (bucket.objects(), bucket.unfinished()) == ({}, 0)
    delivery = Delivery(UPath(path), "lot.csv", digest(path), {"size": size}, None)
    place.keep(delivery, rejected(delivery))
    assert bucket.objects()[f"{KEPT}{digest(path)}.csv"] == path.read_bytes()
    assert bucket.unfinished() == 0
