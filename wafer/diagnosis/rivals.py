"""What the model must beat: a plain forest, and process monitoring as classifiers, evaluated on the same wafers.

Monitoring learns from good wafers alone. What they call a probability only ranks wafers: it is 0.5 at the frozen limit.
"""

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from wafer.diagnosis.charts import ControlCharts
from wafer.diagnosis.multivariate import PcaCharts
from wafer.learning.plain import PlainForest

CHARTS = {"t2": "Hotelling's T²", "spe": "SPE", "sensor_charts": "control charts of the sensors"}
RIVALS = {"plain": "plain balanced forest"} | CHARTS
PLAIN_TREES = 300


def rivals(*, trees: int = PLAIN_TREES, max_missing: float = 0.6, seed: int = 0) -> dict[str, Any]:
    """An unfitted classifier for each name in `RIVALS`.

    Parameters:
        trees: of the plain forest, of which it has at most `PLAIN_TREES`.
        max_missing: largest share of missing readings with which a sensor is used in T² and SPE.
        seed: of the plain forest.
    """
    plain = PlainForest(trees=min(PLAIN_TREES, trees), seed=seed)
    return {"plain": plain} | {chart: MonitoringClassifier(chart, max_missing=max_missing) for chart in CHARTS}


class MonitoringClassifier(ClassifierMixin, BaseEstimator):
    """One chart of `CHARTS` as a classifier of labels -1 (good) and 1 (faulty).

    Parameters:
        chart: a key of `CHARTS`; of the sensors' charts, which go by their default rules, the
            sensor and rule farthest beyond their limit count.
        max_missing: largest share of missing readings with which a sensor is used in T² and SPE.
    """

    def __init__(self, chart: str = "t2", *, max_missing: float = 0.6) -> None:
        self.chart = chart
        self.max_missing = max_missing

    def fit(self, X: ArrayLike, y: ArrayLike, order: ArrayLike | None = None) -> Self:
        """Learn limits from the good wafers among readings `X`, shape (wafers, sensors), NaN for missing."""
        readings, labels = np.asarray(X, dtype=np.float64), np.asarray(y)
        good = _sequence(order, len(readings))
        good = good[labels[good] == -1]
        self.classes_ = np.array([-1, 1])
        self.charts_: PcaCharts | ControlCharts | None
        if self.chart == "sensor_charts":
            self.charts_ = ControlCharts.learn(readings[good], [str(n) for n in range(readings.shape[1])])
        else:
            self.charts_ = PcaCharts.learn(readings[good], max_missing=self.max_missing)
        return self

    def predict_proba(self, X: ArrayLike, order: ArrayLike | None = None) -> NDArray[np.float64]:
        """Shape (wafers, 2); 0 for every wafer where there were too few good ones to learn from."""
        readings = np.asarray(X, dtype=np.float64)
        share = self._excess(readings, _sequence(order, len(readings)))
        faulty = np.where(np.isinf(share), 1.0, share / (1.0 + np.where(np.isinf(share), 0.0, share)))
        return np.column_stack([1.0 - faulty, faulty])

    def predict(self, X: ArrayLike, order: ArrayLike | None = None) -> NDArray[Any]:
        """1 for a wafer beyond the limit, else -1, shape (wafers,)."""
        return self.classes_[(self.predict_proba(X, order)[:, 1] > 0.5).astype(np.int64)]

    def _excess(self, readings: NDArray[np.float64], sequence: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far each wafer is out, as a share of the limit."""
        if self.charts_ is None:
            return np.zeros(len(readings))
        if isinstance(self.charts_, ControlCharts):
            excess = np.empty(len(readings))
            excess[sequence] = self.charts_.excess(readings[sequence])
            return excess
        found = getattr(self.charts_.distances(readings), self.chart)
        return np.asarray(found / getattr(self.charts_, f"{self.chart}_limit"))


def _sequence(order: ArrayLike | None, wafers: int) -> NDArray[np.int64]:
    """Positions of the wafers in production order; as they came where it is not known."""
    return np.arange(wafers) if order is None else np.argsort(pd.Series(order).to_numpy(), kind="stable")
