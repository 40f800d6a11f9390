"""One seed: a fab, two workers and a person, faults among them, then everything once more without faults."""

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.simulation import fab, invariants, training
from tests.simulation.product import Services, SimulatedWorkspace, installed, settings, verdicts
from tests.simulation.world import FAULTS, BrokenError, Event, Machine, Process, World, inhabited
from wafer import steps
from wafer.errors import WaferError
from wafer.intake.quarantine import Quarantine
from wafer.intake.release import release_entry
from wafer.records import Kind

Work = Callable[[SimulatedWorkspace], None]
EXPECTED = (
    "is held by process",
    "no such file or folder",
    "holds no labelled wafer",
    "has no champion yet",
    "there is no previous champion",
    "is the champion already",
    "became champion meanwhile",
    "has no version",
)
PATIENCE = 120.0  # after which every lease of the dead has expired
ATTEMPTS = 2
DECIDING = ("train", "promote", "rollback")
SHARE_THAT_TRAINS = 0.3  # of the seeds; these take several times as long


@dataclass
class Scene:
    """The world of a seed with its services, and who works in it."""

    world: World
    services: Services = field(default_factory=Services)
    agreement: str = "strict"
    delivered: list[fab.File] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    working: int = 0
    ended: list[str] = field(default_factory=list)  # runs that went through
    trains: bool = False
    complaint: BrokenError | None = None

    def deliver(self, file: fab.File) -> None:
        """A file comes; nothing of the product is involved."""
        self.delivered.append(file)
        self.services.bucket.objects[f"{self.services.bucket.name}/data/raw/{file.kind}/{file.name}"] = file.data
        self.world.note(f"delivered {file.kind} {file.name}")

    def do(self, machine: Machine, name: str, work: Work, *, must: bool = False) -> bool:
        """Do a piece of work in a process of its own and wait for its end; whether it went through."""
        process = self.world.process(machine, name)
        ended = Event()
        outcome: list[bool] = []

        def body() -> None:
            try:
                outcome.append(self._attempt(process, work, must=must))
            finally:
                ended.set()

        self.working += 1
        self.world.spawn(process, body)
        ended.wait()
        self.world.end(process)
        self.working -= 1
        return outcome == [True]

    def _attempt(self, process: Process, work: Work, *, must: bool) -> bool:
        try:
            with SimulatedWorkspace(settings(fab.place() / self.agreement)) as workspace:
                work(workspace)
        except BrokenError as error:
            self.complaint = self.complaint or error
            raise
        except Exception as error:  # noqa: BLE001 - of any kind: a fault may excuse it
            told = f"{type(error).__name__}: {error}"
            self.world.note(f"failed: {told}")
            if must or not (process.struck or is_expected(error)):
                self.complaint = self.complaint or BrokenError(f"{process.name} failed without a fault: {told}")
                self.complaint.__cause__ = error
            return False
        self.world.note("went through")
        return True


def is_expected(error: Exception) -> bool:
    """Whether work may end so where nothing went wrong: others hold what it needs, or it came too early."""
    return isinstance(error, WaferError) and any(told in str(error) for told in EXPECTED)


def ingest(scene: Scene, kind: Kind, *, replace: bool = False) -> Work:
    """Take in what lies in the raw folder."""

    def work(workspace: SimulatedWorkspace) -> None:
        with steps.working(workspace, f"ingest-{kind}") as run:
            steps.ingest(workspace, run, kind, replace=replace)
            invariants.check_report(scene.services, workspace, run, kind)
        scene.ended.append(run.id)

    return work


def begin_and_end(scene: Scene) -> Work:
    """A run in which nothing is done, so that runs are begun and ended at the same moment often."""

    def work(workspace: SimulatedWorkspace) -> None:
        with steps.working(workspace, "ingest-prediction") as run:
            pass
        scene.ended.append(run.id)

    return work


def predict(workspace: SimulatedWorkspace) -> None:
    """Take in what is to be scored, and score it."""
    with steps.working(workspace, "prediction") as run:
        steps.ingest(workspace, run, "prediction")
        steps.predict(workspace, run)


def train(scene: Scene) -> Work:
    """Train on what the store holds."""
    return lambda workspace: training.train(workspace, scene.decisions.append)


def by_hand(scene: Scene, version: str) -> Work:
    """Make a version champion, or the one before again."""

    def work(workspace: SimulatedWorkspace) -> None:
        why = f"tried at {scene.world.elapsed:.0f}"
        registry = workspace.registry
        decision = registry.rollback(why) if version == "previous" else registry.promote(version, why)
        scene.decisions.append(decision.as_dict())

    return work


def release(scene: Scene) -> Work:
    """Take a file out of the quarantine, as `wafer quarantine release` does."""

    def work(workspace: SimulatedWorkspace) -> None:
        quarantine = Quarantine(workspace.storage.place("quarantine/training"))
        for entry in quarantine.entries()[:1]:
            with workspace.lease("ingest-training") as lease:
                contract = workspace.contract("training")
                release_entry(entry, quarantine, contract, workspace.store, may_write=lease.check)

    return work


