"""What any model has to beat: a plain balanced random forest on median-imputed readings."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data


class PlainForest(ClassifierMixin, BaseEstimator):
    """A random forest with balanced class weights (Breiman, "Random forests", Machine Learning 45, 2001).

    Parameters:
        trees: at least 1.
        seed: of everything random.
        n_jobs: threads; the result does not depend on it.

    Learned: `classes_`, the two labels, and `pipeline_`.
    """

    def __init__(self, *, trees: int = 300, seed: int = 0, n_jobs: int = 1) -> None:
        self.trees = trees
        self.seed = seed
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from readings, shape (wafers, sensors), NaN for missing, and labels, shape (wafers,)."""
        readings, labels = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan")
        forest = RandomForestClassifier(self.trees, class_weight="balanced", random_state=self.seed, n_jobs=self.n_jobs)
        self.pipeline_ = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), forest)
        self.pipeline_.fit(readings, labels)
        self.classes_ = self.pipeline_.classes_
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class, shape (wafers, classes)."""
        return np.asarray(self.pipeline_.predict_proba(self._readings(X)))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The more probable class of each wafer, shape (wafers,)."""
        return np.asarray(self.pipeline_.predict(self._readings(X)))

    def _readings(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan"))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
