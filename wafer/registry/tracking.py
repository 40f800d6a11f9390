"""The registry: every training as an MLflow run, every model as a version, one of them the champion.

This package is the only importer of `mlflow`. What is in use is said by aliases: `champion`, `challenger` (the newest
version that has not become champion) and `previous` (the champion before). The tag `stage` of each version reads
`production`, `staging` or `archived`. Decisions are appended to a ledger, one tag of the registered model each, so that
they lie with the registry and not on one machine.
"""

import json
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from wafer.errors import ModelError, RegistryError
from wafer.learning.model import WaferModel
from wafer.registry import gate, packaging
from wafer.registry.connection import translated
from wafer.registry.records import Check, Comparison, Decision, GateRules, Version
from wafer.registry.runs import as_metrics, as_params, as_tags, write_files
from wafer.registry.versions import PROBE, SCORES, TAG_LENGTH, VersionStore

SCORE_COLUMNS = frozenset({"protocol", "wafer", "label", "probability", "alarm"})
DECISION_TAG = "decision."
DECISION_ATTEMPTS = 5


class Registry(VersionStore):
    """Trainings, versions and the champion, in MLflow; see `VersionStore` for its arguments."""

    def log_training(
        self,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, Any],
        scores: pd.DataFrame,
        model_folder: Path,
        example: pd.DataFrame,
        figures: Mapping[str, Figure] | None = None,
        files: Mapping[str, Path | pd.DataFrame] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Version:
        """Log one training as a run and register its model as the new `challenger`.

        Args:
            params: nested; logged with dotted names.
            metrics: nested; its numbers are logged with dotted names, anything else is left out.
            scores: the evaluation's out-of-fold scores with a column `wafer` (the id) besides those of
                `wafer.learning.evaluation`; versions are compared on them later.
            model_folder: the saved `WaferModel`.
            example: some wafers' readings, a column per sensor: input example, signature and probe of reloading.
            figures: by file name, `.png` is added where there is no ending.
            files: files, or frames that are written as the name's ending says (.parquet or .csv).
            tags: where it comes from: snapshot digest, git commit, library versions.

        Raises:
            RegistryError: the registry cannot be reached, or `scores` lacks a column.
        """
        missing = SCORE_COLUMNS - set(scores.columns)
        if missing:
            raise RegistryError(f"scores cannot be registered without the column {sorted(missing)[0]!r}")
        digest = packaging.model_digest(model_folder)
        scored = _score(WaferModel.load(model_folder), example)
        with translated(self.tracking_uri, "log the training"), tempfile.TemporaryDirectory() as scratch:
            mlflow.set_tracking_uri(self.tracking_uri)
            mlflow.set_registry_uri(self.tracking_uri)
            run_id = self._start_run(params, metrics, tags or {})
            with mlflow.start_run(run_id=run_id):
                model_id, source, digests = packaging.log_model(model_folder, example, scored)
                folder = Path(scratch)
                folder.joinpath(packaging.DIGESTS).write_text(digests, encoding="utf-8")
                probe = example.reset_index(drop=True).assign(probability=scored["probability"].to_numpy())
                write_files(folder, {**(files or {}), SCORES: scores, PROBE: probe}, figures or {})
                self._client.log_artifacts(run_id, str(folder))
            sealed = packaging.digest_file(folder / packaging.DIGESTS)
            registered = self._register(
                source, run_id, model_id, {"digest": digest, "digests": sealed, **as_tags(tags or {})}
            )
        self._announce(int(registered.version))
        return self.version(int(registered.version))

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.name)
        if found is None:
            try:
                return str(self._client.create_experiment(self.name, artifact_location=self.artifact_root))
            except MlflowException:  # another training was faster
                found = self._client.get_experiment_by_name(self.name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _start_run(self, params: Mapping[str, Any], metrics: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
        run = self._client.create_run(self._experiment(), run_name=f"training {_now()[:19]}Z", tags=as_tags(tags))
        run_id = str(run.info.run_id)
        texts = as_params(params)
        for start in range(0, len(texts), 100):  # MLflow's limit per call
            self._client.log_batch(run_id, params=texts[start : start + 100])
        self._client.log_batch(run_id, metrics=as_metrics(metrics)[:1000], tags=[RunTag("kind", "training")])
        return run_id

    def _register(self, source: str, run_id: str, model_id: str, tags: dict[str, str]) -> ModelVersion:
        try:
            self._client.create_registered_model(self.name, description="Finds faulty wafers from sensor readings.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self._client.create_model_version(
            self.name, source, run_id=run_id, tags={**tags, "stage": "staging"}, model_id=model_id
        )

    def _announce(self, version: int) -> None:
        """Let the alias `challenger` name the new version; the one before it is archived."""
        before = self.aliased("challenger")
        with translated(self.tracking_uri, "name the challenger"):
            self._client.set_registered_model_alias(self.name, "challenger", str(version))
        if before is not None and before.version != version and before.stage == "staging":
            self.tag(before.version, "stage", "archived")

    def decide(self, challenger: int | str | Version, rules: GateRules | None = None) -> Decision:
        """Let a version become champion if it stands up to the present one, and write the decision to the ledger.

        The first champion must reach an absolute minimum; a later one is compared with the champion, both on the
        forward scores of their common wafers. Either must load verified and score its probe wafers as it did before.
        Asked again about the champion, the decision that made it so is returned.

        Raises:
            RegistryError: there is no such version, or the registry cannot be reached.
        """
        rules, version = rules or GateRules(), self.version(challenger)
        for _ in range(DECISION_ATTEMPTS):
            champion = self.champion()
            if champion is not None and champion.version == version.version:
                return self._decided_before(version)
            decision = self._judge(version, champion, rules)
            # another training may have promoted its version meanwhile: then this one has to beat that
            if self.aliases().get("champion") == decision.champion:
                return self._carry_out(decision)
        raise RegistryError(f"version {version.version} could not be decided: the champion changed again and again")

    def _judge(self, version: Version, champion: Version | None, rules: GateRules) -> Decision:
        checks = (*self.verify(version), *gate.check_canary(self.metrics(version), rules))
        comparison: Comparison | None = None
        if champion is None:
            checks += (gate.check_minimum(self.metrics(version), rules),)
        else:
            comparison = self.compare(version, champion, rules)
            checks += gate.check_comparison(comparison, rules)
        before = champion.version if champion else None
        return Decision(
            kind="gate",
            challenger=version.version,
            champion=before,
            promoted=all(check.passed for check in checks),
            reason=gate.explain(checks, version.version, before),
            time=_now(),
            checks=checks,
            comparison=comparison,
            rules=rules,
        )

    def _decided_before(self, version: Version) -> Decision:
        """The decision that made `version` champion: a step that is run again changes nothing."""
        lines = [line for line in self.ledger() if line.promoted and line.challenger == version.version]
        if not lines:
            raise RegistryError(f"version {version.version} is the champion already, but no decision says why")
        return lines[-1]

    def compare(
        self, first: int | str | Version, second: int | str | Version, rules: GateRules | None = None
    ) -> Comparison | None:
        """Two versions on the forward scores of their common wafers; None where there are none."""
        return gate.compare_scores(self.scores(first), self.scores(second), rules or GateRules())

    def promote(self, which: int | str | Version, why: str) -> Decision:
        """Make a version champion by hand, if it loads verified.

        Raises:
            RegistryError: no reason is given, or the version is champion already or does not load as it was registered.
        """
        return self._by_hand("promote", self.version(which), why)

    def rollback(self, why: str) -> Decision:
        """Make the champion before this one champion again.

        Raises:
            RegistryError: no reason is given, or there was no champion before.
        """
        previous = self.aliased("previous")
        if previous is None:
            raise RegistryError("there is no previous champion to go back to")
        return self._by_hand("rollback", previous, why)

    def _by_hand(self, kind: str, version: Version, why: str) -> Decision:
        if not why.strip():
            raise RegistryError(f"a {kind} needs a reason, which the ledger keeps")
        champion = self.champion()
        if champion is not None and champion.version == version.version:
            raise RegistryError(f"version {version.version} is the champion already")
        checks = self.verify(version)
        failed = [check.text for check in checks if not check.passed]
        if failed:
            raise RegistryError(f"version {version.version} cannot become champion: {'; '.join(failed)}")
        before = champion.version if champion else None
        return self._carry_out(Decision(kind, version.version, before, True, why.strip(), _now(), checks))

    def verify(self, which: int | str | Version) -> tuple[Check, ...]:
        """Whether a version's files are those that were registered, and score its probe wafers as they did then."""
        version = self.version(which)
        try:
            model = self.load(version)
        except ModelError as error:
            return (Check("loads verified", False, None, None, str(error)),)
        loaded = Check("loads verified", True, None, None, "every file is what was registered")
        probe = self.stored_frame(version, PROBE)
        expected = probe.pop("probability").to_numpy()
        deviation = float(np.max(np.abs(_score(model, probe)["probability"].to_numpy() - expected), initial=0.0))
        text = f"{len(probe)} probe wafers score as before reloading (largest deviation {deviation:.1g})"
        return loaded, Check("probe", deviation <= 1e-9, deviation, 1e-9, text)

    def _carry_out(self, decision: Decision) -> Decision:
        """Write the decision down, then act on it: a crash in between leaves a line without a move."""
        self._append(decision)
        if decision.promoted:
            self._move(decision.challenger, decision.champion)
        self.tag(decision.challenger, "decision", decision.reason)
        return decision

    def _append(self, decision: Decision) -> None:
        # each line is a tag of its own with a unique key, so that two writers lose nothing
        key = f"{DECISION_TAG}{decision.time}.{uuid.uuid4().hex[:8]}".replace(":", "-").replace("+", "_")
        value = json.dumps(decision.as_dict(), ensure_ascii=False)
        if len(value) > TAG_LENGTH:
            value = json.dumps(replace(decision, checks=()).as_dict(), ensure_ascii=False)
        with translated(self.tracking_uri, "write its ledger"):
            self._client.set_registered_model_tag(self.name, key, value)

    def _move(self, version: int, before: int | None) -> None:
        with translated(self.tracking_uri, f"make version {version} champion"):
            if before is not None:
                self._client.set_registered_model_alias(self.name, "previous", str(before))
                self._client.set_model_version_tag(self.name, str(before), "stage", "archived")
            self._client.set_registered_model_alias(self.name, "champion", str(version))
            self._client.set_model_version_tag(self.name, str(version), "stage", "production")
            if self.aliases().get("challenger") == version:
                self._client.delete_registered_model_alias(self.name, "challenger")

    def ledger(self) -> list[Decision]:
        """Every decision ever taken, oldest first."""
        model = self.registered_model()
        tags = {} if model is None else model.tags
        lines = [value for key, value in sorted(tags.items()) if key.startswith(DECISION_TAG)]
        return [Decision.from_dict(json.loads(line)) for line in lines]


def _score(model: WaferModel, readings: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Prediction": np.asarray(model.predict(readings)).astype(int),
            "probability": np.asarray(model.predict_proba(readings))[:, 1],
            "cluster": np.asarray(model.assign_clusters(readings)).astype(int),
        }
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
