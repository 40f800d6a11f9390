"""Small losses do not add up, and the same model again changes nothing."""

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.registry.rules import rules
from wafer.errors import RegistryError
from wafer.registry import Registry, Version
from wafer.registry.gate import MINIMUM
from wafer.registry.ledger import InUse, promoted_by_gate
from wafer.registry.records import Check, Decision

STEP = rules(auc_margin=0.05, cost_margin=100.0)
"""From a quality of 1.75 to 1.5, and from 1.5 to 1.25, is allowed by these; from 1.75 to 1.25 is not."""


@pytest.fixture
def slipping(registry: Registry, log_training) -> Version:
    """The challenger after two champions, each worse by less than the margin than the one before."""
    for quality, auc in ((1.75, 0.72), (1.5, 0.70)):
        assert registry.decide(log_training(quality, auc=auc), STEP).promoted
    return log_training(1.25, auc=0.68)


@pytest.mark.slow
@pytest.mark.invariant
def test_margins_do_not_add_up(registry, slipping):
    """What is not worse than the champion, but worse than the best before it, is refused; both comparisons are kept."""
    decision = registry.decide(slipping, STEP)
    assert (decision.promoted, decision.champion, decision.best) == (False, 2, 1)
    assert [check.name for check in decision.checks if not check.passed] == ["best: forward ROC AUC"]
    expected = registry.compare(3, 2, STEP), registry.compare(3, 1, STEP)
    found = decision.comparison, decision.best_comparison
    assert [each.auc_low for each in found] == [each.auc_low for each in expected]
    assert "version 2 stays champion: against version 1 (forward ROC AUC 0.720), the best so far, " in decision.reason
    assert "Compared with version 1 on 160 wafers of both versions' stored forward scores" in decision.reason
    assert registry.ledger()[-1] == decision


def test_a_promotion_tells_the_best_too(registry, slipping):
    """Where the challenger stands up to both, the reason has the numbers of both."""
    decision = registry.decide(slipping, rules(auc_margin=1.0, cost_margin=100.0))
    assert (decision.promoted, decision.best) == (True, 1)
    assert decision.reason.startswith("Version 3 replaces version 2 as champion: forward ROC AUC 0.")
    assert "; against version 1 (forward ROC AUC 0.720), the best so far, forward ROC AUC 0." in decision.reason


def test_a_champion_that_is_the_best_is_compared_once(registry, log_training):
    """Then there is one comparison, and a check says that the champion is the best."""
    registry.decide(log_training(1.5, auc=0.70), STEP)
    decision = registry.decide(log_training(1.75, auc=0.72), STEP)
    assert (decision.promoted, decision.best, decision.best_comparison) == (True, None, None)
    text = "version 1 (forward ROC AUC 0.700) is itself the best that the gate has promoted"
    assert decision.checks[-1] == Check("best", True, 0.70, None, text)


@pytest.mark.parametrize("harm", ["deleted", "no scores"])
def test_a_best_version_that_is_gone_is_told(registry, slipping, harm):
    """Deleted, or without its scores: the decision says which version that was and why, and the next best counts."""
    best = registry.version(1)
    if harm == "deleted":
        registry._client.delete_model_version("wafer", "1")
        why = "the model registry has no version 1 of 'wafer', only: 2, 3"
    else:
        shutil.rmtree(Path(str(registry.artifact_root)) / best.run_id)
        why = "could not read scores.parquet of version 1"
    decision = registry.decide(slipping, STEP)
    assert (decision.promoted, decision.best) == (True, None)
    (gone,) = (check.text for check in decision.checks if check.name == "best: gone")
    assert gone.startswith("version 1 (forward ROC AUC 0.720) was promoted too and can no longer be compared: ")
    assert why in gone
    assert gone[1:] in decision.reason


def test_a_best_version_that_cannot_be_loaded_counts_by_its_stored_scores(registry, slipping):
    """Its model is broken, its scores are there: the comparison stands on these and says so."""
    digest = registry.version(1).digest
    for file in Path(str(registry.artifact_root)).glob("models/*/artifacts/artifacts/model/manifest.json"):
        if hashlib.sha256(file.read_bytes()).hexdigest() == digest:
            file.write_text("{}")
    decision = registry.decide(slipping, STEP)
    assert (decision.promoted, decision.best) == (False, 1)
    assert "both versions' stored forward scores, because" in decision.best_comparison.evidence_text


