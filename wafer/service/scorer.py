"""Scores the wafers of many requests together: what waits while a pass is being computed goes into the next one.

That changes nothing of what is said of a wafer, which is the same in any company (`judge(…, apart=True)`). Reasons cost
a hundred times as much as a probability, so they are given in a thread of their own, to a few wafers at a time of all
requests that wait, and hold up nobody else.
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
"""Whose reasons are given at a time: sixteen together cost a fifth of what each alone would."""

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


@dataclass(frozen=True)
class _Unexplained:
    """A request whose alarms wait for reasons: `rows` are left, `found` grows."""

    asked: Asked
    rows: deque[int]
    most: int
    found: list[list[dict[str, Any]]]
    ended: "asyncio.Future[None]"


class Scorer:
    """Scores wafers; `workers` passes are computed at the same time."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._waiting: deque[tuple[Asked, asyncio.Future[Scored]]] = deque()
        self._unexplained: deque[_Unexplained] = deque()
        self._wafers, self._passes = 0, 0
        self._explains = False
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
            return await self._explain(scored, asked, wanted, most) if explained else scored
        finally:
            self._wafers -= count

    async def _explain(self, scored: Scored, asked: Asked, wanted: list[int], most: int) -> Scored:
        """The wafers with the reasons of those that are `wanted`."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        one = _Unexplained(asked, deque(wanted), most, [[] for _ in asked.readings], ended)
        self._unexplained.append(one)
        self._begin_turn()
        await ended
        return Scored(scored.served, scored.wafers, one.found)

    def _begin_turn(self) -> None:
        if self._explains or not (turn := self._take_turn()):
            return
        self._explains = True
        done = asyncio.get_running_loop().run_in_executor(self._explaining, _reasons, turn)
        done.add_done_callback(partial(self._end_turn, [one for one, _ in turn]))

    def _take_turn(self) -> list[tuple[_Unexplained, list[int]]]:
        """Some wafers of each request that waits, as long as they can be asked together; who has more comes last."""
        waiting = [one for one in self._unexplained if not one.ended.done()]  # else whoever asked has gone
        self._unexplained = deque(waiting)
        together = [one for one in waiting if _alike(one.asked, waiting[0].asked)][:WAFERS_A_TURN]
        turn: list[tuple[_Unexplained, list[int]]] = []
        for place, one in enumerate(together):
            left = WAFERS_A_TURN - sum(len(rows) for _, rows in turn)
            share = min(len(one.rows), left // (len(together) - place))
            turn.append((one, [one.rows.popleft() for _ in range(share)]))
            self._unexplained.remove(one)
            self._unexplained.append(one)
        return turn

    def _end_turn(
        self, turn: list[_Unexplained], done: "asyncio.Future[list[list[tuple[int, dict[str, Any]]]]]"
    ) -> None:
        self._explains = False
        failed = done.exception()
        for place, one in enumerate(turn):
            if one.ended.done():
                continue
            if failed is not None:
                one.ended.set_exception(failed)
                continue
            for row, reason in done.result()[place]:
                one.found[row].append(reason)
            if not one.rows:
                one.ended.set_result(None)
        self._begin_turn()

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
            if not _alike(asked, first) or wafers > WAFERS_A_PASS:
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


def _alike(one: Asked, other: Asked) -> bool:
    """Whether two requests can be asked together."""
    return one.served is other.served and (one.order is None) == (other.order is None)


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


def _reasons(turn: list[tuple[_Unexplained, list[int]]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """For each request of a turn the reasons of its wafers, each with the wafer's row; all are of one version."""
    places = [(part, row) for part, (_, rows) in enumerate(turn) for row in rows]
    readings = np.concatenate([one.asked.readings[rows] for one, rows in turn])
    orders = [one.asked.order[rows] for one, rows in turn if one.asked.order is not None]
    most = max(one.most for one, _ in turn)
    order = np.concatenate(orders) if orders else None
    told = _judge(turn[0][0].asked.served, readings, order, reasons="all", most=most).reasons
    assert told is not None
    found: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in turn]
    for place, reason in zip(told["row"].tolist(), told.drop(columns="row").to_dict("records"), strict=True):
        part, row = places[place]
        if reason["rank"] <= turn[part][0].most:
            found[part].append((row, {str(name): plain(value) for name, value in reason.items()}))
    return found


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
