"""What is installed when: the core scores wafers, and a command that needs more names the extra that brings it."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.learning.conftest import make_wafers
from wafer.boundary import EXTRAS
from wafer.learning.model import WaferModel
from wafer.scoring.bundle import fit_bundle
from wafer.scoring.judge import judge

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
NORMALISE = re.compile(r"[-_.]+")

REFUSING = """
import json, sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
REFUSED = frozenset(json.loads(sys.stdin.read()))
sys.meta_path.insert(0, Refusing())
"""


def distribution_of(requirement: str) -> str:
    """The normalised name (PEP 503) at the start of a requirement."""
    return NORMALISE.sub("-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def reached(requirements: list[str]) -> set[str]:
    """The distributions that `requirements` bring, those that they require among them."""
    found: set[str] = set()
    waiting = [distribution_of(one) for one in requirements]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another system
            continue
        waiting += [distribution_of(one) for one in required if "extra ==" not in one]
    return found


@cache
def modules_brought() -> dict[str, set[str]]:
    """The top-level modules of this environment, each with the distributions that bring it."""
    brought = importlib.metadata.packages_distributions()
    return {module: {NORMALISE.sub("-", one).lower() for one in names} for module, names in brought.items()}


def modules_outside(distributions: set[str]) -> list[str]:
    """The top-level modules of this environment that none of `distributions` brings."""
    return sorted(
        module
        for module, names in modules_brought().items()
        if module not in ("wafer", "flows") and not distributions & names
    )


def run_without(refused: list[str], script: str, folder: Path) -> str:
    """What `script` prints where the modules `refused` are not installed."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", REFUSING + script],
        input=json.dumps(refused),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def beyond_the_core() -> list[str]:
    """The modules that an installation without extras lacks."""
    outside = modules_outside(reached(PROJECT["dependencies"]))
    assert {"prefect", "dvc", "great_expectations", "mlflow", "pymongo", "papermill", "matplotlib"} <= set(outside)
    return outside


def imported_modules() -> Iterator[str]:
    for folder in ("wafer", "flows"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module.partition(".")[0]


def test_each_library_beyond_the_core_has_its_extra(beyond_the_core: list[str]) -> None:
    """Whatever the code imports comes with the core, or is told by its extra where it is missing."""
    told = {library: extra for extra, libraries in EXTRAS.items() for library in libraries.split()}
    assert set(imported_modules()) & set(beyond_the_core) <= told.keys()
    assert EXTRAS.keys() == PROJECT["optional-dependencies"].keys()
    for extra, requirements in PROJECT["optional-dependencies"].items():
        brought = reached(requirements)
        libraries = [one for one in EXTRAS[extra].split() if one in modules_brought()]
        assert [one for one in libraries if not modules_brought()[one] & brought] == [], extra


@pytest.mark.slow
@pytest.mark.invariant
def test_the_core_scores_with_a_saved_model(beyond_the_core: list[str], tmp_path: Path) -> None:
    """Everything that scoring is made of is imported, and a saved model scores a frame, without any extra."""
    wafers = make_wafers()
    model = WaferModel(trees=10, search_budget=1, max_clusters=3, calibration_folds=2, reference_window=60, n_jobs=1)
    bundle = fit_bundle(model, wafers.X, wafers.y, wafers.order, wafers.batch, permutations=2)
    bundle.save(tmp_path / "data" / "models" / "mine")
    wafers.X.to_parquet(tmp_path / "wafers.parquet")
    script = """
import importlib, pkgutil
import pandas as pd
import wafer
for room in ("learning", "diagnosis", "scoring"):
    found = importlib.import_module(f"wafer.{room}")
    for module in pkgutil.iter_modules(found.__path__, f"{found.__name__}."):
        importlib.import_module(module.name)
with wafer.open(storage_url="data") as workspace:
    workspace.runs.latest("training")
    bundle = workspace.bundle("models/mine")
judged = wafer.scoring.judge.judge(bundle, pd.read_parquet("wafers.parquet"), reasons="alarms")
print(judged.wafers.to_json(), judged.reasons.to_json(), sep="\\n")
"""
    judged = judge(bundle, wafers.X, reasons="alarms")
    assert judged.reasons is not None and len(judged.reasons)
    told = run_without(beyond_the_core, script, tmp_path).splitlines()
    assert told == [judged.wafers.to_json(), judged.reasons.to_json()]


def test_a_missing_extra_is_one_sentence(beyond_the_core: list[str], tmp_path: Path) -> None:
    """Each command that needs more than the core names the extra and ends with 2; the others work without it."""
    script = """
import contextlib, io
from wafer.cli.main import main
for line in LINES:
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(line.split())
        except SystemExit as end:
            status = end.code
    print(json.dumps([line, status, told.getvalue()]))
"""
    works = ["--help", "simulate --out raw/training --batches 1 --wafers 20", "params schema"]
    lacks = [
        "run",
        "ingest --raw raw/training",
        "train",
        "predict --raw raw/training",
        "study ingest-training snapshot fit",
        "check raw/training",
        "store status",
        "models list",
    ]
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    (tmp_path / "expectations").mkdir()
    for suite in (REPOSITORY / "expectations").iterdir():
        (tmp_path / "expectations" / suite.name).write_bytes(suite.read_bytes())
    printed = run_without(beyond_the_core, f"LINES = {works + lacks!r}" + script, tmp_path)
    ended = {line: (status, told) for line, status, told in map(json.loads, printed.splitlines())}
    assert {line: ended[line] for line in works} == dict.fromkeys(works, (0, ""))
    for line in lacks:
        status, told = ended[line]
        assert (status, told.count("\n")) == (2, 1), (line, told)
        assert re.match(r"wafer: the library \w+ is not installed: install wafer\[pipeline\]", told), (line, told)


def test_a_bucket_without_its_extra_is_one_sentence(tmp_path: Path) -> None:
    """Without the extra `s3`, a bucket as the storage is refused by the name of that extra."""
    extras = PROJECT["optional-dependencies"]
    lacks = modules_outside(reached([*PROJECT["dependencies"], *extras["pipeline"], *extras["embedded"]]))
    script = """
import contextlib, os
os.environ |= {"WAFER_STORAGE": "s3://bucket/mine", "WAFER_STATE": os.getcwd()}
import wafer
from wafer.boundary import bounded
with contextlib.redirect_stderr(sys.stdout):
    print(bounded(lambda: wafer.open().runs.latest("training")))
"""
    assert "s3fs" in lacks
    told, status = run_without(lacks, script, tmp_path).splitlines()
    assert re.match(r"wafer: the library (s3fs|botocore) is not installed: install wafer\[s3\]", told)
    assert status == "2"