def test_no_version_escapes_the_floor(registry, log_training):
    """A challenger that beats a bad champion is refused all the same where it does not reach the minimum."""
    registry.decide(log_training(1.0, auc=0.5), rules())
    decision = registry.decide(log_training(2.0, auc=0.49), rules())
    assert [check.name for check in decision.checks if not check.passed] == [MINIMUM]
    assert "version 1 stays champion: forward ROC AUC 0.490, asked for is 0.500" in decision.reason


def line(kind: str, challenger: int, champion: int | None, auc: float | None = None, promoted: bool = True) -> Decision:
    checks = () if auc is None else (Check(MINIMUM, True, auc, 0.5, ""),)
    return Decision(kind, challenger, champion, promoted, "", "2026-01-01T00:00:00+00:00", checks)


def test_who_counts_as_promoted_by_the_gate():
    """Neither who was refused or put into use by hand, nor who was rolled back from, unless that was taken back."""
    lines = [line("gate", 1, None, 0.6), line("gate", 2, 1, 0.7), line("gate", 3, 2, 0.9, promoted=False)]
    lines += [line("promote", 4, 2, None), line("gate", 5, 4)]
    assert promoted_by_gate(lines) == {1: 0.6, 2: 0.7, 5: None}
    assert promoted_by_gate([*lines, line("rollback", 4, 5)]) == {1: 0.6, 2: 0.7}
    assert promoted_by_gate([*lines, line("rollback", 4, 5), line("rollback", 5, 4)]) == {1: 0.6, 2: 0.7, 5: None}


def test_the_same_model_again_changes_nothing(registry, log_training, another_model):
    """A version with the champion's digest is a decision of its own kind, and the champion stays."""
    model = another_model()
    registry.decide(log_training(2.0, model=model), STEP)
    decision = registry.decide(log_training(2.0, model=model), STEP)
    assert (decision.kind, decision.promoted) == ("same model", False)
    assert decision.reason == "Version 2 is the same model as version 1, which stays champion."
    assert [(check.name, check.passed) for check in decision.checks] == [("another model", False)]
    assert (registry.ledger()[-1], registry.aliases()) == (decision, {"champion": 1, "challenger": 2})


@pytest.mark.slow
@pytest.mark.invariant
def test_a_rollback_passes_over_the_same_model(registry, log_training, another_model):
    """Back from a model that was put into use twice, the one before both is in use; and forth again."""
    registry.decide(log_training(2.0), STEP)
    model = another_model()
    registry.decide(log_training(2.0, model=model), STEP)
    log_training(2.0, model=model)
    registry.promote(3, "the files of version 2 are lost")
    assert registry.aliases() == {"champion": 3, "previous": 1}
    assert registry.rollback("a test").challenger == 1
    assert registry.aliases() == {"champion": 1, "previous": 3}
    assert registry.rollback("a test").challenger == 3


def test_a_rollback_to_the_same_model_alone_is_refused(registry, log_training, another_model):
    """Where every champion was one model there is nothing to go back to, and no alias says there were."""
    model = another_model()
    log_training(2.0, model=model)
    log_training(2.0, model=model)
    registry.promote(1, "a test")
    registry.promote(2, "a test")
    assert "previous" not in registry.aliases()
    with pytest.raises(RegistryError, match="there is no previous champion to go back to"):
        registry.rollback("a test")


def test_previous_is_the_latest_other_model():
    """Of twins none counts; a version that is gone is taken for another model."""
    lines = [line("gate", 1, None), line("gate", 2, 1), line("gate", 3, 2), line("gate", 4, 3)]
    assert InUse.after(lines, {1: "a", 2: "a", 3: "b", 4: "b"}) == InUse(4, 2)
    assert InUse.after(lines, {4: "b"}) == InUse(4, 3)
    assert InUse.after(lines[:1], {1: "a"}) == InUse(1, None)
    assert InUse.after([], {}) == InUse()
