"""The steps of the work: a workspace, a run and parameters in, records of keys and counts out.

A step has two callers: a Prefect task of `flows/`, and a stage of `dvc.yaml` through `wafer.study`, which works
apart from production. Each finds what earlier steps have left in the run's records, and leaves its own, so that
any step can be run again alone. Libraries that take long to import are imported by the steps that need them.
"""

import dataclasses
import io
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wafer.errors import ReportError, StorageError
from wafer.params import (
    DeliverParams,
    EvaluateParams,
    FitParams,
    GateParams,
    MonitorParams,
    Params,
    PolicyParams,
    RetrainParams,
)
from wafer.progress import Progress, shown
from wafer.records import (
    Decided,
    Delivered,
    Due,
    Evaluated,
    Fitted,
    Frozen,
    Ingested,
    Kind,
    Known,
    Labelled,
    Predicted,
    Refused,
    Registered,
    Reported,
    with_units,
)
from wafer.runs import Run
from wafer.shown import shown_message
from wafer.storage import AnyPath, copy_where_missing, is_silent, written_folder
from wafer.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from wafer.intake.labels import LabelReport
    from wafer.intake.watching import Watch

UNREGISTERED = 0

log = logging.getLogger("wafer")


@contextmanager
def working(workspace: Workspace, kind: str) -> Iterator[Run]:
    """A new run, which ends with the block; then the list of runs, `reports/index.html`, is written anew.

    A webhook is told where it fails.
    """
    from wafer.webhook import tell

    run = None
    try:
        with (
            workspace.runs.started(kind) as run,
            # a version that is not finished while nobody trains was cut short
            workspace.lease(kind, run.id) if kind == "training" else nullcontext(),
        ):
            yield run
    except Exception as error:
        for complaint in () if run is None else tell(workspace, run, error):
            log.warning(complaint)
        raise
    finally:
        _list_runs(workspace)


def _list_runs(workspace: Workspace) -> None:
    """Write the list of runs; where that fails, it is told unless there is an error to be told already."""
    from wafer.reporting.index import write_index

    first = sys.exception()
    if is_silent(first):
        return
    try:
        write_index(workspace.runs)
    except Exception as error:  # noqa: BLE001 - a page that fails, fails alone
        told = f"the list of runs could not be written: {shown_message(str(error), 200)}"
        log.warning(told) if first is None else first.add_note(told)


def deliver(workspace: Workspace, run: Run, params: DeliverParams) -> Delivered:
    """Bring raw batch files into the run: from the folder that the params name, else from the synthetic fab."""
    from wafer.fab.delivery import copy_delivery, simulate_delivery

    with run.timed("deliver"):
        for kind in ("training", "prediction"):
            with written_folder(run.place(f"raw/{kind}")) as aside:
                if params.folder is None:
                    simulate_delivery(kind, aside, params)
                else:
                    copy_delivery(
                        workspace.settings.of_project(params.folder) / kind, aside, workspace.settings.link_roots
                    )
    delivered = Delivered(run.key("raw/training"), run.key("raw/prediction"))
    run.write(delivered)
    return delivered


def deliver_where_empty(workspace: Workspace, params: DeliverParams) -> None:
    """Let `deliver` bring batch files where neither a person nor an earlier delivery has brought any."""
    known = workspace.runs.latest("delivery") is not None
    if not known and not any(workspace.storage.exists(f"raw/{kind}") for kind in ("training", "prediction")):
        with working(workspace, "delivery") as run:
            deliver(workspace, run, params)


