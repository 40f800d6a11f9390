"""What a model would have said of the newest wafers while they still lay in the future.

Probabilities of wafers to come are not those that a model gives, out of fold, to wafers of its own days. So models of
the wafers before say what they think of the newest ones, and the alarm threshold follows from both.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Foresee = Callable[[Integers, Integers], Floats]  # positions to train on and to score
COLUMNS = ("protocol", "faulty", "probability")


def held_out(
    probability: Floats, faulty: NDArray[np.bool_], order: Integers | None, foresee: Foresee, *, window: int
) -> pd.DataFrame:
    """The scores that stand for wafers to come, each of a model that has not seen the wafer.

    Parameters:
        probability: of the training wafers, out of fold.
        faulty: which of them are faulty.
        order: their production order; without it all count, and nothing can be foreseen.
        foresee: trains on the wafers at some positions and gives the probabilities of those at others.
        window: wafers in a reference window, at least 2.

    Returns: columns protocol, faulty, probability: "out_of_fold" for the wafers of the two newest windows, "backtest"
        for each half of the newest one, foreseen from all wafers before it where they are enough.
    """
    if order is None:
        return _frame("out_of_fold", faulty, probability)
    sequence, half = np.argsort(order, kind="stable"), window // 2
    newest = sequence[-2 * window :]
    frames = [_frame("out_of_fold", faulty[newest], probability[newest])]
    for start in (len(sequence) - 2 * half, len(sequence) - half):
        past, future = sequence[: max(start, 0)], sequence[max(start, 0) : start + half]
        if len(past) >= 2 * half and len(np.unique(faulty[past])) == 2:
            frames.append(_frame("backtest", faulty[future], foresee(past, future)))
    return pd.concat(frames, ignore_index=True)


def _frame(protocol: str, faulty: NDArray[np.bool_], probability: Floats) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(COLUMNS, (protocol, faulty, probability), strict=True)))
