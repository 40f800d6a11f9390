"""Single steps on a workspace that is opened for them, as a flow's tasks run them."""

from pathlib import Path
from typing import Any

import pandas as pd

from wafer import steps
from wafer.params import Params
from wafer.records import TABLE, Decided, Evaluated, Fitted, Frozen, Ingested, Kind, Predicted
from wafer.runs import Run
from wafer.settings import Settings
from wafer.storage import AnyPath
from wafer.store.snapshot import Snapshot, _manifest_digest, _values_digest, write_snapshot
from wafer.workspace import Workspace


def ingest(settings: Settings, kind: Kind, raw: AnyPath | str | None = None, *, replace: bool = False) -> Ingested:
    """Take in a folder as a run of its own."""
    with Workspace(settings) as workspace, steps.working(workspace, f"ingest-{kind}") as run:
        return steps.ingest(workspace, run, kind, None if raw is None else str(raw), replace=replace)


def snapshot(settings: Settings) -> Frozen:
    """Freeze what the store holds."""
    with Workspace(settings) as workspace, steps.working(workspace, "training") as run:
        return steps.snapshot(workspace, run)


def train(settings: Settings, params: Params) -> Decided:
    """All that a training keeps, without what it draws."""
    with Workspace(settings) as workspace, steps.working(workspace, "training") as run:
        steps.snapshot(workspace, run)
        steps.fit(workspace, run, params.fit, params.policy, params.monitor)
        steps.evaluate(workspace, run, params.evaluate, params.fit, params.policy)
        steps.register(workspace, run, params)
        return steps.gate(workspace, run, params.gate, params.policy)


def predict(settings: Settings, raw: Path) -> Predicted:
    """Take in a folder and score it."""
    with Workspace(settings) as workspace, steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction", str(raw))
        predicted = steps.predict(workspace, run)
        assert predicted is not None
        return predicted


def latest(settings: Settings, kind: str) -> Run:
    """The newest run of a kind."""
    found = Workspace(settings).runs.latest(kind)
    assert found is not None
    return found


def keep_training(
    run: Run, wafers: pd.DataFrame, model: str, metrics: dict[str, Any], scores: pd.DataFrame, decision: dict[str, Any]
) -> None:
    """Give `run` what a training on the table `wafers` leaves, whose model lies under the key `model`."""
    storage = run.storage
    manifest = {
        "batches": [{"digest": "0", "file": str(name), "wafers": len(part)} for name, part in wafers.groupby("batch")],
        "wafers": len(wafers),
        "faulty": int((wafers["label"] == 1).sum()),
        "sensors": [name for name in wafers.columns if name not in TABLE],
        "values_sha256": _values_digest(wafers),
    }
    digest = _manifest_digest(manifest)
    snapshot = write_snapshot(Snapshot(digest, manifest, wafers), storage.place("snapshot"))
    for name, document in (("metrics", metrics), ("decision", decision)):
        storage.write_json(run.key(f"{name}.json"), document)
    storage.write_bytes(run.key("scores.parquet"), scores.to_parquet(index=False))
    run.write(Frozen(storage.key(snapshot), digest, manifest["wafers"], manifest["faulty"]))
    run.write(Fitted(model, "0"))
    run.write(Evaluated(run.key("metrics.json"), run.key("scores.parquet")))
    run.write(Decided(run.key("decision.json"), decision["promoted"], decision["reason"]))
