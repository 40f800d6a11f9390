import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from wafer.errors import ParameterError
from wafer.fab.simulate import simulate_frame
from wafer.learning.decision import Policy
from wafer.learning.evaluation import (
    evaluate,
    forward_scores,
    forward_splits,
    permuted_splits,
    shuffled_scores,
    shuffled_splits,
    summarise,
)
from wafer.learning.model import WaferModel
from wafer.learning.plain import PlainForest

FEW = "3 folds need at least 3 faulty and 3 good wafers, there are {} and {}"
ALL_GOOD = "all 18 wafers that were scored are good"
NONE_BEFORE = "no batch has both faulty and good wafers in the batches before it"
COLUMNS = ["protocol", "repeat", "fold", "row", "label", "probability", "alarm", "tail", "recent_tail"]
Plain = make_pipeline(FunctionTransformer(np.nan_to_num), LogisticRegression(max_iter=500))


def test_shuffled_splits_score_every_wafer_once_per_repeat(wafers: Any) -> None:
    """In each repeat every wafer is scored once, by a model that has not seen it; faults are spread evenly."""
    splits = shuffled_splits(wafers.y, folds=5, repeats=2)
    assert [(split.repeat, split.fold) for split in splits] == [(r, str(f)) for r in range(2) for f in range(5)]
    for repeat in range(2):
        tested = np.concatenate([split.test for split in splits if split.repeat == repeat])
        assert_array_equal(np.sort(tested), np.arange(240))
    assert all(len(np.intersect1d(split.train, split.test)) == 0 for split in splits)
    assert {int(np.sum(wafers.y[split.test] == 1)) for split in splits} == {6}


def test_forward_splits_train_on_the_past_alone(wafers: Any) -> None:
    """Each batch from the fourth on is scored by the batches before it, whatever the sequence of the rows."""
    rows = np.random.default_rng(0).permutation(240)
    splits = forward_splits(wafers.y[rows], wafers.order[rows], wafers.batch[rows], first_batch=4)
    assert [split.fold for split in splits] == ["batch_03.csv", "batch_04.csv", "batch_05.csv"]
    assert [len(split.train) for split in splits] == [120, 160, 200]
    assert all(wafers.order[rows][s.train].max() < wafers.order[rows][s.test].min() for s in splits)


def test_forward_leaves_out_batches_that_cannot_be_foreseen(wafers: Any) -> None:
    """Before a fault has been seen there is nothing to learn from."""
    labels = np.where(wafers.order < wafers.order[150], -1, wafers.y)
    splits = forward_splits(labels, wafers.order, wafers.batch, first_batch=2)
    assert [split.fold for split in splits] == ["batch_04.csv", "batch_05.csv"]


def test_permuted_splits_keep_the_number_of_faults(wafers: Any) -> None:
    """Labels are shuffled, another way in each repeat, and none is lost."""
    splits = permuted_splits(wafers.y, permutations=2, folds=3)
    assert [int(np.sum(split.labels == 1)) for split in splits] == [30] * 6
    assert not np.array_equal(splits[0].labels, splits[3].labels)
    assert not np.array_equal(splits[0].labels, wafers.y)


def test_scores_of_any_classifier(wafers: Any) -> None:
    """A plain scikit-learn pipeline is scored as it would be by hand."""
    scores = shuffled_scores(Plain, wafers.X, wafers.y, None, folds=3, repeats=1)
    assert list(scores.columns) == COLUMNS
    split = shuffled_splits(wafers.y, folds=3, repeats=1)[1]
    by_hand = Plain.fit(wafers.X.iloc[split.train], wafers.y[split.train]).predict_proba(wafers.X.iloc[split.test])
    found = scores[scores["fold"] == "1"]
    assert_array_equal(found["probability"], by_hand[:, 1])
    assert_array_equal(found["alarm"], by_hand[:, 1] > 0.5)
    assert_array_equal(found["label"], wafers.y[found["row"]])


