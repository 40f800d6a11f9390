"""A fitted `WaferModel` as plain values, arrays and files: the schema of the model format, apart from the code's names.

What a file calls things is written down here, so that a parameter or attribute may be renamed without making the models
that are kept unreadable: `RECIPE` and `ARRAYS` pair the file's name with today's. A parameter that a file lacks takes
its default, and one that is no longer known is left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from wafer.errors import HandOverError
from wafer.learning.clusters import ElbowClusters
from wafer.learning.decision import Policy, Sigmoid
from wafer.learning.experts import Experts
from wafer.learning.features import WaferFeatures
from wafer.learning.members import member
from wafer.learning.model import WaferModel
from wafer.learning.panel import Panel
from wafer.learning.parts import Arrays
from wafer.learning.search import Recipe, Trained

Document = dict[str, Any]
TABLES = ("elbow", "clusters", "profile", "panel", "held_out")
RECIPE = {
    "reference_window": "reference_window",
    "max_missing": "max_missing",
    "imputation": "imputation",
    "neighbors": "neighbors",
    "max_clusters": "max_clusters",
    "min_cluster_faults": "min_cluster_faults",
    "cluster_prior": "cluster_prior",
    "search_budget": "search_budget",
    "search_folds": "search_folds",
    "panel": "panel",
    "trees": "trees",
    "calibration_folds": "calibration_folds",
    "seed": "seed",
}
POLICY = {
    "cost_missed_fault": "cost_missed_fault",
    "cost_false_alarm": "cost_false_alarm",
    "alarm_rate_ceiling": "alarm_rate_ceiling",
    "threshold": "threshold",
}
FEATURES = {name: name for name in ("max_missing", "imputation", "neighbors", "reference_window")}
ARRAYS = {  # where an array of the file lies in the features or clusters; an imputer has some of its own
    "selector.kept": "selector_.kept_",
    "patterns.flagged": "patterns_.flagged_",
    "imputer.medians": "imputer_.medians_",
    "imputer.spreads": "imputer_.spreads_",
    "imputer.donors": "imputer_.donors_",
    "scaler.orders": "scaler_.orders_",
    "scaler.ends": "scaler_.ends_",
    "scaler.medians": "scaler_.medians_",
    "scaler.spreads": "scaler_.spreads_",
    "features.medians": "medians_",
    "features.spreads": "spreads_",
}
CLUSTERS = {"clusters.mean": "mean_", "clusters.axes": "axes_", "clusters.centres": "centres_"}


def classifier_parts(model: WaferModel) -> tuple[Document, Arrays, dict[str, bytes]]:
    """A fitted model as a document that JSON can hold, arrays by name, and one file for each member.

    Raises:
        HandOverError: classifiers of a study are members or were tried, which the format cannot hold.
    """
    if model.members or model.candidates:
        names = ", ".join(sorted({type(one).__name__ for one in (*model.members, *model.candidates)}))
        raise HandOverError(
            f"a model that was made with {names} cannot be saved: the format runs no code when it is read"
        )
    pooled = {f"pooled-{place}-{one.recipe.kind}": one for place, one in enumerate(model._panel.members)}
    own = {number: f"cluster-{number}-{one.recipe.kind}" for number, one in model._experts.models.items()}
    trained = pooled | {own[number]: one for number, one in model._experts.models.items()}
    files = {name: f"{name}.{one.member.suffix}" for name, one in trained.items()}
    document = {
        "recipe": {name: getattr(model, ours) for name, ours in RECIPE.items()},
        "faulty": _plain(model.faulty_label_),
        "faulty_named": model.faulty_label is not None,
        "policy": {name: getattr(model.policy_, ours) for name, ours in POLICY.items()},
        "classes": model.classes_.tolist(),
        "threshold": model.threshold_,
        "sensors": model.n_features_in_,
        "names": [str(name) for name in getattr(model, "feature_names_in_", [])],
        "features": {name: getattr(model._features, ours) for name, ours in FEATURES.items()},
        "members": {name: _described(one) | {"file": files[name]} for name, one in trained.items()},
        "panel": {"members": list(pooled), "sigmoid": _pair(model._panel.sigmoid)},
        "experts": {
            str(number): {"member": name, "weight": model._experts.weights[number]} for number, name in own.items()
        },
        "sigmoid": _pair(model._sigmoid),
        "tables": {name: _table(getattr(model, f"{name}_")) for name in TABLES},
    }
    arrays = {name: found for name, ours in ARRAYS.items() if (found := _get(model._features, ours)) is not None}
    arrays |= {name: getattr(model._clusters, ours) for name, ours in CLUSTERS.items()}
    return document, arrays, {files[name]: one.member.state() for name, one in trained.items()}


def restored_classifier(document: Document, arrays: Mapping[str, Any], files: Mapping[str, bytes]) -> WaferModel:
    """The model whose parts these are; what does not fit together raises KeyError, ValueError or TypeError."""
    recipe = {ours: document["recipe"][name] for name, ours in RECIPE.items() if name in document["recipe"]}
    policy = {ours: document["policy"][name] for name, ours in POLICY.items() if name in document["policy"]}
    model = WaferModel(**recipe, policy=Policy(**{"threshold": "fixed", **policy}))  # as all were before it could roll
    model.classes_, model.threshold_ = np.array(document["classes"]), document["threshold"]
    model.faulty_label_ = document["faulty"]
    model.faulty_label = document["faulty"] if document["faulty_named"] else None
    model.n_features_in_ = document["sensors"]
    if document["names"]:
        model.feature_names_in_ = np.array(document["names"], dtype=object)
    for name in TABLES:
        setattr(model, f"{name}_", _frame(document["tables"][name]))
    model._features = _features(document["features"], arrays)
    model._clusters = ElbowClusters(max_clusters=model.max_clusters, seed=model.seed)
    model._clusters.elbow_ = model.elbow_
    for name, ours in CLUSTERS.items():
        setattr(model._clusters, ours, arrays[name])
    trained = {name: _trained(entry, files[entry["file"]]) for name, entry in document["members"].items()}
    members = tuple(trained[name] for name in document["panel"]["members"])
    model._panel = Panel(members, Sigmoid(*document["panel"]["sigmoid"]), np.empty(0))
    experts = {int(number): entry for number, entry in document["experts"].items()}
    models = {number: trained[entry["member"]] for number, entry in experts.items()}
    model._experts = Experts(models, {number: float(entry["weight"]) for number, entry in experts.items()})
    model._sigmoid = Sigmoid(*document["sigmoid"])
    return model


def _features(settings: Mapping[str, Any], arrays: Mapping[str, Any]) -> WaferFeatures:
    features = WaferFeatures(**{ours: settings[name] for name, ours in FEATURES.items()})
    features.selector_, features.patterns_, features.imputer_, features.scaler_ = features.steps()
    for name, ours in ARRAYS.items():
        if name in arrays:
            *owner, attribute = ours.split(".")
            setattr(getattr(features, owner[0]) if owner else features, attribute, arrays[name])
    return features


def _get(features: WaferFeatures, place: str) -> Any:
    owner: Any = features
    for name in place.split("."):
        owner = getattr(owner, name, None)
    return owner


def _plain(label: Any) -> Any:
    """As JSON has it, also where the label is NumPy's."""
    return label.item() if isinstance(label, np.generic) else label


def _pair(sigmoid: Sigmoid) -> list[float]:
    return [sigmoid.slope, sigmoid.offset]


def _described(one: Trained) -> Document:
    settings = {"kind": one.recipe.kind, "settings": dict(one.recipe.settings)}
    return settings | {"sigmoid": _pair(one.sigmoid), "auc": one.auc}


def _trained(entry: Mapping[str, Any], data: bytes) -> Trained:
    recipe = Recipe(entry["kind"], entry["settings"])
    return Trained(recipe, member(recipe.kind).restore(data), Sigmoid(*entry["sigmoid"]), np.empty(0), entry["auc"])


def _table(frame: pd.DataFrame) -> list[list[Any]]:
    """Names and values of the columns, in their sequence."""
    return [
        [str(name), [None if isinstance(value, float) and np.isnan(value) else value for value in column.tolist()]]
        for name, column in frame.items()
    ]


def _frame(columns: list[list[Any]]) -> pd.DataFrame:
    return pd.DataFrame({name: _column(values) for name, values in columns})


def _column(values: list[Any]) -> list[Any]:
    numbers = any(isinstance(value, float) for value in values)
    empty = all(value is None for value in values)
    return [np.nan if value is None else value for value in values] if numbers or empty else values
