"""How much each feature speaks for or against a fault: exact Shapley values of the members, in their own units.

Trees: Lundberg et al., "From local explanations to global understanding with explainable AI for trees", Nature Machine
Intelligence 2, 2020, as XGBoost computes it; a forest is handed to XGBoost as a booster with the same trees. Linear
scores: weight times distance from the training mean.
"""

import json
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import xgboost
from numpy.typing import NDArray

from wafer.learning.members import Boosted, Forest, Logistic, Member

Floats = NDArray[np.float64]
NO_PARENT = 2147483647
# handing over a large forest takes half a second, and a model explains the alarms of many batches
_boosters: WeakKeyDictionary[Forest, xgboost.Booster] = WeakKeyDictionary()


def contributions(member: Member, F: Floats) -> Floats:
    """Each feature's part in the member's score, shape (wafers, features); parts and a constant sum to the score."""
    if isinstance(member, Logistic):
        near = np.clip(F, -member.limit, member.limit)
        return np.asarray((near - member.centre) * member.weights)
    if isinstance(member, Forest):
        booster = _boosters.get(member) or _boosters.setdefault(member, as_booster(member, F.shape[1]))
    elif isinstance(member, Boosted):
        booster = member.booster
    else:
        raise TypeError(f"no contributions are known for {type(member).__name__}")
    parts = booster.predict(xgboost.DMatrix(np.asarray(F, dtype=np.float32), nthread=1), pred_contribs=True)
    return np.asarray(parts[:, :-1], dtype=np.float64)


def as_booster(forest: Forest, features: int) -> xgboost.Booster:
    """An XGBoost booster whose trees, and so whose predictions, are the forest's (in single precision)."""
    plain = xgboost.train(
        {"base_score": 0.0, "nthread": 1}, xgboost.DMatrix(np.zeros((2, features)), label=[0, 1], nthread=1), 1
    )
    document = json.loads(bytes(plain.save_raw("json")))
    model = document["learner"]["gradient_booster"]["model"]
    ends = np.append(forest.roots[1:], len(forest.feature))
    model["trees"] = [
        _tree(forest, number, int(start), int(end), features)
        for number, (start, end) in enumerate(zip(forest.roots, ends, strict=True))
    ]
    model["gbtree_model_param"]["num_trees"] = str(len(forest.roots))
    model["tree_info"] = [0] * len(forest.roots)
    model["iteration_indptr"] = list(range(len(forest.roots) + 1))
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(json.dumps(document).encode()))
    booster.set_param({"nthread": 1})
    return booster


def _in_pairs(left: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.int64]:
    """A sequence of one tree's nodes in which two siblings follow each other, as XGBoost's attribution expects."""
    sequence = [0]
    for node in sequence:
        if left[node] != node:
            sequence += [int(left[node]), int(right[node])]
    return np.array(sequence)


def _tree(forest: Forest, number: int, start: int, end: int, features: int) -> dict[str, Any]:
    old = _in_pairs(forest.left[start:end] - start, forest.right[start:end] - start)
    new = np.empty_like(old)
    new[old] = np.arange(len(old))
    nodes = old + start
    leaf = forest.left[nodes] == nodes
    left = np.where(leaf, -1, new[forest.left[nodes] - start])
    right = np.where(leaf, -1, new[forest.right[nodes] - start])
    parents = np.full(end - start, NO_PARENT)
    inner = np.flatnonzero(~leaf)
    parents[left[inner]] = inner
    parents[right[inner]] = inner
    values = forest.value[nodes] / len(forest.roots)
    count = end - start
    return {
        "id": number,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(features),
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
        "left_children": left.tolist(),
        "right_children": right.tolist(),
        "parents": parents.tolist(),
        "split_indices": forest.feature[nodes].tolist(),
        "split_conditions": np.where(leaf, values, _strictly_above(forest.cut[nodes])).tolist(),
        "split_type": [0] * count,
        "default_left": [0] * count,
        "base_weights": values.tolist(),
        "sum_hessian": forest.cover[nodes].tolist(),
        "loss_changes": [0.0] * count,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
    }


def _strictly_above(cut: Floats) -> Floats:
    """The single-precision bounds for which `x < bound` is `x <= cut`, the one test being XGBoost's."""
    nearest = cut.astype(np.float32)
    below = np.where(nearest.astype(np.float64) > cut, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return np.nextafter(below.astype(np.float32), np.float32(np.inf)).astype(np.float64)
