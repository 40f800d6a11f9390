"""Whether a ceiling of alarms holds batch by batch."""

import numpy as np
import pandas as pd
import pytest

from wafer.learning.budget import budget
from wafer.learning.decision import Policy, recent_tails, tail_share


def scores() -> pd.DataFrame:
    """Three batches of 100 wafers; in the second all probabilities are three times as high."""
    chance = np.random.default_rng(0)
    held, level = chance.uniform(0.05, 0.3, 200), np.repeat([1.0, 3.0, 1.0], 100)
    label = np.where(np.arange(300) % 10 == 0, 1, -1)
    probability = level * chance.uniform(0.05, 0.3, 300) * np.where(label == 1, 1.1, 1.0)
    frame = pd.DataFrame({"protocol": "forward", "repeat": 0, "row": range(300), "label": label})
    frame["fold"], frame["probability"] = np.repeat(["a", "b", "c"], 100), probability
    tails = [recent_tails(held, probability[rows]) for rows in np.split(np.arange(300), 3)]
    return frame.assign(tail=tail_share(held, probability), recent_tail=np.concatenate(tails))


def test_both_kinds_are_told_beside_each_other() -> None:
    """A fixed threshold floods one batch of three with alarms, a rolling one keeps within twice the ceiling."""
    found = budget(scores(), Policy(), draws=200).set_index("threshold")
    fixed, rolling = found.loc["fixed"], found.loc["rolling"]
    assert fixed["within_twice"] == pytest.approx(2 / 3)
    assert fixed["largest"] > 0.6
    assert rolling["within_twice"] == 1.0
    assert rolling["largest"] <= 0.2
    assert fixed["gain"] == fixed["gain_low"] == fixed["gain_high"] == 0.0
    assert rolling["gain_low"] <= rolling["gain"] <= rolling["gain_high"]
    ranked = scores().sort_values(["tail", "probability"], ascending=[True, False])
    by_hand = ranked.head(round(300 * rolling["alarm_rate"]))
    assert rolling["recall"] - rolling["gain"] == pytest.approx((by_hand["label"] == 1).sum() / 30)


def test_scores_that_do_not_tell_say_nothing() -> None:
    """Those of a release or a classifier without held-out scores, and of one class."""
    assert budget(scores().drop(columns="recent_tail"), Policy()).empty
    assert budget(scores().assign(recent_tail=np.nan), Policy()).empty
    assert budget(scores().assign(label=-1), Policy()).empty
