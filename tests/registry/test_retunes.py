"""Another policy for a version: everything is as if it had been trained with it, and nothing is trained."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from tests.learning.conftest import Wafers, make_wafers
from tests.registry.rules import RULES, rules
from wafer.errors import ModelError, RegistryError, TamperedError
from wafer.learning.decision import Policy
from wafer.learning.evaluation import evaluate
from wafer.learning.model import WaferModel
from wafer.learning.parts import model_digest
from wafer.registry import Registry, Version
from wafer.registry.versions import LIBRARIES, MANIFEST, PARAMS
from wafer.scoring.bundle import Bundle, fit_bundle

COSTLY = Policy(cost_missed_fault=50.0, alarm_rate_ceiling=0.3)
FEW_GOOD = Policy(cost_missed_fault=2.0, alarm_rate_ceiling=0.3)
RECIPE = {"trees": 8, "panel": "forests", "max_clusters": 1, "calibration_folds": 2, "reference_window": 40}
SEED = 3
SOURCE = {"source.digest": "c0de", "snapshot.digest": "5ab", "library.numpy": "2"}
GOLDEN = Path(__file__).parents[1] / "scoring" / "golden"


class Training(NamedTuple):
    """What a training leaves: folder of the model, metrics and scores."""

    folder: Path
    metrics: dict[str, Any]
    scores: pd.DataFrame


@pytest.fixture(scope="module")
def wafers() -> Wafers:
    return make_wafers(240, 12, 30)


def train(policy: Policy, folder: Path, wafers: Wafers, *, reasons: bool = False) -> Training:
    model = WaferModel(**RECIPE, policy=policy)
    fit_bundle(model, *wafers, reasons=reasons, permutations=2).save(folder)
    metrics, scores = evaluate(model, *wafers, folds=2, repeats=1, permutations=1, first_batch=3, seed=SEED)
    scores.insert(0, "wafer", scores["row"].map("Wafer-{}".format))
    return Training(folder, metrics, scores)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, wafers: Wafers) -> Training:
    return train(Policy(), tmp_path_factory.mktemp("model"), wafers)


def log(
    registry: Registry, training: Training, wafers: Wafers, tmp_path: Path, policy: Policy | None = None
) -> Version:
    tmp_path.joinpath("manifest.json").write_text(json.dumps({"digest": "5ab", "batches": []}))
    return registry.log_training(
        params={"fit": {"trees": 5}, "evaluate": {"seed": SEED}, "policy": asdict(policy or Policy())},
        metrics=training.metrics,
        scores=training.scores,
        model_folder=training.folder,
        example=wafers.X.head(5),
        files={MANIFEST: tmp_path / "manifest.json"},
        tags=SOURCE,
    )


@pytest.fixture
def champion(registry: Registry, training: Training, wafers: Wafers, tmp_path: Path) -> Version:
    """Version 1, with the default policy."""
    version = log(registry, training, wafers, tmp_path)
    assert registry.decide(version, RULES).promoted
    return version


@pytest.mark.slow
def test_a_retuned_version_is_what_a_training_would_have_made(
    registry: Registry, wafers: Wafers, tmp_path: Path
) -> None:
    """Parts, reasons too, threshold, scores and metrics are, to the bit, those of a training with the other policy."""
    log(registry, train(Policy(), tmp_path / "one", wafers, reasons=True), wafers, tmp_path)
    decision = registry.retune(1, COSTLY, "faults slip through", RULES)
    trained = train(COSTLY, tmp_path / "two", wafers, reasons=True)
    made = registry.version(decision.challenger)
    assert made.digest == model_digest(trained.folder)
    pd.testing.assert_frame_equal(registry.scores(made), trained.scores, check_exact=True)
    twin = registry.metrics(log(registry, trained, wafers, tmp_path, COSTLY))
    assert registry.metrics(made) == twin
    assert twin["forward.alarm_rate"] > registry.metrics(1)["forward.alarm_rate"]


@pytest.mark.slow
@pytest.mark.invariant
def test_the_gate_decides_by_the_new_costs(registry: Registry, champion: Version) -> None:
    """Equal ROC AUC, another operating point: more alarms pay; ledger, tags and metrics say so."""
    decision = registry.retune(1, COSTLY, "  faults slip through ", RULES)
    assert (decision.kind, decision.challenger, decision.champion, decision.promoted) == ("retune", 2, 1, True)
    assert decision.reason.startswith("Version 2 is version 1 with another policy: faults slip through. Version 2 ")
    assert decision.rules is not None and decision.rules["policy"] == asdict(COSTLY)
    compared = decision.comparison
    assert compared is not None
    assert (compared.auc_difference, compared.auc_low, compared.auc_high) == (0.0, 0.0, 0.0)
    assert compared.cost_difference < 0
    made = registry.version("champion")
    assert (made.version, made.retuned, made.policy, made.training) == (2, 1, asdict(COSTLY), "finished")
    assert made.threshold == registry.load(2).classifier.threshold_ < registry.load(1).classifier.threshold_
    assert registry.metrics(2)["threshold"] == made.threshold
    assert {name: made.tags[name] for name in SOURCE} == SOURCE
    assert registry.stored_json(made, PARAMS) == {
        **{"fit": {"trees": 5}, "evaluate": {"seed": SEED}},
        "policy": asdict(COSTLY),
    }
    for name in (MANIFEST, LIBRARIES):
        assert registry.stored_json(made, name) == registry.stored_json(champion, name)
    assert [change["name"] for change in registry.changes(1, 2)] == [
        "params.policy.alarm_rate_ceiling",
        "params.policy.cost_missed_fault",
    ]
    assert all(check.passed for check in registry.verify(2))
    assert registry.rollback("too many alarms").challenger == 1
    assert registry.rollback("not so many").challenger == 2


@pytest.mark.slow
@pytest.mark.invariant
def test_a_lower_ceiling_is_not_refused_for_the_faults_that_it_misses(registry: Registry, champion: Version) -> None:
    """Of the champion's alarms only those count that the budget leaves room for; without that it would seem better."""
    strict = Policy(alarm_rate_ceiling=0.02)
    decision = registry.retune(1, strict, "nobody can look at more", rules(cost_margin=0.0))
    assert decision.promoted
    assert decision.comparison is not None and decision.comparison.cost_difference == 0.0
    assert registry.compare(2, 1, rules(policy=strict)).cost_difference > 0  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.invariant
