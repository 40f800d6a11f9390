import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.scoring.batches import judge_batch
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.details import Details, describe_drift


def table(wafers: Any, rows: slice, first: int | None = None) -> pd.DataFrame:
    """Wafers as the store gives them; with `first` made that late and without labels."""
    X, order, y = wafers.X.iloc[rows].reset_index(drop=True), wafers.order[rows], wafers.y[rows]
    if first is not None:
        order, y = np.arange(first, first + len(X)), np.full(len(X), np.nan)
    label = pd.array(np.where(np.isnan(y), np.nan, y), dtype="Float64").astype("Int8")
    facts = {"wafer": [f"Wafer-{number}" for number in order], "order": order, "label": label}
    return pd.concat([pd.DataFrame(facts), X], axis=1)


@pytest.fixture(scope="module")
def whole(wafers: Any, quick: dict[str, int]) -> Bundle:
    """A model that learned everything there is to learn, of enough trees not to take chance for a reason."""
    return fit_bundle(WaferModel(**quick | {"trees": 60}), *wafers, permutations=8)


def drift_of(bundle: Bundle, batch: pd.DataFrame) -> dict[str, Any]:
    """What is told of the drift of one batch."""
    return describe_drift(bundle, judge_batch(bundle, batch, 1, drift=True), batch["order"].to_numpy())


def told(bundle: Bundle, folder: Path, **batches: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The three files of one run."""
    details = Details(bundle)
    for name, wafers in batches.items():
        details.add(name, wafers, judge_batch(bundle, wafers, 1, reasons=True, drift=True))
    details.write(folder)
    document = json.loads(
        (folder / "drift.json").read_text(), parse_constant=lambda _: pytest.fail("NaN in drift.json")
    )
    return pd.read_csv(folder / "wafers.csv"), pd.read_csv(folder / "reasons.csv"), document


def test_each_wafer_is_judged_and_marked_where_its_label_is_known(whole: Bundle, wafers: Any, tmp_path: Path) -> None:
    """A wafer like no other is unknown, one without readings too; labels that the store has are told."""
    batch = table(wafers, slice(0, 40))
    batch.loc[3, wafers.X.columns] = 1e4
    batch.loc[4, wafers.X.columns] = np.nan
    batch.loc[5, "label"] = None
    found, _, _ = told(whole, tmp_path, b=batch)
    assert found.columns.tolist() == ["batch", "Wafer", "p_value", "unknown", "why", "label_known"]
    assert found["Wafer"].tolist() == batch["wafer"].tolist()
    judged = judge_batch(whole, batch, 1).wafers
    assert found["p_value"].tolist() == pytest.approx(judged["p_value"].tolist(), rel=1e-12)
    assert found.loc[found["unknown"], ["Wafer", "why"]].to_numpy().tolist() == [
        ["Wafer-7", "unlike anything seen"],
        ["Wafer-9", "unknown"],
    ]
    assert found.loc[~found["label_known"], "Wafer"].tolist() == ["Wafer-11"]


def test_reasons_are_of_the_alarms_alone(whole: Bundle, wafers: Any, tmp_path: Path) -> None:
    """Each alarm's reasons are those that the model gives for it; the reading is the wafer's own."""
    batch = table(wafers, slice(0, 120))
    alarms = batch.loc[judge_batch(whole, batch, 1).alarms, "wafer"].tolist()
    _, found, _ = told(whole, tmp_path, b=batch)
    assert set(found["Wafer"]) <= set(alarms)
    first = found.loc[found["rank"] == 1]
    assert len(first) >= 0.8 * len(alarms)
    assert first["sensor"].isin(["Sensor-1", "Sensor-2", "Sensor-3"]).mean() > 0.8
    readings = batch.set_index("wafer")
    own = [readings.loc[row["Wafer"], row["sensor"]] for row in first.to_dict("records")]
    assert first["reading"].tolist() == pytest.approx(own, rel=1e-12, nan_ok=True)


def test_batches_of_one_wafer_and_without_alarms_are_told_too(whole: Bundle, wafers: Any, tmp_path: Path) -> None:
    """One wafer is judged but tells no drift; a batch without alarms has no reasons, and the header stays."""
    good = table(wafers, slice(80, 120), first=1000)
    calm = good.loc[~judge_batch(whole, good, 1).alarms].reset_index(drop=True)
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


def test_a_batch_that_drifted_names_the_sensors_responsible(whole: Bundle, wafers: Any) -> None:
    """Sensors that moved or vanished lead; ten are named; the same batch made earlier is not judged."""
    moved = table(wafers, slice(-40, None), first=1000)
    moved[[f"Sensor-{n}" for n in range(9, 17)]] += 9.0
    moved["Sensor-17"] = np.nan
    found = drift_of(whole, moved)
    assert found["drifted"] is True
    assert found["why_not"] is None
    assert found["score"] > found["threshold"]
    assert found["domain_auc"] > 0.9
    assert len(found["sensors"]) == 10
    names = [sensor["sensor"] for sensor in found["sensors"]]
    assert {f"Sensor-{n}" for n in range(9, 18)} <= set(names)
    vanished = found["sensors"][names.index("Sensor-17")]
    assert (vanished["missing_now"], vanished["shift"]) == (1.0, 0.0)
    earlier = drift_of(whole, moved.assign(order=np.arange(40)))
    assert earlier["score"] > 0
    assert earlier["drifted"] is None
    assert "no newer than the training" in earlier["why_not"]


def test_models_that_lack_reasons_or_drift_say_so(wafers: Any, quick: dict[str, int], tmp_path: Path) -> None:
    """A model of an earlier release still predicts; its findings say what is not there, and invent nothing."""
    bare = fit_bundle(WaferModel(**quick), wafers.X, wafers.y, wafers.order, reasons=False)
    judged, reasons, document = told(bare, tmp_path, b=table(wafers, slice(0, 40)))
    assert len(judged) == 40
    assert reasons.empty
    assert document["usual_unknown"] is None
    assert document["reasons"] == {
        **{"shown": False, "strength": None, "floor": None},
        "why_not": "The model was saved without reasons.",
    }
    assert document["batches"][0]["why_not"] == "The model was saved without what it needs to tell drift."


def test_withheld_reasons_come_with_their_figures(wafers: Any, quick: dict[str, int], tmp_path: Path) -> None:
    """A model of permuted labels gives no reason for any alarm, and says how strong its own and chance's are."""
    y = np.random.default_rng(3).permutation(wafers.y)
    bundle = fit_bundle(WaferModel(**quick), wafers.X, y, wafers.order, permutations=8)
    bundle = bundle.with_policy(Policy(cost_missed_fault=1e9, alarm_rate_ceiling=0.99))
    _, reasons, document = told(bundle, tmp_path, b=table(wafers, slice(0, 120)))
    assert reasons.empty
    shown = document["reasons"]
    assert not shown["shown"]
    assert shown["strength"] <= shown["floor"]
    assert f"strength of {shown['strength']:.2f}" in shown["why_not"]
    assert f"up to {shown['floor']:.2f}" in shown["why_not"]
