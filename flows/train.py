"""Train on what the store holds: snapshot, fit, evaluate, register, gate, report."""

import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.entry import link_page, progress_artifact
from wafer import steps
from wafer.params import EvaluateParams, FitParams, GateParams, Params, read_params
from wafer.progress import heard_by
from wafer.records import Decided, Evaluated, Fitted, Frozen, Registered, Reported
from wafer.settings import Settings


@task(cache_policy=NO_CACHE)
def freeze_snapshot() -> Frozen:
    """Freeze every labelled wafer of the store."""
    return steps.snapshot(Settings.read())


@task(cache_policy=NO_CACHE)
def fit_model(params: FitParams, frozen: Frozen) -> Fitted:
    """Fit and save the model."""
    with heard_by(progress_artifact):
        return steps.fit(Settings.read(), params, frozen.folder)


@task(cache_policy=NO_CACHE)
def evaluate_recipe(params: EvaluateParams, recipe: FitParams, frozen: Frozen, fitted: Fitted) -> Evaluated:
    """Score the recipe on wafers that it did not train on."""
    with heard_by(progress_artifact):
        run = steps.named_by_time("evaluation")
        return steps.evaluate(Settings.read(), params, recipe, frozen.folder, fitted.folder, run=run)


@task(cache_policy=NO_CACHE)
def register_version(params: Params, frozen: Frozen, fitted: Fitted, evaluated: Evaluated) -> Registered:
    """Log the training and register its model."""
    return steps.register(Settings.read(), params, frozen, fitted, evaluated)


@task(cache_policy=NO_CACHE)
def decide_champion(params: GateParams, recipe: FitParams, frozen: Frozen, registered: Registered) -> Decided:
    """Let the new version become champion, or not."""
    return steps.gate(Settings.read(), params, recipe, frozen, registered)


@task(cache_policy=NO_CACHE)
def report_data_quality(frozen: Frozen, registered: Registered) -> None:
    """Run the data quality notebook."""
    link_page("data-quality-page", steps.report_data_quality(Settings.read(), frozen, registered).page)


@task(cache_policy=NO_CACHE)
def report_exploration(frozen: Frozen, fitted: Fitted, registered: Registered) -> None:
    """Run the exploration notebook."""
    link_page("exploration-page", steps.report_exploration(Settings.read(), frozen, fitted, registered).page)


@task(cache_policy=NO_CACHE)
def report_training(
    frozen: Frozen, fitted: Fitted, evaluated: Evaluated, decided: Decided, registered: Registered
) -> Reported:
    """Run the training notebook."""
    report = steps.report_training(Settings.read(), frozen, fitted, evaluated, decided, registered)
    link_page("training-page", report.page)
    return report


@flow
def train(params_file: str = "params.yaml") -> Reported:
    """Train a new version on every labelled wafer of the store and let the gate decide on it."""
    params = read_params(params_file)
    frozen = freeze_snapshot()
    fitted = fit_model(params.fit, frozen)
    evaluated = evaluate_recipe(params.evaluate, params.fit, frozen, fitted)
    registered = register_version(params, frozen, fitted, evaluated)
    decided = decide_champion(params.gate, params.fit, frozen, registered)
    report = report_training(frozen, fitted, evaluated, decided, registered)
    report_data_quality(frozen, registered)
    report_exploration(frozen, fitted, registered)
    return report


if __name__ == "__main__":
    from wafer.cli.main import main

    main(["train", *sys.argv[1:]])