def ingest(workspace: Workspace, run: Run, kind: Kind, raw: str | None = None, *, replace: bool = False) -> Ingested:
    """Judge the batch files in `raw` (default: `Workspace.raw`), store the good, quarantine the others.

    With `replace`, wafers that come with other readings than the stored ones take their place; the earlier readings
    stay in their history.
    """
    from wafer.intake.ingest import ingest as take_in
    from wafer.intake.leftovers import remove_leftovers
    from wafer.intake.quarantine import Quarantine
    from wafer.intake.statistics import DeliveryStatistics
    from wafer.reporting.ingest_page import write_ingest_page

    step = f"ingest-{kind}"
    if raw is not None:
        folder = workspace.settings.opened(raw)
    elif run.has(Delivered):
        folder = workspace.storage.place(getattr(run.read(Delivered), kind))
    else:
        folder = workspace.raw(kind)
    # a study has a database of its own, which nobody else can write to
    held = nullcontext() if run.kind == "study" else workspace.lease(step, run.id)
    with held as lease, run.timed(step), shown(f"ingest {kind}") as progress:
        contract = workspace.contract(kind)
        place = workspace.storage.place(f"quarantine/{kind}")
        remove_leftovers(place, older_than=0)
        statistics = DeliveryStatistics(contract.sensors, contract.order, contract.form.wafer_id)
        report = take_in(
            [folder],
            contract,
            workspace.store,
            Quarantine(place),
            progress,
            replacing=replace,
            watch=lambda delivery, verdict: statistics.add(delivery, accepted=verdict.accepted),
            link_roots=workspace.settings.link_roots,
            may_write=lease.check if lease else lambda: None,
        ).as_dict()
        run.storage.write_json(run.key(f"{step}.json"), report)
        counts = {name: report[name] for name in ("files", "accepted", "quarantined", "unread", "wafers_stored")}
        complaints = tuple(filter(None, (report["why_empty"], _told_unread(report), _told_unaccepted(report))))
        ingested = Ingested(run.key(f"{step}.json"), run.key(f"{step}.html"), **counts, complaints=complaints)
        run.write(ingested, step)
        written = "" if run.kind == "study" else f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        try:
            write_ingest_page(report, statistics, run.place(""), written=written)
        except Exception as error:  # noqa: BLE001 - a page that fails, fails alone
            told = f"the page of the ingest could not be made: {shown_message(f'{type(error).__name__}: {error}', 300)}"
            ingested = dataclasses.replace(ingested, page=None, complaints=(*ingested.complaints, told))
            run.write(ingested, step)
    return ingested


def _told_unread(report: Mapping[str, Any]) -> str | None:
    unread, files = report["unread"], report["files"]
    return f"{unread:,} of {files:,} files could not be read; the report says why" if unread else None


def _told_unaccepted(report: Mapping[str, Any]) -> str | None:
    turned_away = report["quarantined"]
    if report["accepted"] or not turned_away:
        return None
    return f"no file was accepted, {turned_away:,} went to the quarantine; the report says why"


def watch(workspace: Workspace, raw: str | None = None) -> "Watch":
    """What looks for new batch files to be scored in `raw` (default: `raw/prediction` of the storage)."""
    from wafer.intake.watching import Watch

    folder = workspace.storage.place("raw/prediction") if raw is None else workspace.settings.opened(raw)
    return Watch(folder, workspace.storage, workspace.settings.link_roots)


def import_labels(workspace: Workspace, run: Run, file: str) -> Labelled:
    """Give stored wafers the labels of a CSV that came later: a path, an `s3://` address or a key of the storage.

    Raises:
        DeliveryError: the file cannot be read, or is not as agreed; nothing was changed.
    """
    with run.timed("labels"):
        report = take_labels(workspace, file, run.id)
    run.storage.write_json(run.key("labels.json"), dataclasses.asdict(report))
    counts = len(report.conflicts), len(report.unknown)
    labelled = Labelled(
        run.key("labels.json"), report.file, report.wafers, report.labelled, report.repeats, *counts, report.complaints
    )
    run.write(labelled)
    return labelled


def take_labels(workspace: Workspace, file: str, holder: str) -> "LabelReport":
    """The same without a run of its own, for `holder`, as the leases say: where an alarm is closed, its trail tells."""
    from wafer.intake import labels

    path: AnyPath = workspace.settings.opened(file)
    if "://" not in file and not path.exists() and workspace.storage.exists(file):
        path = workspace.storage.place(file)
    # an ingest with other readings replaces whole documents, so neither kind may work meanwhile
    with ExitStack() as held:
        for kind in ("training", "prediction"):
            held.enter_context(workspace.lease(f"ingest-{kind}", holder))
        return labels.import_labels(path, workspace.form("training"), workspace.store)


def snapshot(workspace: Workspace, run: Run) -> Frozen:
    """Freeze every labelled wafer of the store as a table named by its content."""
    from wafer.intake.leftovers import remove_leftovers
    from wafer.store.snapshot import freeze, write_snapshot

    with run.timed("snapshot"):
        frozen = freeze(workspace.store, workspace.form("training").sensors)
        place = workspace.storage.place("snapshot")
        remove_leftovers(place)
        folder = write_snapshot(frozen, place)
    record = Frozen(
        workspace.storage.key(folder), frozen.digest, int(frozen.manifest["wafers"]), int(frozen.manifest["faulty"])
    )
    run.write(record)
    return record


