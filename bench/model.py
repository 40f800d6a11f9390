"""What the default model is worth on real wafers, against the reference method and its own parts.

`python -m bench.model --raw DIR` (DIR holds training/; default: WAFER_REAL_DATA) writes `bench/model.json` and the
tables of `docs/model-card.md`. Everything is measured with the default parameters; nothing is tuned here.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from bench.ablation import Table, ablate
from bench.card import write_tables
from wafer.boundary import bounded
from wafer.contract.suites import Contract, check
from wafer.errors import DeliveryError
from wafer.learning.evaluation import Split, evaluate, forward_splits, score_splits, shuffled_splits
from wafer.learning.model import WaferModel
from wafer.learning.plain import PlainForest
from wafer.learning.reference import ReferenceModel
from wafer.progress import shown
from wafer.scoring.bundle import fit_bundle

RESULT = Path(__file__).with_name("model.json")
CARD = Path(__file__).parents[1] / "docs" / "model-card.md"
CONFIGURATIONS_COMPARED = 240  # in the experiments behind the default, blends of the same scores included
RAW = click.option("--raw", type=click.Path(path_type=Path), envvar="WAFER_REAL_DATA", help="Folder with training/.")
JOBS = click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Fits at a time.")
BYTES_A_UNIT = 1 if sys.platform == "darwin" else 1024


def read_wafers(folder: Path | None) -> Table:
    """The accepted training batches below `folder`, judged by the project's own contract."""
    if folder is None:
        raise DeliveryError("no real wafers: name their folder with RAW= or WAFER_REAL_DATA")
    if not (folder / "training").is_dir():
        raise DeliveryError(f"{folder}/training is not there: expected a folder of labelled batch files")
    frames = []
    for delivery, verdict in check([folder / "training"], Contract.load("training")):
        if verdict.accepted and delivery.table is not None:
            frames.append(delivery.table.to_pandas().assign(batch=delivery.file))
    table = pd.concat(frames, ignore_index=True)
    table["order"] = table["wafer"].str.extract(r"(\d+)$", expand=False).astype(np.int64)
    table = table.drop_duplicates("wafer").sort_values("order", kind="stable").reset_index(drop=True)
    sensors = [name for name in table.columns if name.startswith("Sensor-")]
    labels, order = table["label"].to_numpy(np.int64), table["order"].to_numpy(np.int64)
    return Table(table[sensors].astype(np.float64), labels, order, table["batch"].to_numpy(object))


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _peak_gb(jobs: int) -> float:
    """The most that this process and `jobs` processes as large as the largest of its children can have held."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + jobs * child) * BYTES_A_UNIT / 1e9


def measure_reference(table: Table, folds: int, jobs: int) -> tuple[float, float]:
    """ROC AUC of the reference method over the first `folds` of five shuffled folds, and median seconds of a fit."""
    aucs, seconds = [], []
    for split in shuffled_splits(table.y, folds=5, repeats=1)[:folds]:
        model = ReferenceModel(n_jobs=jobs)
        train, test = table.X.iloc[split.train], table.X.iloc[split.test]
        _, spent = _timed(partial(model.fit, train, table.y[split.train]))
        seconds.append(spent)
        aucs.append(roc_auc_score(table.y[split.test], model.predict_proba(test)[:, 1]))
    return float(np.mean(aucs)), float(np.median(seconds))


def measure_model(
    table: Table, jobs: int, repeats: int, permutations: int
) -> tuple[dict[str, float], dict[str, Any], pd.DataFrame]:
    """The figures of `bench/model.json` about the default model, its metrics and its scores."""
    moments = [time.perf_counter()]
    bundle = fit_bundle(WaferModel(n_jobs=jobs), *table, progress=lambda done, _: moments.append(time.perf_counter()))
    train_seconds, reasons_seconds, drift_seconds = np.diff(moments[1:]).tolist()
    with shown("evaluate") as progress:
        (metrics, scores), spent = _timed(
            lambda: evaluate(
                WaferModel(), *table, repeats=repeats, permutations=permutations, n_jobs=jobs, progress=progress
            )
        )
    shuffled, forward = metrics["shuffled"], metrics["forward"]
    figures = {
        **{f"shuffled_{name}": shuffled[name] for name in ("auc", "auc_low", "auc_high")},
        **{f"forward_{name}": forward[name] for name in ("auc", "auc_low", "auc_high")},
        "permuted_auc": metrics["permuted"]["auc"],
        "calibration_error": shuffled["calibration_error"],
        "brier_skill": shuffled["brier_skill"],
        "forward_alarm_ratio": forward["alarm_rate"] / bundle.classifier.policy_.alarm_rate_ceiling,
        "recall_at_alarm_rate_10_shuffled": shuffled["recall_at_alarm_rate_10"],
        "recall_at_alarm_rate_10_forward": forward["recall_at_alarm_rate_10"],
        "train_seconds": train_seconds,
        "reasons_seconds": reasons_seconds,
        "drift_seconds": drift_seconds,
        "evaluate_seconds": spent,
        "reasons_strength": bundle.reasons.strength,
        "reasons_floor": bundle.reasons.floor,
        "usual_unknown_share": bundle.drift.unknown,
        "usual_drift": bundle.drift.threshold,
    }
    return figures, metrics, scores


def measure_plain(table: Table, splits: list[Split], jobs: int) -> pd.DataFrame:
    """The scores of a plain balanced forest, which any model has to beat."""
    with shown("plain forest") as progress:
        return score_splits(PlainForest(), table.X, table.order, splits, n_jobs=jobs, progress=progress)


@click.command(help=__doc__)
@RAW
@JOBS
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Of the five shuffled folds.")
@click.option("--permutations", type=click.IntRange(1), default=3, show_default=True, help="Of the labels.")
@click.option("--reference-folds", type=click.IntRange(1), default=1, show_default=True, help="Minutes each.")
def main(raw: Path | None, jobs: int, repeats: int, permutations: int, reference_folds: int) -> None:
    """Measure, write `bench/model.json` and the card's tables, print the figures."""
    table = read_wafers(raw)
    figures, metrics, scores = measure_model(table, jobs, repeats, permutations)
    figures["peak_rss_gb"] = _peak_gb(jobs)
    reference_auc, reference_seconds = measure_reference(table, reference_folds, jobs)
    figures |= {"reference_auc": reference_auc, "reference_fold_seconds": reference_seconds}
    splits = shuffled_splits(table.y, repeats=repeats) + forward_splits(table.y, table.order, table.batch)
    ablation = ablate(table, scores, measure_plain(table, splits, jobs), splits, jobs)
    figures |= {f"pooled_{name}_auc": float(ablation[f"{name}_auc"].iloc[0]) for name in ("shuffled", "forward")}
    figures |= {f"forest_{name}_auc": float(ablation[f"{name}_auc"].iloc[-1]) for name in ("shuffled", "forward")}
    figures["configurations_compared"] = CONFIGURATIONS_COMPARED
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    write_tables(CARD, figures, metrics, ablation)
    width = max(map(len, figures))
    print("\n".join(f"{name:<{width}}  {value:>12,.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench.model", standalone_mode=False)))
