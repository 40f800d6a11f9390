"""Log lines: JSON where that is asked for, kept with each run, and never a secret in them."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from wafer import logs
from wafer.errors import ModelError
from wafer.runs import Run, Runs
from wafer.storage import Storage

log = logging.getLogger("wafer")


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(Storage(str(tmp_path)))


def kept(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.place("log.jsonl").read_text().splitlines()]


def test_a_run_keeps_what_is_told_with_its_step(runs: Runs) -> None:
    """Times, levels, steps and messages, also of other threads; nothing of before or after; logging is as before."""
    before = (log.level, list(log.handlers))
    log.warning("before")
    with runs.started("training") as run:
        with run.timed("fit"):
            log.info("fit: %d of %d", 1, 2)
            other = threading.Thread(target=log.warning, args=("beat",))
            other.start()
            other.join()
        log.debug("too much")
    log.warning("after")
    lines = kept(run)
    assert [(line["level"], line.get("step"), line["message"]) for line in lines[:4]] == [
        ("info", None, "training begins"),
        ("info", "fit", "begins"),
        ("info", "fit", "fit: 1 of 2"),
        ("warning", None, "beat"),
    ]
    assert re.fullmatch(r"is done after \d\.\d s", lines[4]["message"])
    assert [line["message"] for line in lines[5:]] == ["finished"]
    assert {line["run"] for line in lines} == {run.id}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in lines)
    assert (log.level, list(log.handlers)) == before


def test_no_line_holds_a_secret(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of variables, nor passwords of addresses, nor what a traceback shows of them."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "h1dden/secret")
    monkeypatch.setenv("MONGODB_URL", "mongodb://me:h1dden%2Fmongo@host/")
    with pytest.raises(ModelError), runs.started("training") as run, run.timed("fit"):
        log.warning("asked mongodb://me:h1dden-other@host/ with h1dden/secret and ?token=h1dden")
        try:
            raise ValueError("h1dden/mongo\nand h1dden%2Fmongo")
        except ValueError:
            log.exception("it broke")
        raise ModelError("no model with h1dden/secret")
    told = run.place("log.jsonl").read_text()
    assert "h1dden" not in told
    lines = kept(run)
    assert lines[3]["error"].splitlines()[0] == "Traceback (most recent call last):"
    assert (lines[4]["step"], lines[4]["message"].partition(": ")[2]) == ("fit", "no model with ***")
    assert lines[-1]["message"] == "failed: no model with ***"


def test_a_killed_run_has_kept_its_log(tmp_path: Path) -> None:
    """At least what its steps began and ended."""
    script = f"""
import os, signal
from wafer.runs import Runs
from wafer.storage import Storage
with Runs(Storage({str(tmp_path)!r})).started("training") as run, run.timed("fit"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    (file,) = tmp_path.glob("runs/*/log.jsonl")
    assert [json.loads(line)["message"] for line in file.read_text().splitlines()] == ["training begins", "begins"]


def test_a_log_that_cannot_be_kept_ends_no_run(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, once, and the run is finished."""
    with runs.started("training") as run:
        place = Path(str(run.place("log.jsonl")))
        place.unlink()
        place.mkdir()
    assert run.outcome()["state"] == "finished"
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith(f"the log {run.place('log.jsonl')} could not be kept: ")


def test_a_command_tells_its_failure_in_json(tmp_path: Path) -> None:
    """Where WAFER_LOG_FORMAT says so, all that is on standard error is JSON."""
    environment = {**os.environ, "WAFER_STORAGE": str(tmp_path / "data"), "WAFER_LOG_FORMAT": "json"}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    script = "from wafer.cli.main import main; main(['study', 'fit', '--storage', 'data'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    told = [(line["level"], line["message"]) for line in map(json.loads, done.stderr.splitlines())]
    why = "study has no record of its step 'snapshot': run that first"
    assert told == [("info", "begins"), ("error", f"ends after 0.0 s: {why}"), ("error", why)]


def test_people_are_not_told_of_every_step(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As text, the beginning and end of steps are left out; as JSON they are told."""
    told = {}
    for form in ("text", "json"):
        monkeypatch.setattr(log, "handlers", [])
        monkeypatch.setattr(log, "propagate", log.propagate)
        monkeypatch.setattr(log, "level", log.level)
        logs.show_log_lines(form)  # type: ignore[arg-type]
        logs.events.info("begins")
        log.warning("careful")
        told[form] = capsys.readouterr().err.splitlines()
    assert told["text"] == ["careful"]
    assert [json.loads(line)["message"] for line in told["json"]] == ["begins", "careful"]
