"""The champion's parts brought to the storage, from where a prediction and its report load them."""

import shutil
import tempfile
from pathlib import Path

from upath import UPath

from wafer.errors import RegistryError
from wafer.registry import Registry
from wafer.settings import Settings
from wafer.storage import written_folder


def fetch_champion(settings: Settings) -> tuple[int, str]:
    """The champion's number, and the folder below `models/` that holds its parts, verified against the registry.

    A folder that holds them already is left alone, since another prediction may be reading it.

    Raises:
        RegistryError: there is no champion yet, or the registry cannot be reached.
        TamperedError: a part is not what was registered.
    """
    registry = Registry.open(settings)
    champion = registry.champion()
    if champion is None:
        raise RegistryError("the registry has no champion yet: run the training first")
    target = settings.area("models") / champion.digest[:12]
    with tempfile.TemporaryDirectory() as scratch:
        fetched = registry.fetch(champion, Path(scratch, "model"))
        if not _holds(target, fetched):
            with written_folder(target) as aside:
                shutil.copytree(fetched, aside, dirs_exist_ok=True)
    return champion.version, str(target)


def _holds(target: UPath, model: Path) -> bool:
    """Whether `target` has the files of `model`, byte for byte."""
    files = [file for file in model.iterdir() if file.is_file()]
    return all((target / f.name).exists() and (target / f.name).read_bytes() == f.read_bytes() for f in files)
