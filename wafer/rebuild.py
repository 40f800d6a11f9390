"""A registered version trained again from what was recorded of it, and the proof that the same model comes out.

What is needed is its snapshot, the commit of its code, its params and the libraries. Nothing is checked out in the
user's tree: the code of then lies in a temporary worktree, and runs there as a study of its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from wafer.errors import ModelError, RegistryError, SnapshotError, StoreError
from wafer.intake.snapshot import DIGITS, Snapshot, read_snapshot, write_snapshot
from wafer.intake.snapshot import rebuild as export_again
from wafer.intake.store import open_store
from wafer.learning.model import WaferModel
from wafer.progress import shown
from wafer.registry import Registry, Version
from wafer.registry.packaging import digest_folder
from wafer.registry.provenance import recorded_versions, versions_now
from wafer.registry.versions import MANIFEST, PARAMS
from wafer.settings import Settings
from wafer.storage import write_bytes, write_json

CODE = Path(__file__).parents[1]
"""The folder that holds the package: a checkout, where it is one."""
UNREADABLE = (SnapshotError, OSError, ValueError)  # the last from files that are no JSON or no Parquet


@dataclass(frozen=True)
class Rebuilt:
    """What training a version again came to.

    Attributes:
        version: its number.
        snapshot: digest of the table that both were trained on.
        source: where the table was found: the storage, DVC's cache, DVC's remote or the database.
        code: which code trained it again, in words.
        libraries: those that differ, with the version of then and the installed one; None for an absent one.
        notes: what else may be the reason of a difference.
        parts: files of the model that differ, are missing or were added; empty where all digests agree.
        wafers: of the snapshot; each was scored by both models.
        deviation: largest difference between both models' probabilities; None where a model could not be loaded.
    """

    version: int
    snapshot: str
    source: str
    code: str
    libraries: dict[str, tuple[str | None, str | None]]
    notes: tuple[str, ...]
    parts: tuple[str, ...]
    wafers: int
    deviation: float | None

    @property
    def identical(self) -> bool:
        """Whether every part and every probability is the same."""
        return not self.parts and self.deviation in (0.0, None)

    def as_dict(self) -> dict[str, Any]:
        """The findings as plain JSON values, with `identical`."""
        return {**asdict(self), "identical": self.identical}


def rebuild(settings: Settings, version: int | str, checkout: Path = CODE) -> Rebuilt:
    """Train `version` again and compare it with what is registered, part by part and wafer by wafer.

    Args:
        settings: where registry, storage and database are; nothing is written to them.
        version: a number or an alias.
        checkout: the git repository that knows the recorded commit, and DVC's cache and remote.

    Raises:
        RegistryError: there is no such version, or what would be needed was not recorded with it.
        SnapshotError: its snapshot is found nowhere.
        ModelError: the training failed.
        TamperedError: the registered model is not what was registered.
    """
    registry = Registry.open(settings)
    found = registry.version(version)
    params, manifest = _recorded(registry, found, PARAMS), _recorded(registry, found, MANIFEST)
    with tempfile.TemporaryDirectory(prefix="wafer-rebuild-") as scratch:
        place = Path(scratch)
        with shown("rebuild: snapshot") as progress:
            frozen, source = find_snapshot(settings, manifest, found.tags, checkout)
            write_snapshot(frozen, place / "data" / "snapshot")
            progress(1, 1)
        (place / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        with checked_out(checkout, found.tags.get("git.commit", "unknown"), place / "tree") as (tree, code):
            status = _fit(tree, place / "data", place / "params.yaml", settings.jobs)
            if status != 0:
                told = "; ".join([f"with {code} it ended with exit status {status}, see above", *_dirty_note(found)])
                raise ModelError(f"version {found.version} could not be trained again: {told}")
        (again,) = (place / "data" / "models").iterdir()
        with shown("rebuild: compare") as progress:
            registered = registry.fetch(found, place / "registered")
            parts, deviation, notes = _compare(registered, again, frozen)
            progress(1, 1)
    return Rebuilt(
        version=found.version,
        snapshot=frozen.digest,
        source=source,
        code=code,
        libraries=_differing_libraries(found),
        notes=(*_dirty_note(found), *notes),
        parts=parts,
        wafers=len(frozen.table),
        deviation=deviation,
    )


def _recorded(registry: Registry, version: Version, name: str) -> dict[str, Any]:
    document: dict[str, Any] | None = registry.stored_json(version, name)
    if document is None:
        raise RegistryError(f"version {version.version} cannot be rebuilt: its run has no {name}")
    return document


def find_snapshot(
    settings: Settings, manifest: dict[str, Any], tags: dict[str, str], checkout: Path
) -> tuple[Snapshot, str]:
    """The snapshot that `manifest` describes, and where it was found.

    Args:
        settings: where storage and database are.
        manifest: as it was logged with the training.
        tags: of the version: the MD5 of the snapshot's files, by which DVC knows them.
        checkout: a folder with DVC's configuration, where there is one.

    Raises:
        SnapshotError: it is neither in the storage, nor known to DVC, nor can the database give it back.
    """
    digest = manifest["digest"]
    failed = []
    try:
        kept = read_snapshot(settings.area("snapshot") / digest[:DIGITS])
        if kept.digest == digest:
            return kept, "the storage"
    except UNREADABLE as error:
        failed.append(f"storage: {error}")
    for source, data in _known_to_dvc(checkout, tags.get("snapshot.md5.wafers.parquet")):
        with tempfile.TemporaryDirectory() as scratch:
            write_bytes(Path(scratch, "wafers.parquet"), data)
            write_json(Path(scratch, "manifest.json"), manifest)
            try:
                return read_snapshot(Path(scratch)), source
            except UNREADABLE as error:
                failed.append(f"{source}: {error}")
    try:
        with open_store(settings) as store:
            return export_again(store, manifest), "the database"
    except (SnapshotError, StoreError) as error:
        failed.append(f"database: {error}")
    raise SnapshotError(f"snapshot {digest[:DIGITS]} is found nowhere; {'; '.join(failed)}")


def _known_to_dvc(checkout: Path, md5: str | None) -> Iterator[tuple[str, bytes]]:
    """The bytes of the file with this MD5, from DVC's cache and from its default remote, where they have it."""
    if md5 is None or not (checkout / ".dvc").is_dir():
        return
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]
    from dvc.repo import Repo  # type: ignore[import-untyped]

    with suppress(DvcException), Repo(str(checkout)) as repo:
        for source, find in (("DVC's cache", lambda: repo.cache.local), ("DVC's remote", repo.cloud.get_remote_odb)):
            with suppress(DvcException, BotoCoreError, OSError):
                place = find()
                if place.exists(md5):
                    yield source, place.fs.cat_file(place.oid_to_path(md5))


