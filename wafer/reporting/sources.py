"""What reports are made from: records, scores and models, in a folder or in S3."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
from upath import UPath

from wafer.errors import ReportError
from wafer.learning.model import WaferModel
from wafer.storage import local_folder
from wafer.store.snapshot import read_snapshot


def read_record(path: str | Path) -> Any:
    """The JSON document at `path`, a folder's or `s3://`; None where `path` is empty.

    Raises:
        ReportError: it is not there or is not JSON.
    """
    if not str(path):
        return None
    try:
        return json.loads(_bytes(path))
    except ValueError as error:
        raise ReportError(f"{path} is not JSON: {error}") from error


def read_scores(path: str | Path) -> pd.DataFrame:
    """The out-of-fold scores at `path`.

    Raises:
        ReportError: the file is not there.
    """
    return pd.read_parquet(io.BytesIO(_bytes(path)))


def _bytes(path: str | Path) -> bytes:
    try:
        return UPath(path).read_bytes()
    except FileNotFoundError as error:
        raise ReportError(f"{path} is not there: the report is made from it") from error


def read_model(folder: str | Path) -> WaferModel:
    """The saved model in `folder`; its digests are checked.

    Raises:
        ModelError: there is none, or it was changed.
    """
    with local_folder(UPath(folder)) as local:
        return WaferModel.load(local)


def read_wafers(snapshot: str | Path) -> pd.DataFrame:
    """The wafers of a snapshot, its values checked: wafer, order, batch, label and the sensors.

    Raises:
        SnapshotError: it is missing, or its values are not those of its manifest.
    """
    return read_snapshot(UPath(snapshot)).table
