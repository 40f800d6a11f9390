"""Safeguards that are taken from the product, which the seeds must find: python -m tests.simulation --mutate NAME."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from wafer.registry.ledger import LedgerStore
from wafer.storage import Storage, _refused
from wafer.store.documents import Document, IncomingBatch
from wafer.store.leases import Lease
from wafer.store.wafers import Store
from wafer.workspace import Workspace

insert, write_once = Store.insert, LedgerStore._write_once


def put_without_condition(self: Storage, key: str, data: bytes, tag: str | None) -> bool:
    """Write over whatever another writer has put meanwhile."""
    self.place(key).write_bytes(data)
    return True


def ledger_first(self: Store, batches: Sequence[IncomingBatch]) -> dict[str, Document]:
    """Write the ledger's lines before the wafers that they tell of."""
    self.write_ledger([self.settle(batch, {}, 0.0)[0] for batch in batches])
    return insert(self, batches)


class Nobody:
    """A lease that nobody else has to respect."""

    def __enter__(self) -> "Nobody":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was taken."""

    def check(self) -> None:
        """Always held."""


def number_is_mine(self: LedgerStore, run_id: str, key: str, value: str) -> bool:
    """Take a decision for written whoever had its number first."""
    write_once(self, run_id, key, value)
    return True


def refused_is_refused(self: Storage, key: str, data: bytes, tag: str | None) -> bool:
    """Do not look whether a put was refused for an earlier one of this very writer."""
    place = self.place(key)
    bucket, _, name = place.path.partition("/")
    condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
    try:
        place.fs.call_s3("put_object", Bucket=bucket, Key=name, Body=data, **condition)
    except OSError as error:
        if _refused(error):
            return False
        raise
    return True


MUTATIONS: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "put without a condition": (Storage, "_put", put_without_condition),
    "ledger before wafers": (Store, "insert", ledger_first),
    "no lease": (Workspace, "lease", lambda *_: Nobody()),
    "no renewal": (Lease, "_beat", lambda *_: None),
    "number not verified": (LedgerStore, "_write_once", number_is_mine),
    "no look after a refusal": (Storage, "_put", refused_is_refused),
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The product with one of its safeguards taken away."""
    with patch.object(*MUTATIONS[name]):
        yield
