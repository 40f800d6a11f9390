"""What scoring, reasons, drift and training cost, as ratios to the bare estimators that they stand on.

`python -m bench.speed` needs no real wafers: it trains the default model on the synthetic fab. Each figure is processor
time over all threads; the two sides of a ratio take turns, and the median of the turns counts.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import xgboost
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from bench.model import Table, read_wafers
from wafer.boundary import bounded
from wafer.fab.simulate import simulate_batches
from wafer.learning.members import Forest
from wafer.learning.model import WaferModel
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.judge import judge

RESULT = Path(__file__).with_name("speed.json")
TURNS = 3
SEED = 7
EXPLAINED = 16  # wafers whose reasons are compared


def measure(wafers: int, jobs: int) -> dict[str, float]:
    """All figures, `wafers` of them scored at a time."""
    with tempfile.TemporaryDirectory() as scratch:
        list(simulate_batches(Path(scratch) / "training", batches=12, wafers=100, seed=SEED))
        table = read_wafers(Path(scratch))
    filled, faulty = np.nan_to_num(table.X.to_numpy()), table.y == 1
    settings = {"class_weight": "balanced_subsample", "bootstrap": True, "random_state": SEED}
    bare = [ExtraTreesClassifier(600, min_samples_leaf=least, **settings) for least in (2, 5)]
    fit = _compared(
        lambda: WaferModel(n_jobs=jobs).fit(table.X, table.y, table.order),
        lambda: [one.fit(filled, faulty) for one in bare],
    )
    bundle = fit_bundle(WaferModel(n_jobs=jobs), *table)
    return _ratios("fit", fit) | _scoring(bundle, table, bare, wafers) | _diagnosis(bundle, table, filled)


def _scoring(bundle: Bundle, table: Table, bare: list[ExtraTreesClassifier], wafers: int) -> dict[str, float]:
    """Judging against what the two forests alone take in scikit-learn, and in XGBoost's predictor."""
    rows = np.random.default_rng(SEED).integers(0, len(table.X), wafers)
    X, order = table.X.iloc[rows].reset_index(drop=True), table.order[rows]
    filled = np.nan_to_num(X.to_numpy())
    F = bundle.classifier.prepare(X, order).F.astype(np.float32)
    forests = _forests(bundle)
    judged = _compared(lambda: judge(bundle, X, order), lambda: [one.predict_proba(filled) for one in bare])
    walked = _compared(lambda: judge(bundle, X, order), lambda: [one.inplace_predict(F) for one in forests])
    return _ratios("score", judged) | {"score_to_predictor": walked[0] / walked[1]}


def _diagnosis(bundle: Bundle, table: Table, filled: np.ndarray) -> dict[str, float]:
    """Reasons against XGBoost's own Shapley values of the two forests; drift against a bare domain classifier."""
    X, order = table.X.head(EXPLAINED), table.order[:EXPLAINED]
    seen = bundle.classifier.prepare(X, order)
    F = xgboost.DMatrix(seen.F.astype(np.float32), nthread=1)
    forests = _forests(bundle)
    reasons = _compared(
        lambda: bundle.classifier.contributions(seen), lambda: [one.predict(F, pred_contribs=True) for one in forests]
    )
    batch, whole = slice(-100, None), np.hstack([filled[-300:], np.isnan(table.X.to_numpy()[-300:])])
    domain = RandomForestClassifier(100, min_samples_leaf=2, class_weight="balanced_subsample", oob_score=True)
    drift = _compared(
        lambda: judge(bundle, table.X.iloc[batch], table.order[batch], drift=True),
        lambda: domain.fit(whole, np.arange(300) >= 200),
    )
    return _ratios("reasons", reasons) | _ratios("drift", drift)


def _forests(bundle: Bundle) -> list[xgboost.Booster]:
    return [one.member.booster for one in bundle.classifier._panel.members if isinstance(one.member, Forest)]


def _compared(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Seconds of processor time of both, medians of `TURNS` turns."""
    spent = [[_cpu(work) for work in (ours, theirs)] for _ in range(TURNS)]
    own, bare = np.median(spent, axis=0).tolist()
    return own, bare


def _cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _ratios(name: str, compared: tuple[float, float]) -> dict[str, float]:
    own, bare = compared
    return {f"{name}_seconds": own, f"{name}_bare_seconds": bare, f"{name}_to_bare": own / bare}


@click.command(help=__doc__)
@click.option("--wafers", type=click.IntRange(1), default=10_000, show_default=True, help="Scored at a time.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Threads.")
def main(wafers: int, jobs: int) -> None:
    """Measure, print a line a figure, and keep them as JSON."""
    figures = measure(wafers, jobs)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    width = max(map(len, figures))
    print("\n".join(f"{name:<{width}}  {value:>12,.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench.speed", standalone_mode=False)))
