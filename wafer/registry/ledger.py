"""The ledger: every decision ever taken, in one order that all processes agree on.

A line is a param of one run that holds nothing else, under its number. MLflow takes a param of a run once and refuses
another value, on SQLite as on a server, so a number can be taken by one process only: whoever decided on an older
ledger is refused and decides anew. No lock is held, so none can be left behind by a process that was killed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlflow.exceptions import MlflowException

from wafer.errors import RegistryError
from wafer.registry.connection import translated
from wafer.registry.records import Decision
from wafer.registry.runs import PARAM_LENGTH
from wafer.registry.trainings import RunLog

LEDGER = "ledger"
"""Kind and name of the run that holds the lines; the tag and the param that name it."""
TEXT_LENGTHS = (500, 200, 60)
"""What texts are cut to, one after the other, where a line would be too long; its numbers are kept in any case."""
REASON_LENGTH = 2000


@dataclass(frozen=True)
class InUse:
    """What the ledger's lines come to: the champion and the one before it."""

    champion: int | None = None
    previous: int | None = None

    @classmethod
    def after(cls, lines: Sequence[Decision]) -> "InUse":
        """After these lines, oldest first."""
        promotions = [line for line in lines if line.promoted]
        return cls(promotions[-1].challenger, promotions[-1].champion) if promotions else cls()


class LedgerStore(RunLog):
    """Reads and appends decisions; see `wafer.registry.versions.VersionStore` for its arguments."""

    _ledger_run: str | None = None

    def ledger(self) -> list[Decision]:
        """Every decision ever taken, oldest first."""
        run_id = self._find_ledger()
        if run_id is None:
            return []
        with translated(self.tracking_uri, "read its ledger"):
            params = self._client.get_run(run_id).data.params
        return [Decision.from_dict(json.loads(params[number])) for number in sorted(params)]

    def _append(self, line: Decision, number: int) -> bool:
        """Write `line` as line `number`, counted from 1; False where another process has just taken that number."""
        value = _as_text(line)
        with translated(self.tracking_uri, "write its ledger"):
            run_id = self._find_ledger() or self._start_ledger()
            return self._write_once(run_id, f"{number:08d}", value)

    def _write_once(self, run_id: str, key: str, value: str) -> bool:
        try:
            self._client.log_param(run_id, key, value)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if key not in self._client.get_run(run_id).data.params:
                raise
            return False
        return True

    def _find_ledger(self) -> str | None:
        if self._ledger_run is None:
            model = self.registered_model()
            self._ledger_run = None if model is None else model.tags.get(LEDGER)
        return self._ledger_run

    def _start_ledger(self) -> str:
        """The id of the ledger's run, the same for all processes: the first version's run names it once and for all."""
        first = self.versions()[0]
        run = self._client.create_run(self._experiment(), run_name=LEDGER, tags={"kind": LEDGER})
        self._client.set_terminated(run.info.run_id)
        if not self._write_once(first.run_id, LEDGER, run.info.run_id):
            self._client.delete_run(run.info.run_id)
        self._ledger_run = str(self._client.get_run(first.run_id).data.params[LEDGER])
        self._client.set_registered_model_tag(self.name, LEDGER, self._ledger_run)
        return self._ledger_run


def _as_text(line: Decision) -> str:
    """The line as JSON that MLflow keeps whole, with all its numbers; texts that are too long end with `…`.

    Raises:
        RegistryError: even without the texts it is too long.
    """
    shorter = [_with_short_texts(line, length) for length in TEXT_LENGTHS]
    last = replace(shorter[-1], reason=_cut(line.reason, REASON_LENGTH))
    for each in (line, *shorter, last):
        text = json.dumps(each.as_dict(), ensure_ascii=False)
        if len(text) <= PARAM_LENGTH:
            return text
    raise RegistryError(
        f"the decision on version {line.challenger} does not fit into the ledger: "
        f"a line may have {PARAM_LENGTH:,} characters, got {len(text):,}"
    )


def _with_short_texts(line: Decision, length: int) -> Decision:
    """The line with the texts of its checks and of its evidence cut; the reason, which repeats them, stays."""
    comparison = line.comparison
    if comparison is not None:
        comparison = replace(comparison, evidence_text=_cut(comparison.evidence_text, length))
    checks = tuple(replace(check, text=_cut(check.text, length)) for check in line.checks)
    return replace(line, checks=checks, comparison=comparison)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
