"""One file taken in by itself, under the agreement of today."""

from collections.abc import Callable

from wafer.contract.facts import Delivery
from wafer.contract.suites import Contract
from wafer.contract.verdicts import keep_rows
from wafer.intake.ingest import IngestedFile, take_in
from wafer.intake.quarantine import Quarantine
from wafer.store.wafers import Store


def take_in_one(
    delivery: Delivery,
    contract: Contract,
    store: Store,
    quarantine: Quarantine,
    *,
    may_write: Callable[[], None] = lambda: None,
) -> IngestedFile:
    """Judge a file that was read, then store its wafers or quarantine it, as `wafer.intake.ingest.ingest` does.

    Raises:
        DeliveryError: the quarantine cannot be written.
        StoreError: the database fails; the same call again completes the work.
    """
    (verdict,) = contract.judge([delivery])
    judged = iter([(keep_rows(delivery, verdict), verdict)])
    ((outcome,),) = take_in(judged, contract, store, quarantine, may_write=may_write)
    return outcome
