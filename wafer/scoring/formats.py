"""The formats in which models are kept: the present one is written, and earlier ones are read as if they were it.

A format is a schema of its own. A reader of an earlier one turns its parts into those of the present one, so that only
one place builds objects. A golden model of each format stands in the tests.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xgboost

from wafer.diagnosis.charts import ControlCharts
from wafer.diagnosis.drift import DriftReference
from wafer.diagnosis.monitoring import Monitor
from wafer.diagnosis.multivariate import PcaCharts
from wafer.diagnosis.novelty import Novelty
from wafer.diagnosis.reasons import Reasons
from wafer.errors import ModelError
from wafer.learning.forests import Trees
from wafer.learning.model import WaferModel
from wafer.learning.parts import Arrays, array_bytes, json_bytes, read_arrays, read_parts
from wafer.learning.saved import classifier_parts, restored_classifier

FORMAT = 3
DOCUMENT, ARRAYS = "model.json", "arrays.npz"
Parts = tuple[WaferModel, Novelty, Reasons | None, DriftReference | None, Monitor | None]


class Saved(NamedTuple):
    """What the parts of a model hold: `model.json`, `arrays.npz`, and one file for each member."""

    document: dict[str, Any]
    arrays: Arrays
    files: dict[str, bytes]


def to_parts(
    classifier: WaferModel,
    novelty: Novelty,
    reasons: Reasons | None,
    drift: DriftReference | None,
    monitor: Monitor | None,
) -> dict[str, bytes]:
    """The parts of a model in the present format, by file name."""
    own, arrays, files = classifier_parts(classifier)
    arrays |= {"novelty.distances": novelty.distances, "novelty.gaps": novelty.gaps}
    document: dict[str, Any] = {"classifier": own, "reasons": None, "drift": None, "monitor": None}
    if reasons is not None:
        document["reasons"] = {"floor": reasons.floor, "strength": reasons.strength}
        arrays |= {"reasons.groups": reasons.groups, "reasons.percentiles": reasons.percentiles}
    if drift is not None:
        numbers = {"newest": drift.newest, "threshold": drift.threshold}
        document["drift"] = numbers | {"domain_auc": drift.domain_auc, "unknown": drift.unknown}
        arrays["drift.readings"] = drift.readings
    if monitor is not None:
        document["monitor"] = {"charts": None, "pca": None}
        for name, part in (("charts", monitor.charts), ("pca", monitor.pca)):
            if part is not None:
                values = {field.name: getattr(part, field.name) for field in fields(part)}
                found = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
                arrays |= {f"monitor.{name}.{key}": value for key, value in found.items()}
                document["monitor"][name] = {key: value for key, value in values.items() if key not in found}
    return {DOCUMENT: json_bytes(document), ARRAYS: array_bytes(arrays), **files}


def read_folder(folder: Path) -> Parts:
    """Classifier, novelty, reasons, drift and monitor of the model saved in `folder`, in any format that is known.

    Raises:
        ModelError: there is no such model, or its parts do not fit together.
        TamperedError: a part is not what was saved.
    """
    version, found = read_parts(folder, READERS)
    try:
        document, arrays = json.loads(found[DOCUMENT]), read_arrays(found[ARRAYS])
        return _restored(READERS[version](Saved(document, arrays, found)))
    except (KeyError, ValueError, TypeError, xgboost.core.XGBoostError) as error:
        raise ModelError(f"the parts of the model in {folder} do not fit together: {error!r:.200}") from error


def _restored(saved: Saved) -> Parts:
    document, arrays = saved.document, saved.arrays
    classifier = restored_classifier(document["classifier"], arrays, saved.files)
    novelty = Novelty(arrays["novelty.distances"], arrays["novelty.gaps"])
    reasons = drift = None
    if (numbers := document["reasons"]) is not None:
        tables = arrays["reasons.groups"], arrays["reasons.percentiles"]
        reasons = Reasons(*tables, floor=numbers["floor"], strength=numbers["strength"])
    if (numbers := document["drift"]) is not None:
        usual = {name: numbers[name] for name in ("newest", "threshold", "domain_auc", "unknown")}
        drift = DriftReference(readings=arrays["drift.readings"], **usual)
    return classifier, novelty, reasons, drift, _restored_monitor(document["monitor"], arrays)


def _restored_monitor(plain: dict[str, Any] | None, arrays: Arrays) -> Monitor | None:
    if plain is None:
        return None
    found: dict[str, Any] = {
        name: {key.rpartition(".")[2]: value for key, value in arrays.items() if key.startswith(f"monitor.{name}.")}
        for name in plain
    }
    found["pca"].pop("usual", None)  # which models were saved with for a while
    pca = None if plain["pca"] is None else PcaCharts(**found["pca"], **plain["pca"])
    charts = {**found["charts"], **plain["charts"], "rules": tuple(plain["charts"]["rules"])}
    return Monitor(ControlCharts(**charts), pca)


def _from_format_1(saved: Saved) -> Saved:
    """Format 1, whose parameters were the constructor's, whose forests were arrays, and which kept no held-out scores.

    Raises:
        ModelError: a model of the reference search, which is an estimator of its own now and is not kept.
    """
    old, params = saved.document, saved.document["params"]
    if params.get("search") == "reference":
        raise ModelError("the model was trained by the reference search, which is no longer kept: train it again")
    arrays = {name.removesuffix("_"): array for name, array in saved.arrays.items()}
    features = {name: params[name] for name in ("max_missing", "imputation", "neighbors", "reference_window")}
    flagged, kept = arrays["patterns.flagged"], arrays["selector.kept"]
    columns, files, members = 2 * len(kept) + len(flagged), {}, {}
    for name, entry in old["members"].items():
        file, files[file] = f"{name}.{'npz' if entry['kind'] == 'logistic' else 'ubj'}", b""
        files[file] = _member_of_format_1(entry["kind"], saved.files[entry["file"]], columns)
        members[name] = {**entry, "file": file}
    weights = dict(old["tables"]["clusters_"])["weight"]
    policy = {name: params[name] for name in ("cost_missed_fault", "cost_false_alarm", "alarm_rate_ceiling")}
    classifier = {
        **{"recipe": params, "policy": policy, "features": features, "members": members},
        **{name: old[name] for name in ("classes", "threshold", "names", "sigmoid")},
        "sensors": old["features"],
        "faulty": old["classes"][1] if params.get("faulty_label") is None else params["faulty_label"],
        "faulty_named": params.get("faulty_label") is not None,
        "panel": {"members": old["panel"], "sigmoid": old["panel_sigmoid"]},
        "experts": {
            number: {"member": name, "weight": weights[int(number)]} for number, name in old["experts"].items()
        },
        "tables": {name.removesuffix("_"): table for name, table in old["tables"].items()}
        | {"held_out": [[name, []] for name in ("protocol", "faulty", "probability")]},
    }
    reasons, drift = old["reasons"], old.get("drift")  # the first models of the format lack drift
    document = {
        "classifier": classifier,
        "reasons": None if reasons is None else dict(zip(("floor", "strength"), reasons, strict=True)),
        "drift": None
        if drift is None
        else dict(zip(("newest", "threshold", "domain_auc", "unknown"), drift, strict=True)),
    }
    return _from_format_2(Saved(document, arrays, files))


def _from_format_2(saved: Saved) -> Saved:
    """Format 2, whose models had no monitor."""
    return saved._replace(document={**saved.document, "monitor": None})


def _member_of_format_1(kind: str, data: bytes, features: int) -> bytes:
    if kind == "logistic":
        return data
    if kind == "xgboost":
        booster = xgboost.Booster()
        booster.load_model(bytearray(data))
        return bytes(booster.save_raw("ubj"))
    arrays = read_arrays(data)
    return Trees(**{name: arrays[name] for name in Trees._fields}).as_booster(features)


READERS: Mapping[int, Callable[[Saved], Saved]] = {1: _from_format_1, 2: _from_format_2, 3: lambda saved: saved}
