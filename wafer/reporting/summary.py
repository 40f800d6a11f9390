"""The short summary at the end of the main job: what came in, how good the model is, what it said, where to read on."""

from collections.abc import Sequence
from typing import Any

from upath import UPath

from wafer.records import Reported
from wafer.settings import Settings
from wafer.storage import read_json

SUMMARISED = ("shuffled", "forward")


def summarise_run(settings: Settings, reported: Sequence[Reported]) -> str:
    """The last ingest, training and prediction below the settings' storage, in some lines of plain text.

    Every page that lies beside one of the `reported` is named.
    """
    reports = settings.area("reports")
    metrics = read_json(reports / "metrics.json")
    lines = ["", "Deliveries"]
    for kind in ("training", "prediction"):
        lines += _delivery(read_json(reports / f"ingest-{kind}.json"))
    lines += [
        "",
        f"Model (on {metrics['wafers']:,} wafers, {metrics['faulty']} faulty, {metrics['clusters']} clusters)",
    ]
    lines += [_protocol(name, metrics) for name in SUMMARISED]
    if "permuted" in metrics:
        lines.append(f"  permuted   AUC {metrics['permuted']['auc']:.3f}, should be near 0.5")
    lines.append(f"  {read_json(reports / 'decision.json')['reason']}")
    lines += ["", "Predictions", *_predictions(read_json(reports / "predictions.json"))]
    lines += ["", "Reports"]
    lines += [f"  {page}" for report in reported for page in sorted(UPath(report.page).parent.glob("*.html"), key=str)]
    lines += [f"  {reports / f'ingest-{kind}.html'}" for kind in ("training", "prediction")]
    lines.append(f"  predictions, a CSV a batch: {settings.area('predictions')}")
    return "\n".join(lines)


def _delivery(report: dict[str, Any]) -> list[str]:
    known = f", {report['known_batches']} of them known before" if report["known_batches"] else ""
    repeats = f", {report['duplicates']:,} seen in another file" if report["duplicates"] else ""
    unread = f", {report['unread']} could not be read" if report["unread"] else ""
    lines = [
        f"  {report['kind']:<10} {report['files']:>4} files: {report['accepted']} accepted{known} "
        f"({report['wafers']:,} wafers{repeats}), {report['quarantined']} quarantined{unread}"
    ]
    for batch in report["batches"]:
        if batch["verdict"] != "accepted":
            told = "; ".join(dict.fromkeys(reason["message"] for reason in batch["reasons"][:3]))
            lines.append(f"             {batch['file']}: {told}")
    return lines


def _protocol(name: str, metrics: dict[str, Any]) -> str:
    values = metrics.get(name)
    if values is None:
        return f"  {name:<10} not measured: {metrics.get('left_out', {}).get(name, 'too few wafers')}"
    return (
        f"  {name:<10} AUC {values['auc']:.3f} [{values['auc_low']:.3f}, {values['auc_high']:.3f}], "
        f"alarm rate {100 * values['alarm_rate']:.1f} %"
    )


def _predictions(index: list[dict[str, Any]]) -> list[str]:
    wafers, alarms = (sum(entry[key] for entry in index) for key in ("wafers", "alarms"))
    share = f" ({100 * alarms / wafers:.1f} %)" if wafers else ""
    return [f"  {len(index)} batches, {wafers:,} wafers, {alarms} alarms{share}"]
