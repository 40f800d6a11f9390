"""Curves of out-of-fold scores, as points: what is drawn, and what a study keeps for `dvc plots`.

Frames of scores have the columns protocol, repeat, fold, row, label (−1 good, 1 faulty), probability and alarm, as made
by `wafer.learning.evaluation`.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

PROTOCOLS = ("shuffled", "forward")


def roc_points(scores: pd.DataFrame) -> pd.DataFrame:
    """ROC curves of all folds of a protocol together: columns protocol, false_alarm_rate, recall."""
    parts = []
    for protocol, label, probability in _by_protocol(scores):
        false_alarms, recall, _ = roc_curve(label, probability)
        parts.append(pd.DataFrame({"protocol": protocol, "false_alarm_rate": false_alarms, "recall": recall}))
    return stacked(parts, ["protocol", "false_alarm_rate", "recall"])


def precision_recall_points(scores: pd.DataFrame) -> pd.DataFrame:
    """Precision-recall curves of all folds of a protocol together: columns protocol, recall, precision."""
    parts = []
    for protocol, label, probability in _by_protocol(scores):
        precision, recall, _ = precision_recall_curve(label, probability, drop_intermediate=True)
        parts.append(pd.DataFrame({"protocol": protocol, "recall": recall, "precision": precision}))
    return stacked(parts, ["protocol", "recall", "precision"])


def of_protocol(scores: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The scores of one protocol, without wafers that no probability could be told of."""
    return scores.loc[(scores["protocol"] == protocol) & scores["probability"].notna()]


def _by_protocol(scores: pd.DataFrame) -> list[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    parts = ((protocol, of_protocol(scores, protocol)) for protocol in PROTOCOLS)
    arrays = [(name, part["label"].to_numpy() == 1, part["probability"].to_numpy(np.float64)) for name, part in parts]
    return [(name, faulty, probability) for name, faulty, probability in arrays if faulty.any() and not faulty.all()]


def stacked(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """The parts one below the other; where there are none, a table of `columns` without rows."""
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
