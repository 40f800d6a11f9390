"""The list of runs that people open: `reports/index.html`, newest first, with what came of each.

What it says of a run that has ended is kept in `reports/index.json`, so that it is read once, however many there are.
Of two runs that end at once, the one whose words are lost there is read again by the next.
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from wafer.errors import StorageError
from wafer.records import Decided, Idle, Ingested, Labelled, Predicted, Registered
from wafer.reporting.look import look
from wafer.runs import RUNS, Run, Runs

NEWEST = 200  # runs in the list
PLACE, KEPT = "reports/index.html", "reports/index.json"
NAMES = ("started", "kind", "state", "told", "pages")
"""What is kept of a run."""
HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Runs</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)
STYLE = """
body { max-width: 72rem; padding: 1.5rem 2rem; }
table { width: 100%; font-size: 1rem; }
th, td { padding: .4rem .8rem .4rem 0; overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
th:nth-child(2), td:nth-child(2) { overflow-wrap: normal; }
.failed { color: var(--bad); }
.running, .cancelled { color: var(--faint); }
"""


def write_index(runs: Runs) -> str:
    """Write the list anew, from what is in the storage now; its key."""
    names = runs.names()[:NEWEST]
    kept = _kept(runs)
    rows = {name: kept[name] if name in kept else _seen(runs.get(name)) for name in names}
    runs.storage.write_json(KEPT, {name: row for name, row in rows.items() if row["state"] != "running"})
    shown = "".join(_row(f"{RUNS}/{name}", row) for name, row in rows.items())
    table = f"<table><tr><th>started (UTC)<th>what<th>what came of it<th>pages</tr>{shown}</table>"
    head = f"{HEAD}<style>{look()}{STYLE}</style>"
    runs.storage.write_text(PLACE, f"{head}<h1>Runs</h1>{table if rows else '<p>No run yet.</p>'}</html>\n")
    return PLACE


def _kept(runs: Runs) -> dict[str, dict[str, Any]]:
    """What the last list said of the runs that had ended; nothing where there is none, or that of another release."""
    try:
        found = runs.storage.read_json(KEPT)
    except StorageError:
        return {}
    rows = found.items() if isinstance(found, dict) else ()
    return {name: row for name, row in rows if isinstance(row, dict) and row.keys() == {*NAMES}}


def _seen(run: Run) -> dict[str, Any]:
    note = run.outcome()
    told = {"failed": str(note["error"]), "cancelled": "cancelled", "running": "not finished"}.get(note["state"])
    try:
        told = told or "; ".join(what_came_of(run))
    except StorageError as error:  # the records of an earlier release
        told = str(error)
    return dict(zip(NAMES, (note["started"], run.kind, note["state"], told, pages(run)), strict=True))


def _row(key: str, row: Mapping[str, Any]) -> str:
    started = str(row["started"])[:16].replace("T", " ")
    links = ", ".join(f'<a href="../{key}/{name}">{escape(name.removesuffix(".html"))}</a>' for name in row["pages"])
    return f'<tr><td>{started}<td>{escape(row["kind"])}<td class="{row["state"]}">{escape(row["told"])}<td>{links}</tr>'


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
