"""A version trained again from its lineage, in a checkout as a user has it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from wafer.registry import Registry
from wafer.settings import Settings

TRAIN = """
import sys
from pathlib import Path
from tests import working
from wafer.params import read_params
from wafer.settings import Settings

for file in sys.argv[2:]:
    working.ingest(Settings.read(), "training", Path(sys.argv[1]))
    working.train(Settings.read(), read_params(file))
"""
pytestmark = pytest.mark.slow
MODELS = "import sys; sys.argv[0] = 'wafer'; from wafer.cli.main import main; main()"
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tree(checkout: Path) -> Path:
    """The checkout, committed, and clean."""
    git(checkout, "add", "-A")
    git(checkout, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "a state")
    return checkout


def git(tree: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=tree, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def python(tree: Path, settings: Settings) -> Python:
    """Run Python code with the checkout's package, on the test's own storage and database."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WAFER_STORAGE": settings.storage_url,
        "MONGODB_URL": settings.mongodb_url or "",
        "MONGODB_DATABASE": settings.mongodb_database,
        "WAFER_JOBS": "1",
        "DVC_NO_ANALYTICS": "1",
    }

    def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def trained(tree: Path, python: Python, tmp_path: Path) -> Path:
    """Two versions on one snapshot, the second with other parameters; the storage."""
    params = yaml.safe_load((tree / "params.yaml").read_text())
    params["fit"] |= {"trees": 10, "panel": "linear", "max_clusters": 1}
    files = []
    for seed in (0, 1):
        params["fit"] |= {"seed": seed, "trees": 10 + seed}
        files.append(tmp_path / f"params-{seed}.yaml")
        files[-1].write_text(yaml.safe_dump(params))
    raw = tmp_path / "raw"
    simulated = python(MODELS, "simulate", "--out", raw, "--batches", "5", "--wafers", "40")
    assert simulated.returncode == 0, simulated.stderr
    done = python(TRAIN, raw, *files)
    assert done.returncode == 0, done.stderr
    return tmp_path / "data"


def look(tree: Path) -> tuple[str, ...]:
    """What of the user's tree must stay: branch and commit, changes, worktrees."""
    return tuple(
        git(tree, *command)
        for command in (("log", "-1", "--format=%H %D"), ("status", "--porcelain"), ("worktree", "list"))
    )


def rebuild(python: Python, tree: Path, status: int = 0, version: str = "1") -> dict[str, Any]:
    """What `wafer models rebuild 1 --json` says; the tree stays as it was, also where it fails."""
    before = look(tree)
    done = python(MODELS, "models", "rebuild", version, "--json")
    assert done.returncode == status, done.stderr
    assert look(tree) == before
    if status == 2:
        return {"error": done.stderr}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def commit_all(tree: Path) -> None:
    git(tree, "add", "-A")
    git(tree, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "a later state")


SAME = {"identical": True, "parts": [], "deviation": 0.0, "notes": [], "libraries": {}, "wafers": 200, "version": 1}


@pytest.mark.usefixtures("trained")
@pytest.mark.invariant
def test_an_old_version_comes_out_the_same(python: Python, settings: Settings, tree: Path) -> None:
    """After a later training and later changes of the code, version 1 is rebuilt with its own code and params.

    Its snapshot comes from the storage, then from DVC's cache, then from the database.
    """
    then = git(tree, "rev-parse", "HEAD")[:10]
    steps = tree / "wafer" / "steps.py"
    steps.write_text(steps.read_text().replace("def fit(", "def fit_as_it_never_was("))
    commit_all(tree)
    steps.write_text(steps.read_text() + "# a change of the user's\n")
    found = rebuild(python, tree)
    assert found == {**SAME, "source": "the storage", "code": f"commit {then}", "snapshot": found["snapshot"]}

    named = ("--cost-missed-fault", "50", "--alarm-rate-ceiling", "0.3", "--why", "faults slip through")
    retuned = python(MODELS, "models", "retune", "1", *named)
    assert retuned.returncode in (0, 1), retuned.stderr
    assert rebuild(python, tree, version="3") == {**found, "version": 3}, "trained with that policy it is the same"

    kept = tree / "kept"
    shutil.copytree(Path(str(settings.storage.place("snapshot"))) / found["snapshot"][:12], kept)
    added = python("from dvc.cli import main; raise SystemExit(main(['add', '-q', 'kept']))")
    assert added.returncode == 0, added.stderr
    shutil.rmtree(kept)
    shutil.rmtree(str(settings.storage.place("snapshot")))
    assert rebuild(python, tree) == {**found, "source": "DVC's cache"}

    shutil.rmtree(tree / ".dvc" / "cache")
    assert rebuild(python, tree) == {**found, "source": "the database"}


@pytest.mark.usefixtures("trained")
def test_what_is_not_the_same_is_named(python: Python, settings: Settings, tree: Path) -> None:
    """Parts that differ, how far scores deviate, other libraries, a dirty tree, and a commit that is not there."""
    registry = Registry.open(settings)
    run_id = registry.version(1).run_id
    for tag, value in (("git.commit", "f" * 40), ("git.dirty", "true")):
        registry.tag(1, tag, value)
    kept = Path(str(registry.artifact_root)) / run_id / "artifacts"
    libraries = json.loads((kept / "libraries.json").read_text())
    (kept / "libraries.json").write_text(json.dumps({**libraries, "rich": "0.1"}))
    found = rebuild(python, tree)
    assert found["identical"]
    assert found["code"].startswith("the installed code, because the repository does not hold commit ffffffffff (git: ")
    assert found["libraries"] == {"rich": ["0.1", version("rich")]}
    (note,) = found["notes"]
    assert note.startswith("it was trained from a tree with changes that were not committed")

    file = kept / "params.json"
    params = json.loads(file.read_text())
    params["fit"]["seed"] += 1
    file.write_text(json.dumps(params))
    found = rebuild(python, tree, status=1)
    assert (found["identical"], found["deviation"] > 0) == (False, True)
    assert "manifest.json" in found["parts"]

    params["fit"]["trees"] = "many"
    file.write_text(json.dumps(params))
    error = rebuild(python, tree, status=2)["error"]
    assert "fit.trees" in error
    assert "version 1 could not be trained again: with the installed code" in error
    assert error.endswith(
        "exit status 2, see above; it was trained from a tree with changes that were not committed, "
        "so the code may have been another\n"
    )
    file.unlink()
    error = rebuild(python, tree, status=2)["error"]
    assert error.splitlines()[-1] == "wafer: version 1 cannot be rebuilt: its run has no params.json"
