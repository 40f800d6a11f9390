"""Whether it is time to train again: by drift, by labels that came, or by the time that has passed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from wafer.params import RetrainParams
from wafer.records import SAME_MODEL, Due
from wafer.registry.records import RUNNING, Version
from wafer.registry.tracking import Registry
from wafer.registry.versions import MANIFEST
from wafer.runs import time_of
from wafer.store.snapshot import NOTHING_LABELLED
from wafer.store.wafers import Store

SECONDS_A_DAY = 86_400


def due(params: RetrainParams, registry: Registry, store: Store, timeline: Sequence[Mapping[str, Any]]) -> Due:
    """Whether a training is due after the newest one, whether or not its version came into use.

    Without a wafer that was labelled since, no training is: it would learn nothing new.

    Parameters:
        timeline: batches that were scored, as `wafer.scoring.timeline` tells of them.
    """
    trained = [version for version in registry.versions() if version.retuned is None]
    labelled = store.count_labelled()
    if not labelled:
        return Due(None, f"nothing was trained: {NOTHING_LABELLED}")
    if not trained:
        return Due("first", "no version was trained yet")
    last = trained[-1]
    named = f"version {last.version} was trained"
    if last.training == RUNNING:
        return Due("cut short", f"the training of version {last.version} was cut short")
    labels = labelled - int((registry.stored_json(last, MANIFEST) or {}).get("wafers", 0))
    if labels <= 0:
        return Due(None, f"nothing was trained: no wafer was labelled since {named}")
    moved, batches = _drifted(params, timeline, last)
    days = (store.now() - datetime.fromisoformat(last.created)).total_seconds() / SECONDS_A_DAY
    if moved >= params.drifted_batches:
        return Due("drift", f"{moved} of the last {batches} batches drifted since {named}")
    if labels >= params.new_labels:
        return Due("labels", f"{labels:,} wafers were labelled since {named}")
    if days >= params.days:
        return Due("time", f"{days:.1f} days have passed since {named}, and {labels:,} wafers were labelled")
    told = (
        f"{moved} of {batches} batches drifted ({params.drifted_batches} are needed), {labels:,} wafers were labelled"
    )
    passed = f"({params.new_labels:,}), and {days:.1f} days have passed ({params.days:g})"
    return Due(None, f"nothing was trained: since {named}, {told} {passed}")


def _drifted(params: RetrainParams, timeline: Sequence[Mapping[str, Any]], last: Version) -> tuple[int, int]:
    """How many of the last batches drifted that were scored after a training, and how many there are."""
    told = [
        one["drifted"]
        for one in timeline
        if one["drifted"] is not None and time_of(str(one["run"])) > datetime.fromisoformat(last.created)
    ]
    recent = told[-params.drift_window :]
    return sum(recent), len(recent)


def refused_in_a_row(registry: Registry) -> int:
    """How many trained versions the gate has refused since it last promoted one, or somebody did."""
    count = 0
    for line in reversed(registry.ledger()):
        if line.promoted:
            break
        count += line.kind not in (SAME_MODEL, "retune")
    return count
