"""What is written down of a training, in the forms that MLflow takes: flat names, numbers, texts, files."""

import json
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param

from wafer.errors import ReportError
from wafer.registry.versions import TAG_LENGTH
from wafer.storage import AnyPath, local_folder

PARAM_LENGTH = 6000


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def as_metrics(values: Mapping[str, Any]) -> list[Metric]:
    """The finite numbers among nested `values`, by dotted name."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    numbers = {key: value for key, value in flatten(values).items() if isinstance(value, int | float | np.number)}
    return [Metric(key, float(value), now, 0) for key, value in numbers.items() if np.isfinite(value)]


def as_params(values: Mapping[str, Any]) -> list[Param]:
    """Nested `values` as texts, by dotted name."""
    return [Param(key, _text(value)[:PARAM_LENGTH]) for key, value in flatten(values).items()]


def write_files(folder: Path, files: Mapping[str, Path | pd.DataFrame]) -> None:
    """Write files and frames (.csv or .parquet) into `folder`."""
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pd.DataFrame):
            if target.suffix == ".csv":
                content.to_csv(target, index=False)
            else:
                content.to_parquet(target, index=False)
        elif content.is_dir():
            shutil.copytree(content, target)
        else:
            shutil.copyfile(content, target)


def draw(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures into `folder`, as .png where the name has no ending.

    Raises:
        ReportError: one cannot be drawn; those before it are written.
    """
    for name, figure in figures.items():
        file = folder / (name if Path(name).suffix else f"{name}.png")
        try:
            figure.savefig(file, bbox_inches="tight")
        except Exception as error:
            # whatever an artist of Matplotlib's raises; it may have begun the file
            file.unlink(missing_ok=True)
            raise ReportError(f"the figure {name} cannot be drawn: {type(error).__name__}: {error}") from error


def gather(files: Iterable[AnyPath], folder: Path) -> None:
    """Copy files and folders, local or in S3, into `folder`; each keeps its name.

    Raises:
        FileNotFoundError: one is not there.
    """
    for file in files:
        if file.is_dir():
            with local_folder(file) as here:
                shutil.copytree(here, folder / file.name)
        else:
            (folder / file.name).write_bytes(file.read_bytes())


def as_tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested `values` as texts that fit a tag, by dotted name."""
    return {key: _text(value)[:TAG_LENGTH] for key, value in flatten(values).items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
