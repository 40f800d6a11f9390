from datetime import date
from typing import Any

import numpy as np
import pytest

from tests.intake.storing import add
from wafer.runs import Run, Runs
from wafer.scoring.timeline import INDEX, timeline
from wafer.settings import Settings
from wafer.storage import Storage
from wafer.store.documents import IncomingBatch
from wafer.store.wafers import Store, open_store
from wafer.workspace import Workspace

SENSORS = ["Sensor-1", "Sensor-2"]


def deliver(store: Store, digest: str, kind: str, numbers: list[int], labels: list[int] | None = None) -> str:
    file = f"Wafer_{numbers[0]:02d}012020_101010.csv"
    ids = [f"Wafer-{number}" for number in numbers]
    readings = np.array(numbers, float)[:, None] * [1.0, 2.0]
    known = None if labels is None else np.array(labels, np.int8)
    batch = IncomingBatch(digest, file, kind, ids, np.array(numbers), SENSORS, readings, known)
    add(store, batch.prepared(), 1e-9)
    return file


def predicted(run: Run, *entries: dict[str, Any]) -> Run:
    run.storage.write_json(run.key(INDEX), list(entries))
    return run


def test_batches_follow_each_other_with_their_newest_score_and_labels(settings: Settings) -> None:
    """In production order over runs; labels count as they are now; of a batch scored twice the newer score counts."""
    form, runs = Workspace(settings).form("prediction"), Runs(Storage(settings.storage_url))
    with open_store(settings) as store:
        files = {
            "d2": deliver(store, "d2", "prediction", [5, 6, 7]),
            "d1": deliver(store, "d1", "prediction", [1, 2, 3]),
        }
        entries = {d: {"file": file, "digest": d, "order": int(file[6:8]), "alarms": 1} for d, file in files.items()}
        with runs.started("prediction") as first:
            predicted(first, entries["d2"] | {"model_version": 1}, {"file": "old.csv", "digest": "d0"})
        with runs.started("training"):
            pass
        with runs.started("prediction") as second:
            told = timeline(runs, predicted(second, entries["d1"] | {"model_version": 2, "t2": 3}), store, form)
        assert [(one["digest"], one["run"], one["model_version"]) for one in told] == [
            ("d1", second.id, 2),
            ("d2", first.id, 1),
        ]
        assert [(one["labelled"], one["faulty"]) for one in told] == [(0, 0), (0, 0)]
        assert [one["delivered"] for one in told] == [date(2020, 1, 1).isoformat(), date(2020, 1, 5).isoformat()]
        assert [(one["t2"], one["drifted"]) for one in told] == [(3, None), (None, None)]
        deliver(store, "l1", "training", [1, 2, 5], [1, -1, -1])
        with runs.started("prediction") as third:
            told = timeline(runs, predicted(third, entries["d2"] | {"model_version": 2}), store, form)
        assert [(one["run"], one["labelled"], one["faulty"]) for one in told] == [(second.id, 2, 1), (third.id, 1, 0)]
        lost = {"file": "gone.csv", "digest": "gone", "order": 0}  # of a store that another one took the place of
        with runs.started("prediction") as fourth:
            told = timeline(runs, predicted(fourth, entries["d1"], lost), store, form)
        assert [(one["digest"], one["labelled"]) for one in told] == [("gone", 0), ("d1", 2), ("d2", 1)]
        alone = predicted(runs.study(), entries["d1"])
        assert [one["digest"] for one in timeline(runs, alone, store, form)] == ["d1"]


@pytest.mark.parametrize(("newest", "expected"), [(1, ["d5"]), (2, ["d4", "d5"])])
def test_it_looks_back_on_so_many_batches(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, newest: int, expected: list[str]
) -> None:
    """The newest in production order stay."""
    monkeypatch.setattr("wafer.scoring.timeline.NEWEST", newest)
    form, runs = Workspace(settings).form("prediction"), Runs(Storage(settings.storage_url))
    with open_store(settings) as store:
        entries = []
        for number in (5, 4, 3):
            file = deliver(store, f"d{number}", "prediction", [number])
            entries.append({"file": file, "digest": f"d{number}", "order": number})
        with runs.started("prediction") as run:
            assert [one["digest"] for one in timeline(runs, predicted(run, *entries), store, form)] == expected
