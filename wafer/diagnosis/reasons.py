"""Which sensors speak most against a wafer, and whether that is more than chance would say.

The contributions of all members (`wafer.learning.members`) are weighed as the model weighs its members, so they are in
log-odds of the model's own probability. Sensors that move together are one reason, led by the strongest of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from threadpoolctl import threadpool_limits

from wafer.learning.features import by_sensor
from wafer.learning.jobs import derived_seed, run
from wafer.learning.model import Prepared, WaferModel
from wafer.learning.panel import fit_panel, panel_recipes
from wafer.learning.search import Recipe, inner_folds
from wafer.records import UNITS, with_units

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RANKS = np.linspace(0.0, 100.0, 101)  # percentiles that are kept of each sensor's readings
REASON_TREES = 30  # of the forests that only show what reasons are worth
SUSPICIOUS = 0.1  # share of wafers whose reasons are judged; not the policy's, as another policy needs no training
REASONS = "Judgement.reasons"
FEWEST = 20  # good wafers in a cluster, below which those of all clusters are compared with


@dataclass
class Reasons:
    """What is needed to give reasons besides the model itself.

    Attributes:
        groups: for each sensor of the input the number of its group of correlated sensors, -1 for sensors not used.
        percentiles: good training wafers' readings, shape (clusters, 101, sensors); NaN for a sensor never read.
        floor: strength of the first reason, in log-odds, that models of permuted labels hardly reach for their alarms.
        strength: the same of this model's own alarms, median, out of fold.
    """

    groups: Integers
    percentiles: Floats
    floor: float
    strength: float

    @classmethod
    def learn(
        cls, model: WaferModel, wafers: Prepared, faulty: NDArray[np.bool_], *, permutations: int = 9
    ) -> "Reasons":
        """From the wafers that `model` was fitted on; models of permuted labels, at least 2, set the floor."""
        features, clusters = model._features, len(model.clusters_)
        with threadpool_limits(1):
            groups = group_sensors(wafers.relative, features.selector_.kept_, model.n_features_in_)
            recipes = panel_recipes(features, REASON_TREES, model.panel)
            trial = ReasonTrial(recipes, wafers.F, features.sensors, groups, SUSPICIOUS)
            strength, floor = trial.judge(faulty, permutations, derived_seed(model.seed, "reasons"), model.n_jobs)
        known = good_percentiles(wafers.readings, faulty, wafers.cluster, clusters)
        return cls(groups, known, floor, strength)

    @property
    def shown(self) -> bool:
        """Whether this model's reasons are stronger than chance."""
        return self.strength > self.floor

    def of_sensor(self, position: int) -> pd.DataFrame:
        """Good wafers' readings of the sensor at `position`: a row for each percentile, a column for each cluster."""
        table = pd.DataFrame(self.percentiles[:, :, position].T, index=pd.Index(RANKS, name="percentile"))
        return table.rename_axis(columns="cluster")


