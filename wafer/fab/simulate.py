"""A synthetic fab: batch files in the delivered format, as hard as real ones, the same for the same seed.

A fab is drawn once from its seed (`Fab`): which sensors are constant, which move together, which are often missing or
arrive later, how each looks (level, spread, skew, decimals) and which sensors speak of which kind of fault. A batch is
then drawn from the seed and its own number alone, so that any batch can be made without those before it. Time is
counted in batches, whatever their size.

What makes the data hard is what makes the real data hard: the process wanders, the share of faults changes with time,
only a part of the faults shows in any sensor, and each kind of fault has its season. A model that may learn from all
seasons (shuffled folds) is better than one that knows the past only (forward). Faults are spread evenly over kinds by a
low-discrepancy sequence (M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018), so that a small
fab is as hard with one seed as with another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from wafer.errors import ParameterError
from wafer.storage import AnyPath, write_bytes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SENSORS = 590
SENSOR_NAMES = tuple(f"Sensor-{number}" for number in range(1, SENSORS + 1))
CONSTANT_SENSORS = 116
ARRIVAL = 7  # the first batch in which the late sensors give readings
LAST_BATCH = 99_999  # one batch a day: the year 2293
MOST_WAFERS = 10_000  # of a batch file
FAULT_RATE = 0.06

# Sensors that are measured, and go missing, together: (how many sensors, share of wafers without a reading).
LATE_GROUPS = ((4, 0.76), (12, 0.55))
STRUCTURAL_GROUPS = ((4, 0.90), (4, 0.61), (4, 0.57))
SCATTERED_GROUPS = ((8, 0.18), (12, 0.17), (8, 0.04), (168, 0.008), (330, 0.001))

# Share of each recipe among the wafers; recipes shift many sensors and so make clusters.
RECIPES = (0.5, 0.3, 0.2)
# The share of faults swings over twelve batches around FAULT_RATE; the factors' mean is 1.
FAULT_SEASONS = (0.6, 2.0, 1.4, 1.0, 0.8, 0.6, 0.7, 0.5, 0.7, 1.2, 1.4, 1.1)

# Kinds of faults: one that is always there and others that follow each other, each with its own planted sensors.
KINDS = 6
PLANTED_PER_KIND = 6
KIND_SPACING = 2.4  # batches from the height of one kind's season to that of the next
SEASON_SHARPNESS = 2.0  # how clearly one season ends before the next
STEADY_WEIGHT = 0.1
EXPLAINED_SHARE = 0.73  # of the faults; nothing in the readings speaks of the others
FAULT_SHIFT = 2.7  # of a planted sensor in an explained fault, in standard deviations of the sensor within a batch

FIRST_DAY = datetime(2020, 1, 1)
WEEK = 7
FIRST_STEP, SECOND_STEP = 0.7548776662466927, 0.5698402909980532  # of Roberts' two-dimensional sequence, R2


@dataclass(frozen=True)
class Fab:
    """What stays the same in one simulated fab; arrays have one entry per sensor (590) unless said otherwise.

    `planted` has shape (KINDS, PLANTED_PER_KIND) and holds column numbers, `recipe_shift` has shape (recipes, 590).
    """

    constant: NDArray[np.bool_]
    level: Floats
    spread: Floats
    skew: Floats
    decimals: Ints
    module: Ints
    loading: Floats
    module_drift: Floats
    own_drift: Floats
    recipe_shift: Floats
    missing_group: Ints
    missing_share: Floats  # per group
    late: NDArray[np.bool_]
    planted: Ints
    planted_sign: Floats


def _random(seed: int, purpose: str, number: int = 0) -> np.random.Generator:
    """A generator of its own for each purpose and number, so that no draw depends on another."""
    return np.random.default_rng(np.random.SeedSequence([seed, *purpose.encode(), number]))


@lru_cache(maxsize=8)
def build_fab(seed: int) -> Fab:
    """Draw the fab of a seed."""
    rng = _random(seed, "fab")
    shuffled = rng.permutation(SENSORS)
    constant = np.zeros(SENSORS, dtype=bool)
    constant[shuffled[:CONSTANT_SENSORS]] = True
    group, share, late = _missing_groups(rng, shuffled[CONSTANT_SENSORS:])
    module, loading = _modules(rng)
    level, spread, skew, decimals = _appearance(rng, constant)
    common = np.flatnonzero(~constant & (share[group] < 0.03) & (loading < 0.75))
    planted = rng.choice(common, size=(KINDS, PLANTED_PER_KIND), replace=False)
    # planted sensors are alike, so that a fab of one seed is as hard as that of another
    spread[planted] = np.maximum(spread[planted], 0.02)
    skew[planted], decimals[planted], loading[planted] = 0.0, 4, 0.5
    modules = int(module.max()) + 1
    drift = np.where(rng.random(modules) < 0.6, rng.uniform(0.3, 1.0, modules), 0.0)[module]
    recipe_shift = rng.normal(0.0, 1.5, (len(RECIPES), modules)) * (rng.random(modules) < 0.5)
    recipe_shift = recipe_shift[:, module]
    drift[planted], recipe_shift[:, planted] = 0.6, 0.0
    return Fab(
        constant=constant,
        level=level,
        spread=spread,
        skew=skew,
        decimals=decimals,
        module=module,
        loading=loading,
        module_drift=drift,
        own_drift=drift * np.sqrt(1 - loading**2),
        recipe_shift=recipe_shift,
        missing_group=group,
        missing_share=share,
        late=late,
        planted=planted,
        planted_sign=rng.choice([-1.0, 1.0], size=planted.shape),
    )


def _missing_groups(rng: np.random.Generator, varying: Ints) -> tuple[Ints, Floats, NDArray[np.bool_]]:
    """Group number of each sensor, share of missing readings per group, and which sensors arrive late.

    Structurally missing sensors are taken from those that vary; group 0 is never missing.
    """
    group = np.zeros(SENSORS, dtype=np.int64)
    late = np.zeros(SENSORS, dtype=bool)
    rare = LATE_GROUPS + STRUCTURAL_GROUPS
    rare_total = sum(size for size, _ in rare)
    late[varying[: sum(size for size, _ in LATE_GROUPS)]] = True
    others = rng.permutation(np.setdiff1d(np.arange(SENSORS), varying[:rare_total]))
    sensors = np.concatenate([varying[:rare_total], others])
    share, start = [0.0], 0
    for size, missing in rare + SCATTERED_GROUPS:
        # a group of many sensors is several tools that fail apart from each other
        for part in np.array_split(sensors[start : start + size], max(1, size // 12)):
            group[part] = len(share)
            share.append(missing)
        start += size
    return group, np.array(share), late


def _modules(rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Module (process tool) of each sensor, about five sensors each, and how strongly the sensor follows it."""
    module = rng.permutation(np.arange(SENSORS) // 5)
    tight = rng.choice([0.985, 0.9, 0.6, 0.3], size=module.max() + 1, p=[0.25, 0.2, 0.25, 0.3])
    return module, np.clip(tight[module] + rng.normal(0, 0.005, SENSORS), 0.0, 0.995)


def _appearance(rng: np.random.Generator, constant: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats, Ints]:
    """Level, spread, skew and number of decimals of each sensor; a constant sensor reads 0, with few exceptions."""
    level = 10.0 ** rng.normal(0.3, 1.4, SENSORS).clip(-2.0, 3.6)
    spread = np.maximum(level * rng.uniform(0.03, 0.35, SENSORS), 0.002)
    level *= rng.choice([1.0, -1.0], size=SENSORS, p=[0.96, 0.04])
    skew = np.where(rng.random(SENSORS) < 0.5, rng.uniform(0.2, 0.6, SENSORS), 0.0)
    decimals = np.where(np.abs(level) > 300, rng.choice([4, 2, 0], size=SENSORS), 4)
    level[constant] = rng.permutation(np.resize([100.0, 70.0, 1.0, 1.0] + [0.0] * 112, constant.sum()))
    spread[constant] = 0.0
    return level, spread, skew, decimals.astype(np.int64)


def planted_sensors(seed: int) -> tuple[str, ...]:
    """Names of the sensors that speak of faults in the fab of this seed, in the order of their numbers.

    Raises:
        ParameterError: the seed is not a whole number of at least 0.
    """
    _require("seed", seed, 0)
    return tuple(SENSOR_NAMES[column] for column in np.sort(build_fab(seed).planted, axis=None))


def simulate_frame(batch: int, *, wafers: int, seed: int) -> pd.DataFrame:
    """The wafers of one batch as they would be read back from its file.

    Args:
        batch: number of the batch in production order, from 0.
        wafers: number of wafers in every batch of this fab.
        seed: names the fab.

    Returns:
        A frame of `wafers` rows with the columns `wafer` (`Wafer-<n>`, numbered in production order through all
        batches), `Sensor-1` to `Sensor-590` (float64, NaN where missing) and `label` (int8, +1 faulty, -1 good).

    Raises:
        ParameterError: an argument is out of range.
    """
    _require("wafers", wafers, 1, MOST_WAFERS)
    _require("batch", batch, 0, LAST_BATCH)
    _require("seed", seed, 0)
    readings, labels = _draw(build_fab(seed), batch, wafers, seed)
    frame = pd.DataFrame(readings, columns=list(SENSOR_NAMES))
    frame.insert(0, "wafer", _wafer_ids(batch, wafers))
    frame["label"] = labels
    return frame


def _wafer_ids(batch: int, wafers: int) -> list[str]:
    return [f"Wafer-{number}" for number in range(batch * wafers + 1, (batch + 1) * wafers + 1)]


def _draw(fab: Fab, batch: int, wafers: int, seed: int) -> tuple[Floats, NDArray[np.int8]]:
    """Readings (wafers, 590) and labels (wafers,) of one batch."""
    rng = _random(seed, "batch", batch)
    time = batch + (np.arange(wafers) + 0.5) / wafers
    recipe = rng.choice(len(RECIPES), size=wafers, p=RECIPES)
    modules = rng.standard_normal((wafers, fab.module.max() + 1))
    own = rng.standard_normal((wafers, SENSORS))
    state = fab.loading * modules[:, fab.module] + np.sqrt(1 - fab.loading**2) * own
    outlying = rng.random((wafers, SENSORS)) < 0.001
    state[outlying] *= 4.0
    labels = _plant_faults(fab, rng, batch, wafers, state)
    state += fab.recipe_shift[recipe]
    state += fab.module_drift * _wander(seed, "module", time, fab.module.max() + 1, 5.0)[:, fab.module]
    state += fab.own_drift * _wander(seed, "sensor", time, SENSORS, 3.0)
    skewed = np.expm1(fab.skew * state) / np.where(fab.skew > 0, fab.skew, 1.0)
    values = fab.level + fab.spread * np.where(fab.skew > 0, skewed, state)
    readings = _round(values, fab.decimals)
    readings[_missing(fab, rng, batch, wafers)] = np.nan
    return readings, labels


def _round(values: Floats, decimals: Ints) -> Floats:
    """Each column rounded to its number of decimals, without negative zeros."""
    rounded = np.round(values, 4)
    for places in (2, 0):
        columns = decimals == places
        rounded[:, columns] = np.round(values[:, columns], places)
    return rounded + 0.0


def _wander(seed: int, purpose: str, time: Floats, size: int, spacing: float) -> Floats:
    """Slow drift without end and without trend: `size` curves at the given times, shape (times, size).

    Random knots every `spacing` batches, joined smoothly; each knot can be drawn without those before it.
    """
    position = time / spacing
    first = int(position[0])
    knots = np.stack(
        [_random(seed, purpose, number).standard_normal(size) for number in range(first, int(position[-1]) + 2)]
    )
    index = position.astype(np.int64) - first
    weight = (1 - np.cos(np.pi * (position % 1.0)))[:, None] / 2
    return knots[index] * (1 - weight) + knots[index + 1] * weight


def _missing(fab: Fab, rng: np.random.Generator, batch: int, wafers: int) -> NDArray[np.bool_]:
    """Which readings are missing, shape (wafers, 590): a group's readings are missing together."""
    absent = rng.random((wafers, len(fab.missing_share))) < fab.missing_share
    missing = absent[:, fab.missing_group]
    if batch < ARRIVAL:
        missing[:, fab.late] = True
    return missing


def _faults_before(batch: int, wafers: int) -> int:
    """Number of faulty wafers in all batches before this one."""
    cycles, rest = divmod(batch, len(FAULT_SEASONS))
    seasons = cycles * sum(FAULT_SEASONS) + sum(FAULT_SEASONS[:rest])
    return round(FAULT_RATE * wafers * seasons)


def _plant_faults(fab: Fab, rng: np.random.Generator, batch: int, wafers: int, state: Floats) -> NDArray[np.int8]:
    """Choose the batch's faulty wafers and move their planted sensors in `state` (wafers, 590); returns the labels."""
    before, after = _faults_before(batch, wafers), _faults_before(batch + 1, wafers)
    faulty = np.sort(rng.permutation(wafers)[: after - before])
    labels = np.full(wafers, -1, dtype=np.int8)
    labels[faulty] = 1
    number = np.arange(before, before + len(faulty))
    explained = (0.5 + number * FIRST_STEP) % 1.0 < EXPLAINED_SHARE
    bounds = np.cumsum(_kind_weights(batch))
    kind = np.searchsorted(bounds, (0.5 + number * SECOND_STEP) % 1.0 * bounds[-1], side="right")
    shift = FAULT_SHIFT * rng.gamma(20.0, 1 / 20.0, len(faulty)) * explained
    columns = fab.planted[kind]
    state[faulty[:, None], columns] += shift[:, None] * fab.planted_sign[kind]
    return labels


def _kind_weights(batch: int) -> Floats:
    """How common each kind of fault is at the time of a batch: the first always, the others in turn."""
    cycle = KIND_SPACING * (KINDS - 1)
    heights = KIND_SPACING * (np.arange(KINDS - 1) + 0.5)
    apart = np.abs((batch + 0.5 - heights + cycle / 2) % cycle - cycle / 2)
    seasonal = np.maximum(0.0, 1 - apart / KIND_SPACING) ** SEASON_SHARPNESS
    return np.concatenate([[STEADY_WEIGHT], (1 - STEADY_WEIGHT) * seasonal / seasonal.sum()])


def batch_file_name(batch: int, seed: int) -> str:
    """Name of a batch's file: a date of its own and a time. As in a real fab, dates are not in production order."""
    week, day = divmod(batch, WEEK)
    days = _random(seed, "week", week).permutation(WEEK)
    seconds = int(_random(seed, "clock", batch).integers(24 * 3600))
    return f"wafer_{FIRST_DAY + timedelta(days=int(week * WEEK + days[day]), seconds=seconds):%d%m%Y_%H%M%S}.csv"


def header_line(labelled: bool) -> str:
    """First line of a delivered file, without its line end: the wafer's column has an empty name."""
    return ",".join(["", *SENSOR_NAMES, *(["Good/Bad"] if labelled else [])])


def _encode(batch: int, wafers: int, readings: Floats, labels: NDArray[np.int8] | None) -> bytes:
    """A batch as the bytes of a delivered file; pyarrow writes each number with as few digits as it has."""
    cells = pa.array(readings.ravel(), from_pandas=True).cast(pa.string()).fill_null("").to_pylist()
    edges = range(0, len(cells) + 1, SENSORS)
    rows = [",".join(cells[start:end]) for start, end in pairwise(edges)]
    ends = [f",{label}" for label in labels] if labels is not None else [""] * wafers
    ids = _wafer_ids(batch, wafers)
    lines = [f"{name},{row}{end}" for name, row, end in zip(ids, rows, ends, strict=True)]
    return "\r\n".join([header_line(labels is not None), *lines, ""]).encode()


def simulate_batches(
    out: AnyPath, *, batches: int, wafers: int, seed: int, labelled: bool = True, first_batch: int = 0
) -> Iterator[AnyPath]:
    """Write batch files in the delivered format into `out`, one by one as the result is iterated.

    Args:
        out: folder of the files; made where it is missing.
        batches: how many files, at least 1.
        wafers: wafers in each, at least 1; must stay the same for one fab.
        seed: names the fab, at least 0; the same arguments give the same bytes.
        labelled: False leaves the column `Good/Bad` away, as in deliveries for prediction.
        first_batch: number of the first batch in production order; deliveries for prediction go on where the
            training ended.

    Returns:
        An iterator over the paths of the files, each complete when it is handed out.

    Raises:
        ParameterError: an argument is out of range (raised at the call, before anything is written).
    """
    _require("batches", batches, 1)
    _require("wafers", wafers, 1, MOST_WAFERS)
    _require("seed", seed, 0)
    _require("first_batch", first_batch, 0)
    _require("first_batch + batches - 1", first_batch + batches - 1, 0, LAST_BATCH)
    return _write(out, range(first_batch, first_batch + batches), wafers, seed, labelled)


def _write(out: AnyPath, numbers: range, wafers: int, seed: int, labelled: bool) -> Iterator[AnyPath]:
    fab = build_fab(seed)
    for batch in numbers:
        readings, labels = _draw(fab, batch, wafers, seed)
        path = out / batch_file_name(batch, seed)
        write_bytes(path, _encode(batch, wafers, readings, labels if labelled else None))
        yield path


def _require(name: str, value: int, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ParameterError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if most is not None and value > most:
        raise ParameterError(f"{name} must be at most {most}, got {value!r}")
