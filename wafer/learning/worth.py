"""What alarms are worth in money, beside ways to do without a model.

An alarm means that the wafer is inspected. Inspection is taken to be free of misses, so that an alarm on a faulty wafer
saves the whole cost of a missed fault; of an alarm on a good wafer the policy says what it costs.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from wafer.errors import ParameterError
from wafer.learning.decision import Policy
from wafer.learning.intervals import interval_text, percentile_interval
from wafer.learning.metrics import DRAWS, bootstrap_weights, costs_of_alarms, groups

Floats = NDArray[np.float64]
PROTOCOLS = ("shuffled", "forward")
MODEL, PLAIN = "this model", "a plain forest, as many alarms"
RANKED = {"plain": PLAIN, "spe": "monitoring alone (SPE), as many alarms"}  # columns of scores, and their ways
TENTH = 0.1


class Worth(NamedTuple):
    """Costs per 1,000 wafers, and between which ratios of the costs the model pays.

    Attributes:
        ways: one row per protocol and way; columns protocol, way, alarm_rate, recall, cost, cost_low, cost_high, and
            dearer, dearer_low, dearer_high: the cost less the model's on the same wafers.
        ratio: what a missed fault costs, in false alarms.
        pays: one row per protocol; columns protocol, above, above_low, above_high, below, below_low, below_high: with
            its present alarms the model costs less than no inspection where a missed fault costs more than `above`
            false alarms, and less than inspecting every wafer where it costs less than `below`. Infinite where no
            fault is caught, or none missed.
    """

    ways: pd.DataFrame
    ratio: float
    pays: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Each way's cost, and what it costs more than the model, with intervals, as text; columns by protocol."""
        columns = {}
        for protocol, part in self.ways.groupby("protocol", sort=False):
            rows = part.set_index("way")
            columns[str(protocol)] = rows.apply(interval_text, axis=1, args=("cost", ",.0f"))
            columns[f"{protocol}, dearer by"] = rows.apply(interval_text, axis=1, args=("dearer", "+z,.0f"))
        return pd.DataFrame(columns).rename_axis("cost per 1,000 wafers")

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values, None for infinite."""
        pays = self.pays.astype(object).replace(np.inf, None)
        return {"ways": self.ways.to_dict("records"), "pays": pays.to_dict("records")}

    def sentences(self) -> list[str]:
        """For each protocol what the model saves over the cheapest way without one, and for which costs it pays."""
        return [self._sentence(pays) for pays in self.pays.to_dict("records")]

    def _sentence(self, pays: Mapping[Any, Any]) -> str:
        ways = self.ways[self.ways["protocol"] == pays["protocol"]].set_index("way")
        cheapest = ways.loc[ways.index.difference([MODEL, PLAIN], sort=False), "cost"].idxmin()
        gain, low, high = (ways.loc[cheapest, name] for name in _with_ends("dearer"))
        gains = (
            f"{gain:z,.0f} [{low:z,.0f}, {high:z,.0f}] less"
            if gain >= 0
            else f"{-gain:z,.0f} [{-high:z,.0f}, {-low:z,.0f}] more"
        )
        said = (
            f"{str(pays['protocol']).capitalize()}, the alarms cost {ways.loc[MODEL, 'cost']:,.0f} per 1,000 wafers, "
            f"{gains} than the cheapest way without a model, {cheapest}."
        )
        if pays["above"] >= pays["below"]:
            return f"{said} They pay at no ratio of the costs."
        above, below = (interval_text(pays, name, ".1f").replace("inf", "∞") for name in ("above", "below"))
        return (
            f"{said} They pay where a missed fault costs {above} to {below} false alarms; here it costs {self.ratio:g}."
        )


def worth(
    scores: pd.DataFrame,
    policy: Policy,
    *,
    also: Mapping[str, ArrayLike] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Worth:
    """What the alarms of an evaluation cost, and what doing without the model would have cost on the same wafers.

    Parameters:
        scores: as of `wafer.learning.evaluation.evaluate`; `alarm` may be a share of 1. For each column of
            `RANKED` that they have, that way raises, in each fold or batch, as many alarms as the model.
        policy: whose costs count.
        also: alarms of further ways by their name, one for each of the `scores`; shares of 1 where drawn by lot.
        draws, seed: of the paired bootstrap over wafers, within each class: intervals are for this share of faults.

    Returns: nothing of a protocol that lacks scores of either class.
    """
    ways, pays = [], []
    for protocol in PROTOCOLS:
        chosen = ((scores["protocol"] == protocol) & scores["probability"].notna()).to_numpy()
        own = scores[chosen].reset_index(drop=True)
        faulty = own["label"].to_numpy() == 1
        if not faulty.any() or faulty.all():
            continue
        weights = bootstrap_weights(own, draws, seed)
        alarms = _ways(own) | {name: np.asarray(each, np.float64)[chosen] for name, each in (also or {}).items()}
        ways += _rows(protocol, alarms, faulty, weights, policy)
        pays.append({"protocol": protocol, **_pays(alarms[MODEL], faulty, weights)})
    names = ["protocol", "way", "alarm_rate", "recall", *_with_ends("cost"), *_with_ends("dearer")]
    ends = ["protocol", *_with_ends("above"), *_with_ends("below")]
    ratio = policy.cost_missed_fault / policy.cost_false_alarm
    return Worth(pd.DataFrame(ways, columns=names), ratio, pd.DataFrame(pays, columns=ends))


def highest(scores: pd.DataFrame, column: str, budget: float | None = None) -> Floats:
    """The wafers of each fold or batch with the highest values, as shares of an alarm, shape (scores,).

    Parameters:
        column: of `scores`, whose values rank the wafers; of equal ones the first counts first.
        budget: share of the wafers that are taken, above 0 and at most 1; None: as many as the column `alarm` says.

    Raises:
        ParameterError: an impossible share.
    """
    if budget is not None and not 0 < budget <= 1:
        raise ParameterError(f"the alarm rate must be above 0 and at most 1, got {budget!r}")
    taken, value = np.zeros(len(scores)), scores[column].to_numpy(np.float64)
    alarm = scores["alarm"].to_numpy(np.float64)
    for rows in groups(scores):
        allowed = alarm[rows].sum() if budget is None else budget * len(rows)
        ranked = rows[np.argsort(-value[rows], kind="stable")]
        taken[ranked] = np.clip(allowed - np.arange(len(rows)), 0.0, 1.0)
    return taken


def _ways(scores: pd.DataFrame) -> dict[str, Floats]:
    even = np.ones(len(scores))
    found = {"no inspection": 0 * even, "inspecting every wafer": even, "inspecting a random tenth": TENTH * even}
    found |= {way: highest(scores, column) for column, way in RANKED.items() if column in scores}
    return found | {MODEL: scores["alarm"].to_numpy(np.float64)}


def _rows(
    protocol: str, alarms: Mapping[str, Floats], faulty: NDArray[np.bool_], weights: Floats, policy: Policy
) -> list[dict[str, Any]]:
    of_wafer = {way: costs_of_alarms(faulty, alarm, policy) for way, alarm in alarms.items()}
    costs = {way: np.round(1000 * (weights @ cost) / weights.sum(axis=1), 6) for way, cost in of_wafer.items()}
    return [
        {
            **{"protocol": protocol, "way": way, "alarm_rate": float(alarm.mean())},
            **{"recall": float(alarm[faulty].mean()), **_drawn("cost", costs[way])},
            **_drawn("dearer", costs[way] - costs[MODEL]),
        }
        for way, alarm in alarms.items()
    ]


def _pays(alarm: Floats, faulty: NDArray[np.bool_], weights: Floats) -> dict[str, float]:
    """As shares of false alarms among alarms, and of good wafers among the others, so that every draw is finite."""
    caught, missed = weights @ (faulty * alarm), weights @ (faulty * (1 - alarm))
    false, spared = weights @ (~faulty * alarm), weights @ (~faulty * (1 - alarm))
    found: dict[str, float] = {}
    for name, good, bad in (("above", false, caught), ("below", spared, missed)):
        shares = _drawn(name, np.where(bad > 0, good / np.where(bad > 0, good + bad, 1.0), 1.0))
        found |= {end: share / (1 - share) if share < 1 else np.inf for end, share in shares.items()}
    return found


def _with_ends(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _drawn(name: str, values: Floats) -> dict[str, float]:
    point = float(values[0])
    return dict(zip(_with_ends(name), (point, *percentile_interval(point, values[1:])), strict=True))
