"""Reaching MLflow: quietly, refused quickly where it is not there, its errors turned into one clear sentence."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from wafer.addresses import REGISTRY, WEB, check_address, knock, missing_driver
from wafer.errors import RegistryError
from wafer.shown import masked
from wafer.storage import bucket_errors

FAILURES: tuple[type[Exception], ...] = (MlflowException, SQLAlchemyError, requests.RequestException, OSError)
QUIET_LOGGERS = ("alembic", "mlflow", "mlflow.store", "mlflow.utils", "mlflow.tracking")
# read by MLflow at each call; what the user has set stays
QUIET_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def silence() -> None:
    """Keep MLflow's and alembic's chatter from the user's terminal; their warnings and errors stay."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def prepare_place(tracking_uri: str, artifact_root: str | None) -> None:
    """Make the folders of an embedded registry, or knock at the door of a server.

    Raises:
        RegistryError: nothing answers within five seconds, or the place cannot be a registry.
        SettingsError: the address cannot be read.
    """
    scheme = urlsplit(tracking_uri).scheme
    if scheme in ("", "file"):
        raise RegistryError(
            f"the model registry cannot lie in {masked(tracking_uri)!r}: expected sqlite:///…, http(s)://… "
            "or another database"
        )
    check_address("MLFLOW_TRACKING_URI", tracking_uri, REGISTRY)
    if scheme.startswith("sqlite"):
        Path(tracking_uri.partition(":///")[2].partition("?")[0]).parent.mkdir(parents=True, exist_ok=True)
    elif why := (None if scheme in WEB else missing_driver(tracking_uri)) or knock(tracking_uri):
        raise RegistryError(f"the model registry at {masked(tracking_uri)} cannot be reached: {why}")
    if artifact_root is not None and urlsplit(artifact_root).scheme in ("", "file"):
        Path(artifact_root.removeprefix("file://")).mkdir(parents=True, exist_ok=True)


@contextmanager
def translated(uri: str, doing: str) -> Iterator[None]:
    """Turn what MLflow, its database, its bucket or the network raise into a `RegistryError` of one sentence."""
    try:
        yield
    except FAILURES + bucket_errors() as error:
        first_line = str(error).strip().partition("\n")[0].rstrip(".")
        raise RegistryError(f"the model registry at {masked(uri)} could not {doing}: {masked(first_line)}") from error
