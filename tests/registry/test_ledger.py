"""Decisions that meet each other, and decisions that are cut short."""

import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.registry.rules import RULES, with_canary
from wafer.errors import RegistryError
from wafer.registry import Registry
from wafer.registry.records import Check, Comparison, Decision
from wafer.scoring.bundle import Bundle


def check_chain(registry: Registry) -> None:
    """One champion; each promotion names the one before it; aliases and stages say what the ledger says."""
    promotions = [line for line in registry.ledger() if line.promoted]
    assert promotions[0].champion is None
    assert [line.champion for line in promotions[1:]] == [line.challenger for line in promotions[:-1]]
    aliases = registry.aliases()
    assert (aliases["champion"], aliases.get("previous")) == (promotions[-1].challenger, promotions[-1].champion)
    assert [v.version for v in registry.versions() if v.stage == "production"] == [promotions[-1].challenger]


def run_together(registry: Registry, place: Path, versions: int, times: int) -> int:
    """A process for each version, let go at one moment; how many decisions they say that they carried out."""
    go = place / "go"
    command = [sys.executable, "-m", "tests.registry.deciders", registry.tracking_uri, registry.artifact_root or ""]
    processes = [
        subprocess.Popen(
            [*command, str(version), str(times), str(go)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        for version in range(1, versions + 1)
    ]
    deadline = time.monotonic() + 120
    while not all(Path(f"{go}.{version}").exists() for version in range(1, versions + 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    go.touch()
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * versions
    return sum(int(text) for text in told)


@pytest.mark.slow
@pytest.mark.invariant
def test_processes_that_decide_at_once_agree(registry, log_training, tmp_path):
    """Three processes decide and promote at once: one champion, every line kept, `previous` is the one before."""
    for _ in range(3):
        log_training()
    carried_out = run_together(registry, tmp_path, versions=3, times=3)
    assert carried_out == len(registry.ledger()) >= 3
    check_chain(registry)


@pytest.mark.slow
def test_many_processes_that_decide_at_once_agree(registry, log_training, tmp_path):
    """The same with eight processes and eighty decisions."""
    for _ in range(8):
        log_training()
    carried_out = run_together(registry, tmp_path, versions=8, times=9)
    assert carried_out == len(registry.ledger()) > 20
    check_chain(registry)


def test_a_line_is_written_once(registry, log_training):
    """Of two lines with one number the first is kept, and whoever wrote the second learns that it was too late."""
    log_training()
    lines = [Decision("promote", 1, None, True, why, "2026-01-01T00:00:00", ()) for why in ("first", "second")]
    other = Registry(registry.tracking_uri, registry.artifact_root)
    assert registry._append(lines[0], 1)
    assert not other._append(lines[1], 1)
    assert other._append(lines[1], 2)
    assert registry.ledger() == lines


@pytest.mark.slow
@pytest.mark.invariant
def test_a_rollback_is_not_carried_out_on_another_champion(registry, log_training, monkeypatch):
    """A champion that appears while a rollback is under way is not rolled back in the place of the other."""
    for _ in range(3):
        log_training()
    other = Registry(registry.tracking_uri, registry.artifact_root)
    registry.promote(1, "a test")
    registry.promote(2, "a test")
    verify = registry.verify

    def interrupted(which):
        other.promote(3, "meanwhile")
        return verify(which)

    monkeypatch.setattr(registry, "verify", interrupted)
    with pytest.raises(RegistryError, match="version 3 became champion meanwhile, in the place of version 2"):
        registry.rollback("version 2 is bad")
    assert registry.aliases()["champion"] == 3
    check_chain(registry)


def test_a_long_reason_is_refused(registry, log_training):
    """A reason that no line could keep whole is refused, with the length that it may have."""
    registry.decide(log_training(), RULES)
    log_training()
    with pytest.raises(RegistryError, match="the reason may have 1000 characters, got 1001"):
        registry.promote(2, "x" * 1001)
    assert registry.promote(2, "ä" * 1000) == registry.ledger()[-1]


def long_line(text: str, checks: int = 7) -> Decision:
    """A refusal whose checks, evidence and reason hold `text`."""
    found = tuple(Check(f"check {n}", n % 2 == 0, n + 0.123456789, 1e-9, f"{n}: {text}") for n in range(checks))
    comparison = Comparison(100, 10, 2, 0.61, 0.62, -0.01, -0.05, 0.01, 101.5, 100.5, 1.0, -5.0, 5.0, "later", text)
    return Decision(
        "gate",
        1,
        None,
        False,
        f"Refused: {text}",
        "2026-01-01T00:00:00",
        found,
        comparison,
        asdict(RULES),
        1,
        comparison,
    )


@pytest.mark.parametrize("length", [400, 900, 5000])
def test_a_long_line_loses_texts_and_no_number(registry, log_training, length):
    """A line keeps each check with its numbers, the comparison and the rules; a text that was cut says so."""
    log_training()
    line = long_line("ä" * length)
    assert registry._append(line, 1)
    (kept,) = registry.ledger()
    assert [replace(check, text="") for check in kept.checks] == [replace(check, text="") for check in line.checks]
    assert (replace(kept.comparison, evidence_text=""), kept.rules) == (
        replace(line.comparison, evidence_text=""),
        line.rules,
    )
    pairs = [(one.text, other.text) for one, other in zip(kept.checks, line.checks, strict=True)]
    pairs += [(kept.comparison.evidence_text, line.comparison.evidence_text), (kept.reason, line.reason)]
    for shorter, whole in pairs:
        assert shorter == whole or (shorter[-1] == "…" and whole.startswith(shorter[:-1]) and len(shorter) >= 60)
    assert (kept.reason == line.reason) == (length < 5000)


def test_a_line_that_cannot_be_kept_is_refused(registry, log_training):
    """More numbers than a line may hold are one sentence, and nothing is written."""
    log_training()
    with pytest.raises(
        RegistryError, match="the decision on version 1 does not fit into the ledger: a line may have 6,"
    ):
        registry._append(long_line("x" * 100, checks=100), 1)
    assert registry.ledger() == []


def struck(registry: Registry, action: str, version: str | Path, strike: str | int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.registry.struck", registry.tracking_uri, str(registry.artifact_root)]
    return subprocess.run(
        [*command, action, str(version), str(strike)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.invariant
@pytest.mark.parametrize("healer", ["the same decision again", "a decision on another version"])
def test_killed_between_line_and_alias_the_next_decision_heals(registry, log_training, healer):
    """The line is written, the alias not moved: the old champion is in use until the next decision moves it."""
    registry.decide(log_training(1.5), RULES)
    log_training(2.0)
    assert struck(registry, "decide", 2, "set_registered_model_alias").returncode == -signal.SIGKILL
    assert (registry.champion().version, [line.promoted for line in registry.ledger()]) == (1, [True, True])
    if healer == "the same decision again":
        assert registry.decide(2, RULES) == registry.ledger()[-1]
    else:
        assert not registry.decide(log_training(0.0), RULES).promoted
    assert registry.champion().version == 2
    check_chain(registry)


@pytest.mark.slow
@pytest.mark.invariant
def test_killed_before_its_line_nothing_was_decided(registry, log_training):
    """Without its line a decision has changed nothing, and running it again completes it."""
    registry.decide(log_training(1.5), RULES)
    log_training(2.0)
    assert struck(registry, "decide", 2, "log_param").returncode == -signal.SIGKILL
    assert (registry.champion().version, len(registry.ledger())) == (1, 1)
    assert registry.decide(2, RULES).promoted
    check_chain(registry)


@pytest.mark.slow
@pytest.mark.invariant
def test_a_training_killed_before_the_gate_leaves_the_champion(
    registry, log_training, make_scores, readings, model_folder, tmp_path
):
    """Killed after its model was logged: the old champion stays in use and scores; the training run again completes."""
    registry.decide(log_training(1.5), RULES)
    with_canary(make_scores(2.0)).to_parquet(tmp_path / "scores.parquet")
    readings.head(4).to_parquet(tmp_path / "example.parquet")
    (tmp_path / "model").symlink_to(model_folder)
    assert struck(registry, "train", tmp_path, "set_registered_model_alias").returncode == -signal.SIGKILL
    assert (registry.champion().version, len(registry.versions()), len(registry.ledger())) == (1, 2, 1)
    expected = Bundle.load(model_folder).classifier.predict_proba(readings)
    np.testing.assert_array_equal(registry.load("champion").classifier.predict_proba(readings), expected)
    assert struck(registry, "train", tmp_path, 0).returncode == 0
    assert registry.decide("challenger", RULES).promoted
    assert registry.aliases() == {"champion": 3, "previous": 1}
    check_chain(registry)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["decide", "promote"])
def test_killed_at_every_write_a_decision_heals(registry, log_training, action):
    """Whichever write a decision is killed at, running it again ends with one champion and a whole ledger."""
    registry.decide(log_training(1.5), RULES)
    strike = 0
    while True:
        strike += 1
        version = log_training(2.0).version
        before = registry.champion().version
        done = struck(registry, action, version, strike)
        assert registry.champion().version in (before, version)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        registry.decide(version, RULES)
        assert registry.champion().version == version
        check_chain(registry)
    assert strike > 4


@pytest.mark.slow
@pytest.mark.parametrize("strike", range(1, 6))
def test_killed_at_the_first_writes_of_a_ledger(registry, log_training, strike):
    """The ledger itself may be cut short while it is begun."""
    log_training()
    assert struck(registry, "decide", 1, strike).returncode == -signal.SIGKILL
    assert registry.decide(1, RULES).promoted
    assert len(registry.ledger()) == 1
    check_chain(registry)


@pytest.mark.slow
@pytest.mark.invariant
def test_scores_are_kept_apart_from_the_ledger(registry, log_training):
    """The run that holds the ledger is no training, and the run that names it keeps its params."""
    registry.decide(log_training(), RULES)
    run = registry._client.get_run(registry.version(1).run_id)
    assert pd.Series(run.data.params).drop("ledger").to_dict() == {"fit.trees": "5", "fit.seed": "0"}
    ledger = registry._client.get_run(run.data.params["ledger"])
    assert (ledger.data.tags["kind"], sorted(ledger.data.params)) == ("ledger", ["00000001"])