def works(scene: Scene) -> list[tuple[str, Work]]:
    """All that anybody does, by name."""
    intake = [
        ("ingest-prediction", ingest(scene, "prediction")),
        ("ingest-training", ingest(scene, "training")),
        ("replace-training", ingest(scene, "training", replace=True)),
        ("release", release(scene)),
        ("begin and end", begin_and_end(scene)),
    ]
    models = [
        ("train", train(scene)),
        ("predict", predict),
        ("rollback", by_hand(scene, "previous")),
        ("promote", by_hand(scene, "challenger")),
    ]
    return [*intake, *models, *models] if scene.trains else intake


def last_works(scene: Scene) -> list[tuple[str, Work]]:
    """What is done once more when the faults are over."""
    names = ("ingest-prediction", "ingest-training", *(("train", "predict") if scene.trains else ()))
    return [(name, dict(works(scene))[name]) for name in names]


@cache
def frozen() -> None:
    """Leave what was made once out of every later look for garbage."""
    gc.collect()
    gc.freeze()


@contextmanager
def steady_memory() -> Iterator[None]:
    """Look for garbage between seeds alone: what it lets go may still have something to do, at any moment."""
    frozen()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def play(seed: int, trace: Callable[[str], None] | None = None) -> World:
    """Run one seed.

    Raises:
        BrokenError: an invariant does not hold.
    """
    world = World(seed, trace)
    choose = world.random
    scene = Scene(world, trains=choose.random() < SHARE_THAT_TRAINS)
    verdicts()  # and what else is made once, by the product as it is
    training.packed()
    with steady_memory(), inhabited(world), installed(scene.services):
        files = some_files(choose)
        machines = [Machine("north"), Machine("south" if choose.random() < 0.7 else "north")]
        world.faults = choose.randint(0, 12)
        world.rates = {fault: choose.choice([0.0, 0.001, 0.01]) for fault in FAULTS}
        world.seconds_a_call = choose.choice([0.002, 0.02, 0.2, 1.0])
        people = world.process(machines[0], "people")
        world.spawn(people, lambda: _life_of_the_fab(scene, files))
        for number, machine in enumerate(machines):
            supervisor = world.process(machine, f"worker-{number}")
            world.spawn(supervisor, lambda machine=machine: _work_on(scene, machine))  # type: ignore[misc]
        world.run()
        for _ in range(2):
            _at_once(scene, machines)
            world.run()
        _complain(scene)
        invariants.check_pointers(scene)
        world.rates, world.faults = {}, 0
        for service in scene.services.all:
            service.down_until = 0.0
        world.spawn(world.process(machines[0], "end"), lambda: _finish(scene, machines[0], files))
        world.run()
        _complain(scene)
        assert not any(process.tasks for process in world.processes.values())
        invariants.check_end(scene)
    return world


def some_files(choose: random.Random) -> list[fab.File]:
    """Some of the files in any order, of each kind at least one, and one with labels of both kinds."""
    files = choose.sample(fab.files(), len(fab.files()))
    first = [next(file for file in files if file.kind == "prediction")]
    first += [file for file in files if file.name == fab.BOTH_LABELS]
    return [*first, *[file for file in files if file not in first][: choose.randint(2, len(files))]]


def _complain(scene: Scene) -> None:
    if scene.complaint is not None:
        raise scene.complaint


def _life_of_the_fab(scene: Scene, files: list[fab.File]) -> None:
    choose = scene.world.random
    lenient = choose.uniform(0.0, 200.0)
    for file in files:
        scene.world.pause(choose.expovariate(1 / 10) * min(1.0, 10 * scene.world.seconds_a_call))
        if scene.world.elapsed > lenient:
            scene.agreement = "lenient"
        scene.deliver(file)


def _work_on(scene: Scene, machine: Machine) -> None:
    choose = scene.world.random
    for _ in range(choose.randint(2, 4)):
        name, work = choose.choice(works(scene))
        for _ in range(ATTEMPTS):
            scene.world.pause(choose.expovariate(1 / 5))
            if scene.do(machine, name, work) or choose.random() < 0.3:
                break


def _at_once(scene: Scene, machines: list[Machine]) -> None:
    """Let a schedule start the same work on both machines in one moment; where models are made, one that decides."""
    name, work = scene.world.random.choice([one for one in works(scene) if one[0] in DECIDING or not scene.trains])
    for machine in machines:
        schedule = scene.world.process(machine, "schedule")
        scene.world.spawn(schedule, lambda machine=machine: scene.do(machine, name, work))  # type: ignore[misc]


def _finish(scene: Scene, machine: Machine, files: list[fab.File]) -> None:
    scene.world.pause(PATIENCE)
    scene.agreement = "lenient"
    machine.skew = 0.0
    for name, work in last_works(scene):
        if not scene.do(machine, name, work, must=True):
            return
