"""The models that a wafer model is made of, a class for each kind, named in `MEMBERS`.

A fitted member scores each wafer by itself (the same bits alone and in a batch, with any number of threads) and is kept
without pickle: trees as XGBoost's own bytes, linear scores as arrays. A new kind is a class like those here and a line
in `MEMBERS`; nothing else knows which kinds there are. The kind "classifier" tries any of scikit-learn's in a member's
place, for a study; it cannot be kept.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.tree._splitter import BestSplitter, RandomSplitter

from wafer.errors import HandOverError, ModelError, ParameterError
from wafer.learning.borrowed import fault_score, fit_in_order, settled
from wafer.learning.forests import Grown, Trees, grow, out_of_bag
from wafer.learning.parts import array_bytes, read_arrays
from wafer.learning.shapley import Branches, read_branches, shapley_values

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Settings = Mapping[str, Any]
ROUNDS = (10, 20, 40)  # where boosting may stop early


class Member(ABC):
    """A fitted model of one kind; `F` are features, shape (wafers, features), C order, `faulty` the faulty wafers.

    Attributes:
        kind: its name in `MEMBERS`.
        suffix: of the file that it is kept in.
        space: the settings that a search tries, each with its values, the plain one first.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str]
    space: ClassVar[Mapping[str, Sequence[Any]]] = {}

    @classmethod
    @abstractmethod
    def fit(cls, settings: Settings, F: Floats, faulty: Bools, *, seed: int) -> Self:
        """Train in one thread; both sorts of wafers must be there.

        Parameters:
            settings: what the library's estimator takes, and "columns", first and end of the features used.
        """

    @classmethod
    def fixed(cls, trees: int) -> dict[str, Any]:
        """The settings that are not searched; `trees` of a forest."""
        return {}

    @classmethod
    def bagged(cls, settings: Settings) -> bool:
        """Whether `fit_bagged` can tell what a model of these settings says of wafers that it has not seen."""
        return False

    @classmethod
    def fit_bagged(cls, settings: Settings, F: Floats, faulty: Bools, *, seed: int) -> tuple[Self, Floats]:
        """As `fit`, and the out-of-bag score of each wafer, shape (wafers,)."""
        raise NotImplementedError(f"{cls.kind} draws no bootstrap samples")

    @classmethod
    def stages(cls, settings: Settings) -> list[dict[str, Any]]:
        """The settings of the models that `staged_scores` of one with these settings tells of."""
        return [dict(settings)]

    def staged_scores(self, F: Floats) -> list[Floats]:
        """The scores of each of the `stages`."""
        return [self.score(F)]

    @abstractmethod
    def score(self, F: Floats) -> Floats:
        """A number per wafer, larger for a fault, shape (wafers,)."""

    @abstractmethod
    def contributions(self, F: Floats, n_jobs: int = 1) -> Floats:
        """Each feature's contribution to the score, shape (wafers, features): they and a constant sum to the score."""

    @abstractmethod
    def state(self) -> bytes:
        """What `restore` makes the same member of."""

    @classmethod
    @abstractmethod
    def restore(cls, state: bytes) -> Self:
        """The member that gave `state`."""


class TreeMember(Member):
    """Trees in XGBoost's predictor; their contributions are exact Shapley values, see `wafer.learning.shapley`."""

    suffix = "ubj"

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.booster = xgboost.Booster({"nthread": 1})
        self.booster.load_model(bytearray(document))
        self.booster.set_param({"nthread": 1})

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.document,))

    def score(self, F: Floats) -> Floats:
        """As of `Member`."""
        return self._margin(F, 0)

    def _margin(self, F: Floats, rounds: int) -> Floats:
        readings = np.ascontiguousarray(F, dtype=np.float32)
        margin = self.booster.inplace_predict(readings, iteration_range=(0, rounds), predict_type="margin")
        return np.asarray(margin, dtype=np.float64)

    def contributions(self, F: Floats, n_jobs: int = 1) -> Floats:
        """As of `Member`."""
        return shapley_values(self._branches, np.asarray(F, dtype=np.float32), n_jobs)

    @cached_property
    def _branches(self) -> list[Branches]:
        return read_branches(self.document)

    def state(self) -> bytes:
        """XGBoost's UBJSON."""
        return self.document

    @classmethod
    def restore(cls, state: bytes) -> Self:
        """As of `Member`."""
        return cls(state)


