"""A delivery of raw batch files into a folder: made by the synthetic fab, or copied from where real ones lie."""

import shutil
from pathlib import Path

from wafer.errors import DeliveryError
from wafer.fab.simulate import simulate_batches
from wafer.params import DeliverParams
from wafer.progress import shown


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


def copy_delivery(source: Path, target: Path) -> None:
    """Copy the files of the folder `source` into `target`.

    Raises:
        DeliveryError: there is no such folder.
    """
    if not source.is_dir():
        raise DeliveryError(f"{source} is not a folder: deliver.folder must hold training/ and prediction/")
    for file in sorted(source.iterdir()):
        if file.is_file():
            shutil.copyfile(file, target / file.name)
