"""What Prefect's server does by itself for the deployments: it ends runs that give no sign of life any more.

A run's process sends a heartbeat every `SECONDS_BETWEEN_HEARTBEATS`, as `prefect.yaml` asks. Where none comes any more,
since the process, its worker or their machine was killed, nobody is left to tell the server, and the run would stay
`Running` and keep others of its deployment waiting. The same holds for a run that a worker has taken and then, killed
itself, never began: it would stay `Pending`.
"""

from datetime import datetime, timedelta

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.states import Cancelled, Crashed

from flows.entry import NOTHING_TO_DO

SECONDS_BETWEEN_HEARTBEATS = 30  # the fewest that Prefect allows
SECONDS_WITHOUT = 120  # four heartbeats: a busy machine or server may delay some
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = frozenset(
    f"prefect.flow-run.{state}" for state in ("Completed", NOTHING_TO_DO, "Failed", "Cancelled", "Crashed")
)
SECONDS_TO_BEGIN = 600  # for a busy machine, or a container whose image must be fetched
PENDING = frozenset(f"prefect.flow-run.{state}" for state in ("Pending", "Submitting", "InfrastructurePending"))
BEGUN = ENDS | {
    f"prefect.flow-run.{state}" for state in ("Running", "Cancelling", "Scheduled", "AwaitingConcurrencySlot")
}
TAG = "wafer"
STOPPED = "the server and all that worked for it were stopped in the middle of it"
DEAD = f"no heartbeat came for {SECONDS_WITHOUT} s: its process, its worker or their machine is gone"


def crash_the_dead() -> AutomationCore:
    """The automation by which a run with the tag `wafer` is Crashed once it gives no sign of life.

    A run that has ended is never changed by it: the server refuses that.
    """
    return _crash(
        "wafer: end runs without a sign of life",
        f"Crashes a run of a deployment with the tag {TAG} whose heartbeats have stopped.",
        after={HEARTBEAT, "prefect.flow-run.Running"},
        expect={HEARTBEAT, *ENDS},
        seconds=SECONDS_WITHOUT,
        told=DEAD,
    )


def crash_the_unbegun() -> AutomationCore:
    """The automation by which a run with the tag `wafer` is Crashed that a worker has taken, but nobody begins."""
    return _crash(
        "wafer: end runs that nobody begins",
        f"Crashes a run of a deployment with the tag {TAG} that stays Pending.",
        after=set(PENDING),
        expect=set(BEGUN),
        seconds=SECONDS_TO_BEGIN,
        told=f"it was not begun within {SECONDS_TO_BEGIN} s: the worker that had taken it is gone",
    )


def _crash(
    name: str, description: str, *, after: set[str], expect: set[str], seconds: float, told: str
) -> AutomationCore:
    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            after=after,
            expect=expect,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=told, force=False)],
    )


AUTOMATIONS = (crash_the_dead, crash_the_unbegun)


def install() -> list[str]:
    """Bring the automations to the server of PREFECT_API_URL, those that it has to their present form; their names."""
    with get_client(sync_client=True) as client:
        for automation in (made() for made in AUTOMATIONS):
            known = client.read_automations_by_name(automation.name)
            if known:
                client.update_automation(known[0].id, automation)
            else:
                client.create_automation(automation)
    return [made().name for made in AUTOMATIONS]


def end_what_is_left(before: datetime) -> list[str]:
    """Crash the runs that changed last before a time at which nobody worked for this server any more; their names.

    A server that is stopped forgets what it was told last, so that no automation sees to what ended with it. What was
    being cancelled is cancelled.
    """
    at_work = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    asked = FlowRunFilter(state=FlowRunFilterState(type=at_work), tags=FlowRunFilterTags(all_=[TAG]))
    ended = []
    with get_client(sync_client=True) as client:
        for one in client.read_flow_runs(flow_run_filter=asked):
            if one.state is not None and one.state.timestamp < before:
                made = Cancelled if one.state.is_cancelling() else Crashed
                if client.set_flow_run_state(one.id, made(message=STOPPED)).status == SetStateStatus.ACCEPT:
                    ended.append(one.name)
    return ended


def missing() -> list[str]:
    """The names of those that the server does not have, or that are switched off there."""
    with get_client(sync_client=True) as client:
        on = {one.name for one in client.read_automations() if one.enabled}
    return [name for name in (made().name for made in AUTOMATIONS) if name not in on]
