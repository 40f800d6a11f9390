"""What a version was worth in use, by labels that came after its training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.intake.storing import add
from wafer.registry import Registry
from wafer.registry.live import LiveFigures, live_figures
from wafer.reporting.timeline import live_table
from wafer.settings import Settings
from wafer.store.documents import IncomingBatch, IncomingLabels
from wafer.store.wafers import open_store

PROBABILITIES = {4: 0.9, 5: 0.9, 6: 0.8, 7: 0.4, 8: 0.3, 9: 0.1, 10: 0.9}
EXPECTED = LiveFigures(
    version=1,
    wafers=8,
    alarms=4,
    labelled=6,
    faulty=3,
    caught=1,
    false_alarms=1,
    expected=2.5,
    observed=2,
    brier=(0.1**2 + 0.8**2 + 0.6**2 + 0.3**2 + 0.1**2) / 5,
)


def batch(kind: str, numbers: range, labels: list[int] | None = None) -> IncomingBatch:
    readings, known = np.array(numbers, float)[:, None], None if labels is None else np.array(labels, np.int8)
    wafers = [f"Wafer-{n}" for n in numbers]
    return IncomingBatch(kind, f"{kind}.csv", kind, wafers, np.array(numbers), ["Sensor-1"], readings, known)


def rows(version: int, numbers: dict[int, float | None]) -> list[dict[Any, Any]]:
    verdicts = {None: None, **{p: 1 if p >= 0.5 else -1 for p in numbers.values() if p is not None}}
    told = {"model_version": version, "unknown": False, "threshold": 0.5}
    return [
        {"Wafer": f"Wafer-{n}", "order": n, "Prediction": verdicts[p], "probability": p, **told}
        for n, p in numbers.items()
    ]


@pytest.fixture
def in_use(registry: Registry, log_training: Any, settings: Settings, tmp_path: Path) -> Settings:
    """Version 1, trained on wafers 1 to 4, has scored 4 to 11, the last without a verdict; of 10 no label has come."""
    (tmp_path / "manifest.json").write_text(json.dumps({"batches": [{"digest": "training", "wafers": 4}]}))
    log_training(files={"snapshot/manifest.json": tmp_path / "manifest.json"})
    log_training()
    with open_store(settings) as store:
        add(store, batch("training", range(1, 5), [1, -1, -1, 1]), 1e-9)
        add(store, batch("prediction", range(5, 12)), 1e-9)
        store.add_predictions("earlier", rows(1, {5: 0.1}))
        store.add_predictions("prediction", rows(1, {**PROBABILITIES, 11: None}))
        late = {"Wafer-5": 1, "Wafer-6": -1, "Wafer-7": 1, "Wafer-8": -1, "Wafer-9": -1, "Wafer-11": 1}
        store.add_labels(IncomingLabels("late", "late.csv", late))
    return settings


def test_live_figures_count_labels_that_came_after_the_training(in_use: Settings, registry: Registry) -> None:
    """The last verdict of each wafer counts once; trained labels do not; a fault that nobody could judge was missed."""
    with open_store(in_use) as store:
        (found,) = live_figures(registry, store)
        assert live_figures(registry, store, {2, 3}) == []
    assert vars(found) == pytest.approx(vars(EXPECTED))
    told = found.as_dict()
    assert (told["missed"], told["alarm_rate"], told["precision"], told["recall"]) == (
        2,
        0.5,
        0.5,
        pytest.approx(1 / 3),
    )
    assert told["observed_to_expected"] == pytest.approx(0.8)
    # Garwood's interval of two events is 0.2422 to 7.2247
    assert told["observed_to_expected_low"] == pytest.approx(0.2422 / 2.5, abs=1e-4)
    assert told["observed_to_expected_high"] == pytest.approx(7.2247 / 2.5, abs=1e-4)
    (row,) = live_table([told]).reset_index().to_dict("records")
    assert (row["version"], row["missed"], row["observed / expected"]) == (1, 2, "0.80 [0.10, 2.89]")


def test_what_a_file_of_labels_brought_later_counts(
    settings: Settings, registry: Registry, log_training: Any, tmp_path: Path
) -> None:
    """A version was trained on the wafers that the file had labelled by then, not on those that it labelled since."""
    batches, labels = {"digest": "training", "wafers": 4}, {"digest": "late", "wafers": 1}
    (tmp_path / "manifest.json").write_text(json.dumps({"batches": [batches], "labels": [labels]}))
    log_training(files={"snapshot/manifest.json": tmp_path / "manifest.json"})
    late = IncomingLabels("late", "late.csv", {"Wafer-5": 1, "Wafer-6": 1})
    with open_store(settings) as store:
        add(store, batch("training", range(1, 5), [1, -1, -1, 1]), 1e-9)
        for numbers in (range(5, 6), range(6, 7)):
            add(store, replace(batch("prediction", numbers), digest=f"{numbers}"), 1e-9)
            store.add_labels(late)
        store.add_predictions("scored", rows(1, {5: 0.9, 6: 0.9}))
        (found,) = live_figures(registry, store)
    assert (found.wafers, found.labelled, found.caught) == (2, 1, 1)


def test_without_labels_only_alarms_are_told() -> None:
    """No share of nothing."""
    bare = LiveFigures(1, 3, 0, 0, 0, 0, 0, 0.0, 0, None).as_dict()
    assert (bare["alarm_rate"], bare["precision"], bare["recall"], bare["observed_to_expected"]) == (
        0,
        None,
        None,
        None,
    )
    (row,) = live_table([bare]).to_dict("records")
    assert (row["precision %"], row["observed / expected"]) == ("–", "–")
    assert live_table([]).empty
