"""What alarms are worth on real wafers, beside monitoring, whether their budget holds, and the balanced error rate.

`python -m bench.alarms --raw DIR` (DIR holds training/; default: WAFER_REAL_DATA) writes `bench/alarms.json` and the
tables about alarms in `docs/model-card.md`: the default model by ten shuffled folds and forward, and smaller ones on
synthetic fabs. Nothing is tuned here.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd

from bench.card import fill, markdown
from bench.model import CARD, JOBS, RAW, read_wafers
from wafer.boundary import bounded
from wafer.diagnosis.rivals import RIVALS, rivals
from wafer.fab.simulate import simulate_frame
from wafer.learning.budget import budget
from wafer.learning.decision import Policy, tail_share
from wafer.learning.evaluation import Split, beside, forward_splits, measured, score_splits, shuffled_splits
from wafer.learning.intervals import interval_text, wilson
from wafer.learning.metrics import summarise
from wafer.learning.model import WaferModel
from wafer.learning.worth import PROTOCOLS, worth
from wafer.progress import shown
from wafer.reporting.tables import equal_alarms_table

RESULT = Path(__file__).with_name("alarms.json")
FOLDS = 10  # as those of the published balanced error rates
FABS = range(101, 121)  # seeds
BATCHES = 12  # of a fab
TRAINED_AFTER, AHEAD = (4, 8), 4  # batches; each model scores the next four without training anew
SMALL = {"trees": 40, "max_clusters": 1, "calibration_folds": 3}


def balanced(scores: pd.DataFrame, splits: list[Split]) -> dict[str, dict[str, float]]:
    """Balanced error rate of each protocol at the share of faults in each training part, with its interval.

    For a calibrated probability that is the threshold of least balanced error: each kind of error counts by one over
    the share of its wafers. It follows from the training part alone.
    """
    share = {(one.protocol, one.repeat, one.fold): float(np.mean(one.labels[one.train] == 1)) for one in splits}
    keys = scores[["protocol", "repeat", "fold"]].itertuples(index=False, name=None)
    alarms = scores.assign(alarm=scores["probability"] >= [share[key] for key in keys])
    found = {name: summarise(alarms[alarms["protocol"] == name]) for name in PROTOCOLS}
    wanted = [
        f"{name}{end}"
        for name in ("balanced_error_rate", "recall", "false_alarm_rate")
        for end in ("", "_low", "_high")
    ]
    return {protocol: {name: summary[name] for name in wanted} for protocol, summary in found.items()}


def fab_scores(seed: int) -> Iterator[pd.DataFrame]:
    """Scores of a synthetic fab's batches, each group of them by one model of the batches before."""
    frames = [simulate_frame(batch, wafers=100, seed=seed) for batch in range(BATCHES)]
    whole = pd.concat(frames, ignore_index=True)
    X, y, order = whole.filter(like="Sensor-"), whole["label"].to_numpy(np.int64), np.arange(len(whole))
    batch = np.repeat(np.arange(BATCHES), [len(frame) for frame in frames])
    for past in TRAINED_AFTER:
        train, test = batch < past, (batch >= past) & (batch < past + AHEAD)
        model = WaferModel(**SMALL).fit(X[train], y[train], order=order[train])
        probability = model.fault_probability(X[test], order[test])
        yield pd.DataFrame(
            {
                **{"protocol": "forward", "repeat": 0, "fold": [f"{seed}/{past}/{one}" for one in batch[test]]},
                **{"row": order[test] + 10_000 * seed + 1_000_000 * past, "label": y[test], "probability": probability},
                "tail": tail_share(model.held_out_["probability"].to_numpy(), probability),
                "recent_tail": model.recent_tails(probability, order[test]),
            }
        )


def measure_fabs() -> pd.DataFrame:
    """What both kinds of threshold make of all synthetic fabs' batches, as of `budget`."""
    frames: list[pd.DataFrame] = []
    with shown("synthetic fabs") as progress:
        for done, seed in enumerate(FABS, 1):
            frames += fab_scores(seed)
            progress(done, len(FABS))
    return budget(pd.concat(frames, ignore_index=True), Policy())


