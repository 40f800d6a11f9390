"""A world of processes in one thread: who runs next, what time it is, and what goes wrong follow from one seed.

Each thread of the product is a task, a greenlet that runs until it calls a fake service or waits. A call takes a random
time, the task whose call ends next goes on, so calls of several tasks are answered in any order. A call may be struck:
see `FAULTS`.
"""

import datetime
import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

Result = TypeVar("Result")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
FAULTS = {
    "kill before": "the process ends before the call",
    "kill half way": "the process ends, and a call that stores several things has stored the first half of them",
    "kill after": "the process ends once the call was carried out",
    "refused": "the call fails and changes nothing",
    "half way": "the call fails, and has stored the first half of several things",
    "lost answer": "the call is carried out and fails",
    "delivered twice": "the call is carried out, its answer is lost, and the client sends it again",
    "outage": "the service answers nobody for a while",
    "stall": "the process stands still for longer than a lease lasts",
    "clock jump": "the clock of a machine is set back or forward",
}
WHOLE = {"kill half way": "kill before", "half way": "refused"}
"""What takes the place of a fault in the middle of a call that stores a single thing."""
SHARE_OF_HALVES = 0.5
WORLD: "World | None" = None


class Killed(BaseException):
    """The process has ended: nothing that it still tries reaches anybody."""


class BrokenError(Exception):
    """An invariant does not hold."""


@dataclass
class Machine:
    """A computer with a clock of its own, `skew` seconds off."""

    name: str
    skew: float = 0.0


@dataclass(eq=False)
class Process:
    """What is killed as one; `struck` are the faults that it has seen."""

    machine: Machine
    pid: int
    name: str
    alive: bool = True
    killed: bool = False
    struck: list[str] = field(default_factory=list)
    tasks: list["Task"] = field(default_factory=list)


class Task:
    """A thread of a process."""

    def __init__(self, process: Process, body: Callable[[], None], hub: greenlet) -> None:
        self.process = process
        self.turn = 0  # what was arranged for an earlier one is out of date
        self.greenlet = greenlet(body, parent=hub)
        process.tasks.append(self)


@dataclass
class Service:
    """What is called over a network: its client's error for no answer, and whether it sends a call again by itself."""

    name: str
    error: Callable[[], Exception]
    sends_again: bool = False
    down_until: float = 0.0