def look_back(workspace: Workspace, run: Run, params: Params, *, force: bool = False) -> Known:
    """See whether the very same training was done before, on the run's snapshot, by this code and these libraries.

    Where it was cut short after its version was registered, this run takes up its records and goes on from there; every
    other version whose training was cut short is archived, unless it has been champion. With `force` it is as if there
    were none before.
    """
    from wafer.registry.records import FINISHED

    registry, shaping = workspace.registry, params.model_dump(include={"fit", "policy", "evaluate", "monitor"})
    same = None if force else registry.find_same(run.read(Frozen).digest, shaping, _describe_source(workspace))
    finished = same is not None and same.training == FINISHED
    resumed = same is not None and not finished and _take_up(workspace, run, same.tags.get("run", ""))
    for version in registry.unfinished():
        if same is None or not resumed or version.version != same.version:
            registry.archive(version, f"its training was cut short, and run {run.id} does not go on with it")
    known = Known(same.version if same is not None and (finished or resumed) else None, finished)
    run.write(known)
    return known


def _take_up(workspace: Workspace, run: Run, earlier: str) -> bool:
    """Give `run` the records of an earlier one, if all are there that a registered version needs."""
    try:
        found = workspace.runs.get(earlier)
    except StorageError:
        return False
    if not all(found.has(kind) for kind in (Fitted, Evaluated, Registered)):
        return False
    for kind in (Fitted, Evaluated, Registered, Decided):
        if found.has(kind):
            run.write(found.read(kind))
    return True


def _describe_source(workspace: Workspace) -> dict[str, str]:
    from wafer.registry import describe_source

    return describe_source(Path(__file__).parent, workspace.settings.commit)


def see_whether_due(workspace: Workspace, params: RetrainParams) -> Due:
    """See whether it is time to train again, and why or why not; while a training goes on, it is not."""
    from wafer.store.leases import leases

    if any(one.name == "training" for one in leases(workspace.store)):
        return Due(None, "nothing was trained: a training is going on")
    from wafer.registry.due import due
    from wafer.scoring.timeline import newest_timeline

    return due(params, workspace.registry, workspace.store, newest_timeline(workspace.runs))


def count_refusals(workspace: Workspace, run: Run, params: RetrainParams) -> Refused | None:
    """Note with the run how many versions in a row the gate has refused, where they are many enough to be told."""
    from wafer.registry.due import refused_in_a_row

    refused = Refused(refused_in_a_row(workspace.registry))
    if refused.in_a_row < params.refusals:
        return None
    run.write(refused)
    return refused


def fit(workspace: Workspace, run: Run, params: FitParams, policy: PolicyParams, monitor: MonitorParams) -> Fitted:
    """Fit a `Bundle` with reasons, drift and monitor on the run's snapshot, if the guard lets it pass."""
    from wafer.learning.decision import Policy
    from wafer.learning.model import WaferModel
    from wafer.learning.parts import model_digest
    from wafer.scoring.bundle import fit_bundle
    from wafer.store.guard import check_snapshot

    with run.timed("fit"), shown("fit") as progress, tempfile.TemporaryDirectory() as scratch:
        frozen = workspace.snapshot(run.read(Frozen).folder)
        check_snapshot(frozen, workspace.expectations)
        costs = Policy(**policy.model_dump())
        model = WaferModel(**params.model_dump(), policy=costs, n_jobs=workspace.settings.jobs)
        wafers = frozen.readings, frozen.labels, frozen.order, frozen.batches
        bundle = fit_bundle(model, *wafers, rules=monitor.model_dump(), progress=progress)
        bundle.save(Path(scratch))
        digest = model_digest(Path(scratch))
        fitted = Fitted(f"models/{digest[:12]}", digest)
        copy_where_missing(Path(scratch), workspace.storage.place(fitted.folder))
    run.write(fitted)
    return fitted


