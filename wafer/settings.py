"""Where things are, and secrets: read from the environment (or a `.env` file) here and nowhere else.

With nothing set, everything is embedded below `data/`. Each variable replaces one embedded part by a server; no other
code knows which of the two it talks to.
"""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from upath import UPath

from wafer.addresses import MONGODB, REGISTRY, WEB, check_address, check_durable, sqlite_address
from wafer.errors import DeliveryError, SettingsError
from wafer.logs import Format
from wafer.shown import hide_secrets_of, masked, shown_text
from wafer.storage import Storage, bucket_path, private_folder

PACKAGED = Path(__file__).parent / "defaults"
DEFAULTS = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1]
"""What a folder of one's own may replace: expectations/, notebooks/ and params.yaml, in the wheel or in a checkout."""
BUCKET = re.compile(r"s3://[^/?#\s]+(/.*)?")
FOLDERS = (("storage_url", "WAFER_STORAGE"), ("state_folder", "WAFER_STATE"), ("prefect_folder", "PREFECT_HOME"))

QUIET = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # of each request; with its default of 5 a server that is gone costs minutes
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}
"""Quiet, private and patient defaults of Prefect, MLflow and DVC."""


class Settings(BaseSettings):
    """The places that one run of the system uses; immutable.

    Raises:
        SettingsError: from `Settings.read`, when a variable cannot be used.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    project: Path | None = Field(
        None,
        alias="WAFER_PROJECT",
        description="folder of expectations/, params.yaml and notebooks/; default: this one or one above",
    )
    storage_url: str = Field(
        alias="WAFER_STORAGE", description="folder, or s3://bucket/prefix, of all outputs; default <project>/data"
    )
    state_folder: Path | None = Field(
        None, alias="WAFER_STATE", description="local folder of embedded state; default <WAFER_STORAGE>/state"
    )
    mongodb_url: str | None = Field(None, alias="MONGODB_URL", description="unset: the embedded server")
    mongodb_database: str = Field("wafer", alias="MONGODB_DATABASE", pattern=r"^[^\s\p{C}/\\.\"$*<>:|?]{1,63}$")
    mlflow_url: str | None = Field(
        None, alias="MLFLOW_TRACKING_URI", description="unset: SQLite below the state folder"
    )
    prefect_url: str | None = Field(None, alias="PREFECT_API_URL", description="unset: Prefect's own local server")
    prefect_folder: Path | None = Field(
        None, alias="PREFECT_HOME", description="folder of Prefect's own local server; default <state>/prefect"
    )
    s3_endpoint: str | None = Field(None, alias="AWS_ENDPOINT_URL", description="another S3 than Amazon's")
    s3_key: SecretStr | None = Field(None, alias="AWS_ACCESS_KEY_ID")
    s3_secret: SecretStr | None = Field(None, alias="AWS_SECRET_ACCESS_KEY")
    s3_token: SecretStr | None = Field(None, alias="AWS_SESSION_TOKEN")
    pages_url: str | None = Field(
        None, alias="WAFER_PAGES_URL", description="address below which runs/ of the storage is served; unset: files"
    )
    webhook_url: SecretStr | None = Field(
        None,
        alias="WAFER_WEBHOOK_URL",
        description="who is told of failures, refusals, drift and alarms; unset: nobody",
    )
    webhook_secret: SecretStr | None = Field(
        None, alias="WAFER_WEBHOOK_SECRET", description="signs what the webhook is told; after whsec_ in base64"
    )
    log_format: Format = Field("text", alias="WAFER_LOG_FORMAT", description="of log lines: text or json")
    commit: str | None = Field(
        None,
        alias="WAFER_COMMIT",
        description="commit of the code instead of the one that git names; stamped into an image",
        pattern=r"^[\w.+-]{1,100}$",
    )

    jobs: int = Field(
        default_factory=lambda: os.cpu_count() or 1, alias="WAFER_JOBS", ge=1, description="processes of one step"
    )

    port_base: int = Field(
        17300, alias="WAFER_PORT_BASE", ge=1024, le=65500, description="first port of the servers of `wafer stack`"
    )

    link_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        alias="WAFER_LINK_ROOTS",
        description="folders into which links in a delivery may lead, as PATH lists folders",
    )

    @field_validator("link_roots", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        names = value.split(os.pathsep) if isinstance(value, str) else value
        folders = tuple(folder_named(name) for name in names if name)
        if not all(folder.is_absolute() for folder in folders):
            raise ValueError(f"expected absolute folders, separated by '{os.pathsep}'")
        return folders

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        return field.get_default(call_default_factory=True) if value == "" else value

    @model_validator(mode="before")
    @classmethod
    def _nothing_depends_on_the_working_directory(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Paths made absolute: those of the environment from here, those of a project's `.env` from the project."""
        project = given.get("project") or given.get("WAFER_PROJECT")
        found = dict(given)
        for name, variable in FOLDERS:
            value = given.get(name) or given.get(variable)
            if value and "://" not in str(value):
                from_file = name not in given and not os.environ.get(variable)
                base = Path(project) if project and from_file else Path.cwd()
                found[variable] = str(base.absolute() / folder_named(value))
            elif name == "storage_url" and not value and project:
                found[variable] = str(Path(project).absolute() / "data")
            elif name == "storage_url" and not value:
                raise ValueError(
                    f"no project lies in {Path.cwd()} or above it: make one with `wafer init`, go to a folder with "
                    "expectations/ or name it by WAFER_PROJECT, or name a folder for all outputs by WAFER_STORAGE"
                )
            if variable in found:
                found.pop(name, None)
        return found

    @classmethod
    def read(cls, **overrides: Any) -> "Settings":
        """The settings of this process; `overrides` take field names and win over the environment."""
        named = overrides.pop("project", None)
        project = find_project() if named is None else _named_project(named)
        file = (project or Path.cwd()) / ".env"
        hide_secrets_of(file)
        try:
            settings = cls(**{"_env_file": file, "project": project, **overrides})
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:
                raise SettingsError(first["msg"].removeprefix("Value error, ")) from error
            got = shown_text(masked(repr(first["input"])))
            told = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{first['loc'][0]}: {told}, got {got}") from error
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error  # without the path once more
            raise SettingsError(f"{shown_text(file)} cannot be read: {why}") from error
        settings._check_addresses()
        settings._check_folders()
        return settings

    def _check_addresses(self) -> None:
        for variable, address, schemes in (
            ("MONGODB_URL", self.mongodb_url, MONGODB),
            ("MLFLOW_TRACKING_URI", self.mlflow_url, REGISTRY),
            ("PREFECT_API_URL", self.prefect_url, WEB),
            ("AWS_ENDPOINT_URL", self.s3_endpoint, WEB),
            ("WAFER_PAGES_URL", self.pages_url, WEB),
        ):
            if address is not None:
                check_address(variable, address, schemes)
        if self.webhook_url is not None:
            check_address("WAFER_WEBHOOK_URL", self.webhook_url.get_secret_value(), WEB)
            if self.webhook_secret is None:
                raise SettingsError(
                    "WAFER_WEBHOOK_URL is set without WAFER_WEBHOOK_SECRET, by which messages are signed"
                )
        if self.mongodb_url is not None:
            check_durable("MONGODB_URL", self.mongodb_url)
        if "://" in self.storage_url and not BUCKET.fullmatch(self.storage_url):
            got = shown_text(masked(self.storage_url))
            raise SettingsError(f"WAFER_STORAGE is {got!r}: expected a folder, or s3://bucket/prefix")

    def _check_folders(self) -> None:
        folders = {"WAFER_STATE": self.state_folder, "PREFECT_HOME": self.prefect_folder}
        if "://" not in self.storage_url:
            storage = Path(self.storage_url)
            default = self.project is not None and storage == self.project / "data"
            folders["WAFER_STORAGE, by default data/ of the project," if default else "WAFER_STORAGE"] = storage
        for variable, folder in folders.items():
            if folder is not None:
                _check_name(variable, folder)

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
    def storage(self) -> Storage:
        """The folder or bucket prefix below which all outputs lie.

        Raises:
            StorageError: WAFER_STORAGE is of another kind.
        """
        return Storage(self.storage_url, **(self.s3_options if "://" in self.storage_url else {}))

    @property
    def s3_options(self) -> dict[str, Any]:
        """What opens a bucket: endpoint and keys, where they are set."""
        keys = {"key": self.s3_key, "secret": self.s3_secret, "token": self.s3_token}
        found: dict[str, Any] = {name: value.get_secret_value() for name, value in keys.items() if value is not None}
        found |= {"endpoint_url": self.s3_endpoint} if self.s3_endpoint else {}
        return found | {"use_listings_cache": False}  # remembered listings lack what another thread has written since

    @cached_property
    def state(self) -> Path:
        """The local folder of everything embedded: MongoDB, MLflow, Prefect's home.

        Raises:
            SettingsError: storage is remote and WAFER_STATE is not set.
        """
        if self.state_folder is not None:
            return self.state_folder
        if "://" in self.storage_url:
            raise SettingsError(
                f"WAFER_STATE must name a local folder because WAFER_STORAGE is {shown_text(self.storage_url)}: "
                "embedded state cannot lie in a bucket"
            )
        return Path(self.storage_url) / "state"

    def default(self, name: str) -> Path:
        """A file or folder of the project, such as `params.yaml`; the library's own where it has none."""
        return own_or_default(self.project, name)

    def of_project(self, path: str) -> Path:
        """A path that stands in a file of the project, relative to it; without one, to the working directory."""
        return Path(self.project or Path.cwd(), folder_named(path)).absolute()

    def opened(self, path: str) -> UPath:
        """A folder or `s3://` address that a person named, opened with the endpoint and keys of these settings.

        Raises:
            DeliveryError: it is an address of another kind, or names no bucket.
        """
        if "://" not in path:
            return UPath(folder_named(path).absolute())
        if not BUCKET.fullmatch(path):
            raise DeliveryError(f"{shown_text(masked(path))}: expected a folder, or s3://bucket/prefix")
        return bucket_path(path, **self.s3_options)

    @property
    def prefect_home(self) -> Path:
        """The folder of Prefect's own local server."""
        return (self.prefect_folder or self.state / "prefect").absolute()

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and the registry."""
        return self.mlflow_url or sqlite_address(self.state / "mlflow" / "mlflow.db")

    @property
    def artifact_root(self) -> str | None:
        """Where an embedded MLflow keeps files; None where a server decides."""
        return None if self.mlflow_url else str(self.state / "mlflow" / "artifacts")


def folder_named(name: str | Path) -> Path:
    """The folder that a person has named where no shell has read it: a leading `~` or `~user` is a home folder."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - as in a shell, `~` and the name of no user stays as it is


