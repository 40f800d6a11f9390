"""What the service tells Prometheus; docs/service.md lists it, generated from what is registered here.

Counters are of this process. What the storage, the store or the registry knows is looked up for a scrape, at most once
in `SECONDS_KEPT`; where that fails, it is left out and counted.
"""

import logging
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wafer.service.champion import Champion
from wafer.service.jobs import Job, Kind
from wafer.service.scorer import Scored
from wafer.shown import shown_message
from wafer.workspace import Workspace

if TYPE_CHECKING:
    from wafer.registry import Registry

SECONDS_KEPT = 30.0
RUNS_COUNTED = 200
RECENT_BATCHES = 10
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
UNKNOWN_ROUTE = "none"

log = logging.getLogger("wafer")
KINDS = ("training", "prediction")
SUCCEED = ("ingest-training", "ingest-prediction", "training", "prediction")
LOOKED_UP = ("runs", "quarantine", "predictions", "refusals", "waiting runs")
Labels = tuple[str, ...]
COUNTERS: tuple[tuple[str, str, Labels], ...] = (
    ("wafer_http_requests_total", "Requests that were answered", ("route", "method", "status")),
    ("wafer_scored_wafers_total", "Wafers that requests had scored", ("protocol",)),
    ("wafer_alarms_total", "Wafers among them that were called faulty", ("protocol",)),
    ("wafer_unknown_wafers_total", "Wafers among them without a verdict, or with one not to be trusted", ("protocol",)),
    ("wafer_delivered_batches_total", "Batch files that were delivered", ("kind", "verdict")),
    ("wafer_broken_rules_total", "Delivered batch files that broke a rule", ("kind", "rule")),
    ("wafer_metrics_failures_total", "Look-ups for a scrape that failed", ("what",)),
)
DURATION: tuple[str, str, Labels] = (
    "wafer_http_request_duration_seconds",
    "From a request's head to the end of its answer",
    ("route",),
)
FAMILIES: tuple[tuple[str, str, Labels], ...] = (
    ("wafer_scoring_wafers_waiting", "Wafers that wait or are being scored", ()),
    ("wafer_champion_loads", "Versions that were loaded, and looks at the registry that failed", ("outcome",)),
    ("wafer_champion_version", "Version that scores; absent while there is none", ()),
    ("wafer_champion_age_seconds", "Since the version that scores was registered", ()),
    ("wafer_champion_alarm_rate_ceiling", "Share of wafers that the version that scores may call faulty", ()),
    ("wafer_refused_versions", "Trained versions that the gate has refused since it last let one pass", ()),
    ("wafer_runs", f"Runs of the storage by kind and state, of the newest {RUNS_COUNTED}", ("kind", "state")),
    ("wafer_success_timestamp_seconds", "End of the newest run that finished, in seconds since 1970", ("kind",)),
    ("wafer_waiting_runs", "Runs that were asked for here and have not begun", ("kind",)),
    ("wafer_waiting_run_seconds", "Since the one among them that waits longest was asked for; else 0", ()),
    ("wafer_quarantine_size", "Files in the quarantine", ("kind",)),
    ("wafer_quarantined_files", "Files in the quarantine by the rule that they break", ("kind", "rule")),
    ("wafer_recent_batches", f"Newest {RECENT_BATCHES} scored batches, those that drifted and others", ("drifted",)),
    ("wafer_batch_wafers", "Wafers of the newest batch of the newest prediction", ()),
    ("wafer_batch_alarms", "Wafers of that batch that were called faulty", ()),
    ("wafer_batch_unknown_wafers", "Wafers of that batch without a verdict, or with one not to be trusted", ()),
    ("wafer_batch_drift_score", "Drift score of that batch", ()),
    ("wafer_batch_drift_threshold", "Score from which that batch counts as drifted", ()),
    ("wafer_batch_t2_wafers", "Wafers of that batch beyond the limit of T2", ()),
    ("wafer_batch_spe_wafers", "Wafers of that batch beyond the limit of SPE", ()),
)
"""What is looked up: name, meaning and labels."""

