"""Forests of scikit-learn as boosters of XGBoost, whose predictor walks the same trees many times faster.

XGBoost adds in single precision, each wafer by itself: scores differ by about 5e-8 from scikit-learn's and depend
neither on the batch nor on the number of threads. The booster's exact Shapley values are the forest's.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xgboost
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int32]
NO_PARENT = 2147483647
NO_NODES = np.empty(0, np.int32)
MARKS = {"f4": b"d", "u1": b"U", "i4": b"l", "i8": b"L"}  # UBJSON's, of arrays


class Trees(NamedTuple):
    """The trees of a forest, one after another.

    Attributes:
        roots: position of each tree's root, shape (trees,).
        feature, cut, left, right: a wafer goes left where float32(feature) <= cut; leaves point to themselves.
        value: share of faults (weighted as in training) in each node.
        cover: training wafers (weighted) that passed each node.
    """

    roots: Integers
    feature: Integers
    cut: Floats
    left: Integers
    right: Integers
    value: Floats
    cover: Floats

    @classmethod
    def of(cls, forest: Any, first: int = 0) -> "Trees":
        """The trees of a fitted scikit-learn forest whose second class is "faulty"; it knows feature `first` as 0."""
        trees = [estimator.tree_ for estimator in forest.estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
        columns: list[tuple[NDArray[Any], ...]] = []
        for root, tree in zip(roots, trees, strict=True):
            leaf, own = tree.children_left < 0, np.arange(tree.node_count) + root
            counts = tree.value[:, 0, :]
            columns.append(
                (
                    np.where(leaf, 0, tree.feature + first).astype(np.int32),
                    np.where(leaf, 0.0, tree.threshold),
                    np.where(leaf, own, tree.children_left + root).astype(np.int32),
                    np.where(leaf, own, tree.children_right + root).astype(np.int32),
                    counts[:, 1] / counts.sum(axis=1),
                    tree.weighted_n_node_samples,
                )
            )
        return cls(roots.astype(np.int32), *(np.concatenate(column) for column in zip(*columns, strict=True)))

    def as_booster(self, features: int) -> bytes:
        """A booster (UBJSON, as XGBoost's `load_model` reads it) of the mean of the trees, for so many features."""
        document = json.loads(_empty_booster(features))
        model = document["learner"]["gradient_booster"]["model"]
        model["trees"] = list(self._documents(features))
        model["cats"] = {"enc": [], "feature_segments": NO_NODES, "sorted_idx": NO_NODES}
        model["gbtree_model_param"]["num_trees"] = str(len(self.roots))
        model["tree_info"] = [0] * len(self.roots)
        model["iteration_indptr"] = list(range(len(self.roots) + 1))
        return universal_binary_json(document)

    def _documents(self, features: int) -> Iterator[dict[str, Any]]:
        nodes, place = self._in_pairs()
        leaf = self.left[nodes] == nodes
        left, right = (np.where(leaf, -1, place[child[nodes]]).astype(np.int32) for child in (self.left, self.right))
        values = (self.value[nodes] / len(self.roots)).astype(np.float32)
        cuts = np.where(leaf, values, _strictly_above(self.cut[nodes])).astype(np.float32)
        feature, cover = self.feature[nodes].astype(np.int32), self.cover[nodes].astype(np.float32)
        parents = np.full(len(nodes), NO_PARENT, np.int32)
        for number, start in enumerate(self.roots):
            end = self.roots[number + 1] if number + 1 < len(self.roots) else len(nodes)
            own, size = slice(start, end), int(end - start)
            inner = np.flatnonzero(~leaf[own]).astype(np.int32)
            parents[own][left[own][inner]] = inner
            parents[own][right[own][inner]] = inner
            sizes = {"num_deleted": "0", "num_feature": str(features), "num_nodes": str(size), "size_leaf_vector": "1"}
            flags = np.zeros(size, np.uint8)
            yield {
                "base_weights": values[own],
                "categories": NO_NODES,
                "categories_nodes": NO_NODES,
                "categories_segments": NO_NODES.astype(np.int64),
                "categories_sizes": NO_NODES.astype(np.int64),
                "default_left": flags,
                "id": number,
                "left_children": left[own],
                "loss_changes": np.zeros(size, np.float32),
                "parents": parents[own],
                "right_children": right[own],
                "split_conditions": cuts[own],
                "split_indices": feature[own],
                "split_type": flags,
                "sum_hessian": cover[own],
                "tree_param": sizes,
            }

    def _in_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The nodes tree by tree, two siblings next to each other as XGBoost expects, and each node's place there."""
        levels = [self.roots.astype(np.int64)]
        while len(levels[-1]):
            inner = levels[-1][self.left[levels[-1]] != levels[-1]]
            levels.append(np.column_stack([self.left[inner], self.right[inner]]).ravel().astype(np.int64))
        nodes = np.concatenate(levels)
        tree = np.searchsorted(self.roots, nodes, side="right") - 1
        nodes = nodes[np.argsort(tree, kind="stable")]
        place = np.empty(len(nodes), np.int64)
        place[nodes] = np.arange(len(nodes)) - self.roots[np.sort(tree)]
        return nodes, place


def out_of_bag(grown: Any, F: NDArray[np.float32]) -> Floats:
    """Each wafer's mean score by the trees of a scikit-learn forest that have not seen it, shape (wafers,).

    Breiman, "Out-of-bag estimation", 1996. A wafer that all trees have seen, as with very few of them, gets the mean.
    """
    total, times = np.zeros(len(F)), np.zeros(len(F))
    for tree, bag in zip(grown.estimators_, grown.estimators_samples_, strict=True):
        outside = np.bincount(bag, minlength=len(F)) == 0
        counts = tree.tree_.value[tree.tree_.apply(F[outside]), 0, :]
        total[outside] += counts[:, 1] / counts.sum(axis=1)
        times[outside] += 1
    score = total / np.maximum(times, 1)
    typical = float(score[times > 0].mean()) if times.any() else 0.5
    return np.where(times > 0, score, typical)


def universal_binary_json(value: Any) -> bytes:
    """UBJSON as XGBoost reads and writes it: strongly typed arrays, big-endian numbers."""
    if isinstance(value, dict):
        pairs = (_length(name.encode()) + universal_binary_json(entry) for name, entry in sorted(value.items()))
        return b"{" + b"".join(pairs) + b"}"
    if isinstance(value, str):
        return b"S" + _length(value.encode())
    if isinstance(value, int):
        return b"L" + value.to_bytes(8, "big", signed=True)
    if isinstance(value, list):
        return b"[" + b"".join(map(universal_binary_json, value)) + b"]"
    kind: str = value.dtype.str[1:]
    return b"[$" + MARKS[kind] + b"#L" + len(value).to_bytes(8, "big") + bytes(value.astype(f">{kind}").tobytes())


def _length(text: bytes) -> bytes:
    return b"L" + len(text).to_bytes(8, "big") + text


def _empty_booster(features: int) -> bytes:
    """A booster of one tree that says nothing, as JSON: all that is not the trees."""
    nothing = xgboost.DMatrix(np.zeros((2, features)), label=[0, 1], nthread=1)
    return bytes(xgboost.train({"base_score": 0.0, "nthread": 1}, nothing, 1).save_raw("json"))


def _strictly_above(cut: Floats) -> NDArray[np.float32]:
    """The single-precision bounds for which `x < bound` is `x <= cut`, the one test being XGBoost's."""
    nearest = cut.astype(np.float32)
    below = np.where(nearest.astype(np.float64) > cut, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return np.nextafter(below.astype(np.float32), np.float32(np.inf))
