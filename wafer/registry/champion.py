"""The champion's parts brought to the storage, from where a prediction and its report load them."""

import tempfile
from pathlib import Path

from wafer.errors import RegistryError
from wafer.registry.tracking import Registry
from wafer.storage import Storage, copy_where_missing

NO_CHAMPION = "the registry has no champion yet: run the training first"


def fetch_champion(registry: Registry, storage: Storage) -> tuple[int, str]:
    """The champion's number, and the key of the folder that holds its parts, verified against the registry.

    Raises:
        RegistryError: there is no champion yet, or the registry cannot be reached.
        TamperedError: a part is not what was registered.
    """
    champion = registry.champion()
    if champion is None:
        raise RegistryError(NO_CHAMPION)
    key = f"models/{champion.digest[:12]}"
    with tempfile.TemporaryDirectory() as scratch:
        copy_where_missing(registry.fetch(champion, Path(scratch, "model")), storage.place(key))
    return champion.version, key