IN_INDEX = {
    "wafer_batch_wafers": "wafers",
    "wafer_batch_alarms": "alarms",
    "wafer_batch_unknown_wafers": "unknown",
    "wafer_batch_drift_score": "score",
    "wafer_batch_drift_threshold": "threshold",
    "wafer_batch_t2_wafers": "t2",
    "wafer_batch_spe_wafers": "spe",
}
"""What a prediction's index calls them."""

Values = dict[Labels, float]


class Metrics:
    """The metrics of one application."""

    def __init__(
        self,
        workspace: Workspace,
        champion: Champion,
        waiting: Callable[[], int],
        registry: "Callable[[], Registry]",
        asked_for: Callable[[], Iterable[Job]],
    ) -> None:
        self._collected = collected = CollectorRegistry()
        self._counters = {name: Counter(name, told, labels, registry=collected) for name, told, labels in COUNTERS}
        name, told, labels = DURATION
        self._seconds = Histogram(name, told, labels, buckets=LATENCIES, registry=collected)
        failures = self._counters["wafer_metrics_failures_total"]
        collected.register(_LookedUp(workspace, champion, waiting, registry, asked_for, failures))

    def add(self, counter: str, *labels: str, by: float = 1) -> None:
        """Let a counter of `COUNTERS` grow."""
        found = self._counters[counter]
        (found.labels(*labels) if labels else found).inc(by)

    def took(self, route: str, seconds: float) -> None:
        """Note how long a request took."""
        self._seconds.labels(route).observe(seconds)

    def count(self, scored: Scored, protocol: str) -> None:
        """Count what a request had scored."""
        self.add("wafer_scored_wafers_total", protocol, by=len(scored.wafers["verdict"]))
        self.add("wafer_alarms_total", protocol, by=len(scored.alarms))
        self.add("wafer_unknown_wafers_total", protocol, by=sum(scored.wafers["unknown"]))

    def text(self) -> bytes:
        """All of them in Prometheus' format."""
        return generate_latest(self._collected)


def table() -> str:
    """All metrics as the table that docs/service.md shows: name, type, labels, meaning."""
    kinds = [*((one, "counter") for one in COUNTERS), (DURATION, "histogram"), *((one, "gauge") for one in FAMILIES)]
    rows = (f"| `{name}` | {kind} | {', '.join(labels)} | {told} |" for (name, told, labels), kind in kinds)
    return "\n".join(["| metric | type | labels | what |", "|---|---|---|---|", *rows, ""])