class Forest(TreeMember):
    """Trees of scikit-learn, whose mean leaf value, a share of faults, is the score; settings are those of `grow`."""

    splitter: ClassVar[type]
    bootstraps: ClassVar[bool]
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "min_samples_leaf": [3, 5, 10, 2],
        "max_features": ["sqrt", 0.1, "log2"],
    }

    @classmethod
    def fit(cls, settings: Settings, F: Floats, faulty: Bools, *, seed: int) -> Self:
        """As of `Member`."""
        return cls._frozen(*cls._grown(settings, F, faulty, seed)[::2], F.shape[1])

    @classmethod
    def fit_bagged(cls, settings: Settings, F: Floats, faulty: Bools, *, seed: int) -> tuple[Self, Floats]:
        """As of `Member`; each wafer is scored by the trees that have not seen it."""
        grown, own, start = cls._grown({**settings, "bootstrap": True}, F, faulty, seed)
        return cls._frozen(grown, start, F.shape[1]), out_of_bag(grown, own)

    @classmethod
    def fixed(cls, trees: int) -> dict[str, Any]:
        """As of `Member`."""
        # not "balanced", which draws faults into nearly every bootstrap sample and leaves none out of bag
        return {"n_estimators": trees, "class_weight": "balanced_subsample", "bootstrap": True}

    @classmethod
    def bagged(cls, settings: Settings) -> bool:
        """As of `Member`."""
        return bool(settings.get("bootstrap", cls.bootstraps))

    @classmethod
    def _grown(cls, settings: Settings, F: Floats, faulty: Bools, seed: int) -> tuple[Grown, NDArray[np.float32], int]:
        """The forest, the features that it was grown from, and the place of the first of them."""
        start, stop, options = columns_and_options(settings, F)
        own = np.ascontiguousarray(F[:, start:stop], dtype=np.float32)
        return grow(cls.splitter, own, faulty, seed=seed, **{"bootstrap": cls.bootstraps, **options}), own, start

    @classmethod
    def _frozen(cls, grown: Grown, start: int, features: int) -> Self:
        return cls(Trees.of(grown.trees, start).as_booster(features))


class ExtraTrees(Forest):
    """Geurts, Ernst and Wehenkel, "Extremely randomized trees", Machine Learning 63, 2006."""

    kind = "extra_trees"
    splitter = RandomSplitter
    bootstraps = False


class RandomForest(Forest):
    """Breiman, "Random forests", Machine Learning 45, 2001."""

    kind = "random_forest"
    splitter = BestSplitter
    bootstraps = True


class Boosted(TreeMember):
    """Gradient boosted trees (Chen and Guestrin, "XGBoost: a scalable tree boosting system", KDD 2016)."""

    kind = "xgboost"
    space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "max_depth": [2, 3, 4],
        "learning_rate": [0.1, 0.05, 0.2],
        "colsample_bytree": [0.2, 0.5],
        "reg_lambda": [5.0, 1.0, 20.0],
    }

    @classmethod
    def fit(cls, settings: Settings, F: Floats, faulty: Bools, *, seed: int) -> Self:
        """As of `Member`; all features are used."""
        estimator = xgboost.XGBClassifier(random_state=seed, n_jobs=1, tree_method="hist", **settings)
        estimator.fit(F.astype(np.float32), faulty.astype(np.int8))
        return cls(bytes(estimator.get_booster().save_raw("ubj")))

    @classmethod
    def fixed(cls, trees: int) -> dict[str, Any]:
        """As of `Member`."""
        return {"n_estimators": max(ROUNDS), "subsample": 0.8, "min_child_weight": 1.0, "max_bin": 32}

    @classmethod
    def stages(cls, settings: Settings) -> list[dict[str, Any]]:
        """As of `Member`; boosting may stop after each of `ROUNDS`."""
        return [{**settings, "n_estimators": rounds} for rounds in ROUNDS]

    def staged_scores(self, F: Floats) -> list[Floats]:
        """As of `Member`."""
        return [self._margin(F, rounds) for rounds in ROUNDS]


