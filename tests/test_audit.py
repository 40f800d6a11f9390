"""The audit says "clean" only of what was looked up."""

import importlib.util
import json
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / ".ci" / "audit.py"
OLD = {"name": "flask", "version": "0.5", "vulns": [{"id": "PYSEC-2018-66"}]}
CLEAN: dict[str, Any] = {"name": "click", "version": "8.3.1", "vulns": []}
SKIPPED = {"name": "flask", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture
def audit() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_network_one_sentence_says_that_nothing_is_known() -> None:
    """Exit status 2, no traceback, and nothing that could be taken for clean."""
    env = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "audit: PyPI's advisories cannot be had here, so nothing is known of vulnerabilities;"
    )
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("first", "then", "status", "told"),
    [
        ([OLD], [CLEAN], 0, "of 1 packages in requirements-dev.lock, 0 have"),
        ([OLD], [CLEAN, OLD], 1, "flask 0.5: PYSEC-2018-66"),
        ([SKIPPED], [CLEAN], 2, "1 of 1 packages could not be looked up"),
        ([{**OLD, "vulns": []}], [CLEAN], 2, "nothing is told of flask==0.5"),
        ([OLD], [CLEAN, SKIPPED], 2, "1 of 2 packages could not be looked up"),
    ],
)
def test_what_could_not_be_looked_up_is_not_clean(
    first: list[object],
    then: list[object],
    status: int,
    told: str,
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What pip-audit answers, with status 0 also where it has looked up nothing; a program in its place says it."""
    answers = {False: {"dependencies": first}, True: {"dependencies": then}}
    program = f"import sys; print({ {k: json.dumps(v) for k, v in answers.items()} }['lock' in sys.argv[-1]])"
    monkeypatch.setattr(audit, "COMMAND", [sys.executable, "-c", program])
    try:
        ended = audit.main()
    except SystemExit as stopped:
        ended = stopped.code
    shown = capfd.readouterr()
    assert ended == status
    assert told in shown.out + shown.err
