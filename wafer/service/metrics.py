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

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wafer.service.champion import Champion
from wafer.service.scorer import Scored
from wafer.shown import shown_message
from wafer.workspace import Workspace

SECONDS_KEPT = 30.0
RUNS_COUNTED = 200
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
UNKNOWN_ROUTE = "none"

log = logging.getLogger("wafer")
KINDS = ("training", "prediction")
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
    ("wafer_runs", f"Runs of the storage by kind and state, of the newest {RUNS_COUNTED}", ("kind", "state")),
    ("wafer_quarantined_files", "Files in the quarantine by the rule that they break", ("kind", "rule")),
    ("wafer_batch_drift_score", "Drift score of the newest batch of the newest prediction", ()),
    ("wafer_batch_drift_threshold", "Score from which that batch counts as drifted", ()),
    ("wafer_batch_t2_wafers", "Wafers of that batch beyond the limit of T2", ()),
    ("wafer_batch_spe_wafers", "Wafers of that batch beyond the limit of SPE", ()),
)
"""What is looked up: name, meaning and labels."""

Values = dict[Labels, float]


class Metrics:
    """The metrics of one application."""

    def __init__(self, workspace: Workspace, champion: Champion, waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._counters = {name: Counter(name, told, labels, registry=registry) for name, told, labels in COUNTERS}
        name, told, labels = DURATION
        self._seconds = Histogram(name, told, labels, buckets=LATENCIES, registry=registry)
        registry.register(_LookedUp(workspace, champion, waiting, self._counters["wafer_metrics_failures_total"]))

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
        return generate_latest(self._registry)


def table() -> str:
    """All metrics as the table that docs/service.md shows: name, type, labels, meaning."""
    kinds = [*((one, "counter") for one in COUNTERS), (DURATION, "histogram"), *((one, "gauge") for one in FAMILIES)]
    rows = (f"| `{name}` | {kind} | {', '.join(labels)} | {told} |" for (name, told, labels), kind in kinds)
    return "\n".join(["| metric | type | labels | what |", "|---|---|---|---|", *rows, ""])


class _LookedUp(Collector):
    """Gauges of what is kept elsewhere."""

    def __init__(self, workspace: Workspace, champion: Champion, waiting: Callable[[], int], failures: Counter) -> None:
        self._workspace, self._champion, self._waiting, self._failures = workspace, champion, waiting, failures
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
        return found | {"wafer_champion_version": {(): served.version}, "wafer_champion_age_seconds": {(): age}}

    def _look(self) -> dict[str, Values]:
        found: dict[str, Values] = {}
        for what, look in ("runs", self._runs), ("quarantine", self._quarantine), ("predictions", self._newest_batch):
            try:
                found |= look()
            except Exception as error:  # noqa: BLE001 - the other metrics are still told
                self._failures.labels(what).inc()
                log.warning("no metrics of %s: %s", what, shown_message(f"{type(error).__name__}: {error}", 200))
        return found

    def _runs(self) -> dict[str, Values]:
        counts: Counts[Labels] = Counts(
            (note["kind"], note["state"]) for note in self._workspace.runs.all(RUNS_COUNTED)
        )
        return {"wafer_runs": dict(counts)}

    def _quarantine(self) -> dict[str, Values]:
        from wafer.intake.quarantine import Quarantine

        counts: Counts[Labels] = Counts()
        for kind in KINDS:
            for entry in Quarantine(self._workspace.storage.place(f"quarantine/{kind}")).entries():
                counts.update((kind, rule) for rule in {reason["rule"] for reason in entry.verdict["reasons"]})
        return {"wafer_quarantined_files": dict(counts)}

    def _newest_batch(self) -> dict[str, Values]:
        from wafer.scoring.timeline import INDEX

        run = self._workspace.runs.latest("prediction")
        index = [] if run is None else self._workspace.storage.read_json(run.key(INDEX))
        if not index:
            return {}
        names = {"drift_score": "score", "drift_threshold": "threshold", "t2_wafers": "t2", "spe_wafers": "spe"}
        told = {f"wafer_batch_{name}": index[-1].get(key) for name, key in names.items()}
        return {name: {(): float(value)} for name, value in told.items() if value is not None}
