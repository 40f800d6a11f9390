"""What reviewers want to know of the readings of a delivery, gathered in one pass while the files go by.

For each file and sensor four numbers are kept: readings missing, lowest, median and highest reading, 16 bytes in all.
The usual range of a sensor comes from a fixed number of wafers, drawn evenly from all accepted files (reservoir
sampling, J. S. Vitter, 1985, algorithm R; seeded, so that the same files in the same order give the same ranges).
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wafer.contract.facts import Delivery
from wafer.contract.form import LABEL, WAFER
from wafer.intake.ingest import production_order

FENCE = 3.0  # interquartile ranges beyond the quartiles; "far out" in J. W. Tukey, Exploratory Data Analysis, 1977
MEDIAN_FENCE = 0.5
ANY_NUMBERED = re.compile(".*-(?P<number>[0-9]+)")
FEWEST = 30  # readings that a usual range takes, and that a file's median takes to be compared

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class DeliverySummary:
    """What `DeliveryStatistics` gathered.

    `files`: one row per file in the order of their coming: file, digest, delivered (ISO time or None), readable, order
    (its first wafer's place in the production, NaN if unknown), wafers, labelled, faulty, empty and constant (numbers
    of sensors), missing (share of readings), moved and outside (numbers of sensors, see `UsualRanges`), most_moved (up
    to five names). Of a file that could not be read, or has no wafer, all counts are 0.

    `sensors`: one row per sensor: missing (share), empty and constant (over all files), empty_files, constant_files,
    moved_files, outside_files, usual_low, usual_median, usual_high, lowest, highest, farthest (the reading farthest
    outside, NaN if none is), farthest_file, excess (how far outside, in widths of the usual range; infinite where that
    range is one value).

    `missing`: share of missing readings, shape (readable files, sensors); `sampled`: wafers behind the usual ranges.
    """

    files: pd.DataFrame
    sensors: pd.DataFrame
    missing: NDArray[np.float32]
    sampled: int


@dataclass
class DeliveryStatistics:
    """Statistics of files and sensors; `add` each delivery, then ask for the `summary`.

    `sensors` are the agreed ones in their order, `order` the agreement's rule of production order, `wafer_id` what it
    says of ids, `sample` the number of wafers behind the usual ranges.
    """

    sensors: Sequence[str]
    order: str = "wafer_number"
    wafer_id: re.Pattern[str] = ANY_NUMBERED
    sample: int = 2000
    seed: int = 0
    _files: list[dict[str, Any]] = field(default_factory=list, init=False, repr=False)
    _missing: list[NDArray[np.uint32]] = field(default_factory=list, init=False, repr=False)
    _levels: list[NDArray[np.float32]] = field(default_factory=list, init=False, repr=False)
    _seen: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        width = len(self.sensors)
        self._chance = np.random.default_rng(self.seed)
        self._kept = np.full((self.sample, width), np.nan, np.float32)
        self._lowest, self._highest = np.full(width, np.nan), np.full(width, np.nan)

    def add(self, delivery: Delivery, *, accepted: bool = True) -> None:
        """Take in one file; one that is not `accepted` is counted, but says nothing about what is usual."""
        table = delivery.table
        entry: dict[str, Any] = {
            "file": delivery.file,
            "digest": delivery.digest,
            "delivered": delivery.facts.get("delivered"),
            "readable": False,
            "order": np.nan,
        }
        entry |= dict.fromkeys(("wafers", "labelled", "faulty", "empty", "constant"), 0)
        if table is not None and table.num_rows:
            entry |= {"readable": True, "wafers": table.num_rows, "order": self._first(table, delivery.file)}
            entry |= _count_labels(table) | self._take(_readings(table, self.sensors), accepted)
        self._files.append(entry)

    def summary(self) -> DeliverySummary:
        """What was gathered up to now."""
        files, width = pd.DataFrame(self._files, columns=_FILE_COLUMNS), len(self.sensors)
        there = files["readable"].to_numpy(bool)
        wafers = files.loc[there, "wafers"].to_numpy(np.int64)
        missing = np.stack(self._missing) if self._missing else np.empty((0, width), np.uint32)
        levels = np.stack(self._levels) if self._levels else np.empty((0, 3, width), np.float32)
        usual = UsualRanges.of(self._kept[: min(self._seen, self.sample)])
        out, moved = _judge(usual, levels, missing, wafers)
        sensors = pd.DataFrame(
            {
                "missing": missing.sum(axis=0, dtype=np.int64) / max(int(wafers.sum()), 1),
                "empty": np.isnan(self._lowest) & bool(len(wafers)),
                "constant": (self._lowest == self._highest) & bool(wafers.sum() > 1),
                "empty_files": (missing == wafers[:, None]).sum(axis=0),
                "constant_files": ((levels[:, 0] == levels[:, 2]) & (wafers[:, None] - missing > 1)).sum(axis=0),
                "moved_files": (moved > 0).sum(axis=0),
                "outside_files": (out > 0).sum(axis=0),
                "usual_low": usual.low,
                "usual_median": usual.median,
                "usual_high": usual.high,
                "lowest": self._lowest,
                "highest": self._highest,
                **_farthest(usual, levels, out, files.loc[there, "file"].to_numpy(object)),
            },
            index=pd.Index(self.sensors, name="sensor"),
        )
        files = files.assign(missing=0.0, moved=0, outside=0, most_moved="")
        cells = np.maximum(wafers * max(width, 1), 1)
        files.loc[there, "missing"] = missing.sum(axis=1, dtype=np.int64) / cells
        files.loc[there, "moved"] = (moved > 0).sum(axis=1)
        files.loc[there, "outside"] = (out > 0).sum(axis=1)
        files.loc[there, "most_moved"] = _most(moved, self.sensors)
        share = (missing / np.maximum(wafers, 1)[:, None]).astype(np.float32)
        return DeliverySummary(files, sensors, share, min(self._seen, self.sample))

    def _first(self, table: pa.Table, file: str) -> float:
        with contextlib.suppress(ValueError, IndexError, OverflowError):
            return float(production_order(self.order, self.wafer_id, table[WAFER].to_pylist(), file).min())
        return float("nan")

    def _take(self, readings: Floats, accepted: bool) -> dict[str, int]:
        """Keep what is needed of readings of shape (wafers, sensors), columns contiguous."""
        ordered = np.sort(readings.T, axis=1)
        there = len(readings) - np.count_nonzero(np.isnan(ordered), axis=1)
        lowest, highest = ordered[:, 0], _at(ordered, there - 1)
        self._lowest, self._highest = np.fmin(self._lowest, lowest), np.fmax(self._highest, highest)
        self._missing.append((len(readings) - there).astype(np.uint32))
        self._levels.append(_narrow(np.stack([lowest, _at(ordered, (there - 1) // 2), highest])))
        if accepted:
            self._draw(readings)
        constant = (lowest == highest) & (there > 1)
        return {"empty": int((there == 0).sum()), "constant": int(constant.sum())}

    def _draw(self, readings: Floats) -> None:
        """Let each wafer so far have the same chance of being in the sample."""
        place = np.arange(self._seen, self._seen + len(readings))
        late = place >= self.sample
        place[late] = self._chance.integers(0, place[late] + 1)
        chosen = np.flatnonzero(place < self.sample)
        self._kept[place[chosen]] = _narrow(readings[chosen])
        self._seen += len(readings)


_FILE_COLUMNS = [
    "file", "digest", "delivered", "readable", "order", "wafers", "labelled", "faulty", "empty", "constant",
]  # fmt: skip


@dataclass(frozen=True)
class UsualRanges:
    """What is usual for each sensor, all of shape (sensors,), NaN where there are fewer than 30 readings.

    `low` to `high` is where readings usually are: up to three interquartile ranges beyond the quartiles, or from the
    1st to the 99th percentile where that is wider, as it is for a sensor that mostly shows one value. `median_low` to
    `median_high` is where a file's median usually is: up to half an interquartile range beyond the quartiles.
    """

    low: Floats
    median_low: Floats
    median: Floats
    median_high: Floats
    high: Floats

    @classmethod
    def of(cls, readings: Floats) -> "UsualRanges":
        """The ranges of readings of shape (wafers, sensors)."""
        ordered = np.sort(readings.T.astype(float), axis=1)
        there = len(readings) - np.count_nonzero(np.isnan(ordered), axis=1)
        enough = np.where(there >= FEWEST, there, 0)
        first, lower, median, upper, last = (_quantile(ordered, enough, q) for q in (0.01, 0.25, 0.5, 0.75, 0.99))
        width = upper - lower
        low, high = np.fmin(lower - FENCE * width, first), np.fmax(upper + FENCE * width, last)
        return cls(low, lower - MEDIAN_FENCE * width, median, upper + MEDIAN_FENCE * width, high)

    def outside(self, lowest: Floats, highest: Floats) -> Floats:
        """How far readings are outside of `low` to `high`, in widths of that range; 0 where they are not."""
        return _excess(np.fmax(self.low - lowest, highest - self.high), self.high - self.low)

    def moved(self, medians: Floats, there: NDArray[np.integer[Any]]) -> Floats:
        """How far medians of `there` readings are outside of `median_low` to `median_high`, in widths of that range."""
        beyond = np.fmax(self.median_low - medians, medians - self.median_high)
        return _excess(np.where(there >= FEWEST, beyond, 0.0), self.median_high - self.median_low)


def _excess(beyond: Floats, width: Floats) -> Floats:
    most = np.finfo(np.float32).max
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(beyond > 0, beyond / width, 0.0)
    return np.where(np.isinf(excess), excess, np.minimum(excess, most))


def _judge(
    usual: UsualRanges, levels: Floats, missing: NDArray[np.uint32], wafers: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far outside and how far moved each sensor of each file is; file by file, to hold no more than the result."""
    out, moved = np.zeros(missing.shape, np.float32), np.zeros(missing.shape, np.float32)
    for file, (lowest, median, highest) in enumerate(levels):
        out[file] = usual.outside(lowest, highest)
        moved[file] = usual.moved(median, wafers[file] - missing[file])
    return out, moved


