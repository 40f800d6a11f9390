"""Out of the quarantine: a file is judged again, under the agreement of today."""

from wafer.contract.facts import read_delivery
from wafer.contract.suites import Contract
from wafer.contract.verdicts import keep_rows
from wafer.errors import DeliveryError
from wafer.intake.ingest import IngestedFile, take_in
from wafer.intake.quarantine import Entry, Quarantine
from wafer.store.wafers import Store


def release_entry(entry: Entry, quarantine: Quarantine, contract: Contract, store: Store) -> IngestedFile:
    """Take in the file of `entry` if it is accepted now, which removes it here; else keep the new reasons.

    The file is judged under the name that it was delivered under.

    Raises:
        DeliveryError: its bytes are gone.
        StoreError: the database fails; the same call again completes the work.
    """
    known = store.known([entry.digest]).get(entry.digest)
    if known is not None and known.kind == contract.kind and not entry.path.exists():
        quarantine.discard(entry.digest)
        return IngestedFile(entry.file, entry.digest, "accepted", [], [], len(known.wafers), known=True)
    delivery = read_delivery(entry.path, contract.form, entry.file)
    if delivery.unread is not None:
        raise DeliveryError(f"{entry.path}: {delivery.unread}")
    (verdict,) = contract.judge([delivery])
    ((outcome,),) = take_in(iter([(keep_rows(delivery, verdict), verdict)]), contract, store, quarantine)
    return outcome
