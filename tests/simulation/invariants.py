"""What must hold whatever happened, read from the services' own memory and without a call that could be struck."""

import io
import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import bson
import numpy as np
import pandas as pd

from tests.simulation import fab
from tests.simulation.mongo import UTC_AWARE
from tests.simulation.product import BUCKET, Services, settings
from tests.simulation.world import BrokenError
from wafer.records import Kind
from wafer.registry import Decision, Registry
from wafer.registry.ledger import InUse
from wafer.registry.records import RUNNING
from wafer.runs import Run
from wafer.scoring import batches
from wafer.scoring.bundle import Bundle
from wafer.workspace import Workspace

if TYPE_CHECKING:
    from tests.simulation.scenario import Scene


def must(holds: object, told: str) -> None:
    """Complain where something does not hold."""
    if not holds:
        raise BrokenError(told)


def documents(services: Services, name: str) -> list[dict[str, Any]]:
    """All documents of a collection."""
    found = [held for (_, of), held in services.store.collections.items() if of == name]
    return [bson.decode(raw, UTC_AWARE) for collection in found for raw in collection.values()]


def kept(services: Services, prefix: str) -> dict[str, bytes]:
    """The objects below a key of the storage, by their name."""
    start = f"{BUCKET}/data/{prefix}"
    return {name[len(start) :]: data for name, data in services.bucket.objects.items() if name.startswith(start)}


def check_report(services: Services, workspace: Workspace, run: Run, kind: Kind) -> None:
    """An ingest that has come to its end tells the truth: each file is where its report says, and nowhere else."""
    report = json.loads(kept(services, f"runs/{run.id}/")[f"ingest-{kind}.json"])
    ledger = {line["_id"]: line["kind"] for line in documents(services, "batches")}
    for file in report["batches"]:
        if file["verdict"] != "unread":
            _check_place(services, ledger, file["file"], file["digest"], kind, file["verdict"])


def _check_place(
    services: Services, ledger: dict[str, str], file: str, digest: str, kind: str, verdict: str | None = None
) -> None:
    taken_in = ledger.get(digest) == kind
    quarantined = f"{digest}.reasons.json" in kept(services, f"quarantine/{kind}/")
    must(taken_in != quarantined, f"{kind} file {file} is in {'both places' if taken_in else 'neither place'}")
    if verdict is not None:
        must((verdict == "accepted") == taken_in, f"{kind} file {file} was said to be {verdict}")


def check_end(scene: "Scene") -> None:
    """All that must hold once everything was run again without faults."""
    check_files(scene)
    check_wafers(scene)
    check_leases(scene)
    check_pointers(scene)
    check_runs(scene)
    if not scene.trains:
        return
    with Workspace(settings(fab.place() / scene.agreement)) as workspace:
        check_registry(scene, workspace.registry)
        check_verdicts(scene, workspace.registry)


def check_pointers(scene: "Scene") -> None:
    """The pointer to the newest run of a kind never goes back, and no two runs have the same name."""
    must(len(scene.ended) == len(set(scene.ended)), "two runs have had the same name")
    for name, data in kept(scene.services, "latest/").items():
        kind = name.removesuffix(".json")
        newest = max((run for run in scene.ended if run.rsplit("-", 3)[0] == kind), default="")
        told = json.loads(data)["run"]
        must(told >= newest, f"the newest run of {kind} is {newest}, the pointer names {told}")


def check_runs(scene: "Scene") -> None:
    """A run whose process was neither killed nor refused by the bucket has come to its end."""
    for path, process in scene.services.bucket.made_by.items():
        hindered = process.killed or any("bucket" in what and "twice" not in what for what in process.struck)
        if path.endswith("/run.json") and not hindered:
            state = json.loads(scene.services.bucket.objects[path])["state"]
            must(state != "running", f"{path} has no end, though its process has")


def check_files(scene: "Scene") -> None:
    """Every delivered file is in exactly one place, whole, with its reasons or its line in the ledger."""
    services = scene.services
    ledger = {line["_id"]: line["kind"] for line in documents(services, "batches")}
    delivered = {file.digest: file for file in scene.delivered}
    must(ledger.keys() <= delivered.keys(), "the ledger knows a file that nobody has delivered")
    for file in scene.delivered:
        _check_place(services, ledger, file.name, file.digest, file.kind)
    for kind in ("training", "prediction"):
        for name, data in kept(services, f"quarantine/{kind}/").items():
            digest, _, ending = name.partition(".")
            must(digest in delivered, f"the quarantine holds {name}, which nobody has delivered")
            must(ending != "csv" or data == delivered[digest].data, f"the quarantine holds other bytes as {name}")
            must(ending != "csv" or digest not in ledger, f"{name} lies in the quarantine and is in the ledger")


