"""Every table, sentence and plot of the reports on data that are too few, too alike or too odd."""

import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import wafer.reporting
from wafer.contract.facts import Delivery
from wafer.diagnosis.charts import ControlCharts
from wafer.intake.ingest import IngestedFile, IngestReport
from wafer.intake.statistics import DeliveryStatistics, DeliverySummary
from wafer.learning.curves import precision_recall_points, roc_points
from wafer.learning.decision import Policy
from wafer.learning.metrics import summarise
from wafer.learning.model import WaferModel
from wafer.registry.live import figures_of
from wafer.reporting import (
    advice,
    control_charts,
    deliveries,
    findings,
    findings_plots,
    ingest_page,
    ingest_plots,
    ingest_rows,
    model_tables,
    plots,
    process,
    process_plots,
    sensors,
    style,
    tables,
    timeline,
)
from wafer.reporting.display import show_advice, show_plot, show_table
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.control import Control, ControlLog

SENSORS = [f"Sensor-{number}" for number in range(1, 21)]
HUGE = "Wafer_$\\frac{" + "<b>é\u202e" * 300 + ".csv"
PROTOCOLS = ("shuffled", "forward", "permuted")


@dataclass(frozen=True)
class Scene:
    """All that reports are made from, of one small or odd fab."""

    wafers: pd.DataFrame
    scores: pd.DataFrame
    judged: pd.DataFrame
    found: findings.Findings
    report: dict[str, Any]
    summary: DeliverySummary
    metrics: dict[str, Any]
    manifest: dict[str, Any]
    decision: dict[str, Any] | None
    bundle: Bundle
    model: WaferModel
    control: Control
    over_time: list[dict[str, Any]]


