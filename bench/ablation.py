"""What each member of the pooled panel, each family of features and the clusters bring, on the same wafers and folds.

A member is fitted on its own and the panel is the mean of standardised scores, so that each split is fitted once and
every panel is a mean of columns. ROC AUC is taken within each fold or batch, where the panel's sigmoid changes no rank.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from wafer.learning.evaluation import Split, beside
from wafer.learning.features import WaferFeatures
from wafer.learning.jobs import derived_seed
from wafer.learning.model import WaferModel
from wafer.learning.panel import fit_panel, panel_recipes
from wafer.learning.search import Recipe, inner_folds
from wafer.progress import shown

RELATIVE = "with another linear member, of relative readings"
FLAGS, KNN = "flags of missing readings", "median imputation (k nearest neighbours instead)"


class Table(NamedTuple):
    """Labelled wafers in production order."""

    X: pd.DataFrame
    y: NDArray[np.int64]
    order: NDArray[np.int64]
    batch: NDArray[np.object_]


def named_recipes(features: WaferFeatures, model: WaferModel) -> dict[str, Recipe]:
    """The panel's members by a name that says what they are, and one that was left out, of relative readings."""
    kinds = {"extra_trees": "forest, leaves of {min_samples_leaf}", "logistic": "linear"}
    found = {kinds[one.kind].format(**one.settings): one for one in panel_recipes(features, model.trees)}
    relative = [features.relative.start, features.relative.stop]
    return found | {RELATIVE: Recipe("logistic", {**found["linear"].settings, "columns": relative})}


def without_flags(features: WaferFeatures, recipe: Recipe) -> Recipe:
    """The same without the flags of missing readings, which follow the absolute readings."""
    start, stop = recipe.settings["columns"]
    if (start, stop) != (features.absolute.start, features.absolute.stop):
        return recipe
    return Recipe(recipe.kind, {**recipe.settings, "columns": [start, len(features.selector_.kept_)]})


def member_scores(table: Table, splits: Sequence[Split], jobs: int, **params: Any) -> dict[str, pd.DataFrame]:
    """For each split's test wafers the standardised score of every member, without flags of missing readings too."""
    with shown("members") as progress:
        done = Parallel(n_jobs=jobs, return_as="generator")(
            delayed(_scores)(table, split, WaferModel(max_clusters=1, **params)) for split in splits
        )
        frames = []
        for frame in done:
            frames.append(frame)
            progress(len(frames), len(splits))
    return {name: pd.concat([frame[name] for frame in frames], ignore_index=True) for name in frames[0]}


def _scores(table: Table, split: Split, model: WaferModel) -> dict[str, pd.DataFrame]:
    readings, faulty = table.X.to_numpy(), split.labels[split.train] == 1
    with threadpool_limits(1):
        features = model.make_features().fit(readings[split.train], order=table.order[split.train])
        F, new = (features.transform(readings[rows], order=table.order[rows]) for rows in (split.train, split.test))
        folds = inner_folds(faulty, model.calibration_folds, derived_seed(model.seed, "folds"))
        whole = named_recipes(features, model)
        bare = {name: without_flags(features, recipe) for name, recipe in whole.items()}
        found = {}
        for name, recipes in (("whole", whole), ("bare", bare)):
            panel = fit_panel(list(recipes.values()), F, faulty, folds, seed=model.seed, n_jobs=1)
            columns = {each: one.logit(new) for each, one in zip(recipes, panel.members, strict=True)}
            head = {"protocol": split.protocol, "repeat": split.repeat, "fold": split.fold, "row": split.test}
            found[name] = pd.DataFrame({**head, "label": split.labels[split.test], **columns})
    return found


def ablate(table: Table, scores: pd.DataFrame, plain: pd.DataFrame, splits: Sequence[Split], jobs: int) -> pd.DataFrame:
    """What the default, a panel or a member gains over the same without something, with paired 95 % intervals.

    Parameters:
        scores, plain: of the default model and of a plain forest, from an evaluation with these splits.

    Returns: columns without, and for each protocol auc (of what is left), gain, gain_low, gain_high.
    """
    members = member_scores(table, splits, jobs)
    whole = members["whole"]
    names = [name for name in whole if name.startswith(("forest", "linear"))]
    everyone = panel_of(whole, names)
    pairs = {"clusters (the pooled panel alone)": (scores, everyone)}
    pairs |= {name: (everyone, panel_of(whole, [each for each in names if each != name])) for name in names}
    pairs["both forests"] = (everyone, panel_of(whole, ["linear"]))
    pairs[RELATIVE] = (everyone, panel_of(whole, [*names, RELATIVE]))
    pairs[FLAGS] = (everyone, panel_of(members["bare"], names))
    pairs[KNN] = (everyone, panel_of(member_scores(table, splits, jobs, imputation="knn")["whole"], names))
    pairs["everything (plain balanced random forest, 300 trees)"] = (scores, plain)
    return pd.DataFrame([{"without": name, **_gains(*pair)} for name, pair in pairs.items()])


def panel_of(scores: pd.DataFrame, members: Sequence[str]) -> pd.DataFrame:
    """The panel of some members as a frame of scores; its probability ranks as the panel's own does."""
    head = scores[["protocol", "repeat", "fold", "row", "label"]]
    mean = scores[list(members)].mean(axis=1)
    return head.assign(probability=1.0 / (1.0 + np.exp(-mean)), alarm=False)


def _gains(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for protocol, found in beside(first, second).items():
        row |= {f"{protocol}_{name}": found[name] for name in ("auc", "gain", "gain_low", "gain_high")}
    return row