def _farthest(usual: UsualRanges, levels: Floats, out: Floats, files: NDArray[Any]) -> dict[str, Any]:
    """Of each sensor the reading farthest outside, its file, and how far outside it is."""
    width = out.shape[1]
    excess = out.max(axis=0, initial=0.0)
    if not len(out):
        return {"farthest": np.full(width, np.nan), "farthest_file": [""] * width, "excess": excess.astype(float)}
    where = out.argmax(axis=0)
    lowest, highest = (levels[where, level, np.arange(width)] for level in (0, 2))
    beneath = ~(highest - usual.high >= usual.low - lowest)
    values = np.where(excess > 0, np.where(beneath, lowest, highest), np.float32(np.nan))
    farthest = [float(str(value)) for value in values]  # 4.1955 stays 4.1955, and is not 4.195499897
    names = [name if far > 0 else "" for name, far in zip(files[where], excess, strict=True)]
    return {"farthest": farthest, "farthest_file": names, "excess": excess.astype(float)}


def _most(moved: Floats, sensors: Sequence[str], most: int = 5) -> list[str]:
    ranked = np.argsort(-moved, axis=1, kind="stable")[:, :most]
    return [", ".join(sensors[at] for at in row if moved[file, at] > 0) for file, row in enumerate(ranked)]


