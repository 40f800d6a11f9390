"""The gate on batches that the champion has never seen."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from tests.registry.rules import rules, with_canary
from wafer.learning.decision import Policy
from wafer.registry import Registry, Version
from wafer.registry.later import later_wafers, score_as_champion
from wafer.scoring.bundle import Bundle
from wafer.store.snapshot import Snapshot

LAX = rules(min_later_faults=10, auc_margin=1.0, cost_margin=100.0)
LogTrained = Callable[..., Version]


def manifest(batches: range, **digests: str) -> dict[str, Any]:
    """Of a snapshot with these batches of 40 wafers; the digest of one may be another one."""
    names = [f"Wafer_{number:02d}.csv" for number in batches]
    return {"batches": [{"digest": digests.get(n[6:8], f"d{n}"), "file": n, "wafers": 40} for n in names]}


@pytest.fixture
def snapshot(readings: pd.DataFrame, labels: np.ndarray) -> Snapshot:
    """Four batches of 40 wafers, five of them faulty in each."""
    number = np.arange(len(readings))
    table = readings.copy()
    table.insert(0, "wafer", [f"Wafer-{n}" for n in number])
    table.insert(1, "order", 100 + number)
    table.insert(2, "batch", [f"Wafer_{n // 40:02d}.csv" for n in number])
    table.insert(3, "label", labels.astype(np.int8))
    return Snapshot("d" * 64, manifest(range(4)), table)


@pytest.fixture
def log_trained(
    registry: Registry,
    another_model: Callable[[], Path],
    readings: pd.DataFrame,
    make_scores: Callable[..., pd.DataFrame],
    tmp_path: Path,
) -> LogTrained:
    """Log a training on the first batches, whose manifest is kept with its run."""

    def log(batches: int, quality: float = 2.0) -> Version:
        file = tmp_path / "manifest.json"
        file.write_text(json.dumps(manifest(range(batches))))
        return registry.log_training(
            params={},
            metrics={"forward": {"auc": 0.7}, "permuted": {"auc": 0.5}},
            scores=with_canary(make_scores(quality)),
            model_folder=another_model(),
            example=readings.head(4),
            files={"snapshot/manifest.json": file},
            tags={"snapshot.last_order": str(99 + 40 * batches)},
        )

    return log


@pytest.mark.parametrize("last_order", [None, 179])
def test_later_batches_come_entirely_after_the_training(snapshot: Snapshot, last_order: int | None) -> None:
    """Of four batches, trained on two, the other two are later; the end is found from the table, or as it was noted."""
    rows = later_wafers(snapshot, manifest(range(2)), last_order)
    assert rows is not None
    assert rows.tolist() == [False] * 80 + [True] * 80


def test_a_batch_that_overlaps_the_training_is_not_later(snapshot: Snapshot) -> None:
    """One wafer that was made before the training's end keeps its whole batch out."""
    snapshot.table.loc[100, "order"] = 150
    rows = later_wafers(snapshot, manifest(range(2)))
    assert rows is not None
    assert np.flatnonzero(rows).tolist() == list(range(120, 160))


def test_a_batch_that_was_delivered_again_is_not_later(snapshot: Snapshot) -> None:
    """A file of a name that the training knew, or of its bytes under another name, was seen by it."""
    rows = later_wafers(snapshot, manifest(range(4), **{"03": "another digest"}), 179)
    assert rows is not None
    assert not rows.any()
    renamed = manifest(range(3))
    renamed["batches"].append({"digest": "dWafer_03.csv", "file": "another_name.csv", "wafers": 40})
    rows = later_wafers(snapshot, renamed, 179)
    assert rows is not None
    assert not rows.any()


def test_where_the_end_of_a_training_is_not_known_nothing_is_later(snapshot: Snapshot) -> None:
    """A training on other batches, whose end was not noted, cannot be placed in time."""
    assert later_wafers(snapshot, {"batches": [{"digest": "x", "file": "x", "wafers": 1}]}) is None


