"""Any scikit-learn classifier in the place of the whole model, with alarms by the same policy."""

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from wafer.learning.backtest import held_out
from wafer.learning.borrowed import fit_in_order, probability_in_order, settled
from wafer.learning.checks import checked_order, read_classes
from wafer.learning.decision import Policy
from wafer.learning.jobs import derived_seed
from wafer.learning.search import inner_folds
from wafer.learning.thresholds import PolicyThresholds

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class PolicyClassifier(PolicyThresholds, MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """A classifier as it comes, whose alarms start where a policy says, as those of `WaferModel` do.

    Its probabilities are not touched. The threshold follows from what it says, out of fold and in a backtest, of wafers
    that it has not seen (`wafer.learning.backtest`), so each fit costs `folds` + 3 of the classifier's own.

    Parameters:
        classifier: of two classes, not fitted; how the order reaches it, see `wafer.learning.borrowed`.
        policy: what an alarm may cost; None: the defaults of `Policy`.
        folds: of the scores out of fold, at least 2.
        window: wafers that count as the newest, at least 2; the reference window of `WaferModel`.
        seed: of the folds, and of what the classifier leaves open.

    Learned: `classes_`, `classifier_`, `held_out_` and `threshold_`, as of `WaferModel`.
    """

    looks_after_order: ClassVar[bool] = True

    def __init__(
        self, classifier: Any, *, policy: Policy | None = None, folds: int = 4, window: int = 200, seed: int = 0
    ) -> None:
        self.classifier = classifier
        self.policy = policy
        self.folds = folds
        self.window = window
        self.seed = seed

    def fit(self, X: Any, y: ArrayLike, order: ArrayLike | None = None) -> Self:
        """Learn from labelled wafers.

        Parameters:
            X: readings, shape (wafers, sensors), as the classifier takes them.
            y: labels, shape (wafers,): -1 or 0 for good and 1 for faulty.
            order: production order, shape (wafers,), whole numbers; None: nothing is foreseen in a backtest.

        Raises:
            ModelError: labels of one class alone, or an order that does not fit the wafers.
            ParameterError: the order would be lost on its way to a part of the classifier that requests it.
        """
        labels = np.asarray(y)
        self.classes_, faulty_label = read_classes(labels, None)
        faulty, places = labels == faulty_label, checked_order(order, len(labels))
        every = np.arange(len(labels))

        def fitted(rows: Integers) -> Any:
            recipe, before = settled(self.classifier, derived_seed(self.seed, "whole")), _some(places, rows)
            return fit_in_order(recipe, _safe_indexing(X, rows), labels[rows], before)

        def foresee(past: Integers, future: Integers) -> Floats:
            return probability_in_order(fitted(past), _safe_indexing(X, future), _some(places, future))

        self.classifier_ = fitted(every)
        probability = probability_in_order(self.classifier_, X, places)  # where wafers are too few for folds
        for inside, outside in inner_folds(faulty, self.folds, derived_seed(self.seed, "folds")):
            probability[outside] = foresee(inside, outside)
        self.held_out_ = held_out(probability, faulty, places, foresee, window=self.window)
        self.threshold_ = self.policy_.fixed_threshold(self.held_out_["probability"].to_numpy())
        return self

    def predict_proba(self, X: Any, order: ArrayLike | None = None) -> Floats:
        """Probability of each label of `classes_`, shape (wafers, 2), as the classifier gives it."""
        check_is_fitted(self)
        probability = probability_in_order(self.classifier_, X, order)
        return np.column_stack([1.0 - probability, probability])

    def predict(self, X: Any, order: ArrayLike | None = None) -> NDArray[Any]:
        """The label of each wafer, shape (wafers,): faulty where the probability reaches `threshold_`.

        That is the fixed threshold, whichever the policy asks for; `thresholds` gives those that alarms go by.
        """
        return np.asarray(self.classes_[(self.predict_proba(X, order)[:, 1] >= self.threshold_).astype(int)])


def _some(order: Integers | None, rows: Integers) -> Integers | None:
    return None if order is None else order[rows]