def group_sensors(relative: Floats, kept: Integers, sensors: int, *, least: float = 0.8) -> Integers:
    """Number the groups of sensors of which any two correlate at least so much (complete linkage).

    Parameters:
        relative: relative readings of the kept sensors, shape (wafers, kept).
        kept: their positions in the input.
        sensors: sensors in the input.
        least: smallest absolute correlation within a group.

    Returns: group number of each sensor, -1 for sensors not kept, shape (sensors,).
    """
    groups = np.full(sensors, -1, dtype=np.int64)
    if len(kept) < 2:
        groups[kept] = 0
        return groups
    scale = relative.std(axis=0)
    unit = (relative - relative.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    apart = 1.0 - np.abs(np.clip(unit.T @ unit / len(unit), -1.0, 1.0))
    np.fill_diagonal(apart, 0.0)
    tree = linkage(squareform((apart + apart.T) / 2, checks=False), method="complete")
    groups[kept] = fcluster(tree, 1.0 - least, criterion="distance") - 1
    return groups


def good_percentiles(readings: Floats, faulty: NDArray[np.bool_], cluster: Integers, clusters: int) -> Floats:
    """Percentiles 0 to 100 of good wafers' readings in each cluster, shape (clusters, 101, sensors)."""
    result = np.empty((clusters, len(RANKS), readings.shape[1]))
    for number in range(clusters):
        rows = ~faulty & (cluster == number)
        if rows.sum() < FEWEST:
            rows = ~faulty
        result[number] = _percentiles(readings[rows])
    return result


def _percentiles(readings: Floats) -> Floats:
    ranked = np.sort(readings, axis=0)
    present = np.sum(~np.isnan(ranked), axis=0)
    places = np.rint(RANKS[:, None] / 100 * np.maximum(present - 1, 0)).astype(np.int64)
    return np.asarray(np.take_along_axis(ranked, places, axis=0))


def tell(
    reasons: Reasons,
    contributions: Floats,
    readings: Floats,
    cluster: Integers,
    names: Sequence[str],
    *,
    most: int = 5,
) -> pd.DataFrame:
    """The strongest reasons against each wafer.

    Parameters:
        contributions: each sensor's, to the log-odds of a fault, shape (wafers, sensors).
        readings: the wafers' readings, shape (wafers, sensors).
        cluster: their clusters.
        names: of the sensors.
        most: reasons a wafer, at most.

    Returns: columns row, rank (from 1), sensor, together_with (other sensors of its group), direction ("high", "low",
        "missing"), percentile (among good wafers of its cluster; NaN if missing), reading (in the sensor's own unit),
        strength (log-odds). Only groups that speak against the wafer; none for wafers whose first reason is not above
        the floor.
    """
    rows = []
    if reasons.shown:
        used = np.flatnonzero(reasons.groups >= 0)
        for row, own in enumerate(contributions):
            totals = np.bincount(reasons.groups[used], weights=own[used])
            ranking = np.argsort(-totals, kind="stable")[:most]
            if totals[ranking[0]] <= reasons.floor:
                continue
            for rank, group in enumerate(ranking[totals[ranking] > 0], start=1):
                members = used[reasons.groups[used] == group]
                lead = members[np.argmax(own[members])]
                together = ", ".join(names[other] for other in members if other != lead)
                reading, known = float(readings[row, lead]), reasons.percentiles[cluster[row], :, lead]
                said = {"row": row, "rank": rank, "sensor": names[lead], "together_with": together}
                told = {"reading": reading, "strength": float(totals[group])}
                rows.append({**said, **_position(reading, known), **told})
    return with_units(pd.DataFrame(rows, columns=list(UNITS[REASONS])), REASONS)


def _position(reading: float, known: Floats) -> dict[str, object]:
    if np.isnan(reading) or np.isnan(known).all():
        return {"direction": "missing", "percentile": np.nan}
    below = np.searchsorted(known, reading, side="left") + np.searchsorted(known, reading, side="right")
    percentile = float(np.clip(below / 2 / len(known) * 100, 0.0, 100.0))
    return {"direction": "high" if percentile >= 50 else "low", "percentile": percentile}


@dataclass(frozen=True)
class ReasonTrial:
    """Are reasons stronger than on permuted labels? Small panels, each judged on wafers that it has not seen.

    Attributes:
        recipes: of the panel's members.
        F: features of the training wafers.
        sensors: the sensor behind each feature.
        groups: the group of each sensor.
        alarm_rate: share of wafers whose reasons count, those with the highest scores.
    """

    recipes: Sequence[Recipe]
    F: Floats
    sensors: Integers
    groups: Integers
    alarm_rate: float

    def judge(self, faulty: NDArray[np.bool_], permutations: int, seed: int, n_jobs: int) -> tuple[float, float]:
        """The strength of reasons with these labels, and the floor set by permuted ones.

        The floor is their largest strength, or three standard deviations above their mean where that is more.
        """
        chance = np.random.default_rng(seed)
        labels = [faulty, *(chance.permutation(faulty) for _ in range(permutations))]
        jobs = [partial(self.strength, one, derived_seed(seed, number)) for number, one in enumerate(labels)]
        strengths = run(jobs, n_jobs)
        permuted = np.array(strengths[1:])
        return strengths[0], float(max(permuted.max(), permuted.mean() + 3.0 * permuted.std()))

    def strength(self, faulty: NDArray[np.bool_], seed: int) -> float:
        """Median strength of the first reason, in log-odds, over the most suspicious wafers of two held-out halves."""
        found = []
        for inside, outside in inner_folds(faulty, 2, seed):
            folds = inner_folds(faulty[inside], 3, seed)
            panel = fit_panel(self.recipes, self.F[inside], faulty[inside], folds, seed=seed, n_jobs=1)
            logit = panel.logit(self.F[outside])
            most = outside[np.argsort(-logit, kind="stable")[: max(1, round(self.alarm_rate * len(outside)))]]
            own = by_sensor(panel.contributions(self.F[most]), self.sensors, len(self.groups))
            found.append(first_reason(own, self.groups))
        return float(np.median(np.concatenate(found))) if found else 0.0


def first_reason(contributions: Floats, groups: Integers) -> Floats:
    """Strength of each wafer's strongest reason, shape (wafers,)."""
    used = np.flatnonzero(groups >= 0)
    totals = [np.bincount(groups[used], weights=own[used]).max() for own in contributions]
    return np.array(totals)
