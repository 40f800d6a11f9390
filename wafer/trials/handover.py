"""What a trial leaves in the registry, and takes from there: a run of its own, and a recipe handed to the gate."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import wafer
from wafer import steps
from wafer.documents import DocumentError, fitted
from wafer.errors import HandOverError, ParameterError
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.params import EvaluateParams, FitParams, Params, PolicyParams, in_present_layout
from wafer.records import Registered
from wafer.registry.provenance import describe_source
from wafer.registry.versions import PARAMS
from wafer.trials.wafers import Wafers
from wafer.workspace import Workspace


@dataclass(frozen=True)
class HandedOver:
    """What became of a recipe that was handed to the gate.

    Attributes:
        version: its number in the registry.
        promoted: whether it is the champion now; None where the very same training was done before.
        reason: in words.
        changed: what the recipe differs in from the parameters of the project, which later trainings follow.
    """

    version: int
    promoted: bool | None
    reason: str
    changed: Mapping[str, Any]

    @property
    def told(self) -> str:
        """All of this, as Markdown."""
        kept = ", ".join(f"`{name}: {value}`" for name, value in self.changed.items())
        rest = f" Put {kept} into `params.yaml`, or the next training goes back to what stands there." if kept else ""
        return f"{self.reason[0].upper()}{self.reason[1:].rstrip('.')}.{rest}"


def check_hand_over(wafers: Wafers, model: Any) -> None:
    """Refuse what cannot become a version, before any work: production has to save it, and to train it again.

    Raises:
        HandOverError: it is no recipe of `WaferModel`, holds classifiers of the scientist's own, or the wafers are no
            snapshot.
    """
    if type(model) is not WaferModel:
        named = type(getattr(model, "classifier", model)).__name__
        raise HandOverError(
            f"a {named} in the place of the whole model cannot be handed over: a version holds a WaferModel, whose "
            "parts are saved without code and trained again from params.yaml"
        )
    own = sorted({type(one).__name__ for one in (*model.members, *model.candidates)})
    if own:
        raise HandOverError(
            f"a model with {', '.join(own)} among its members or candidates cannot be handed over: its parts could not "
            "be saved without code that runs when they are read; give it a class in wafer/learning/members.py first"
        )
    if wafers.frozen is None:
        raise HandOverError(
            f"a recipe is handed over with a snapshot, so that its version can be rebuilt. {wafers.told} Take wafers "
            "into the store (`wafer ingest`), train once, and choose the snapshot of that run"
        )


def recipe_params(model: WaferModel, params: Params) -> Params:
    """The parameters of a project with this model's recipe and policy in their place.

    Raises:
        ParameterError: a value that no training would take; the message names the key.
    """
    fit = {name: getattr(model, name) for name in FitParams.model_fields}
    try:
        return params.model_copy(
            update={
                "fit": fitted(FitParams, fit, "fit"),
                "policy": fitted(PolicyParams, asdict(model.policy_), "policy"),
            }
        )
    except DocumentError as error:
        raise ParameterError(f"the recipe cannot be handed over: {error}") from error


def hand_to_gate(workspace: Workspace, wafers: Wafers, model: WaferModel, params: Params) -> HandedOver:
    """Train a recipe on the snapshot of a trial as a version of its own, and let the gate decide on it.

    All that a training does is done, reports too; the recipe's policy counts where it has one, else that of `params`.

    Raises:
        HandOverError: see `check_hand_over`.
        ParameterError: a value that no training would take.
    """
    check_hand_over(wafers, model)
    policy = model.policy or Policy(**params.policy.model_dump())
    recipe = WaferModel(**{**model.get_params(deep=False), "policy": policy})
    given = recipe_params(recipe, params)
    changed = {
        f"{section}.{name}": value
        for section in ("fit", "policy")
        for name, value in getattr(given, section).model_dump().items()
        if value != getattr(getattr(params, section), name)
    }
    with steps.working(workspace, "training") as run:
        run.write(wafers.frozen)
        known = steps.look_back(workspace, run, given)
        if known.finished and known.version is not None:
            return HandedOver(known.version, None, known.told, changed)
        if known.version is None:
            steps.fit(workspace, run, given.fit, given.policy, given.monitor)
            steps.evaluate(workspace, run, given.evaluate, given.fit, given.policy)
            steps.register(workspace, run, given)
        decided = steps.gate(workspace, run, given.gate, given.policy)
        steps.draw(workspace, run)
        for name in ("data_quality", "exploration", "training"):
            steps.report(workspace, run, name)
        steps.finish(workspace, run)
        version = run.read(Registered).version
    return HandedOver(version, decided.promoted, decided.reason, changed)


def keep_run(workspace: Workspace, compared: Any, note: str = "") -> str:
    """Keep a comparison as a run of the kind `trial` in MLflow: metrics and scores of each model; the run's id.

    Args:
        workspace: whose registry keeps it.
        compared: as of `wafer.trials.compare.compare_models`.
        note: what was tried and why, in words.
    """
    named = {name: _key(name) for name in compared.scores}
    metrics = {key: compared.metrics(name) for name, key in named.items()}
    params = {key: {"model": str(compared.models[name])} for name, key in named.items()}
    frames = {f"scores/{key}.parquet": compared.scores[name] for name, key in named.items()}
    tables = {"worth.csv": compared.worth().reset_index(), "gains.csv": compared.gains().reset_index()}
    wafers: Wafers = compared.wafers
    tags = {"wafers": wafers.told, "wafers.digest": wafers.digest, "note": note, **_source(workspace)}
    if wafers.frozen is not None:
        tags["snapshot.digest"] = wafers.frozen.digest
    return workspace.registry.log_trial(params=params, metrics=metrics, files={**frames, **tables}, tags=tags)


def scores_of_training(
    workspace: Workspace, wafers: Wafers, model: Any, params: EvaluateParams
) -> tuple[pd.DataFrame, str] | None:
    """The scores of the very same recipe from its training, if there was one with this code; and which that was."""
    if wafers.frozen is None or type(model) is not WaferModel or model.members or model.candidates:
        return None
    fit = {name: getattr(model, name) for name in FitParams.model_fields}
    shaping = {"fit": fit, "policy": asdict(model.policy_), "evaluate": params.model_dump()}
    same = workspace.registry.find_same(wafers.frozen.digest, shaping, _source(workspace))
    if same is None:
        return None
    scores = workspace.registry.scores(same)
    scores = scores[scores["protocol"] != "permuted"].drop(columns="wafer").reset_index(drop=True)
    return scores, f"the scores of version {same.version}, which was trained so"


def version_params(workspace: Workspace, version: int) -> dict[str, Any]:
    """The parameters that a version was trained with, by section, in the present layout.

    Raises:
        HandOverError: its run does not hold them.
    """
    found = workspace.registry.stored_json(workspace.registry.version(version), PARAMS)
    if found is None:
        raise HandOverError(f"version {version} has no record of its parameters")
    return dict(in_present_layout(found))


def _source(workspace: Workspace) -> dict[str, str]:
    return describe_source(Path(wafer.__file__).parent, workspace.settings.commit)


def _key(name: str) -> str:
    """A model's name as MLflow takes it in a path or a key."""
    return "".join(sign if sign.isalnum() and sign.isascii() else "_" for sign in name)