def evaluate(
    workspace: Workspace, run: Run, params: EvaluateParams, recipe: FitParams, policy: PolicyParams
) -> Evaluated:
    """Score the recipe on wafers that it did not train on: shuffled, forward in time, and with permuted labels."""
    from wafer.diagnosis.rivals import rivals
    from wafer.learning import evaluation
    from wafer.learning.curves import precision_recall_points, roc_points
    from wafer.learning.decision import Policy
    from wafer.learning.model import WaferModel

    with run.timed("evaluate"), shown("evaluate") as progress:
        frozen = workspace.snapshot(run.read(Frozen).folder)
        clusters = len(workspace.bundle(run.read(Fitted).folder).classifier.clusters_)
        metrics, scores = evaluation.evaluate(
            WaferModel(**recipe.model_dump(), policy=Policy(**policy.model_dump())),
            frozen.readings,
            frozen.labels,
            frozen.order,
            frozen.batches,
            **params.model_dump(),
            rivals=rivals(trees=recipe.trees, max_missing=recipe.max_missing, seed=params.seed),
            n_jobs=workspace.settings.jobs,
            progress=progress,
        )
        scores.insert(0, "wafer", frozen.table["wafer"].to_numpy()[scores["row"]])
        scores = with_units(scores, "scores.parquet")
        run.storage.write_json(run.key("metrics.json"), {**metrics, "clusters": clusters})
        run.storage.write_bytes(run.key("scores.parquet"), scores.to_parquet(index=False))
        for name, curve in (("roc", roc_points(scores)), ("precision_recall", precision_recall_points(scores))):
            run.storage.write_text(run.key(f"curves/{name}.csv"), curve.to_csv(index=False, lineterminator="\n"))
    evaluated = Evaluated(run.key("metrics.json"), run.key("scores.parquet"))
    run.write(evaluated)
    return evaluated


def register(workspace: Workspace, run: Run, params: Params) -> Registered:
    """Log params, metrics, scores, lineage and the model to MLflow, and register the model as a new version."""
    from wafer.registry import describe_snapshot

    frozen, evaluated = run.read(Frozen), run.read(Evaluated)
    storage = workspace.storage
    with (
        run.timed("register"),
        shown("register") as progress,
        storage.local(run.read(Fitted).folder) as folder,
        storage.local(frozen.folder) as table,
    ):
        progress(0, 1)
        snapshot = workspace.snapshot(frozen.folder)
        version = workspace.registry.log_training(
            params=params.model_dump(),
            metrics=storage.read_json(evaluated.metrics),
            scores=read_scores(workspace, evaluated),
            model_folder=folder,
            example=snapshot.readings.head(5),
            files={"snapshot/manifest.json": table / "manifest.json"},
            tags={
                "run": run.id,
                **describe_snapshot(snapshot, table),
                **_describe_source(workspace),
            },
        )
        progress(1, 1)
    registered = Registered(version.version, version.run_id)
    run.write(registered)
    return registered


def read_scores(workspace: Workspace, evaluated: Evaluated) -> "pd.DataFrame":
    """The out-of-fold scores of an evaluation."""
    import pandas as pd

    return pd.read_parquet(io.BytesIO(workspace.storage.place(evaluated.scores).read_bytes()))


def gate(workspace: Workspace, run: Run, params: GateParams, policy: PolicyParams) -> Decided:
    """Let the run's version become champion if it stands up to the present one."""
    from wafer.registry import gate_rules

    if run.has(Decided):  # by the run that this one goes on with
        return run.read(Decided)
    with workspace.lease("gate", run.id), run.timed("gate"):
        registry, version = workspace.registry, run.read(Registered).version
        decision = registry.decide(version, gate_rules(params, policy), workspace.snapshot(run.read(Frozen).folder))
        changes = [] if decision.champion is None else registry.changes(decision.champion, version)
        run.storage.write_json(run.key("decision.json"), {**decision.as_dict(), "changes": changes})
    decided = Decided(run.key("decision.json"), decision.promoted, decision.reason)
    run.write(decided)
    return decided


def draw(workspace: Workspace, run: Run) -> None:
    """Draw the figures of a training, and keep them with its run in MLflow; nothing else depends on them.

    Raises:
        ReportError: some could not be drawn; the others are kept.
    """
    from wafer.reporting.plots import training_plots
    from wafer.reporting.style import draw_each

    evaluated = run.read(Evaluated)
    with run.timed("draw"), shown("draw") as progress:
        progress(0, 1)
        model, metrics = (
            workspace.bundle(run.read(Fitted).folder).classifier,
            workspace.storage.read_json(evaluated.metrics),
        )
        figures, failures = draw_each(training_plots(model, read_scores(workspace, evaluated), metrics))
        workspace.registry.log_figures(run.read(Registered).run_id, figures)
        progress(1, 1)
    if failures:
        raise ReportError("; ".join(failures.values()))


def finish(workspace: Workspace, run: Run) -> None:
    """Note that the training of the run's version went through, down to its reports."""
    workspace.registry.finish(run.read(Registered).version)


