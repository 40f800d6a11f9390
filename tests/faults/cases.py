"""The faults that are tested: what breaks, when, in which flow, what a person is told, and what to do.

`make faults` breaks it all, records in `outcomes.json` what was told, and writes the table of the manual from that.
"""

import json
import re
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from tests.conftest import REPOSITORY
from tests.faults.proxy import SAID

FlowName = Literal["ingest", "train", "predict"]
FLOWS: tuple[FlowName, ...] = ("ingest", "train", "predict")
DOCS = REPOSITORY / "docs" / "operations.md"
OUTCOMES = Path(__file__).with_name("outcomes.json")
BEGIN, END = "<!-- faults: make faults -->\n", "<!-- faults: end -->\n"
POINTS = {
    "wafers": ("MongoDB", rb"insert\0.{4}wafers"),
    "ledger": ("MongoDB", rb"insert\0.{4}batches"),
    "reading": ("MongoDB", rb"find\0.{4}wafers"),
    "predictions": ("MongoDB", rb"update\0.{4}predictions"),
    "delivery": ("S3", rb"^GET \S+/incoming/"),
    "report": ("S3", rb"^PUT \S+/ingest-training\.json"),
    "model": ("S3", rb"^PUT \S+/data/models/"),
    "table": ("S3", rb"^PUT \S+/predictions/"),
    "pointer": ("S3", rb"^PUT \S+/latest/"),
    "conditional put": ("S3", rb"(?i)^PUT .*\r\nif-(none-)?match:"),
    "registration": ("MLflow", rb"^POST \S+/model-versions/create"),
    "promotion": ("MLflow", rb"^POST \S+/registered-models/alias.*champion"),
    "run": ("MLflow", rb"^POST \S+/runs/create"),
    **{f"step {name}": ("S3", rb"^PUT \S+/records/%b" % name.encode()) for name in ("snapshot", "fit", "evaluate")},
    **{f"step {name}": ("S3", rb"^PUT \S+/records/%b" % name.encode()) for name in ("register", "gate", "predict")},
    "step ingest": ("S3", rb"^PUT \S+/records/ingest"),
}
"""Requests in the middle of a flow: to which service, and what they look like."""
MIDDLE: dict[str, dict[FlowName, str]] = {
    "MongoDB": {"ingest": "wafers", "train": "reading", "predict": "predictions"},
    "S3": {"ingest": "report", "train": "model", "predict": "table"},
    "MLflow": {"train": "promotion", "predict": "run"},
}
VARIABLES = {"MongoDB": "MONGODB_URL", "MLflow": "MLFLOW_TRACKING_URI", "S3": "AWS_ENDPOINT_URL"}
SILENT = "…".join(f"{one} is …: nobody answers at …; start that server" for one in VARIABLES.values())
LOST = {
    "MongoDB": "no MongoDB server answers at …: see that it runs and run this again",
    "S3": "the S3 storage at … (AWS_ENDPOINT_URL) failed: …: see that it runs, and run this again",
    "MLflow": "the model registry at … could not …: ",
}


@dataclass(frozen=True)
class Case:
    """A moment of a flow: before it, after it, or at a request of `POINTS`."""

    flow: FlowName
    moment: str


@dataclass(frozen=True)
class Row:
    """A fault at some moments.

    `how` is a signal to the service, or what the proxy does (`tests.faults.proxy.Fault`); `told` has `…` for what
    differs, and is empty where the flow goes on.
    """

    service: str
    fault: str
    how: dict[str, Any] = field(hash=False)
    told: str
    do: str
    cases: tuple[Case, ...]

    def name(self, case: Case) -> str:
        """The name of a case, by which its outcome is recorded."""
        return f"{self.service} {self.fault}: {case.flow}, {case.moment}"


def middle(service: str, *flows: FlowName) -> tuple[Case, ...]:
    """A request in the middle of each of the flows."""
    return tuple(Case(flow, MIDDLE[service][flow]) for flow in flows)


