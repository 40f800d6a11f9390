"""A model as files that execute nothing: JSON and arrays, each with its SHA-256 in a manifest.

The same model gives the same bytes: keys are sorted, archives carry no times, and no pickle is written or read.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.errors import ModelError, TamperedError
from wafer.learning.decision import LogOdds, Sigmoid
from wafer.learning.drift import DriftReference
from wafer.learning.experts import Experts
from wafer.learning.explain import Reasons
from wafer.learning.members import restore
from wafer.learning.novelty import Novelty
from wafer.learning.panel import Panel
from wafer.learning.search import Recipe, Trained

FORMAT = 1
TABLES = ("elbow_", "clusters_", "profile_", "panel_")
MANIFEST = "manifest.json"
Arrays = dict[str, NDArray[Any]]


def json_bytes(value: Any) -> bytes:
    """Sorted, indented JSON; NaN is refused."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def array_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An `.npz` archive whose bytes depend on the arrays alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(arrays[name], order="C"), version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue(), compresslevel=1)
    return buffer.getvalue()


def read_arrays(data: bytes) -> Arrays:
    """The arrays of an `.npz` archive; objects, which would need pickle, are refused."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_parts(folder: Path, parts: Mapping[str, bytes]) -> dict[str, str]:
    """Write each part and the manifest into `folder`; returns each part's SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: hashlib.sha256(parts[name]).hexdigest() for name in sorted(parts)}
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_bytes(json_bytes({"format": FORMAT, "parts": digests}))
    return digests


