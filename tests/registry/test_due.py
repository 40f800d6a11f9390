"""When it is time to train again, and how often in a row the gate has refused."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.intake.storing import add
from wafer.params import RetrainParams
from wafer.records import Due
from wafer.registry import Registry
from wafer.registry.due import due, refused_in_a_row
from wafer.registry.records import FINISHED, TRAINING, Decision
from wafer.runs import time_of
from wafer.settings import Settings
from wafer.steps import see_whether_due
from wafer.store.documents import IncomingBatch, IncomingLabels
from wafer.store.snapshot import NOTHING_LABELLED
from wafer.store.wafers import Store, open_store
from wafer.workspace import Workspace

PARAMS = RetrainParams(drifted_batches=2, drift_window=3, new_labels=3, days=1.0, refusals=3)


def scored(minutes: int, *drifted: bool | None) -> list[dict[str, Any]]:
    """Batches of a run that was started so many minutes from now."""
    run = f"prediction-{datetime.now(UTC) + timedelta(minutes=minutes):%Y%m%d-%H%M%S-%f}"[:-3]
    return [{"run": run, "drifted": one} for one in drifted]


def label(store: Store, *numbers: int) -> None:
    labels = {f"Wafer-{number}": 1 for number in numbers}
    store.add_labels(IncomingLabels(f"labels {numbers}", "late.csv", labels))


@pytest.fixture
def trained(registry: Registry, log_training: Any, tmp_path: Path) -> Callable[[str], None]:
    """Version 1, trained on two wafers; its training is in this state."""

    def log(state: str) -> None:
        (tmp_path / "manifest.json").write_text(json.dumps({"batches": [], "wafers": 2}))
        version = log_training(files={"snapshot/manifest.json": tmp_path / "manifest.json"})
        registry.tag(version.version, TRAINING, state)

    return log


def test_a_training_is_due_by_drift_labels_or_time(
    settings: Settings, registry: Registry, trained: Callable[[str], None]
) -> None:
    """Never without a new label; drift counts in the newest batches scored since; the cause is told, or why not."""
    with open_store(settings) as store:
        numbers = np.arange(1, 9)
        wafers, readings = [f"Wafer-{n}" for n in numbers], numbers[:, None].astype(float)
        add(store, IncomingBatch("p", "p.csv", "prediction", wafers, numbers, ["Sensor-1"], readings, None), 1e-9)
        assert due(PARAMS, registry, store, []).cause is None, "no wafer is labelled"
        label(store, 1, 2)
        assert due(PARAMS, registry, store, []) == Due("first", "no version was trained yet")
        trained("running")
        assert due(PARAMS, registry, store, []).cause == "cut short"
        registry.tag(1, TRAINING, FINISHED)
        drift = scored(1, True, True)
        unlabelled = Due(None, "nothing was trained: no wafer was labelled since version 1 was trained")
        assert due(PARAMS, registry, store, drift) == unlabelled
        label(store, 2, 3)
        told = "nothing was trained: since version 1 was trained, {} batches drifted (2 are needed), 1 wafers"
        for timeline, batches in (
            (scored(-60, True, True), "0 of 0"),
            (scored(1, True, True, False, None, True, False), "1 of 3"),
        ):
            found = due(PARAMS, registry, store, timeline)
            assert (found.cause, found.told.startswith(told.format(batches))) == (None, True), found.told
        moved = "2 of the last 2 batches drifted since version 1 was trained"
        assert due(PARAMS, registry, store, drift) == Due("drift", moved)
        assert due(PARAMS.model_copy(update={"days": 0.0}), registry, store, []).cause == "time"
        label(store, 4, 5)
        assert due(PARAMS, registry, store, []) == Due("labels", "3 wafers were labelled since version 1 was trained")


def test_refusals_are_counted_since_the_last_promotion(registry: Registry, log_training: Any) -> None:
    """What is no refusal of a training does not count."""
    log_training()
    for number, kind in enumerate(("gate", "gate", "promote", "gate", "same model", "gate", "retune"), 1):
        promoted = number == 1 or kind == "promote"
        registry._append(Decision(kind, number, 1, promoted, "because", "2026-01-01T00:00:00.000+00:00"), number)
    assert refused_in_a_row(registry) == 2


def test_the_name_of_a_run_tells_its_time() -> None:
    """In UTC, to the millisecond."""
    assert time_of("ingest-training-20260131-083000-250") == datetime(2026, 1, 31, 8, 30, 0, 250_000, UTC)


def test_a_training_goes_on_as_long_as_its_process_lives(settings: Settings) -> None:
    """While it does, none is due; one that was killed on this machine is made up for at once."""
    with Workspace(settings) as workspace, workspace.lease("training", "theirs"):
        assert see_whether_due(workspace, PARAMS) == Due(None, "nothing was trained: a training is going on")
        workspace.store.leases.update_one({"_id": "training"}, {"$set": {"born": 1.0}})
        assert see_whether_due(workspace, PARAMS).told == f"nothing was trained: {NOTHING_LABELLED}"
