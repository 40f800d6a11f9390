"""The champion as the service has it: loaded once, verified, and replaced without a pause when another one is named."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wafer.params import RECENT
from wafer.service.problems import Problem
from wafer.shown import shown_message
from wafer.workspace import Workspace

if TYPE_CHECKING:
    from wafer.registry import Registry
    from wafer.scoring.bundle import Bundle
    from wafer.store.wafers import Store

log = logging.getLogger("wafer")
LAST_PLACE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Served:
    """A version that scores; never changed.

    Attributes:
        version: in the registry.
        bundle: its parts, whose digests agree with the registry.
        recent: probabilities that it gave to the wafers of the newest stored predictions, oldest first, which a rolling
            threshold follows.
        created: when it was registered, ISO 8601 in UTC.
        loaded: when it was loaded.
    """

    version: int
    bundle: "Bundle"
    recent: tuple[float, ...]
    created: str
    loaded: datetime

    @cached_property
    def columns(self) -> "pd.Index[str]":
        """The sensors that it reads, as the columns of a frame."""
        return pd.Index(self.names)

    @cached_property
    def names(self) -> list[str]:
        """The sensors that it reads, in its sequence."""
        return list(self.bundle.classifier.sensor_names_)


class Champion:
    """Holds what is served, and looks every `seconds` whether the registry names another version."""

    def __init__(
        self, workspace: Workspace, registry: Callable[[], "Registry"], store: Callable[[], "Store"], seconds: float
    ) -> None:
        self._workspace, self._registry, self._store, self._seconds = workspace, registry, store, seconds
        self._served: Served | None = None
        self._why = "the model is being loaded"
        self._looking = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="champion", daemon=True)
        self.loads = {"loaded": 0, "refused": 0}
        self.on_load: Callable[[], object] = lambda: None
        """Called once another version can serve, and before it does."""

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(timeout=60.0)

    def now(self) -> Served:
        """What is served at this moment.

        Raises:
            Problem: there is none.
        """
        if self._served is None:
            raise Problem("unavailable", self._why)
        return self._served

    @property
    def served(self) -> Served | None:
        """What is served at this moment; None where nothing is."""
        return self._served

    @property
    def why_not(self) -> str | None:
        """Why nothing is served, or why the present champion is not; None where it is."""
        return self._why or None

    def look(self) -> None:
        """See which version is named; load it where it is another one, else take in what it has scored meanwhile."""
        with self._looking:
            try:
                self._served, self._why = self._seen()
            except Exception as error:  # noqa: BLE001 - what is served stays in service, and the next look tries again
                self.loads["refused"] += 1
                told = shown_message(f"the champion cannot be loaded: {error}", 500)
                if told != self._why:
                    log.warning("%s", told)
                self._why = told

    def _seen(self) -> tuple[Served | None, str]:
        """What is to be served, and why nothing is."""
        named = self._registry().champion()
        if named is None:
            return None, "no model is in use yet: train one first"
        served = self._served
        if served is None or served.version != named.version:
            served = self._load()
            log.info("version %d scores from now on", served.version)
        return replace(served, recent=self._recent(served)), ""

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(self._seconds if self._served else min(1.0, self._seconds))

    def _load(self) -> Served:
        from wafer.registry.champion import fetch_champion
        from wafer.scoring.judge import judge

        began = time.perf_counter()
        version, key = fetch_champion(self._registry(), self._workspace.storage)
        bundle = self._workspace.bundle(key)
        served = Served(version, bundle, (), self._registry().version(version).created, datetime.now(UTC))
        middle = pd.DataFrame(np.zeros((1, len(served.columns))), columns=served.columns)
        judge(bundle, middle, version=version, apart=True)  # what is made at the first use is made before it serves
        self.on_load()
        self.loads["loaded"] += 1
        log.info("version %d was loaded in %.1f s", version, time.perf_counter() - began)
        return served

    def _recent(self, served: Served) -> tuple[float, ...]:
        if served.bundle.classifier.policy_.threshold == "fixed":
            return ()
        after = served.bundle.classifier.newest_order_
        return tuple(self._store().recent_probabilities(served.version, after, LAST_PLACE, most=RECENT))
