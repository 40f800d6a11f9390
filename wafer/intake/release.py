"""Out of the quarantine: a file is judged again, under the agreement of today."""

from collections.abc import Callable
from pathlib import Path

from wafer.contract.facts import read_delivery
from wafer.contract.suites import Contract
from wafer.errors import DeliveryError
from wafer.intake.ingest import IngestedFile
from wafer.intake.quarantine import Entry, Quarantine
from wafer.intake.single import take_in_one
from wafer.shown import shown_text
from wafer.storage import AnyPath, is_local
from wafer.store.wafers import Store


def release_entry(
    entry: Entry,
    quarantine: Quarantine,
    contract: Contract,
    store: Store,
    original: AnyPath | None = None,
    *,
    may_write: Callable[[], None] = lambda: None,
) -> IngestedFile:
    """Take in the file of `entry` if it is accepted now, which removes it here; else keep the new reasons.

    The file is judged under the name that it was delivered under. Of one that is not kept whole, `original` is needed.
    `may_write` is asked before anything is written, and raises where somebody else writes by now.

    Raises:
        DeliveryError: its bytes are gone, not kept whole, or not those that were quarantined.
        StoreError: the database fails; the same call again completes the work.
    """
    known = store.known([entry.digest]).get(entry.digest)
    if known is not None and known.kind == contract.kind and not entry.path.exists():
        quarantine.discard(entry.digest)
        return IngestedFile(entry.file, entry.digest, "accepted", [], [], len(known.wafers), known=True)
    if original is None and not entry.whole:
        kept, size = entry.verdict["bytes_kept"], entry.verdict["size"]
        raise DeliveryError(
            f"{shown_text(entry.file)}: only the first {kept:,} of its {size:,} bytes were kept, name the original "
            f"(--original), which lay at {shown_text(entry.verdict['path'])} and has the SHA-256 {entry.digest}"
        )
    path = entry.path if original is None else original
    within = (Path(str(quarantine.folder)),) if original is None and is_local(quarantine.folder) else None
    delivery = read_delivery(path, contract.form, entry.file, within)
    if delivery.unread is not None:
        raise DeliveryError(f"{shown_text(path)}: {delivery.unread}")
    if delivery.digest != entry.digest:
        raise DeliveryError(
            f"{shown_text(path)}: is not the file that was quarantined, whose SHA-256 is {entry.digest}, "
            f"but one with {delivery.digest}"
        )
    return take_in_one(delivery, contract, store, quarantine, may_write=may_write)
