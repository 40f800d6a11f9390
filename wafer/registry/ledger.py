"""The ledger: every decision ever taken, in one order that all processes agree on.

A line is a param of one run that holds nothing else, under its number. MLflow takes a param of a run once and refuses
another value, on SQLite as on a server, so a number can be taken by one process only: whoever decided on an older
ledger is refused and decides anew. No lock is held, so none can be left behind by a process that was killed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mlflow.exceptions import MlflowException

from wafer.errors import RegistryError
from wafer.registry.connection import translated
from wafer.registry.gate import MINIMUM
from wafer.registry.records import Comparison, Decision
from wafer.registry.runs import PARAM_LENGTH
from wafer.registry.trainings import RunLog

LEDGER = "ledger"
"""Kind and name of the run that holds the lines; the tag and the param that name it."""
BY_RULES = ("gate", "retune")
"""The kinds of decisions that the gate takes."""
TEXT_LENGTHS = (500, 200, 60)
"""What texts are cut to, one after the other, where a line would be too long; its numbers are kept in any case."""
REASON_LENGTH = 2000


@dataclass(frozen=True)
class InUse:
    """What the ledger's lines come to: the champion, and the one that a rollback would go back to."""

    champion: int | None = None
    previous: int | None = None

    @classmethod
    def after(cls, lines: Sequence[Decision], digests: Mapping[int, str]) -> "InUse":
        """After these lines, oldest first.

        Args:
            digests: of the versions' models. The previous champion is the latest that was another model than the
                present one: going back from a model to itself would change nothing.
        """
        promotions = [line for line in lines if line.promoted]
        if not promotions:
            return cls()
        champion = promotions[-1].challenger
        earlier = (line.champion for line in reversed(promotions) if line.champion is not None)
        return cls(champion, next((each for each in earlier if not same_model(each, champion, digests)), None))


@dataclass(frozen=True)
class Reign:
    """A version's time as champion: since and until when (ISO 8601, UTC; None: still), by which decision, and why."""

    version: int
    since: str
    until: str | None
    kind: str
    why: str


def reign_at(lines: Sequence[Decision], moment: datetime) -> Reign | None:
    """Which version was champion at a moment with a time zone, by the ledger's lines; None before the first one."""
    promotions = [line for line in lines if line.promoted]
    before = [number for number, line in enumerate(promotions) if datetime.fromisoformat(line.time) <= moment]
    if not before:
        return None
    found, after = promotions[before[-1]], promotions[before[-1] + 1 :]
    return Reign(found.challenger, found.time, after[0].time if after else None, found.kind, found.reason)


def same_model(one: int, other: int, digests: Mapping[int, str]) -> bool:
    """Whether two versions are the same model, byte for byte; a version that is gone is not known to be."""
    return one == other or (bool(digests.get(one)) and digests.get(one) == digests.get(other))


def promoted_by_gate(lines: Sequence[Decision]) -> dict[int, float | None]:
    """Versions that the gate has promoted and that nobody rolled back, each with its own forward ROC AUC.

    The AUC is None where the line does not tell: earlier releases noted it of the first champion only.
    """
    found: dict[int, float | None] = {}
    rolled_back: set[int | None] = set()
    for line in lines:
        if not line.promoted:
            continue
        rolled_back.discard(line.challenger)
        if line.kind == "rollback":
            rolled_back.add(line.champion)
        elif line.kind in BY_RULES:
            found[line.challenger] = next((check.value for check in line.checks if check.name == MINIMUM), None)
    return {version: auc for version, auc in found.items() if version not in rolled_back}


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

    def cut(comparison: Comparison | None) -> Comparison | None:
        return comparison and replace(comparison, evidence_text=_cut(comparison.evidence_text, length))

    checks = tuple(replace(check, text=_cut(check.text, length)) for check in line.checks)
    return replace(line, checks=checks, comparison=cut(line.comparison), best_comparison=cut(line.best_comparison))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
