"""What a model says of wafers, asked in one place and computed in one pass."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from wafer.diagnosis.drift import Drift
from wafer.diagnosis.monitoring import Monitored
from wafer.diagnosis.novelty import is_unknown
from wafer.diagnosis.reasons import tell
from wafer.documents import quoted
from wafer.errors import ModelError, ParameterError
from wafer.learning.model import Prepared, joined
from wafer.records import WhoseReasons, with_units
from wafer.scoring.bundle import Bundle
from wafer.shown import facts_html

NO_VERDICT = "unknown"
UNLIKE = "unlike anything seen"


@dataclass(frozen=True)
class Judgement:
    """What a model says of some wafers, one row for each, in the sequence in which they came.

    Attributes:
        wafers: frame with the columns
            verdict: -1 good, 1 faulty; missing for a wafer that nobody can judge,
                because it lacks more readings than any training wafer did.
            probability: of a fault; NaN for a wafer without any reading of the sensors that the model uses.
            cluster: numbered from 0.
            p_value: how well the wafer fits what was seen, in (0, 1]; see `wafer.diagnosis.novelty`.
            unknown: it has no verdict, or its verdict should not be trusted because it is unlike anything seen.
            why: "unknown" without a verdict, "unlike anything seen" for an untrustworthy one, else empty.
            threshold: probability from which the wafer is an alarm; where the policy's threshold is rolling, it follows
                the wafers before this one.
            version: of the model in the registry; 0 for one that is not registered.
        reasons: columns as of `wafer.diagnosis.reasons.tell`, `row` counting from 0; None where not asked for.
        drift: of all wafers as one batch; None where not asked for.
        monitored: what left control among them; None where not asked for.
    """

    wafers: pd.DataFrame
    reasons: pd.DataFrame | None = None
    drift: Drift | None = None
    monitored: Monitored | None = None

    @property
    def alarms(self) -> NDArray[np.bool_]:
        """Which wafers are called faulty, shape (wafers,)."""
        return ((self.wafers["probability"] >= self.wafers["threshold"]) & self.wafers["verdict"].notna()).to_numpy()

    def counts(self) -> dict[str, int]:
        """How many wafers there are, how many alarms, and how many that are unknown."""
        unknown = int(self.wafers["unknown"].sum())
        return {"wafers": len(self.wafers), "alarms": int(self.alarms.sum()), "unknown": unknown}

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it: the counts, and the alarms, most probable first, with their first reasons."""
        told: dict[str, object] = dict(self.counts())
        if len(self.wafers):
            ends = self.wafers["threshold"].agg(["min", "max"])
            told |= {
                "threshold": " to ".join(dict.fromkeys(f"{end:.4g}" for end in ends)),
                "version": int(self.wafers["version"].iloc[0]) or "not registered",
            }
        if self.drift is not None:
            told["drift"] = f"{self.drift.score:.3g}"
        alarms = self.wafers.loc[self.alarms].sort_values("probability", ascending=False, kind="stable")
        first = {} if self.reasons is None else self.reasons.groupby("row")["sensor"].agg(list).to_dict()
        named = [
            {"row": str(row), "probability": one["probability"], "cluster": str(one["cluster"])}
            | ({} if self.reasons is None else {"reasons": ", ".join(first.get(row, [])) or "none above chance"})
            for row, one in alarms.iterrows()
        ]
        return {**told, "first alarms": named}

    _repr_html_ = facts_html