def set_the_scene(
    bundle: Bundle,
    *,
    wafers: int = 60,
    faulty: Callable[[int], Any] = lambda n: np.arange(n) % 6 == 0,
    probability: Callable[[int], Any] = lambda n: np.linspace(0, 1, n),
    alarm: Callable[[int], Any] = lambda n: np.arange(n) >= 0.8 * n,
    readings: Callable[[tuple[int, int]], Any] = lambda shape: np.random.default_rng(0).normal(size=shape),
    batches: int = 3,
    name: str = "Wafer_{}.csv",
    judged_batches: bool = True,
    decision: dict[str, Any] | None = None,
) -> Scene:
    """A fab of so many wafers; each of the others says what they are like, given their number or shape."""
    number = np.arange(wafers)
    batch = np.array([name.format(n * batches // max(wafers, 1)) for n in number], dtype=object)
    label = np.where(faulty(wafers), 1, -1).astype(np.int8)
    ids = [f"{name[:-6]}-{n}" for n in number]
    table = pd.DataFrame(readings((wafers, len(SENSORS))), columns=SENSORS)
    table = pd.DataFrame({"wafer": ids, "order": number, "batch": batch, "label": label}).join(table)
    scores = pd.DataFrame(
        {"repeat": 0, "fold": batch, "row": number, "label": label, "probability": probability(wafers)}
    )
    scores["alarm"] = np.asarray(alarm(wafers), bool)
    scores = pd.concat([scores.assign(protocol=protocol) for protocol in PROTOCOLS], ignore_index=True)
    verdict = np.where(scores["probability"].notna()[:wafers], np.where(alarm(wafers), 1.0, -1.0), np.nan)
    judged = pd.DataFrame(
        {
            "batch": batch, "Wafer": ids, "Prediction": verdict, "probability": probability(wafers),
            "cluster": 0, "model_version": 1, "p_value": probability(wafers), "unknown": np.isnan(verdict),
            "label_known": number % 2 == 0, "threshold": 0.3,
        }
    )  # fmt: skip
    found = findings.Findings(judged[["batch", "Wafer", "p_value", "unknown", "label_known"]], *_said(judged, batch))
    if not judged_batches:
        found = replace(found, drift={**found.drift, "batches": []})
    return Scene(
        wafers=table, scores=scores, judged=judged, found=found, metrics=_measured(scores, wafers),
        manifest={"batches": sorted(set(batch)), "wafers": wafers, "faulty": int((label == 1).sum()),
                  "sensors": SENSORS, "digest": "0" * 64},
        decision=decision, bundle=bundle, model=bundle.classifier, **_delivered(table, name),
        **_watched(bundle, table, judged),
    )  # fmt: skip


def _said(judged: pd.DataFrame, batch: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Reasons of every alarm, and a drift document: a drifted, a usual, an unjudged and an empty batch by turns."""
    alarms = judged.loc[judged["Prediction"] == 1, ["batch", "Wafer"]]
    row = {"rank": 1, "sensor": "Sensor-3", "together_with": "", "direction": "high", "percentile": 99.0}
    reasons = alarms.assign(**row, reading=np.where(np.arange(len(alarms)) % 2, np.nan, 1e9), strength=0.5)
    sensor = {"sensor": "Sensor-1", "stability_index": 3.0, "missing_before": 0.0, "missing_now": 1.0, "shift": 0.0}
    kinds: list[dict[str, Any]] = [
        {"score": 0.9, "domain_auc": 1.0, "drifted": True, "why_not": None, "sensors": [sensor], "unknown": 1.0},
        {"score": 0.0, "domain_auc": None, "drifted": False, "why_not": None, "sensors": [], "unknown": 0.0},
        {"score": None, "domain_auc": None, "drifted": None, "why_not": "Too small.", "sensors": [], "unknown": None},
    ]
    common = {"wafers": 1, "threshold": 0.3, "usual_domain_auc": None}
    told = [{"batch": name, **common, **kinds[n % 3]} for n, name in enumerate(dict.fromkeys(batch))]
    told_reasons = {"shown": True, "strength": 0.4, "floor": 0.1, "why_not": None}
    return reasons, {"unknown_level": 0.01, "usual_unknown": None, "reasons": told_reasons, "batches": told}


def _watched(bundle: Bundle, table: pd.DataFrame, judged: pd.DataFrame) -> dict[str, Any]:
    """What left control, the last third of the wafers having moved far, and the batches over time."""
    log, entries = ControlLog(bundle), []
    for number, (name, part) in enumerate(table.groupby("batch", sort=False)):
        moved = part.assign(**{sensor: part[sensor] + 50.0 * (number % 3 == 2) for sensor in SENSORS[:3]})
        counts = log.add(str(name), moved)
        alarms, unknown = int((judged["Prediction"].loc[part.index] == 1).sum()), len(part) // 2
        told = {"score": 0.1 * number, "threshold": 0.3, "drifted": None if number % 3 == 0 else number > 3}
        entry = {"file": str(name), "digest": f"{number:064x}", "order": number, "predictions": f"{name}.csv"}
        entry |= {"wafers": len(part), "alarms": alarms, "unknown": unknown, "model_version": 1 + number // 2}
        entry |= dict.fromkeys(("score", "threshold", "drifted", "t2", "spe")) | (told if number % 4 else {}) | counts
        day = f"2020-01-{number + 1:02d}" if number < 31 else None
        entries.append(
            {**entry, "run": "a", "delivered": day, "labelled": number % 2 * len(part), "faulty": number % 2}
        )
    return {"control": log.control(), "over_time": entries}


def _measured(scores: pd.DataFrame, wafers: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {"wafers": wafers, "faulty": 0, "left_out": {}}
    for protocol in PROTOCOLS:
        part = scores[(scores["protocol"] == protocol) & scores["probability"].notna()]
        if part["label"].nunique() == 2:
            metrics[protocol] = summarise(part, draws=5)
        else:
            metrics["left_out"][protocol] = "too few wafers were scored"
    return metrics


def _delivered(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Report and statistics of an ingest of the wafers, and of a file that was turned away where there are any."""
    statistics, entries = DeliveryStatistics(SENSORS), []
    reason = {"rule": "file_name", "message": name * 3, "line": None, "column": None}
    for number, (file, part) in enumerate(table.groupby("batch", sort=False)):
        columns = {"wafer": pa.array(part["wafer"].astype(str)), "label": pa.array(part["label"].to_numpy())}
        columns |= {sensor: pa.array(part[sensor].to_numpy(), from_pandas=True) for sensor in SENSORS}
        digest = f"{number:064x}"
        statistics.add(Delivery(Path("x"), str(file), digest, {}, pa.table(columns)))
        entries.append(IngestedFile(str(file), digest, "accepted", [], [reason], wafers=len(part)))
    if entries:
        statistics.add(Delivery(Path("x"), name, "f" * 64, {}, None), accepted=False)
        entries.append(IngestedFile(name, "f" * 64, "quarantined", [reason] * 9, []))
    report = IngestReport("training", tuple(entries)).as_dict()
    return {"report": report, "summary": statistics.summary()}


def nothing(shape: Any) -> Any:
    return np.full(shape, np.nan)


SCENES: dict[str, dict[str, Any]] = {
    "ordinary": {"decision": {"challenger": 2, "champion": 1, "promoted": False, "reason": "No.", "checks": []}},
    "no wafer": {"wafers": 0},
    "one wafer": {"wafers": 1, "faulty": np.zeros},
    "one faulty wafer": {"wafers": 1},
    "two wafers": {"wafers": 2},
    "one batch": {"batches": 1},
    "a wafer a batch": {"batches": 60},
    "no faulty": {"faulty": np.zeros},
    "all faulty": {"faulty": np.ones},
    "constant probability": {"probability": lambda n: np.full(n, 0.1)},
    "probability zero": {"probability": np.zeros},
    "no readings, no verdict": {"probability": nothing, "readings": nothing},
    "constant readings": {"readings": np.ones},
    "half without verdict": {"probability": lambda n: np.where(np.arange(n) % 2, 0.3, np.nan)},
    "no alarms": {"alarm": np.zeros},
    "all alarms": {"alarm": np.ones},
    "huge names": {"name": HUGE.replace("{", "{{").replace(".csv", "{}.csv")},
    "no batch judged": {"judged_batches": False},
}

CALLS: dict[Callable[..., Any], Callable[[Scene], tuple[Any, ...]]] = {
    advice.prediction_advice: lambda s: (s.judged, s.found, s.report, s.control),
    advice.training_advice: lambda s: (s.metrics, s.decision),
    advice.quality_advice: lambda s: (s.wafers, s.report),
    advice.exploration_advice: lambda s: (s.wafers, np.arange(len(s.wafers)) % 2),
    deliveries.batches_table: lambda s: (s.judged,),
    deliveries.prediction_summary: lambda s: (s.judged, s.found, s.report, s.model),
    deliveries.prediction_totals: lambda s: (s.judged,),
    deliveries.ingest_totals: lambda s: (s.report,),
    deliveries.quarantined_table: lambda s: (s.report,),
    deliveries.warnings_table: lambda s: (s.report,),
    findings.with_findings: lambda s: (s.judged.iloc[:, :6], s.found),
    findings.alarms_table: lambda s: (s.judged, s.found),
    findings.reasons_told: lambda s: (s.found.reasons,),
    findings.named_sensors: lambda s: (s.judged, s.found),
    findings.telling_reasons: lambda s: (s.judged, s.found),
    findings.telling_sentence: lambda s: (s.judged, s.found),
    findings.unknown_table: lambda s: (s.judged,),
    findings.unknown_sentence: lambda s: (s.judged, s.found),
    findings.drift_table: lambda s: (s.found,),
    findings.drift_sensors_table: lambda s: (s.found,),
    findings.drift_sentence: lambda s: (s.found,),
    findings.reasons_sentence: lambda s: (s.judged, s.found),
    findings_plots.plot_named_sensors: lambda s: (s.judged, s.found, s.bundle),
    findings_plots.plot_batch_drift: lambda s: (s.found,),
    ingest_page.render_ingest_page: lambda s: (s.report, s.summary),
    ingest_plots.plot_missing_map: lambda s: (
        ingest_plots.missing_map(s.summary.missing, readable(s), SENSORS),
        readable(s),
    ),
    ingest_plots.plot_labels_over_time: lambda s: (s.summary.files,),
    ingest_rows.ingest_counts: lambda s: (s.report,),
    ingest_rows.file_rows: lambda s: (s.report, s.summary.files, 3, 100),
    ingest_rows.quarantine_rules: lambda s: (s.report,),
    ingest_rows.sensor_rows: lambda s: (s.summary.sensors, len(s.summary.missing)),
    model_tables.policy_text: lambda s: (s.model,),
    model_tables.threshold_table: lambda s: (s.scores, Policy()),
    model_tables.budget_table: lambda s: (s.scores, Policy()),
    model_tables.worth_text: lambda s: (s.scores, Policy()),
    model_tables.worth_table: lambda s: (s.scores, Policy()),
    model_tables.elbow_table: lambda s: (s.model.elbow_,),
    model_tables.profile_table: lambda s: (s.model,),
    model_tables.abilities_text: lambda s: (s.bundle,),
    model_tables.abilities_table: lambda s: (s.bundle,),
    plots.plot_elbow: lambda s: (s.model.elbow_.head(len(s.wafers)),),
    plots.plot_curves: lambda s: (s.scores, s.metrics),
    plots.plot_calibration: lambda s: (s.scores,),
    plots.plot_forward: lambda s: (s.scores,),
    plots.plot_threshold: lambda s: (s.scores, Policy()),
    plots.plot_probabilities: lambda s: (s.judged,),
    plots.plot_alarm_rates: lambda s: (deliveries.batches_table(s.judged),),
    process.control_sentence: lambda s: (s.control, s.bundle),
    process.why_unknown: lambda s: (s.control, s.bundle, process.CHARTS),
    process.nothing_found: lambda s: (s.control, s.bundle, process.DISTANCES),
    process.out_of_control_table: lambda s: (s.judged, s.control),
    process.left_control_table: lambda s: (s.control,),
    process.named_by: lambda s: (s.judged, s.found, s.control),
    process.named_most: lambda s: (process.named_by(s.judged, s.found, s.control), len(SENSORS)),
    process.named_by_week: lambda s: (process.named_by(s.judged, s.found, s.control), timeline.days(s.over_time)),
    process_plots.plot_distances: lambda s: (s.control,),
    process_plots.plot_named_most: lambda s: (process.named_by(s.judged, s.found, s.control), len(SENSORS)),
    process_plots.plot_named_by_batch: lambda s: (
        process.named_by(s.judged, s.found, s.control),
        s.control.batches["batch"],
    ),
    timeline.timeline_table: lambda s: (s.over_time,),
    timeline.timeline_sentence: lambda s: (s.over_time,),
    timeline.plot_timeline: lambda s: (s.over_time,),
    timeline.live_table: lambda s: (
        [figures_of(1, s.judged, s.wafers.set_index("wafer")["label"].to_dict()).as_dict()],
    ),
    timeline.days: lambda s: (s.over_time,),
    sensors.missing_by_batch: lambda s: (s.wafers,),
    sensors.sensors_table: lambda s: (s.wafers,),
    sensors.drift_table: lambda s: (s.wafers,),
    sensors.batch_shifts: lambda s: (s.wafers, sensors.sensor_names(s.wafers)),
    sensors.telling_sensors: lambda s: (s.wafers,),
    sensors.plot_missing: lambda s: (s.wafers,),
    sensors.plot_drift: lambda s: (s.wafers,),
    sensors.plot_labels: lambda s: (s.wafers,),
    sensors.plot_sensors: lambda s: (s.wafers, list(sensors.telling_sensors(s.wafers).index[:3])),
    sensors.plot_groups: lambda s: (s.wafers,),
    sensors.correlations: lambda s: (s.wafers,),
    sensors.embedding: lambda s: (s.wafers,),
    sensors.plot_embedding: lambda s: (s.wafers, np.arange(len(s.wafers)) % 2),
    control_charts.plot_control_charts: lambda s: charted(s.wafers),
    tables.metrics_table: lambda s: (s.metrics,),
    tables.rivals_table: lambda s: (s.metrics,),
    tables.equal_alarms_table: lambda s: (s.metrics, "forward"),
    tables.confusion_table: lambda s: (s.metrics,),
    tables.training_facts: lambda s: (s.manifest, s.metrics, s.model),
    tables.training_summary: lambda s: (s.metrics, s.decision),
    tables.clusters_table: lambda s: (s.model.clusters_.head(len(s.wafers)),),
    tables.decision_table: lambda s: (s.decision,),
    tables.changes_table: lambda s: (s.decision,),
    tables.decision_sentence: lambda s: (s.decision,),
    roc_points: lambda s: (s.scores,),
    precision_recall_points: lambda s: (s.scores,),
    tables.calibration_bins: lambda s: (s.scores,),
    tables.forward_by_batch: lambda s: (s.scores,),
    tables.curves: lambda s: (s.scores,),
}


def charted(wafers: pd.DataFrame) -> tuple[ControlCharts, pd.DataFrame, str]:
    """Charts of all sensors, the readings, and the name of the first sensor."""
    readings = wafers[sensors.sensor_names(wafers)]
    names = list(readings.columns)
    return ControlCharts.learn(readings.to_numpy(np.float64), names), readings, names[0]


def readable(scene: Scene) -> list[str]:
    return scene.summary.files.loc[scene.summary.files["readable"].astype(bool), "file"].tolist()


# what takes no data of a fab, or reads and writes files that tests of their own are about
OTHERS = {
    "read_findings", "reason_text", "verdict", "named_sensors", "write_ingest_page", "missing_map", "row_groups",
    "plain", "count_states", "file_columns", "sensor_columns", "share", "number", "policy_of", "training_plots",
    "read_control", "read_frame", "draw_scores",
    "in_percent", "batch_ticks", "short_batch", "listing", "read_predictions", "sensor_names",
}  # fmt: skip
# modules without tables and plots of a fab
APART = {
    "display",
    "index",
    "style",
    "notebooks",
    "pages",
    "sources",
    "summary",
    "pictures",
    "marks",
    "look",
    "newest",
    "judged",
}


@pytest.fixture(scope="session")
def scenes(bundle: Bundle) -> dict[str, Scene]:
    readings, recipe = np.random.default_rng(0).normal(size=(40, 20)), WaferModel(trees=5, max_clusters=1)
    lone = fit_bundle(recipe, readings, [-1, 1] * 20, reasons=False)
    made = {name: set_the_scene(bundle, **given) for name, given in SCENES.items()}
    silent = set_the_scene(lone, batches=2)
    told = {"shown": False, "strength": None, "floor": None, "why_not": "There are none."}
    found = replace(silent.found, reasons=silent.found.reasons.head(0), drift={**silent.found.drift, "reasons": told})
    return {**made, "one cluster, no reasons": replace(silent, found=found)}


def public_functions() -> Iterator[Callable[..., Any]]:
    for module in pkgutil.iter_modules(wafer.reporting.__path__):
        if module.name in APART:
            continue
        found = importlib.import_module(f"wafer.reporting.{module.name}")
        for name, thing in inspect.getmembers(found, inspect.isfunction):
            if not name.startswith("_") and thing.__module__ == found.__name__:
                yield thing


def test_every_table_and_plot_is_tried() -> None:
    """A new function of the reports stands in `CALLS`, or is known to show nothing of a fab."""
    untried = {function.__name__ for function in public_functions() if function not in CALLS}
    assert untried - OTHERS == set()


@pytest.mark.slow
@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_nothing_is_too_odd_to_report(function: Callable[..., Any], scenes: dict[str, Scene]) -> None:
    """On each scene a table, sentence or plot comes without an error or a warning, and says what there is to say."""
    for name, scene in scenes.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", message="Glyph .* missing from font")
                arguments = CALLS[function](scene)
                before = [one.copy() for one in arguments if isinstance(one, pd.DataFrame)]
                check(function(*arguments))
            for one, two in zip(before, [a for a in arguments if isinstance(a, pd.DataFrame)], strict=True):
                pd.testing.assert_frame_equal(one, two)
        except Exception as error:
            error.add_note(f"on the scene {name!r}")
            raise


def check(result: Any) -> None:
    """Render what came as it is rendered in a report."""
    if isinstance(result, Figure):
        check_figure(result)
    elif isinstance(result, pd.DataFrame):
        assert "<t" in show_table(result).data or result.empty
    elif isinstance(result, dict):
        for one in result.values():
            check(one)
    elif isinstance(result, list) and result and isinstance(result[0], advice.Advice):
        check(show_advice(result).data)
        assert all(one.what.endswith(".") and one.why for one in result)
    elif isinstance(result, str):
        assert result and not re.search(r"\b(nan|None|inf)\b", re.sub("<[^>]*>", "", result)), result[:500]
    else:
        assert not re.search(r"\bnan\b", repr(result))


def check_figure(figure: Figure) -> None:
    """The figure renders; each of its panels shows data or says why not; each axis of each panel is named."""
    assert len(show_plot(figure, "a plot").data) > 1_000
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert shown
    assert shown[0].get_title(loc="left"), "the first panel has no title"
    figure.draw_without_rendering()  # labels stand where they do at the figure's own size again
    picture = figure.bbox.padded(2)
    for name in (axis.label for axes in shown for axis in (axes.xaxis, axes.yaxis) if axis.label.get_text()):
        place = name.get_window_extent()
        assert picture.containsx(place.x0) and picture.containsx(place.x1), f"{name.get_text()!r} is cut off"
        assert picture.containsy(place.y0) and picture.containsy(place.y1), f"{name.get_text()!r} is cut off"
    for axes in shown:
        if not draws(axes):
            assert any(len(text.get_text()) > 8 for text in axes.texts), "a panel is empty without a word"
            assert axes.get_title(loc="left"), "an empty panel does not say what it would show"
        elif not (len(axes.get_xticks()) == len(axes.get_yticks()) == 0):
            check_names(axes)


def draws(axes: Axes) -> bool:
    """Whether data are drawn: a line or point of finite values, a bar, dots, or an image with a cell."""
    lines = any(np.isfinite(np.asarray(line.get_xydata(), float)).all(axis=1).any() for line in axes.lines)
    images = any(0 not in np.shape(image.get_array()) for image in axes.images)
    return lines or images or bool(axes.patches) or bool(axes.collections)


def check_names(axes: Axes) -> None:
    """Each axis has a label, of its own or of the panel that it is shared with; a colour bar its one."""
    siblings = axes.get_shared_x_axes().get_siblings(axes), axes.get_shared_y_axes().get_siblings(axes)
    x = any(one.get_xlabel() for one in siblings[0])
    y = any(one.get_ylabel() for one in siblings[1])
    if axes.get_label() == "<colorbar>" or hasattr(axes, "_colorbar"):
        assert x or y, "a colour bar is not named"
    else:
        assert x, "an x axis is not named"
        assert y, "a y axis is not named"


def test_a_nameless_axis_is_noticed() -> None:
    """The check of axes sees a twin without a label, a colour bar without one, and an empty panel without words."""
    figure, axes = style.new_figure()
    axes.plot([0, 1])
    axes.set(title="a", xlabel="b", ylabel="c")
    axes.set_title("a", loc="left")
    check_figure(figure)
    twin = axes.twinx()
    twin.plot([1, 0])
    with pytest.raises(AssertionError, match="a y axis is not named"):
        check_figure(figure)
    twin.set_ylabel("d")
    bar = figure.colorbar(axes.scatter([0, 1], [0, 1], c=[0, 1]), ax=axes)
    with pytest.raises(AssertionError, match="a colour bar is not named"):
        check_figure(figure)
    bar.set_label("e")
    figure.add_subplot(2, 2, 4)
    with pytest.raises(AssertionError, match="empty without a word"):
        check_figure(figure)


@pytest.mark.slow
@pytest.mark.invariant
def test_every_axis_of_every_plot_is_named(scenes: dict[str, Scene]) -> None:
    """On ordinary data each plot has a title, and each of its axes, colour bars and twins included, a name."""
    for function, arguments in CALLS.items():
        if function.__name__.startswith("plot_"):
            check_figure(function(*arguments(scenes["ordinary"])))


def test_an_empty_plot_says_why(scenes: dict[str, Scene]) -> None:
    """Without a wafer every plot is a sentence."""
    for function, arguments in CALLS.items():
        if function.__name__.startswith("plot_"):
            figure = function(*arguments(scenes["no wafer"]))
            assert [text.get_text() for text in figure.axes[0].texts] != [], function.__name__
            assert not any(draws(axes) for axes in figure.axes), function.__name__
