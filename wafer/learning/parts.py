"""A model as files that execute nothing: JSON and arrays, each with its SHA-256 in a manifest.

The same model gives the same bytes: keys are sorted, archives carry no times, and no pickle is written or read.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafer.errors import ModelError, TamperedError

MANIFEST = "manifest.json"
Arrays = dict[str, NDArray[Any]]


def json_bytes(value: Any) -> bytes:
    """Sorted, indented JSON; NaN is refused."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def array_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An `.npz` archive whose bytes depend on the arrays alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(arrays[name], order="C"), version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue(), compresslevel=1)
    return buffer.getvalue()


def read_arrays(data: bytes) -> Arrays:
    """The arrays of an `.npz` archive; objects, which would need pickle, are refused."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_parts(folder: Path, parts: Mapping[str, bytes], *, version: int) -> dict[str, str]:
    """Write each part and the manifest into `folder`, in this version of the format; returns each part's SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: hashlib.sha256(parts[name]).hexdigest() for name in sorted(parts)}
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST).write_bytes(json_bytes({"format": version, "parts": digests}))
    return digests


def model_digest(folder: Path) -> str:
    """The digest that stands for a whole saved model: SHA-256 of its manifest, which holds those of the parts.

    Raises:
        ModelError: `folder` holds no manifest.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ModelError(f"{folder} is no saved model: it has no {MANIFEST}")
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def read_parts(folder: Path, known: Collection[int]) -> tuple[int, dict[str, bytes]]:
    """The version of the format, one of the `known`, and the parts that the manifest of `folder` lists.

    Raises:
        ModelError: there is no manifest that can be read, or a part is missing.
        TamperedError: a part's bytes are not those that were written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        digests: dict[str, str] = dict(manifest["parts"])
        version = manifest["format"]
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a saved model: it has no {MANIFEST}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if version not in known:
        readable = " and ".join(map(str, sorted(known)))
        raise ModelError(f"{folder / MANIFEST} has format {version!r:.20}, this release reads {readable}")
    return version, {name: _verified(folder, name, digest) for name, digest in digests.items()}


def _verified(folder: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name:
        raise TamperedError(f"{folder / MANIFEST} lists a part outside its folder: {name!r}")
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{folder} lacks the part {name}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise TamperedError(f"{folder / name} has SHA-256 {found}, but {digest} was registered")
    return data
