"""Write the Grafana dashboard: `.venv-deploy/bin/python deploy/monitoring/dashboard.py` makes dashboard.json anew.

Its panels go from what to do now over batches, runs and the service to the machines. Several services on one storage
tell the same of it, so that what the storage knows is shown once.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode, VizOrientation
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PLACE = Path(__file__).with_name("dashboard.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
SCORING = 'route=~"/v1/score|/invocations|/v2/models/.+/infer"'
PROBES = "/readyz|/ping|/health|/v2/.*ready"
FIRING = 'ALERTS{alertname=~"Wafer.+", alertstate="firing"}'
DAY = 86_400.0
Queries = dict[str, str]
"""By their legends."""
Colors = tuple[tuple[float | None, str], ...]


def filled(panel: Any, title: str, why: str, width: int, height: int, queries: Queries, unit: str = "short") -> Any:
    """The panel on these queries; `why` says what to see in it. All but lines over time ask for the present alone."""
    panel = panel.title(title).description(why).span(width).height(height).datasource(SOURCE).unit(unit)
    for letter, (legend, expression) in zip("ABCDEF", queries.items(), strict=False):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter).datasource(SOURCE)
        if isinstance(panel, table.Panel):
            query = query.format(PromQueryFormat.TABLE)
        panel = panel.with_target(query.range() if isinstance(panel, timeseries.Panel) else query.instant())
    return panel


def number(title: str, why: str, queries: Queries, unit: str = "short", colors: Colors = ((None, "green"),)) -> Any:
    """Numbers of now, coloured from these values on."""
    steps = [Threshold(value=value, color=color) for value, color in colors]
    limits = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    return filled(stat.Panel(), title, why, 3, 8, queries, unit).color_mode(BigValueColorMode.VALUE).thresholds(limits)


def lines(title: str, why: str, queries: Queries, unit: str = "short") -> Any:
    """Lines over time, from 0 where nothing is below it."""
    legend = common.VizLegendOptions().show_legend(True).calcs(["lastNotNull", "max"])
    panel = filled(timeseries.Panel(), title, why, 8, 8, queries, unit)
    return panel.legend(legend).fill_opacity(8).line_width(2).axis_soft_min(0)


def bars(title: str, why: str, queries: Queries) -> Any:
    """A bar for each value of now."""
    return filled(bargauge.Panel(), title, why, 8, 8, queries).orientation(VizOrientation.HORIZONTAL).min(0)


def now() -> Iterator[Any]:
    """What to do, and whether what should be there is there."""
    on = f"sort_desc(max by (alertname, severity, kind, what, of, chart) ({FIRING}))"
    why = (
        "Alerts that are on; the table of docs/operations.md#alerts says what each means and what to do. None is good."
    )
    yield filled(table.Panel(), "What to do now", why, 12, 8, {"": on}).no_value("Nothing.").show_header(True)
    version, age = {"": "max(wafer_champion_version)"}, {"": "max(wafer_champion_age_seconds)"}
    yield number("Version in use", "That scores at this moment.", version)
    why = "Since the version in use was trained: the alert comes at 30 days."
    yield number("Its age", why, age, "s", ((None, "green"), (14 * DAY, "yellow"), (30 * DAY, "red")))
    why = "Trained versions that the gate refused since it last let one pass: the alert comes at two."
    refused = {"": "max(wafer_refused_versions)"}
    yield number("Refused in a row", why, refused, colors=((None, "green"), (1, "yellow"), (2, "red")))
    why = "1: it answers a scrape. The service, Prefect's server, the machines."
    answers = {"{{job}} {{instance}}": 'up{job!="prometheus"}'}
    yield number("Answers", why, answers, colors=((None, "red"), (1, "green")))


def batches() -> Iterator[Any]:
    """What was said of the newest batches."""
    why = "Above the limit a batch counts as drifted; one in twenty does by chance."
    score = {"score of the newest batch": "max(wafer_batch_drift_score)", "limit": "max(wafer_batch_drift_threshold)"}
    yield lines("Drift", why, score, "none")
    why = "Each limit is exceeded by 1 % of good wafers; beyond a tenth of the batch the process is out of control."
    share = {
        "T²": "max(wafer_batch_t2_wafers / wafer_batch_wafers)",
        "SPE": "max(wafer_batch_spe_wafers / wafer_batch_wafers)",
        "alert": "vector(0.1)",
    }
    yield lines("Out of control, share of the newest batch", why, share, "percentunit")
    why = (
        "Alarms above the budget that chance does not explain, or many unknown wafers: look at the prediction's report."
    )
    rate = {
        "alarms": "max(wafer_batch_alarms / wafer_batch_wafers)",
        "unknown": "max(wafer_batch_unknown_wafers / wafer_batch_wafers)",
        "budget": "max(wafer_champion_alarm_rate_ceiling)",
    }
    yield lines("Alarms and budget, share of the newest batch", why, rate, "percentunit")
    why = "Of the newest ten; from three on the process has moved, and `wafer retrain` trains where labels have come."
    yield bars("Batches that drifted", why, {"drifted: {{drifted}}": "max by (drifted) (wafer_recent_batches)"})
    why = "Files that wait there; `wafer quarantine list` says what each has broken."
    broken = "max by (kind, rule) (wafer_quarantined_files) or max by (kind) (wafer_quarantine_size == 0)"
    yield bars("Quarantine by rule", why, {"{{kind}}: {{rule}}": broken})
    why = "Files that came through the service, and what was said of them, since the service began."
    yield lines(
        "Delivered files", why, {"{{kind}} {{verdict}}": "sum by (kind, verdict) (wafer_delivered_batches_total)"}
    )


def runs() -> Iterator[Any]:
    """Whether the work goes on."""
    why = "Since a run of this kind last finished: the alert comes when no prediction has for a day."
    since = "time() - max by (kind) (wafer_success_timestamp_seconds)"
    yield lines("Since the last success", why, {"{{kind}}": since}, "s")
    why = "Of the newest 200 runs of the storage."
    yield bars("Runs by kind and state", why, {"{{kind}} {{state}}": "max by (kind, state) (wafer_runs)"})
    why = "Runs that were asked for and that nobody has begun, and for how long the oldest has waited."
    waiting = {"{{kind}}": "max by (kind) (wafer_waiting_runs)", "seconds": "max(wafer_waiting_run_seconds)"}
    yield lines("Runs that wait", why, waiting)


def service() -> Iterator[Any]:
    """How requests fare."""
    count = "rate(wafer_http_requests_total[$__rate_interval])"
    yield lines("Requests a second", "By route.", {"{{route}}": f"sum by (route) ({count})"}, "reqps")
    why = "5xx: the service's own, without readiness; the alert comes at 2 %. 4xx: what callers did wrong."
    failed = f'rate(wafer_http_requests_total{{status=~"5..", route!~"{PROBES}"}}[$__rate_interval])'
    refused = 'rate(wafer_http_requests_total{status=~"4.."}[$__rate_interval])'
    errors = {name: f"(sum({some}) or vector(0)) / sum({count})" for name, some in (("5xx", failed), ("4xx", refused))}
    yield lines("Errors, share of requests", why, errors, "percentunit")
    why = "Of scoring requests; the alert comes where one in twenty takes longer than a second."
    took = f"sum by (le) (rate(wafer_http_request_duration_seconds_bucket{{{SCORING}}}[$__rate_interval]))"
    shares = {f"{share} %": f"histogram_quantile({share / 100}, {took})" for share in (50, 95, 99)}
    yield lines("How long scoring takes", why, shares, "s")
    rate = {"{{protocol}}": "sum by (protocol) (rate(wafer_scored_wafers_total[$__rate_interval]))"}
    yield lines("Wafers scored a second by requests", "By protocol.", rate, "short")
    why = "Of the wafers that requests had scored within a day."
    scored = "sum(increase(wafer_scored_wafers_total[1d]))"
    kept = {
        "alarms": f"sum(increase(wafer_alarms_total[1d])) / {scored}",
        "unknown": f"sum(increase(wafer_unknown_wafers_total[1d])) / {scored}",
        "budget": "max(wafer_champion_alarm_rate_ceiling)",
    }
    yield lines("Alarms and budget, share of requested wafers", why, kept, "percentunit")
    why = "Wafers that wait to be scored (refused at 50,000), look-ups for a scrape that failed, and refused loads."
    waiting = {
        "wafers that wait": "max(wafer_scoring_wafers_waiting)",
        "failed look-ups": "sum(increase(wafer_metrics_failures_total[1h]))",
        "loads refused": 'sum(wafer_champion_loads{outcome="refused"})',
    }
    yield lines("Queue and failures", why, waiting)


def machines() -> Iterator[Any]:
    """What node exporter and Prefect's server tell."""
    idle = 'rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval])'
    used = "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"
    load = {"processors {{instance}}": f"1 - avg by (instance) ({idle})", "memory {{instance}}": used}
    yield lines("Processors and memory in use", "By node exporter.", load, "percentunit")
    free = 'min by (instance) (node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs|squashfs"})'
    why = "On the fullest file system of each machine; a run needs 200 MB to start."
    yield lines("Free disk", why, {"{{instance}}": free}, "bytes")
    why = "Where PREFECT_SERVER_METRICS_ENABLED is true."
    memory = {"{{instance}}": 'process_resident_memory_bytes{job="prefect"}'}
    yield lines("Memory of Prefect's server", why, memory, "bytes")


def made() -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("wafer")
        .uid("wafer")
        .description("What to do now, how the process and the model fare, and whether the work goes on.")
        .tags(["wafer"])
        .time("now-24h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    number_of_panel = 0
    rows = {"Now": now, "Batches": batches, "Runs": runs, "Service": service, "Machines": machines}
    for title, panels in rows.items():
        number_of_panel += 1
        board = board.with_row(dashboard.Row(title).id(number_of_panel))
        for panel in panels():
            number_of_panel += 1
            board = board.with_panel(panel.id(number_of_panel))
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PLACE.write_text(made())
