"""Where a version comes from: commit, cleanliness of the tree, versions of the libraries that shape a model."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("wafer", "scikit-learn", "xgboost", "xgboost-cpu", "kneed", "numpy", "pandas", "scipy", "skops", "mlflow")
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


def requirements() -> list[str]:
    """The pinned requirements of a logged model; `wafer` itself is installed from its repository, not from an index."""
    return [f"{name}=={number}" for name, number in library_versions().items() if name not in NOT_ON_AN_INDEX]


def describe_source(folder: Path, stamped: str | None = None) -> dict[str, str]:
    """Tags that say which code made a model: git.commit, git.dirty, python, and library.* versions.

    Args:
        folder: any folder of the checkout.
        stamped: the commit to name where there is no git, as in an image, which knows it from its build.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "git.commit": commit or stamped or "unknown",
        "git.dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        "python": platform.python_version(),
        **{f"library.{name}": number for name, number in library_versions().items()},
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
