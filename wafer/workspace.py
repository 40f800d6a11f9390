"""What a process holds open while it works: settings, storage, store, contracts, registry, runs.

Opened once by whoever works, a flow's task, a command, a notebook, and closed once. Each part is opened when it is
first asked for. Settings are read elsewhere only where no workspace is open: `wafer.preflight` looks ahead before
anything is made, `wafer.boundary` names the place or address that failed, and some commands need no more than where the
project's files lie (a check of files, the parameters in use, a study).
"""

from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from upath import UPath

from wafer.records import Kind
from wafer.runs import KINDS, Runs
from wafer.settings import Settings
from wafer.shown import facts_html
from wafer.storage import Storage, is_local

if TYPE_CHECKING:
    from wafer.contract.form import Form
    from wafer.contract.suites import Contract
    from wafer.registry import Registry
    from wafer.scoring.bundle import Bundle
    from wafer.store.leases import Lease
    from wafer.store.snapshot import Snapshot
    from wafer.store.wafers import Store


def open(**overrides: Any) -> "Workspace":
    """The workspace of this process: where the environment and the project's `.env` say that things are.

    Args:
        overrides: fields of `wafer.settings.Settings`, such as `storage_url`, which win over the environment.

    Raises:
        SettingsError: a variable cannot be used.

    Example:
        >>> with wafer.open(storage_url="data/demo") as workspace:  # doctest: +SKIP
        ...     workspace.runs.latest("training")
    """
    return Workspace(Settings.read(**overrides))


class Workspace:
    """What one process works with; made by `wafer.open`, and to be closed: `with wafer.open() as workspace`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.__exit__(kind, error, trace)

    def close(self) -> None:
        """Let go of the database; what was not opened needs no closing."""
        self._closing.close()

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it; nothing is opened for that."""
        newest = {kind: self.runs.latest(kind) for kind in KINDS}
        return {
            "storage": self.storage.root,
            "project": self.settings.project,
            "database": self.settings.mongodb_url or "embedded",
            "registry": self.settings.tracking_uri,
            "newest runs": [run.id for run in newest.values() if run is not None],
        }

    _repr_html_ = facts_html

    @property
    def storage(self) -> Storage:
        """Where all outputs lie, by keys."""
        return self.settings.storage

    @cached_property
    def runs(self) -> Runs:
        """The pieces of work that were done in this storage."""
        return Runs(self.storage)

    @cached_property
    def store(self) -> "Store":
        """The wafer database.

        Raises:
            StoreError: it cannot be reached or started.
        """
        from wafer.store.wafers import open_store

        return self._closing.enter_context(open_store(self.settings))

    @cached_property
    def registry(self) -> "Registry":
        """The model registry.

        Raises:
            RegistryError: it cannot be reached.
        """
        from wafer.registry import Registry

        return Registry.open(self.settings)

    def lease(self, name: str, run: str = "") -> "AbstractContextManager[Lease]":
        """The right to write what `name` stands for, while nobody else does: `with workspace.lease("gate", run.id)`.

        Raises:
            LeaseError: somebody else has it, and goes on having it for a minute.
        """
        from wafer.store.leases import lease

        return lease(self.store, name, run=run)

    def contract(self, kind: Kind) -> "Contract":
        """What a delivery of this kind may look like.

        Raises:
            AgreementError: the suite cannot be used.
        """
        from wafer.contract.suites import Contract

        return Contract.load(kind, self.expectations)

    def form(self, kind: Kind) -> "Form":
        """The file-level agreement of one kind."""
        from wafer.contract.suites import Contract

        return Contract.load_form(kind, self.expectations)

    @property
    def expectations(self) -> Path:
        """The folder of the suites."""
        return self.settings.default("expectations")

    @property
    def notebooks(self) -> Path:
        """The folder of the notebooks."""
        return self.settings.default("notebooks")

    @property
    def params_file(self) -> Path:
        """The parameters that hold where no others are named."""
        return self.settings.default("params.yaml")

    def link(self, key: str) -> str:
        """The address by which people open a page: on the server of WAFER_PAGES_URL, else where it lies."""
        place = self.storage.place(key)
        if self.settings.pages_url is not None:
            return f"{self.settings.pages_url.rstrip('/')}/{quote(key)}"
        return place.as_uri() if is_local(place) else str(place)

    def raw(self, kind: Kind) -> UPath:
        """Where batch files of this kind are delivered to by default: `raw/<kind>` of the storage.

        Where nobody has put any there, those that the newest run of the kind `delivery` has brought.
        """
        from wafer.records import Delivered

        delivery = self.runs.latest("delivery")
        if delivery is None or self.storage.exists(f"raw/{kind}"):
            return self.storage.place(f"raw/{kind}")
        return self.storage.place(getattr(delivery.read(Delivered), kind))

    def snapshot(self, key: str) -> "Snapshot":
        """The snapshot in a folder of the storage.

        Raises:
            SnapshotError: it is missing, or its values are not those of its manifest.
        """
        from wafer.store.snapshot import read_snapshot

        return read_snapshot(self.storage.place(key))

    def bundle(self, key: str) -> "Bundle":
        """What was saved of a training in a folder of the storage.

        Raises:
            ModelError: there is none.
            TamperedError: a part is not what was saved.
        """
        from wafer.scoring.bundle import Bundle

        with self.storage.local(key) as folder:
            return Bundle.load(folder, n_jobs=self.settings.jobs)
