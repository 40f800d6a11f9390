"""Exact Shapley values of tree ensembles, for many wafers at once.

What a leaf is worth to a feature is the integral, over the chance t that each other feature is known, of a product of
one factor for each feature on the leaf's path (Owen, "Multilinear extensions of games", Management Science 18, 1972).
All its factors are positive, so sums and products along the branches, one pass down and one up for each point of a
Gauss-Legendre rule, give all features of all leaves together. Lundberg's recursion (Nature Machine Intelligence 2,
2020) gives the same values wafer by wafer and leaf by leaf, many times slower.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from wafer.learning.jobs import run

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

POINTS = 6  # exact for paths of 12 features; of the longest ones met it leaves an error of 1e-11
ROWS = 16  # wafers taken at a time
NODES = 12_000  # taken at a time, about: as many as a processor's own memory holds
LEAST = 1e-30  # share of wafers that a branch is taken to have, at least
NUMBERS = {b"U": ">u1", b"i": ">i1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}


class Branches(NamedTuple):
    """The nodes of all trees, level by level, first children before second ones; a node stands for the branch to it.

    Attributes:
        levels: first node of each level, and their number.
        pairs: for each level above another its split nodes, and where those and their children stand, see `_pairs`.
        feature, cut: of the nodes that are split: a wafer goes to the first child where float32(feature) < cut.
        share: of its parent's wafers, and of those of branches above that ask for the same feature, in one product.
        before: the next such branch above, -1 without one.
        value: of leaves; 0 elsewhere.
        asked: matrix (features, nodes), 1 where the branch to a node asks for the feature.
    """

    levels: Integers
    pairs: list[tuple[Integers, slice, slice, slice]]
    feature: Integers
    cut: NDArray[np.float32]
    share: Floats
    before: Integers
    value: Floats
    asked: csr_array

    @classmethod
    def of(cls, trees: Sequence[Mapping[str, NDArray[Any]]], features: int) -> "Branches":
        """From trees as XGBoost saves them, for so many features."""
        sizes = np.array([len(tree["left_children"]) for tree in trees])
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        joined = {name: np.concatenate([tree[name] for tree in trees]) for name in _COLUMNS}
        left, right = (joined[name].astype(np.int64) for name in ("left_children", "right_children"))
        split = left >= 0
        nodes = [np.cumsum(sizes) - sizes]
        while len(nodes[-1]):
            parents = nodes[-1][split[nodes[-1]]]
            nodes.append(np.concatenate([(starts + child)[parents] for child in (left, right)]))
        levels, order = np.cumsum([0, *map(len, nodes)])[:-1], np.concatenate(nodes)
        inner = np.flatnonzero(split[order])
        feature = joined["split_indices"][order].astype(np.int64)
        cover, value = (joined[name][order].astype(np.float64) for name in ("sum_hessian", "split_conditions"))
        pairs = _pairs(inner, levels)
        parent = np.concatenate([np.full(len(trees), -1), *(np.tile(parents, 2) for parents, *_ in pairs)])
        share = np.maximum(cover / np.where(parent < 0, cover, cover[parent]), LEAST)
        asks = np.where(parent < 0, -1, feature[parent])
        before = _same_above(parent, asks, levels)
        for first, end in pairwise(levels[1:]):
            again = np.arange(first, end)[before[first:end] >= 0]
            share[again] *= share[before[again]]
        place = np.arange(len(trees), len(order))
        asked = csr_array((np.ones(len(place)), (asks[place], place)), shape=(features, len(order)))
        value[inner] = 0.0
        cut = joined["split_conditions"][order][inner].astype(np.float32)
        return cls(levels, pairs, feature[inner], cut, share, before, value, asked)

    def contributions(self, F: NDArray[np.float32]) -> Floats:
        """Each feature's Shapley value of the sum of these trees, shape (features, wafers)."""
        taken = np.ones((len(self.value), len(F)))
        left = F.T[self.feature] < self.cut[:, None]
        for _, splits, first, second in self.pairs:
            taken[first], taken[second] = left[splits], ~left[splits]
        again = np.flatnonzero(self.before >= 0)
        for start, end in pairwise(self.levels):
            own = again[np.searchsorted(again, start) : np.searchsorted(again, end)]
            taken[own] *= taken[self.before[own]]
        points, weights = np.polynomial.legendre.leggauss(POINTS)
        total, above = np.zeros_like(taken), np.zeros((len(again), len(F)))
        for t, weight in zip((1.0 + points) / 2, weights / 2, strict=True):
            worth, worth_above = self._at(taken, again, t, weight)
            total += worth
            above += worth_above
        total *= taken - self.share[:, None]
        before = self.before[again]
        total[again] -= above * (taken[before] - self.share[before, None])
        return np.asarray(self.asked @ total)

    def _at(self, taken: Floats, again: Integers, t: float, weight: float) -> tuple[Floats, Floats]:
        """The worth of all leaves below each branch over its own factor, where t is the chance to know a feature.

        For branches that ask again for a feature also over the factor of the branch that asked before.
        """
        own = t * taken
        own += (1.0 - t) * self.share[:, None]
        reached = own.copy()
        reached[again] /= own[self.before[again]]
        for parents, _, first, second in self.pairs:
            so_far = reached.take(parents, axis=0)
            reached[first] *= so_far
            reached[second] *= so_far
        reached *= weight * self.value[:, None]
        for parents, _, first, second in reversed(self.pairs):
            reached[parents] = reached[first] + reached[second]
        above = reached[again] / own[self.before[again]]
        reached /= own
        return reached, above