def test_the_champion_scores_with_its_own_threshold(snapshot: Snapshot, model_folder: Path) -> None:
    """Its probabilities are those of the loaded model at the wafers' places in time, its alarms by its threshold."""
    bundle, rows = Bundle.load(model_folder), np.arange(160) >= 120
    scores, model = score_as_champion(bundle, snapshot, rows), bundle.classifier
    expected = model.predict_proba(snapshot.readings[rows], order=snapshot.order[rows])[:, 1]
    assert scores["probability"].tolist() == expected.tolist()
    assert scores["alarm"].tolist() == (expected >= model.thresholds(expected)).tolist()
    assert scores["alarm"].tolist() == Policy().alarms(expected, scores["recent_tail"].to_numpy()).tolist()
    assert scores["wafer"].tolist() == [f"Wafer-{n}" for n in range(120, 160)]
    assert set(scores["batch"]) == {"Wafer_03.csv"}


@pytest.mark.slow
@pytest.mark.invariant
def test_later_batches_decide_where_there_are_enough_faults(
    registry: Registry,
    log_trained: LogTrained,
    snapshot: Snapshot,
    model_folder: Path,
    make_scores: Callable[..., pd.DataFrame],
) -> None:
    """The champion's side is what it says itself of the later batches, the challenger's its stored forward scores."""
    registry.decide(log_trained(2), LAX, snapshot)
    decision = registry.decide(log_trained(4, quality=1.0), LAX, snapshot)
    found = decision.comparison
    assert found is not None
    assert (found.wafers, found.faulty, found.batches, found.evidence) == (80, 10, 2, "later batches")
    own = score_as_champion(Bundle.load(model_folder), snapshot, np.arange(160) >= 80)
    stored = make_scores(1.0).iloc[80:]
    for scores, batch, auc in ((own, "batch", found.auc_champion), (stored, "fold", found.auc_challenger)):
        parts = [roc_auc_score(part["label"], part["probability"]) for _, part in scores.groupby(batch)]
        assert auc == pytest.approx(np.mean(parts))
    assert decision.reason.endswith(
        "Compared on 80 wafers of batches that came after the training of version 1, which scored them itself; they "
        "measure freshness too: a version that was trained more recently is expected to do better on them than an old "
        "one, whatever its recipe."
    )
    assert registry.ledger()[-1] == decision


@pytest.mark.parametrize(
    ("case", "because"),
    [
        ("few faults", "the batches after the training of version 1 hold 10 faulty wafers with a forward score, asked"),
        ("one label", "no batch after the training of version 1 holds both faulty and good wafers"),
        ("nothing later", "no labelled batch came entirely after the training of version 1"),
        ("no snapshot", "no snapshot was given to look for later batches"),
        ("no manifest", "version 1 has no record of the batches that it was trained on"),
        ("broken champion", "version 1 cannot score the batches after its training (version 1 of 'wafer': "),
    ],
)
@pytest.mark.slow
@pytest.mark.invariant
def test_else_stored_forward_scores_are_compared(
    registry: Registry, log_trained: LogTrained, snapshot: Snapshot, case: str, because: str
) -> None:
    """Where the later batches cannot decide, both versions' stored scores do, and the decision says why."""
    champion = log_trained(4 if case == "nothing later" else 2)
    registry.decide(champion, LAX)
    files = Path(str(registry.artifact_root))
    if case == "no manifest":
        (files / champion.run_id / "artifacts" / "snapshot" / "manifest.json").unlink()
    if case == "broken champion":
        (file,) = files.glob("models/*/artifacts/artifacts/model/manifest.json")
        file.write_text("{}")
    lax = rules(min_later_faults=11 if case == "few faults" else 1, auc_margin=1.0, cost_margin=100.0)
    if case == "one label":
        later = (snapshot.table["order"] >= 180) & (snapshot.table["label"] == -1)
        snapshot = replace(snapshot, table=snapshot.table[~later].reset_index(drop=True))
    decision = registry.decide(log_trained(4), lax, None if case == "no snapshot" else snapshot)
    found = decision.comparison
    assert found is not None
    assert (found.wafers, found.evidence) == (160, "forward scores")
    assert f"160 wafers of both versions' stored forward scores, because {because}" in decision.reason
