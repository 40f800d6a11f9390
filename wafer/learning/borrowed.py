"""Classifiers that are not this library's own: how they are set up, and how the production order reaches them.

The order is handed to a classifier that takes it as an argument, and to the parts of a scikit-learn meta-estimator,
such as a Pipeline, by metadata routing: to those that request it. What would be lost in silence is an error.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn import config_context
from sklearn.base import clone
from sklearn.utils.metadata_routing import MetadataRouter, get_routing_for_object

from wafer.errors import ParameterError

ORDER = "order"
Floats = NDArray[np.float64]


def settled(classifier: Any, seed: int) -> Any:
    """An unfitted clone in one thread, with `seed` for whatever random state its parameters leave open."""
    copy = clone(classifier)
    given = copy.get_params()
    drawn = {name: seed for name, value in given.items() if name.endswith("random_state") and value is None}
    threads = {name: 1 for name, value in given.items() if name.rpartition("__")[2] == "n_jobs" and value is not None}
    return copy.set_params(**drawn, **threads)


def fit_in_order(classifier: Any, X: Any, y: ArrayLike, order: ArrayLike | None) -> Any:
    """`classifier`, fitted on wafers of this production order, if it is of those that want to know it.

    Raises:
        ParameterError: a part of it requests the order, or could take it and does not say whether it wants it, and
            the order would not reach that part.
    """
    for method in ("fit", _tells(classifier)):  # before the work, not after it
        _check_parts(classifier, method, order)
    return _called(classifier, "fit", order, X, y)


def probability_in_order(classifier: Any, X: Any, order: ArrayLike | None) -> Floats:
    """Probability of the last of the fitted classifier's classes, shape (wafers,); see `fit_in_order`.

    A classifier that gives none is asked for its decision function, of which the logistic function is taken.
    """
    method = _tells(classifier)
    _check_parts(classifier, method, order)
    told = np.asarray(_called(classifier, method, order, X))
    return told[:, 1] if method == "predict_proba" else np.asarray(expit(told))


def verdict_in_order(classifier: Any, X: Any, order: ArrayLike | None, probability: Floats) -> NDArray[np.bool_]:
    """Which wafers the fitted classifier itself calls the last of its classes, shape (wafers,).

    Its `predict` is asked, which may have a threshold of its own. Where there is none, or it would not see an order
    that its `probability` has seen, it is the more probable class.
    """
    if not hasattr(classifier, "predict"):
        return probability > 0.5
    if order is not None and _takes_order(classifier, "predict") != _takes_order(classifier, _tells(classifier)):
        return probability > 0.5
    return np.asarray(_called(classifier, "predict", order, X) == classifier.classes_[-1])


def fault_score(classifier: Any, X: Any) -> Floats:
    """A number per wafer, larger for the last of the fitted classifier's classes; log-odds of what is a probability."""
    if hasattr(classifier, "decision_function"):
        return np.asarray(classifier.decision_function(X), dtype=np.float64)
    probability = np.clip(classifier.predict_proba(X)[:, 1], 1e-9, 1.0 - 1e-9)
    return np.asarray(np.log(probability) - np.log1p(-probability))


def _called(classifier: Any, method: str, order: ArrayLike | None, *given: Any) -> Any:
    call = getattr(classifier, method)
    wish = _wish(classifier, method)
    if order is None and wish is True:
        raise ParameterError(f"{_name(classifier)} requests the production order in {method}, and none is given")
    if order is None:
        return call(*given)
    if not _is_router(classifier):
        return call(*given) if wish in (False, "") else call(*given, order=order)
    if not _hands_on(classifier, method):
        return call(*given)
    with config_context(enable_metadata_routing=True):
        return call(*given, order=order)


def _tells(classifier: Any) -> str:
    """The method by which a classifier says how sure it is."""
    return "predict_proba" if hasattr(classifier, "predict_proba") else "decision_function"


def _check_parts(classifier: Any, method: str, order: ArrayLike | None) -> None:
    for above, part in _parts(classifier):
        _check_reach(above, part, method, given=order is not None)


def _check_reach(above: tuple[Any, ...], part: Any, method: str, *, given: bool) -> None:
    """Refuse a part of a classifier, which lies within the estimators `above`, that would go without the order."""
    for one in {method, *(() if method == "fit" else ("transform",))}:
        wish, named = _wish(part, one), f"{_name(part)} within {_name(above[0])}"
        if wish is None and given:
            raise ParameterError(
                f"{named} takes the production order in {one} and does not say whether it wants it: "
                f"set_{one}_request(order=True) asks for it, order=False goes without"
            )
        if wish is True and not given:
            raise ParameterError(f"{named} requests the production order in {one}, and none is given")
        lost = next((each for each in above if not _hands_on(each, method)), None)
        if wish is True and lost is not None:
            raise ParameterError(
                f"{named} requests the production order in {one}, which does not reach it: "
                f"{_name(lost)} hands on none in {method}"
            )


def _wish(estimator: Any, method: str) -> bool | str | None:
    """Whether an estimator itself requests the order; None: it takes it and does not say; "": it takes none."""
    if _is_router(estimator):
        return ""
    requests = getattr(get_routing_for_object(estimator), method).requests
    if requests.get(ORDER) is True or ORDER in requests.values():
        return True
    wish = requests.get(ORDER, "")
    return True if isinstance(wish, str) and wish else wish  # another name for it, under which nothing is given


def _is_router(estimator: Any) -> bool:
    try:
        return isinstance(get_routing_for_object(estimator), MetadataRouter)
    except NotImplementedError:  # scikit-learn's own word of a meta-estimator that does no routing
        return True


def _takes_order(classifier: Any, method: str) -> bool:
    """Whether an order that is given to a classifier's method is seen by it or any of its parts."""
    return _hands_on(classifier, method) if _is_router(classifier) else _wish(classifier, method) not in (False, "")


def _hands_on(estimator: Any, method: str) -> bool:
    """Whether an order that is given to an estimator's method gets to any of its parts."""
    try:
        return bool(get_routing_for_object(estimator).consumes(method, [ORDER]))
    except NotImplementedError:
        return False


def _parts(estimator: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The estimators that are made of no others, among the parameters, and those that each lies in."""
    if getattr(estimator, "looks_after_order", False):
        return  # asks the functions of this module for its parts
    for part in _estimators(estimator.get_params(deep=False).values()):
        inner = list(_parts(part, (*above, estimator)))
        yield from inner or [((*above, estimator), part)]


def _estimators(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from _estimators(value.values() if isinstance(value, dict) else value)


def _name(estimator: Any) -> str:
    return type(estimator).__name__
