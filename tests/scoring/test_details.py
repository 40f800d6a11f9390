import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wafer.learning.model import WaferModel
from wafer.scoring.batches import score_wafers
from wafer.scoring.details import Details, describe_drift, describe_reasons, explain_alarms, judge_wafers


def table(wafers: Any, rows: slice, first: int | None = None) -> pd.DataFrame:
    """Wafers as the store gives them; with `first` made that late and without labels."""
    X, order, y = wafers.X.iloc[rows].reset_index(drop=True), wafers.order[rows], wafers.y[rows]
    if first is not None:
        order, y = np.arange(first, first + len(X)), np.full(len(X), np.nan)
    label = pd.array(np.where(np.isnan(y), np.nan, y), dtype="Float64").astype("Int8")
    facts = {"wafer": [f"Wafer-{number}" for number in order], "order": order, "label": label}
    return pd.concat([pd.DataFrame(facts), X], axis=1)


@pytest.fixture(scope="module")
def whole(wafers: Any, quick: dict[str, int]) -> WaferModel:
    """A model that learned everything there is to learn."""
    model = WaferModel(**quick).fit(wafers.X, wafers.y, wafers.order)
    model.learn_reasons(wafers.X, wafers.y, wafers.order, permutations=8)
    return model.learn_drift(wafers.X, wafers.order, wafers.batch)


