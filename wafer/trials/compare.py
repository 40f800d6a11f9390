"""Models side by side: the same wafers in the same folds, forward in time and shuffled, with paired intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from sklearn.base import clone

from wafer.learning.decision import Policy
from wafer.learning.evaluation import compare, measured, protocol_splits
from wafer.learning.model import WaferModel
from wafer.learning.plain import PlainForest
from wafer.learning.whole import PolicyClassifier
from wafer.params import EvaluateParams, Params
from wafer.progress import shown
from wafer.reporting.style import FAINT, PROTOCOLS, new_figure, say_nothing_to_show, styled
from wafer.shown import counted
from wafer.trials.handover import scores_of_training, version_params
from wafer.trials.kept import kept_scores
from wafer.trials.wafers import Wafers
from wafer.workspace import Workspace

PLAIN, CHAMPION = "plain forest", "champion"
PLAIN_TREES = 100  # of the plain forest, at most: enough to rank wafers by
SMALL = {"trees": 40, "search_budget": 1, "max_clusters": 4}
"""What a rival's recipe is cut down to on simulated wafers, which show how a trial works, and nothing of worth."""
WORTH = ("auc", "recall", "alarm_rate", "cost_per_1000", "recall_at_alarm_rate_10")


@dataclass(frozen=True)
class Compared:
    """Models on the same wafers in the same folds.

    Attributes:
        wafers: all of them.
        models: by name, not fitted, as they were scored.
        scores: of each, as of `wafer.learning.evaluation.score_splits`.
        policy: whose threshold and costs all of them have.
        left_out: protocols that the data are too few for, with the reason in words.
        told: for each model, how many of its folds were not scored anew.
        seed: of the bootstrap.
    """

    wafers: Wafers
    models: Mapping[str, Any]
    scores: Mapping[str, pd.DataFrame]
    policy: Policy
    left_out: Mapping[str, str]
    told: Mapping[str, str]
    seed: int = 0

    def metrics(self, name: str) -> dict[str, Any]:
        """The metrics of one model, by protocol, as a training has them."""
        return measured(self.scores[name], self.policy, seed=self.seed)[0]

    def worth(self) -> pd.DataFrame:
        """What each model is worth: a row for each protocol and model, indexed by both.

        Columns: auc, recall (faults caught at the policy's threshold), alarm_rate (alarms per wafer), cost_per_1000
        (per 1,000 wafers, in the policy's unit), recall_at_alarm_rate_10 (faults caught among the tenth of each batch
        or fold that ranks highest), each with `_low` and `_high`, its 95 % interval.
        """
        rows = {
            (protocol, name): {f"{key}{end}": found[f"{key}{end}"] for key in WORTH for end in ("", "_low", "_high")}
            for name in self.scores
            for protocol, found in self.metrics(name).items()
            if protocol != "permuted"
        }
        return _by_protocol(rows)

    def gains(self, rivals: Sequence[str] = (CHAMPION, PLAIN)) -> pd.DataFrame:
        """What each model gains over the rivals: a row for each protocol, model and rival, indexed by these.

        Columns: auc (its ROC AUC less the rival's), cost (its cost per 1,000 wafers less the rival's), each with `_low`
        and `_high`, the paired 95 % interval of `wafer.learning.metrics.compare`.
        """
        rows = {}
        for name in self.scores:
            above = rivals[: rivals.index(name)] if name in rivals else ()  # what has gained over this one already
            for rival in (each for each in rivals if each in self.scores and each not in (name, *above)):
                for protocol in ("shuffled", "forward"):
                    one, two = (_of(self.scores[each], protocol) for each in (name, rival))
                    if one["label"].nunique() < 2:
                        continue
                    found = compare(one, two, self.policy, seed=self.seed)
                    rows[protocol, name, rival] = {
                        **{"auc": found.difference, "auc_low": found.difference_low, "auc_high": found.difference_high},
                        **{"cost": found.cost_difference, "cost_low": found.cost_low, "cost_high": found.cost_high},
                    }
        return _by_protocol(rows)


def rivals(workspace: Workspace, wafers: Wafers, params: Params) -> dict[str, Any]:
    """What a model has to beat: the champion's recipe, or where there is none that of the parameters, and a forest."""
    settings = params.fit.model_dump()
    if wafers.frozen is not None and (version := workspace.registry.champion()) is not None:
        settings = version_params(workspace, version.version)["fit"]
    champion = WaferModel(**{**settings, **(SMALL if wafers.simulated else {})})
    plain = PlainForest(trees=min(PLAIN_TREES, champion.trees), seed=params.evaluate.seed)
    return {CHAMPION: champion, PLAIN: plain}


