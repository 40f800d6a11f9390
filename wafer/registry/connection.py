"""Reaching MLflow: quietly, refused quickly where it is not there, its errors turned into one clear sentence."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from wafer.errors import RegistryError
from wafer.shown import masked

CONNECT_SECONDS = 5.0
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
        RegistryError: nothing answers within five seconds, or the address cannot be used.
    """
    parts = urlsplit(tracking_uri)
    if parts.scheme.startswith("sqlite"):
        Path(tracking_uri.partition(":///")[2]).parent.mkdir(parents=True, exist_ok=True)
    elif parts.scheme in ("http", "https"):
        _knock(tracking_uri, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    elif parts.scheme in ("", "file"):
        raise RegistryError(
            f"the model registry cannot lie in {masked(tracking_uri)!r}: expected sqlite:///…, http(s)://… "
            "or another database"
        )
    if artifact_root is not None and urlsplit(artifact_root).scheme in ("", "file"):
        Path(artifact_root.removeprefix("file://")).mkdir(parents=True, exist_ok=True)


def _knock(uri: str, host: str | None, port: int) -> None:
    if host is None:
        raise RegistryError(f"the model registry's address {masked(uri)!r} names no host")
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise RegistryError(f"the model registry at {masked(uri)} cannot be reached: {error}") from error


@contextmanager
def translated(uri: str, doing: str) -> Iterator[None]:
    """Turn what MLflow, its database, its bucket or the network raise into a `RegistryError` of one sentence."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, requests.RequestException, BotoCoreError, ClientError, OSError) as error:
        first_line = str(error).strip().partition("\n")[0].rstrip(".")
        raise RegistryError(f"the model registry at {masked(uri)} could not {doing}: {masked(first_line)}") from error
