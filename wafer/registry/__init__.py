"""From a judged model to the champion: trainings, versions, the gate and its ledger, kept in MLflow.

Importing this package imports MLflow (2 s); entry points do it only where they need it. Not here: how a model is
trained (`wafer.learning`), and how it is saved and wafers are scored with it (`wafer.scoring`).
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "IProgress not found")  # MLflow's, of widgets that no notebook here needs
    import mlflow  # noqa: F401

from wafer.registry.gate import compare_scores, gate_rules
from wafer.registry.provenance import describe_snapshot, describe_source
from wafer.registry.records import Check, Comparison, Decision, GateRules, Version
from wafer.registry.tracking import Registry

__all__ = [
    "Check",
    "Comparison",
    "Decision",
    "GateRules",
    "Registry",
    "Version",
    "compare_scores",
    "describe_snapshot",
    "describe_source",
    "gate_rules",
]