def read_parts(folder: Path) -> dict[str, bytes]:
    """The parts that the manifest of `folder` lists.

    Raises:
        ModelError: there is no manifest that can be read, or a part is missing.
        TamperedError: a part's bytes are not those that were written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        digests: dict[str, str] = dict(manifest["parts"])
        version = manifest["format"]
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a saved model: it has no {MANIFEST}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if version != FORMAT:
        raise ModelError(f"{folder / MANIFEST} has format {version!r}, this release reads format {FORMAT}")
    return {name: _verified(folder, name, digest) for name, digest in digests.items()}


def _verified(folder: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name:
        raise TamperedError(f"{folder / MANIFEST} lists a part outside its folder: {name!r}")
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{folder} lacks the part {name}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise TamperedError(f"{folder / name} has SHA-256 {found}, but {digest} was registered")
    return data


def to_parts(model: Any) -> dict[str, bytes]:
    """The parts of a fitted `WaferModel`: `model.json`, `arrays.npz` and one file per trained model."""
    trained = {f"pooled-{place}-{one.recipe.kind}": one for place, one in enumerate(model._panel.members)}
    trained |= {f"cluster-{number}-{one.recipe.kind}": one for number, one in model._experts.models.items()}
    files = {name: "json" if one.recipe.kind == "xgboost" else "npz" for name, one in trained.items()}
    drift = model.drift_reference_
    document = {
        "params": _params(model),
        "classes": model.classes_.tolist(),
        "threshold": model.threshold_,
        "sigmoid": [model._sigmoid.slope, model._sigmoid.offset],
        "features": model.n_features_in_,
        "names": [str(name) for name in getattr(model, "feature_names_in_", [])],
        "members": {name: _described(one) | {"file": f"{name}.{files[name]}"} for name, one in trained.items()},
        "panel": [f"pooled-{place}-{one.recipe.kind}" for place, one in enumerate(model._panel.members)],
        "panel_sigmoid": [model._panel.sigmoid.slope, model._panel.sigmoid.offset],
        "reasons": None if model.reasons_ is None else [model.reasons_.floor, model.reasons_.strength],
        "drift": None if drift is None else [drift.newest, drift.threshold, drift.told_apart, drift.unknown],
        "experts": {
            str(number): f"cluster-{number}-{one.recipe.kind}" for number, one in model._experts.models.items()
        },
        "tables": {name: _table(getattr(model, name)) for name in TABLES},
    }
    arrays = {
        f"{room}.{name}": array for room, owner in _rooms(model).items() for name, array in _learned(owner).items()
    }
    arrays |= {"novelty.distances": model._novelty.distances, "novelty.gaps": model._novelty.gaps}
    if model.reasons_ is not None:
        arrays |= {"reasons.groups": model.reasons_.groups, "reasons.percentiles": model.reasons_.percentiles}
    if drift is not None:
        arrays |= {"drift.readings": drift.readings}
    result = {"model.json": json_bytes(document), "arrays.npz": array_bytes(arrays)}
    for name, one in trained.items():
        state = one.member.state()
        result[f"{name}.{files[name]}"] = state["json"] if files[name] == "json" else array_bytes(state)
    return result


def _params(model: Any) -> dict[str, Any]:
    params = {name: value for name, value in model.get_params(deep=False).items() if name != "n_jobs"}
    if params.pop("faulty_label") is not None:  # as JSON has it, also where NumPy's label was given
        params["faulty_label"] = model.faulty_label_
    return params


def from_parts(cls: Any, found: Mapping[str, bytes]) -> Any:
    """The model whose parts these are; `cls` is `WaferModel`.

    Raises:
        ModelError: a part is missing or does not fit the others.
    """
    try:
        document = json.loads(found["model.json"])
        model = cls(**document["params"])
        model.classes_ = np.array(document["classes"])
        model.faulty_label_ = document["classes"][1] if model.faulty_label is None else model.faulty_label
        model.threshold_ = document["threshold"]
        model.n_features_in_ = document["features"]
        if document["names"]:
            model.feature_names_in_ = np.array(document["names"], dtype=object)
        trained = {name: _trained(entry, found[entry["file"]]) for name, entry in document["members"].items()}
        members = tuple(trained[name] for name in document["panel"])
        model._panel = Panel(members, Sigmoid(*document["panel_sigmoid"]), np.empty(0))
        for name in TABLES:
            setattr(model, name, _frame(document["tables"][name]))
        experts = {int(number): trained[name] for number, name in document["experts"].items()}
        model._experts = Experts(experts, {number: float(model.clusters_["weight"][number]) for number in experts})
        arrays = read_arrays(found["arrays.npz"])
        model._novelty = Novelty(arrays.pop("novelty.distances"), arrays.pop("novelty.gaps"))
        model.reasons_, model.drift_reference_ = None, None
        if document["reasons"] is not None:
            tables = arrays.pop("reasons.groups"), arrays.pop("reasons.percentiles")
            model.reasons_ = Reasons(*tables, *document["reasons"])
        if document.get("drift") is not None:  # models saved by earlier releases lack the key
            model.drift_reference_ = DriftReference(arrays.pop("drift.readings"), *document["drift"])
        _restore_rooms(model, arrays)
        model._sigmoid = Sigmoid(*document["sigmoid"])
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"the parts of the model do not fit together: {error!r}") from error
    return model


def _rooms(model: Any) -> dict[str, Any]:
    """The owners of learned arrays."""
    features = model._features
    rooms = {
        "selector": features.selector_,
        "patterns": features.patterns_,
        "imputer": features.imputer_,
        "scaler": features.scaler_,
    }
    return rooms | {"features": features, "clusters": model._clusters}


def _learned(owner: Any) -> Arrays:
    return {name: value for name, value in sorted(vars(owner).items()) if isinstance(value, np.ndarray)}


def _restore_rooms(model: Any, arrays: Arrays) -> None:
    features = model._make_features()
    features.selector_, features.patterns_, features.imputer_, features.scaler_ = features.steps()
    model._features, model._clusters = features, model._make_clusters()
    model._clusters.elbow_ = model.elbow_
    rooms = _rooms(model)
    for place, array in arrays.items():
        room, name = place.split(".")
        setattr(rooms[room], name, array)


def _described(one: Trained) -> dict[str, Any]:
    return {
        "kind": one.recipe.kind,
        "settings": dict(one.recipe.settings),
        "sigmoid": [one.sigmoid.slope, one.sigmoid.offset] if isinstance(one.sigmoid, Sigmoid) else None,
        "auc": one.auc,
    }


def _trained(entry: Mapping[str, Any], data: bytes) -> Trained:
    state = {"json": data} if entry["file"].endswith(".json") else read_arrays(data)
    recipe = Recipe(entry["kind"], entry["settings"])
    sigmoid = LogOdds() if entry["sigmoid"] is None else Sigmoid(*entry["sigmoid"])
    return Trained(recipe, restore(recipe.kind, state), sigmoid, np.empty(0), entry["auc"])


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
