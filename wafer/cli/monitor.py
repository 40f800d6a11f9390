"""`wafer monitor`: what left control, and when, of wafers in files or of the latest prediction."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafer.cli.store import as_json
from wafer.errors import EmptyError, ModelError
from wafer.shown import shown_text

if TYPE_CHECKING:
    from wafer.records import Kind
    from wafer.scoring.control import Control
    from wafer.workspace import Workspace

MOST_LINES = 20  # of batches, and of sensors, that are printed


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(["training", "prediction"]),
    default="prediction",
    show_default=True,
    help="Which agreement the files of FOLDER keep; good and faulty wafers alike are looked at.",
)
@as_json
def monitor(folder: Path | None, kind: "Kind", as_json: bool) -> None:
    """Tell which sensors left control, and when, and which batches lie beyond the limits of T² and SPE.

    FOLDER holds batch files, of which those that keep the agreement are looked at, by the model in use. Without it the
    findings of the latest prediction are told, as its report has them. A wafer that several files hold counts once.
    Limits are those of the good wafers that the model trained on.

    \b
    Examples:
      wafer monitor
      wafer monitor incoming/prediction --json
    """
    import wafer

    with wafer.open() as workspace:
        found, version = _predicted(workspace) if folder is None else _delivered(workspace, folder, kind)
    told = _told(found, version)
    click.echo(json.dumps(told, indent=2, allow_nan=False) if as_json else _text(told))


def _predicted(workspace: "Workspace") -> "tuple[Control, int]":
    """What left control in the latest prediction, and the model that scored it."""
    from wafer.records import Predicted
    from wafer.reporting.process import read_control

    run = workspace.runs.latest("prediction")
    if run is None:
        raise EmptyError("nothing was predicted yet: name a folder of batch files, or run wafer predict first")
    predicted = run.read(Predicted)
    if not predicted.wafers:
        raise EmptyError("the latest prediction has no wafers: all of its files contradict stored ones")
    found = read_control(workspace.storage.place(predicted.details))
    if found.wafers.empty:
        raise ModelError("the model of the latest prediction cannot monitor: it learned no control charts")
    return found, predicted.model_version


def _delivered(workspace: "Workspace", folder: Path, kind: "Kind") -> "tuple[Control, int]":
    """What left control in the accepted files of a folder, and the model in use."""
    from wafer.contract.suites import judge_files
    from wafer.delivered import list_files
    from wafer.intake.ingest import production_order
    from wafer.preflight import need_champion
    from wafer.registry.champion import fetch_champion
    from wafer.scoring.control import ControlLog

    contract, listing = workspace.contract(kind), list_files([folder], workspace.settings.link_roots)
    need_champion(workspace)
    batches = []
    for delivery, verdict in judge_files(listing.files, contract):
        if verdict.accepted and delivery.table is not None:
            table = delivery.table.to_pandas()
            order = production_order(contract.order, contract.form.wafer_id, list(table["wafer"]), delivery.file)
            batches.append((int(order.min()), delivery.file.rsplit(".", 1)[0], table.assign(order=order)))
        else:
            click.echo(f"left out, since it is {verdict.word}: {shown_text(delivery.file)}", err=True)
    if not batches:
        raise EmptyError(listing.why_empty or f"no file of {shown_text(folder)} keeps the agreement of a {kind}")
    version, key = fetch_champion(workspace.registry, workspace.storage)
    bundle = workspace.bundle(key)
    if bundle.monitor is None:
        raise ModelError("the model cannot monitor: it learned no control charts when it was trained")
    log = ControlLog(bundle)
    for _, name, table in sorted(batches, key=lambda one: one[:2]):
        log.add(name, table)
    return log.control(), version


def _told(found: "Control", version: int) -> dict[str, Any]:
    """The frames as plain values."""
    wafers = found.wafers.drop_duplicates("Wafer")
    return {
        "model_version": version,
        "wafers": len(wafers),
        "out_of_control": int(wafers["out_of_control"].sum()),
        "batches": found.batches.to_dict("records"),
        "sensors": found.sensors.to_dict("records"),
        "contributions": found.contributions.to_dict("records"),
    }


def _text(told: dict[str, Any]) -> str:
    lines = [
        f"{told['out_of_control']} of {told['wafers']} wafers are beyond a limit of T² or SPE (model version "
        f"{told['model_version']}); sensors that changed most:"
    ]
    for one in told["batches"][-MOST_LINES:]:
        above = f"T² {one['t2']}, SPE {one['spe']} of {one['wafers']} wafers"
        lines.append(f"  {shown_text(one['batch'])}: {above}; {one['shifted']}")
    if len(told["batches"]) > MOST_LINES:
        lines.append(f"  and {len(told['batches']) - MOST_LINES} batches before; --json tells all")
    if not told["sensors"]:
        return "\n".join([*lines, "no sensor's own chart left control"])
    lines.append(f"{len({one['sensor'] for one in told['sensors']})} sensors left control on their own charts:")
    for one in told["sensors"][:MOST_LINES]:
        first, last, batch = (shown_text(one[name]) for name in ("first", "last", "batch"))
        lines.append(
            f"  {one['sensor']}: {one['rule']}, first at {first} ({batch}), last at {last}, {one['wafers']} wafers"
        )
    if len(told["sensors"]) > MOST_LINES:
        lines.append(f"  and {len(told['sensors']) - MOST_LINES} more lines; --json tells all")
    return "\n".join(lines)