@contextmanager
def checked_out(checkout: Path, commit: str, tree: Path) -> Iterator[tuple[Path | None, str]]:
    """The code of `commit` in a worktree at `tree`, which is gone when the block ends.

    Args:
        checkout: a git repository, whose own files and branch stay as they are.
        commit: its full name.
        tree: must not exist yet.

    Returns:
        The worktree and which code it is, in words; None and the reason, where the installed code has to do.
    """
    if commit == "unknown":
        yield None, "the installed code, because no commit was recorded"
        return
    if _git(checkout, "rev-parse", "--git-dir") is None:
        yield None, f"the installed code, because there is no git repository to take commit {commit[:10]} from"
        return
    if _git(checkout, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        yield None, f"the installed code, because the repository does not hold commit {commit[:10]}"
        return
    try:
        # no hook of the user's runs
        if _git(checkout, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(tree), commit) is None:
            yield None, f"the installed code, because git could not check out commit {commit[:10]}"
        else:
            yield tree, f"commit {commit[:10]}"
    finally:
        _git(checkout, "worktree", "remove", "--force", str(tree))
        shutil.rmtree(tree, ignore_errors=True)
        _git(checkout, "worktree", "prune")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _fit(tree: Path | None, storage: Path, params: Path, jobs: int) -> int:
    """Train in a process of its own, with the code in `tree`, else with the installed one; its exit status.

    Its progress and its errors are shown as they come.
    """
    command = [sys.executable, "-m", "wafer.steps", "fit", "--storage", str(storage), "--params", str(params)]
    environment = {**os.environ, "WAFER_JOBS": str(jobs)}
    if tree is not None:
        environment["PYTHONPATH"] = str(tree)
    return subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


def _compare(registered: Path, again: Path, frozen: Snapshot) -> tuple[tuple[str, ...], float | None, tuple[str, ...]]:
    """The parts that differ, the largest difference of a probability, and why there is none."""
    one, other = digest_folder(registered), digest_folder(again)
    parts = tuple(name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name))
    try:
        scores = [
            WaferModel.load(folder).predict_proba(frozen.readings, order=frozen.order) for folder in (registered, again)
        ]
    except ModelError as error:
        return parts, None, (f"scores were not compared, because the installed code cannot load it: {error}",)
    return parts, float(np.max(np.abs(scores[0] - scores[1]))), ()


def _differing_libraries(version: Version) -> dict[str, tuple[str | None, str | None]]:
    then, present = recorded_versions(version.tags), versions_now()
    names = sorted(then.keys() | present.keys())
    return {name: (then.get(name), present.get(name)) for name in names if then.get(name) != present.get(name)}


def _dirty_note(version: Version) -> tuple[str, ...]:
    if version.tags.get("git.dirty") != "true":
        return ()
    return ("it was trained from a tree with changes that were not committed, so the code may have been another",)
