"""Honest protocols: every score is of a wafer that the model which gave it has not seen.

`shuffled_scores` asks how well faults are told apart within the period that was trained on, `forward_scores` how well
they are foreseen, and `permuted_scores` is the canary: on shuffled labels nothing can be learned, so an AUC away from
0.5 shows a leak. Each works on any scikit-learn classifier of two classes; how `order` reaches it and its parts is said
by `wafer.learning.borrowed`.
"""

import reprlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedKFold
from sklearn.utils import _safe_indexing

from wafer.errors import ParameterError
from wafer.learning.borrowed import fit_in_order, probability_in_order, verdict_in_order
from wafer.learning.decision import Policy, tail_share
from wafer.learning.jobs import derived_seed
from wafer.learning.metrics import ALARM_RATES, Comparison, compare, recall_gains, recall_name, summarise
from wafer.learning.thresholds import PolicyThresholds
from wafer.lifeline import tie_children
from wafer.records import with_units

__all__ = [
    "Comparison",
    "beside",
    "compare",
    "evaluate",
    "forward_scores",
    "measured",
    "permuted_scores",
    "protocol_splits",
    "shuffled_scores",
    "summarise",
]

PROTOCOLS = ("shuffled", "forward", "permuted")
Integers = NDArray[np.int64]
Progress = Callable[[int, int], None]


class TooFewError(ParameterError):
    """The data are too few for a protocol."""


@dataclass(frozen=True)
class Split:
    """One fit: positions to train on and to score; `labels` are the ones to train and be judged with."""

    protocol: str
    repeat: int
    fold: str
    train: Integers
    test: Integers
    labels: Integers


