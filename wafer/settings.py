"""Where things are, and secrets: read from the environment (or a `.env` file) here and nowhere else.

With nothing set, everything is embedded below `data/`. Each variable replaces one embedded part by a server; no other
code knows which of the two it talks to.
"""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from upath import UPath

from wafer.addresses import MONGODB, REGISTRY, WEB, check_address, sqlite_address
from wafer.errors import SettingsError
from wafer.shown import masked, shown_text
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
    prefect_folder: Path | None = Field(
        None, alias="PREFECT_HOME", description="folder of Prefect's own local server; default <state>/prefect"
    )
    s3_endpoint: str | None = Field(None, alias="AWS_ENDPOINT_URL", description="another S3 than Amazon's")
    commit: str | None = Field(
        None,
        alias="WAFER_COMMIT",
        description="commit of the code instead of the one that git names; stamped into an image",
    )

    jobs: int = Field(
        default_factory=lambda: os.cpu_count() or 1, alias="WAFER_JOBS", ge=1, description="processes of one step"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        return field.get_default(call_default_factory=True) if value == "" else value

    @classmethod
    def read(cls, **overrides: Any) -> "Settings":
        """The settings of this process; `overrides` take field names and win over the environment."""
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            first = error.errors()[0]
            got = shown_text(masked(repr(first["input"])))
            raise SettingsError(f"{first['loc'][0]}: {first['msg']}, got {got}") from error
        except (OSError, UnicodeError) as error:
            raise SettingsError(f".env in {shown_text(Path.cwd())} cannot be read: {error}") from error
        settings._check_addresses()
        settings._check_folders()
        return settings

    def _check_addresses(self) -> None:
        for variable, address, schemes in (
            ("MONGODB_URL", self.mongodb_url, MONGODB),
            ("MLFLOW_TRACKING_URI", self.mlflow_url, REGISTRY),
            ("PREFECT_API_URL", self.prefect_url, WEB),
            ("AWS_ENDPOINT_URL", self.s3_endpoint, WEB),
        ):
            if address is not None:
                check_address(variable, address, schemes)
        if "://" in self.storage_url and not re.fullmatch(r"s3://[^/?#\s]+(/.*)?", self.storage_url):
            got = shown_text(masked(self.storage_url))
            raise SettingsError(f"WAFER_STORAGE is {got!r}: expected a folder, or s3://bucket/prefix")

    def _check_folders(self) -> None:
        """Refuse a folder whose name a database's address or a terminal would read as something else."""
        folders = {"WAFER_STATE": self.state_folder, "PREFECT_HOME": self.prefect_folder}
        if "://" not in self.storage_url:
            folders["WAFER_STORAGE"] = Path(self.storage_url)
        for variable, folder in folders.items():
            path = "" if folder is None else str(folder.absolute())
            if "?" in path or not path.isprintable():
                raise SettingsError(
                    f"{variable} is the folder {shown_text(path)}: its name may hold neither `?`, which would start a "
                    "query in the address of a database, nor control characters; name another folder"
                )

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
                f"WAFER_STATE must name a local folder because WAFER_STORAGE is {shown_text(self.storage_url)}: "
                "embedded state cannot lie in a bucket"
            )
        return Path(self.storage_url).absolute() / "state"

    @property
    def prefect_home(self) -> Path:
        """The folder of Prefect's own local server."""
        return (self.prefect_folder or self.state / "prefect").absolute()

    def area(self, name: str) -> UPath:
        """One of the output folders: raw, quarantine, snapshot, models, reports, predictions."""
        return self.storage / name

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the registry."""
        return self.mlflow_url or sqlite_address(self.state / "mlflow" / "mlflow.db")

    @property
    def artifact_root(self) -> str | None:
        """Where an embedded MLflow keeps files; None where a server decides."""
        return None if self.mlflow_url else str(self.state / "mlflow" / "artifacts")


def prepare_environment() -> Settings:
    """Give Prefect, MLflow and DVC their quiet, private and patient defaults; variables that are set stay.

    Must run before Prefect is imported, which reads its settings once, at import. Makes no folder: see
    `make_prefect_home`.

    Raises:
        SettingsError: a variable cannot be used.
    """
    settings = Settings.read()
    defaults = {
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    }
    if settings.prefect_url is None:
        os.environ.pop("PREFECT_API_URL", None)  # an empty one is no address to Prefect, but unset here
        defaults |= {"PREFECT_HOME": str(settings.prefect_home), "PREFECT_LOGGING_LEVEL": "WARNING"}
    else:
        defaults["PREFECT_API_URL"] = settings.prefect_url
    for name, value in defaults.items():
        os.environ[name] = os.environ.get(name) or value
    return settings


def make_prefect_home(settings: Settings) -> None:
    """Make the folder of Prefect's own local server, which hangs where the parent of that folder is not there."""
    if settings.prefect_url is None:
        if settings.prefect_folder is None:
            private_folder(settings.state)
        settings.prefect_home.mkdir(mode=0o700, parents=True, exist_ok=True)
