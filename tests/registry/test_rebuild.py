"""Where a rebuilt version's snapshot and code come from."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests import working
from tests.conftest import REPOSITORY, S3_KEYS
from wafer.errors import SnapshotError
from wafer.fab.simulate import simulate_batches
from wafer.registry import Registry, Version, describe_snapshot
from wafer.registry.provenance import library_versions, versions_now
from wafer.registry.rebuild import checked_out, differing_libraries, find_snapshot
from wafer.registry.versions import LIBRARIES
from wafer.settings import Settings
from wafer.storage import read_json
from wafer.store.snapshot import read_snapshot


@pytest.fixture
def frozen(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a snapshot of two small batches."""
    monkeypatch.chdir(REPOSITORY)
    list(simulate_batches(tmp_path / "raw", batches=2, wafers=20, seed=1))
    working.ingest(settings, "training", tmp_path / "raw")
    return Path(str(settings.storage.place(working.snapshot(settings).folder)))


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
    told = (
        rf"snapshot {frozen.name} is found nowhere; the storage: .*; DVC's cache: has no such file \(.*\); "
        r"DVC's remote: has no such file \(.*\); the database: .*"
    )
    with pytest.raises(SnapshotError, match=told):
        found(empty)


def unreachable(address: str, *options: str) -> list[tuple[str, ...]]:
    return [
        ("add", "-q", "-d", "there", address),
        *(("modify", "-q", "there", *option.split("=")) for option in options),
    ]


@pytest.mark.parametrize(
    ("commands", "why"),
    [
        ([], "no default remote is configured"),
        (
            unreachable("s3://bucket/unreachable", "endpointurl=http://127.0.0.1:9"),
            "could not be read: Could not connect to the endpoint URL",
        ),
        (
            unreachable("s3://bucket/refused", "access_key_id=wrong", "secret_access_key=wrong"),
            "could not be read: Forbidden",
        ),
        (unreachable("gs://bucket/x"), "could not be read: gs is supported, but requires 'dvc-gs' to be installed"),
    ],
    ids=["no remote", "unreachable", "wrong keys", "not installed"],
)
def test_why_a_remote_could_not_be_read_is_told(
    tmp_path: Path, forbidding: str, monkeypatch: pytest.MonkeyPatch, commands: list[tuple[str, ...]], why: str
) -> None:
    """A snapshot that is found nowhere is told with the cause of each place, not as if the remote had no such file."""
    for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": forbidding, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "checkout"
    place.mkdir()
    git(place, "init", "-q")
    dvc(place, "init", "-q")
    for command in commands:
        dvc(place, "remote", *command)
    settings = Settings.read(storage_url=str(tmp_path / "data"), mongodb_url="mongodb://me:a@b@127.0.0.1/")
    with pytest.raises(SnapshotError) as raised:
        find_snapshot(settings, {"digest": "a" * 64}, {"snapshot.md5.wafers.parquet": "ab" + "0" * 30}, place)
    causes = str(raised.value).split("; ")
    assert [cause.split(":")[0] for cause in causes[1:]] == [
        "the storage",
        "DVC's cache",
        "DVC's remote",
        "the database",
    ]
    assert causes[2].startswith("DVC's cache: has no such file (")
    assert causes[3].startswith(f"DVC's remote: {why}")


@pytest.fixture(scope="module")
def forbidding() -> Iterator[str]:
    """The address of an S3 server that takes no keys."""

    class Forbid(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Forbid) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_without_dvc_it_is_not_asked(tmp_path: Path) -> None:
    """No checkout, or no MD5 of the table: both are told as the reason."""
    settings = Settings.read(storage_url=str(tmp_path / "data"), mongodb_url="mongodb://me:a@b@127.0.0.1/")
    manifest = {"digest": "a" * 64}
    with pytest.raises(SnapshotError, match=rf"DVC's remote: not asked, because {tmp_path} is not under DVC"):
        find_snapshot(settings, manifest, {"snapshot.md5.wafers.parquet": "ab"}, tmp_path)
    with pytest.raises(SnapshotError, match="DVC's cache: not asked, because the MD5 of the snapshot's table was not"):
        find_snapshot(settings, manifest, {}, tmp_path)