class _LookedUp(Collector):
    """Gauges of what is kept elsewhere."""

    def __init__(
        self,
        workspace: Workspace,
        champion: Champion,
        waiting: Callable[[], int],
        registry: "Callable[[], Registry]",
        asked_for: Callable[[], Iterable[Job]],
        failures: Counter,
    ) -> None:
        self._workspace, self._champion, self._waiting, self._failures = workspace, champion, waiting, failures
        self._registry, self._asked_for = registry, asked_for
        for what in LOOKED_UP:  # a rate needs a value before the first failure
            failures.labels(what)
        self._lock = threading.Lock()
        self._kept: dict[str, Values] = {}
        self._until = 0.0

    def describe(self) -> Iterable[Metric]:
        """Nothing is looked up to register them."""
        return [GaugeMetricFamily(name, told, labels=labels) for name, told, labels in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """The gauges with what is known of them."""
        with self._lock:
            if time.monotonic() > self._until:
                self._kept = self._look()
                self._until = time.monotonic() + SECONDS_KEPT
            known = {**self._kept, **self._now()}
        for name, told, labels in FAMILIES:
            family = GaugeMetricFamily(name, told, labels=labels)
            for values, value in sorted(known.get(name, {}).items()):
                family.add_metric(values, value)
            yield family

    def _now(self) -> dict[str, Values]:
        served = self._champion.served
        found: dict[str, Values] = {"wafer_scoring_wafers_waiting": {(): self._waiting()}}
        found["wafer_champion_loads"] = {(outcome,): count for outcome, count in self._champion.loads.items()}
        if served is None:
            return found
        age = (datetime.now(UTC) - datetime.fromisoformat(served.created)).total_seconds()
        return found | {
            "wafer_champion_version": {(): served.version},
            "wafer_champion_age_seconds": {(): age},
            "wafer_champion_alarm_rate_ceiling": {(): served.bundle.classifier.policy_.alarm_rate_ceiling},
        }

    def _look(self) -> dict[str, Values]:
        found: dict[str, Values] = {}
        looks = self._runs, self._quarantine, self._newest_batch, self._refusals, self._waiting_runs
        for what, look in zip(LOOKED_UP, looks, strict=True):
            try:
                found |= look()
            except Exception as error:  # noqa: BLE001 - the other metrics are still told
                self._failures.labels(what).inc()
                log.warning("no metrics of %s: %s", what, shown_message(f"{type(error).__name__}: {error}", 200))
        return found

    def _runs(self) -> dict[str, Values]:
        notes = self._workspace.runs.all(RUNS_COUNTED)
        counts: Counts[Labels] = Counts((note["kind"], note["state"]) for note in notes)
        ends = {kind: self._newest_end(kind, notes) for kind in SUCCEED}
        ended: Values = {(kind,): datetime.fromisoformat(end).timestamp() for kind, end in ends.items() if end}
        return {"wafer_runs": dict(counts), "wafer_success_timestamp_seconds": ended}

    def _newest_end(self, kind: str, notes: list[dict[str, Any]]) -> str | None:
        """When the newest run of a kind that finished did so; one that found nothing to do has done what it should."""
        ends: list[str] = [note["ended"] for note in notes if (note["kind"], note["state"]) == (kind, "finished")]
        if ends:
            return max(ends)
        newest = self._workspace.runs.latest(kind)  # others may have come since, more than are counted
        return None if newest is None else newest.outcome()["ended"]

    def _quarantine(self) -> dict[str, Values]:
        from wafer.intake.quarantine import Quarantine

        counts: Counts[Labels] = Counts()
        sizes: Values = {}
        for kind in KINDS:
            entries = list(Quarantine(self._workspace.storage.place(f"quarantine/{kind}")).entries())
            sizes[(kind,)] = len(entries)
            for entry in entries:
                counts.update((kind, rule) for rule in {reason["rule"] for reason in entry.verdict["reasons"]})
        return {"wafer_quarantine_size": sizes, "wafer_quarantined_files": dict(counts)}

    def _newest_batch(self) -> dict[str, Values]:
        from wafer.scoring.timeline import INDEX, newest_timeline

        runs = self._workspace.runs
        run = runs.latest("prediction")
        index = [] if run is None else self._workspace.storage.read_json(run.key(INDEX))
        if not index:
            return {}
        told = {name: index[-1].get(key) for name, key in IN_INDEX.items()}
        found: dict[str, Values] = {name: {(): float(value)} for name, value in told.items() if value is not None}
        judged = [one["drifted"] for one in newest_timeline(runs) if one["drifted"] is not None][-RECENT_BATCHES:]
        drifted = sum(judged)
        return found | {"wafer_recent_batches": {("true",): drifted, ("false",): len(judged) - drifted}}

    def _refusals(self) -> dict[str, Values]:
        from wafer.registry.due import refused_in_a_row

        return {"wafer_refused_versions": {(): refused_in_a_row(self._registry())}}

    def _waiting_runs(self) -> dict[str, Values]:
        waiting = [job for job in self._asked_for() if job.state == "starting"]
        counts: Values = {(kind,): 0 for kind in get_args(Kind)}
        for job in waiting:
            counts[(job.kind,)] += 1
        now = datetime.now(UTC)
        longest = max(((now - datetime.fromisoformat(job.asked)).total_seconds() for job in waiting), default=0.0)
        return {"wafer_waiting_runs": counts, "wafer_waiting_run_seconds": {(): longest}}
