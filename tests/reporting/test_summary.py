from pathlib import Path

from wafer.records import Ingested
from wafer.reporting.summary import summarise_as_markdown, verdict_rows
from wafer.settings import Settings
from wafer.workspace import Workspace


def batch(file: str, verdict: str, wafers: int, *reasons: str, known: bool = False) -> dict[str, object]:
    told = [{"message": reason} for reason in reasons]
    return {"file": file, "verdict": verdict, "wafers": wafers, "known": known, "reasons": told}


def test_files_turned_away_come_first_in_the_table_of_verdicts() -> None:
    """A row a file, with its first reason; what a name holds is escaped."""
    batches = [batch("a.csv", "accepted", 40), batch("b.csv", "accepted", 40, known=True)]
    rows = verdict_rows({"batches": [*batches, batch("c\x1b.csv", "quarantined", 0, "no label", "no id")]})
    assert rows == [
        {"file": "c\\x1b.csv", "verdict": "quarantined", "wafers": 0, "why": "no label"},
        {"file": "a.csv", "verdict": "accepted", "wafers": 40, "why": ""},
        {"file": "b.csv", "verdict": "known already", "wafers": 40, "why": ""},
    ]


def test_a_summary_links_the_pages_of_its_run(tmp_path: Path) -> None:
    """On the server of the pages where there is one, else where they lie; nothing ends the block of text early."""
    counts = {"kind": "training", "files": 1, "accepted": 0, "known_batches": 0, "duplicates": 0, "wafers": 0}
    refused = batch("```.csv", "quarantined", 0, "no label")
    report = {**counts, "quarantined": 1, "unread": 0, "left_out": "", "batches": [refused]}
    with Workspace(Settings.read(storage_url=str(tmp_path))) as workspace:
        with workspace.runs.started("ingest-training") as run:
            run.storage.write_json(run.key("report.json"), report)
            run.storage.write_text(run.key("ingest-training.html"), "<html>")
            run.write(Ingested(run.key("report.json"), None, 1, 0, 1, 0, 0), "ingest-training")
        told = summarise_as_markdown(workspace, run, ["no file was accepted"])
    assert (
        told
        == f"""## {run.id}

```text
Delivery
  training      1 files: 0 accepted (0 wafers), 1 quarantined
             '''.csv: no label
```

no file was accepted

- [ingest-training](file://{tmp_path}/runs/{run.id}/ingest-training.html)"""
    )
    with Workspace(Settings.read(storage_url=str(tmp_path), pages_url="https://fab.example/pages/")) as workspace:
        told = summarise_as_markdown(workspace, run, [])
    assert told.endswith(f"(https://fab.example/pages/runs/{run.id}/ingest-training.html)")
