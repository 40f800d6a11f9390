"""Readings out of what clients send: straight to a matrix in the sequence of the model's sensors.

Doubles, as the CSV of a batch is read, so that a wafer gets the same probability here and in its batch.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from wafer.service.champion import Served
from wafer.service.problems import Problem
from wafer.service.scorer import Asked
from wafer.shown import shown_text

if TYPE_CHECKING:
    from wafer.contract.form import Form

MOST_WAFERS = 10_000
"""Of one request."""
MOST_EXTRA = 16
"""Columns of a CSV that are no sensors, such as the id and the label."""
READINGS = {float, int, type(None)}
SOME = 3

Floats = NDArray[np.float64]


def document(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        Problem: it is none.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("bad-request", f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem("unusable", f"the body is a JSON object, got {type(found).__name__}")
    return found


def asked(served: Served, rows: Any, order: Any = None) -> Asked:
    """Wafers out of rows: each a list of readings, null for missing, or an object of readings by sensor.

    Raises:
        Problem: they cannot be used.
    """
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_WAFERS:
        raise Problem("unusable", f"a request brings 1 to {MOST_WAFERS:,} wafers, as a list")
    if any(isinstance(row, dict) for row in rows):
        rows = [_by_name(served, row, number) for number, row in enumerate(rows)]
    return Asked(served, matrix(rows, len(served.columns)), orders(order, len(rows)))


def by_column(served: Served, columns: Any, data: Any) -> Asked:
    """Wafers out of a table: the names of its columns, and its rows.

    Raises:
        Problem: they cannot be used.
    """
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise Problem("unusable", "columns is a list of names")
    if not isinstance(data, list) or not 0 < len(data) <= MOST_WAFERS:
        raise Problem("unusable", f"a request brings 1 to {MOST_WAFERS:,} wafers, as a list")
    places = _places(served, columns)
    return Asked(served, np.ascontiguousarray(matrix(data, len(columns))[:, places]))


def by_sensor(served: Served, columns: Mapping[str, Any]) -> Asked:
    """Wafers out of an object that has a list of readings for each sensor.

    Raises:
        Problem: they cannot be used.
    """
    rows = [columns[name] for name in columns]
    lengths = {len(row) if isinstance(row, list) else 0 for row in rows}
    if len(lengths) != 1 or not 0 < next(iter(lengths)) <= MOST_WAFERS:
        raise Problem("unusable", f"each sensor has a list of 1 to {MOST_WAFERS:,} readings, all of one length")
    places = _places(served, list(columns))
    return Asked(served, np.ascontiguousarray(matrix(rows, next(iter(lengths))).T[:, places]))


def from_csv(served: Served, form: "Form | None", body: bytes) -> tuple[Asked, list[str] | None]:
    """Wafers out of a CSV with a header, and their ids where the agreed column is there; other columns are passed over.

    Raises:
        Problem: it cannot be used.
    """
    header = body[: body.find(b"\n") + 1 or len(body)].decode("utf-8", "replace").strip("\r\n\ufeff")
    if header.count(",") > len(served.columns) + MOST_EXTRA:
        raise Problem("unusable", f"the header has far more columns than the model's {len(served.columns)} sensors")
    names = [name.strip().strip('"') for name in header.split(",")]
    _places(served, [name for name in names if name in served.columns])
    ids = next((name for name in names if form is not None and name in form.wafer), None)
    types = dict.fromkeys(served.columns, pa.float64()) | ({} if ids is None else {ids: pa.string()})
    try:
        table = pacsv.read_csv(
            io.BytesIO(body),
            read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, use_threads=False),
            convert_options=pacsv.ConvertOptions(column_types=types, include_columns=list(types)),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise Problem("unusable", f"the CSV cannot be read: {shown_text(error)}") from None
    if not 0 < table.num_rows <= MOST_WAFERS:
        raise Problem("unusable", f"a request brings 1 to {MOST_WAFERS:,} wafers, got {table.num_rows:,}")
    readings = np.column_stack([table[name].to_numpy() for name in served.columns])
    return Asked(served, _finite(readings)), None if ids is None else table[ids].to_pylist()


def matrix(rows: Sequence[Any], width: int) -> Floats:
    """Rows of numbers, null for missing, as a matrix.

    Raises:
        Problem: they are no such rows.
    """
    for row in rows:
        if not isinstance(row, list) or len(row) != width:
            got = f"{len(row):,}" if isinstance(row, list) else "no list of readings"
            raise Problem("unusable", f"a wafer has {width} readings here, got {got}")
    if not set(map(type, chain.from_iterable(rows))) <= READINGS:  # before numpy makes each cell as wide as the widest
        raise Problem("unusable", "a reading is a number, or null where it is missing")
    return _finite(np.array(rows, dtype=np.float64))


def orders(order: Any, wafers: int) -> NDArray[np.int64] | None:
    """The production order that a request names; None where it names none.

    Raises:
        Problem: it does not fit.
    """
    if order is None:
        return None
    whole = isinstance(order, list) and all(type(one) is int and abs(one) < 2**62 for one in order)
    if not whole or len(order) != wafers:
        raise Problem("unusable", "the order is a whole number for each wafer")
    return np.array(order, dtype=np.int64)


def _finite(found: Floats) -> Floats:
    if np.isinf(found).any():
        raise Problem("unusable", "a reading is infinite")
    return found


def _by_name(served: Served, row: Any, number: int) -> list[Any]:
    if not isinstance(row, dict):
        raise Problem("unusable", f"wafer {number}: expected readings by sensor, as the others have them")
    _places(served, list(row))
    return [row[name] for name in served.columns]


def _places(served: Served, names: Sequence[str]) -> NDArray[np.intp]:
    """Where each of the model's sensors stands among `names`."""
    if names == served.names:  # as most clients have them; a look-up takes half a millisecond
        return np.arange(len(names))
    given = pd.Index(names)
    if not given.is_unique:
        raise Problem("unusable", f"a sensor is named twice: {shown_text(given[given.duplicated()][0])}")
    if len(unknown := given.difference(served.columns)):
        raise Problem("unusable", f"no sensor of the model is called {_some(unknown)}")
    places = given.get_indexer(served.columns)
    if (places < 0).any():
        raise Problem(
            "unusable", f"readings are missing of {_some(served.columns[places < 0])}; null marks a missing one"
        )
    return places


def _some(names: "pd.Index[str]") -> str:
    told = ", ".join(shown_text(name, 40) for name in names[:SOME])
    return f"{told} and {len(names) - SOME} more" if len(names) > SOME else told
