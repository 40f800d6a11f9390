"""A small delivery in which everything happens that can happen to a wafer on its way into the store."""

import json
import shutil
from pathlib import Path
from typing import Any

from wafer.contract.agreement import import_agreement, init_agreement

SENSORS = 4


def line(wafer: int, label: int | None = None, shift: float = 0.0, bad: str | None = None) -> str:
    readings = [f"{wafer + sensor / 7 + shift:.17g}" for sensor in range(SENSORS)]
    readings[2] = "" if wafer % 3 == 0 else readings[2]
    readings[1] = readings[1] if bad is None else bad
    return ",".join([f"Wafer-{wafer}", *readings, *([] if label is None else [str(label)])])


def write(folder: Path, day: int, lines: list[str], labelled: bool = True) -> Path:
    header = ",".join(["", *(f"Sensor-{n + 1}" for n in range(SENSORS)), *(["Good/Bad"] if labelled else [])])
    path = folder / f"wafer_{day:02}012020_120000.csv"
    path.write_text("".join(f"{text}\n" for text in (header, *lines)))
    return path


def deliver(place: Path) -> None:
    """Raw files and two agreements below `place`; the lenient one tolerates empty sensors."""
    prediction, training = place / "raw" / "prediction", place / "raw" / "training"
    prediction.mkdir(parents=True)
    training.mkdir()
    write(prediction, 1, [line(n) for n in range(1, 5)], labelled=False)
    write(prediction, 2, [line(n, shift=0.5) for n in (4, 50)], labelled=False)
    first = write(training, 3, [line(n, -1) for n in range(1, 5)])  # labels for known wafers
    write(training, 4, [line(5, 1), line(6, -1, bad="x"), *(line(n, -1) for n in range(7, 16))])  # one is dropped
    write(training, 5, ["nonsense"])
    write(training, 6, [line(5, 1, shift=1.0), line(7, -1), line(16, 1), line(1, 1)])  # two conflicts, a repeat
    shutil.copy(first, training / "wafer_07012020_120000.csv")  # the same bytes
    write(training, 8, [",".join([f"Wafer-{n}", "1", "", "3", "4", "-1"]) for n in (20, 21)])  # an empty sensor
    write(training, 9, [line(16, 1, shift=2.0), line(30, -1), line(31, -1)])  # a conflict within the delivery
    write(training, 10, [line(40, -1), line(41, 1)])
    for folder, terms in {"strict": {"EmptySensors": "reject"}, "lenient": {"EmptySensors": "tolerate"}}.items():
        agree(place / folder, BadWafers="drop wafer", MaxDroppedShare=0.5, **terms)


def agree(place: Path, **terms: Any) -> None:
    """Suites for both kinds in `place`/expectations."""
    place.mkdir(exist_ok=True)
    for kind in ("training", "prediction"):
        agreement = place / f"{kind}.agreement.json"
        agreement.unlink(missing_ok=True)
        init_agreement(agreement, kind, sensors=SENSORS)
        agreement.write_text(json.dumps({**json.loads(agreement.read_text()), **terms}))
        import_agreement(agreement, kind, folder=place / "expectations")
