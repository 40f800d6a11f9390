"""`wafer monitor`: what left control, and when, of wafers in files or of the latest prediction."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafer.cli.store import as_json
from wafer.errors import EmptyError
from wafer.shown import shown_text

if TYPE_CHECKING:
    import pandas as pd

    from wafer.diagnosis.monitoring import Monitored
    from wafer.records import Kind
    from wafer.workspace import Workspace

    Asked = tuple["pd.DataFrame", int, str]  # wafers with their batch, and the model's number and folder

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
    batches of the latest prediction are, with the readings that the store holds now, by the model that scored them. A
    wafer that several files hold counts once. Limits are those of the good wafers that the
    model trained on.

    \b
    Examples:
      wafer monitor
      wafer monitor incoming/prediction --json
    """
    import wafer
    from wafer.scoring.judge import judge

    with wafer.open() as workspace:
        wafers, version, key = _predicted(workspace) if folder is None else _delivered(workspace, folder, kind)
        wafers = wafers.sort_values("order", kind="stable").drop_duplicates("wafer", ignore_index=True)
        bundle = workspace.bundle(key)
        readings = wafers[bundle.classifier.sensor_names_]
        order, batches = wafers["order"].to_numpy(), wafers["batch"].to_numpy(object)
        found = judge(bundle, readings, order, version=version, monitor=True, batches=batches).monitored
    assert found is not None
    told = _told(found, wafers, version)
    click.echo(json.dumps(told, indent=2, allow_nan=False) if as_json else _text(told))


def _predicted(workspace: "Workspace") -> "Asked":
    """The wafers of the latest prediction, and the model that scored them."""
    import pandas as pd

    from wafer.records import Predicted

    run = workspace.runs.latest("prediction")
    if run is None:
        raise EmptyError("nothing was predicted yet: name a folder of batch files, or run wafer predict first")
    predicted = run.read(Predicted)
    known = workspace.store.known([one["digest"] for one in workspace.storage.read_json(run.key("predictions.json"))])
    sensors = workspace.form("prediction").sensors
    tables = [
        workspace.store.read_wafers(one.wafers, sensors).assign(batch=one.file) for one in known.values() if one.wafers
    ]
    if not tables:
        raise EmptyError("the latest prediction has no wafers: all of its files contradict stored ones")
    return pd.concat(tables, ignore_index=True), predicted.model_version, predicted.model_folder


def _delivered(workspace: "Workspace", folder: Path, kind: "Kind") -> "Asked":
    """The wafers of the accepted files of a folder, and the model in use."""
    import pandas as pd

    from wafer.contract.suites import judge_files
    from wafer.delivered import list_files
    from wafer.intake.ingest import production_order
    from wafer.preflight import need_champion
    from wafer.registry.champion import fetch_champion

    contract, listing = workspace.contract(kind), list_files([folder], workspace.settings.link_roots)
    need_champion(workspace)
    tables = []
    for delivery, verdict in judge_files(listing.files, contract):
        if verdict.accepted and delivery.table is not None:
            table = delivery.table.to_pandas()
            order = production_order(contract.order, contract.form.wafer_id, list(table["wafer"]), delivery.file)
            tables.append(table.assign(order=order, batch=delivery.file))
        else:
            click.echo(f"left out, since it is {verdict.word}: {shown_text(delivery.file)}", err=True)
    if not tables:
        raise EmptyError(listing.why_empty or f"no file of {shown_text(folder)} keeps the agreement of a {kind}")
    return pd.concat(tables, ignore_index=True), *fetch_champion(workspace.registry, workspace.storage)


def _told(found: "Monitored", wafers: "pd.DataFrame", version: int) -> dict[str, Any]:
    """The frames as plain values, with wafers and batches in the place of rows."""
    ids, batches = wafers["wafer"].astype(str).to_numpy(), wafers["batch"].to_numpy(object)
    sensors = found.sensors.assign(
        batch=batches[found.sensors["first"].to_numpy(int)], **{k: ids[found.sensors[k]] for k in ("first", "last")}
    )
    above = found.contributions.assign(wafer=ids[found.contributions["row"].to_numpy(int)])
    return {
        "model_version": version,
        "wafers": len(wafers),
        "out_of_control": int(found.wafers["out_of_control"].sum()),
        "batches": found.batches.to_dict("records"),
        "sensors": sensors.to_dict("records"),
        "contributions": above.drop(columns="row").to_dict("records"),
    }


def _text(told: dict[str, Any]) -> str:
    lines = [
        f"{told['out_of_control']} of {told['wafers']} wafers are beyond a limit of T² or SPE (model version "
        f"{told['model_version']}); sensors that moved most:"
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