def _quantile(ordered: Floats, there: NDArray[np.int64], share: float) -> Floats:
    place = share * np.maximum(there - 1, 0)
    low = np.floor(place).astype(np.int64)
    below, above = _at(ordered, np.where(there > 0, low, -1)), _at(ordered, np.minimum(low + 1, there - 1))
    return below + (place - low) * (above - below)


def _at(ordered: Floats, place: NDArray[np.int64]) -> Floats:
    """One value of each row, NaN where its place is negative."""
    if not ordered.shape[1]:
        return np.full(len(ordered), np.nan)
    values = ordered[np.arange(len(ordered)), np.maximum(place, 0)]
    return np.where(place < 0, np.nan, values)


def _narrow(values: Floats) -> NDArray[np.float32]:
    most = np.finfo(np.float32).max
    return np.clip(values, -most, most).astype(np.float32)


def _readings(table: pa.Table, sensors: Sequence[str]) -> Floats:
    """Shape (wafers, sensors), columns contiguous, NaN where missing."""
    batch = table.select(list(sensors)).combine_chunks().to_batches()[0]
    return np.asarray(batch.to_tensor(null_to_nan=True, row_major=False))


def _count_labels(table: pa.Table) -> dict[str, int]:
    place = table.schema.get_field_index(LABEL)
    if place < 0:
        return {}
    labels = table.column(place)
    faulty = pc.sum(pc.equal(labels, 1)).as_py() or 0
    return {"labelled": table.num_rows - labels.null_count, "faulty": faulty}
