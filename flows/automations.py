"""What Prefect's server does by itself for the deployments: it ends runs that give no sign of life any more.

A run's process sends a heartbeat every `SECONDS_BETWEEN_HEARTBEATS`, as `prefect.yaml` asks. Where none comes any more,
since the process, its worker or their machine was killed, nobody is left to tell the server, and the run would stay
`Running` and keep others of its deployment waiting.
"""

from datetime import timedelta

from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.entry import NOTHING_TO_DO

SECONDS_BETWEEN_HEARTBEATS = 30  # the fewest that Prefect allows
SECONDS_WITHOUT = 120  # four heartbeats: a busy machine or server may delay some
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = frozenset(
    f"prefect.flow-run.{state}" for state in ("Completed", NOTHING_TO_DO, "Failed", "Cancelled", "Crashed")
)
TAG = "wafer"
DEAD = f"no heartbeat came for {SECONDS_WITHOUT} s: its process, its worker or their machine is gone"


def crash_the_dead() -> AutomationCore:
    """The automation by which a run with the tag `wafer` is Crashed once it gives no sign of life.

    A run that has ended is never changed by it: the server refuses that.
    """
    return AutomationCore(
        name="wafer: end runs without a sign of life",
        description=f"Crashes a run of a deployment with the tag {TAG} whose heartbeats have stopped.",
        trigger=EventTrigger(
            after={HEARTBEAT, "prefect.flow-run.Running"},
            expect={HEARTBEAT, *ENDS},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=timedelta(seconds=SECONDS_WITHOUT),
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=DEAD, force=False)],
    )


AUTOMATIONS = (crash_the_dead,)


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


def missing() -> list[str]:
    """The names of those that the server does not have, or that are switched off there."""
    with get_client(sync_client=True) as client:
        on = {one.name for one in client.read_automations() if one.enabled}
    return [name for name in (made().name for made in AUTOMATIONS) if name not in on]
