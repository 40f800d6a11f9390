"""Scores the wafers of many requests together: what waits while a pass is being computed goes into the next one.

That changes nothing of what is said of a wafer, which is the same in any company (`judge(…, apart=True)`). Reasons cost
a hundred times as much as a probability, so they are given in a thread of their own, to a few wafers of each request
in turn, and hold up nobody else.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wafer.service.champion import Served
from wafer.service.problems import Problem

if TYPE_CHECKING:
    from wafer.scoring.judge import Judgement

WAFERS_A_PASS = 512
MOST_WAITING = 50_000
"""Wafers; a request that comes on top of them is refused."""
MOST_EXPLAINED = 500
"""Wafers of a request that asks for the reasons of all."""
WAFERS_A_TURN = 16
"""Whose reasons are given before it is another request's turn."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """Wafers to be scored by `served`: readings in the sequence of its sensors, and their production order or None."""

    served: Served
    readings: Floats
    order: Integers | None = None


@dataclass(frozen=True)
class Scored:
    """What is said of the wafers of one request.

    Attributes:
        served: by which version.
        wafers: the columns of `Judgement.wafers`, each a list.
        reasons: for each wafer its reasons, rows of `Judgement.reasons`; empty where none were asked for.
    """

    served: Served
    wafers: dict[str, list[Any]]
    reasons: list[list[dict[str, Any]]]

    @property
    def alarms(self) -> list[int]:
        """The places of the wafers that are called faulty."""
        return [row for row, verdict in enumerate(self.wafers["verdict"]) if verdict == 1]


class Scorer:
    """Scores wafers; `workers` passes are computed at the same time."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._waiting: deque[tuple[Asked, asyncio.Future[Scored]]] = deque()
        self._wafers, self._passes = 0, 0
        self._scoring = ThreadPoolExecutor(workers, "score", _stay_single)
        self._explaining = ThreadPoolExecutor(1, "reasons", _stay_single)

    @property
    def waiting(self) -> int:
        """Wafers that wait or are being scored."""
        return self._wafers

    def stop(self) -> None:
        """Let go of the threads."""
        self._scoring.shutdown(wait=True, cancel_futures=True)
        self._explaining.shutdown(wait=True, cancel_futures=True)

    async def score(self, asked: Asked, reasons: str = "none", most: int = 5) -> Scored:
        """Score wafers; `reasons` and `most` as of `judge`.

        Raises:
            Problem: too much waits already, or too many reasons are asked for.
        """
        count = len(asked.readings)
        if reasons == "all" and count > MOST_EXPLAINED:
            told = f"reasons of all are given to up to {MOST_EXPLAINED} wafers of a request, got {count:,}"
            raise Problem("unusable", f"{told}: ask for those of alarms, or send fewer wafers at a time")
        if self._wafers + count > MOST_WAITING:
            raise Problem("unavailable", "too many wafers wait to be scored: try again later")
        self._wafers += count
        try:
            future: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
            self._waiting.append((asked, future))
            self._begin()
            scored = await future
            wanted = {"none": [], "alarms": scored.alarms, "all": list(range(count))}[reasons]
            explained = bool(wanted) and asked.served.bundle.reasons is not None
            return await self._explain(scored, asked, wanted, reasons, most) if explained else scored
        finally:
            self._wafers -= count

    async def _explain(self, scored: Scored, asked: Asked, wanted: list[int], reasons: str, most: int) -> Scored:
        """The wafers with the reasons of those that are `wanted`; between turns the thread goes to whoever waits."""
        found: list[list[dict[str, Any]]] = [[] for _ in asked.readings]
        for start in range(0, len(wanted), WAFERS_A_TURN):
            rows = wanted[start : start + WAFERS_A_TURN]
            turn = partial(_reasons, asked, rows, reasons, most)
            for row, one in await asyncio.get_running_loop().run_in_executor(self._explaining, turn):
                found[row].append(one)
        return Scored(scored.served, scored.wafers, found)

    def _begin(self) -> None:
        while self._waiting and self._passes < self._workers:
            group = self._take()
            self._passes += 1
            done = asyncio.get_running_loop().run_in_executor(self._scoring, _pass, [asked for asked, _ in group])
            done.add_done_callback(partial(self._end, [future for _, future in group]))

    def _take(self) -> list[tuple[Asked, "asyncio.Future[Scored]"]]:
        """The requests of the next pass: those that came first, as long as they can be asked together."""
        group = [self._waiting.popleft()]
        wafers = len(group[0][0].readings)
        while self._waiting:
            asked, first = self._waiting[0][0], group[0][0]
            wafers += len(asked.readings)
            same = asked.served is first.served and (asked.order is None) == (first.order is None)
            if not same or wafers > WAFERS_A_PASS:
                break
            group.append(self._waiting.popleft())
        return group

    def _end(self, futures: "Sequence[asyncio.Future[Scored]]", done: "asyncio.Future[list[Scored]]") -> None:
        self._passes -= 1
        failed = done.exception()
        for row, future in enumerate(futures):
            if future.done():  # whoever asked has gone
                continue
            if failed is None:
                future.set_result(done.result()[row])
            else:
                future.set_exception(failed)
        self._begin()


def _stay_single() -> None:
    """Keep libraries from threads of their own under this one: for a few wafers, these would wait for each other."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def _pass(group: list[Asked]) -> list[Scored]:
    served, orders = group[0].served, [one.order for one in group if one.order is not None]
    readings = np.concatenate([one.readings for one in group])
    said = _judge(served, readings, np.concatenate(orders) if orders else None)
    columns, row, found = plain_columns(said.wafers), 0, []
    for one in group:
        rows = slice(row, row := row + len(one.readings))
        found.append(Scored(served, {name: values[rows] for name, values in columns.items()}, []))
    return found


def _judge(served: Served, readings: Floats, order: Integers | None, **asked: Any) -> "Judgement":
    from wafer.scoring.judge import judge

    frame = pd.DataFrame(readings, columns=served.columns)
    recent = served.recent or None
    return judge(served.bundle, frame, order, version=served.version, recent=recent, apart=True, **asked)


def _reasons(asked: Asked, rows: list[int], reasons: str, most: int) -> list[tuple[int, dict[str, Any]]]:
    order = None if asked.order is None else asked.order[rows]
    told = _judge(asked.served, asked.readings[rows], order, reasons=reasons, most=most).reasons
    assert told is not None
    each = zip(told["row"].tolist(), told.drop(columns="row").to_dict("records"), strict=True)
    return [(rows[row], {str(name): plain(value) for name, value in one.items()}) for row, one in each]


def plain_columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns of a frame as lists of plain values, None for what is missing."""
    return {str(name): [plain(value) for value in frame[name].tolist()] for name in frame}


def plain(value: Any) -> Any:
    """A cell as JSON has it: None for what is missing."""
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is pd.NA or value != value else value
