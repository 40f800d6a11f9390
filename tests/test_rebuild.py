"""Where a rebuilt version's snapshot and code come from."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from wafer import steps
from wafer.errors import SnapshotError
from wafer.fab.simulate import simulate_batches
from wafer.intake.snapshot import read_snapshot
from wafer.rebuild import checked_out, find_snapshot
from wafer.registry import describe_snapshot
from wafer.settings import Settings
from wafer.storage import read_json


@pytest.fixture
def frozen(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a snapshot of two small batches."""
    monkeypatch.chdir(REPOSITORY)
    list(simulate_batches(tmp_path / "raw", batches=2, wafers=20, seed=1))
    steps.ingest(settings, "training", str(tmp_path / "raw"))
    return Path(steps.snapshot(settings).folder)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with DVC, a remote, and two commits of one file."""
    monkeypatch.chdir(tmp_path)  # DVC's own command changes the folder and leaves it so
    place = tmp_path / "checkout"
    place.mkdir()
    git(place, "init", "-q")
    dvc(place, "init", "-q")
    dvc(place, "remote", "add", "-q", "-d", "elsewhere", str(tmp_path / "remote"))
    for text in ("then", "now"):
        (place / "code.txt").write_text(text)
        git(place, "add", "-A")
        git(place, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", text)
    return place


def git(place: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=place, capture_output=True, text=True, check=True).stdout.strip()


def dvc(place: Path, *arguments: str) -> None:
    from dvc.cli import main

    assert main(["--cd", str(place), *arguments]) == 0


def test_a_snapshot_is_looked_for_in_four_places(
    settings: Settings, frozen: Path, checkout: Path, tmp_path: Path
) -> None:
    """In the storage, in DVC's cache, in DVC's remote, and as an export of the database: the same table each time."""
    expected, manifest = read_snapshot(frozen), read_json(frozen / "manifest.json")
    tags = describe_snapshot(expected, frozen)
    shutil.copytree(frozen, checkout / "kept")
    dvc(checkout, "add", "-q", "kept")
    dvc(checkout, "push", "-q")

    def found(where: Settings, place: Path = checkout) -> str:
        snapshot, source = find_snapshot(where, manifest, tags, place)
        assert snapshot.digest == expected.digest
        assert snapshot.table.equals(expected.table)
        return source

    assert found(settings) == "the storage"
    shutil.copyfile(frozen / "manifest.json", frozen / "wafers.parquet")
    assert found(settings) == "DVC's cache"
    shutil.rmtree(checkout / ".dvc" / "cache")
    assert found(settings) == "DVC's remote"
    shutil.rmtree(tmp_path / "remote")
    assert found(settings) == "the database"
    assert found(settings, tmp_path / "no" / "checkout") == "the database"
    empty = settings.model_copy(update={"mongodb_database": f"{settings.mongodb_database}_empty"})
    with pytest.raises(SnapshotError, match=rf"snapshot {frozen.name} is found nowhere; storage: .*; database: .*"):
        found(empty)


def test_old_code_is_checked_out_beside_the_users_tree(checkout: Path, tmp_path: Path) -> None:
    """The commit's files appear in another folder and are gone afterwards, also after an error; no hook runs."""
    then = git(checkout, "rev-parse", "HEAD~1")
    hook = checkout / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    hook.chmod(0o755)
    (checkout / "code.txt").write_text("not committed")
    before = [
        git(checkout, *command) for command in (("status", "--porcelain"), ("branch", "-v"), ("worktree", "list"))
    ]

    def fail_in(tree: Path) -> None:
        with checked_out(checkout, then, tree) as (place, told):
            assert (place, told) == (tree, f"commit {then[:10]}")
            assert (tree / "code.txt").read_text() == "then"
            (tree / "made.txt").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert (checkout / "code.txt").read_text() == "not committed"
    assert [
        git(checkout, *command) for command in (("status", "--porcelain"), ("branch", "-v"), ("worktree", "list"))
    ] == before
    assert not (tmp_path / "hooked").exists()


@pytest.mark.parametrize(
    ("commit", "within", "why"),
    [
        ("unknown", "checkout", "no commit was recorded"),
        ("f" * 40, "checkout", "the repository does not hold commit ffffffffff"),
        ("f" * 40, "elsewhere", "there is no git repository to take commit ffffffffff from"),
    ],
)
def test_without_the_commit_the_installed_code_is_used(
    checkout: Path, tmp_path: Path, commit: str, within: str, why: str
) -> None:
    """Where no commit was recorded, or it is not to be had, the reason is told."""
    (tmp_path / "elsewhere").mkdir()
    found: Any
    with checked_out(tmp_path / within, commit, tmp_path / "tree") as found:
        assert found == (None, f"the installed code, because {why}")
