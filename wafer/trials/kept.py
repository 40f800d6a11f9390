"""Scores that are kept from one trial to the next, fold by fold, and found again only where nothing has changed.

The key is all that scores depend on: the wafers, the fold, the recipe with its parameters, the code of this library and
of the recipe's own classes, and the version of every installed distribution. Where one of these cannot be known for
sure, nothing is kept and nothing is found.
"""

import hashlib
import importlib.metadata
import os
import pickle
import pickletools
import platform
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import pandas as pd
import psutil
from sklearn.base import clone

import wafer
from wafer.learning.evaluation import Split, fold_scores, joined_scores
from wafer.storage import private_folder
from wafer.trials.wafers import Wafers

LIBRARY = Path(wafer.__file__).parent
INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
STARTED = psutil.Process().create_time()
MOST = "200M"
"""Of the folder of kept scores; the oldest go first."""

Progress = Callable[[int, int], None]


def kept_scores(
    models: Mapping[str, Any],
    wafers: Wafers,
    splits: Sequence[Split],
    folder: Path,
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """Scores of each model as of `wafer.learning.evaluation.score_splits`; folds kept in `folder` are not scored again.

    Each fold is kept as soon as it is scored, so that an interrupted trial goes on where it was.

    Returns: the scores of each model, and how many of its folds were found.
    """
    told = progress or (lambda done, total: None)
    with _memory(folder) as memory:
        kept = memory.cache(_remembered, ignore=["frame"])
        keys: dict[tuple[str, int], str] = {}
        for name, model in models.items():
            recipe = fingerprint(model)
            keys |= {(name, at): _key(recipe, wafers, split) if recipe else "" for at, split in enumerate(splits)}
        found = {fold: frame for fold, key in keys.items() if (frame := _found(kept, key)) is not None}
        reused = Counter(name for name, _ in found)
        told(len(found), len(keys))
        missing = [fold for fold in keys if fold not in found]
        fits = [(models[name], splits[at]) for name, at in missing]
        with closing(fold_scores(fits, wafers.readings, wafers.order, n_jobs=n_jobs)) as scored:
            for fold, frame in zip(missing, scored, strict=True):
                found[fold] = frame
                if keys[fold]:
                    kept.call(keys[fold], frame)
                told(len(found), len(keys))
        if missing:
            memory.reduce_size(bytes_limit=MOST)
    scores = {name: joined_scores([found[name, at] for at in range(len(splits))]) for name in models}
    return scores, {name: reused[name] for name in models}


@contextmanager
def _memory(folder: Path) -> Iterator[joblib.Memory]:
    """The kept scores; whatever ends the work, also Ctrl-C while a file is written, leaves none half written."""
    memory = joblib.Memory(str(private_folder(folder)), verbose=0)
    _clear_half_written(folder)
    try:
        yield memory
    finally:
        _clear_half_written(folder)


def _clear_half_written(folder: Path) -> None:
    """Remove what this thread, or a process that no longer runs, had begun to write and did not finish.

    joblib writes beside the file and renames, under a name that ends with the process and the thread.
    """
    here = (os.getpid(), id(threading.current_thread()))
    for file in folder.rglob("*.*.*-*-*"):
        process, thread = map(int, file.name.rsplit("-", 2)[1:])
        if (process, thread) == here or not psutil.pid_exists(process):
            file.unlink(missing_ok=True)


def _remembered(key: str, frame: pd.DataFrame | None) -> pd.DataFrame | None:
    return frame


def _found(kept: Any, key: str) -> pd.DataFrame | None:
    return kept(key, None) if key and kept.check_call_in_cache(key, None) else None


def _key(recipe: str, wafers: Wafers, split: Split) -> str:
    fold = (split.protocol, split.repeat, split.fold, split.train, split.test, split.labels)
    return hashlib.sha256(f"{recipe}/{wafers.digest}/{joblib.hash(fold)}".encode()).hexdigest()


def fingerprint(model: Any) -> str | None:
    """What stands for a recipe, the code that it runs and the libraries that this needs; None where that is not known.

    That is so of functions and classes that are written in a notebook, and of files that changed since this process
    started, which may be running what stood there before.
    """
    try:
        recipe = clone(model)
        data = pickle.dumps(recipe, protocol=2)  # in which each global stands as text, with its module
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    modules = {str(found).split(" ")[0] for code, found, _ in pickletools.genops(data) if code.name == "GLOBAL"}
    if "__main__" in modules:
        return None
    files = sorted({*LIBRARY.rglob("*.py"), *_own_files(modules)})
    if any(file.stat().st_mtime > STARTED for file in files):
        return None
    digest = hashlib.sha256(f"{joblib.hash(recipe)}/{_versions()}".encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _own_files(modules: set[str]) -> set[Path]:
    """The files of those modules that no distribution brought, and of the modules that these take names from."""
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = Path(getattr(module, "__file__", None) or LIBRARY)
        if name in files or LIBRARY in (file, *file.parents) or any(place in file.parents for place in INSTALLED):
            continue
        files[name] = file
        waiting += _named_in(module)
    return set(files.values())


def _named_in(module: ModuleType | None) -> Iterator[str]:
    for value in vars(module).values() if module else ():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str):
            yield name


@cache
def _versions() -> str:
    """Python and every installed distribution with its version."""
    found = sorted(f"{each.name}=={each.version}" for each in importlib.metadata.distributions())
    return f"{platform.python_version()} {platform.machine()} {' '.join(found)}"