KILL, STOP = {"signal": "SIGKILL"}, {"signal": "SIGSTOP"}
START, RESTART = "start it, and run the same again", "end and start it, and run the same again"
START_ALL = "start them, and run the same again"
NOTHING = "nothing"
AGAIN = "run the same again; a deployment does so by itself"
ROWS = (
    Row("all services", "killed", KILL, SILENT, START_ALL,
        tuple(Case(flow, "before") for flow in FLOWS)),
    Row("all services", "killed afterwards", KILL, "", START_ALL, tuple(Case(flow, "after") for flow in FLOWS)),
    Row("MongoDB", "killed", KILL, LOST["MongoDB"], START, middle("MongoDB", *FLOWS)),
    Row("MongoDB", "stopped, so that it takes connections and says nothing", STOP, LOST["MongoDB"], RESTART,
        middle("MongoDB", "ingest", "predict")),
    Row("MongoDB", "refuses to write, for want of rights", {"act": "answer", "status": 13},
        "the database at … failed: not authorized …: give the user of MONGODB_URL the role readWrite",
        "give the role `readWrite` on the database, and run the same again", middle("MongoDB", "ingest", "predict")),
    Row("MongoDB", "refuses to write, for want of disk space", {"act": "answer", "status": 14031},
        "the database at … failed: available disk space is low", "free some space there, and run the same again",
        middle("MongoDB", "ingest")),
    Row("MongoDB", "has no primary, as at a failover that does not end", {"act": "answer", "status": 10107},
        LOST["MongoDB"], "wait until there is one, and run the same again", middle("MongoDB", "ingest")),
    Row("MongoDB", "writes, but its answer is lost", {"act": "lose", "times": 1}, "", NOTHING,
        (Case("ingest", "wafers"), Case("ingest", "ledger"), Case("predict", "predictions"))),
    Row("S3", "killed", KILL, LOST["S3"], START, middle("S3", *FLOWS)),
    Row("S3", "stopped, so that it takes connections and says nothing", STOP, LOST["S3"], RESTART,
        middle("S3", "ingest", "predict")),
    Row("S3", "answers 500 for long", {"act": "answer", "status": 500},
        "the S3 storage at … (AWS_ENDPOINT_URL) failed: …InternalError…: see that it runs, and run this again",
        AGAIN, middle("S3", *FLOWS)),
    Row("S3", "answers 503 once", {"act": "answer", "status": 503, "times": 1}, "", NOTHING,
        middle("S3", "predict")),
    Row("S3", "answers 403", {"act": "answer", "status": 403},
        "the S3 storage at … (AWS_ENDPOINT_URL) failed: …AccessDenied…: see that these keys may do that",
        "give the keys [the rights that they need](#security), and run the same again",
        middle("S3", "ingest", "predict")),
    Row("S3", "cuts an answer off within its body", {"act": "halve"}, LOST["S3"], AGAIN,
        (Case("ingest", "delivery"), Case("predict", "delivery"))),
    Row("S3", "takes 0.1 s longer for each answer", {"act": "delay", "seconds": 0.1}, "", NOTHING,
        (Case("ingest", "throughout"),)),
    Row("S3", "answers conditional puts by 409, twice", {"act": "answer", "status": 409, "times": 2}, "", NOTHING,
        (Case("ingest", "conditional put"),)),
    Row("S3", "answers a conditional put by 412", {"act": "answer", "status": 412, "times": 1}, "", NOTHING,
        (Case("ingest", "conditional put"),)),
    Row("S3", "does a conditional put, but its answer is lost", {"act": "lose", "times": 1}, "", NOTHING,
        (Case("ingest", "conditional put"),)),
    Row("MLflow", "killed", KILL, LOST["MLflow"], f"{START}; a training goes on from what it has registered",
        middle("MLflow", "train", "predict")),
    Row("MLflow", "stopped, so that it takes connections and says nothing", STOP, LOST["MLflow"], RESTART,
        middle("MLflow", "train", "predict")),
    Row("MLflow", "answers 500", {"act": "answer", "status": 500}, LOST["MLflow"],
        "see its log, and run the same again", middle("MLflow", "train", "predict")),
    Row("process", "killed in a step", {"kill": True}, "", "run the same again", (
        Case("ingest", "wafers"), Case("ingest", "step ingest"),
        *(Case("train", f"step {name}") for name in ("snapshot", "fit", "evaluate", "register", "gate")),
        Case("train", "registration"), Case("train", "promotion"),
        Case("predict", "wafers"), Case("predict", "predictions"), Case("predict", "step predict"),
        Case("predict", "pointer"))),
    Row("process", "two of them at once, of one file or on the same wafers", {"twice": True}, "", NOTHING,
        tuple(Case(flow, "throughout") for flow in FLOWS)),
    Row("disk", "full", {"full": True}, "WAFER_STORAGE is …: no space is left there",
        "free some space, and run the same again", (Case("ingest", "ledger"),)),
    Row("clock", "a day behind", {"days": -1}, "WAFER_STORAGE is …: its clock is 1,440 minutes ahead of this machine's",
        "set the clock by NTP, and run the same again", (Case("ingest", "throughout"), Case("predict", "throughout"))),
    Row("clock", "a day ahead", {"days": 1}, "WAFER_STORAGE is …: its clock is 1,440 minutes behind this machine's",
        "set the clock by NTP, and run the same again", (Case("ingest", "throughout"), Case("predict", "throughout"))),
)  # fmt: skip


def pattern(told: str) -> str:
    """The regular expression of what is told."""
    return "(?s)" + ".*".join(re.escape(part) for part in told.split("…"))


def general(told: str) -> str:
    """What was told, without what differs from one run to the next."""
    told = re.sub(r'"?\b(?:https?|mongodb|s3)://[^\s,;)"]+?"?(?=[:,;)]*(?:\s|$))|/[^\s:,]*/[^\s:,]+', "…", told)
    told = re.sub(r"127\.0\.0\.1:\d+", "…", told).replace("; the traceback is in …", "").replace(f": {SAID}", "")
    return "; ".join(line.removeprefix("wafer: ") for line in told.splitlines())


def record(name: str, told: str) -> None:
    """Keep what was told in a case that came out as it must."""
    known = json.loads(OUTCOMES.read_text()) if OUTCOMES.exists() else {}
    found = {**known, name: general(told)}
    names = [row.name(case) for row in ROWS for case in row.cases]
    kept = {one: found[one] for one in names if one in found}
    OUTCOMES.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def table() -> str:
    """The table for the manual, in Markdown."""
    outcomes = json.loads(OUTCOMES.read_text())
    outcomes = {name: f"`{told}`" if told else "nothing" for name, told in outcomes.items()}
    lines = ["| what breaks | how | tested in | what was told | what to do |", "|---|---|---|---|---|"]
    for row in ROWS:
        names = {case: case.moment + ("" if row.name(case) in outcomes else " (not run yet)") for case in row.cases}
        flows = groupby(sorted(names, key=lambda case: FLOWS.index(case.flow)), lambda case: case.flow)
        tested = "; ".join(f"{flow}: {', '.join(names[case] for case in cases)}" for flow, cases in flows)
        told = dict.fromkeys(outcomes[row.name(case)] for case in row.cases if row.name(case) in outcomes)
        lines.append(f"| {row.service} | {row.fault} | {tested} | {'; '.join(told) or '–'} | {row.do} |")
    return "\n".join(lines) + "\n"


def documented(text: str) -> str:
    """The manual with its table as it must be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    DOCS.write_text(documented(DOCS.read_text()))
