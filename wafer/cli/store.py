"""The commands about what is kept: `wafer store …` and `wafer quarantine …`."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafer.errors import EXIT_NEGATIVE
from wafer.shown import shown_text

if TYPE_CHECKING:
    from wafer.intake.quarantine import Entry, Quarantine
    from wafer.store.documents import BatchRecord
    from wafer.store.leases import Holder
    from wafer.workspace import Workspace

KINDS = ("training", "prediction")

one_kind = click.option("--kind", type=click.Choice(KINDS), default=None, help="Only deliveries of this kind.")
expectations_folder = click.option(
    "--expectations",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of the suites; default: expectations/ of the project, else the library's own.",
)


def own_suites() -> Path:
    """The folder of the suites where none is named."""
    from wafer.settings import find_project, own_or_default

    return own_or_default(find_project(), "expectations")


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


@click.group()
def store() -> None:
    """See what the wafer database holds, and get an earlier training table back."""


@store.command()
@as_json
def status(as_json: bool) -> None:
    """Count batches, wafers and labels, name the last batch that was taken in, and who writes now.

    \b
    Example:
      wafer store status --json
    """
    import wafer
    from wafer.store.leases import leases

    with wafer.open() as workspace:
        held, holders = workspace.store.status(), leases(workspace.store)
    last = None if held.last is None else _told(held.last)
    if as_json:
        named = [{**asdict(holder), **_times(holder)} for holder in holders]
        click.echo(json.dumps({**asdict(held), "last": last, "leases": named}, indent=2))
        return
    click.echo(f"wafers       {held.wafers:>9,}  ({held.labelled:,} labelled, {held.faulty:,} faulty)")
    click.echo(
        f"batches      {sum(held.batches.values()):>9,}  ({', '.join(f'{n:,} {k}' for k, n in held.batches.items())})"
    )
    click.echo(f"predictions  {held.predictions:>9,}")
    click.echo(f"conflicts    {held.conflicts:>9,}  (wafers turned away; `wafer quarantine list` shows them)")
    click.echo(f"replaced     {held.replaced:>9,}  (wafers with a history)")
    told = "never" if last is None else f"{last['time']}  {shown_text(last['file'])} ({last['kind']})"
    click.echo(f"last ingest  {told}")
    click.echo(f"leases       {len(holders):>9,}")
    for holder in holders:
        click.echo(f"    {shown_text(holder)}")


def _times(holder: "Holder") -> dict[str, str]:
    return {name: getattr(holder, name).isoformat(timespec="seconds") for name in ("since", "beat", "expires")}


def _told(record: "BatchRecord") -> dict[str, str | None]:
    time = None if record.taken_in is None else record.taken_in.isoformat(timespec="seconds")
    return {"file": record.file, "kind": record.kind, "digest": record.digest, "time": time}


@store.command()
@click.option("--manifest", required=True, help="A snapshot's manifest.json or folder, or the start of its digest.")
@click.option(
    "--out",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "csv"]),
    default="parquet",
    show_default=True,
    help="A snapshot folder, or one CSV with text quoted.",
)
def export(manifest: str, out: Path, form: str) -> None:
    """Rebuild an earlier snapshot from what the database holds, to the same digest, whatever came since.

    \b
    Examples:
      wafer store export --manifest 3f2a90c1                      (of the storage's snapshots)
      wafer store export --manifest old/manifest.json --format csv --out export
    """
    import wafer
    from wafer.store.snapshot import find_manifest, rebuild, write_csv, write_snapshot

    with wafer.open() as workspace:
        workspace.storage.need_bucket()
        rebuilt = rebuild(workspace.store, find_manifest(workspace.storage.place("snapshot"), manifest))
    target = write_csv(rebuilt, out) if form == "csv" else write_snapshot(rebuilt, out)
    click.echo(f"{shown_text(target)}: {rebuilt.manifest['wafers']} wafers, digest {rebuilt.digest}")


@click.group()
def quarantine() -> None:
    """See what was turned away and why, and take it in when it is as agreed by now."""


@quarantine.command("list")
@one_kind
@as_json
def list_entries(kind: str | None, as_json: bool) -> None:
    """List quarantined files and the rules they break, and single wafers that were dropped or contradict others."""
    import wafer

    with wafer.open() as workspace:
        places = dict(_places(workspace, kind))
    if as_json:
        found = {
            name: {"files": [e.verdict for e in place.entries()], "wafers": place.dropped()}
            for name, place in places.items()
        }
        click.echo(json.dumps(found, indent=2))
        return
    files = wafers = 0
    for name, place in places.items():
        for entry in place.entries():
            files += 1
            rules = ", ".join(dict.fromkeys(reason["rule"] for reason in entry.verdict["reasons"]))
            part = "" if entry.whole else f"  ({_kept(entry)})"
            click.echo(f"{name:<10}  {entry.digest[:8]}  {shown_text(entry.file)}  {rules}{part}")
        for row in place.dropped():
            wafers += 1
            told = "; ".join(reason["message"] for reason in row["reasons"])
            click.echo(f"{name:<10}  {row['digest'][:8]}  {shown_text(row['file'])}  {told}")
    click.echo(f"{files} files and {wafers} single wafers in quarantine")


@quarantine.command()
@click.argument("name")
@one_kind
@as_json
def show(name: str, kind: str | None, as_json: bool) -> None:
    """Tell every reason against one file, or its single wafers; NAME is its name or the start of its digest."""
    import wafer
    from wafer.intake.quarantine import is_called

    with wafer.open() as workspace:
        rows = [
            row
            for _, place in _places(workspace, kind)
            for row in place.dropped()
            if is_called(row["file"], row["digest"], name)
        ]
        entry = None if rows and not _entries(workspace, kind, name) else _find(workspace, kind, name)[2]
    verdict = {} if entry is None else {**entry.verdict, "kept": str(entry.path)}
    if as_json:
        click.echo(json.dumps({**verdict, "wafers": rows}, indent=2))
        return
    if entry is not None:
        click.echo(f"{shown_text(entry.file)}\nbytes   {shown_text(entry.path, 1000)}\ndigest  {entry.digest}")
        if not entry.whole:
            lay = (
                f"lay at {shown_text(entry.verdict['path'])}" if "path" in entry.verdict else "was sent to the service"
            )
            click.echo(f"        {_kept(entry)}; the original {lay}")
        _tell(entry.verdict)
    for row in rows:
        click.echo(f"{shown_text(row['file'])}, line {row['line']}: {shown_text(row['text'], 60)}")
        _tell(row)


@quarantine.command()
@click.argument("name")
@one_kind
@expectations_folder
@click.option(
    "--original",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The delivered file, where the quarantine holds its first bytes only.",
)
def release(name: str, kind: str | None, expectations: Path | None, original: Path | None) -> None:
    """Check a quarantined file again under the present agreement, and take it in if it is accepted.

    NAME is its name or the start of its digest. Exit status: 0 taken in, 1 still not as agreed.

    \b
    Examples: after `wafer agreement import new_agreement.json`
      wafer quarantine release wafer_07012020_041011.csv
      wafer quarantine release 3f2a90c1 --original incoming/wafer_07012020_041011.csv
    """
    import wafer
    from wafer.contract.suites import Contract
    from wafer.intake.release import release_entry

    with wafer.open() as workspace:
        of_kind, place, entry = _find(workspace, kind, name)
        contract = Contract.load(of_kind, expectations or workspace.expectations)
        with workspace.lease(f"ingest-{of_kind}") as lease:
            outcome = release_entry(entry, place, contract, workspace.store, original, may_write=lease.check)
    if outcome.verdict == "accepted":
        click.echo(f"{shown_text(entry.file)}: taken in, {outcome.wafers} wafers, {outcome.stored} of them new")
        for conflict in outcome.conflicts:
            which, stored_file = shown_text(conflict["wafer"]), shown_text(conflict["stored_file"])
            click.echo(f"    conflict: {which} is stored from {stored_file}")
        return
    click.echo(f"{shown_text(entry.file)}: still quarantined")
    _tell({"reasons": outcome.reasons, "warnings": outcome.warnings})
    sys.exit(EXIT_NEGATIVE)


def _places(workspace: "Workspace", kind: str | None) -> "Iterator[tuple[str, Quarantine]]":
    from wafer.intake.quarantine import Quarantine

    workspace.storage.need_bucket()
    for name in KINDS if kind is None else (kind,):
        yield name, Quarantine(workspace.storage.place(f"quarantine/{name}"))


def _kept(entry: "Entry") -> str:
    return f"the first {entry.verdict['bytes_kept']:,} of {entry.verdict['size']:,} bytes are kept"


def _entries(workspace: "Workspace", kind: str | None, name: str) -> "list[tuple[str, Quarantine, Entry]]":
    """The entries that `name` means, with their kind and quarantine."""
    return [(of_kind, place, entry) for of_kind, place in _places(workspace, kind) for entry in place.find(name)]


def _find(workspace: "Workspace", kind: str | None, name: str) -> "tuple[str, Quarantine, Entry]":
    """The one entry that `name` means.

    Raises:
        DeliveryError: there is none, or more than one.
    """
    from wafer.errors import DeliveryError

    found = _entries(workspace, kind, name)
    if len(found) == 1:
        return found[0]
    told = shown_text(name)
    if not found:
        where = workspace.storage.place("quarantine")
        raise DeliveryError(f"{where}: no single file fits {told!r}, `wafer quarantine list` shows what is there")
    if len({of_kind for of_kind, _, _ in found}) == len(found):
        raise DeliveryError(f"{told!r} is in the quarantine of both kinds: say --kind training or --kind prediction")
    digests = ", ".join(entry.digest[:12] for _, _, entry in found[:5])
    raise DeliveryError(f"{told!r} means {len(found)} quarantined files, name one by its digest: {digests}")


def _tell(verdict: dict[str, Any]) -> None:
    for reason in verdict["reasons"]:
        click.echo(f"    {reason['rule']}: {reason['message']}")
    for warning in verdict.get("warnings", ()):
        click.secho(f"    {warning['rule']} (warning): {warning['message']}", dim=True)
