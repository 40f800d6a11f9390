"""What versions turned out to be worth in use: their stored verdicts against labels that they were not trained on.

Nothing is kept that could go stale: the figures follow from the store and the versions' manifests, each time alike.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from wafer.learning.intervals import wilson
from wafer.registry.versions import MANIFEST, VersionStore
from wafer.store.wafers import Store


@dataclass(frozen=True)
class LiveFigures:
    """Counts of wafers that a version scored, each once, by its last verdict.

    Attributes:
        version: in the registry.
        wafers: that it scored.
        alarms: among them.
        labelled: whose label the version was not trained on; all that follows is about these.
        faulty: of them.
        caught: faulty ones with an alarm.
        false_alarms: good ones with an alarm.
        expected: the sum of the probabilities of those that have one.
        observed: faulty ones of those.
        brier: mean squared gap of probability and label (0 or 1); None where there is none.
    """

    version: int
    wafers: int
    alarms: int
    labelled: int
    faulty: int
    caught: int
    false_alarms: int
    expected: float
    observed: int
    brier: float | None

    def as_dict(self) -> dict[str, Any]:
        """The counts and what follows from them, each share with its 95 % interval; None where nothing tells it.

        `observed_to_expected` is 1 where the probabilities are right on average (interval of a Poisson count, Garwood,
        Biometrika 28, 1936); the other intervals are Wilson's.
        """
        told = {**asdict(self), "missed": self.faulty - self.caught}
        for name, hits, of in (
            ("alarm_rate", self.alarms, self.wafers),
            ("recall", self.caught, self.faulty),
            ("precision", self.caught, self.caught + self.false_alarms),
        ):
            low, high = wilson(hits, of)
            told |= {name: hits / of, f"{name}_low": float(low), f"{name}_high": float(high)} if of else {name: None}
        seen = self.observed
        ends = chi2.ppf(0.025, 2 * seen) / 2 if seen else 0.0, chi2.ppf(0.975, 2 * seen + 2) / 2
        name = "observed_to_expected"
        counts = {name: seen, f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
        return told | ({key: one / self.expected for key, one in counts.items()} if self.expected else {name: None})


def live_figures(registry: VersionStore, store: Store, versions: Collection[int] | None = None) -> list[LiveFigures]:
    """The figures of those `versions` (None: of all) that have scored a wafer, oldest first.

    One whose training left no manifest is passed over, since nobody knows which labels it was trained on.
    """
    found = []
    for version in registry.versions():
        if versions is not None and version.version not in versions:
            continue
        scored = store.scored_by(version.version)
        manifest = None if scored.empty else registry.stored_json(version, MANIFEST)
        if manifest is not None:
            later = set(scored["Wafer"]) - _trained_on(store, manifest)
            labels = {wafer: one["label"] for wafer, one in store.find(sorted(later), "label").items()}
            known = {wafer: label for wafer, label in labels.items() if label is not None}
            found.append(figures_of(version.version, scored, known))
    return found


def _trained_on(store: Store, manifest: Mapping[str, Any]) -> set[str]:
    """The wafers that the deliveries and files of labels of a snapshot had brought by then."""
    counts = {one["digest"]: one["wafers"] for one in (*manifest["batches"], *manifest.get("labels", ()))}
    known = store.known(list(counts)).values()
    return {wafer for one in known for wafer in one.wafers_when(counts[one.digest]) or one.wafers}


def figures_of(version: int, scored: pd.DataFrame, labels: Mapping[str, int]) -> LiveFigures:
    """The figures by the verdicts `scored` (columns Wafer, Prediction and probability) and the labels known of them."""
    alarm = scored["Prediction"].to_numpy() == 1
    known = scored["Wafer"].isin(labels.keys()).to_numpy()
    faulty = scored["Wafer"].map(labels).to_numpy() == 1
    told = known & scored["probability"].notna().to_numpy()
    probability = scored["probability"].to_numpy(np.float64)[told]
    return LiveFigures(
        version=version,
        wafers=len(scored),
        alarms=int(alarm.sum()),
        labelled=int(known.sum()),
        faulty=int(faulty.sum()),
        caught=int((faulty & alarm).sum()),
        false_alarms=int((known & ~faulty & alarm).sum()),
        expected=float(probability.sum()),
        observed=int(faulty[told].sum()),
        brier=float(np.mean((probability - faulty[told]) ** 2)) if told.any() else None,
    )