def _check_name(variable: str, folder: Path) -> None:
    """Refuse a folder whose name a database's address or a terminal would read as something else."""
    if ":/" in str(folder):  # of `s3://` a path has kept one slash
        raise SettingsError(f"{variable} is {shown_text(masked(str(folder)))}: expected a folder of this machine")
    path = str(folder.absolute())
    if "?" in path or not path.isprintable():
        raise SettingsError(
            f"{variable} is the folder {shown_text(path)}: its name may hold neither `?`, which would start a "
            "query in the address of a database, nor control characters; name another folder"
        )


def _named_project(named: str | Path) -> Path:
    project = folder_named(named).absolute()
    _check_name("WAFER_PROJECT", project)
    try:
        os.stat(f"{project}/.")  # noqa: PTH116 - a path would drop the dot, which only a folder has
    except OSError as error:
        raise SettingsError(
            f"WAFER_PROJECT is the folder {shown_text(project)}: {error.strerror}; name one that is there, or make a "
            "project there with `wafer init`"
        ) from error
    return project


def find_project() -> Path | None:
    """The folder that WAFER_PROJECT names, else the working directory or the nearest above it with `expectations/`.

    Raises:
        SettingsError: WAFER_PROJECT names no folder, or one whose name cannot be used.
    """
    if named := os.environ.get("WAFER_PROJECT"):
        return _named_project(named)
    return next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "expectations").is_dir()), None)


