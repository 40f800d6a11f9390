"""What a piece of work needs, looked at before anything long starts and before anything is made.

Each look yields a sentence a problem; `look_ahead` tells them all at once. What is tried is tried for real (a folder is
made in the place where outputs go, and removed again), since neither permissions nor kinds of file systems foretell it.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from wafer.addresses import DATABASES, knock, missing_driver
from wafer.boundary import CAUSES
from wafer.delivered import list_files
from wafer.errors import EmptyError, PreflightError, RegistryError, SettingsError, StorageError, WaferError
from wafer.params import read_params
from wafer.settings import Settings
from wafer.shown import masked, shown_text
from wafer.storage import AnyPath
from wafer.workspace import Workspace

LEAST_FREE = 200 * 2**20
"""Bytes that must be free where outputs and state go."""
LEAST_TEMPORARY = 20 * 2**20
"""Bytes that must be free where temporary files go."""


def look_ahead(
    settings: Settings,
    *,
    raw: Sequence[AnyPath] | Callable[[], Sequence[AnyPath]] = (),
    params: Path | None = None,
    kinds: Sequence[str] = (),
    guard: bool = False,
    notebooks: Sequence[str] = (),
    storage: str = "WAFER_STORAGE",
) -> None:
    """See whether a run can do its work: its folders of batch files, files that it reads, places, and servers.

    Args:
        settings: the places; a folder is only looked at, none is left behind.
        raw: folders, each of which must hold a batch file, or what finds them in a storage; only asked where that
            answers.
        params: the parameter file, where one is read.
        kinds: of deliveries whose suites are needed.
        guard: whether the suite of snapshots is needed too.
        notebooks: names of those that will be run.
        storage: what named the storage, for the message.

    Raises:
        PreflightError: with a sentence for each problem.
        EmptyError: a single folder was asked for, and all that is wrong is that no batch file lies in it.
    """
    problems = list(place_problems(settings, storage))
    silent = silent_servers(settings)
    problems += [] if "AWS_ENDPOINT_URL" in silent else bucket_problems(settings)
    folders = raw if isinstance(raw, Sequence) else [] if problems or silent else raw()
    problems += _files(settings, params, kinds, guard, notebooks)
    empty = []
    for folder in folders:
        try:
            need_batch_files(folder)
        except EmptyError as error:
            empty.append(str(error))
        except WaferError as error:
            problems.append(str(error))
    problems += silent.values()
    if len(folders) == 1 and empty and not problems:
        raise EmptyError(empty[0])
    if problems or empty:
        raise PreflightError([*empty, *problems])


def need_batch_files(folder: AnyPath) -> None:
    """Refuse a folder in which no batch file lies.

    Raises:
        DeliveryError: it is not there.
        EmptyError: it holds no file; folders within it are left out, and are named.
    """
    listing = list_files([folder])
    if listing.why_empty is not None:
        raise EmptyError(listing.why_empty)


def store_is_made(settings: Settings) -> bool:
    """Whether there is a store to look into: a server, or an embedded database that some run has made."""
    return settings.mongodb_url is not None or (settings.state / "mongodb").exists()


def registry_is_made(settings: Settings) -> bool:
    """Whether there is a registry to look into: a server, or an embedded one that some run has made."""
    return settings.mlflow_url is not None or (settings.state / "mlflow").exists()


def need_labelled_wafers(workspace: Workspace) -> None:
    """Refuse a store that no model can be trained on; an embedded database that was never made is not made for this.

    Raises:
        EmptyError: no wafer is labelled, or all have the same label.
        StoreError: the store cannot be reached or started.
    """
    from wafer.store.snapshot import NOTHING_LABELLED

    if not store_is_made(workspace.settings):
        raise EmptyError(NOTHING_LABELLED)
    held = workspace.store.status()
    if not held.labelled:
        raise EmptyError(NOTHING_LABELLED)
    if held.faulty in (0, held.labelled):
        lacking = "good" if held.faulty else "faulty"
        raise EmptyError(
            f"none of the {held.labelled:,} labelled wafers of the store is {lacking}, and a model learns from both: "
            f"ingest batches with {lacking} wafers first"
        )


def need_champion(workspace: Workspace) -> None:
    """Refuse to score without a model in use; an embedded registry that was never made is not made for this.

    Raises:
        RegistryError: there is no champion yet, or the registry cannot be reached.
    """
    from wafer.registry.champion import NO_CHAMPION

    if not registry_is_made(workspace.settings) or workspace.registry.champion() is None:
        raise RegistryError(NO_CHAMPION)


def local_places(settings: Settings, storage: str = "WAFER_STORAGE") -> Iterator[tuple[str, Path]]:
    """The folders that will be written to, with the variable that names each.

    Raises:
        SettingsError: there must be one for embedded state, and none is named.
    """
    if "://" not in settings.storage_url:
        yield storage, Path(settings.storage_url).absolute()
    if settings.prefect_url is None and settings.prefect_folder is not None:
        yield "PREFECT_HOME", settings.prefect_folder.absolute()
    if settings.state_folder or None in (settings.mongodb_url, settings.mlflow_url, settings.prefect_url):
        yield "WAFER_STATE", settings.state.absolute()


def place_problems(settings: Settings, storage: str = "WAFER_STORAGE") -> Iterator[str]:
    """Problems of the folders that will be written to; one below another with a problem is passed over."""
    told: list[Path] = []
    try:
        for variable, folder in local_places(settings, storage):
            if not any(folder.is_relative_to(above) for above in told) and (problem := _unwritable(folder)):
                yield f"{variable} is {shown_text(folder)}: {problem}"
                told.append(folder)
    except SettingsError as error:
        yield str(error)
    try:
        # a folder that is full or not there is passed over by Python, but not by other programs
        folder = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    except OSError:
        yield "no temporary file can be written anywhere: name a folder for them in TMPDIR"
    else:
        if problem := _unwritable(folder, LEAST_TEMPORARY):
            yield f"TMPDIR is {shown_text(folder)}: {problem}"


def bucket_problems(settings: Settings) -> Iterator[str]:
    """Problems of the storage where that is a bucket, in which an object is written and removed again."""
    if "://" in settings.storage_url:
        try:
            settings.storage.check()
        except StorageError as error:
            yield str(error)


def _unwritable(folder: Path, least_free: int | None = None) -> str | None:
    """Why nothing can be written to `folder`, which need not be there."""
    there = folder
    try:
        while not _is_there(there):
            there = there.parent
        if not there.is_dir():
            what = "a link that leads nowhere" if not there.exists() else "a file"
            return f"{shown_text(there)} is {what}, and a folder is needed"
        with tempfile.TemporaryDirectory(prefix=".wafer-", dir=there):
            pass
        least = LEAST_FREE if least_free is None else least_free
        if shutil.disk_usage(there).free < least:
            return f"less than {least // 2**20} MB are free there, free some space or name another folder"
    except OSError as error:
        cause = CAUSES.get(error.errno or 0, error.strerror)
        return f"nothing can be written there ({cause})"
    return None


def _is_there(path: Path) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    return True


def _files(
    settings: Settings, params: Path | None, kinds: Iterable[str], guard: bool, notebooks: Iterable[str]
) -> Iterator[str]:
    """Problems of the files that will be read: parameters, suites, notebooks."""
    suites = settings.default("expectations")
    looks: list[Callable[[], object]] = [partial(read_params, params)] if params is not None else []
    if kinds or guard:
        from wafer.contract.suites import Contract
        from wafer.store.guard import load_guard

        def rehearse(kind: str) -> None:
            Contract.load(kind, suites).rehearse()

        looks += [partial(rehearse, kind) for kind in kinds]
        looks += [partial(load_guard, suites)] if guard else []
    if notebooks:
        from wafer.reporting.notebooks import read_notebook

        looks += [partial(read_notebook, name, settings.default("notebooks")) for name in notebooks]
    for look in looks:
        try:
            look()
        except WaferError as error:
            yield str(error)


def silent_servers(settings: Settings) -> dict[str, str]:
    """The servers that are named but do not answer, by their variables, with what is to be told of each."""
    named = {
        "MONGODB_URL": settings.mongodb_url,
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "PREFECT_API_URL": settings.prefect_url,
        "AWS_ENDPOINT_URL": settings.s3_endpoint if "://" in settings.storage_url else None,
    }
    with ThreadPoolExecutor(4, "knock") as pool:
        answers = {name: pool.submit(_unanswered, name, at) for name, at in named.items() if at is not None}
    found = {variable: answer.result() for variable, answer in answers.items()}
    return {variable: why for variable, why in found.items() if why is not None}


def _unanswered(variable: str, address: str) -> str | None:
    if (why := missing_driver(address) if address.startswith(DATABASES) else None) is None:
        why = knock(address)
        if why is None:
            return None
        why += "; start that server"
    return f"{variable} is {masked(address)}: {why}, or unset the variable"
