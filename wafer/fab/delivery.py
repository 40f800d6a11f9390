"""A delivery of raw batch files, to a folder or bucket: made by the synthetic fab, or copied from where others lie."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from wafer.delivered import list_files, read_parts
from wafer.errors import DeliveryError, UnreadError
from wafer.fab.simulate import simulate_batches
from wafer.params import DeliverParams
from wafer.progress import shown
from wafer.shown import shown_text
from wafer.storage import AnyPath, write_bytes


def simulate_delivery(kind: str, target: Path, fab: DeliverParams) -> None:
    """Fill `target` with the fab's batches of a kind; those to predict follow the labelled ones in time."""
    labelled = kind == "training"
    count = fab.training_batches if labelled else fab.prediction_batches
    first = 0 if labelled else fab.training_batches
    if count == 0:
        return
    with shown(f"simulate {kind}") as progress:
        files = simulate_batches(
            target, batches=count, wafers=fab.wafers, seed=fab.seed, labelled=labelled, first_batch=first
        )
        for done, _ in enumerate(files, 1):
            progress(done, count)


def copy_delivery(source: Path, target: Path, link_roots: Sequence[Path] = ()) -> None:
    """Copy the batch files of the folder `source` into `target`, in which every entry must be one that may be read.

    Raises:
        DeliveryError: there is no such folder, it has inner folders and no batch file, or an entry is no file that may
            be read, such as a link that leads elsewhere (see `wafer.delivered`).
    """
    if not source.is_dir():
        raise DeliveryError(f"{shown_text(source)} is not a folder; one that holds batch files is needed")
    listing = list_files([source], link_roots)
    if listing.folders and listing.why_empty:
        raise DeliveryError(listing.why_empty)
    for entry in listing.files:
        try:
            with (target / entry.path.name).open("wb") as copy:
                for part in read_parts(entry.path, entry.within):
                    copy.write(part)
        except UnreadError as error:
            raise DeliveryError(f"{shown_text(entry.path)} cannot be delivered: {error}") from error


def bring_delivery(source: Path, target: AnyPath, link_roots: Sequence[Path] = ()) -> list[str]:
    """Copy the batch files of the folder `source` to where they are taken in from; each appears there whole.

    Returns: the names of those that were not there, or not with these bytes.

    Raises:
        DeliveryError: as `copy_delivery`.
    """
    brought = []
    with tempfile.TemporaryDirectory() as aside:
        copy_delivery(source, Path(aside), link_roots)
        files = sorted(Path(aside).iterdir())
        with shown("deliver") as progress:
            for done, file in enumerate(files, 1):
                place, data = target / file.name, file.read_bytes()
                if not place.exists() or place.read_bytes() != data:
                    write_bytes(place, data)
                    brought.append(file.name)
                progress(done, len(files))
    return brought