def budget_rows(found: pd.DataFrame, batches: dict[str, int], where: str) -> list[str]:
    """Lines of the table about the budget; the share of batches with its Wilson interval."""
    lines = []
    for row in found.to_dict("records"):
        count = batches[row["protocol"]]
        low, high = wilson(round(row["within_twice"] * count), count)
        within = f"{row['within_twice']:.3f} [{float(low):.3f}, {float(high):.3f}] of {count}"
        told = f"{row['alarm_rate']:.3f} | {row['largest']:.2f} | {within} | {row['recall']:.3f}"
        lines.append(
            f"| {where}, {row['protocol']} | {row['threshold']} | {told} | {interval_text(row, 'gain', '+z.3f')} |"
        )
    return lines


def worth_table(scores: pd.DataFrame) -> str:
    """What each way costs, and the sentences that go with it."""
    found = worth(scores, Policy())
    return "\n".join([markdown(found.table()), "", *found.sentences()])


def equal_alarms(scores: pd.DataFrame) -> str:
    """Faults caught by the model, its rivals and chance at equal alarms, as in the training report."""
    metrics, _ = measured(scores, Policy())
    others = {name: beside(scores, scores.assign(probability=scores[name])) for name in RIVALS}
    return "\n\n".join(markdown(equal_alarms_table(metrics | others, protocol)) for protocol in PROTOCOLS)


def balanced_table(found: dict[str, dict[str, float]]) -> str:
    """One line a protocol."""
    lines = ["| protocol | balanced error rate | faults found | false alarms among good wafers |", "|---|---|---|---|"]
    names = ("balanced_error_rate", "recall", "false_alarm_rate")
    for protocol, values in found.items():
        lines.append(f"| {protocol} | {' | '.join(interval_text(values, name, '.3f') for name in names)} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@RAW
@JOBS
def main(raw: Path | None, jobs: int) -> None:
    """Measure, write `bench/alarms.json` and the card's tables about alarms."""
    table = read_wafers(raw)
    splits = shuffled_splits(table.y, folds=FOLDS, repeats=1) + forward_splits(table.y, table.order, table.batch)
    with shown("default model") as progress:
        scores = score_splits(WaferModel(), table.X, table.order, splits, n_jobs=jobs, progress=progress)
    for name, rival in rivals().items():
        with shown(RIVALS[name]) as progress:
            other = score_splits(rival, table.X, table.order, splits, n_jobs=jobs, progress=progress)
        scores[name] = other["probability"]
    write(scores, splits, measure_fabs())


def write(scores: pd.DataFrame, splits: list[Split], fabs: pd.DataFrame) -> None:
    """Keep the figures and fill in the card."""
    own, error = budget(scores, Policy()), balanced(scores, splits)
    counts = {name: sum(one.protocol == name for one in splits) for name in PROTOCOLS}
    head = ["| wafers | threshold | alarm rate | most in a batch | batches within twice the ceiling | recall | gain |"]
    lines = [*head, "|---|---|---|---|---|---|---|", *budget_rows(own, counts, "real")]
    lines += budget_rows(fabs, {"forward": len(FABS) * len(TRAINED_AFTER) * AHEAD}, f"{len(FABS)} synthetic fabs")
    found = {"worth": worth(scores, Policy()).as_dict(), "balanced": error}
    found |= {"budget": own.to_dict("records"), "budget_of_fabs": fabs.to_dict("records")}
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    tables = {"worth": worth_table(scores), "budget": "\n".join(lines), "balanced": balanced_table(error)}
    fill(CARD, tables | {"equal-alarms": equal_alarms(scores)})


if __name__ == "__main__":
    sys.exit(bounded(lambda: main.main(prog_name="python -m bench.alarms", standalone_mode=False)))
