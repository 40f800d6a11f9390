"""When to train again, and what was tried against drift, on real wafers.

`python -m bench.retraining --raw DIR` (default: WAFER_REAL_DATA) writes the tables of `docs/model-card.md`. Nothing is
tuned here: each cadence and each mechanism is the default with one thing changed, and is tried once.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from bench.ablation import Table, member_scores, panel_of
from bench.card import fill, markdown
from bench.model import CARD, JOBS, RAW, read_wafers
from wafer.boundary import bounded
from wafer.diagnosis.multivariate import PcaCharts
from wafer.learning.evaluation import Split, beside, forward_splits, score_splits
from wafer.learning.intervals import interval_text
from wafer.learning.model import WaferModel
from wafer.progress import shown

CADENCES = (1, 2, 5, 10)  # batches between two trainings
HALF_LIFE = 400  # wafers, in the trial of weights by age
GROWTH = 1 / 15  # of the linear member's weight, a batch of distance
LINEAR = "linear"
Floats = NDArray[np.float64]


def later_splits(table: Table) -> list[Split]:
    """The forward splits, each of which tests all wafers from its batch on."""
    return [
        Split(
            one.protocol,
            one.repeat,
            one.fold,
            one.train,
            np.flatnonzero(table.order >= table.order[one.test].min()),
            one.labels,
        )
        for one in forward_splits(table.y, table.order, table.batch)
    ]


def in_use(scores: pd.DataFrame, table: Table, cadence: int) -> pd.DataFrame:
    """Of scores by `later_splits`, those of the model in use where one trains before every `cadence`-th batch.

    Returns: one row a wafer, `fold` its batch, and `distance`, the batches that came between training and it.
    """
    trained = scores["fold"].drop_duplicates().tolist()
    number = {batch: place for place, batch in enumerate(trained)}
    scored = scores["row"].map(lambda row: number[table.batch[row]])
    distance = scored - scores["fold"].map(number)
    kept = scores["fold"].map(number) == scored // cadence * cadence
    own = scores.assign(fold=table.batch[scores["row"]], distance=distance)[kept]
    return own.sort_values("row", kind="stable").reset_index(drop=True)


def cadence_table(table: Table, jobs: int) -> pd.DataFrame:
    """What later trainings cost: metrics of each cadence, and the gain of training before every batch over it."""
    with shown("cadences") as progress:
        scores = score_splits(WaferModel(), table.X, table.order, later_splits(table), n_jobs=jobs, progress=progress)
    always = in_use(scores, table, 1)
    rows = []
    for cadence in CADENCES:
        own = in_use(scores, table, cadence)
        rows.append({"batches between trainings": cadence, **_gain(always, own)})
    return pd.DataFrame(rows)


def mechanism_table(table: Table, jobs: int) -> pd.DataFrame:
    """What each mechanism gains forward over the same without it: columns mechanism, auc (without it), gain, ends."""
    members = member_scores(table, later_splits(table), jobs)["whole"]
    names = [name for name in members if name.startswith(("forest", LINEAR))]
    following, seldom = (in_use(members, table, cadence) for cadence in (1, 5))
    found = {
        "trained twice a batch": (panel_of(following, names), _twice(table, jobs, names)),
        f"weights by age, half-life {HALF_LIFE} wafers": _split_by_split(_aged_split, table, jobs),
        "T² and SPE as another member": (
            panel_of(following, names),
            panel_of(
                following.assign(chart=_split_by_split(_charted_split, table, jobs)[0]["chart"]), [*names, "chart"]
            ),
        ),
        "linear weight that grows with distance, trained every 5 batches": (
            panel_of(seldom, names),
            _growing(seldom, names),
        ),
    }
    return pd.DataFrame([{"mechanism": name, **_gain(other, base)} for name, (base, other) in found.items()])


def _gain(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """The second's figures, and what the first gains over it, forward."""
    return beside(first, second)["forward"]


def _twice(table: Table, jobs: int, names: list[str]) -> pd.DataFrame:
    """The panel trained before each half of a batch."""
    halves = []
    for one in forward_splits(table.y, table.order, table.batch):
        ranked = one.test[np.argsort(table.order[one.test], kind="stable")]
        first, second = np.array_split(ranked, 2)
        known = np.concatenate([one.train, first])
        halves += [
            Split("forward", 0, one.fold, past, future, one.labels)
            for past, future in ((one.train, first), (known, second))
        ]
    scores = member_scores(table, halves, jobs)["whole"].sort_values("row", kind="stable").reset_index(drop=True)
    return panel_of(scores, names)