def _pairs(inner: Integers, levels: Integers) -> list[tuple[Integers, slice, slice, slice]]:
    """For each level above another: its split nodes, where they stand in `inner`, and their two sorts of children."""
    found = []
    for (start, end), below in zip(pairwise(np.searchsorted(inner, levels).tolist()), levels[1:].tolist(), strict=True):
        middle = below + end - start
        found.append((inner[start:end], slice(start, end), slice(below, middle), slice(middle, middle + end - start)))
    return found


def read_branches(document: bytes) -> list[Branches]:
    """The branches of a booster as XGBoost saves it (UBJSON), of some trees after the other."""
    learner = _read(document, 0)[0]["learner"]
    trees, features = learner["gradient_booster"]["model"]["trees"], int(learner["learner_model_param"]["num_feature"])
    part = np.cumsum([len(tree["left_children"]) for tree in trees]) // NODES
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    return [Branches.of(trees[start:end], features) for start, end in pairwise([*starts.tolist(), len(trees)])]


def shapley_values(branches: Sequence[Branches], F: NDArray[np.float32], n_jobs: int = 1) -> Floats:
    """Each feature's Shapley value of the sum of all trees, shape (wafers, features); each wafer by itself."""
    rows = [F[row : row + ROWS] for row in range(0, len(F), ROWS)]
    found = run([partial(one.contributions, block) for block in rows for one in branches], n_jobs)
    count = len(branches)
    return np.concatenate([sum(found[row * count : (row + 1) * count]) for row in range(len(rows))], axis=1).T


_COLUMNS = ("left_children", "right_children", "split_indices", "split_conditions", "sum_hessian")


def _same_above(parent: Integers, asks: Integers, levels: Integers) -> Integers:
    """For each branch the next one above that asks for the same feature, -1 without one."""
    found, above, searching = np.full(len(parent), -1), parent.copy(), np.arange(levels[1], len(parent))
    while len(searching):
        same = asks[above[searching]] == asks[searching]
        found[searching[same]] = above[searching[same]]
        searching = searching[~same & (parent[above[searching]] >= 0)]
        above[searching] = parent[above[searching]]
    return found


def _read(data: bytes, at: int) -> tuple[Any, int]:
    """The UBJSON value that starts there, and where it ends; numbers are big-endian, arrays of one type arrays."""
    mark, at = data[at : at + 1], at + 1
    if mark in NUMBERS:
        kind = np.dtype(NUMBERS[mark])
        return np.frombuffer(data, kind, 1, at)[0].item(), at + kind.itemsize
    if mark == b"S":
        length, at = _read(data, at)
        return data[at : at + length].decode(), at + length
    if mark == b"[" and data[at : at + 1] == b"$":
        kind, (length, at) = np.dtype(NUMBERS[data[at + 1 : at + 2]]), _read(data, at + 3)
        return np.frombuffer(data, kind, length, at), at + length * kind.itemsize
    if mark == b"[":
        items: list[Any] = []
        if data[at : at + 1] == b"#":
            length, at = _read(data, at + 1)
            while len(items) < length:
                item, at = _read(data, at)
                items.append(item)
            return items, at
        while data[at : at + 1] != b"]":
            item, at = _read(data, at)
            items.append(item)
        return items, at + 1
    if mark == b"{":
        members = {}
        while data[at : at + 1] != b"}":
            length, at = _read(data, at)
            name, at = data[at : at + length].decode(), at + length
            members[name], at = _read(data, at)
        return members, at + 1
    return {b"T": True, b"F": False, b"Z": None}[mark], at
