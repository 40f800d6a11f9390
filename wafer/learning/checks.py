"""What `WaferModel` refuses, and how it says so."""

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_classifier
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from wafer.errors import ModelError, ParameterError
from wafer.learning.decision import Policy
from wafer.learning.panel import CHOICES
from wafer.params import LARGEST_SEED

Integers = NDArray[np.int64]


class UnfitLabelsError(ModelError, ValueError):
    """Labels that nothing can be learned from (also the ValueError that scikit-learn's callers expect)."""


class UnknownSensorsError(ModelError, ValueError):
    """A frame without some of the model's sensors (also the ValueError that scikit-learn's callers expect)."""


def check_parameters(model: Any) -> None:
    """Refuse impossible parameters.

    Raises:
        ParameterError: names the parameter, what it must be and what came.
    """
    least = {"reference_window": 20, "neighbors": 1, "max_clusters": 1, "min_cluster_faults": 2, "cluster_prior": 0}
    least |= {"search_budget": 1, "search_folds": 2, "trees": 1, "calibration_folds": 2, "seed": 0}
    for name, smallest in least.items():
        value = getattr(model, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
            raise ParameterError(f"{name} must be a whole number of at least {smallest}, got {reprlib.repr(value)}")
    if model.seed > LARGEST_SEED:
        raise ParameterError(f"seed must be at most {LARGEST_SEED}, got {reprlib.repr(model.seed)}")
    choices = {"imputation": ("median", "knn"), "panel": CHOICES}
    for name, allowed in choices.items():
        if getattr(model, name) not in allowed:
            got = reprlib.repr(getattr(model, name))
            raise ParameterError(f"{name} must be one of {', '.join(allowed)}, got {got}")
    for name in ("members", "candidates"):
        given = getattr(model, name)
        if not isinstance(given, list | tuple) or not all(hasattr(one, "fit") and is_classifier(one) for one in given):
            raise ParameterError(f"{name} must be a sequence of scikit-learn classifiers, got {reprlib.repr(given)}")
    if isinstance(model.max_missing, bool) or not isinstance(model.max_missing, int | float | np.number):
        raise ParameterError(f"max_missing must be a number, got {reprlib.repr(model.max_missing)}")
    if not 0 <= model.max_missing <= 1:
        raise ParameterError(f"max_missing must lie between 0 and 1, got {model.max_missing!r}")
    if model.policy is not None and not isinstance(model.policy, Policy):
        got = reprlib.repr(model.policy)
        raise ParameterError(f"policy must be a wafer.learning.decision.Policy or None, got {got}")


def plain_labels(y: Any) -> Any:
    """`y` as scikit-learn takes it: of an array of objects, as a frame of mixed columns gives, numbers become numbers.

    Raises:
        UnfitLabelsError: some are missing, or some are text and others numbers.
    """
    labels = np.asarray(y)
    if labels.dtype != object or labels.ndim != 1:
        return y
    missing = np.flatnonzero(pd.isna(labels))
    if len(missing):
        told = f"{len(missing)} of {len(labels)} are missing, the first in row {missing[0]}"
        raise UnfitLabelsError(f"each wafer needs a label, {told} (counted from 0)")
    numbers = np.array([isinstance(label, bool | int | float | np.bool_ | np.number) for label in labels])
    if numbers.all():
        return np.array(labels.tolist())
    if numbers.any():
        example = " and ".join(reprlib.repr(labels[at]) for at in (np.argmin(numbers), np.argmax(numbers)))
        raise UnfitLabelsError(f"labels must be of one kind, got numbers and others, as {example}")
    return y


def read_classes(labels: NDArray[Any], named: Any) -> tuple[NDArray[Any], Any]:
    """The two classes of `labels`, sorted, and the one that means faulty.

    Of -1 and +1, 0 and 1, or False and True it is the second. All others mean nothing by their spelling ("Bad" comes
    before "Good" and "Fail" before "Pass"), so one of them must be `named`.

    Raises:
        UnfitLabelsError: there are not two classes, none is named where one must be, or the named one is not there.
    """
    check_classification_targets(labels)
    classes = np.unique(labels)
    if len(classes) > 2:
        kind = type_of_target(labels)
        raise UnfitLabelsError(f"Only binary classification is supported. The type of the target is {kind}.")
    known = classes.tolist()
    told = " and ".join(map(reprlib.repr, known))
    if len(known) < 2:
        raise UnfitLabelsError(f"labels must be of two classes, good and faulty, got one class alone: {told}")
    if named is None:
        if known not in ([-1, 1], [0, 1]):
            raise UnfitLabelsError(
                f"labels are {told}, which does not say what they mean: name the faulty one as faulty_label"
            )
        return classes, known[1]
    if np.ndim(named) != 0 or pd.isna(named) or named not in known:
        raise UnfitLabelsError(f"faulty_label must be one of the labels, {told}, got {reprlib.repr(named)}")
    return classes, known[known.index(named)]


def faulty_of(y: ArrayLike, classes: NDArray[Any], faulty_label: Any) -> NDArray[np.bool_]:
    """Which wafers are faulty by labels that a fitted model knows, shape (wafers,).

    Raises:
        UnfitLabelsError: some are of neither class.
    """
    labels = np.asarray(y)
    if not np.isin(labels, classes).all():
        told = " and ".join(map(reprlib.repr, classes.tolist()))
        raise UnfitLabelsError(f"labels must be those that were learned, {told}, got others")
    return np.asarray(labels == faulty_label)


def checked_order(order: ArrayLike | None, wafers: int) -> Integers | None:
    """The production order as whole numbers, one a wafer; None stays None.

    Raises:
        ModelError: it is something else.
    """
    return None if order is None else whole_order(order, wafers)


def whole_order(order: ArrayLike, wafers: int) -> Integers:
    """As `checked_order`, of an order that there must be."""
    numbers = np.asarray(order)
    if numbers.shape != (wafers,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ModelError(f"order must be {wafers} whole numbers, got {numbers.dtype} of shape {numbers.shape}")
    return numbers.astype(np.int64)


def chosen_sensors(X: ArrayLike, known: Sequence[str] | None) -> ArrayLike:
    """The `known` sensors of a frame, in their sequence; anything but a frame, and where none are known by name, as is.

    Raises:
        UnknownSensorsError: the frame lacks some; the message names them.
    """
    if known is None or not isinstance(X, pd.DataFrame):
        return X
    if X.columns.tolist() == list(known):
        return X
    missing = [name for name in known if name not in X.columns]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UnknownSensorsError(f"the model needs {len(known)} sensors, the wafers lack {len(missing)}: {shown}")
    return X[list(known)]