def cache_folder() -> Path:
    """The user's folder of what can be made again: `wafer/` in XDG_CACHE_HOME, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or folder_named("~/.cache")).absolute() / "wafer"


def is_project(folder: Path) -> bool:
    """Whether suites lie in `folder`."""
    return any((folder / "expectations" / f"{kind}.json").is_file() for kind in ("training", "prediction"))


def own_or_default(project: Path | None, name: str) -> Path:
    """A file or folder of the project, such as `params.yaml`; the library's own where it has none."""
    own = None if project is None else project / name
    return own if own is not None and own.exists() else DEFAULTS / name


def prepare_environment() -> Settings:
    """Give Prefect, MLflow and DVC their quiet, private and patient defaults; variables that are set stay.

    Must run before Prefect is imported, which reads its settings once, at import. Makes no folder: see
    `make_prefect_home`.

    Raises:
        SettingsError: a variable cannot be used.
    """
    settings = Settings.read()
    defaults = dict(QUIET)
    if settings.prefect_url is None:
        os.environ.pop("PREFECT_API_URL", None)  # an empty one is no address to Prefect, but unset here
        # the server writes on the terminal of the run, whose own error says what its tracebacks would
        quiet = {"PREFECT_LOGGING_LEVEL": "WARNING", "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL"}
        quiet["PREFECT_LOGGING_TO_API_ENABLED"] = "false"  # nobody reads them there
        defaults |= {"PREFECT_HOME": str(settings.prefect_home), **quiet}
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