class World:
    """One run of a seed."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.random = random.Random(seed)
        self.elapsed = 0.0
        self.rates: dict[str, float] = {}
        self.seconds_a_call = 0.01
        self.faults = 0  # that may still happen
        self.seen: Counter[str] = Counter()
        self.calls = 0
        self.digest = hashlib.sha256()
        self.hub = getcurrent()
        self.me: Task | None = None
        self.server_skew = 0.0
        self.processes: dict[int, Process] = {}
        self._queue: list[tuple[float, int, Task, int]] = []
        self._numbers = count()
        self._pids = count(100)
        self._trace = trace

    def note(self, text: str) -> None:
        """Tell what happens; the sum of all that is told shows whether two runs were the same."""
        who = f"{self.me.process.name}:{self.me.process.pid}" if self.me else "-"
        line = f"{self.elapsed:10.3f} {who:<16} {text}"
        self.digest.update(line.encode())
        if self._trace is not None:
            self._trace(line)

    # who runs

    def process(self, machine: Machine, name: str) -> Process:
        """A new process."""
        process = Process(machine, next(self._pids), name)
        self.processes[process.pid] = process
        return process

    def spawn(self, process: Process, work: Callable[[], None], after: float = 0.0) -> Task:
        """Let a new thread of `process` do `work`."""

        def body() -> None:
            try:
                if process.alive:
                    work()
            except Killed:
                pass
            finally:
                process.tasks.remove(task)

        task = Task(process, body, self.hub)
        self._arrange(task, after)
        return task

    def run(self) -> None:
        """Let everybody run until nobody has anything to do any more."""
        while self._queue:
            when, _, task, turn = heapq.heappop(self._queue)
            if turn != task.turn or task.greenlet.dead:
                continue
            self.elapsed = max(self.elapsed, when)
            task.turn += 1
            self.me = task
            task.greenlet.switch()
            self.me = None

    def pause(self, seconds: float | None) -> None:
        """Let others run for so long; without seconds, until somebody wakes this task."""
        task = self._mine()
        if seconds is not None:
            self._arrange(task, seconds)
        self.hub.switch()
        self._mine()

    def wake(self, task: Task, turn: int) -> None:
        """Let a task run that waits since `turn`."""
        heapq.heappush(self._queue, (self.elapsed, next(self._numbers), task, turn))

    def kill(self, process: Process) -> None:
        """End a process now."""
        process.killed = True
        self.note(f"killed {process.name}:{process.pid}")
        self.end(process)

    def end(self, process: Process) -> None:
        """Let all that is left of a process come to nothing."""
        process.alive = False
        for task in process.tasks:
            if task is not self.me:
                self._arrange(task, 0.0)

    def _arrange(self, task: Task, seconds: float) -> None:
        heapq.heappush(self._queue, (self.elapsed + seconds, next(self._numbers), task, task.turn))

    def _mine(self) -> Task:
        assert self.me is not None
        if not self.me.process.alive:
            raise Killed
        return self.me

    # what time it is

    def wall(self) -> datetime.datetime:
        """What the clock of this machine shows."""
        skew = self.me.process.machine.skew if self.me else 0.0
        return START + datetime.timedelta(seconds=self.elapsed + skew)

    def server_time(self) -> datetime.datetime:
        """What the clock of the servers shows."""
        return START + datetime.timedelta(seconds=self.elapsed + self.server_skew)

    # what goes wrong

    def call(
        self,
        service: Service,
        what: str,
        do: Callable[[], Result],
        *,
        writes: bool = True,
        half: Callable[[], object] | None = None,
        once: bool = False,
    ) -> Result:
        """Carry out one call of a service, or strike it.

        `half` carries out the first half of several things; `once` says that a service refuses a second time.
        """
        task = self._mine()
        self.calls += 1
        self.pause(self.random.expovariate(1 / self.seconds_a_call))
        fault = self._draw(service, writes, several=half is not None, once=once)
        self.note(f"{service.name} {what}{f': {fault}' if fault else ''}")
        if fault is not None:
            self.seen[fault] += 1
            task.process.struck.append(f"{fault}, {service.name} {what}")
        if fault == "stall":
            stalled = 50.0 + self.random.expovariate(1 / 30)
            for other in task.process.tasks:
                if other is not task:  # nothing that was arranged for it comes in time
                    other.turn += 1
                    self._arrange(other, stalled)
            self.pause(stalled)
        elif fault == "outage":
            service.down_until = self.elapsed + self.random.expovariate(1 / 20)
        if self.elapsed < service.down_until:
            task.process.struck.append(f"outage, {service.name}")
        if fault in ("refused", "outage") or self.elapsed < service.down_until:
            raise service.error()
        if fault in ("kill half way", "half way") and half is not None:
            half()
        if fault == "half way":
            raise service.error()
        if fault in ("kill before", "kill half way"):
            self.kill(task.process)
            raise Killed
        try:
            if fault == "delivered twice":
                with suppressed():
                    do()
            result = do()
        except Exception:
            if fault in ("lost answer", "kill after"):
                self._after(fault, task, service)
            raise
        self._after(fault, task, service)
        return result

    def _after(self, fault: str | None, task: Task, service: Service) -> None:
        if fault == "kill after":
            self.kill(task.process)
            raise Killed
        if fault == "lost answer":
            raise service.error()

    def _draw(self, service: Service, writes: bool, *, several: bool, once: bool) -> str | None:
        chance = self.random.random()
        if self.faults <= 0 or chance >= sum(self.rates.values()):
            return None
        fault = self.random.choices(list(self.rates), list(self.rates.values()))[0]
        if not writes:
            fault = {"kill after": "kill before", "lost answer": "refused", "delivered twice": None}.get(fault, fault)
        if not several:
            fault = WHOLE.get(str(fault), fault)
        elif self.random.random() < SHARE_OF_HALVES:  # calls that can be cut in half are rare among all
            fault = {whole: half for half, whole in WHOLE.items()}.get(str(fault), fault)
        if once and self.random.random() < SHARE_OF_HALVES:  # so are those that differ the second time
            fault = "delivered twice"
        if fault == "delivered twice" and not service.sends_again:
            fault = "lost answer"
        if fault == "clock jump":
            machine = self.me.process.machine if self.me else None
            if machine is not None:
                machine.skew += self.random.choice([-86400.0, -3600.0, -30.0, 30.0, 3600.0, 86400.0])
        self.faults -= 1
        return fault


def suppressed() -> suppress:
    """What the server says to a call whose answer is lost, nobody hears."""
    return suppress(Exception)


@contextmanager
def inhabited(world: World) -> Iterator[World]:
    """Let the fakes belong to `world`."""
    global WORLD
    WORLD = world
    try:
        yield world
    finally:
        WORLD = None


def here() -> World:
    """The present world."""
    assert WORLD is not None
    return WORLD


def called(
    service: Service,
    what: str,
    do: Callable[[], Result],
    *,
    writes: bool = True,
    half: Callable[[], object] | None = None,
    once: bool = False,
) -> Result:
    """`World.call` where a task of a world calls, else just what is to be done."""
    if WORLD is None or WORLD.me is None:
        return do()
    return WORLD.call(service, what, do, writes=writes, half=half, once=once)


# what takes the place of the standard library's modules in the product


class Event:
    """As `threading.Event`."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[tuple[Task, int]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for task, turn in self._waiting:
            here().wake(task, turn)
        self._waiting.clear()

    def wait(self, timeout: float | None = None) -> bool:
        world = here()
        deadline = None if timeout is None else world.elapsed + timeout
        while not self._set and (deadline is None or world.elapsed < deadline):
            task = world._mine()
            self._waiting.append((task, task.turn))
            world.pause(None if deadline is None else deadline - world.elapsed)
        return self._set