def check_wafers(scene: "Scene") -> None:
    """Every wafer of an accepted file is stored once, with the readings of the file that it names, and its label."""
    wafers = {document["_id"]: document for document in documents(scene.services, "wafers")}
    ledger = documents(scene.services, "batches")
    files = {file.digest: file for file in scene.delivered}
    brought: Counter[str] = Counter()
    for line in ledger:
        rows = files[line["_id"]].rows
        conflicts = {conflict["wafer"] for conflict in line["conflicts"]}
        for wafer in line["wafers"]:
            must(wafer in wafers, f"{wafer} of {line['file']} is not stored")
            must(wafer not in conflicts, f"{wafer} of {line['file']} is taken in and a conflict")
        lost = rows.keys() - set(line["wafers"]) - conflicts
        must(not lost, f"{line['file']} has lost {sorted(lost)}")
        must(len(line["wafers"]) == len(set(line["wafers"])), f"{line['file']} lists a wafer twice")
        brought.update(set(line["wafers"]))
        dropped = kept(scene.services, f"quarantine/{line['kind']}/").get(f"{line['_id']}.dropped.jsonl", b"")
        told = Counter(json.loads(each)["text"].partition(",")[0] for each in dropped.decode().splitlines())
        must(conflicts <= told.keys(), f"conflicts of {line['file']} are not in the quarantine: {conflicts}")
        must(max(told.values(), default=1) == 1, f"the quarantine holds a wafer of {line['file']} twice")
    for wafer, document in wafers.items():
        must(brought[wafer], f"{wafer} is stored, and no file of the ledger has it")
        _check_wafer(document, files, ledger)
    first = sum(len(line["wafers"]) - line["repeats"] - len(line["replaced"]) for line in ledger)
    # one that a broken-off run inserted, and another file replaced before its own was taken in, counts for none:
    # its own file has replaced it in turn, or has it as a conflict
    first_of = {wafer: d["earlier"][0]["batch"] for wafer, d in wafers.items() if d.get("earlier")}
    late = {line["_id"]: {*line["replaced"], *(c["wafer"] for c in line["conflicts"])} for line in ledger}
    again = sum(wafer in late.get(batch, ()) for wafer, batch in first_of.items())
    must(first <= len(wafers) <= first + again, f"{len(wafers)} wafers are stored, by the ledger {first}")


def _check_wafer(document: dict[str, Any], files: dict[str, fab.File], ledger: list[dict[str, Any]]) -> None:
    wafer = document["_id"]
    for version in (document, *document.get("earlier", ())):
        readings, _ = files[version["batch"]].rows[wafer]
        must(fab.listed(version["readings"]) == fab.listed(readings), f"{wafer} has not the readings of its file")
    labels = {files[line["_id"]].rows[wafer][1] for line in ledger if wafer in line["wafers"]} - {None}
    must(document["label"] in labels or not labels, f"{wafer} has the label {document['label']}, expected of {labels}")
    if document["label"] is not None:
        given = files[document["label_batch"]].rows[wafer][1]
        must(given == document["label"], f"{wafer} has not the label of the file that it names")


def check_registry(scene: "Scene", registry: Registry) -> None:
    """Every decision that anybody was told of is in the ledger, which aliases and stages follow; the champion loads."""
    lines = registry.ledger()
    for decision in scene.decisions:
        must(Decision.from_dict(_without(decision, "changes")) in lines, f"the ledger has lost {decision['reason']}")
    versions = registry.versions()
    present = InUse.after(lines, {version.version: version.digest for version in versions})
    aliases = registry.aliases()
    for alias in ("champion", "previous"):
        told = getattr(present, alias)
        must(aliases.get(alias) == told, f"the {alias} is {aliases.get(alias)}, by the ledger {told}")
    in_use = [version.version for version in versions if version.stage == "production"]
    must(in_use == [present.champion], f"in production are {in_use}, by the ledger {present.champion}")
    must(all(check.passed for check in registry.verify("champion")), "the champion does not load as it was registered")
    used = {line.challenger for line in lines if line.promoted}  # by ledger: it stays, also where no report was made
    left = [v.version for v in versions if v.training == RUNNING and v.version not in used]
    must(not left, f"trainings of versions {left} are neither finished nor archived")


def check_verdicts(scene: "Scene", registry: Registry) -> None:
    """Judging again gives every stored verdict, and those of the files of every prediction that came to its end."""
    wafers = {document["_id"]: document for document in documents(scene.services, "wafers")}
    bundles = {version.version: registry.load(version) for version in registry.versions()}
    rows = {one["_id"]: one for one in documents(scene.services, "predictions")}
    must(
        all(f"{r['batch']}:{r['Wafer']}:{r['model_version']}" == key for key, r in rows.items()),
        "rows under wrong keys",
    )
    for name, data in kept(scene.services, "runs/prediction-").items():
        run, _, file = name.partition("/")
        ended = json.loads(kept(scene.services, f"runs/prediction-{run}/")["run.json"])["state"] == "finished"
        if ended and file.startswith("predictions/"):
            table = pd.read_csv(io.BytesIO(data))
            rows.update({f"{name}:{row['Wafer']}": row for row in table.to_dict("records")})
    for row in rows.values():
        document = wafers[row["Wafer"]]
        told = [_judged(bundles[row["model_version"]], one, row) for one in (document, *document.get("earlier", ()))]
        must(any(told), f"judged again, {row['Wafer']} is not what version {row['model_version']} has said of it")


def _judged(bundle: Bundle, document: dict[str, Any], row: Mapping[Any, Any]) -> bool:
    """Whether `bundle` says of these readings what the row says."""
    sensors = bundle.classifier.sensor_names_
    table = pd.DataFrame([document["readings"]], columns=sensors)
    table = table.assign(wafer=row["Wafer"], order=document["order"])
    said = batches.judge_batch(bundle, table, int(row["model_version"])).wafers.iloc[0]
    told = [[np.nan if pd.isna(value) else float(value) for value in pair] for pair in _pairs(said, row)]
    return np.allclose(*told, rtol=1e-9, atol=0.0, equal_nan=True)


def _pairs(said: Any, row: Mapping[Any, Any]) -> tuple[list[Any], list[Any]]:
    """Probability and verdict of both; a wafer that nobody can judge has neither."""
    return [said["probability"], said["verdict"]], [row["probability"], row["Prediction"]]


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def check_leases(scene: "Scene") -> None:
    """Nobody dead holds a lease."""
    now = scene.world.server_time()
    held = [one["_id"] for one in documents(scene.services, "leases") if one["expires"] > now]
    must(not held, f"leases are held by the dead: {held}")
