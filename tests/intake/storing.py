"""One batch into the store, by the same calls as an ingest makes."""

from wafer.store.wafers import BatchRecord, IncomingBatch, Store


def add(store: Store, batch: IncomingBatch, tolerance: float, *, replacing: bool = False) -> BatchRecord:
    """Store the wafers of `batch`, then its line in the ledger, which is returned."""
    record, _ = store.settle(batch, store.insert([batch]), tolerance, replacing=replacing)
    store.write_ledger([record])
    return record