class Lock:
    """As `threading.Lock`."""

    def __init__(self) -> None:
        self._free = Event()
        self._free.set()

    def __enter__(self) -> None:
        while not self._free.is_set():
            self._free.wait()
        self._free._set = False

    def __exit__(self, *_: object) -> None:
        self._free.set()


class Thread:
    """As `threading.Thread`."""

    def __init__(
        self, target: Callable[..., object], args: Sequence[Any] = (), name: str = "", daemon: bool = False
    ) -> None:
        self._work = lambda: target(*args)
        self._ended = Event()

    def start(self) -> None:
        def work() -> None:
            try:
                self._work()
            finally:
                self._ended.set()

        world = here()
        world.spawn(world._mine().process, work)

    def join(self) -> None:
        self._ended.wait()


class Future:
    """As `concurrent.futures.Future`, as far as the intake uses it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._done = Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            self._error = error
        self._done.set()

    def cancel(self) -> None:
        self._error = CancelledError()
        self._done.set()

    def result(self) -> Any:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class Executor:
    """As `concurrent.futures.ThreadPoolExecutor`, as far as the intake uses it."""

    def __init__(self, threads: int, name: str = "") -> None:
        self._home = (WORLD, here()._mine().process)
        self._free = threads
        self._waiting: deque[Future] = deque()
        self._running: list[Future] = []

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        future = Future(lambda: function(*arguments))
        self._waiting.append(future)
        self._start()
        return future

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        if WORLD is None or (WORLD, WORLD.me and WORLD.me.process) != self._home:
            return  # what an exception held is let go in another's turn
        while cancel_futures and self._waiting:
            self._waiting.popleft().cancel()
        while self._running or self._waiting:
            (self._running or self._waiting)[0]._done.wait()

    def _start(self) -> None:
        world = here()
        while self._free and self._waiting:
            self._free -= 1
            future = self._waiting.popleft()
            self._running.append(future)

            def work(future: Future = future) -> None:
                future.run()
                self._running.remove(future)
                self._free += 1
                self._start()

            world.spawn(world._mine().process, work)


class SimulatedTime(datetime.datetime):
    """A `datetime` whose `now` is the world's."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return here().wall()


def _sleep(seconds: float) -> None:
    here().pause(seconds)


def _passed(*_: object) -> float:
    return here().elapsed


time = SimpleNamespace(
    time=lambda: here().wall().timestamp(),
    monotonic=_passed,
    perf_counter=_passed,
    clock_gettime=_passed,
    sleep=_sleep,
    CLOCK_BOOTTIME=7,
)
threading = SimpleNamespace(Event=Event, Lock=Lock, Thread=Thread)
dates = SimpleNamespace(datetime=SimulatedTime, UTC=datetime.UTC, timedelta=datetime.timedelta)
