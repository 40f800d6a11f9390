from datetime import date
from typing import Any

import numpy as np
import pytest

from tests.intake.storing import add
from wafer.runs import Run, Runs
from wafer.scoring.timeline import INDEX, PLACE, timeline
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


def scored(runs: Runs, run: Run, store: Store, form: Any, *entries: dict[str, Any]) -> list[dict[str, Any]]:
    """The timeline after a run has scored these, which it leaves as a prediction does."""
    run.storage.write_json(run.key(INDEX), list(entries))
    told = timeline(runs, run, store, form)
    run.storage.write_json(run.key(PLACE), told)
    return told


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
            scored(runs, first, store, form, entries["d2"] | {"model_version": 1})
        with runs.started("training"):
            pass
        with runs.started("prediction") as second:
            told = scored(runs, second, store, form, entries["d1"] | {"model_version": 2, "t2": 3})
        assert [(one["digest"], one["run"], one["model_version"]) for one in told] == [
            ("d1", second.id, 2),
            ("d2", first.id, 1),
        ]
        assert [(one["labelled"], one["faulty"]) for one in told] == [(0, 0), (0, 0)]
        assert [one["delivered"] for one in told] == [date(2020, 1, 1).isoformat(), date(2020, 1, 5).isoformat()]
        assert [(one["t2"], one["drifted"]) for one in told] == [(3, None), (None, None)]
        deliver(store, "l1", "training", [1, 2, 5], [1, -1, -1])
        with runs.started("prediction") as third:
            told = scored(runs, third, store, form, entries["d2"] | {"model_version": 2})
        assert [(one["run"], one["labelled"], one["faulty"]) for one in told] == [(second.id, 2, 1), (third.id, 1, 0)]
        lost = {"file": "gone.csv", "digest": "gone", "order": 0}  # of a store that another one took the place of
        with runs.started("prediction") as fourth:
            told = scored(runs, fourth, store, form, entries["d1"], lost)
        assert [(one["digest"], one["labelled"]) for one in told] == [("gone", 0), ("d1", 2), ("d2", 1)]
        alone = scored(runs, runs.study(), store, form, entries["d1"])
        assert [one["digest"] for one in alone] == ["d1"]


def test_what_is_cut_is_the_oldest_and_never_of_the_run_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of earlier batches the newest in production order stay; a late delivery of old wafers is told whole."""
    monkeypatch.setattr("wafer.scoring.timeline.NEWEST", 3)
    form, runs = Workspace(settings).form("prediction"), Runs(Storage(settings.storage_url))

    def entry(number: int) -> dict[str, Any]:
        return {"file": f"{number}.csv", "digest": f"d{number}", "order": number}

    with open_store(settings) as store:
        with runs.started("prediction") as first:
            told = scored(runs, first, store, form, *map(entry, (14, 13, 12, 11)))
        assert [one["order"] for one in told] == [11, 12, 13, 14]
        with runs.started("prediction") as second:
            told = scored(runs, second, store, form, *map(entry, (2, 1)))
        assert [one["order"] for one in told] == [1, 2, 14]


def test_runs_that_failed_or_worked_at_once_hide_no_batch(settings: Settings) -> None:
    """However many runs scored nothing since, the last one that did is found, and of two at once both are."""
    form, runs = Workspace(settings).form("prediction"), Runs(Storage(settings.storage_url))
    batch = {"file": "1.csv", "digest": "d1", "order": 1}
    with open_store(settings) as store:
        with runs.started("prediction") as first, runs.started("prediction") as second:
            scored(runs, first, store, form, batch)
            scored(runs, second, store, form, batch | {"digest": "d2"})
            (place := runs.storage.place(second.key(PLACE))).write_text(
                place.read_text().replace('"d1"', '"d0"')  # as if it had not seen the first
            )
        for _ in range(20):
            with pytest.raises(KeyError), runs.started("prediction"):
                raise KeyError
        with runs.started("prediction") as last:
            told = scored(runs, last, store, form, batch | {"digest": "d3", "order": 3})
    assert {one["digest"] for one in told} >= {"d1", "d2", "d3"}
