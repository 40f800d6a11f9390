"""The control charts of one sensor, drawn."""

import numpy as np
import pandas as pd

from wafer.diagnosis.charts import ControlCharts
from wafer.reporting.control_charts import plot_control_charts

NAMES = ["Sensor-1", "Sensor-2", "Sensor-3"]


def test_a_chart_shows_the_rules_that_are_broken_and_names_its_axes() -> None:
    """Rule 2 at the ninth of nine low readings, rule 1 at a far one; a constant sensor says that it is one."""
    known = np.random.default_rng(0).normal(20.0, 2.0, size=(300, 3))
    known[:, 2] = 7.0
    charts = ControlCharts.learn(known, NAMES)
    now = pd.DataFrame(np.full((14, 3), 19.9), columns=NAMES)
    now.iloc[::2, 0] += 0.05
    now.iloc[10:, 0], now.iloc[3, 0] = [22.5, 30.0, 19.0, 20.5], np.nan
    figure = plot_control_charts(charts, now, "Sensor-1")
    above, below = figure.axes
    at = {text.get_text(): text.xy[0] for text in above.texts}
    assert at == {"2": 10.0, "1": 12.0}
    assert [below.get_xlabel(), above.get_ylabel(), below.get_ylabel()] == [
        "wafer, in production order",
        "reading",
        "reading",
    ]
    empty = plot_control_charts(charts, now, "Sensor-3")
    assert [axes.texts[0].get_text() for axes in empty.axes] == ["the sensor never varied in training"] * 2