def test_where_dvc_is_not_installed_it_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the extra, and the other places are looked at."""
    (tmp_path / ".dvc").mkdir()
    monkeypatch.setitem(sys.modules, "dvc.config", None)
    settings = Settings.read(storage_url=str(tmp_path / "data"), mongodb_url="mongodb://me:a@b@127.0.0.1/")
    tags = {"snapshot.md5.wafers.parquet": "ab"}
    with pytest.raises(SnapshotError, match=r"DVC's cache: not asked, because dvc\.config is not .*'wafer\[dvc\]'"):
        find_snapshot(settings, {"digest": "a" * 64}, tags, tmp_path)


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


def test_other_worktrees_are_left_alone(checkout: Path, tmp_path: Path) -> None:
    """A worktree of the user's whose folder is away for now is still known afterwards; the temporary one is not."""
    git(checkout, "worktree", "add", "--detach", str(tmp_path / "on a disk"), "HEAD")
    shutil.rmtree(tmp_path / "on a disk")
    before = git(checkout, "worktree", "list", "--porcelain")
    assert "on a disk" in before
    with checked_out(checkout, git(checkout, "rev-parse", "HEAD"), tmp_path / "tree") as (place, _):
        assert place == tmp_path / "tree"
        (place / ".git").unlink()  # not even a worktree that git itself would not remove stays
    assert git(checkout, "worktree", "list", "--porcelain") == before
    assert not (tmp_path / "tree").exists()


def test_why_git_could_not_check_out_is_told(checkout: Path, tmp_path: Path) -> None:
    """A commit whose files cannot be written falls back to the installed code with git's own reason; nothing stays."""
    git(checkout, "config", "filter.broken.smudge", "false")
    git(checkout, "config", "filter.broken.required", "true")
    (checkout / ".git" / "info").mkdir(exist_ok=True)
    (checkout / ".git" / "info" / "attributes").write_text("code.txt filter=broken\n")
    commit, before = git(checkout, "rev-parse", "HEAD"), git(checkout, "worktree", "list")
    with checked_out(checkout, commit, tmp_path / "tree") as (place, told):
        assert place is None
        assert told.startswith(f"the installed code, because git could not check out commit {commit[:10]} (git: ")
        assert "smudge filter" in told or "external filter" in told
    assert git(checkout, "worktree", "list") == before
    assert not (tmp_path / "tree").exists()


@pytest.mark.slow
@pytest.mark.invariant
def test_every_library_that_differs_is_named(tmp_path: Path) -> None:
    """Of a version with its list all of them, else those of its tags; None stands for one that is absent."""
    now = versions_now()
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    run = registry._client.create_run(registry._client.create_experiment("wafer", str(tmp_path / "artifacts")))
    tags = {"python": "3.9.0", "library.skops": "0.1"} | {
        f"library.{name}": number for name, number in library_versions().items()
    }
    version = Version(1, run.info.run_id, "", "", tags=tags)
    assert differing_libraries(registry, version) == {
        "python": ("3.9.0", now["python"]),
        "skops": ("0.1", now.get("skops")),
    }
    then = {name: number for name, number in now.items() if name != "pytest"} | {"rich": "0.1", "gone": "2"}
    registry._client.log_dict(run.info.run_id, then, LIBRARIES)
    assert differing_libraries(registry, version) == {
        "gone": ("2", None),
        "pytest": (None, now["pytest"]),
        "rich": ("0.1", now["rich"]),
    }


@pytest.mark.parametrize(
    ("commit", "within", "why"),
    [
        ("unknown", "checkout", "no commit was recorded"),
        (
            "f" * 40,
            "checkout",
            "the repository does not hold commit ffffffffff (git: fatal: Not a valid object name "
            + "f" * 40
            + "^{commit})",
        ),
        (
            "f" * 40,
            "elsewhere",
            "there is no git repository to take commit ffffffffff from "
            "(git: fatal: not a git repository (or any of the parent directories): .git)",
        ),
    ],
    ids=["not recorded", "not held", "no repository"],
)
def test_without_the_commit_the_installed_code_is_used(
    checkout: Path, tmp_path: Path, commit: str, within: str, why: str
) -> None:
    """Where no commit was recorded, or it is not to be had, the reason is told."""
    (tmp_path / "elsewhere").mkdir()
    found: Any
    with checked_out(tmp_path / within, commit, tmp_path / "tree") as found:
        assert found == (None, f"the installed code, because {why}")
