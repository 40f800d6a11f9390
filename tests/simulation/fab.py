"""What the fab delivers, and what is therefore true of every wafer."""

import atexit
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.delivery import deliver

BOTH_LABELS = "wafer_04012020_120000.csv"
"""A training file by which a model can be told from chance."""


@dataclass(frozen=True)
class File:
    """One batch file: kind, name, bytes, and its readings and label by wafer as far as it can be read."""

    kind: str
    name: str
    data: bytes
    rows: dict[str, tuple[list[float], int | None]]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@cache
def place() -> Path:
    """A folder with two projects, `strict` and `lenient`, whose agreements differ, and the raw files."""
    folder = scratch("fab")
    deliver(folder)
    return folder


def scratch(name: str) -> Path:
    """A folder for what is made once; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix=f"simulated-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def files() -> tuple[File, ...]:
    """All that may be delivered, training before prediction, by name."""
    found = sorted((place() / "raw").glob("*/*.csv"))
    return tuple(File(f.parent.name, f.name, f.read_bytes(), _rows(f.read_text(), f.parent.name)) for f in found)


def _rows(text: str, kind: str) -> dict[str, tuple[list[float], int | None]]:
    rows: dict[str, Any] = {}
    for line in text.splitlines()[1:]:
        wafer, *values = line.split(",")
        try:
            label = int(values.pop()) if kind == "training" else None
            rows[wafer] = ([float(value or "nan") for value in values], label)
        except (ValueError, IndexError):
            continue  # no wafer, or one that is dropped
    return rows


def listed(values: list[float]) -> str:
    """Readings in a form that can be compared, NaN included."""
    return json.dumps(values)