def _growing(scores: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The panel whose linear member's weight grows from its third by `GROWTH` a batch of distance, to 1 at most."""
    others = [name for name in names if name != LINEAR]
    weight = np.minimum(1 / len(names) + GROWTH * scores["distance"], 1.0)
    mixed = weight * scores[LINEAR] + (1 - weight) * scores[others].mean(axis=1)
    return panel_of(scores.assign(mixed=mixed), ["mixed"])


def _split_by_split(
    work: Callable[[Table, Split], tuple[pd.DataFrame, ...]], table: Table, jobs: int
) -> tuple[pd.DataFrame, ...]:
    """What `work` makes of each forward split, one frame after the other in production order."""
    splits = forward_splits(table.y, table.order, table.batch)
    with shown(work.__name__) as progress:
        frames = []
        for found in Parallel(n_jobs=jobs, return_as="generator")(delayed(work)(table, one) for one in splits):
            frames.append(found)
            progress(len(frames), len(splits))
    joined = (pd.concat(each, ignore_index=True) for each in zip(*frames, strict=True))
    return tuple(each.sort_values("row", kind="stable").reset_index(drop=True) for each in joined)


def _charted_split(table: Table, split: Split) -> tuple[pd.DataFrame]:
    """log T² + log SPE of the test wafers, standardised by the training wafers'."""
    readings = table.X.to_numpy()
    charts = PcaCharts.learn(readings[split.train[split.labels[split.train] == -1]])
    old, new = (np.log(charts.distances(readings[rows])).sum(axis=0) for rows in (split.train, split.test))
    return (pd.DataFrame({"row": split.test, "chart": (new - old.mean()) / old.std()}),)


def _aged_split(table: Table, split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    features = WaferModel().make_features()
    readings, faulty = table.X.to_numpy(), split.labels[split.train] == 1
    with threadpool_limits(1):
        features.fit(readings[split.train], order=table.order[split.train])
        F, new = (
            features.transform(readings[rows], order=table.order[rows])[:, features.absolute]
            for rows in (split.train, split.test)
        )
        age = table.order[split.train].max() - table.order[split.train]
        frames = []
        for weight in (np.ones(len(faulty)), 0.5 ** (age / HALF_LIFE)):
            balanced = weight / np.where(faulty, weight[faulty].sum(), weight[~faulty].sum())
            balanced *= len(faulty) / balanced.sum()
            forests = [
                ExtraTreesClassifier(600, min_samples_leaf=leaf, bootstrap=True, random_state=0) for leaf in (2, 5)
            ]
            near, fresh = np.clip(F, -5, 5), np.clip(new, -5, 5)
            centre, scale = near.mean(axis=0), near.std(axis=0)
            scale[scale <= 1e-9] = np.inf
            scores = [forest.fit(F, faulty, sample_weight=balanced).predict_proba(new)[:, 1] for forest in forests]
            ridge = LogisticRegression(C=0.1, max_iter=500).fit((near - centre) / scale, faulty, sample_weight=balanced)
            scores.append(ridge.decision_function((fresh - centre) / scale))
            ranks = pd.DataFrame(np.transpose(scores)).rank(pct=True)
            head = {
                "protocol": "forward",
                "repeat": 0,
                "fold": split.fold,
                "row": split.test,
                "label": split.labels[split.test],
            }
            frames.append(pd.DataFrame({**head, "probability": ranks.mean(axis=1), "alarm": False}))
    return frames[0], frames[1]


def in_words(frame: pd.DataFrame, first: str, auc: str, gain: str) -> pd.DataFrame:
    """`frame` as text: the column `first`, and with their intervals the ROC AUC and the paired gain, so named."""
    texts = {first: frame[first].astype(str), auc: frame.apply(interval_text, axis=1, args=("auc", ".3f"))}
    return pd.DataFrame({**texts, gain: frame.apply(interval_text, axis=1, args=("gain", "+z.3f"))}).set_index(first)


@click.command(help=__doc__)
@RAW
@JOBS
def main(raw: Path | None, jobs: int) -> None:
    """Measure, and write the card's tables."""
    table = read_wafers(raw)
    cadences, mechanisms = cadence_table(table, jobs), mechanism_table(table, jobs)
    tables = {
        "cadences": in_words(cadences, "batches between trainings", "ROC AUC", "training before every batch gains"),
        "mechanisms": in_words(mechanisms, "mechanism", "ROC AUC without it", "gain with it"),
    }
    fill(CARD, {name: markdown(each) for name, each in tables.items()})
    for each in tables.values():
        print(each.to_string(), end="\n\n")


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench.retraining", standalone_mode=False)))
