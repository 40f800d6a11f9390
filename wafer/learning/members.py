"""The models that a wafer model is made of: fitted by scikit-learn and XGBoost, kept as plain numbers.

A fitted member scores each wafer by itself (the same bits alone and in a batch), in one thread, and is saved without
pickle: forests and the logistic regression as arrays, XGBoost as its own JSON.
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from wafer.errors import ParameterError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
CHUNK = 256  # wafers that walk through a forest at a time
KINDS = ("extra_trees", "random_forest", "xgboost", "logistic")


FORESTS = {"extra_trees": ExtraTreesClassifier, "random_forest": RandomForestClassifier}


def derived_seed(seed: int, *names: object) -> int:
    """A seed that depends on `seed` and the names alone, so that work may be done in any order."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


class Member(Protocol):
    """A fitted model of one kind."""

    @property
    def kind(self) -> str:
        """One of `KINDS`."""

    def score(self, F: Floats) -> Floats:
        """A number per wafer, larger for a fault; `F` has shape (wafers, features), C order."""

    def state(self) -> dict[str, Any]:
        """Arrays (and for XGBoost JSON bytes) from which `restore` makes the same member."""


@dataclass(frozen=True, eq=False)
class Forest:
    """Decision trees whose mean leaf value is the score; the trees lie one after another in flat arrays.

    Attributes:
        kind: "extra_trees" or "random_forest".
        roots: position of each tree's root, shape (trees,).
        feature, cut, left, right: a wafer goes left where float32(feature) <= cut; leaves point to themselves.
        value: share of faults (weighted as in training) in each node.
        cover: training wafers (weighted) that passed each node.
        depth: steps after which every wafer has reached its leaf.
    """

    kind: str
    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    cut: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats
    cover: Floats
    depth: int

    @classmethod
    def frozen(cls, kind: str, forest: Any, first: int = 0) -> "Forest":
        """The plain numbers of a fitted scikit-learn forest whose second class is "faulty".

        Parameters:
            first: the feature that the forest knows as its first one.
        """
        trees = [estimator.tree_ for estimator in forest.estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])]).astype(np.int32)
        parts: dict[str, list[NDArray[Any]]] = {
            "feature": [],
            "cut": [],
            "left": [],
            "right": [],
            "value": [],
            "cover": [],
        }
        for root, tree in zip(roots, trees, strict=True):
            leaf = tree.children_left < 0
            own = np.arange(tree.node_count) + root
            parts["feature"].append(np.where(leaf, 0, tree.feature + first))
            parts["cut"].append(np.where(leaf, 0.0, tree.threshold))
            parts["left"].append(np.where(leaf, own, tree.children_left + root))
            parts["right"].append(np.where(leaf, own, tree.children_right + root))
            parts["cover"].append(tree.weighted_n_node_samples)
            counts = tree.value[:, 0, :]
            parts["value"].append(counts[:, 1] / counts.sum(axis=1))
        whole = {name: np.concatenate(values) for name, values in parts.items()}
        for name in ("feature", "left", "right"):
            whole[name] = whole[name].astype(np.int32)
        return cls(kind=kind, roots=roots, depth=max(tree.max_depth for tree in trees), **whole)

    def score(self, F: Floats) -> Floats:
        """Mean share of faults in the leaves, shape (wafers,)."""
        chunks = [self.leaf_values(F[start : start + CHUNK]) for start in range(0, len(F), CHUNK)]
        return np.concatenate([values.sum(axis=1) / len(self.roots) for values in chunks])

    def leaf_values(self, F: Floats) -> Floats:
        """Share of faults in each wafer's leaf of each tree, shape (wafers, trees), C order."""
        readings = np.ascontiguousarray(F, dtype=np.float32)
        rows = np.arange(len(readings))[:, None]
        node = np.repeat(self.roots[None, :], len(readings), axis=0)
        for _ in range(self.depth):
            goes_left = readings[rows, self.feature[node]] <= self.cut[node]
            node = np.where(goes_left, self.left[node], self.right[node])
        return np.ascontiguousarray(self.value[node])

    def state(self) -> dict[str, Any]:
        """The arrays, named as the attributes."""
        names = ("roots", "feature", "cut", "left", "right", "value", "cover")
        return {name: getattr(self, name) for name in names} | {"depth": np.array(self.depth)}


@dataclass(frozen=True)
class Logistic:
    """A linear score: features cut at ± `limit`, times `weights`, plus `offset`; a zero weight leaves a feature out.

    `centre` holds the features' training means, from which contributions are counted.
    """

    weights: Floats
    centre: Floats
    offset: float
    limit: float
    kind: str = "logistic"

    def score(self, F: Floats) -> Floats:
        """Log-odds, shape (wafers,)."""
        products = np.ascontiguousarray(np.clip(F, -self.limit, self.limit)) * self.weights
        return np.asarray(products.sum(axis=1) + self.offset)

    def state(self) -> dict[str, Any]:
        """The weights, the means, the offset and the limit."""
        return {
            "weights": self.weights,
            "centre": self.centre,
            "offset": np.array(self.offset),
            "limit": np.array(self.limit),
        }


