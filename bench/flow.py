"""What the work costs as a flow of a deployment, against the plain library calls.

`python -m bench.flow` trains twice on what the store holds, on the servers that the environment or the project's `.env`
names (`wafer stack up`, then `prefect deploy --all` and an ingest): once by the steps alone, in a process of its own,
and once as the deployment `train/wafer`, from the moment that it is asked for. It prints one line of JSON:
`flow_vs_library` is the ratio of the seconds once ten are taken off the flow's, which may be at most 1.2; `tasks` tells
how often each step was a task of Prefect, which may be once.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import click

from wafer.boundary import bounded
from wafer.settings import prepare_environment

SECONDS_OFF = 10.0
REPORTS = ("data_quality", "exploration", "training")


def train_by_library(params_file: Path) -> None:
    """The work of the flow `train` without Prefect."""
    import wafer
    from wafer import steps
    from wafer.params import read_params

    params = read_params(params_file)
    with wafer.open() as workspace, steps.working(workspace, "training") as run:
        steps.snapshot(workspace, run)
        steps.look_back(workspace, run, params, force=True)
        steps.fit(workspace, run, params.fit, params.policy, params.monitor)
        steps.evaluate(workspace, run, params.evaluate, params.fit, params.policy)
        steps.register(workspace, run, params)
        steps.gate(workspace, run, params.gate, params.policy)
        steps.draw(workspace, run)
        for name in REPORTS:
            steps.report(workspace, run, name)
        steps.finish(workspace, run)


def train_as_flow(params_file: Path) -> Counter[str]:
    """The work as a deployment; how often each step was a task."""
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.deployments import run_deployment

    given = {"params_file": str(params_file), "force": True}
    done = run_deployment("train/wafer", parameters=given, poll_interval=1, as_subflow=False)
    with get_client(sync_client=True) as client:
        ended = client.read_flow_run(done.id)
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[done.id])))
    if not ended.state.is_completed():
        raise click.ClickException(f"the flow ended as {ended.state.name}: {ended.state.message}")
    return Counter(task.name.rpartition("-")[0] if task.name[-4] == "-" else task.name for task in tasks)


@click.command()
@click.option("--params", "params_file", type=click.Path(path_type=Path, exists=True), default=Path("params.yaml"))
@click.option("--library", is_flag=True, hidden=True, help="Only the plain calls, in this process.")
def main(params_file: Path, library: bool) -> None:
    """Print what a training costs as a flow against the plain library calls."""
    settings = prepare_environment()
    params_file = params_file.absolute()
    if library:
        return train_by_library(params_file)
    if settings.prefect_url is None:
        raise click.UsageError("no Prefect server is named: set PREFECT_API_URL")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bench.flow", "--library", "--params", params_file], check=True)
    by_library = time.perf_counter() - start
    start = time.perf_counter()
    tasks = train_as_flow(params_file)
    as_flow = time.perf_counter() - start
    told = {"library": round(by_library, 1), "flow": round(as_flow, 1), "load": round(os.getloadavg()[1], 1)}
    told |= {"flow_vs_library": round((as_flow - SECONDS_OFF) / by_library, 3), "tasks": dict(sorted(tasks.items()))}
    click.echo(json.dumps(told))
    return None


if __name__ == "__main__":
    sys.exit(bounded(lambda: main(standalone_mode=False)))
