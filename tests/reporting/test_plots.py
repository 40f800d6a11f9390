import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from wafer.reporting import findings, findings_plots, plots, sensors, style, tables
from wafer.reporting.display import show_plot, show_table


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def figures(bundle, model, evaluated, wafers, predictions, details) -> dict[str, Figure]:
    metrics, scores = evaluated
    found = findings.read_findings(details)
    judged = findings.with_findings(predictions, found)
    return {
        "named_sensors": findings_plots.plot_named_sensors(judged, found, bundle),
        "batch_drift": findings_plots.plot_batch_drift(found),
        **style.draw_each(plots.training_plots(model, scores, metrics))[0],
        "probabilities": plots.plot_probabilities(predictions),
        "alarm_rates": plots.plot_alarm_rates(pd.DataFrame({"batch": ["a"], "wafers": [40], "alarms": [3]})),
        "missing": sensors.plot_missing(wafers),
        "drift": sensors.plot_drift(wafers),
        "labels": sensors.plot_labels(wafers),
        "sensors": sensors.plot_sensors(wafers, ["Sensor-3", "Sensor-20"]),
        "groups": sensors.plot_groups(wafers),
        "embedding": sensors.plot_embedding(wafers, np.arange(len(wafers)) % 3),
    }


def test_a_plot_that_fails_loses_no_other(evaluated, model):
    """Of the plots of a training one that cannot be drawn is told by name, and the others are there."""
    wanted = plots.training_plots(model, evaluated[1].drop(columns="alarm"), evaluated[0])
    figures, failures = style.draw_each(wanted)
    assert sorted(figures) == ["calibration.png", "curves.png", "elbow.png"]
    assert failures == {
        name: f"the plot {name} could not be drawn: KeyError: 'alarm'" for name in ("forward.png", "threshold.png")
    }


def test_plots_leave_nothing_behind(evaluated):
    """Drawing changes no global setting and leaves no open figure behind."""
    before = dict(mpl.rcParams)
    plots.plot_curves(evaluated[1])
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


@pytest.mark.parametrize("label", [-1, 1])
@pytest.mark.parametrize("size", [5, 22, 23, 50])
def test_calibration_bins_of_one_label_are_drawn(size, label):
    """Bins without a fault, and bins of nothing else, have a bar from 0 or to 1, whatever their size."""
    wafers = np.arange(8 * size)
    scores = pd.DataFrame({"protocol": "shuffled", "row": wafers, "label": label, "probability": wafers / len(wafers)})
    assert len(png(plots.plot_calibration(scores))) > 5_000
    ends = tables.calibration_bins(scores)[["low", "high"]]
    assert set(ends["low" if label == -1 else "high"]) == {0.0 if label == -1 else 1.0}


def test_plots_are_the_same_each_time(evaluated):
    """The same scores give the same picture, byte by byte."""
    assert png(plots.plot_forward(evaluated[1])) == png(plots.plot_forward(evaluated[1]))


def test_pairs_can_be_told_apart_in_grey():
    """Good and faulty, shuffled and forward differ in lightness; protocols differ in line and marker too."""

    def lightness(colour: str) -> float:
        red, green, blue = (value**2.2 for value in to_rgb(colour))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert lightness(style.GOOD) - lightness(style.FAULTY) > 0.3
    shuffled, forward = style.PROTOCOLS["shuffled"], style.PROTOCOLS["forward"]
    assert lightness(forward["color"]) - lightness(shuffled["color"]) > 0.2
    for key in ("linestyle", "marker"):
        assert len({protocol[key] for protocol in style.PROTOCOLS.values()}) == 3


def test_counts_stand_in_the_plots(evaluated, figures):
    """Legends and titles say how many wafers they are about."""
    texts = [text.get_text() for text in figures["curves.png"].axes[0].get_legend().get_texts()]
    assert any("240 wafers, 30 faulty" in text for text in texts)
    assert figures["labels"].axes[0].get_title(loc="left") == "30 faulty of 240 wafers (12.5 %)"


def test_drift_is_drawn_against_what_is_usual(details, figures):
    """Drifted and unjudged batches have marks of their own, and the line is the usual threshold."""
    drift = findings.read_findings(details).drift
    assert [one["drifted"] for one in drift["batches"]] == [None, True]
    legend = [text.get_text() for text in figures["batch_drift"].axes[0].get_legend().get_texts()]
    usual = drift["batches"][0]["threshold"]
    assert legend == ["drifted: 1", "not judged: 1", f"usual up to {usual:.2f}"]


def test_readings_far_away_do_not_flatten_the_others(figures, model):
    """A reading of 10,000 is drawn as a triangle at the edge, in the scale of the good wafers."""
    panel = figures["named_sensors"].axes[0]
    assert panel.get_title(loc="left").startswith("Sensor-3: ")
    assert panel.get_ylim()[1] < 50
    assert "^" in [line.get_marker() for line in panel.get_lines() if len(line.get_xdata())]


def test_many_batches_stay_readable():
    """Of a thousand batches only some are named."""
    batches = pd.DataFrame({"batch": [f"Wafer_{n}.csv" for n in range(1000)], "wafers": 100, "alarms": 5})
    assert len(plots.plot_alarm_rates(batches).axes[0].get_xticks()) <= 30


def test_tables_escape_what_was_delivered():
    """A file name with markup in it cannot change the page."""
    shown = show_table(pd.DataFrame({"file": ["<script>x</script>"]})).data
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_long_tables_are_cut_and_say_so():
    """A table of 5,000 rows shows the first and says how many more there are; an empty one says that it is."""
    assert "… and 4,990 more rows." in show_table(pd.DataFrame({"a": range(5000)}), limit=10).data
    assert show_table(pd.DataFrame(), nothing="No alarm.").data == "<p>No alarm.</p>"


def test_pictures_carry_their_description(figures):
    """A picture in a notebook has a text for those who do not see it."""
    assert show_plot(figures["elbow.png"], "the elbow").alt == "the elbow"


def test_a_plot_that_fails_gives_no_secret_away(monkeypatch):
    """What it raised is told on one line, with the secret masked before the rest is cut."""
    monkeypatch.setenv("PREFECT_API_KEY", "h1dden-key")

    def fail():
        raise ValueError("not\nat all " + "x" * 260 + "h1dden-key" * 9)

    failures = style.draw_each({"forward.png": fail})[1]
    told = "ValueError: not at all " + "x" * 260 + "*" * 17 + "…"
    assert failures == {"forward.png": f"the plot forward.png could not be drawn: {told}"}


def test_an_axis_in_percent_tells_its_ticks_exactly():
    """A tick at 2.5 % is not told as 2 %, and whole ones have no decimals."""
    assert [plots.PERCENT(share) for share in (0.0, 0.025, 0.075, 0.1, 1.0)] == [
        "0 %",
        "2.5 %",
        "7.5 %",
        "10 %",
        "100 %",
    ]
