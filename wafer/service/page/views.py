"""What the pages show, gathered from storage, database and registry; each function answers one page."""

import threading
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from markupsafe import Markup

from wafer.learning.decision import Policy
from wafer.records import Kind
from wafer.reporting import advice, findings, process, tables, timeline
from wafer.reporting.display import show_table
from wafer.reporting.findings import reasons_told
from wafer.reporting.index import what_came_of
from wafer.reporting.sources import PredictionSources
from wafer.scoring.bundle import Bundle
from wafer.scoring.control import Control, ControlLog
from wafer.scoring.judge import Judgement, judge
from wafer.service.champion import Served
from wafer.service.core import Service
from wafer.service.page.words import moment
from wafer.service.routes_data import known_wafer
from wafer.service.routes_review import quarantine
from wafer.service.routes_work import ALARMS_LOOKED_AT, alarms_of
from wafer.store.alarms import State, state_of

ALARMS_SHOWN = 200
ROWS = 10
RUNS_KEPT = 50
RUNS_SHOWN = 100
REASONS_SHOWN = 8
KINDS: tuple[Kind, ...] = ("prediction", "training")
STATES: tuple[State, ...] = ("open", "acknowledged", "closed")


class Newest:
    """The newest prediction, read once for as long as it is that."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sources: PredictionSources | None = None
        self._reasons: dict[str, dict[tuple[str, str], Markup]] = {}
        self._lock = threading.Lock()

    def prediction(self) -> PredictionSources | None:
        """It, or None where nothing was scored yet."""
        workspace = self._service.workspace
        with self._lock:
            run = workspace.runs.latest("prediction")
            if run is None:
                return None
            if self._sources is None or self._sources.run.id != run.id:
                self._sources = PredictionSources.of(workspace, run)
            return self._sources

    def reasons(self, runs: Collection[str]) -> dict[tuple[str, str], Markup]:
        """The reasons of alarms that these runs have told, by file and wafer; of a run that is gone, none."""
        found: dict[tuple[str, str], Markup] = {}
        for name in sorted(runs):
            with self._lock:
                if name not in self._reasons:
                    self._reasons[name] = _reasons_of(self._service, name)
                while len(self._reasons) > RUNS_KEPT:
                    self._reasons.pop(next(iter(self._reasons)))
            found |= self._reasons.get(name, {})
        return found


def _reasons_of(service: Service, name: str) -> dict[tuple[str, str], Markup]:
    runs = service.workspace.runs
    if name not in runs.names("prediction"):
        return {}
    said = PredictionSources.of(service.workspace, runs.get(name)).findings
    return {(f"{batch}.csv", wafer): one.__html__() for (batch, wafer), one in reasons_told(said.reasons).items()}


def _table(frame: pd.DataFrame, nothing: str, **options: Any) -> Markup:
    return Markup(show_table(frame, nothing, **options).data)


def _link(wafer: str) -> Markup:
    return Markup('<a href="/wafers/{}">{}</a>').format(quote(wafer, safe=""), wafer)


def today(service: Service, newest: Newest, state: State) -> dict[str, Any]:
    """What to do now."""
    every = alarms_of(service, None, ALARMS_LOOKED_AT)
    listed = {one: [row for row in every if row["state"] == one] for one in STATES}
    shown = listed[state][:ALARMS_SHOWN]
    records = service.store.known(list({one["batch"] for one in shown}))
    files = {one["batch"]: records[one["batch"]].file if one["batch"] in records else "" for one in shown}
    found: dict[str, Any] = {
        "state": state,
        "counts": {one: len(rows) for one, rows in listed.items()},
        "alarms": [{**one, "file": files[one["batch"]]} for one in shown],
        "quarantined": sum(len(quarantine(service, kind)) for kind in KINDS),
        "reasons": newest.reasons({record.scored for record in records.values() if record.scored}),
    }
    made = newest.prediction()
    if made is None:
        return found
    judged, said, control = made.predictions(), made.findings, made.control
    return {
        **found,
        "run": made.run.id,
        "scored": made.run.outcome()["ended"],
        "advice": advice.prediction_advice(judged, said, made.delivery, control),
        "unknown": _table(
            findings.unknown_table(judged).rename(index=_link),
            "No wafer is unknown.",
            limit=ROWS,
            bars={"probability %": 100},
        ),
        "batches": _table(
            timeline.timeline_table(made.timeline), "No batch was scored.", limit=ROWS, bars={"alarm %": None}
        ),
        "control": process.control_sentence(control, made.bundle).replace("**", ""),
        "left": _table(
            process.left_control_table(control), process.nothing_found(control, made.bundle, process.CHARTS), limit=ROWS
        ),
    }


def wafer(service: Service, name: str) -> dict[str, Any]:
    """All that is known of one wafer, and what the champion says of it now.

    Raises:
        Problem: it is not stored.
    """
    found, verdicts, trail, alarmed = known_wafer(service, name)
    rows = [
        {
            "version": one["model_version"],
            "verdict": {1: "faulty", -1: "good"}.get(one["Prediction"], "none"),
            "probability %": np.nan if one.get("probability") is None else 100 * one["probability"],
            "threshold %": np.nan if one.get("threshold") is None else 100 * one["threshold"],
            "cluster": one.get("cluster"),
            "scored": moment(one.get("scored")),
        }
        for one in verdicts
    ]
    frame = pd.DataFrame(rows).round(1).set_index("version") if rows else pd.DataFrame()
    told: dict[str, Any] = {
        "wafer": {**found, "id": name},
        "state": state_of(trail) if alarmed else None,
        "trail": trail,
        "verdicts": _table(frame, "It was not scored yet.", bars={"probability %": 100}),
        "reasons": None,
    }
    return told | _explained(service, found)


def _explained(service: Service, found: dict[str, Any]) -> dict[str, Any]:
    """Why the champion says what it says of a wafer; nothing where none serves, or it reads other sensors."""
    served = service.champion.served
    if served is None or len(found["readings"]) != len(service.sensors):
        return {}
    told = explained(served, service, found)
    reasons = pd.DataFrame(columns=["sensor"]) if told.reasons is None else told.reasons
    control = control_of(service, served.bundle, found["batch"])
    own = control.contributions[control.contributions["Wafer"] == found["_id"]]
    named = [*dict.fromkeys([*reasons["sensor"].head(2), *own["sensor"].head(2)])]
    shown = own[["chart", "rank", "sensor", "contribution"]].round(2)
    lines = findings.Reasons(tuple(reasons.to_dict("records")))
    return {
        "reasons": lines.__html__() if len(reasons) else "",
        "contributions": _table(
            shown.set_index("chart"), "It is within the limits of T² and SPE.", bars={"contribution": None}
        ),
        "sensors": named[:3],
    }


def explained(served: Served, service: Service, found: dict[str, Any]) -> Judgement:
    """What a version says of a stored wafer, with its reasons whatever the verdict."""
    readings = pd.DataFrame([found["readings"]], columns=list(service.sensors))
    return judge(served.bundle, readings, [found["order"]], reasons="all", most=REASONS_SHOWN)


def control_of(service: Service, bundle: Bundle, batch: str) -> Control:
    """What left control in the batch of a wafer, by itself."""
    log = ControlLog(bundle)
    record = service.store.known([batch]).get(batch)
    if record is not None and record.wafers:
        log.add(record.file.removesuffix(".csv"), service.store.read_wafers(record.wafers, service.sensors))
    return log.control()


def runs(service: Service) -> list[dict[str, Any]]:
    """The runs that were asked for here and those of the storage, newest first."""
    jobs = service.jobs.all(RUNS_SHOWN)
    known = {job.run for job in jobs}
    found = [
        {
            **{name: getattr(job, name) for name in ("id", "kind", "state")},
            "began": job.asked,
            "told": job.error or _came(service, job.run),
        }
        for job in jobs
    ]
    found += [
        {
            **{name: note[name] for name in ("id", "kind", "state")},
            "began": note["started"],
            "told": note["error"] or _came(service, note["id"]),
        }
        for note in service.workspace.runs.all(RUNS_SHOWN)
        if note["id"] not in known
    ]
    return sorted(found, key=lambda one: str(one["began"]), reverse=True)[:RUNS_SHOWN]


def _came(service: Service, run: str | None) -> str:
    return "; ".join(what_came_of(service.workspace.runs.get(run))) if run else ""


def quality(service: Service, newest: Newest) -> dict[str, Any]:
    """How good the champion is, by evaluation and in use."""
    served = service.champion.served
    if served is None:
        return {}
    registry = service.registry
    version = registry.version(served.version)
    policy = Policy(**{"threshold": version.threshold_kind, **version.policy})
    metrics = nested(registry.metrics(version))
    promoted = [one for one in registry.ledger() if one.promoted and one.challenger == served.version]
    made = newest.prediction()
    return {
        "policy": policy,
        "ceiling": policy.alarm_rate_ceiling,
        "decision": promoted[-1] if promoted else None,
        "live": _table(timeline.live_table([] if made is None else made.live), "No version has scored a wafer yet."),
        "rivals": _table(tables.rivals_table(metrics), "They were not compared."),
        "equal": _table(tables.equal_alarms_table(metrics, "forward"), "Too few batches to tell."),
        "run": None if made is None else made.run.id,
    }


def nested(metrics: dict[str, float]) -> dict[str, Any]:
    """Metrics with dotted names as the training had them: `shuffled.auc` as {"shuffled": {"auc": …}}."""
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        *outer, last = name.split(".")
        place = found
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def quarantined(service: Service) -> dict[str, Any]:
    """What waits for review, with its reasons."""
    entries, dropped = [], []
    for kind in KINDS:
        kept = quarantine(service, kind)
        for entry in kept.entries():
            reasons = [str(one["message"]) for one in entry.verdict["reasons"]]
            told = {"reasons": reasons[:ROWS], "more": len(reasons) - min(ROWS, len(reasons))}
            entries.append(
                {"kind": kind, "file": entry.file, "digest": entry.digest, "size": entry.verdict["size"], **told}
            )
        for row in kept.dropped():
            dropped.append({**row, "reasons": "; ".join(str(one["message"]) for one in row["reasons"])})
    return {"entries": entries, "dropped": dropped[:ALARMS_SHOWN]}
