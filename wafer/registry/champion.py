"""The champion's parts brought to the storage, from where a prediction and its report load them."""

import shutil
import tempfile
from pathlib import Path

from upath import UPath

from wafer.errors import RegistryError
from wafer.registry.tracking import Registry
from wafer.storage import Storage, written_folder


def fetch_champion(registry: Registry, storage: Storage) -> tuple[int, str]:
    """The champion's number, and the key of the folder that holds its parts, verified against the registry.

    A folder that holds them already is left alone, since another prediction may be reading it.

    Raises:
        RegistryError: there is no champion yet, or the registry cannot be reached.
        TamperedError: a part is not what was registered.
    """
    champion = registry.champion()
    if champion is None:
        raise RegistryError("the registry has no champion yet: run the training first")
    key = f"models/{champion.digest[:12]}"
    target = storage.place(key)
    with tempfile.TemporaryDirectory() as scratch:
        fetched = registry.fetch(champion, Path(scratch, "model"))
        if not _holds(target, fetched):
            with written_folder(target) as aside:
                shutil.copytree(fetched, aside, dirs_exist_ok=True)
    return champion.version, key


def _holds(target: UPath, model: Path) -> bool:
    """Whether `target` has the files of `model`, byte for byte."""
    files = [file for file in model.iterdir() if file.is_file()]
    return all((target / f.name).exists() and (target / f.name).read_bytes() == f.read_bytes() for f in files)
