"""The plots of the pages, drawn when they are asked for by the functions that the reports use."""

import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from fastapi import Response
from matplotlib.figure import Figure

from wafer.learning.checks import chosen_sensors
from wafer.reporting import findings_plots, process_plots, timeline
from wafer.reporting.control_charts import plot_control_charts
from wafer.reporting.display import SHARP
from wafer.reporting.findings import Findings
from wafer.reporting.style import PROTOCOLS, new_figure, say_nothing_to_show, styled
from wafer.service.core import Service
from wafer.service.page.views import explained, nested
from wafer.service.problems import Problem
from wafer.shown import shown_text

VERSIONS_SHOWN = 30
PICTURES_KEPT = 100  # of some tens of kilobytes


class Drawn:
    """Pictures that were drawn lately, by what they show; the oldest go first. Asked by one thread at a time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    def png(self, shows: tuple[object, ...], draw: Callable[[], Figure]) -> Response:
        """The picture as an answer."""
        if shows not in self._kept:
            buffer = io.BytesIO()
            draw().savefig(buffer, format="png", dpi=96 * SHARP, metadata={"Software": None})
            self._kept[shows] = buffer.getvalue()
        self._kept.move_to_end(shows)
        while len(self._kept) > PICTURES_KEPT:
            self._kept.popitem(last=False)
        return Response(self._kept[shows], media_type="image/png")


def batches(service: Service) -> Response:
    """The newest batches over time."""
    return _of_newest(service, "batches", lambda made: timeline.plot_timeline(made.timeline))


def distances(service: Service) -> Response:
    """T² and SPE of the wafers that were scored last."""
    return _of_newest(service, "distances", lambda made: process_plots.plot_distances(made.control))


def _of_newest(service: Service, shows: str, draw: Callable[[Any], Figure]) -> Response:
    made = service.newest.prediction()
    if made is None:
        raise Problem("not-found", "nothing was scored yet")
    return service.drawn.png((shows, made.run.id), lambda: draw(made))


def sensors(service: Service, wafer: str) -> Response:
    """The sensors that tell most about a wafer, against good wafers of its cluster."""
    found, served = _stored(service, wafer), service.champion.now()

    def draw() -> Figure:
        told, key = explained(served, service, found), {"batch": found["file"], "Wafer": wafer}
        reasons = (pd.DataFrame(columns=["sensor"]) if told.reasons is None else told.reasons).assign(**key)
        own = pd.DataFrame([{**key, "cluster": told.wafers["cluster"].iloc[0], "Prediction": 1, "label_known": False}])
        said = Findings(own, reasons, {"reasons": {"shown": len(reasons) > 0}})
        return findings_plots.plot_named_sensors(own, said, served.bundle)

    return service.drawn.png(("sensors", served.version, wafer, found["batch"]), draw)


def chart(service: Service, wafer: str, sensor: str) -> Response:
    """The control charts of a sensor in the batch of a wafer."""
    found, served = _stored(service, wafer), service.champion.now()
    monitor, names = served.bundle.monitor, _names(served)
    if monitor is None or sensor not in names:
        raise Problem("not-found", f"there is no control chart of {shown_text(sensor, 80)!r}")

    def draw() -> Figure:
        record = service.store.known([found["batch"]]).get(found["batch"])
        table = service.store.read_wafers([wafer] if record is None else record.wafers, service.sensors)
        readings = np.asarray(chosen_sensors(table.sort_values("order", kind="stable"), names))
        return plot_control_charts(monitor.charts, pd.DataFrame(readings, columns=names), sensor)

    return service.drawn.png(("chart", served.version, found["batch"], sensor), draw)


def versions(service: Service) -> Response:
    """ROC AUC of the newest versions under both protocols."""
    registry = service.registry
    newest = tuple(one.version for one in registry.versions())[-VERSIONS_SHOWN:]
    told = ({"version": one, **nested(registry.metrics(one))} for one in newest)
    return service.drawn.png(("versions", newest), lambda: plot_versions(list(told)))


@styled
def plot_versions(versions: Sequence[dict[str, Any]]) -> Figure:
    """ROC AUC of versions with their intervals, shuffled and forward; `versions` have metrics, oldest first."""
    figure, axes = new_figure()
    drawn = 0
    for number, (protocol, style) in enumerate(PROTOCOLS.items()):
        found = [(place, one[protocol]) for place, one in enumerate(versions) if "auc_high" in one.get(protocol, {})]
        if protocol == "permuted" or not found:
            continue
        drawn += 1
        places = np.array([place for place, _ in found]) + 0.12 * (number - 0.5)
        auc, low, high = (np.array([one[name] for _, one in found]) for name in ("auc", "auc_low", "auc_high"))
        axes.vlines(places, low, high, color=style["color"], linewidth=1.5)
        axes.plot(places, auc, "os"[number % 2], color=style["color"], label=protocol)
    if not drawn:
        say_nothing_to_show(axes, "ROC AUC of each version", "no version was evaluated")
        return figure
    axes.axhline(0.5, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(versions)), [str(one["version"]) for one in versions])
    axes.set_xlim(-0.6, len(versions) - 0.4)
    axes.set(title="ROC AUC of each version, with intervals", xlabel="version", ylabel="ROC AUC")
    axes.legend()
    return figure


def _stored(service: Service, wafer: str) -> dict[str, Any]:
    found = service.store.find([wafer]).get(wafer)
    if found is None or len(found["readings"]) != len(service.sensors):
        raise Problem("not-found", f"no wafer {shown_text(wafer, 80)!r} is stored with the sensors that are read now")
    return found


def _names(served: Any) -> list[str]:
    return list(served.bundle.classifier.sensor_names_)
