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
from urllib3.exceptions import NewConnectionError
from urllib3.exceptions import TimeoutError as UnansweredError

from wafer.addresses import REGISTRY, WEB, check_address, knock, missing_driver
from wafer.errors import RegistryError
from wafer.shown import masked
from wafer.storage import bucket_errors

FAILURES: tuple[type[Exception], ...] = (MlflowException, SQLAlchemyError, requests.RequestException, OSError)
QUIET_LOGGERS = ("alembic", "mlflow", "mlflow.store", "mlflow.utils", "mlflow.tracking", "urllib3.connectionpool")
# read by MLflow at each call; what the user has set stays
QUIET_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # a server that hangs is told within half a minute
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "12",
}


def silence() -> None:
    """Keep MLflow's and alembic's chatter from the user's terminal; their warnings and errors stay."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def embedded_database(tracking_uri: str) -> Path | None:
    """The file of an embedded registry; None of a server."""
    if not urlsplit(tracking_uri).scheme.startswith("sqlite"):
        return None
    return Path(tracking_uri.partition(":///")[2].partition("?")[0])


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
    if (database := embedded_database(tracking_uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    elif why := (None if scheme in WEB else missing_driver(tracking_uri)) or knock(tracking_uri):
        told = f"the model registry at {masked(tracking_uri)} cannot be reached: {why}"
        raise RegistryError(told) from ConnectionError(why)
    if artifact_root is not None and urlsplit(artifact_root).scheme in ("", "file"):
        Path(artifact_root.removeprefix("file://")).mkdir(parents=True, exist_ok=True)


@contextmanager
def translated(uri: str, doing: str) -> Iterator[None]:
    """Turn what MLflow, its database, its bucket or the network raise into a `RegistryError` of one sentence."""
    try:
        yield
    except FAILURES + bucket_errors() as error:
        told = _unanswered(error) or masked(str(error).strip().partition("\n")[0].rstrip("."))
        raise RegistryError(f"the model registry at {masked(uri)} could not {doing}: {told}") from error


def _unanswered(error: BaseException) -> str | None:
    """Why a server gave no answer, known by the types of errors; None where it gave one."""
    cause: BaseException | None = error
    while not isinstance(cause, requests.ConnectionError | requests.Timeout):
        if cause is None:
            return None
        cause = cause.__cause__ or cause.__context__  # MLflow's own error holds no more than the text
    reason = getattr(cause.args[0], "reason", cause) if cause.args else cause
    if isinstance(cause, requests.exceptions.ProxyError):
        return "the proxy that HTTP_PROXY or HTTPS_PROXY names cannot be reached: start or unset it, or set NO_PROXY"
    if isinstance(cause, requests.exceptions.SSLError):
        return f"no trusted TLS connection could be made ({masked(str(reason))}): see whether it is http:// there"
    if isinstance(reason, requests.Timeout | UnansweredError):
        return "the server does not answer in time: see whether it hangs, and run this again"
    if isinstance(reason, NewConnectionError):
        return "nobody answers there: start the server, and run this again"
    return f"the connection broke ({masked(str(reason))}): see that it is a registry, and that it runs"
