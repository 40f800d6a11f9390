"""What small made-up trainings need to pass the gate: rules, scores of a canary that found nothing, another model."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wafer.learning.decision import Policy
from wafer.registry import GateRules

RULES = GateRules(
    auc_margin=0.05,
    cost_margin=0.2,
    confidence=0.9,
    draws=2000,
    seed=0,
    minimum_auc=0.5,
    canary_z=3.0,
    maximum_calibration_error=1.0,
    min_later_faults=20,
    policy=Policy(cost_missed_fault=20.0, cost_false_alarm=1.0),
)


def rules(**changes: Any) -> GateRules:
    """`RULES` with some values changed."""
    return replace(RULES, **changes)


def with_canary(scores: pd.DataFrame) -> pd.DataFrame:
    """`scores` and those of one run on permuted labels, for the same wafers."""
    chance = np.random.default_rng(2)
    permuted = scores.assign(
        protocol="permuted",
        repeat=0,
        label=chance.permutation(scores["label"].to_numpy()),
        probability=chance.uniform(size=len(scores)),
        alarm=False,
    )
    return pd.concat([scores, permuted], ignore_index=True)


def another_model(model_folder: Path, target: Path, blanks: int) -> Path:
    """A copy of a saved model that has another digest: so many blanks end its manifest."""
    shutil.copytree(model_folder, target)
    with (target / "manifest.json").open("a") as manifest:
        manifest.write(" " * blanks)
    return target
