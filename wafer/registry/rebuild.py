"""A registered version trained again from what was recorded of it, and the proof that the same model comes out.

What is needed is its snapshot, the commit of its code, its params and the libraries. Nothing is checked out in the
user's tree: the code of then lies in a temporary worktree, and runs there as a study of its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from wafer.errors import EmptyError, ModelError, RegistryError, SnapshotError, StoreError
from wafer.lifeline import tie_children
from wafer.progress import shown
from wafer.records import Frozen
from wafer.registry import Registry, Version
from wafer.registry.packaging import digest_folder
from wafer.registry.provenance import library_versions, recorded_versions, versions_now
from wafer.registry.versions import LIBRARIES, MANIFEST, PARAMS
from wafer.runs import Runs
from wafer.scoring.bundle import Bundle
from wafer.settings import Settings
from wafer.storage import Storage, bucket_errors, write_bytes, write_json
from wafer.store.snapshot import DIGITS, Snapshot, read_snapshot, write_snapshot
from wafer.store.snapshot import rebuild as export_again
from wafer.store.wafers import open_store

CODE = Path(__file__).parents[2]
"""The folder that holds the package: a checkout, where it is one."""
# the last from files that are no JSON or no Parquet
UNREADABLE: tuple[type[Exception], ...] = (SnapshotError, EmptyError, StoreError, OSError, ValueError)


@dataclass(frozen=True)
class Rebuilt:
    """What training a version again came to.

    Attributes:
        version: its number.
        snapshot: digest of the table that both were trained on.
        source: where the table was found: the storage, DVC's cache, DVC's remote or the database.
        code: which code trained it again, in words.
        libraries: Python and the distributions that differ, with the version of then and the installed one; None for
            an absent one.
        notes: what else may be the reason of a difference.
        parts: files of the model that differ, are missing or were added; empty where all digests agree.
        wafers: of the snapshot.
        deviation: largest difference between both models' probabilities, over all these wafers; None where none was
            scored, because a model could not be loaded.
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
            _leave_snapshot(frozen, Storage(str(place / "data")))
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
        libraries=differing_libraries(registry, found),
        notes=(*_dirty_note(found), *notes),
        parts=parts,
        wafers=len(frozen.table),
        deviation=deviation,
    )


def _leave_snapshot(frozen: Snapshot, storage: Storage) -> None:
    """Put a snapshot where a study looks for it."""
    folder = storage.key(write_snapshot(frozen, storage.place("snapshot")))
    wafers, faulty = (int(frozen.manifest[name]) for name in ("wafers", "faulty"))
    Runs(storage).study().write(Frozen(folder, frozen.digest, wafers, faulty))


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
    digest, md5 = manifest["digest"], tags.get("snapshot.md5.wafers.parquet")
    places: tuple[tuple[str, Callable[[], Snapshot]], ...] = (
        ("the storage", lambda: read_snapshot(settings.storage.place("snapshot") / digest[:DIGITS])),
        ("DVC's cache", lambda: _from_dvc(checkout, manifest, md5, remote=False)),
        ("DVC's remote", lambda: _from_dvc(checkout, manifest, md5, remote=True)),
        ("the database", lambda: _from_database(settings, manifest)),
    )
    failed = []
    for source, read in places:
        try:
            found = read()
        except UNREADABLE + bucket_errors() as error:
            failed.append(f"{source}: {_first_line(error)}")
            continue
        if found.digest == digest:
            return found, source
        failed.append(f"{source}: it has snapshot {found.digest[:DIGITS]} in its place")
    raise SnapshotError(f"snapshot {digest[:DIGITS]} is found nowhere; {'; '.join(failed)}")


def _from_dvc(checkout: Path, manifest: dict[str, Any], md5: str | None, *, remote: bool) -> Snapshot:
    """The snapshot whose table has this MD5, from DVC's cache or from its default remote.

    Raises:
        SnapshotError: why it is not to be had.
    """
    if md5 is None:
        raise SnapshotError("not asked, because the MD5 of the snapshot's table was not recorded")
    if not (checkout / ".dvc").is_dir():
        raise SnapshotError(f"not asked, because {checkout} is not under DVC")
    data = _bytes_known_to_dvc(checkout, md5, remote=remote)
    with tempfile.TemporaryDirectory() as scratch:
        write_bytes(Path(scratch, "wafers.parquet"), data)
        write_json(Path(scratch, "manifest.json"), manifest)
        return read_snapshot(Path(scratch))