def predict(workspace: Workspace, run: Run, *, new_only: bool = False) -> Predicted | None:
    """Score every accepted batch of the run's delivery, one CSV a batch, and store the same rows.

    With `new_only` those alone that no run has scored yet, as the ledger says, and None where there is none: so each
    batch is scored once, however many processes ask at the same time.

    The model is the champion of the registry, verified; in a study the one that the study has fitted, which is no
    registered version. What else it says of the wafers lies in `details/`, see `wafer.scoring.details.Details`; how the
    batches of all predictions followed each other, in `timeline.json`; what their versions were worth, in `live.json`.
    """
    study = run.kind == "study"
    held = nullcontext() if study else workspace.lease("predict", run.id)
    with held, run.timed("predict"), shown("predict") as progress:
        report = workspace.storage.read_json(run.read(Ingested, "ingest-prediction").report)
        digests = [batch["digest"] for batch in report["batches"] if batch["verdict"] == "accepted"]
        taken = workspace.store.known(digests)
        if new_only:  # a run that is tried again goes on with its own
            digests = [one for one in digests if one in taken and taken[one].scored in (None, run.id)]
            if not digests:
                return None
        predicted = _score(workspace, run, digests, progress)
        run.write(predicted)
        if not study:
            workspace.store.mark_scored(
                [taken[one] for one in digests], run.id
            )  # last, so that a run that was cut short is made up for
    return predicted


def _score(workspace: Workspace, run: Run, digests: Sequence[str], progress: Progress) -> Predicted:
    from wafer.registry.champion import fetch_champion
    from wafer.registry.live import live_figures
    from wafer.scoring.batches import score_batches
    from wafer.scoring.timeline import INDEX, LIVE, PLACE, timeline

    form, places = workspace.form("prediction"), (run.place("predictions"), run.place("details"))
    if run.kind == "study":
        version, model_folder = UNREGISTERED, run.read(Fitted).folder
    else:
        version, model_folder = fetch_champion(workspace.registry, workspace.storage)
    bundle = workspace.bundle(model_folder)
    index = score_batches(bundle, version, workspace.store, form.sensors, digests, *places, progress)
    run.storage.write_json(run.key(INDEX), index)
    told = timeline(workspace.runs, run, workspace.store, form)
    run.storage.write_json(run.key(PLACE), told)
    counts = {"batches": len(index)} | {key: sum(one[key] for one in index) for key in ("wafers", "alarms", "unknown")}
    run_id = None
    if version != UNREGISTERED:
        figures = live_figures(workspace.registry, workspace.store, {one["model_version"] for one in told})
        run.storage.write_json(run.key(LIVE), [one.as_dict() for one in figures])
        run_id = workspace.registry.log_prediction(run.id, counts, places[1:], {"model.version": version})
    why = "no wafer was scored: all of the accepted files contradict stored ones"
    return Predicted(
        folder=run.key("predictions"),
        files=tuple(entry["predictions"] for entry in index),
        wafers=counts["wafers"],
        alarms=counts["alarms"],
        details=run.key("details"),
        model_folder=model_folder,
        model_version=version,
        run_id=run_id,
        complaints=(why,) if digests and not counts["wafers"] else (),
    )


def report(workspace: Workspace, run: Run, name: str) -> Reported:
    """Run the notebook `name` about a run and keep it there, executed, with its page; in MLflow too where that has one.

    Raises:
        ReportError: a cell failed; what it has left is kept in the same places.
    """
    from wafer.reporting.notebooks import run_notebook

    given = {"run": run.id, "storage": str(workspace.storage.root)}
    with run.timed(f"report-{name}"), shown(f"report {name}") as progress:
        try:
            run_notebook(name, given, run.place(""), notebooks=workspace.notebooks, progress=progress)
        finally:
            _log_report(workspace, run, name)
    return Reported(run.key(f"{name}.ipynb"), run.key(f"{name}.html"))


def _log_report(workspace: Workspace, run: Run, name: str) -> None:
    """Keep notebook and page, as far as they came, with the training or prediction in MLflow that they are about."""
    run_id: str | None = None
    if name == "prediction" and run.has(Predicted):
        run_id = run.read(Predicted).run_id
    elif run.has(Registered):
        run_id = run.read(Registered).run_id
    if run_id is not None:
        made = [place for place in (run.place(f"{name}.ipynb"), run.place(f"{name}.html")) if place.exists()]
        workspace.registry.log_files(run_id, made, "reports")
