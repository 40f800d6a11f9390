from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.scoring.test_details import table
from wafer.errors import ReportError
from wafer.learning.checks import UnknownSensorsError
from wafer.learning.model import WaferModel
from wafer.reporting.deliveries import read_predictions
from wafer.reporting.findings import read_findings, with_findings
from wafer.reporting.process import read_control
from wafer.scoring.batches import judge_batch, result_rows
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.control import FRAMES, LEAD, ControlLog
from wafer.scoring.details import Details


@pytest.fixture(scope="module")
def bundle(wafers: Any, quick: dict[str, int]) -> Bundle:
    """Of wafers with enough good ones that every chart has its limits."""
    return fit_bundle(WaferModel(**quick), wafers.X, wafers.y, wafers.order, reasons=False)


def in_control(wafers: Any, first: int, count: int, **moved: float) -> pd.DataFrame:
    rows = np.random.default_rng(first).choice(np.flatnonzero(wafers.y == -1), size=count)
    batch = table(wafers, slice(0, count), first=first)
    batch[wafers.X.columns] = wafers.X.to_numpy()[rows]
    return batch.assign(
        **{sensor.replace("_", "-"): batch[sensor.replace("_", "-")] + by for sensor, by in moved.items()}
    )


def test_charts_go_on_from_one_batch_to_the_next(bundle: Bundle, wafers: Any) -> None:
    """A step that lasts over batches of three wafers signals as it does in one batch of all; it is told by wafer."""
    assert bundle.monitor is not None
    whole = in_control(wafers, 1000, 60, Sensor_9=0.0)
    whole.loc[30:, "Sensor-9"] = whole["Sensor-9"].max() + 1.0
    small, large = ControlLog(bundle), ControlLog(bundle)
    large.add("all", whole)
    for start in range(0, 60, 3):
        small.add(f"b{start}", whole.iloc[start : start + 3])
    one, many = (log.control().sensors for log in (large, small))
    one, many = (frame[frame["sensor"] == "Sensor-9"] for frame in (one, many))
    assert len(one) and set(one["rule"]) == set(many["rule"])
    for rule, own in many.groupby("rule"):
        together = one[one["rule"] == rule].iloc[0]
        assert (own["first"].iloc[0], own["last"].iloc[-1]) == (together["first"], together["last"])
        assert own["wafers"].sum() == together["wafers"]
        assert int(together["first"].removeprefix("Wafer-")) >= 1030


def test_a_wafer_that_comes_again_is_no_past_of_itself(bundle: Bundle, wafers: Any) -> None:
    """The same batch twice is told the same; of the past no more than a few wafers are kept."""
    batch = in_control(wafers, 1000, 80)
    log = ControlLog(bundle)
    assert log.add("one", batch) == log.add("two", batch)
    assert len(log._ids) == len(log._readings) == 80
    log.add("three", in_control(wafers, 2000, 80))
    assert len(log._ids) == LEAD


def test_what_is_read_is_what_was_written(bundle: Bundle, wafers: Any, tmp_path: Path) -> None:
    """Every frame comes back bit for bit; a file that is not there is named."""
    log = ControlLog(bundle)
    log.add("calm", in_control(wafers, 1000, 40))
    counts = log.add("moved", in_control(wafers, 2000, 40, Sensor_6=40.0, Sensor_9=-40.0))
    made = log.control()
    made.write(tmp_path)
    found = read_control(tmp_path)
    for frame in FRAMES:
        pd.testing.assert_frame_equal(getattr(found, frame), getattr(made, frame), check_dtype=False, check_exact=True)
    beyond = made.wafers[made.wafers["batch"] == "moved"]
    assert counts == {name: int((beyond[name] > beyond[f"{name}_limit"]).sum()) for name in ("t2", "spe")}
    assert {"Sensor-6", "Sensor-9"} <= set(made.sensors.loc[made.sensors["batch"] == "moved", "sensor"])
    (tmp_path / "monitor_sensors.csv").unlink()
    with pytest.raises(ReportError, match=r"monitor_sensors\.csv is not there"):
        read_control(tmp_path)


def test_ids_and_names_come_back_as_they_are(bundle: Bundle, wafers: Any, tmp_path: Path) -> None:
    """Whatever they look like: leading zeros, an exponent, or what stands for missing elsewhere."""
    batch = in_control(wafers, 1000, 3, Sensor_6=40.0)
    batch["wafer"] = ["007", "1e5", "NA"]
    details = Details(bundle)
    details.add("2020", batch, judge_batch(bundle, batch, 1, reasons=True, drift=True))
    details.write(tmp_path)
    write = result_rows(batch, judge_batch(bundle, batch, 1))
    write.to_csv(tmp_path / "2020.csv", index=False)
    judged = with_findings(read_predictions(tmp_path, ["2020"]), read_findings(tmp_path))
    assert judged["Wafer"].tolist() == read_control(tmp_path).wafers["Wafer"].tolist() == ["007", "1e5", "NA"]
    assert judged["batch"].tolist() == ["2020"] * 3


def test_sensors_that_the_model_needs_are_named(bundle: Bundle, wafers: Any) -> None:
    """A batch of another agreement is refused in a sentence."""
    with pytest.raises(UnknownSensorsError, match="the wafers lack 1: Sensor-6"):
        ControlLog(bundle).add("b", in_control(wafers, 1000, 3).drop(columns="Sensor-6"))


def test_a_model_without_a_monitor_tells_nothing(wafers: Any, quick: dict[str, int], tmp_path: Path) -> None:
    """The files have their headers alone."""
    bare = fit_bundle(WaferModel(**quick), wafers.X, wafers.y, reasons=False)
    log = ControlLog(bare)
    assert log.add("b", table(wafers, slice(0, 10))) == {}
    log.control().write(tmp_path)
    assert all(getattr(read_control(tmp_path), frame).empty for frame in FRAMES)
