"""What the registry holds: versions, aliases, scores, and models that are loaded only when every digest agrees."""

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.request_utils import augmented_raise_for_status
from mlflow.utils.rest_utils import http_request

from wafer.addresses import WEB
from wafer.errors import RegistryError, TamperedError
from wafer.registry import packaging
from wafer.registry.connection import embedded_database, prepare_place, silence, translated
from wafer.registry.moved import follow_move
from wafer.registry.records import Version
from wafer.scoring.bundle import Bundle
from wafer.settings import Settings
from wafer.shown import masked, shown_text
from wafer.storage import private_folder, read_json

SCORES = "scores.parquet"
PROBE = "probe.parquet"
PARAMS = "params.json"
LIBRARIES = "libraries.json"
MANIFEST = "snapshot/manifest.json"
NO_SUCH = "RESOURCE_DOES_NOT_EXIST"
LONGEST_NUMBER = 9  # digits of a version's number; a database takes no more than that without complaint
QUOTED = 40  # characters of what was asked for
SOME = 10  # versions that a message lists one by one
TAG_LENGTH = 5000
"""What the narrowest of MLflow's databases keeps of a tag."""


class VersionStore:
    """The versions of one registered model in MLflow; for reading. `wafer.registry.tracking.Registry` writes.

    Args:
        tracking_uri: `sqlite:///…` for the embedded registry, or a server's `http(s)://…`.
        artifact_root: folder or URI below which an embedded registry keeps files; None with a server, which decides.
        name: of the experiment and of the registered model.

    Raises:
        RegistryError: the registry cannot be reached.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None = None, name: str = "wafer") -> None:
        silence()
        prepare_place(tracking_uri, artifact_root)
        if artifact_root is not None and (database := embedded_database(tracking_uri)) is not None:
            follow_move(database, artifact_root, name)
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self.name = name
        with translated(tracking_uri, "be opened"):
            self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The registry that `settings` name: a server, or the embedded one below the state folder."""
        if settings.mlflow_url is None:
            private_folder(settings.state)
        return cls(settings.tracking_uri, settings.artifact_root)

    def server_version(self) -> str | None:
        """The version of MLflow's server; None where there is none between this process and a database."""
        if urlsplit(self.tracking_uri).scheme not in WEB:
            return None
        with translated(self.tracking_uri, "tell its version"):
            asked = http_request(get_default_host_creds(self.tracking_uri), "/version", "GET")  # type: ignore[no-untyped-call]
            augmented_raise_for_status(asked)  # type: ignore[no-untyped-call]
            return str(asked.text)

    def version(self, which: int | str | Version) -> Version:
        """One version by its number or by an alias.

        Raises:
            RegistryError: there is no such version.
        """
        if isinstance(which, Version):
            return which
        asked = str(which)
        number = int(asked) if asked.isdecimal() and len(asked) <= LONGEST_NUMBER else self.aliases().get(asked)
        found = None if number is None else self._lookup(number)
        if found is None:
            known = [version.version for version in self.versions()]
            some = ", ".join(map(str, known)) if len(known) <= SOME else f"{len(known)} from {known[0]} to {known[-1]}"
            told = which if isinstance(which, int) else repr(shown_text(asked, QUOTED))
            raise RegistryError(f"the model registry has no version {told} of {self.name!r}, only: {some or 'none'}")
        return self._as_version(found)

    def _lookup(self, number: int) -> ModelVersion | None:
        """MLflow's own record of a version; None where there is none."""
        with translated(self.tracking_uri, f"find version {number}"):
            try:
                return self._client.get_model_version(self.name, str(number))
            except MlflowException as error:
                if error.error_code == NO_SUCH:
                    return None
                raise

    def _as_version(self, found: ModelVersion) -> Version:
        return Version(
            version=int(found.version),
            run_id=str(found.run_id),
            uri=f"models:/{self.name}/{found.version}",
            digest=str(found.tags.get("digest", "")),
            stage=str(found.tags.get("stage", "")),
            tags=dict(found.tags),
            created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="milliseconds"),
        )

    def aliased(self, alias: str) -> Version | None:
        """The version that an alias names; None where there is no such alias."""
        aliases = self.aliases()
        return self.version(aliases[alias]) if alias in aliases else None

    def aliases(self) -> dict[str, int]:
        """Which version each alias names; empty where nothing was registered yet."""
        model = self.registered_model()
        return {} if model is None else {alias: int(number) for alias, number in model.aliases.items()}

    def registered_model(self) -> Any | None:
        """MLflow's own record of the registered model; None before the first version."""
        with translated(self.tracking_uri, "be read"):
            try:
                return self._client.get_registered_model(self.name)
            except MlflowException as error:
                if error.error_code == NO_SUCH:
                    return None
                raise

    def champion(self) -> Version | None:
        """The version in use; None before the first one."""
        return self.aliased("champion")

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with translated(self.tracking_uri, "list its versions"):
            found = self._client.search_model_versions(f"name='{self.name}'", max_results=10_000)
        return sorted((self._as_version(each) for each in found), key=lambda each: each.version)

    def metrics(self, which: int | str | Version) -> dict[str, float]:
        """The metrics of a version's training, with dotted names."""
        version = self.version(which)
        with translated(self.tracking_uri, f"read the metrics of version {version.version}"):
            return dict(self._client.get_run(version.run_id).data.metrics)

    def scores(self, which: int | str | Version) -> pd.DataFrame:
        """The out-of-fold scores of a version's evaluation."""
        return self.stored_frame(self.version(which), SCORES)

    def stored_frame(self, version: Version, name: str) -> pd.DataFrame:
        """A table that was kept with a version's run.

        Raises:
            RegistryError: it is not there, is no table, or the registry cannot be reached.
        """
        with (
            translated(self.tracking_uri, f"read {name} of version {version.version}"),
            tempfile.TemporaryDirectory() as scratch,
        ):
            file = self._client.download_artifacts(version.run_id, name, scratch)
            try:
                return pd.read_parquet(file)
            except ValueError as error:
                raise RegistryError(f"{name} of version {version.version} is no Parquet table: {error}") from error

    def stored_json(self, version: Version, name: str) -> Any | None:
        """A JSON document that was kept with a version's run; None where there is none of that name."""
        with (
            translated(self.tracking_uri, f"read {name} of version {version.version}"),
            tempfile.TemporaryDirectory() as scratch,
        ):
            folder = name.rpartition("/")[0]
            kept = self._client.list_artifacts(version.run_id, folder or None)
            if name not in {item.path for item in kept}:
                return None
            return read_json(Path(self._client.download_artifacts(version.run_id, name, scratch)))

    def fetch(self, which: int | str | Version, folder: Path) -> Path:
        """Put the parts of a version's model into `folder`, once every digest agrees with the registry.

        Raises:
            TamperedError: a file is missing, changed or was added; the message names it.
            RegistryError: there is no such version, or the registry cannot be reached.
        """
        version = self.version(which)
        label = f"version {version.version} of {self.name!r}"
        with (
            tempfile.TemporaryDirectory() as scratch,
            translated(self.tracking_uri, f"fetch the model of version {version.version}"),
        ):
            listing = Path(self._client.download_artifacts(version.run_id, packaging.DIGESTS, scratch))
            if packaging.digest_file(listing) != version.tags.get("digests"):
                raise TamperedError(f"{label}: {packaging.DIGESTS} is not what was registered")
            source = self._client.get_model_version(self.name, str(version.version)).source
            kept = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=source, dst_path=str(Path(scratch, "kept")), tracking_uri=self.tracking_uri
                )
            )
            packaging.verify_files(kept, json.loads(listing.read_bytes()), label)
            shutil.copytree(kept / packaging.PARTS, folder, dirs_exist_ok=True)
        return folder

    def load(self, which: int | str | Version) -> Bundle:
        """A version's model, put together by the installed `Bundle` from verified parts.

        Raises:
            TamperedError: a file is not what was registered.
            RegistryError: there is no such version, or the registry cannot be reached.
        """
        with tempfile.TemporaryDirectory() as scratch:
            return Bundle.load(self.fetch(which, Path(scratch, "model")))

    def tag(self, version: int, key: str, value: str) -> None:
        """Note `value` under `key` with a version."""
        with translated(self.tracking_uri, f"tag version {version}"):
            self._client.set_model_version_tag(self.name, str(version), key, value[:TAG_LENGTH])

    def __repr__(self) -> str:
        return f"Registry({masked(self.tracking_uri)!r}, name={self.name!r})"
