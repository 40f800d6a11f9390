"""The threshold of each wafer, as a policy has it: the same for all, or one that follows the wafers before it."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from wafer.learning.checks import checked_order
from wafer.learning.decision import Policy, recent_tails

Floats = NDArray[np.float64]


class PolicyThresholds:
    """What classifiers share whose alarms a policy decides.

    Attributes:
        policy: whose costs and ceiling count; None: the defaults of `Policy`.
        held_out_: scores of wafers that the fitted classifier has not seen, as of `wafer.learning.backtest.held_out`.
        threshold_: of a policy whose threshold is fixed.
    """

    policy: Policy | None
    held_out_: pd.DataFrame
    threshold_: float

    @property
    def policy_(self) -> Policy:
        """The policy that the threshold follows from."""
        return self.policy or Policy()

    def told_threshold(self) -> str:
        """The probability that alarms start at, in words; one that rolls lies about the fixed one."""
        about = "about " if self.policy_.threshold == "rolling" else ""
        return f"{about}{100 * self.threshold_:.1f} %"

    def thresholds(
        self, probability: Floats, order: ArrayLike | None = None, recent: ArrayLike | None = None
    ) -> Floats:
        """Probability from which each of some wafers raises an alarm, shape (wafers,).

        Where the policy's threshold is rolling, it follows the wafers before each one: these, `recent` and, before
        them, the held-out scores; of wafers made after the training, none of those comes later.

        Parameters:
            probability: of the wafers, shape (wafers,); NaN where there is none.
            order: their production order, shape (wafers,); None: as they come.
            recent: probabilities that this model gave to wafers between its training and these, oldest first.
        """
        if self.policy_.threshold == "fixed":
            return np.full(len(probability), self.threshold_)
        return self._one_after_another(self.policy_.rolling_thresholds, probability, order, recent)

    def recent_tails(
        self, probability: Floats, order: ArrayLike | None = None, recent: ArrayLike | None = None
    ) -> Floats:
        """`wafer.learning.decision.recent_tails` of some wafers, shape (wafers,); parameters as of `thresholds`."""
        return self._one_after_another(recent_tails, probability, order, recent)

    def _one_after_another(
        self,
        rule: Callable[[Floats, Floats], Floats],
        probability: Floats,
        order: ArrayLike | None,
        recent: ArrayLike | None,
    ) -> Floats:
        places = checked_order(order, len(probability))
        sequence = np.arange(len(probability)) if places is None else np.argsort(places, kind="stable")
        held = self.held_out_["probability"].to_numpy(np.float64)
        found = np.empty(len(probability))
        since = np.asarray([] if recent is None else recent, np.float64)
        found[sequence] = rule(np.concatenate([held, since]), np.asarray(probability)[sequence])
        return found