def test_model_is_given_the_production_order(wafers: Any, quick: dict[str, int]) -> None:
    """`WaferModel` is trained and asked with the order of its wafers, and its own threshold raises the alarms."""
    scores = forward_scores(WaferModel(**quick), wafers.X, wafers.y, wafers.order, wafers.batch, first_batch=6)
    train = np.flatnonzero(wafers.batch != "batch_05.csv")
    model = WaferModel(**quick).fit(wafers.X.iloc[train], wafers.y[train], wafers.order[train])
    expected = model.predict_proba(wafers.X.iloc[200:], wafers.order[200:])[:, 1]
    assert_array_equal(scores["probability"], expected)
    assert_array_equal(scores["alarm"], expected >= model.thresholds(expected, wafers.order[200:]))
    assert_array_equal(scores["alarm"], Policy().alarms(expected, scores["recent_tail"].to_numpy()))
    fixed = model.with_policy(Policy(threshold="fixed"))
    assert_array_equal(fixed.thresholds(expected), np.full(40, model.threshold_))
    assert_array_equal(expected >= model.threshold_, Policy().alarms(expected, scores["tail"].to_numpy()))


@pytest.mark.slow
@pytest.mark.invariant
def test_evaluation_finds_skill_and_the_canary_none(wafers: Any, quick: dict[str, int]) -> None:
    """The three protocols come together; real labels are told apart, shuffled ones are not."""
    calls: list[tuple[int, int]] = []
    metrics, scores = evaluate(
        WaferModel(**quick),
        wafers.X,
        wafers.y,
        wafers.order,
        wafers.batch,
        folds=3,
        repeats=1,
        permutations=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(n, 15) for n in range(1, 16)]
    assert scores["protocol"].value_counts().to_dict() == {"permuted": 720, "shuffled": 240, "forward": 120}
    assert (metrics["wafers"], metrics["faulty"]) == (240, 30)
    assert metrics["shuffled"]["auc"] > 0.85
    assert metrics["forward"]["auc"] > 0.85
    assert 0.35 < metrics["permuted"]["auc"] < 0.65
    assert set(metrics["permuted"]) == {"auc", "auc_low", "auc_high"}