def test_a_threshold_that_may_cost_more_is_refused(registry: Registry, champion: Version) -> None:
    """By the costs that are asked for the new alarms may be dearer than the margin allows: the champion stays."""
    decision = registry.retune(1, FEW_GOOD, "more can be looked at", RULES)
    assert (decision.kind, decision.promoted) == ("retune", False)
    assert [check.name for check in decision.checks if not check.passed] == ["forward cost"]
    assert "forward cost per 1,000 wafers 131 against 138" in decision.reason
    assert registry.aliases() == {"champion": 1, "challenger": 2}


@pytest.mark.slow
@pytest.mark.invariant
def test_nothing_to_change_registers_nothing(registry: Registry, champion: Version) -> None:
    """The version's own policy, the champion's model again, and a missing reason are told and leave no trace."""
    assert Policy(cost_missed_fault=20) == Policy()
    with pytest.raises(RegistryError, match="version 1 has this policy already, so there is nothing to retune"):
        registry.retune(1, Policy(cost_missed_fault=20), "why", RULES)
    with pytest.raises(RegistryError, match="a retune needs a reason"):
        registry.retune(1, COSTLY, " ", RULES)
    registry.retune(1, COSTLY, "why", RULES)
    with pytest.raises(RegistryError, match="version 2 is that model already, and in use"):
        registry.retune(1, COSTLY, "again", RULES)
    assert len(registry.versions()) == 2


@pytest.mark.slow
@pytest.mark.invariant
def test_a_training_is_not_taken_for_a_retuned_version(registry: Registry, champion: Version) -> None:
    """The very same training is found; one with the policy of a retuned version was never done."""
    registry.retune(1, COSTLY, "why", RULES)
    source = {name: text for name, text in SOURCE.items() if name != "snapshot.digest"}
    shaping = {"fit": {"trees": 5}, "evaluate": {"seed": SEED}, "policy": asdict(Policy())}
    same = registry.find_same("5ab", shaping, source)
    assert same is not None and same.version == 1
    assert registry.find_same("5ab", {**shaping, "policy": asdict(COSTLY)}, source) is None
    assert registry.unfinished() == [registry.version(1)]


def test_what_cannot_be_retuned_is_told(
    registry: Registry, training: Training, champion: Version, wafers: Wafers, tmp_path: Path
) -> None:
    """Scores and models of earlier releases, and a version whose files were changed, are refused by name."""
    log(registry, training._replace(scores=training.scores.drop(columns="recent_tail")), wafers, tmp_path)
    told = "the evaluation of version 2, which an earlier release registered, does not tell"
    with pytest.raises(RegistryError, match=told):
        registry.retune(2, COSTLY, "why", RULES)
    names = Bundle.load(GOLDEN / "1").classifier.sensor_names_
    old = registry.log_training(
        params={},
        metrics={},
        scores=training.scores,
        model_folder=GOLDEN / "1",
        example=pd.DataFrame([[0.0] * len(names)], columns=names),
    )
    with pytest.raises(ModelError, match="keeps no held-out scores"):
        registry.retune(old, replace(COSTLY, cost_missed_fault=51), "why", RULES)
    for file in Path(str(registry.artifact_root)).glob("models/*/artifacts/artifacts/model/model.json"):
        file.write_text("{}")
    with pytest.raises(TamperedError, match=r"model\.json is not what was registered"):
        registry.retune(1, COSTLY, "why", RULES)
    assert len(registry.versions()) == 3
