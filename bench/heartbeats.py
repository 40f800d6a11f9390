"""Whether Prefect's server ever takes a short run for a dead one.

`python -m bench.heartbeats --runs 100` lets short flows with the tag `wafer` run one after another on the server that
the environment or the project's `.env` names, with the automation of `wafer automate`; then it waits until none of them
could be taken for dead any more. It prints one line of JSON: `false` counts runs that did not stay Completed, and
`fired` how often the automation tried to end one of them, as where a heartbeat came in after the news of its end; the
server refuses that, since the run has ended.
"""

import json
import os
import sys
import time

import click

from wafer.boundary import bounded
from wafer.settings import prepare_environment

SECONDS_MORE = 30.0
FIRED = "prefect.automation.triggered"


@click.command()
@click.option("--runs", default=100, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=1.0, show_default=True, help="Of each run.")
def main(runs: int, seconds: float) -> None:
    """Print how many of some short runs were taken for dead."""
    if prepare_environment().prefect_url is None:
        raise click.UsageError("no Prefect server is named: set PREFECT_API_URL")
    os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "30"  # as in prefect.yaml; read when Prefect is imported
    from prefect import flow, get_client, runtime, tags
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.events.filters import EventFilter, EventNameFilter

    from flows.automations import SECONDS_WITHOUT, TAG, install

    @flow
    def short() -> str:
        time.sleep(seconds)
        return str(runtime.flow_run.id)

    install()
    with tags(TAG):
        done = [short() for _ in range(runs)]
    time.sleep(SECONDS_WITHOUT + SECONDS_MORE)
    with get_client(sync_client=True) as client:
        found = [
            one
            for first in range(0, runs, 100)
            for one in client.read_flow_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=done[first : first + 100]))
            )
        ]
        question = {"filter": EventFilter(event=EventNameFilter(name=[FIRED])).model_dump(mode="json")}
        events = client.request("POST", "/events/filter", json=question).json()["events"]
    fired = sum(any(run in json.dumps(event) for run in done) for event in events)
    wrong = sum(not one.state.is_completed() for one in found)
    click.echo(json.dumps({"runs": len(found), "seconds": seconds, "false": wrong, "fired": fired}))


if __name__ == "__main__":
    sys.exit(bounded(lambda: main(standalone_mode=False)))
