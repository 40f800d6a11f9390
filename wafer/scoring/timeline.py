"""How the batches of all predictions followed each other: alarms, control, drift, and labels as they come."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from wafer.runs import Run, Runs

if TYPE_CHECKING:
    from wafer.contract.form import Form
    from wafer.store.wafers import Store

NEWEST = 200  # batches that are told of
LOOKED_AT = 5  # earlier predictions whose timelines are put together: of two at once, neither knows the other's batches
INDEX, PLACE, LIVE = "predictions.json", "timeline.json", "live.json"
TOLD = ("score", "threshold", "drifted", "t2", "spe")  # of a batch, where the model learned to tell it


def timeline(runs: Runs, run: Run, store: "Store", form: "Form") -> list[dict[str, Any]]:
    """The batches of this prediction, and of those before it as many as `NEWEST` allows, in production order.

    The earlier ones are those of the newest timelines that earlier predictions have left. Of a batch that was scored
    again, the newest score counts.

    Returns: for each batch what `wafer.scoring.batches.score_batches` says of it, and run (its id), delivered (the day
        in the file's name, ISO; None without one), labelled and faulty (of its wafers that the store has, by now).
    """
    found = {entry["digest"]: entry for entry in _earlier(runs, run)}
    for entry in runs.storage.read_json(run.key(INDEX)):
        found[entry["digest"]] = {**dict.fromkeys(TOLD), **entry, "run": run.id}
    entries = sorted(found.values(), key=lambda entry: (entry["run"] == run.id, entry["order"], entry["file"]))
    own = sum(entry["run"] == run.id for entry in entries)
    entries = entries[-max(own, NEWEST) :]
    wafers = {digest: record.wafers for digest, record in store.known([one["digest"] for one in entries]).items()}
    labels = store.find([wafer for some in wafers.values() for wafer in some], "label")
    for entry in entries:
        of = [labels[wafer]["label"] for wafer in wafers.get(entry["digest"], ()) if wafer in labels]
        known = [label for label in of if label is not None]
        delivered = form.delivered(entry["file"])
        entry["delivered"] = None if delivered is None else delivered.date().isoformat()
        entry |= {"labelled": len(known), "faulty": known.count(1)}
    return sorted(entries, key=lambda entry: (entry["order"], entry["file"]))


def newest_timeline(runs: Runs) -> list[dict[str, Any]]:
    """The timeline that the newest prediction has left; empty where none has."""
    return next(_kept(runs, runs.names("prediction")), [])


def _earlier(runs: Runs, run: Run) -> list[dict[str, Any]]:
    """What earlier predictions have told, those that were scored last at the end; a study has none."""
    names = [] if run.kind == "study" else [name for name in runs.names("prediction") if name != run.id]
    told = islice(_kept(runs, names), LOOKED_AT)
    return sorted((one for entries in told for one in entries), key=lambda one: str(one["run"]))


def _kept(runs: Runs, names: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """The timelines of those runs that have left one."""
    places = (runs.get(name).key(PLACE) for name in names)
    return (runs.storage.read_json(place) for place in places if runs.storage.exists(place))
