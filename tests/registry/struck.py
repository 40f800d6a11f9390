"""Decides on or logs a version in a process of its own, which may be killed just before one of its writes to MLflow.

    python -m tests.registry.struck ADDRESS ARTIFACTS ACTION VERSION STRIKE

STRIKE is the number of the write to be killed at, counted from 1 (0: none), or a client method's name for its first
call. An undisturbed run prints how many writes there were.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from tests.registry.rules import RULES
from wafer.registry import Registry

WRITES = [
    "create_run",
    "delete_run",
    "log_param",
    "log_batch",
    "log_artifacts",
    "log_outputs",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "create_registered_model",
    "create_model_version",
    "set_terminated",
    "set_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
]


def strike_at(strike: str) -> list[str]:
    """Let the process kill itself at the chosen write; returns the list that the writes' names go to."""
    seen: list[str] = []

    def watched(name: str) -> Any:
        original = getattr(MlflowClient, name)

        def call(*arguments: Any, **named: Any) -> Any:
            seen.append(name)
            if strike in (name, str(len(seen))):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    for name in WRITES:
        setattr(MlflowClient, name, watched(name))
    return seen


def main(address: str, artifacts: str, action: str, version: str, strike: str) -> None:
    """Run one action on the registry."""
    seen = strike_at(strike)
    registry = Registry(address, artifacts)
    if action == "decide":
        registry.decide(version, RULES)
    elif action == "promote":
        registry.promote(version, "a test")
    elif action == "train":
        import pandas as pd

        place = Path(version)
        registry.log_training(
            params={"fit": {"trees": 5}},
            metrics={"forward": {"auc": 0.7}, "permuted": {"auc": 0.5}},
            scores=pd.read_parquet(place / "scores.parquet"),
            model_folder=place / "model",
            example=pd.read_parquet(place / "example.parquet"),
        )
    print(len(seen))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main(*sys.argv[1:])
