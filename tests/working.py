"""Single steps on a workspace that is opened for them, as a flow's tasks run them."""

from pathlib import Path

from wafer import steps
from wafer.params import Params
from wafer.records import Decided, Frozen, Ingested, Kind, Predicted
from wafer.runs import Run
from wafer.settings import Settings
from wafer.workspace import Workspace


def ingest(settings: Settings, kind: Kind, raw: Path | None = None, *, replace: bool = False) -> Ingested:
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
        steps.fit(workspace, run, params.fit, params.policy)
        steps.evaluate(workspace, run, params.evaluate, params.fit, params.policy)
        steps.register(workspace, run, params)
        return steps.gate(workspace, run, params.gate, params.policy)


def predict(settings: Settings, raw: Path) -> Predicted:
    """Take in a folder and score it."""
    with Workspace(settings) as workspace, steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction", str(raw))
        return steps.predict(workspace, run)


def latest(settings: Settings, kind: str) -> Run:
    """The newest run of a kind."""
    found = Workspace(settings).runs.latest(kind)
    assert found is not None
    return found
