"""What alarms are worth in money, beside ways to do without a model."""

import numpy as np
import pandas as pd
import pytest

from wafer.errors import ParameterError
from wafer.learning.decision import Policy
from wafer.learning.worth import MODEL, PLAIN, highest, worth

POLICY = Policy(cost_missed_fault=10.0, cost_false_alarm=2.0)


def scores() -> pd.DataFrame:
    """Two batches of five wafers, two faulty each; the model raises three alarms in one and one in the other."""
    return pd.DataFrame(
        {
            "protocol": "forward",
            "repeat": 0,
            "fold": ["a"] * 5 + ["b"] * 5,
            "row": range(10),
            "label": [1, 1, -1, -1, -1] * 2,
            "probability": [0.9, 0.2, 0.8, 0.7, 0.1, 0.6, 0.5, 0.4, 0.3, 0.2],
            "plain": [0.1, 0.9, 0.8, 0.7, 0.2, 0.1, 0.2, 0.9, 0.3, 0.4],
            "alarm": [True, False, True, True, False, True, False, False, False, False],
        }
    )


def test_costs_are_what_a_hand_counts() -> None:
    """Four faults and six good wafers: each way's cost, the model's two misses and two false alarms among them."""
    found = worth(scores(), POLICY, also={"labels": scores()["label"] == 1}, draws=200)
    ways = found.ways.set_index("way")
    assert ways["cost"].to_dict() == {
        "no inspection": 4000.0,
        "inspecting every wafer": 1200.0,
        "inspecting a random tenth": pytest.approx(3600.0 + 120.0),
        PLAIN: 3000.0 + 600.0,  # in the first batch 0.9, 0.8, 0.7, in the second 0.9: one fault
        MODEL: 2000.0 + 400.0,
        "labels": 0.0,
    }
    assert ways.loc["no inspection", ["cost_low", "cost_high"]].tolist() == [4000.0, 4000.0]
    assert ways.loc[PLAIN, "dearer"] == 1200.0
    assert ways.loc[PLAIN, "dearer_low"] < 1200.0 < ways.loc[PLAIN, "dearer_high"]
    assert found.ratio == 5.0
    pays = found.pays.iloc[0]
    assert (pays["above"], pays["below"]) == pytest.approx((2 / 2, 4 / 2)), "two caught for two false; two missed"


def test_at_the_break_even_ratio_the_costs_are_equal() -> None:
    """At one end the model costs what no inspection costs, at the other what inspecting every wafer costs."""
    pays = worth(scores(), POLICY, draws=10).pays.iloc[0]
    for end, way in (("above", "no inspection"), ("below", "inspecting every wafer")):
        ways = worth(scores(), Policy(cost_missed_fault=pays[end]), draws=10).ways.set_index("way")
        assert ways.loc[way, "cost"] == pytest.approx(ways.loc[MODEL, "cost"])


def test_it_is_told_in_words() -> None:
    """A gain, a loss, and alarms that pay at no ratio."""
    (said,) = worth(scores(), Policy(1.5, 1.0), draws=10).sentences()
    assert said.startswith("Forward, the alarms cost 500 per 1,000 wafers, 100 [")
    assert "less than the cheapest way without a model, no inspection. They pay where a missed fault costs 1.0" in said
    assert said.endswith("here it costs 1.5.")
    (said,) = worth(scores(), POLICY, draws=10).sentences()
    assert ("1,200 [" in said, "more than the cheapest way without a model, inspecting every wafer" in said) == (
        True,
    ) * 2
    (said,) = worth(scores().assign(alarm=False), POLICY, draws=10).sentences()
    assert said.endswith("They pay at no ratio of the costs.")
    perfect = worth(scores().assign(alarm=scores()["label"] == 1), POLICY, draws=10)
    assert perfect.sentences()[0].endswith("costs 0.0 to ∞ false alarms; here it costs 5.")
    assert perfect.as_dict()["pays"][0]["below"] is None


def test_a_share_of_each_batch_is_taken_from_the_top() -> None:
    """Three tenths of five wafers are one and a half; an impossible share is refused."""
    taken = highest(scores(), "probability", 0.3)
    assert taken.tolist() == [1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    for share in (0.0, 1.1, np.nan):
        with pytest.raises(ParameterError, match="the alarm rate must be above 0 and at most 1, got "):
            highest(scores(), "probability", share)


def test_scores_of_one_class_say_nothing() -> None:
    """Without a fault nothing is told; wafers without a probability are left out."""
    assert worth(scores().assign(label=-1), POLICY).table().empty
    missing = scores().assign(probability=scores()["probability"].mask(np.arange(10) == 1))
    assert worth(missing, POLICY, draws=10).ways.set_index("way").loc["no inspection", "cost"] == pytest.approx(
        30000 / 9
    )