def told(model: WaferModel, folder: Path, **batches: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The three files of one run."""
    details = Details(model)
    for name, wafers in batches.items():
        details.add(name, wafers, score_wafers(model, wafers, 1))
    details.write(folder)
    document = json.loads(
        (folder / "drift.json").read_text(), parse_constant=lambda _: pytest.fail("NaN in drift.json")
    )
    return pd.read_csv(folder / "wafers.csv"), pd.read_csv(folder / "reasons.csv"), document


def test_each_wafer_is_judged_and_marked_where_its_label_is_known(whole: WaferModel, wafers: Any) -> None:
    """Conformity is the model's own; a wafer like no other is unknown; labels that the store has are told."""
    batch = table(wafers, slice(0, 40))
    batch.loc[3, wafers.X.columns] = 1e4
    batch.loc[5, "label"] = None
    found = judge_wafers(whole, batch)
    assert found.columns.tolist() == ["Wafer", "conformity", "unknown", "label_known"]
    assert found["Wafer"].tolist() == batch["wafer"].tolist()
    expected = whole.conformity(batch[wafers.X.columns], batch["order"].to_numpy())
    assert found["conformity"].tolist() == expected.tolist()
    assert found.loc[found["unknown"], "Wafer"].tolist() == ["Wafer-7"]
    assert found.loc[~found["label_known"], "Wafer"].tolist() == ["Wafer-11"]


def test_reasons_are_of_the_alarms_alone(whole: WaferModel, wafers: Any) -> None:
    """Each alarm's reasons are those that the model gives for it; the reading is the wafer's own."""
    batch = table(wafers, slice(0, 120))
    predictions = score_wafers(whole, batch, 1)
    found = explain_alarms(whole, batch, predictions)
    alarms = predictions.loc[predictions["Prediction"] == 1, "Wafer"].tolist()
    assert set(found["Wafer"]) <= set(alarms)
    first = found.loc[found["rank"] == 1]
    assert len(first) >= 0.8 * len(alarms)
    assert first["sensor"].isin(["Sensor-1", "Sensor-2", "Sensor-3"]).mean() > 0.8
    readings = batch.set_index("wafer")
    own = [readings.loc[row["Wafer"], row["sensor"]] for row in first.to_dict("records")]
    assert first["reading"].tolist() == pytest.approx(own, rel=0, abs=0, nan_ok=True)


def test_batches_of_one_wafer_and_without_alarms_are_told_too(whole: WaferModel, wafers: Any, tmp_path: Path) -> None:
    """One wafer is judged but tells no drift; a batch without alarms has no reasons, and the header stays."""
    good = table(wafers, slice(80, 120), first=1000)
    probability = score_wafers(whole, good, 1)["probability"]
    calm = good.loc[probability < whole.threshold_].reset_index(drop=True)
    judged, reasons, document = told(whole, tmp_path, calm=calm, single=calm.head(1).assign(wafer="Wafer-9000"))
    assert judged["batch"].tolist() == ["calm"] * len(calm) + ["single"]
    assert reasons.columns.tolist() == [
        *("batch", "Wafer", "rank", "sensor", "together_with", "direction", "percentile", "reading", "strength")
    ]
    assert reasons.empty
    calm_drift, single_drift = document["batches"]
    assert (calm_drift["wafers"], single_drift["wafers"]) == (len(calm), 1)
    assert isinstance(calm_drift["drifted"], bool)
    assert (single_drift["score"], single_drift["drifted"], single_drift["sensors"]) == (None, None, [])
    assert single_drift["why_not"] == "It has 1 of the 20 wafers that drift is told from."


def test_a_batch_that_drifted_names_the_sensors_responsible(whole: WaferModel, wafers: Any) -> None:
    """Sensors that moved or vanished lead; ten are named; the same batch made earlier is not judged."""
    moved = table(wafers, slice(-40, None), first=1000)
    moved[[f"Sensor-{n}" for n in range(9, 17)]] += 9.0
    moved["Sensor-17"] = np.nan
    found = describe_drift(whole, moved)
    assert found["drifted"] is True
    assert found["why_not"] is None
    assert found["score"] > found["threshold"]
    assert found["told_apart"] > 0.9
    assert len(found["sensors"]) == 10
    names = [sensor["sensor"] for sensor in found["sensors"]]
    assert {f"Sensor-{n}" for n in range(9, 18)} <= set(names)
    vanished = found["sensors"][names.index("Sensor-17")]
    assert (vanished["missing_now"], vanished["shift"]) == (1.0, 0.0)
    earlier = describe_drift(whole, moved.assign(order=np.arange(40)))
    assert earlier["score"] > 0
    assert earlier["drifted"] is None
    assert "no newer than the wafers" in earlier["why_not"]


def test_models_that_lack_reasons_or_drift_say_so(wafers: Any, quick: dict[str, int], tmp_path: Path) -> None:
    """A model of an earlier release still predicts; its findings say what is not there, and invent nothing."""
    bare = WaferModel(**quick).fit(wafers.X, wafers.y, wafers.order)
    judged, reasons, document = told(bare, tmp_path, b=table(wafers, slice(0, 40)))
    assert len(judged) == 40
    assert reasons.empty
    assert document["usual_unknown"] is None
    assert document["reasons"] == {
        **{"shown": False, "strength": None, "floor": None},
        "why_not": "The model was saved without reasons.",
    }
    assert document["batches"][0]["why_not"] == "The model was saved without what it needs to tell drift."
    one_fault = np.where(np.arange(240) == 5, 1, -1)  # with more, its grid search takes long
    reference = WaferModel(search="reference").fit(wafers.X, one_fault, wafers.order)
    assert describe_reasons(reference)["why_not"] == "A reference search has no reasons."


def test_withheld_reasons_come_with_their_figures(wafers: Any, quick: dict[str, int], tmp_path: Path) -> None:
    """A model of permuted labels gives no reason for any alarm, and says how strong its own and chance's are."""
    y = np.random.default_rng(3).permutation(wafers.y)
    model = WaferModel(**quick).fit(wafers.X, y, wafers.order).learn_reasons(wafers.X, y, wafers.order, permutations=8)
    model.threshold_ = 0.0
    _, reasons, document = told(model, tmp_path, b=table(wafers, slice(0, 120)))
    assert reasons.empty
    shown = document["reasons"]
    assert not shown["shown"]
    assert shown["strength"] <= shown["floor"]
    assert f"strength of {shown['strength']:.2f}" in shown["why_not"]
    assert f"up to {shown['floor']:.2f}" in shown["why_not"]
