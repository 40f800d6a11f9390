"""What became of alarms: open, then acknowledged, then closed with an outcome; an audit trail that only grows.

An alarm is a wafer whose last prediction calls it faulty. Each move of one is a document of the collection ``alarms``
that is never changed: ``{_id: "<wafer>:<number>", wafer: …, number: 1, state: …, outcome: …, comment: …, who: …,
at: …}``. Numbers follow each other, so of two people who move an alarm at the same time the second is told.
"""

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pymongo.errors import DuplicateKeyError

from wafer.errors import AlarmError
from wafer.store.wafers import Store

State = Literal["open", "acknowledged", "closed"]
Outcome = Literal["faulty", "good", "undecided"]
MOVES: dict[str, tuple[State, ...]] = {"open": ("acknowledged", "closed"), "acknowledged": ("closed",), "closed": ()}
"""From each state to which others."""


@dataclass(frozen=True)
class Move:
    """One entry of an alarm's audit trail; `outcome` is None but of a closed one."""

    wafer: str
    number: int
    state: State
    outcome: Outcome | None
    comment: str
    who: str
    at: datetime.datetime


def trails(store: Store, wafers: Sequence[str]) -> dict[str, list[Move]]:
    """The moves of these wafers' alarms, oldest first; wafers without one are left out."""
    found: dict[str, list[Move]] = {}
    for line in store.alarms.find({"wafer": {"$in": list(wafers)}}, {"_id": 0}).sort([("wafer", 1), ("number", 1)]):
        found.setdefault(line["wafer"], []).append(Move(**line))
    return found


def state_of(trail: Sequence[Move]) -> State:
    """Where an alarm stands."""
    return trail[-1].state if trail else "open"


def check_move(trail: Sequence[Move], wafer: str, state: State, outcome: Outcome | None) -> None:
    """Refuse a move that an alarm with this trail cannot make.

    Raises:
        AlarmError: the state does not follow the present one, or an outcome is lacking or of no use.
    """
    if state not in MOVES[state_of(trail)]:
        raise AlarmError(f"the alarm of {wafer} is {state_of(trail)} and cannot become {state}")
    if (state == "closed") != (outcome is not None):
        raise AlarmError("an alarm is closed with an outcome, and has none before")


def add_move(store: Store, trail: Sequence[Move], move: dict[str, Any]) -> Move:
    """Write the next move behind `trail`, which was read before; `move` holds all but number and time.

    Raises:
        AlarmError: somebody else has moved the alarm meanwhile.
    """
    made = Move(**move, number=len(trail) + 1, at=store.now())
    try:
        store.alarms.insert_one({"_id": f"{made.wafer}:{made.number}", **asdict(made)})
    except DuplicateKeyError:
        raise AlarmError(f"the alarm of {made.wafer} was moved by somebody else just now: look again") from None
    return made