class Boosted:
    """Gradient boosted trees (Chen and Guestrin, "XGBoost: a scalable tree boosting system", KDD 2016)."""

    kind = "xgboost"

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.booster = xgboost.Booster({"nthread": 1})
        self.booster.load_model(bytearray(document))
        self.booster.set_param({"nthread": 1})

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.document,))

    def score(self, F: Floats, rounds: int = 0) -> Floats:
        """Log-odds, shape (wafers,); of the first `rounds` trees alone if that is not 0."""
        margin = self.booster.inplace_predict(
            np.ascontiguousarray(F, dtype=np.float32), iteration_range=(0, rounds), predict_type="margin"
        )
        return np.asarray(margin, dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """XGBoost's own JSON."""
        return {"json": self.document}


def restore(kind: str, state: Mapping[str, Any]) -> Member:
    """The member that gave `state`."""
    if kind == "xgboost":
        return Boosted(bytes(state["json"]))
    if kind == "logistic":
        return Logistic(state["weights"], state["centre"], float(state["offset"]), float(state["limit"]))
    arrays = {name: value for name, value in state.items() if name != "depth"}
    return Forest(kind=kind, depth=int(state["depth"]), **arrays)


def fit_member(kind: str, settings: Mapping[str, Any], F: Floats, faulty: Bools, *, seed: int) -> Member:
    """Train one model of `kind` with these settings, in one thread.

    Parameters:
        kind: one of `KINDS`.
        settings: what the library's estimator takes, and "columns", first and end of the features used (default all).
        F: features, shape (wafers, features).
        faulty: which wafers are faulty; both sorts must be there.
        seed: of everything random.

    Raises:
        ParameterError: an unknown kind.
    """
    (start, stop), options = _columns(settings, F)
    if kind in FORESTS:
        grown = FORESTS[kind](random_state=seed, n_jobs=1, **options).fit(F[:, start:stop], faulty)
        return Forest.frozen(kind, grown, start)
    if kind == "xgboost":
        return _fit_boosted(options, F, faulty, seed)
    if kind == "logistic":
        return _fit_logistic(options, F, faulty, start, stop)
    raise ParameterError(f"a model's kind must be one of {', '.join(KINDS)}, got {kind!r}")


def fit_bagged(kind: str, settings: Mapping[str, Any], F: Floats, faulty: Bools, *, seed: int) -> tuple[Forest, Floats]:
    """Train a forest on bootstrap samples, in one thread; returns it and its out-of-bag score of each wafer.

    Each wafer is scored by the trees that have not seen it (Breiman, "Out-of-bag estimation", 1996).
    """
    (start, stop), options = _columns(settings, F)
    grown = FORESTS[kind](random_state=seed, n_jobs=1, **(options | {"bootstrap": True})).fit(F[:, start:stop], faulty)
    return Forest.frozen(kind, grown, start), _out_of_bag(grown, np.asarray(F[:, start:stop], dtype=np.float32))


def _out_of_bag(grown: Any, readings: NDArray[np.float32]) -> Floats:
    total, times = np.zeros(len(readings)), np.zeros(len(readings))
    for tree, bag in zip(grown.estimators_, grown.estimators_samples_, strict=True):
        outside = np.bincount(bag, minlength=len(readings)) == 0
        counts = tree.tree_.value[tree.tree_.apply(readings[outside]), 0, :]
        total[outside] += counts[:, 1] / counts.sum(axis=1)
        times[outside] += 1
    score = total / np.maximum(times, 1)
    typical = float(score[times > 0].mean()) if times.any() else 0.5
    return np.where(times > 0, score, typical)  # with very few trees all may have seen a wafer


def _columns(settings: Mapping[str, Any], F: Floats) -> tuple[tuple[int, int], dict[str, Any]]:
    start, stop = settings.get("columns", (0, F.shape[1]))
    return (start, stop), {name: value for name, value in settings.items() if name != "columns"}


def _fit_boosted(options: Mapping[str, Any], F: Floats, faulty: Bools, seed: int) -> Boosted:
    estimator = xgboost.XGBClassifier(random_state=seed, n_jobs=1, tree_method="hist", **options)
    estimator.fit(F.astype(np.float32), faulty.astype(np.int8))
    return Boosted(bytes(estimator.get_booster().save_raw("json")))


def _fit_logistic(
    options: Mapping[str, Any], F: Floats, faulty: Bools, start: int, stop: int, limit: float = 5.0
) -> Logistic:
    """Ridge logistic regression on standardised features; the standardisation is folded into the weights."""
    near = np.clip(F[:, start:stop], -limit, limit)
    centre, scale = near.mean(axis=0), near.std(axis=0)
    scale = np.where(scale > 1e-9, scale, np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(**options).fit((near - centre) / scale, faulty)
    weights = np.zeros(F.shape[1])
    weights[start:stop] = model.coef_[0] / scale
    middle = np.zeros(F.shape[1])
    middle[start:stop] = centre
    return Logistic(weights, middle, float(model.intercept_[0] - (weights[start:stop] * centre).sum()), limit)