@dataclass(frozen=True)
class Logistic(Member):
    """A linear score: features cut at ± `limit`, times `weights`, plus `offset`; a zero weight leaves a feature out.

    `centre` holds the features' training means, from which contributions are counted.
    """

    kind = "logistic"
    suffix = "npz"

    weights: Floats
    centre: Floats
    offset: float
    limit: float

    @classmethod
    def fit(cls, settings: Settings, F: Floats, faulty: Bools, *, seed: int, limit: float = 5.0) -> Self:
        """As of `Member`: ridge regression on standardised features, the standardisation folded into the weights."""
        start, stop, options = columns_and_options(settings, F)
        near = np.clip(F[:, start:stop], -limit, limit)
        centre, scale = near.mean(axis=0), near.std(axis=0)
        scale = np.where(scale > 1e-9, scale, np.inf)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(**options).fit((near - centre) / scale, faulty)
        weights, middle = np.zeros(F.shape[1]), np.zeros(F.shape[1])
        weights[start:stop] = model.coef_[0] / scale
        middle[start:stop] = centre
        return cls(weights, middle, float(model.intercept_[0] - (weights[start:stop] * centre).sum()), limit)

    def score(self, F: Floats) -> Floats:
        """As of `Member`."""
        products = np.clip(F, -self.limit, self.limit) * self.weights
        return np.asarray(products.sum(axis=1) + self.offset)

    def contributions(self, F: Floats, n_jobs: int = 1) -> Floats:
        """As of `Member`: weight times distance from the training mean."""
        return np.asarray((np.clip(F, -self.limit, self.limit) - self.centre) * self.weights)

    def state(self) -> bytes:
        """The arrays and numbers, named as the attributes."""
        numbers = {"offset": np.array(self.offset), "limit": np.array(self.limit)}
        return array_bytes({"weights": self.weights, "centre": self.centre, **numbers})

    @classmethod
    def restore(cls, state: bytes) -> Self:
        """As of `Member`."""
        arrays = read_arrays(state)
        return cls(arrays["weights"], arrays["centre"], float(arrays["offset"]), float(arrays["limit"]))


class Borrowed(Member):
    """Any classifier of scikit-learn's, which a study tries; the setting "classifier" holds it, not fitted."""

    kind = "classifier"

    def __init__(self, fitted: Any, start: int, stop: int) -> None:
        self.fitted, self.start, self.stop = fitted, start, stop

    @classmethod
    def fit(cls, settings: Settings, F: Floats, faulty: Bools, *, seed: int) -> Self:
        """As of `Member`; features are relative to the production order, which is not handed on."""
        start, stop, options = columns_and_options(settings, F)
        return cls(fit_in_order(settled(options["classifier"], seed), F[:, start:stop], faulty, None), start, stop)

    def score(self, F: Floats) -> Floats:
        """As of `Member`."""
        return fault_score(self.fitted, F[:, self.start : self.stop])

    def contributions(self, F: Floats, n_jobs: int = 1) -> Floats:
        """No one knows them of any classifier.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"a {type(self.fitted).__name__} does not say what each sensor contributes to its score")

    def state(self) -> bytes:
        """It has none that runs no code.

        Raises:
            HandOverError: always.
        """
        raise HandOverError(f"a {type(self.fitted).__name__} cannot be kept without code that runs when it is read")

    @classmethod
    def restore(cls, state: bytes) -> Self:
        """As of `state`."""
        raise ModelError("a classifier of a study is not kept, so that none can be restored")


MEMBERS: dict[str, type[Member]] = {one.kind: one for one in (ExtraTrees, RandomForest, Boosted, Logistic)}
"""The kinds that a model may be made of in production."""


def member(kind: str) -> type[Member]:
    """The class of a kind.

    Raises:
        ParameterError: there is no such kind.
    """
    if kind == Borrowed.kind:
        return Borrowed
    if kind not in MEMBERS:
        raise ParameterError(f"a model's kind must be one of {', '.join(MEMBERS)}, got {kind!r}")
    return MEMBERS[kind]


def columns_and_options(settings: Settings, F: Floats) -> tuple[int, int, dict[str, Any]]:
    """First and end of the features that `settings` name, and all else that they hold."""
    start, stop = settings.get("columns", (0, F.shape[1]))
    return start, stop, {name: value for name, value in settings.items() if name != "columns"}
