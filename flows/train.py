"""Train on what the store holds: snapshot, fit, evaluate, register, gate, then draw and report."""

from prefect import flow

from flows.entry import Finished, ended, ended_idle, failures, name_run, opened, progress_artifact, ready, step
from flows.report import draw_figures, report
from wafer import steps
from wafer.params import (
    EvaluateParams,
    FitParams,
    GateParams,
    MonitorParams,
    Params,
    PolicyParams,
    RetrainParams,
    read_params,
)
from wafer.progress import heard_by
from wafer.records import Decided, Due, Evaluated, Fitted, Frozen, Known, Refused, Registered
from wafer.workspace import Workspace


@step()
def freeze_snapshot(run_id: str) -> Frozen:
    """Freeze every labelled wafer of the store."""
    with opened(run_id) as (workspace, run):
        return steps.snapshot(workspace, run)


@step()
def look_back(run_id: str, params: Params, force: bool = False) -> Known:
    """See whether the very same training was done before."""
    with opened(run_id) as (workspace, run):
        return steps.look_back(workspace, run, params, force=force)


@step()
def fit_model(run_id: str, params: FitParams, policy: PolicyParams, monitor: MonitorParams) -> Fitted:
    """Fit and save the model."""
    with opened(run_id) as (workspace, run), heard_by(progress_artifact):
        return steps.fit(workspace, run, params, policy, monitor)


@step()
def evaluate_recipe(run_id: str, params: EvaluateParams, recipe: FitParams, policy: PolicyParams) -> Evaluated:
    """Score the recipe on wafers that it did not train on."""
    with opened(run_id) as (workspace, run), heard_by(progress_artifact):
        return steps.evaluate(workspace, run, params, recipe, policy)


@step()
def register_version(run_id: str, params: Params) -> Registered:
    """Log the training and register its model."""
    with opened(run_id) as (workspace, run):
        return steps.register(workspace, run, params)


@step()
def decide_champion(run_id: str, params: GateParams, policy: PolicyParams) -> Decided:
    """Let the new version become champion, or not."""
    with opened(run_id) as (workspace, run):
        return steps.gate(workspace, run, params, policy)


@step()
def count_refusals(run_id: str, params: RetrainParams) -> Refused | None:
    """See how many versions in a row the gate has refused."""
    with opened(run_id) as (workspace, run):
        return steps.count_refusals(workspace, run, params)


@step()
def finish_training(run_id: str) -> None:
    """Note that the training went through."""
    with opened(run_id) as (workspace, run):
        steps.finish(workspace, run)


@flow
def train(params_file: str | None = None, force: bool = False) -> Finished:
    """Train a new version on every labelled wafer of the store and let the gate decide on it.

    Args:
        params_file: YAML file of the parameters, on the worker; by default params.yaml of the project.
        force: make a version even where the very same training has made one.
    """
    with ready() as workspace:
        return train_version(workspace, params_file, force=force)


def train_version(
    workspace: Workspace, params_file: str | None, *, force: bool = False, due: Due | None = None
) -> Finished:
    """What `train` does; where it is `due` because something has happened, name, record and summary say so."""
    with steps.working(workspace, "training") as run:
        params = read_params(params_file or workspace.params_file)
        if due is not None:
            run.write(due)
        frozen = freeze_snapshot(run.id)
        name_run(run, f"on {frozen.digest[:8]}{f' by {due.cause}' if due else ''}")
        known = look_back(run.id, params, force)
        told = [due.told] if due else []
        if known.finished:
            return ended_idle(workspace, run, told=". ".join([*told, known.told]))
        if known.version is None:
            fit_model(run.id, params.fit, params.policy, params.monitor)
            evaluate_recipe(run.id, params.evaluate, params.fit, params.policy)
            register_version(run.id, params)
        decide_champion(run.id, params.gate, params.policy)
        if due is not None and (refused := count_refusals(run.id, params.retrain)) is not None:
            told.append(refused.told)
        figures = draw_figures(run.id, return_state=True)
        pages = [report(run.id, name, return_state=True) for name in ("data_quality", "exploration", "training")]
        finished = finish_training(run.id, return_state=True)
        return ended(workspace, run, *failures(figures, *pages, finished), told=". ".join(told))