def judge(
    bundle: Bundle,
    wafers: ArrayLike,
    order: ArrayLike | None = None,
    *,
    version: int = 0,
    recent: ArrayLike | None = None,
    reasons: WhoseReasons = "none",
    most: int = 5,
    drift: bool = False,
    monitor: bool = False,
    batches: ArrayLike | None = None,
    apart: bool = False,
) -> Judgement:
    """Judge wafers: the probability of each by its readings and production order alone, alarms in that order.

    Parameters:
        bundle: fitted.
        wafers: readings, shape (wafers, sensors), NaN for missing; a frame's columns are taken by name.
        order: production order, shape (wafers,); None: now.
        version: the model's in the registry.
        recent: probabilities that this model gave to wafers between its training and these, oldest first, which a
            rolling threshold follows; None: there were none, so that it starts from the model's held-out scores.
        reasons: whose reasons are given; they cost far more than a probability.
        most: reasons a wafer, at most.
        drift: whether to compare the wafers, as a batch, with the newest training wafers.
        monitor: whether to look for what left control; unlike all else it depends on the wafers before.
        batches: name of each wafer's batch, which the monitor tells by; None: all are of one.
        apart: whether a rolling threshold treats each wafer as if it came alone, next after `recent`; then all that is
            said of a wafer is the same in any company.

    Raises:
        ParameterError: `reasons` is none of its values, or `most` is no whole number of at least 1.
        ModelError: a sensor is not there, an order does not fit, drift is asked of a model that learned none or of
            too few wafers, or a monitor of one that learned none.
    """
    if reasons not in get_args(WhoseReasons):
        raise ParameterError(f"reasons must be one of {', '.join(get_args(WhoseReasons))}, got {quoted(reasons)}")
    if isinstance(most, bool) or not isinstance(most, int | np.integer) or most < 1:
        raise ParameterError(f"most must be a whole number of at least 1, got {quoted(most)}")
    blocks = bundle.classifier.by_blocks(wafers, order, partial(_judged, bundle, reasons, drift or monitor))
    probability, cluster, p_value, unmeasured, kept = map(
        np.concatenate, zip(*(one.said for one in blocks), strict=True)
    )
    unlike, threshold = is_unknown(p_value), _thresholds(bundle, probability, order, recent, apart)
    alarm = (probability >= threshold) & ~unmeasured
    verdict = pd.Series(np.where(alarm, 1, -1), dtype="Int64").mask(unmeasured)
    table = pd.DataFrame(
        {
            "verdict": verdict,
            "probability": probability,
            "cluster": cluster,
            "p_value": p_value,
            "unknown": unlike | unmeasured,
            "why": np.where(unmeasured, NO_VERDICT, np.where(unlike, UNLIKE, "")),
            "threshold": threshold,
            "version": version,
        }
    )
    told = None
    if reasons != "none":
        asked = alarm if reasons == "alarms" else np.ones_like(alarm)
        explained = joined([one.explained for one in blocks]).rows(asked[kept])
        told = _reasons(bundle, explained, np.flatnonzero(asked), most)
    readings = np.concatenate([one.readings for one in blocks])
    return Judgement(
        with_units(table, "Judgement.wafers"),
        told,
        _drift(bundle, readings, p_value) if drift else None,
        _monitored(bundle, readings, order, batches) if monitor else None,
    )


class _Block(NamedTuple):
    """What is said of some wafers, those whose reasons may be asked for, and all readings where they are compared."""

    said: tuple[NDArray[Any], ...]
    explained: Prepared
    readings: NDArray[np.float64]


def _judged(bundle: Bundle, reasons: WhoseReasons, compared: bool, seen: Prepared) -> _Block:
    model, novelty = bundle.classifier, bundle.novelty
    probability = np.where(seen.missing.all(axis=1), np.nan, model.probability(seen))
    unmeasured = novelty.unmeasured(seen.missing)
    worth_it = (probability >= model.policy_.worthwhile) & ~unmeasured  # no threshold lies lower
    rows = {"none": np.zeros_like(worth_it), "alarms": worth_it, "all": np.ones_like(worth_it)}[reasons]
    said = probability, seen.cluster, novelty.p_value(seen.relative, seen.missing), unmeasured, rows
    return _Block(said, seen.rows(rows), seen.readings if compared else seen.readings[:0])


def _thresholds(
    bundle: Bundle, probability: NDArray[np.float64], order: ArrayLike | None, recent: ArrayLike | None, apart: bool
) -> NDArray[np.float64]:
    if apart:  # a wafer's threshold follows those before it, not its own probability
        return np.full(len(probability), bundle.classifier.thresholds(np.zeros(1), None, recent)[0])
    return bundle.classifier.thresholds(probability, order, recent)


def _reasons(bundle: Bundle, seen: Prepared, rows: NDArray[np.int64], most: int) -> pd.DataFrame:
    known, model = bundle.reasons, bundle.classifier
    if known is None:
        raise ModelError("the model gives no reasons: it learned none when it was trained")
    own = np.empty((0, model.n_features_in_))
    if known.shown and len(rows):
        own = model.contributions(seen)
    told = tell(known, own, seen.readings, seen.cluster, model.sensor_names_, most=most)
    return told.assign(row=rows[told["row"].to_numpy(np.int64)])


def _drift(bundle: Bundle, readings: NDArray[np.float64], p_value: NDArray[np.float64]) -> Drift:
    if bundle.drift is None:
        raise ModelError("the model cannot tell drift: it learned none when it was trained, or had too few wafers")
    return bundle.drift.compare(readings, p_value, bundle.classifier.sensor_names_)


def _monitored(
    bundle: Bundle, readings: NDArray[np.float64], order: ArrayLike | None, batches: ArrayLike | None
) -> Monitored:
    if bundle.monitor is None:
        raise ModelError("the model cannot monitor: it learned no control charts when it was trained")
    return bundle.monitor.watch(readings, bundle.classifier.sensor_names_, order, batches)
