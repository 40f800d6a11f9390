from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from wafer.errors import ParameterError
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.scoring.batches import COLUMNS, as_documents, judge_batch, result_rows
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.judge import judge


@pytest.fixture(scope="module")
def bundle(wafers: Any, quick: dict[str, int]) -> Bundle:
    recipe = WaferModel(**quick, policy=Policy(threshold="fixed"))
    return fit_bundle(recipe, wafers.X, wafers.y, wafers.order, permutations=8)


def test_a_judgement_is_what_the_classifier_says(bundle: Bundle, wafers: Any) -> None:
    """Probability, verdict and cluster are the classifier's; threshold and version are those that were used."""
    found = judge(bundle, wafers.X, wafers.order, version=7)
    table, model = found.wafers, bundle.classifier
    assert_array_equal(table["probability"], model.predict_proba(wafers.X, wafers.order)[:, 1])
    assert_array_equal(table["verdict"].astype(int), model.predict(wafers.X, wafers.order))
    assert_array_equal(table["cluster"], model.assign_clusters(wafers.X, wafers.order))
    assert set(table["threshold"]) == {model.threshold_}
    assert set(table["version"]) == {7}
    assert found.counts() == {"wafers": 240, "alarms": int((table["verdict"] == 1).sum()), "unknown": 0}
    assert found.reasons is found.drift is None


def test_a_wafer_is_judged_the_same_in_any_company(bundle: Bundle, wafers: Any) -> None:
    """Alone, in another sequence, among thousands and on three threads: the same bits."""
    whole = judge(bundle, wafers.X, wafers.order).wafers
    rows = np.random.default_rng(0).permutation(np.tile(np.arange(240), 6))
    bundle.classifier.n_jobs = 3
    try:
        many = judge(bundle, wafers.X.iloc[rows], wafers.order[rows]).wafers
    finally:
        bundle.classifier.n_jobs = 1
    pd.testing.assert_frame_equal(many, whole.iloc[rows].reset_index(drop=True), check_exact=True)
    for row in range(0, 240, 40):
        alone = judge(bundle, wafers.X.iloc[[row]], wafers.order[[row]]).wafers
        pd.testing.assert_frame_equal(alone, whole.iloc[[row]].reset_index(drop=True), check_exact=True)


def test_a_rolling_threshold_follows_production_order_and_what_came_before(bundle: Bundle, wafers: Any) -> None:
    """In any sequence of rows, and batch after batch, the same bits; alarms and their reasons go by it."""
    rolling, places = bundle.with_policy(Policy(alarm_rate_ceiling=0.3)), wafers.order
    whole = judge(rolling, wafers.X, places, reasons="alarms")
    table = whole.wafers
    assert table["threshold"].nunique() > 5
    assert_array_equal(whole.alarms, table["probability"] >= table["threshold"])
    every = judge(rolling, wafers.X, places, reasons="all").reasons
    assert every is not None and whole.reasons is not None and len(whole.reasons)
    of_alarms = every[whole.alarms[every["row"].to_numpy()]].reset_index(drop=True)
    pd.testing.assert_frame_equal(whole.reasons, of_alarms, check_exact=True)
    rows = np.random.default_rng(0).permutation(240)
    mixed = judge(rolling, wafers.X.iloc[rows], places[rows]).wafers
    pd.testing.assert_frame_equal(mixed, table.iloc[rows].reset_index(drop=True), check_exact=True)
    sequence = np.argsort(places, kind="stable")
    first, second = sequence[:100], sequence[100:]
    recent = judge(rolling, wafers.X.iloc[first], places[first]).wafers["probability"]
    later = judge(rolling, wafers.X.iloc[second], places[second], recent=recent).wafers
    pd.testing.assert_frame_equal(later, table.iloc[second].reset_index(drop=True), check_exact=True)
    alone = judge(rolling, wafers.X.iloc[second], places[second]).wafers
    assert_array_equal(alone["probability"], later["probability"])
    assert (alone["threshold"] != later["threshold"]).any()


def test_reasons_belong_to_their_wafers_and_infinity_is_refused_in_every_block(bundle: Bundle, wafers: Any) -> None:
    """Of more wafers than a block holds each alarm has the reasons that it has alone; no reading is left unchecked."""
    rows = np.tile(np.arange(240), 6)
    X, order = wafers.X.iloc[rows].reset_index(drop=True), wafers.order[rows]
    many = judge(bundle, X, order, reasons="alarms").reasons
    once = judge(bundle, wafers.X, wafers.order, reasons="alarms").reasons
    assert many is not None
    assert once is not None
    last = many[many["row"] >= 1200].reset_index(drop=True)
    pd.testing.assert_frame_equal(last.assign(row=last["row"] - 1200), once, check_exact=True)
    X.iloc[1300, 3] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        judge(bundle, X, order)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"reasons": True}, "reasons must be one of none, alarms, all, got true"),
        ({"reasons": "alarm"}, "reasons must be one of none, alarms, all, got 'alarm'"),
        ({"most": 0}, "most must be a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: Any, message: str, bundle: Bundle, wafers: Any) -> None:
    """By its name, with what could be asked."""
    with pytest.raises(ParameterError, match=message):
        judge(bundle, wafers.X, **asked)


def test_a_wafer_that_nobody_measured_gets_no_verdict(bundle: Bundle, wafers: Any) -> None:
    """Without readings there is neither verdict nor probability; with too few there is a probability, not trusted."""
    X = wafers.X.iloc[:4].copy()
    X.iloc[0] = np.nan
    X.iloc[1, :18] = np.nan  # no training wafer lacked so many
    X.iloc[2] = 1e4
    found = judge(bundle, X, wafers.order[:4], reasons="alarms")
    table = found.wafers
    assert table["verdict"].isna().tolist() == [True, True, False, False]
    assert table["probability"].isna().tolist() == [True, False, False, False]
    assert table["unknown"].tolist() == [True, True, True, False]
    assert table["why"].tolist() == ["unknown", "unknown", "unlike anything seen", ""]
    assert found.counts()["unknown"] == 3
    assert found.reasons is not None
    assert set(found.reasons["row"]) <= set(np.flatnonzero(found.alarms)) <= {2, 3}


def test_a_result_file_says_who_is_unknown(bundle: Bundle, wafers: Any) -> None:
    """The CSV has an empty Prediction for a wafer without readings; the store gets None for it."""
    X = wafers.X.iloc[:3].copy()
    X.iloc[1] = np.nan
    batch = X.assign(wafer=["Wafer-1", "Wafer-3", "Wafer-5"], order=wafers.order[:3])
    rows = result_rows(batch, judge_batch(bundle, batch, 2))
    assert rows.columns.tolist() == COLUMNS
    lines = rows.to_csv(index=False).splitlines()
    assert lines[0] == "Wafer,Prediction,probability,cluster,model_version,unknown,threshold"
    assert lines[2].startswith("Wafer-3,,,")
    assert lines[2].endswith(f",2,True,{bundle.classifier.threshold_!r}")
    documents = as_documents(rows)
    assert (documents[1]["Prediction"], documents[1]["probability"], documents[1]["unknown"]) == (None, None, True)
    assert [type(value) for value in documents[0].values()] == [str, int, float, int, int, bool, float]