def _bytes_known_to_dvc(checkout: Path, md5: str, *, remote: bool) -> bytes:
    try:
        from dvc.config import NoRemoteError  # type: ignore[import-untyped]
        from dvc.exceptions import DvcException  # type: ignore[import-untyped]
        from dvc.repo import Repo  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise SnapshotError(f"not asked, because {error.name} is not installed: pip install 'wafer[dvc]'") from error
    try:
        with Repo(str(checkout)) as repo:
            place = repo.cloud.get_remote_odb() if remote else repo.cache.local
            # asked whether it exists, a bucket that refuses the keys would say no
            return bytes(place.fs.cat_file(place.oid_to_path(md5)))
    except NoRemoteError as error:
        raise SnapshotError("no default remote is configured") from error
    except FileNotFoundError as error:
        raise SnapshotError(f"has no such file ({error.filename or _first_line(error)})") from error
    # the third from a kind of remote whose package is not installed
    except (DvcException, *bucket_errors(), ImportError, OSError) as error:
        raise SnapshotError(f"could not be read: {_first_line(error)}") from error


def _from_database(settings: Settings, manifest: dict[str, Any]) -> Snapshot:
    with open_store(settings) as store:
        return export_again(store, manifest)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


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
    short = commit[:10]
    if trouble := _git(checkout, "rev-parse", "--git-dir"):
        yield None, f"the installed code, because there is no git repository to take commit {short} from ({trouble})"
        return
    if trouble := _git(checkout, "cat-file", "-e", f"{commit}^{{commit}}"):
        yield None, f"the installed code, because the repository does not hold commit {short} ({trouble})"
        return
    try:
        # no hook of the user's runs
        trouble = _git(checkout, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(tree), commit)
        if trouble:
            yield None, f"the installed code, because git could not check out commit {short} ({trouble})"
        else:
            yield tree, f"commit {short}"
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        # this one only: git's prune would forget each of the user's worktrees whose disk is not mounted now;
        # twice --force, since an interrupted one is still locked
        _git(checkout, "worktree", "remove", "--force", "--force", str(tree))


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git; None where that went well, else the first line of what git says is wrong."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError as error:
        return f"git cannot be run: {error}"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # progress goes to the same stream, before the errors
    errors = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
    return f"git: {errors[0]}" if errors else f"git ended with exit status {done.returncode}"


def _fit(tree: Path | None, storage: Path, params: Path, jobs: int) -> int:
    """Train in a process of its own, with the code in `tree`, else with the installed one; its exit status.

    Its progress and its errors are shown as they come.
    """
    command = [sys.executable, "-m", "wafer", "study", "fit", "--storage", str(storage), "--params", str(params)]
    tie_children()
    environment = {**os.environ, "WAFER_JOBS": str(jobs)}
    if tree is not None:
        environment["PYTHONPATH"] = str(tree)
    return subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


def _compare(registered: Path, again: Path, frozen: Snapshot) -> tuple[tuple[str, ...], float | None, tuple[str, ...]]:
    """The parts that differ, the largest difference of a probability, and why there is none."""
    one, other = digest_folder(registered), digest_folder(again)
    parts = tuple(name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name))
    try:
        models = [Bundle.load(folder).classifier for folder in (registered, again)]
        scores = [model.predict_proba(frozen.readings, order=frozen.order) for model in models]
    except ModelError as error:
        return parts, None, (f"scores were not compared, because the installed code cannot load it: {error}",)
    return parts, float(np.max(np.abs(scores[0] - scores[1]))), ()


def differing_libraries(registry: Registry, version: Version) -> dict[str, tuple[str | None, str | None]]:
    """All that differ; of a version without a list of all, those that its tags name or that shape a model."""
    then, present = registry.stored_json(version, LIBRARIES), versions_now()
    if then is None:
        then = recorded_versions(version.tags)
        named = then | library_versions()
        present = {name: number for name, number in present.items() if name in named}
    names = sorted(then.keys() | present.keys())
    return {name: (then.get(name), present.get(name)) for name in names if then.get(name) != present.get(name)}


def _dirty_note(version: Version) -> tuple[str, ...]:
    if version.tags.get("git.dirty") != "true":
        return ()
    return ("it was trained from a tree with changes that were not committed, so the code may have been another",)