def shuffled_splits(y: ArrayLike, *, folds: int = 5, repeats: int = 3, seed: int = 0) -> list[Split]:
    """Repeated stratified folds, in the sequence of repeats and folds.

    Raises:
        TooFewError: fewer faults (or good wafers) than folds.
    """
    labels = _labels(y)
    _check_folds(labels, folds)
    splitter = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=derived_seed(seed, "shuffled"))
    pairs = splitter.split(np.zeros(len(labels)), labels)
    return [Split("shuffled", i // folds, str(i % folds), a, b, labels) for i, (a, b) in enumerate(pairs)]


def forward_splits(y: ArrayLike, order: ArrayLike, batch: ArrayLike, *, first_batch: int = 4) -> list[Split]:
    """Each batch from the `first_batch`-th on, with all batches before it to train on; batches in production order.

    Batches before which only one class has been seen cannot be foreseen and are left out.
    """
    labels, names, places = _labels(y), np.asarray(batch), np.asarray(order)
    sequence = pd.Series(places).groupby(names).min().sort_values(kind="stable").index.tolist()
    splits = []
    for number in range(first_batch - 1, len(sequence)):
        test = np.flatnonzero(names == sequence[number])
        train = np.flatnonzero(np.isin(names, sequence[:number]) & (places < places[test].min()))
        if len(np.unique(labels[train])) == 2:
            splits.append(Split("forward", 0, str(sequence[number]), train, test, labels))
    return splits


def permuted_splits(y: ArrayLike, *, permutations: int = 3, folds: int = 5, seed: int = 0) -> list[Split]:
    """Stratified folds of shuffled labels, another shuffle for each repeat.

    Raises:
        TooFewError: fewer faults (or good wafers) than folds, or no permutation asked for.
    """
    labels = _labels(y)
    if not permutations:
        raise TooFewError("no permutation was asked for")
    _check_folds(labels, folds)
    splits = []
    for repeat in range(permutations):
        chance = derived_seed(seed, "permuted", repeat)
        shuffled = np.random.default_rng(chance).permutation(labels)
        pairs = StratifiedKFold(folds, shuffle=True, random_state=chance).split(np.zeros(len(labels)), shuffled)
        splits += [Split("permuted", repeat, str(i), a, b, shuffled) for i, (a, b) in enumerate(pairs)]
    return splits


def score_splits(
    model: Any,
    X: pd.DataFrame | NDArray[np.float64],
    order: ArrayLike | None,
    splits: Sequence[Split],
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Fit a clone of `model` for each split, `n_jobs` at a time in processes of their own, and score its test wafers.

    Returns: columns protocol, repeat, fold (a forward batch's name), row (position in X), label (-1, 1), probability
        (of a fault), alarm (by that fit's own threshold, in production order), tail (`tail_share` among the held-out
        scores that a fixed threshold follows from), recent_tail (the same among the wafers before it, which a rolling
        one follows); both NaN of a model without held-out scores; in the sequence of the splits.

    Raises:
        ParameterError: the model takes another label than 1 for the faulty one.
    """
    if getattr(model, "faulty_label", None) not in (None, 1):
        raise ParameterError(
            f"faulty_label must be 1 or None to be judged here, got {reprlib.repr(model.faulty_label)}"
        )
    with closing(fold_scores([(model, split) for split in splits], X, order, n_jobs=n_jobs)) as scored:
        frames = _counted(scored, len(splits), progress)
    return joined_scores(frames)


def fold_scores(
    fits: Sequence[tuple[Any, Split]],
    X: pd.DataFrame | NDArray[np.float64],
    order: ArrayLike | None,
    *,
    n_jobs: int = 1,
) -> Generator[pd.DataFrame]:
    """As `score_splits`, for pairs of a model and a split, one after the other; closed early, it ends the work."""
    places = None if order is None else np.asarray(order)
    if n_jobs == 1 or len(fits) < 2:
        yield from (_score(model, X, places, split) for model, split in fits)
        return
    tie_children()
    jobs = (delayed(_score)(model, X, places, split) for model, split in fits)
    whole = False
    try:
        yield from Parallel(n_jobs=n_jobs, return_as="generator", pre_dispatch="all")(jobs)
        whole = True
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=not whole)


def shuffled_scores(
    model: Any,
    X: pd.DataFrame | NDArray[np.float64],
    y: ArrayLike,
    order: ArrayLike | None,
    *,
    folds: int = 5,
    repeats: int = 3,
    seed: int = 0,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Scores by repeated stratified cross-validation; columns as of `score_splits`."""
    splits = shuffled_splits(y, folds=folds, repeats=repeats, seed=seed)
    return score_splits(model, X, order, splits, n_jobs=n_jobs, progress=progress)


def forward_scores(
    model: Any,
    X: pd.DataFrame | NDArray[np.float64],
    y: ArrayLike,
    order: ArrayLike,
    batch: ArrayLike,
    *,
    first_batch: int = 4,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Scores of each batch by a model of the batches before it; columns as of `score_splits`, fold is the batch."""
    splits = forward_splits(y, order, batch, first_batch=first_batch)
    return score_splits(model, X, order, splits, n_jobs=n_jobs, progress=progress)


def permuted_scores(
    model: Any,
    X: pd.DataFrame | NDArray[np.float64],
    y: ArrayLike,
    order: ArrayLike | None,
    *,
    permutations: int = 3,
    folds: int = 5,
    seed: int = 0,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Cross-validated scores on shuffled labels; columns as of `score_splits`, label is the shuffled one."""
    splits = permuted_splits(y, permutations=permutations, folds=folds, seed=seed)
    return score_splits(model, X, order, splits, n_jobs=n_jobs, progress=progress)


def evaluate(
    model: Any,
    X: pd.DataFrame | NDArray[np.float64],
    y: ArrayLike,
    order: ArrayLike,
    batch: ArrayLike,
    *,
    folds: int = 5,
    repeats: int = 3,
    permutations: int = 3,
    first_batch: int = 4,
    seed: int = 0,
    rivals: Mapping[str, Any] | None = None,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """All three protocols with one configuration.

    Parameters:
        model: an unfitted classifier; it is cloned.
        X, y, order, batch: wafers, labels (-1, 1), production order and batch names, one per wafer.
        folds, repeats, permutations, first_batch, seed: of the protocols; 0 permutations leave the canary out.
        rivals: what the model must beat: unfitted classifiers by a name of their own, each scored in the same folds and
            batches, such as `wafer.learning.plain.PlainForest`.
        n_jobs: fits at a time, each in a process of its own; the result does not depend on it.
        progress: called with the fits done and the fits in all.

    Returns: metrics {"shuffled": {…}, "forward": {…}, "permuted": {"auc", "auc_low", "auc_high"}, each rival's name:
        {…} (as of `beside`), "wafers", "faulty", "left_out"} of finite numbers, and all scores of the model, with each
        rival's probability in a column of its name. A protocol that the data are too few for is missing,
        and stands in `left_out` with the reason in words.

    Raises:
        ParameterError: labels other than -1 and 1.
    """
    labels = _labels(y)
    splits, left_out = protocol_splits(
        labels,
        order,
        batch,
        folds=folds,
        repeats=repeats,
        permutations=permutations,
        first_batch=first_batch,
        seed=seed,
    )
    compared = [split for split in splits if split.protocol != "permuted"]
    given = rivals if rivals and compared else {}
    fits, told = len(splits) + len(given) * len(compared), progress or (lambda done, total: None)
    scores = score_splits(model, X, order, splits, n_jobs=n_jobs, progress=lambda done, _: told(done, fits))
    found, silent = measured(scores, _policy(model), seed=seed)
    for number, (name, rival) in enumerate(given.items()):
        before = len(splits) + number * len(compared)
        count = partial(lambda before, done, _: told(before + done, fits), before)
        others = score_splits(rival, X, order, compared, n_jobs=n_jobs, progress=count)
        found[name] = beside(scores, others, seed=seed)
        scores[name] = others["probability"].reindex(scores.index)  # the canary's splits come last
    return {
        "wafers": len(labels),
        "faulty": int(np.sum(labels == 1)),
        "left_out": silent | left_out,
        **found,
    }, with_units(scores, "scores.parquet")


def protocol_splits(
    y: ArrayLike,
    order: ArrayLike,
    batch: ArrayLike,
    *,
    folds: int,
    repeats: int,
    permutations: int | None,
    first_batch: int,
    seed: int,
) -> tuple[list[Split], dict[str, str]]:
    """The splits of all protocols, as of `evaluate`, and why some are left out; `permutations` None: no canary."""
    labels = _labels(y)
    splits: list[Split] = []
    left_out: dict[str, str] = {}
    protocols: dict[str, Callable[[], list[Split]]] = {
        "shuffled": lambda: shuffled_splits(labels, folds=folds, repeats=repeats, seed=seed),
        "forward": lambda: _foreseen(forward_splits(labels, order, batch, first_batch=first_batch), batch, first_batch),
    }
    if permutations is not None:
        protocols["permuted"] = partial(permuted_splits, labels, permutations=permutations, folds=folds, seed=seed)
    for protocol, split in protocols.items():
        try:
            splits += split()
        except TooFewError as error:
            left_out[protocol] = str(error)
    return splits, left_out


def beside(scores: pd.DataFrame, others: pd.DataFrame, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Another model's ROC AUC in the same folds and batches, and what the first gains over it, with paired intervals.

    Returns: for each protocol that both can be judged by: auc and gain, and for each of `ALARM_RATES` the other model's
        recall_at_alarm_rate_… and the first's gain_… in it, all with the ends of their intervals.
    """
    found = {}
    for protocol in PROTOCOLS:
        one, two = (each[each["protocol"] == protocol].reset_index(drop=True) for each in (scores, others))
        if two["label"].nunique() < 2:
            continue
        gain, own = compare(one, two, seed=seed), summarise(two, seed=seed)
        if gain.difference is not None:
            ends = {"gain_low": gain.difference_low, "gain_high": gain.difference_high}
            names = ("auc", *map(recall_name, ALARM_RATES))
            found[protocol] = {end: own[end] for name in names for end in (name, f"{name}_low", f"{name}_high")}
            found[protocol] |= {"gain": gain.difference, **ends, **recall_gains(one, two, seed=seed)}
    return found


def measured(scores: pd.DataFrame, policy: Policy, *, seed: int = 0) -> tuple[dict[str, Any], dict[str, str]]:
    """What scores of several protocols are worth: the metrics of each, and of the others why that cannot be said.

    Parameters:
        scores: as of `score_splits`.
        policy: whose costs count; the alarms are those of the scores.
        seed: of the bootstrap.
    """
    metrics: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for protocol in PROTOCOLS:
        part = scores[(scores["protocol"] == protocol) & scores["probability"].notna()].reset_index(drop=True)
        if part["label"].nunique() < 2:
            left_out[protocol] = _one_class(part)
            continue
        summary = summarise(part, policy, seed=seed)
        short = {name: summary[name] for name in ("auc", "auc_low", "auc_high")}
        metrics[protocol] = short if protocol == "permuted" else summary
    return metrics, left_out


def _score(model: Any, X: Any, order: Integers | None, split: Split) -> pd.DataFrame:
    fitted = clone(model)
    if "n_jobs" in fitted.get_params(deep=False):
        fitted.set_params(n_jobs=1)  # the fits themselves run side by side
    before, after = (None, None) if order is None else (order[split.train], order[split.test])
    fit_in_order(fitted, _safe_indexing(X, split.train), split.labels[split.train], before)
    probability = probability_in_order(fitted, _safe_indexing(X, split.test), after)
    tail: Any = np.nan
    recent_tail: Any = np.nan
    if isinstance(fitted, PolicyThresholds):
        alarm = probability >= fitted.thresholds(probability, order=after)
        tail = tail_share(fitted.held_out_["probability"].to_numpy(), probability)
        recent_tail = fitted.recent_tails(probability, order=after)
    else:
        alarm = verdict_in_order(fitted, _safe_indexing(X, split.test), after, probability)
    return pd.DataFrame(
        {
            "protocol": split.protocol,
            "repeat": split.repeat,
            "fold": split.fold,
            "row": split.test,
            "label": split.labels[split.test],
            "probability": probability,
            "alarm": alarm,
            "tail": tail,
            "recent_tail": recent_tail,
        }
    )


def _counted(frames: Iterable[pd.DataFrame], total: int, progress: Progress | None) -> list[pd.DataFrame]:
    result = []
    for frame in frames:
        result.append(frame)
        if progress is not None:
            progress(len(result), total)
    return result


def _labels(y: ArrayLike) -> Integers:
    labels = np.asarray(y)
    values = set(labels.ravel().tolist())
    if any(isinstance(value, bool | str) or value not in (-1, 1) for value in values):
        got = reprlib.repr(sorted(values, key=str))
        raise ParameterError(f"labels must be -1 (good) or 1 (faulty), got {got}")
    return labels.astype(np.int64)


def _check_folds(labels: Integers, folds: int) -> None:
    faulty, good = int(np.sum(labels == 1)), int(np.sum(labels == -1))
    if min(faulty, good) < folds:
        raise TooFewError(
            f"{folds} folds need at least {folds} faulty and {folds} good wafers, there are {faulty} and {good}"
        )


def _foreseen(splits: list[Split], batch: ArrayLike, first_batch: int) -> list[Split]:
    """The same splits, if there are any.

    Raises:
        TooFewError: there are none, for too few batches or for want of a fault in the earlier ones.
    """
    if splits:
        return splits
    batches = len(np.unique(np.asarray(batch)))
    if batches < first_batch:
        raise TooFewError(f"batches are scored from number {first_batch} on, there are {batches}")
    raise TooFewError("no batch has both faulty and good wafers in the batches before it")


def _one_class(scores: pd.DataFrame) -> str:
    if scores.empty:
        return "none of the wafers to be scored has readings to judge it by"
    return f"all {len(scores):,} wafers that were scored are {'faulty' if scores['label'].iloc[0] == 1 else 'good'}"


def joined_scores(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The scores of several splits as one frame, as of `score_splits`."""
    if frames:
        return pd.concat(frames, ignore_index=True)
    kinds = {"protocol": "str", "repeat": "int64", "fold": "str", "row": "int64", "label": "int64"}
    kinds |= {"probability": "float64", "alarm": "bool", "tail": "float64", "recent_tail": "float64"}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})


def _policy(model: Any) -> Policy:
    return getattr(model, "policy", None) or Policy()
