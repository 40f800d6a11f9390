"""Train again where it is time to: see whether it is due, then do what `train` does."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

import wafer
from flows.entry import NOTHING_TO_DO, Finished, nothing_done, ready, step, telling
from flows.train import train_version
from wafer import steps
from wafer.params import RetrainParams, read_params
from wafer.records import Due


@step()
def see_whether_due(params: RetrainParams) -> Due:
    """See whether it is time to train again."""
    with wafer.open() as workspace:
        return steps.see_whether_due(workspace, params)


@flow
def retrain(params_file: str | None = None) -> Finished | State[Finished]:
    """Train a new version where drift, new labels or the time that has passed ask for it, and let the gate decide.

    Args:
        params_file: YAML file of the parameters, on the worker; by default params.yaml of the project.
    """
    with ready() as workspace:
        with telling(workspace.settings):
            due = see_whether_due(read_params(params_file or workspace.params_file).retrain)
        if due.cause is None:
            return Completed(name=NOTHING_TO_DO, message=due.told, data=nothing_done(due.told))
        return train_version(workspace, params_file, due=due)
