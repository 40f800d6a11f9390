"""The list of runs that people open: `reports/index.html`, newest first, with what came of each."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from wafer.records import Decided, Idle, Ingested, Labelled, Predicted, Registered
from wafer.reporting.look import look
from wafer.runs import Run, Runs

NEWEST = 200  # runs in the list
PLACE = "reports/index.html"
HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Runs</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)
STYLE = """
body { max-width: 72rem; padding: 1.5rem 2rem; }
table { width: 100%; font-size: 1rem; }
th, td { padding: .4rem .8rem .4rem 0; overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
.failed { color: var(--bad); }
.running, .cancelled { color: var(--faint); }
"""


def write_index(runs: Runs) -> str:
    """Write the list anew, from what is in the storage now; its key."""
    rows = "".join(_row(runs.get(str(note["id"])), note) for note in runs.all(NEWEST))
    table = f"<table><tr><th>started (UTC)<th>what<th>what came of it<th>pages</tr>{rows}</table>"
    head = f"{HEAD}<style>{look()}{STYLE}</style>"
    runs.storage.write_text(PLACE, f"{head}<h1>Runs</h1>{table if rows else '<p>No run yet.</p>'}</html>\n")
    return PLACE


def _row(run: Run, note: Mapping[str, Any]) -> str:
    started, state = str(note["started"])[:16].replace("T", " "), str(note["state"])
    links = ", ".join(f'<a href="../{run.key(name)}">{escape(name.removesuffix(".html"))}</a>' for name in pages(run))
    told = {"failed": str(note["error"]), "cancelled": "cancelled", "running": "not finished"}.get(
        state, "; ".join(what_came_of(run))
    )
    return f'<tr><td>{started}<td>{escape(run.kind)}<td class="{state}">{escape(told)}<td>{links}</tr>'


def pages(run: Run) -> list[str]:
    """The names of a run's pages."""
    return sorted(p.name for p in run.place("").iterdir() if p.name.endswith(".html"))


def what_came_of(run: Run) -> Iterator[str]:
    """A few words for each step of a run that says something."""
    for kind in ("training", "prediction"):
        if run.has(Ingested, f"ingest-{kind}"):
            done = run.read(Ingested, f"ingest-{kind}")
            unread = f", {done.unread} unread" if done.unread else ""
            yield f"{done.accepted} of {done.files} files accepted, {done.quarantined} quarantined{unread}"
    if run.has(Idle):
        yield run.read(Idle).told
    if run.has(Labelled):
        yield run.read(Labelled).told
    if run.has(Registered):
        version = run.read(Registered).version
        verdict = "" if not run.has(Decided) else "promoted" if run.read(Decided).promoted else "refused"
        yield f"version {version} {verdict}".rstrip()
    if run.has(Predicted):
        scored = run.read(Predicted)
        yield f"{scored.wafers:,} wafers scored by version {scored.model_version}, {scored.alarms} alarms"
