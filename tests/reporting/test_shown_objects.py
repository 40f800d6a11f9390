"""How objects show themselves in a notebook, and what the columns of frames are measured in."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import wafer
from tests.conftest import REPOSITORY
from wafer.contract.rules import Reason
from wafer.contract.suites import Contract, Verdict
from wafer.learning.model import WaferModel
from wafer.records import UNITS
from wafer.reporting.findings import read_findings
from wafer.reporting.process import read_control
from wafer.reporting.sources import PredictionSources, TrainingSources
from wafer.runs import Run, Runs
from wafer.scoring.batches import judge_batch, result_rows
from wafer.scoring.bundle import Bundle
from wafer.scoring.details import doubts
from wafer.scoring.judge import judge
from wafer.shown import LONGEST_LIST
from wafer.storage import Storage


def text(html: str) -> str:
    """What a reader sees of a table, cells apart."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html)).strip()


def test_objects_show_what_matters(bundle: Bundle, wafers: pd.DataFrame, outputs: Path) -> None:
    """A judgement its alarms and reasons, a bundle its threshold, a run its outcome, a workspace its newest runs."""
    said = judge_batch(bundle, wafers, 3, reasons=True, drift=True)
    first = said.wafers[said.alarms].sort_values("probability", ascending=False, kind="stable").iloc[0]
    shown = text(said._repr_html_())
    assert shown.startswith(f"Judgement wafers 240 alarms {said.counts()['alarms']} unknown ")
    readings = wafers[list(bundle.classifier.sensor_names_)]
    assert " version not registered " in text(judge(bundle, readings, wafers["order"])._repr_html_())
    assert f"row probability cluster reasons {first.name} {first['probability']:.4g} {first['cluster']} " in shown
    assert f"alarm from probability {bundle.classifier.told_threshold()}" in text(bundle._repr_html_())
    run = TrainingSources(storage=str(outputs)).run
    assert f"id {run.id} kind training state finished started " in text(run._repr_html_())
    with wafer.open(storage_url=str(outputs)) as workspace:
        assert f"storage {outputs} project {REPOSITORY} database embedded registry " in text(workspace._repr_html_())
        assert run.id in text(workspace._repr_html_())


def test_a_model_shows_its_parameters_and_what_it_learned(model: WaferModel) -> None:
    """Before it is fitted it is shown as any other estimator; afterwards threshold, panel and clusters stand below."""
    bare = WaferModel(trees=10)._repr_mimebundle_()["text/html"]
    assert "sk-top-container" in bare and "alarm from probability" not in bare
    fitted = model._repr_mimebundle_()["text/html"]
    assert "sk-top-container" in fitted
    assert text(fitted).count(f"alarm from probability about {100 * model.threshold_:.1f} %") == 1


def test_a_contract_and_a_verdict_show_what_is_agreed_and_broken() -> None:
    """What a delivery may look like, and why a file was turned away; a long list is cut, and says so."""
    shown = text(Contract.load("training")._repr_html_())
    assert "Contract kind training suite " in shown and " sensors 590 wafer ids " in shown
    assert shown.endswith("rules 27: 24 reject a file, 3 warn")
    reasons = tuple(Reason("bad_cells", f"line {line}: <b>&") for line in range(LONGEST_LIST + 2))
    html = Verdict("a<b>.csv", False, reasons)._repr_html_()
    assert "a&lt;b&gt;.csv" in html and "<b>" not in html
    assert "verdict quarantined reasons bad_cells: line 0: &lt;b&gt;&amp; bad_cells: line 1" in text(html)
    assert f"line {LONGEST_LIST}" not in html and "… and 2 more" in html


def test_what_is_shown_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passwords of a workspace's addresses are masked."""
    monkeypatch.setenv("MONGODB_URL", "mongodb://me:h1dden-1@host/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:h1dden-2@host/")
    shown = wafer.open(storage_url=str(tmp_path))._repr_html_()
    assert "mongodb://me:***@host/" in shown and "http://me:***@host/" in shown and "h1dden" not in shown


def test_an_object_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    """To look at an object never raises, whatever has become of its files."""
    storage = Storage(str(tmp_path))
    with Runs(storage).started("training") as run:
        pass
    Path(str(run.place("run.json"))).write_text("{")
    assert "cannot be shown StorageError: " in text(run._repr_html_())
    nothing: Any = None
    assert "cannot be shown AttributeError" in text(Bundle(nothing, nothing)._repr_html_())
    assert Run("study", "study", storage)._repr_html_().startswith("<strong>Run</strong>")


FRAMES: dict[str, Callable[[Any], pd.DataFrame]] = {
    "Judgement.wafers": lambda made: made["said"].wafers,
    "Judgement.reasons": lambda made: made["said"].reasons,
    "Drift.sensors": lambda made: made["said"].drift.sensors,
    "predictions/<batch>.csv": lambda made: result_rows(made["wafers"], made["said"]),
    "details/wafers.csv": lambda made: read_findings(made["details"]).wafers,
    "details/reasons.csv": lambda made: read_findings(made["details"]).reasons,
    **{
        f"Monitored.{part}": lambda made, part=part: getattr(made["watched"], part)
        for part in ("wafers", "sensors", "contributions", "batches")
    },
    **{
        f"details/monitor_{part}.csv": lambda made, part=part: getattr(read_control(made["details"]), part)
        for part in ("wafers", "sensors", "contributions", "batches")
    },
    "scores.parquet": lambda made: TrainingSources(storage=str(made["outputs"])).scores,
    "wafers.parquet": lambda made: TrainingSources(storage=str(made["outputs"])).wafers,
}


def test_the_table_of_columns_is_that_of_the_frames(
    bundle: Bundle, wafers: pd.DataFrame, details: Path, outputs: Path
) -> None:
    """docs/columns.md, the names and order of the columns, and the units in `attrs` are one."""
    made = {"said": judge_batch(bundle, wafers, 3, reasons=True, drift=True), "wafers": wafers}
    made["watched"] = judge(bundle, wafers[bundle.classifier.sensor_names_], wafers["order"], monitor=True).monitored
    made |= {"details": details, "outputs": outputs}
    lines = re.findall(
        r"^\| `(.+?)` \| `(.+?)` \| (.+?) \| (.+?) \|$", (REPOSITORY / "docs/columns.md").read_text(), re.M
    )
    documented: dict[str, dict[str, str]] = {}
    for frame, column, unit, _ in lines:
        documented.setdefault(frame, {})[column] = unit
    assert documented == UNITS
    assert FRAMES.keys() == UNITS.keys()
    for name, get in FRAMES.items():
        frame = get(made)
        columns = {column: frame.attrs["units"].get(column) for column in frame if not column.startswith("Sensor-")}
        added = {"wafer": "name"} if name == "scores.parquet" else {}  # by the step, in front of what `evaluate` says
        assert list((added | columns).items()) == list(documented[name].items()), name
    assert doubts(wafers, made["said"]).attrs["units"]["p_value"] == "probability"
    predictions = PredictionSources(storage=str(outputs)).predictions()
    assert predictions.attrs["units"] == UNITS["predictions/<batch>.csv"] | UNITS["details/wafers.csv"]
