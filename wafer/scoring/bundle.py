"""All that one training leaves: the classifier, and what was fitted beside it to say more than a probability."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone

from wafer.diagnosis.charts import applied
from wafer.diagnosis.drift import DriftReference
from wafer.diagnosis.monitoring import Monitor
from wafer.diagnosis.novelty import Novelty
from wafer.diagnosis.reasons import Reasons
from wafer.errors import ModelError
from wafer.learning.checks import faulty_of, whole_order
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.learning.parts import write_parts
from wafer.scoring import formats
from wafer.shown import facts_html


@dataclass(frozen=True)
class Bundle:
    """Five fitted objects, asked together by `wafer.scoring.judge`, saved and loaded together.

    Attributes:
        classifier: from readings to cluster, probability and alarm.
        novelty: how unusual the training wafers were.
        reasons: what is needed to give reasons; None where that was not learned.
        drift: what later batches are compared with; None where that was not learned, or from too few wafers.
        monitor: control charts of good wafers; None where that was not learned.
    """

    classifier: WaferModel
    novelty: Novelty
    reasons: Reasons | None = None
    drift: DriftReference | None = None
    monitor: Monitor | None = None

    def with_policy(self, policy: Policy) -> "Bundle":
        """The same with another threshold, from stored scores and without training again.

        Raises:
            ModelError: the classifier keeps no held-out scores.
        """
        return replace(self, classifier=self.classifier.with_policy(policy))

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it."""
        reasons, drift = self.reasons, self.drift
        told: dict[str, object] = {"reasons": "none learned", "drift": "none learned"}
        if reasons is not None:
            shown = "given" if reasons.shown else "withheld"
            told["reasons"] = f"{shown}: strength {reasons.strength:.2f}, by chance up to {reasons.floor:.2f}"
        if drift is not None:
            told["drift"] = (
                "told, not judged" if drift.threshold is None else f"beyond a score of {drift.threshold:.3g}"
            )
        return {**self.classifier.facts(), **told, "trained on wafers": len(self.novelty.distances)}

    _repr_html_ = facts_html

    def good_percentiles(self, sensor: str) -> pd.DataFrame:
        """Readings of a sensor on good training wafers: a row for each percentile 0 to 100, a column for each cluster.

        Raises:
            ModelError: the model has no such sensor, or learned no reasons.
        """
        names = self.classifier.sensor_names_
        if sensor not in names:
            raise ModelError(f"the model has no sensor {sensor!r:.40}, its first is {names[0]}")
        if self.reasons is None:
            raise ModelError("the model gives no reasons: it learned none when it was trained")
        return self.reasons.of_sensor(names.index(sensor))

    def save(self, folder: Path) -> dict[str, str]:
        """Write the parts and their manifest into `folder`; returns each part's SHA-256.

        Nothing in the parts is executed by `load`, and the same bundle gives the same bytes.
        """
        parts = formats.to_parts(self.classifier, self.novelty, self.reasons, self.drift, self.monitor)
        return write_parts(Path(folder), parts, version=formats.FORMAT)

    @classmethod
    def load(cls, folder: Path, *, n_jobs: int = 1) -> "Bundle":
        """The bundle that was saved in `folder`, by this release or an earlier one; it scores with so many threads.

        Raises:
            ModelError: no model there, or one of a format that this release does not know.
            TamperedError: a part is not what was saved.
        """
        bundle = cls(*formats.read_folder(Path(folder)))
        bundle.classifier.n_jobs = n_jobs
        return bundle


def fit_bundle(
    classifier: WaferModel,
    readings: pd.DataFrame,
    labels: ArrayLike,
    order: ArrayLike | None = None,
    batches: ArrayLike | None = None,
    *,
    reasons: bool = True,
    permutations: int = 9,
    rules: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bundle:
    """Fit a clone of `classifier`, and beside it novelty, reasons, drift and monitor, on the same wafers.

    Parameters:
        classifier: not fitted; it is cloned.
        readings, labels, order: training wafers, as for `WaferModel.fit`.
        batches: names of the wafers' batches, shape (wafers,); without them, or without `order`, drift is not learned;
            the monitor needs `order` alone.
        reasons: whether to learn to give reasons.
        permutations: models of permuted labels that a reason's strength must exceed, at least 2.
        rules: of the sensors' control charts, arguments of `ControlCharts.learn`; None: its defaults.
        progress: called with the steps done and the steps in all.

    Raises:
        As `WaferModel.fit`; ModelError: the rules name a sensor that is not there, or there are none.
    """
    told = progress or (lambda done, total: None)
    told(0, 3)
    if rules is not None and isinstance(readings, pd.DataFrame):  # before the work, not after it
        applied([str(name) for name in readings], **{key: rules[key] for key in ("rules", "without") if key in rules})
    model = clone(classifier).fit(readings, labels, order=order)
    told(1, 3)
    wafers = model.prepare(readings, order)
    faulty = faulty_of(labels, model.classes_, model.faulty_label_)
    novelty = Novelty.of(wafers.relative, wafers.missing)
    known = Reasons.learn(model, wafers, faulty, permutations=permutations) if reasons else None
    told(2, 3)
    drift = monitor = None
    if order is not None:
        good = np.argsort(whole_order(order, len(faulty)), kind="stable")
        good = good[~faulty[good]]
        monitor = Monitor.learn(wafers.readings[good], model.sensor_names_, max_missing=model.max_missing, rules=rules)
    if order is not None and batches is not None:
        names, places = np.asarray(batches, dtype=object), whole_order(order, len(wafers.readings))
        window = model.reference_window
        drift = DriftReference.learn(wafers.readings, places, names, model.make_features, window=window)
    told(3, 3)
    return Bundle(model, novelty, known, drift, monitor)
