"""Where things are, and secrets: read from the environment (or a `.env` file) here and nowhere else.

With nothing set, everything is embedded below `data/`. Each variable replaces one embedded part by a server; no other
code knows which of the two it talks to.
"""

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from upath import UPath

from wafer.errors import SettingsError
from wafer.storage import private_folder


class Settings(BaseSettings):
    """The places that one run of the system uses; immutable.

    Raises:
        SettingsError: from `Settings.read`, when a variable cannot be used.
    """

    model_config = SettingsConfigDict(frozen=True, env_file=".env", extra="ignore", populate_by_name=True)

    storage_url: str = Field("data", alias="WAFER_STORAGE", description="folder, or s3://bucket/prefix, of all outputs")
    state_folder: Path | None = Field(
        None, alias="WAFER_STATE", description="local folder of embedded state; default <WAFER_STORAGE>/state"
    )
    mongodb_url: str | None = Field(None, alias="MONGODB_URL", description="unset: the embedded server")
    mongodb_database: str = Field("wafer", alias="MONGODB_DATABASE")
    mlflow_url: str | None = Field(
        None, alias="MLFLOW_TRACKING_URI", description="unset: SQLite below the state folder"
    )
    prefect_url: str | None = Field(None, alias="PREFECT_API_URL", description="unset: Prefect's own local server")
    s3_endpoint: str | None = Field(None, alias="AWS_ENDPOINT_URL", description="another S3 than Amazon's")
    commit: str | None = Field(
        None,
        alias="WAFER_COMMIT",
        description="commit of the code instead of the one that git names; stamped into an image",
    )

    jobs: int = Field(
        default_factory=lambda: os.cpu_count() or 1, alias="WAFER_JOBS", ge=1, description="processes of one step"
    )

    link_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        alias="WAFER_LINK_ROOTS",
        description="folders into which links in a delivery may lead, as PATH lists folders",
    )

    @field_validator("link_roots", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        folders = [Path(name) for name in value.split(os.pathsep) if name] if isinstance(value, str) else value
        for folder in folders:
            if not Path(folder).is_absolute():
                raise ValueError(f"expected absolute folders, separated by '{os.pathsep}'")
        return tuple(folders)

    @field_validator("state_folder", "mongodb_url", "mlflow_url", "prefect_url", "s3_endpoint", "commit", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return value or None

    @classmethod
    def read(cls, **overrides: Any) -> "Settings":
        """The settings of this process; `overrides` take field names and win over the environment."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors()[0]
            raise SettingsError(f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error

    @classmethod
    def study(cls, storage: Path, state: Path) -> "Settings":
        """Settings of a run apart from production: all is embedded, whatever the environment says."""
        return cls.read(
            storage_url=str(storage),
            state_folder=state,
            mongodb_url=None,
            mlflow_url=None,
            prefect_url=None,
        )

    @cached_property
    def storage(self) -> UPath:
        """The folder or bucket prefix below which all outputs lie."""
        if "://" in self.storage_url:
            options = {"endpoint_url": self.s3_endpoint} if self.s3_endpoint else {}
            return UPath(self.storage_url, **options)
        return UPath(Path(self.storage_url).absolute())

    @cached_property
    def state(self) -> Path:
        """The local folder of everything embedded: MongoDB, MLflow, Prefect's home.

        Raises:
            SettingsError: storage is remote and WAFER_STATE is not set.
        """
        if self.state_folder is not None:
            return self.state_folder.absolute()
        if "://" in self.storage_url:
            raise SettingsError(
                f"WAFER_STATE must name a local folder because WAFER_STORAGE is {self.storage_url}: "
                "embedded state cannot lie in a bucket"
            )
        return Path(self.storage_url).absolute() / "state"

    def area(self, name: str) -> UPath:
        """One of the output folders: raw, quarantine, snapshot, models, reports, predictions."""
        return self.storage / name

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the registry."""
        return self.mlflow_url or f"sqlite:///{self.state / 'mlflow' / 'mlflow.db'}"

    @property
    def artifact_root(self) -> str | None:
        """Where an embedded MLflow keeps files; None where a server decides."""
        return None if self.mlflow_url else str(self.state / "mlflow" / "artifacts")


def prepare_environment() -> None:
    """Give Prefect, MLflow and DVC their quiet, private and patient defaults; variables that are set stay.

    Must run before Prefect is imported, which reads its settings once, at import. So a variable that cannot be used
    ends the process here, with one sentence and exit status 2.
    """
    try:
        settings = Settings.read()
    except SettingsError as error:
        print(f"wafer: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person gets to read
        raise SystemExit(2) from None
    defaults = {
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    }
    if settings.prefect_url is None:
        home = Path(os.environ.get("PREFECT_HOME") or settings.state / "prefect")
        if not os.environ.get("PREFECT_HOME"):
            private_folder(settings.state)
        home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only, and its server hangs without it
        defaults |= {"PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "WARNING"}
    else:
        defaults["PREFECT_API_URL"] = settings.prefect_url
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