@pytest.mark.slow
def test_processes_give_the_same_scores(wafers: Any, quick: dict[str, int]) -> None:
    """Two processes give bit by bit the scores of one."""
    one, two = (
        shuffled_scores(WaferModel(**quick), wafers.X, wafers.y, wafers.order, folds=2, repeats=1, n_jobs=jobs)
        for jobs in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_impossible_evaluations_are_refused(wafers: Any) -> None:
    """Labels other than -1 and 1, and more folds than faults, are refused with the numbers concerned."""
    with pytest.raises(ParameterError, match=r"labels must be -1 \(good\) or 1 \(faulty\), got \[0, 1\]"):
        shuffled_splits(np.array([0, 1]))
    for labels in (["-1", "1"], ["Good", "Bad"], [-1, 1.5], [False, True]):
        with pytest.raises(ParameterError, match=r"labels must be -1 \(good\) or 1 \(faulty\), got \["):
            shuffled_splits(labels)
    with pytest.raises(ParameterError, match="faulty_label must be 1 or None to be judged here, got -1"):
        shuffled_scores(WaferModel(faulty_label=-1), wafers.X, wafers.y, wafers.order, folds=2, repeats=1)
    told = "31 folds need at least 31 faulty and 31 good wafers, there are 30 and 210"
    with pytest.raises(ParameterError, match=told):
        shuffled_splits(wafers.y, folds=31)


@pytest.mark.slow
def test_the_alarm_ceiling_is_kept_on_later_batches() -> None:
    """On the synthetic fab, forward in time, alarms come as often as the ceiling says, within a factor of 1.5.

    That is over all batches together: those with a fault season or a new kind of fault exceed it, others stay below.
    """
    batches = [simulate_frame(number, wafers=100, seed=7) for number in range(15)]
    X = pd.concat([batch.filter(like="Sensor-").astype(float) for batch in batches], ignore_index=True)
    y = np.concatenate([batch["label"].to_numpy() for batch in batches])
    names = np.repeat([f"{number:02d}" for number in range(15)], 100)
    model = WaferModel(trees=100)
    scores = forward_scores(model, X, y, np.arange(1500), names, n_jobs=2)
    assert len(scores) == 1200
    assert 1 / 1.5 <= scores["alarm"].mean() / model.policy_.alarm_rate_ceiling <= 1.5


@pytest.mark.parametrize(
    ("faulty", "batches", "first_batch", "permutations", "left_out"),
    [
        ([], 4, 2, 1, {"shuffled": FEW.format(0, 24), "forward": NONE_BEFORE, "permuted": FEW.format(0, 24)}),
        ([1], 4, 2, 1, {"shuffled": FEW.format(1, 23), "forward": ALL_GOOD, "permuted": FEW.format(1, 23)}),
        ([1, 2], 4, 2, 1, {"shuffled": FEW.format(2, 22), "forward": ALL_GOOD, "permuted": FEW.format(2, 22)}),
        ([1, 9, 17], 4, 2, 1, {}),
        ([1, 9, 17], 1, 2, 1, {"forward": "batches are scored from number 2 on, there are 1"}),
        ([1, 9, 17], 4, 5, 1, {"forward": "batches are scored from number 5 on, there are 4"}),
        ([21, 22, 23], 4, 2, 1, {"forward": NONE_BEFORE}),
        ([1, 9, 17], 4, 2, 0, {"permuted": "no permutation was asked for"}),
        (range(24), 4, 2, 1, {"shuffled": FEW.format(24, 0), "forward": NONE_BEFORE, "permuted": FEW.format(24, 0)}),
    ],
)  # fmt: skip
def test_a_protocol_without_enough_data_is_left_out_in_words(
    faulty: Any, batches: int, first_batch: int, permutations: int, left_out: dict[str, str]
) -> None:
    """What the data are too few for stands with its reason in `left_out`, and the document is JSON without NaN."""
    place = np.arange(24)
    y = np.where(np.isin(place, faulty), 1, -1)
    X = np.random.default_rng(0).normal(size=(24, 3))
    metrics, scores = evaluate(
        Plain, X, y, place, (place * batches // 24).astype(str),
        folds=3, repeats=1, permutations=permutations, first_batch=first_batch,
    )  # fmt: skip
    assert metrics["left_out"] == left_out
    assert {"shuffled", "forward", "permuted"} - set(metrics) == set(left_out)
    assert json.loads(json.dumps(metrics, allow_nan=False))["faulty"] == len(list(faulty))
    assert list(scores.columns) == COLUMNS


class Silent(DummyClassifier):
    """Says nothing of any wafer."""

    def predict_proba(self, X: Any) -> Any:
        """No probability."""
        return np.full((len(X), 2), np.nan)


def test_wafers_without_a_probability_are_not_measured() -> None:
    """A model that judges no wafer gives no metric, and the document says so."""
    y = np.where(np.arange(12) % 2, 1, -1)
    metrics, scores = evaluate(Silent(), np.zeros((12, 1)), y, np.arange(12), np.repeat(["a", "b"], 6), folds=2)
    assert set(metrics) == {"wafers", "faulty", "left_out"}
    assert metrics["left_out"]["shuffled"] == "none of the wafers to be scored has readings to judge it by"
    assert scores["probability"].isna().all()


@pytest.mark.slow
@pytest.mark.invariant
def test_a_plain_model_stands_beside_the_other(wafers: Any) -> None:
    """It is scored in the same folds and batches, not on permuted labels; the gain is paired, and 0 over itself."""
    told: list[tuple[int, int]] = []
    given = {"folds": 3, "repeats": 1, "permutations": 1, "first_batch": 5}
    metrics, scores = evaluate(
        Plain,
        *wafers,
        rivals={"plain": PlainForest(trees=10)},
        progress=lambda done, total: told.append((done, total)),
        **given,
    )
    assert told[-1] == (3 + 2 + 3 + 3 + 2,) * 2
    others = shuffled_scores(PlainForest(trees=10), wafers.X, wafers.y, None, folds=3, repeats=1)
    assert scores["plain"].isna().equals(scores["protocol"] == "permuted")
    assert scores.loc[scores["protocol"] == "shuffled", "plain"].tolist() == others["probability"].tolist()
    found = metrics["plain"]["shuffled"]
    assert found["auc"] == summarise(others)["auc"]
    assert found["gain"] == pytest.approx(metrics["shuffled"]["auc"] - found["auc"])
    assert found["gain_low"] <= found["gain"] <= found["gain_high"]
    assert set(metrics["plain"]) == {"shuffled", "forward"}
    itself, _ = evaluate(Plain, *wafers, rivals={"plain": Plain}, **given)
    assert [itself["plain"]["forward"][name] for name in ("gain", "gain_low", "gain_high")] == [0.0] * 3
    assert "plain" not in evaluate(Plain, *wafers, **given)[0]
