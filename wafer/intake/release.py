"""Out of the quarantine: a file is judged again, under the agreement of today."""

import tempfile
from pathlib import Path

from wafer.errors import DeliveryError
from wafer.intake.contract import Contract
from wafer.intake.ingest import IngestedFile, ingest
from wafer.intake.quarantine import Entry, Quarantine
from wafer.intake.store import Store
from wafer.storage import write_bytes


def release_entry(entry: Entry, quarantine: Quarantine, contract: Contract, store: Store) -> IngestedFile:
    """Take in the file of `entry` if it is accepted now, which removes it here; else keep the new reasons.

    The file is judged under the name that it was delivered under.

    Raises:
        DeliveryError: its bytes are gone.
        StoreError: the database fails; the same call again completes the work.
    """
    known = store.known([entry.digest])
    if entry.digest in known and not entry.path.exists():
        quarantine.discard(entry.digest)
        return IngestedFile(entry.file, entry.digest, "accepted", [], [], len(known[entry.digest].wafers), known=True)
    try:
        data = entry.path.read_bytes()
    except OSError as error:
        raise DeliveryError(f"{entry.path}: {error.strerror or error}") from error
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, entry.file)
        write_bytes(path, data)
        (outcome,) = ingest([path], contract, store, quarantine).files
    return outcome
