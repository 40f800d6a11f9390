"""What left control among batches that follow each other, by the names of batches and wafers, as files."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wafer.learning.checks import chosen_sensors
from wafer.records import UNITS, with_units
from wafer.scoring.bundle import Bundle
from wafer.storage import AnyPath, write_text

LEAD = 100  # wafers before a batch with which its sensors' charts begin
FRAMES = ("wafers", "sensors", "contributions", "batches")


def file_name(frame: str) -> str:
    """The file of one of `FRAMES` among the details of a run."""
    return f"monitor_{frame}.csv"


@dataclass(frozen=True)
class Control:
    """What left control among some batches; the frames of `wafer.diagnosis.monitoring.Monitored` with names for rows.

    Attributes:
        wafers: batch, Wafer and the columns of `Monitored.wafers`, in production order within each batch.
        sensors: batch, and the columns of `Monitored.sensors`, first and last being wafers' ids.
        contributions: batch, Wafer, chart, rank, sensor, contribution.
        batches: the columns of `Monitored.batches`.
    """

    wafers: pd.DataFrame
    sensors: pd.DataFrame
    contributions: pd.DataFrame
    batches: pd.DataFrame

    def write(self, folder: AnyPath) -> None:
        """Write each frame as a CSV into `folder`, whole or not at all."""
        for frame in FRAMES:
            table: pd.DataFrame = getattr(self, frame)
            write_text(folder / file_name(frame), table.to_csv(index=False, lineterminator="\n"))


class ControlLog:
    """Batches as the monitor of a model sees them, added one by one in production order.

    The charts of a batch's sensors begin with the last wafers of those that were added before it.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._ids, self._readings = np.array([], dtype=object), np.empty((0, len(bundle.classifier.sensor_names_)))
        self._frames: dict[str, list[pd.DataFrame]] = {frame: [] for frame in FRAMES}

    def add(self, batch: str, wafers: pd.DataFrame) -> dict[str, int]:
        """Look at one batch: columns wafer, order and the sensors; how many wafers are beyond the limits, by chart.

        Of a model without a monitor nothing is told.

        Raises:
            UnknownSensorsError: the model needs sensors that the batch lacks.
        """
        monitor, names = self.bundle.monitor, self.bundle.classifier.sensor_names_
        if monitor is None:
            return {}
        wafers = wafers.sort_values("order", kind="stable", ignore_index=True)
        ids, readings = wafers["wafer"].to_numpy(object), np.asarray(chosen_sensors(wafers, names), np.float64)
        past = ~np.isin(self._ids, ids)
        before, labels = self._readings[past], np.full(len(ids), batch, dtype=object)
        found = monitor.watch(readings, names, batches=labels, before=before)
        self._ids = np.concatenate([self._ids[past], ids])[-LEAD:]
        self._readings = np.vstack([before, readings])[-LEAD:]
        rows = found.contributions["row"].to_numpy(np.int64)
        places = {end: ids[found.sensors[end].to_numpy(np.int64)] for end in ("first", "last")}
        self._frames["wafers"].append(found.wafers.assign(batch=batch, Wafer=ids))
        self._frames["sensors"].append(found.sensors.assign(batch=batch, **places))
        self._frames["contributions"].append(found.contributions.assign(batch=batch, Wafer=ids[rows]))
        self._frames["batches"].append(found.batches)
        (counts,) = found.batches[["t2", "spe"]].to_dict("records")
        return {str(chart): int(count) for chart, count in counts.items()}

    def control(self) -> Control:
        """What was found so far."""
        made: dict[str, Any] = {}
        for frame, parts in self._frames.items():
            columns = list(UNITS[f"details/{file_name(frame)}"])
            filled = [part for part in parts if len(part)]
            whole = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)
            made[frame] = with_units(whole[columns], f"details/{file_name(frame)}")
        return Control(**made)
