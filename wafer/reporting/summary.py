"""The short summary of runs, for a terminal and Prefect: what came in, how good the model is, what it said, pages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wafer.records import Decided, Evaluated, Ingested, Predicted
from wafer.reporting.index import PLACE, pages
from wafer.runs import Run
from wafer.shown import counted, shown_message, shown_text
from wafer.workspace import Workspace

SUMMARISED = ("shuffled", "forward")
MOST_VERDICTS = 500  # files in a table of Prefect's, those turned away first; the run's page has all


def summarise_runs(workspace: Workspace, runs: Sequence[Run]) -> str:
    """What came of each of the `runs`, in some lines of plain text that end with their pages."""
    lines = [line for run in runs for line in _of_run(run)]
    made = [f"  {run.place(page)}" for run in runs for page in pages(run)]
    return "\n".join([*lines, "", "Reports", *made, f"  all runs: {workspace.storage.place(PLACE)}"])


def summarise_as_markdown(workspace: Workspace, run: Run, notes: Sequence[str]) -> str:
    """What came of a run, `notes` about it, and links to its pages."""
    told = "\n".join(_of_run(run)).strip("\n").replace("`", "'")
    parts = [f"## {run.id}", *([f"```text\n{told}\n```"] if told else []), *map(shown_message, notes)]
    links = [f"- [{page.removesuffix('.html')}]({workspace.link(run.key(page))})" for page in pages(run)]
    return "\n\n".join([*parts, "\n".join(links)])


def verdict_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each delivered file: its verdict, wafers and first reason."""
    batches = sorted(report["batches"], key=lambda batch: batch["verdict"] == "accepted")[:MOST_VERDICTS]
    return [
        {
            "file": shown_text(batch["file"]),
            "verdict": "known already" if batch["known"] else batch["verdict"],
            "wafers": batch["wafers"],
            "why": shown_text("; ".join(reason["message"] for reason in batch["reasons"][:1])),
        }
        for batch in batches
    ]


def _of_run(run: Run) -> Iterator[str]:
    for kind in ("training", "prediction"):
        if run.has(Ingested, f"ingest-{kind}"):
            yield from ["", "Delivery", *_delivery(run.storage.read_json(run.read(Ingested, f"ingest-{kind}").report))]
    if run.has(Evaluated):
        metrics = run.storage.read_json(run.read(Evaluated).metrics)
        told = f"{metrics['wafers']:,} wafers, {metrics['faulty']} faulty, clusters: {metrics['clusters']}"
        yield from ["", f"Model (on {told})"]
        yield from (_protocol(name, metrics) for name in SUMMARISED)
        if "permuted" in metrics:
            yield f"  permuted   AUC {metrics['permuted']['auc']:.3f}, should be near 0.5"
    if run.has(Decided):
        yield f"  {run.read(Decided).reason}"
    if run.has(Predicted):
        done = run.read(Predicted)
        share = f" ({100 * done.alarms / done.wafers:.1f} %)" if done.wafers else ""
        batches, wafers = counted(len(done.files), "batch", "batches"), counted(done.wafers, "wafer")
        yield from ["", "Predictions", f"  {batches}, {wafers}, {counted(done.alarms, 'alarm')}{share}"]
        yield f"  a CSV a batch: {run.storage.place(done.folder)}"


def _delivery(report: dict[str, Any]) -> Iterator[str]:
    known = f", {report['known_batches']} of them known before" if report["known_batches"] else ""
    repeats = f", {report['duplicates']:,} seen in another file" if report["duplicates"] else ""
    unread = f", {report['unread']} could not be read" if report["unread"] else ""
    yield (
        f"  {report['kind']:<10} {report['files']:>4} files: {report['accepted']} accepted{known} "
        f"({report['wafers']:,} wafers{repeats}), {report['quarantined']} quarantined{unread}"
    )
    if report["left_out"]:
        yield f"             {report['left_out']}"
    for batch in report["batches"]:
        if batch["verdict"] == "accepted" and not batch["wafers"]:
            yield f"             {shown_text(batch['file'])}: no wafers to score, since all contradict stored ones"
        if batch["verdict"] != "accepted":
            told = "; ".join(dict.fromkeys(reason["message"] for reason in batch["reasons"][:3]))
            yield f"             {shown_text(batch['file'])}: {told}"


def _protocol(name: str, metrics: dict[str, Any]) -> str:
    values = metrics.get(name)
    if values is None:
        return f"  {name:<10} not measured: {metrics.get('left_out', {}).get(name, 'too few wafers')}"
    plain = metrics.get("plain", {}).get(name)
    beside = "" if plain is None else f", a plain forest {plain['auc']:.3f}"
    return (
        f"  {name:<10} AUC {values['auc']:.3f} [{values['auc_low']:.3f}, {values['auc_high']:.3f}]{beside}, "
        f"alarm rate {100 * values['alarm_rate']:.1f} %"
    )
