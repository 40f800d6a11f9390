"""Where a version comes from: snapshot, commit, cleanliness of the tree, versions of the libraries."""

import hashlib
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from wafer.store.snapshot import Snapshot

LIBRARIES = ("wafer", "scikit-learn", "xgboost", "xgboost-cpu", "kneed", "numpy", "pandas", "scipy", "mlflow")
"""Those that shape a model: noted as tags of each version and required by each logged model."""
LINEAGE = ("snapshot", "git", "source", "library", "python")
NOT_ON_AN_INDEX = ("wafer",)


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that shape a model, by distribution name; absent ones are left out."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


@cache
def versions_now() -> Mapping[str, str]:
    """Installed versions of Python and of every distribution, by normalised name (PEP 503), sorted."""
    found = {"python": platform.python_version()}
    for each in distributions():
        name = each.metadata["Name"]
        if name:  # the leftovers of a broken installation have none
            # of two by one name the first is imported
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), each.version)
    return dict(sorted(found.items()))


def recorded_versions(tags: Mapping[str, str]) -> dict[str, str]:
    """Versions of Python and of the libraries that shape a model, from the tags that `describe_source` gave."""
    libraries = {name.removeprefix("library."): text for name, text in tags.items() if name.startswith("library.")}
    return libraries | ({"python": tags["python"]} if "python" in tags else {})


def lineage(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of a version's tags that say where it comes from, sorted by name."""
    return {key: value for key, value in sorted(tags.items()) if key.startswith(LINEAGE)}


def requirements() -> list[str]:
    """The pinned requirements of a logged model; `wafer` itself is installed from its repository, not from an index."""
    return [f"{name}=={number}" for name, number in library_versions().items() if name not in NOT_ON_AN_INDEX]


def describe_source(folder: Path, stamped: str | None = None) -> dict[str, str]:
    """Tags that say which code made a model: git.commit, git.dirty, source.digest, python, and library.* versions.

    The tree is dirty with changes that were not committed, or with code in `folder` that git does not know.

    Args:
        folder: of the package. Git is asked only where it tracks the files in there: a package that is installed
            somewhere below another project's repository does not come from that project's commit.
        stamped: the commit to name whatever git says, as in an image, which knows it from its build.
    """
    tracked = _git(folder, "ls-files", "--error-unmatch", "--", ".") is not None
    head = _git(folder, "rev-parse", "HEAD") if tracked else None
    commit = stamped or head
    return {
        "git.commit": commit or "unknown",
        # changes to another commit than the one that is named would say nothing
        "git.dirty": "unknown" if head is None or head != commit else str(_is_dirty(folder)).lower(),
        "source.digest": source_digest(folder),
        "python": platform.python_version(),
        **{f"library.{name}": number for name, number in library_versions().items()},
    }


def source_digest(folder: Path) -> str:
    """SHA-256 of all Python files below `folder`, with their paths: the same code, whatever git knows of it."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _is_dirty(folder: Path) -> bool:
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return bool(changes or _git(folder, "ls-files", "--others", "--exclude-standard", "--", "*.py"))


def describe_snapshot(snapshot: Snapshot, folder: Path) -> dict[str, str]:
    """Tags that say which table a model was trained on, and by which names DVC would know its files.

    Args:
        snapshot: the table.
        folder: where its files lie.

    Returns:
        snapshot.digest, snapshot.last_order (production order of its last wafer), and snapshot.md5.* of its files.
    """
    md5 = {
        f"snapshot.md5.{file.name}": hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        for file in sorted(folder.iterdir())
        if file.is_file()
    }
    return {"snapshot.digest": snapshot.digest, "snapshot.last_order": str(int(snapshot.order.max())), **md5}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
