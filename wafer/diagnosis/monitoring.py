"""Has the process left control? T² and SPE of all sensors together, and a control chart of each, in one look.

Both are learned from the good wafers of a training (phase I) and stay as they are for those that come later (phase II):
`wafer.diagnosis.multivariate` for all sensors together, `wafer.diagnosis.charts` for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from wafer.diagnosis.charts import ControlCharts
from wafer.diagnosis.multivariate import PcaCharts
from wafer.records import with_units

Floats = NDArray[np.float64]

NAMED = 3  # sensors that are named for a wafer or a batch
CHARTS = ("T²", "SPE")


@dataclass(frozen=True)
class Monitored:
    """What left control among some wafers, and when. A row is the position of a wafer, counted from 0.

    Attributes:
        wafers: t2, t2_limit, spe, spe_limit, out_of_control (T² or SPE above its limit), one line a wafer as they came;
            NaN where the good wafers were too few to learn from.
        sensors: sensor, rule, first and last (rows), wafers (that signal), strength, limit: a line for each sensor and
            rule that signals, the first signal first; see `ControlCharts.signal_table`.
        contributions: row, chart ("T²" or "SPE"), rank, sensor, contribution, of the wafers above a limit; the first
            three of each.
        batches: batch, wafers, t2 and spe (wafers above the limit), shifted (names of the three sensors whose
            readings changed most in the batch, of those that T² and SPE use; see `ControlCharts.change`).
    """

    wafers: pd.DataFrame
    sensors: pd.DataFrame
    contributions: pd.DataFrame
    batches: pd.DataFrame


@dataclass(frozen=True)
class Monitor:
    """What training leaves to monitor later wafers by.

    Attributes:
        charts: of each sensor.
        pca: of all sensors together; None where there were too few good wafers, or no sensor that varies.
    """

    charts: ControlCharts
    pca: PcaCharts | None

    @classmethod
    def learn(
        cls, readings: Floats, names: Sequence[str], *, max_missing: float = 0.6, rules: Mapping[str, Any] | None = None
    ) -> "Monitor":
        """From good wafers in production order, shape (wafers, sensors), NaN for missing.

        Parameters:
            names: of the sensors.
            max_missing: largest share of missing readings with which a sensor counts for T² and SPE.
            rules: arguments of `ControlCharts.learn`; None: its defaults.

        Raises:
            ModelError: a sensor or rule is not known.
        """
        charts = ControlCharts.learn(readings, names, **(rules or {}))
        return cls(charts, PcaCharts.learn(readings, max_missing=max_missing))

    def watch(
        self,
        readings: Floats,
        names: Sequence[str],
        order: ArrayLike | None = None,
        batches: ArrayLike | None = None,
        *,
        before: Floats | None = None,
    ) -> Monitored:
        """Look at wafers, shape (wafers, sensors), NaN for missing; the sensors' charts begin with the first of them.

        Parameters:
            names: of the sensors.
            order: production order, shape (wafers,); None: as they came.
            batches: name of each wafer's batch; None: all are of one.
            before: readings of wafers made before, in production order, with which the charts begin; nothing is told
                of them.
        """
        sequence = np.arange(len(readings)) if order is None else np.argsort(np.asarray(order), kind="stable")
        past = readings[:0] if before is None else before
        sensors = self.charts.signal_table(np.vstack([past, readings[sequence]]), names, after=len(past))
        for column in ("first", "last"):
            sensors[column] = sequence[sensors[column].to_numpy(np.int64)]
        labels = np.full(len(readings), "", dtype=object) if batches is None else np.asarray(batches, dtype=object)
        wafers = self._wafers(readings)
        contributions = self._contributions(readings, names, wafers)
        frames = {"wafers": wafers, "sensors": sensors, "contributions": contributions}
        frames["batches"] = self._batches(readings, names, wafers, labels, sequence)
        return Monitored(**{name: with_units(frame, f"Monitored.{name}") for name, frame in frames.items()})

    def _wafers(self, readings: Floats) -> pd.DataFrame:
        nothing = np.full(len(readings), np.nan)
        t2, spe = (nothing, nothing) if self.pca is None else self.pca.distances(readings)
        limits = (np.nan, np.nan) if self.pca is None else (self.pca.t2_limit, self.pca.spe_limit)
        table = pd.DataFrame({"t2": t2, "t2_limit": limits[0], "spe": spe, "spe_limit": limits[1]})
        above = (table["t2"] > table["t2_limit"]) | (table["spe"] > table["spe_limit"])
        return table.assign(out_of_control=above)

    def _contributions(self, readings: Floats, names: Sequence[str], wafers: pd.DataFrame) -> pd.DataFrame:
        parts = []
        if self.pca is not None:
            used = np.array(list(names), dtype=object)[self.pca.sensors]
            for chart, column in zip(CHARTS, ("t2", "spe"), strict=True):
                rows = np.flatnonzero(wafers[column] > wafers[f"{column}_limit"])
                own = getattr(self.pca.contributions(readings[rows]), column)
                first = np.argsort(-own, axis=1, kind="stable")[:, :NAMED]
                table = pd.DataFrame({"row": np.repeat(rows, first.shape[1]), "chart": chart})
                table["rank"] = np.tile(np.arange(1, first.shape[1] + 1), len(rows))
                table["sensor"] = used[first].ravel()
                parts.append(table.assign(contribution=np.take_along_axis(own, first, axis=1).ravel()))
        columns = ["row", "chart", "rank", "sensor", "contribution"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def _batches(
        self,
        readings: Floats,
        names: Sequence[str],
        wafers: pd.DataFrame,
        labels: NDArray[np.object_],
        sequence: NDArray[np.int64],
    ) -> pd.DataFrame:
        lines = []
        for batch in pd.unique(labels[sequence]):
            own = labels == batch
            shifted: list[str] = []
            if self.pca is not None:
                moved = self.charts.change(readings[own])[self.pca.sensors]
                most = np.argsort(-moved, kind="stable")[:NAMED]
                shifted = [str(names[sensor]) for sensor in self.pca.sensors[most[moved[most] > 0]]]
            above = {name: int((wafers[name] > wafers[f"{name}_limit"])[own].sum()) for name in ("t2", "spe")}
            lines.append({"batch": batch, "wafers": int(own.sum()), **above, "shifted": ", ".join(shifted)})
        return pd.DataFrame(lines, columns=["batch", "wafers", "t2", "spe", "shifted"])
