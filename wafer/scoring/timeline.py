"""How the batches of all predictions followed each other: alarms, control, drift, and labels as they come."""

from typing import TYPE_CHECKING, Any

from wafer.runs import Run, Runs

if TYPE_CHECKING:
    from wafer.contract.form import Form
    from wafer.store.wafers import Store

NEWEST = 200  # batches that are told of
INDEX, PLACE = "predictions.json", "timeline.json"
TOLD = ("score", "threshold", "drifted", "t2", "spe")  # of a batch, where the model learned to tell it


def timeline(runs: Runs, run: Run, store: "Store", form: "Form") -> list[dict[str, Any]]:
    """The batches of this prediction and of those before it, the newest `NEWEST` scored, in production order.

    Of a batch that was scored again, the newest score counts. Runs of earlier releases, which do not tell enough of
    their batches, are passed over.

    Returns: for each batch what `wafer.scoring.batches.score_batches` says of it, and run (its id), delivered (the day
        in the file's name, ISO; None without one), labelled and faulty (of its wafers that the store has, by
        now).
    """
    found: dict[str, dict[str, Any]] = {}
    earlier = [] if run.kind == "study" else runs.all(NEWEST, "prediction")  # each has a batch, or none is worth a look
    for one in (run, *(runs.get(str(note["id"])) for note in earlier if note["id"] != run.id)):
        if len(found) >= NEWEST or not runs.storage.exists(one.key(INDEX)):
            continue
        for entry in runs.storage.read_json(one.key(INDEX)):
            if "order" in entry:
                found.setdefault(entry["digest"], {**dict.fromkeys(TOLD), **entry, "run": one.id})
    wafers = {digest: record.wafers for digest, record in store.known(list(found)).items()}
    labels = store.find([wafer for own in wafers.values() for wafer in own], "label")
    for digest, entry in found.items():
        own = [labels[wafer]["label"] for wafer in wafers.get(digest, ()) if wafer in labels]
        known = [label for label in own if label is not None]
        delivered = form.delivered(entry["file"])
        entry["delivered"] = None if delivered is None else delivered.date().isoformat()
        entry |= {"labelled": len(known), "faulty": known.count(1)}
    return sorted(found.values(), key=lambda entry: (entry["order"], entry["file"]))[-NEWEST:]
