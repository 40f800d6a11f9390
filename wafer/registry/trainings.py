"""What is logged: a training as an MLflow run with its model as a new version, a prediction as a run of its own.

Only MLflow's client is used, never its fluent functions, which keep an address and a run for the whole process.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from wafer.errors import RegistryError
from wafer.learning.parts import model_digest
from wafer.registry import packaging, provenance
from wafer.registry.connection import translated
from wafer.registry.records import RUNNING, TRAINING, Version
from wafer.registry.runs import as_metrics, as_params, as_tags, draw, gather, write_files
from wafer.registry.versions import LIBRARIES, PARAMS, PROBE, SCORES, VersionStore
from wafer.scoring.bundle import Bundle
from wafer.storage import AnyPath

SCORE_COLUMNS = frozenset({"protocol", "wafer", "label", "probability", "alarm"})
AT_ONCE = 100  # params that MLflow takes in one call


class RunLog(VersionStore):
    """Writes trainings and predictions to MLflow; see `VersionStore` for its arguments."""

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
        """Log one training as a run and register its model as the new `challenger`, whose training is running.

        It stays so until `wafer.registry.reruns.RerunStore.finish` is told that the training went through.

        The run's file `libraries.json` holds the version of every installed distribution.

        Args:
            params: nested; logged with dotted names, and exactly as they are in the run's file `params.json`.
            metrics: nested; its numbers are logged with dotted names, anything else is left out.
            scores: the evaluation's out-of-fold scores with a column `wafer` (the id) besides those of
                `wafer.learning.evaluation`; versions are compared on them later.
            model_folder: the saved `Bundle`.
            example: some wafers' readings, a column per sensor: input example, signature and probe of reloading.
            figures: as of `log_figures`, which draws them once the version is registered.
            files: files, or frames that are written as the name's ending says (.parquet or .csv).
            tags: where it comes from: snapshot digest, git commit, library versions.

        Raises:
            RegistryError: the registry cannot be reached, or `scores` lacks a column.
        """
        missing = SCORE_COLUMNS - set(scores.columns)
        if missing:
            raise RegistryError(f"scores cannot be registered without the column {sorted(missing)[0]!r}")
        version = self._log_version(
            *("training", params, metrics, scores, model_folder, example),
            files=files or {},
            tags=as_tags(tags or {}) | {TRAINING: RUNNING},
        )
        if figures:
            self.log_figures(version.run_id, figures)
        return version

    def _log_version(
        self,
        kind: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, Any],
        scores: pd.DataFrame,
        model_folder: Path,
        example: pd.DataFrame,
        *,
        files: Mapping[str, Path | pd.DataFrame],
        tags: dict[str, str],
    ) -> Version:
        """A new run of a `kind` with its model as the newest version; the rest as of `log_training`."""
        digest, bundle = model_digest(model_folder), Bundle.load(model_folder)
        scored = packaging.scored_wafers(bundle, example)
        in_use = {"threshold": bundle.classifier.threshold_, "policy": asdict(bundle.classifier.policy_)}
        tags = tags | as_tags(in_use) | {"digest": digest}
        probe = packaging.make_probe(example, scored)
        with (
            translated(self.tracking_uri, f"log the {kind}"),
            self._run(f"{kind} {now()[:19]}Z", kind, tags) as run_id,
        ):
            self._log_numbers(run_id, params, {**metrics, "threshold": in_use["threshold"]})
            model_id, digests = self._log_model(
                run_id, model_folder, example, scored, {param.key: param.value for param in as_params(params)}
            )
            documents = {**_as_documents(params), packaging.DIGESTS: digests}
            self._log_documents(run_id, documents, {SCORES: scores, PROBE: probe, **files})
            sealed = hashlib.sha256(digests.encode()).hexdigest()
            registered = self._register(run_id, model_id, tags | {"digests": sealed})
        self._announce(int(registered.version))
        return self.version(int(registered.version))

    def _log_documents(
        self, run_id: str, documents: Mapping[str, str], files: Mapping[str, Path | pd.DataFrame]
    ) -> None:
        """Keep texts, files and frames with a run; a file takes the place of a text of its name."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, text in documents.items():
                Path(scratch, name).write_text(text, encoding="utf-8")
            write_files(Path(scratch), files)
            self._client.log_artifacts(run_id, scratch)

    def log_figures(self, run_id: str, figures: Mapping[str, Figure]) -> None:
        """Keep figures with a run; where one cannot be drawn, those before it are kept and its error is raised.

        Args:
            run_id: of a training or a prediction.
            figures: by file name, `.png` is added where there is no ending.

        Raises:
            RegistryError: the registry cannot be reached, or there is no such run.
            ReportError: a figure cannot be drawn.
        """
        with tempfile.TemporaryDirectory() as scratch:
            try:
                draw(Path(scratch), figures)
            finally:
                with translated(self.tracking_uri, f"keep figures with run {run_id}"):
                    self._client.log_artifacts(run_id, scratch)

    def log_files(self, run_id: str, files: Iterable[AnyPath], place: str = "") -> None:
        """Keep more files with a run, such as the executed notebook and page of its training.

        Args:
            run_id: of a training or a prediction.
            files: files or folders, local or in S3; each keeps its name.
            place: folder among the run's files; its root by default.

        Raises:
            RegistryError: the registry cannot be reached, there is no such run, or a file is not there.
        """
        with translated(self.tracking_uri, f"keep files with run {run_id}"), tempfile.TemporaryDirectory() as scratch:
            gather(files, Path(scratch))
            if any(Path(scratch).iterdir()):  # of nothing MLflow would keep an empty folder
                self._client.log_artifacts(run_id, scratch, place or None)

    def log_prediction(
        self,
        name: str,
        metrics: Mapping[str, Any],
        files: Iterable[AnyPath] = (),
        tags: Mapping[str, Any] | None = None,
    ) -> str:
        """Log one prediction as a run of the same experiment, with the tag `kind` = prediction; its run id.

        It is logged by who predicts, whatever becomes of its report, whose files `log_files` adds to the run later.

        Args:
            name: of the run.
            metrics: nested; its numbers are logged with dotted names: wafers, alarms.
            files: files or folders to keep below `reports/`, local or in S3; where one cannot be kept, the run is
                marked as failed.
            tags: which model version scored which batches.

        Raises:
            RegistryError: the registry cannot be reached, or a file is not there.
        """
        with (
            translated(self.tracking_uri, "log the prediction"),
            self._run(name, "prediction", as_tags(tags or {})) as run_id,
        ):
            self._log_numbers(run_id, {}, metrics)
            self.log_files(run_id, files, "reports")
        return run_id

    def log_trial(
        self,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, Any],
        files: Mapping[str, Path | pd.DataFrame],
        tags: Mapping[str, Any],
    ) -> str:
        """Log a comparison of models as a run of the same experiment, with the tag `kind` = trial; its run id.

        Args:
            params: nested, of all models; logged with dotted names.
            metrics: nested; its numbers are logged with dotted names.
            files: as of `log_training`.
            tags: where it comes from.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        with (
            translated(self.tracking_uri, "log the trial"),
            self._run(f"trial {now()[:19]}Z", "trial", as_tags(tags)) as run_id,
        ):
            self._log_numbers(run_id, params, metrics)
            self._log_documents(run_id, {}, files)
        return run_id

    @contextmanager
    def _run(self, name: str, kind: str, tags: dict[str, str]) -> Iterator[str]:
        """A run that ends with the block: as finished, or as failed after an error."""
        run = self._client.create_run(self._experiment(), run_name=name, tags={**tags, "kind": kind})
        run_id = str(run.info.run_id)
        try:
            yield run_id
        except BaseException:
            self._client.set_terminated(run_id, "FAILED")
            raise
        self._client.set_terminated(run_id, "FINISHED")

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

    def _log_numbers(self, run_id: str, params: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        texts = as_params(params)
        for start in range(0, len(texts), AT_ONCE):
            self._client.log_batch(run_id, params=texts[start : start + AT_ONCE])
        self._client.log_batch(run_id, metrics=as_metrics(metrics)[:1000])

    def _log_model(
        self, run_id: str, model_folder: Path, example: pd.DataFrame, scored: pd.DataFrame, params: dict[str, str]
    ) -> tuple[str, str]:
        """The id of the model that is logged with `run_id`, and the digests of all its files as JSON."""
        model = self._client.create_logged_model(
            self._experiment(), name="model", source_run_id=run_id, params=params, model_type="wafer"
        )
        with tempfile.TemporaryDirectory() as scratch:
            packed = Path(scratch, "packed")
            digests = packaging.pack(model_folder, packed, example, scored, run_id=run_id, model_id=model.model_id)
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            self._client.log_model_artifacts(model.model_id, str(packed))
        self._client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id), json.dumps(digests, indent=2, sort_keys=True) + "\n"

    def _register(self, run_id: str, model_id: str, tags: dict[str, str]) -> ModelVersion:
        try:
            self._client.create_registered_model(self.name, description="Finds faulty wafers from sensor readings.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # `models:/m-…` would be looked up at MLflow's address for the whole process, whatever this client's is
        source = self._client.get_logged_model(model_id).artifact_location
        return self._client.create_model_version(
            self.name, source, run_id=run_id, tags={**tags, "stage": "staging"}, model_id=model_id
        )

    def _announce(self, version: int) -> None:
        """Let the alias `challenger` name the newest version; the one before it is archived."""
        before = self.aliased("challenger")
        newest = self.versions()[-1].version
        with translated(self.tracking_uri, "name the challenger"):
            self._client.set_registered_model_alias(self.name, "challenger", str(newest))
            latest = self.versions()[-1].version
            if latest != newest:  # another training was registered meanwhile
                self._client.set_registered_model_alias(self.name, "challenger", str(latest))
        if before is not None and before.version < newest and before.stage == "staging":
            self.tag(before.version, "stage", "archived")
        if version < newest:
            self.tag(version, "stage", "archived")


def _as_documents(params: Mapping[str, Any]) -> dict[str, str]:
    """What a rebuild needs besides the snapshot, by name of its file: exact params, and versions of all libraries."""
    documents = {PARAMS: params, LIBRARIES: provenance.versions_now()}
    return {name: json.dumps(content, indent=2) + "\n" for name, content in documents.items()}


def now() -> str:
    """This moment, ISO 8601, UTC, in microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
