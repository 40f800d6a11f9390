"""The CSV files of a run, read back as the frames that they were written from."""

import io

import pandas as pd

from wafer.errors import ReportError
from wafer.records import UNITS, with_units
from wafer.storage import AnyPath

WORDS = frozenset({"name", "names", "text"})
"""Units of columns that are texts, whatever they look like: an id such as 007 or NA is neither a number nor missing."""


def read_frame(file: AnyPath, frame: str, gone: str) -> pd.DataFrame:
    """A CSV, local or S3, whose columns are those of `UNITS` for a frame of this name.

    Parameters:
        file: the CSV.
        frame: name of the frame.
        gone: what is told where the file is not there.

    Raises:
        ReportError: it is not there, or lacks a column.
    """
    units = UNITS[frame]
    texts = {column: str for column, unit in units.items() if unit in WORDS}
    missing = {column: [""] for column, unit in units.items() if unit not in WORDS}
    try:
        content = io.BytesIO(file.read_bytes())
    except FileNotFoundError as error:
        raise ReportError(f"{file} is not there: {gone}") from error
    table = pd.read_csv(content, dtype=texts, na_values=missing, keep_default_na=False)
    lacking = [column for column in units if column not in table.columns]
    if lacking:
        raise ReportError(f"{file} lacks the column {lacking[0]!r}, got {', '.join(table.columns)}")
    return with_units(table, frame)
