"""The steps of the work, each from paths and parameters to files and a small record.

A step has two callers. The flows run it as a Prefect task on the places that the environment names. DVC runs it as

    python -m wafer.steps NAME [NAME ...] [--storage data/repro] [--params params.yaml]

which is a study apart from production (`wafer.study`). Libraries that take long to import are imported by the steps
that need them.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from upath import UPath

from wafer.params import DeliverParams, EvaluateParams, FitParams, GateParams, Params
from wafer.progress import shown
from wafer.records import Decided, Delivered, Evaluated, Fitted, Frozen, Ingested, Predicted, Registered, Reported
from wafer.settings import Settings
from wafer.storage import local_folder, read_json, write_bytes, write_json, write_text, written_folder

Kind = Literal["training", "prediction"]
EXPECTATIONS = Path("expectations")
UNREGISTERED = 0


@contextmanager
def _timed(settings: Settings, step: str) -> Iterator[None]:
    """Note the seconds that the block takes in `reports/timing.json`, which is apart from what must be reproducible."""
    start = time.perf_counter()
    yield
    file = settings.area("reports") / "timing.json"
    seconds = read_json(file) if file.exists() else {}
    write_json(file, {**seconds, step: round(time.perf_counter() - start, 3)})


def named_by_time(kind: str) -> str:
    """A name for a run that is made now, such as `prediction-20260131-083000-250` (UTC)."""
    return f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"[:-3]


def _report_folders(settings: Settings, run: str | None) -> tuple[UPath, ...]:
    """Where reports go: to `reports/`, which shows the last run, and to the folder there of a run that has a name."""
    reports = settings.area("reports")
    return (reports,) if run is None else (reports, reports / run)


def deliver(settings: Settings, params: DeliverParams) -> Delivered:
    """Bring raw batch files to `raw/`: from the folder that the params name, else from the synthetic fab."""
    from wafer.fab.delivery import copy_delivery, simulate_delivery

    raw = settings.area("raw")
    with _timed(settings, "deliver"):
        for kind in ("training", "prediction"):
            with written_folder(raw / kind) as aside:
                if params.folder is None:
                    simulate_delivery(kind, aside, params)
                else:
                    copy_delivery(Path(params.folder) / kind, aside)
    return Delivered(str(raw / "training"), str(raw / "prediction"))


def deliver_where_empty(settings: Settings, params: DeliverParams) -> str:
    """The folder of raw batch files; filled by `deliver` only where nothing has been delivered to it yet."""
    raw = settings.area("raw")
    if not any((raw / kind).exists() for kind in ("training", "prediction")):
        deliver(settings, params)
    return str(raw)


def ingest(
    settings: Settings, kind: Kind, raw: str | None = None, *, replace: bool = False, run: str | None = None
) -> Ingested:
    """Judge the batch files in `raw` (default: `raw/<kind>` of the storage), store the good, quarantine the others.

    With `replace`, wafers that come with other readings than the stored ones take their place; the earlier readings
    stay in their history. Report and page of the last ingest lie in `reports/`, of a named `run` in its folder as well.
    """
    from wafer.contract.suites import Contract
    from wafer.intake.ingest import ingest as take_in
    from wafer.intake.leftovers import remove_leftovers
    from wafer.intake.quarantine import Quarantine
    from wafer.intake.statistics import DeliveryStatistics
    from wafer.reporting.ingest_page import write_ingest_page
    from wafer.store.wafers import open_store

    folder = settings.area("raw") / kind if raw is None else UPath(raw)
    with _timed(settings, f"ingest-{kind}"), shown(f"ingest {kind}") as progress, open_store(settings) as store:
        contract = Contract.load(kind, EXPECTATIONS)
        place = settings.area("quarantine") / kind
        place.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place, older_than=0)
        remove_leftovers(settings.area("reports"))
        statistics = DeliveryStatistics(contract.sensors, contract.order, contract.form.wafer_id)
        report = take_in(
            [folder],
            contract,
            store,
            Quarantine(place),
            progress,
            replacing=replace,
            watch=lambda delivery, verdict: statistics.add(delivery, accepted=verdict.accepted),
        ).as_dict()
        for reports in _report_folders(settings, run):
            written = "" if run is None else f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            page = write_ingest_page(report, statistics, reports, written=written)
            write_json(reports / f"ingest-{kind}.json", report)
    return Ingested(
        report=str(reports / f"ingest-{kind}.json"),
        page=str(page),
        files=report["files"],
        accepted=report["accepted"],
        quarantined=report["quarantined"],
        unread=report["unread"],
        wafers_stored=report["wafers_stored"],
    )


def snapshot(settings: Settings) -> Frozen:
    """Freeze every labelled wafer of the store as a table named by its content."""
    from wafer.contract.suites import Contract
    from wafer.intake.leftovers import remove_leftovers
    from wafer.store.snapshot import freeze, write_snapshot
    from wafer.store.wafers import open_store

    with _timed(settings, "snapshot"), open_store(settings) as store:
        frozen = freeze(store, Contract.load_form("training", EXPECTATIONS).sensors)
        remove_leftovers(settings.area("snapshot"))
        folder = write_snapshot(frozen, settings.area("snapshot"))
    return Frozen(str(folder), frozen.digest, frozen.manifest["wafers"], frozen.manifest["faulty"])


def fit(settings: Settings, params: FitParams, snapshot_folder: str) -> Fitted:
    """Fit a `WaferModel` with reasons and drift on a snapshot that the guard lets pass; its digest names its folder."""
    from wafer.learning.model import WaferModel
    from wafer.registry.packaging import model_digest
    from wafer.store.guard import check_snapshot
    from wafer.store.snapshot import read_snapshot

    with _timed(settings, "fit"), shown("fit") as progress, tempfile.TemporaryDirectory() as scratch:
        progress(0, 3)
        frozen = read_snapshot(UPath(snapshot_folder))
        check_snapshot(frozen, EXPECTATIONS)
        model = WaferModel(**params.model_dump(), n_jobs=settings.jobs)
        model.fit(frozen.readings, frozen.labels, order=frozen.order)
        progress(1, 3)
        if model.tells_reasons:
            model.learn_reasons(frozen.readings, frozen.labels, order=frozen.order)
        progress(2, 3)
        model.learn_drift(frozen.readings, frozen.order, frozen.batches)
        model.save(Path(scratch))
        digest = model_digest(Path(scratch))
        target = settings.area("models") / digest[:12]
        with written_folder(target) as aside:
            shutil.copytree(scratch, aside, dirs_exist_ok=True)
        progress(3, 3)
    return Fitted(str(target), digest)


def evaluate(
    settings: Settings,
    params: EvaluateParams,
    recipe: FitParams,
    snapshot_folder: str,
    model_folder: str,
    *,
    run: str | None = None,
) -> Evaluated:
    """Score the recipe on wafers that it did not train on: shuffled, forward in time, and with permuted labels.

    Metrics, scores and curves of the last evaluation lie in `reports/`, those of a named `run` in its folder there too,
    so that two trainings at a time do not mix.
    """
    from wafer.learning.evaluation import evaluate as judge
    from wafer.learning.model import WaferModel
    from wafer.reporting.tables import precision_recall_points, roc_points
    from wafer.store.snapshot import read_snapshot

    with _timed(settings, "evaluate"), shown("evaluate") as progress:
        frozen = read_snapshot(UPath(snapshot_folder))
        with local_folder(UPath(model_folder)) as folder:
            clusters = len(WaferModel.load(folder).clusters_)
        metrics, scores = judge(
            WaferModel(**recipe.model_dump()),
            frozen.readings,
            frozen.labels,
            frozen.order,
            frozen.batches,
            **params.model_dump(),
            n_jobs=settings.jobs,
            progress=progress,
        )
        scores.insert(0, "wafer", frozen.table["wafer"].to_numpy()[scores["row"]])
        curves = {"roc": roc_points(scores), "precision_recall": precision_recall_points(scores)}
        for reports in _report_folders(settings, run):
            write_json(reports / "metrics.json", {**metrics, "clusters": clusters})
            write_bytes(reports / "scores.parquet", scores.to_parquet(index=False))
            for name, curve in curves.items():
                write_text(reports / "curves" / f"{name}.csv", curve.to_csv(index=False, lineterminator="\n"))
    return Evaluated(str(reports / "metrics.json"), str(reports / "scores.parquet"))


def register(settings: Settings, params: Params, frozen: Frozen, fitted: Fitted, evaluated: Evaluated) -> Registered:
    """Log params, metrics, plots, scores, lineage and the model to MLflow, and register the model as a new version."""
    from wafer.learning.model import WaferModel
    from wafer.registry import Registry, describe_snapshot, describe_source
    from wafer.reporting.plots import training_plots
    from wafer.reporting.sources import read_scores
    from wafer.reporting.style import draw_each
    from wafer.store.snapshot import read_snapshot

    with (
        _timed(settings, "register"),
        shown("register") as progress,
        local_folder(UPath(fitted.folder)) as folder,
        local_folder(UPath(frozen.folder)) as table,
    ):
        progress(0, 1)
        model, frozen_table = WaferModel.load(folder), read_snapshot(table)
        scores, metrics = read_scores(evaluated.scores), read_json(UPath(evaluated.metrics))
        version = Registry.open(settings).log_training(
            params=params.model_dump(),
            metrics=metrics,
            scores=scores,
            model_folder=folder,
            example=frozen_table.readings.head(5),
            figures=draw_each(training_plots(model, scores, metrics))[0],
            files={"snapshot/manifest.json": table / "manifest.json"},
            tags={
                **describe_snapshot(frozen_table, table),
                **describe_source(Path(__file__).parent, settings.commit),
            },
        )
        progress(1, 1)
    return Registered(version.version, version.run_id)


def gate(settings: Settings, params: GateParams, recipe: FitParams, frozen: Frozen, registered: Registered) -> Decided:
    """Let the new version, trained on `frozen`, become champion if it stands up to the present one."""
    from wafer.registry import Registry, gate_rules
    from wafer.store.snapshot import read_snapshot

    with _timed(settings, "gate"):
        snapshot, registry = read_snapshot(UPath(frozen.folder)), Registry.open(settings)
        decision = registry.decide(registered.version, gate_rules(params, recipe), snapshot)
        changes = [] if decision.champion is None else registry.changes(decision.champion, registered.version)
        for reports in _report_folders(settings, f"training-v{registered.version}"):
            file = reports / "decision.json"
            write_json(file, {**decision.as_dict(), "changes": changes})
    return Decided(str(file), decision.promoted, decision.reason)


def predict(
    settings: Settings, ingest_report: str, model_folder: str | None = None, *, run: str = "prediction"
) -> Predicted:
    """Score every accepted batch of a prediction delivery, one CSV a batch, and store the same rows.

    The model is the champion of the registry, verified, or the one in `model_folder`, which is no registered version.
    Doubts, reasons and drift go to `reports/<run>/`, see `wafer.scoring.details.Details`.
    """
    from wafer.contract.suites import Contract
    from wafer.learning.model import WaferModel
    from wafer.scoring.batches import score_batches
    from wafer.store.wafers import open_store

    with _timed(settings, "predict"), shown("predict") as progress, open_store(settings) as store:
        version = UNREGISTERED
        if model_folder is None:
            from wafer.registry.champion import fetch_champion

            version, model_folder = fetch_champion(settings)
        with local_folder(UPath(model_folder)) as folder:
            model = WaferModel.load(folder)
        digests = [b["digest"] for b in read_json(UPath(ingest_report))["batches"] if b["verdict"] == "accepted"]
        target, details = settings.area("predictions"), settings.area("reports") / run
        sensors = Contract.load_form("prediction", EXPECTATIONS).sensors
        index = score_batches(model, version, store, sensors, digests, target, details, progress)
        write_json(settings.area("reports") / "predictions.json", index)
    return Predicted(
        folder=str(target),
        files=tuple(entry["predictions"] for entry in index),
        wafers=sum(entry["wafers"] for entry in index),
        alarms=sum(entry["alarms"] for entry in index),
        details=str(details),
        model_folder=model_folder,
        model_version=version,
    )


def report_data_quality(settings: Settings, frozen: Frozen, registered: Registered | None = None) -> Reported:
    """Run the data quality notebook on a snapshot and the last ingest of labelled batches; kept as its training is."""
    report = settings.area("reports") / "ingest-training.json"
    delivery = str(report) if report.exists() else ""
    given = {"snapshot": frozen.folder, "ingest_report": delivery}
    return _report_of_training(settings, "data_quality", given, registered)


def report_exploration(
    settings: Settings, frozen: Frozen, fitted: Fitted, registered: Registered | None = None
) -> Reported:
    """Run the exploration notebook on a snapshot and the model that was trained on it; kept as its training is."""
    given = {"snapshot": frozen.folder, "model": fitted.folder}
    return _report_of_training(settings, "exploration", given, registered)


def report_training(
    settings: Settings,
    frozen: Frozen,
    fitted: Fitted,
    evaluated: Evaluated,
    decided: Decided | None = None,
    registered: Registered | None = None,
) -> Reported:
    """Run the training notebook and keep it, executed, with its page, in the folder of its version.

    Without a version, as in a study, that folder is `reports/training`.
    """
    given = {
        "snapshot": frozen.folder,
        "model": fitted.folder,
        "metrics": evaluated.metrics,
        "scores": evaluated.scores,
        "decision": decided.decision if decided else "",
    }
    return _report_of_training(settings, "training", given, registered)


def _report_of_training(
    settings: Settings, name: str, parameters: Mapping[str, str | list[str]], registered: Registered | None
) -> Reported:
    if registered is None:
        return _report(settings, name, parameters, "training")
    from wafer.registry import Registry

    run = f"training-v{registered.version}"
    try:
        return _report(settings, name, parameters, run)
    finally:  # also what a failing cell has left
        made = (settings.area("reports") / run).glob(f"{name}.*")
        Registry.open(settings).log_files(registered.run_id, sorted(made, key=str), "reports")


def report_prediction(settings: Settings, ingested: Ingested, predicted: Predicted) -> Reported:
    """Run the prediction notebook and keep it, executed, with its page, in the folder of the run's details.

    A prediction of a registered version is logged to MLflow with all that lies there.
    """
    given: dict[str, str | list[str]] = {
        "predictions": predicted.folder,
        "batches": list(predicted.files),
        "details": predicted.details,
        "ingest_report": ingested.report,
        "model": predicted.model_folder,
    }
    run = UPath(predicted.details).name
    try:
        return _report(settings, "prediction", given, run)
    finally:  # also what a failing cell has left
        if predicted.model_version != UNREGISTERED:
            from wafer.registry import Registry

            counts = {"batches": len(predicted.files), "wafers": predicted.wafers, "alarms": predicted.alarms}
            made = sorted((settings.area("reports") / run).iterdir(), key=str)
            tags = {"model.version": predicted.model_version}
            Registry.open(settings).log_prediction(run, counts, made, tags=tags)


def _report(settings: Settings, name: str, parameters: Mapping[str, str | list[str]], run: str) -> Reported:
    """Run the notebook `name` and keep it, executed, with its page in `reports/<run>/`."""
    from wafer.reporting.notebooks import run_notebook

    folder = settings.area("reports") / run
    with _timed(settings, f"report-{name}"), shown(f"report {name}") as progress:
        report = run_notebook(name, parameters, folder, progress=progress)
    return Reported(str(report.notebook), str(report.page))


if __name__ == "__main__":
    from wafer.study import main

    sys.exit(main())
