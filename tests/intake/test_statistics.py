"""What is gathered of the readings of a delivery while its files go by."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from wafer.contract.facts import Delivery
from wafer.intake.statistics import DeliveryStatistics, DeliverySummary, UsualRanges

SENSORS = ["Sensor-1", "Sensor-2", "Sensor-3", "Sensor-4"]


def deliver(file: str, readings: np.ndarray | None, first: int = 1, labels: list[int] | None = None) -> Delivery:
    table = None
    if readings is not None:
        columns: dict[str, pa.Array] = {"wafer": pa.array([f"Wafer-{first + n}" for n in range(len(readings))])}
        columns |= {name: pa.array(readings[:, at], from_pandas=True) for at, name in enumerate(SENSORS)}
        if labels is not None:
            columns["label"] = pa.array(labels, pa.int8())
        table = pa.table(columns)
    return Delivery(Path(file), file, f"digest of {file}", {"delivered": None}, table)


def ordinary(count: int, seed: int) -> np.ndarray:
    """Sensor-1 and -2 vary, Sensor-3 is constant, Sensor-4 is empty."""
    readings = np.random.default_rng(seed).uniform(0, 1, (count, 4))
    readings[:, 2], readings[:, 3] = 7.0, np.nan
    return readings


def summed(*deliveries: Delivery, **options: int) -> DeliverySummary:
    statistics = DeliveryStatistics(SENSORS, **options)
    for delivery in deliveries:
        statistics.add(delivery)
    return statistics.summary()


def test_counts_of_files() -> None:
    """Of each file wafers, labels, missing readings, empty and constant sensors are counted; a broken one counts 0."""
    readings = np.array([[1.0, 5, np.nan, np.nan], [2, 5, 3, np.nan]])
    summary = summed(deliver("a.csv", readings, 41, [1, -1]), deliver("broken.csv", None))
    files = summary.files.drop(columns="digest").astype(object)
    assert files.where(files.notna(), "none").to_dict("records") == [
        {
            "file": "a.csv", "delivered": "none", "readable": True, "order": 41.0, "wafers": 2, "labelled": 2,
            "faulty": 1, "empty": 1, "constant": 1, "missing": 0.375, "moved": 0, "outside": 0, "most_moved": "",
        },
        {
            "file": "broken.csv", "delivered": "none", "readable": False, "order": "none", "wafers": 0, "labelled": 0,
            "faulty": 0, "empty": 0, "constant": 0, "missing": 0.0, "moved": 0, "outside": 0, "most_moved": "",
        },
    ]  # fmt: skip
    assert summary.missing.tolist() == [[0.0, 0.0, 0.5, 1.0]]


def test_constant_and_empty_sensors() -> None:
    """A sensor is constant or empty where it is in all files, however often it is in some."""
    other = ordinary(40, 2)
    other[:, 1], other[:, 2] = 0.5, 8.0
    sensors = summed(deliver("a.csv", ordinary(40, 1)), deliver("b.csv", other)).sensors
    assert sensors[["constant", "empty", "constant_files", "empty_files"]].to_numpy().tolist() == [
        [False, False, 0, 0],
        [False, False, 1, 0],
        [False, False, 2, 0],
        [False, True, 0, 2],
    ]


def test_reading_far_outside_is_found() -> None:
    """One planted reading far outside is told with its file; nothing else is."""
    files = [ordinary(50, seed) for seed in range(20)]
    files[13][7, 1] = -99.5
    summary = summed(*(deliver(f"{number}.csv", readings) for number, readings in enumerate(files)))
    found = summary.sensors[summary.sensors["outside_files"] > 0]
    assert found[["outside_files", "moved_files", "farthest", "farthest_file"]].to_dict("index") == {
        "Sensor-2": {"outside_files": 1, "moved_files": 0, "farthest": -99.5, "farthest_file": "13.csv"}
    }
    assert found["excess"].item() > 10
    assert summary.files.loc[summary.files["outside"] > 0, "file"].tolist() == ["13.csv"]


def test_moved_sensor_is_found_among_five_files() -> None:
    """A sensor whose readings are higher in one file of five is told as moved there, and nowhere else."""
    files = [ordinary(100, seed) for seed in range(5)]
    files[3][:, 0] += 3
    summary = summed(*(deliver(f"{number}.csv", readings) for number, readings in enumerate(files)))
    assert summary.sensors["moved_files"].tolist() == [1, 0, 0, 0]
    assert summary.files["most_moved"].tolist() == ["", "", "", "Sensor-1", ""]


def test_rejected_file_says_nothing_of_what_is_usual() -> None:
    """The readings of a file that was turned away are judged, but change no usual range."""
    statistics, wild = DeliveryStatistics(SENSORS), ordinary(100, 9)
    wild[:, 0] = 1000
    statistics.add(deliver("good.csv", ordinary(100, 1)))
    before = statistics.summary()
    statistics.add(deliver("wild.csv", wild), accepted=False)
    after = statistics.summary()
    assert after.sensors["usual_high"].equals(before.sensors["usual_high"])
    assert (after.sampled, after.files["moved"].tolist()) == (100, [0, 1])


def test_too_few_readings_have_no_usual_range() -> None:
    """With fewer than thirty wafers nothing is called unusual."""
    readings = ordinary(29, 1)
    readings[0, 0] = 1e9
    sensors = summed(deliver("a.csv", readings)).sensors
    assert sensors["usual_low"].isna().all()
    assert sensors[["outside_files", "moved_files"]].to_numpy().sum() == 0


def test_sample_is_bounded_even_and_repeatable() -> None:
    """The usual range comes from as many wafers as asked for, from early and late files alike, the same each time."""
    numbered = [np.full((50, 4), float(number)) for number in range(200)]
    deliveries = [deliver(f"{number}.csv", readings) for number, readings in enumerate(numbered)]
    first, again = (summed(*deliveries, sample=500) for _ in range(2))
    assert first.sampled == 500
    assert first.sensors["usual_median"].iloc[0] == pytest.approx(100, abs=12)
    assert first.sensors.equals(again.sensors)


def test_columns_in_another_order() -> None:
    """The order of a table's columns does not matter."""
    delivery = deliver("a.csv", ordinary(40, 1), labels=[-1] * 40)
    assert delivery.table is not None
    turned = Delivery(
        delivery.path,
        "a.csv",
        delivery.digest,
        delivery.facts,
        delivery.table.select(delivery.table.column_names[::-1]),
    )
    assert summed(turned).sensors.equals(summed(delivery).sensors)


def test_usual_range_of_a_sensor_that_mostly_shows_one_value() -> None:
    """Where the quartiles are one value, the percentiles say what is usual."""
    readings = np.zeros((1000, 1))
    readings[:50, 0] = np.arange(50)
    usual = UsualRanges.of(readings)
    assert (usual.low.item(), usual.median.item(), usual.high.item()) == (0, 0, pytest.approx(40, abs=1))


def test_extreme_readings() -> None:
    """Readings beyond single precision, and infinite ones of files turned away, do no harm."""
    readings = ordinary(40, 1)
    readings[0, 0], readings[1, 1] = 1e300, np.inf
    sensors = summed(deliver("a.csv", readings)).sensors
    assert sensors["highest"].tolist()[:2] == [1e300, np.inf]
    assert sensors["farthest_file"].tolist() == ["a.csv", "a.csv", "", ""]


def test_nothing_delivered() -> None:
    """Without a file the summary is empty, not an error."""
    summary = summed()
    assert (len(summary.files), summary.missing.shape, summary.sampled) == (0, (0, 4), 0)
    assert not summary.sensors[["empty", "constant"]].to_numpy().any()