def compare_models(
    workspace: Workspace, wafers: Wafers, models: Mapping[str, Any], params: EvaluateParams, policy: Policy
) -> Compared:
    """Score all models under both protocols, each fold by a model that has not seen its wafers.

    Args:
        workspace: where scores are kept, and those of earlier trainings lie.
        wafers: to score.
        models: by name: recipes of `WaferModel`, or any classifiers of scikit-learn's, which get the policy's threshold
            by `PolicyClassifier`.
        params: of the protocols.
        policy: whose threshold and costs count for all of them.
    """
    given = params.model_dump(exclude={"permutations"})
    splits, left_out = protocol_splits(wafers.labels, wafers.order, wafers.batches, permutations=None, **given)
    folder, jobs = workspace.settings.state / "trials", workspace.settings.jobs
    ready = {name: under(policy, model) for name, model in models.items()}
    trained = {name: scores_of_training(workspace, wafers, model, params) for name, model in ready.items()}
    scores = {name: pair[0] for name, pair in trained.items() if pair}
    told = {name: pair[1] for name, pair in trained.items() if pair}
    rest = {name: model for name, model in ready.items() if name not in scores}
    with shown("trial") as progress:
        found, reused = kept_scores(rest, wafers, splits, folder, n_jobs=jobs, progress=progress)
    for name, number in reused.items():
        told[name] = f"{len(splits) - number} of {counted(len(splits), 'fold')} scored now"
        told[name] += f", {number} kept from an earlier trial" if number else ""
    both = found | scores
    return Compared(wafers, ready, {name: both[name] for name in ready}, policy, left_out, told, params.seed)


def under(policy: Policy, model: Any) -> Any:
    """A model whose alarms follow from `policy`."""
    if isinstance(model, WaferModel | PolicyClassifier):
        return clone(model).set_params(policy=policy)
    return PolicyClassifier(model, policy=policy)


@styled
def plot_gains(compared: Compared) -> Figure:
    """What each model gains in ROC AUC over its rivals, a dot with its paired interval for each protocol."""
    gains = compared.gains()
    title = "Gain in ROC AUC, with paired 95 % intervals"
    pairs = [] if gains.empty else list(dict.fromkeys(zip(*map(gains.index.get_level_values, (1, 2)), strict=True)))
    figure, axes = new_figure(1.4 + 0.45 * max(len(pairs), 3))
    if not pairs:
        say_nothing_to_show(axes, title, "the wafers are too few for either protocol")
        return figure
    for offset, protocol in ((0.14, "shuffled"), (-0.14, "forward")):
        look = {name: PROTOCOLS[protocol][name] for name in ("color", "marker")}
        rows = [pair for pair in pairs if (protocol, *pair) in gains.index]
        found = gains.loc[[(protocol, *pair) for pair in rows]]
        ends = [found["auc"] - found["auc_low"], found["auc_high"] - found["auc"]]
        places = [offset - pairs.index(pair) for pair in rows]
        axes.errorbar(found["auc"], places, xerr=ends, linestyle="none", capsize=3, label=protocol, **look)
    axes.axvline(0, color=FAINT)
    axes.set_yticks([-place for place in range(len(pairs))], [f"{name}, over {rival}" for name, rival in pairs])
    axes.set(title=title, xlabel="ROC AUC less the rival's")
    axes.legend(loc="best")
    return figure


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of `Compared` for reading: each figure with its interval in square brackets."""
    names = [name for name in frame.columns if not name.endswith(("_low", "_high"))]
    texts = {
        NAMES[name]: [
            "–" if pd.isna(value) else f"{_text(name, value)} [{_text(name, low)}, {_text(name, high)}]"
            for value, low, high in frame[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
        ]
        for name in names
    }
    return pd.DataFrame(texts, index=frame.index).reset_index()


NAMES = {
    "auc": "ROC AUC",
    "recall": "faults caught",
    "alarm_rate": "alarms",
    "cost_per_1000": "cost per 1,000",
    "recall_at_alarm_rate_10": "caught by the top tenth",
    "cost": "cost per 1,000",
}


def _text(name: str, value: float) -> str:
    if name.startswith("cost"):
        return f"{value:+z,.0f}" if name == "cost" else f"{value:,.0f}"
    return f"{value:z.3f}" if name == "auc" else f"{100 * value:.0f} %"


def _of(scores: pd.DataFrame, protocol: str) -> pd.DataFrame:
    return scores[scores["protocol"] == protocol].reset_index(drop=True)


def _by_protocol(rows: Mapping[Any, Mapping[str, Any]]) -> pd.DataFrame:
    names = ("protocol", "model", "against")
    if not rows:
        return pd.DataFrame()
    found = pd.DataFrame(list(rows.values()))
    found.index = pd.MultiIndex.from_tuples(list(rows), names=names[: len(next(iter(rows)))])
    return found.sort_index(level=0, sort_remaining=False, kind="stable")
