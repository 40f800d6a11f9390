"""How a saved `WaferModel` travels through MLflow: packed with digests of every file, unpacked only when they agree."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature, infer_signature

from wafer.errors import RegistryError, TamperedError
from wafer.registry import provenance

PARTS = "artifacts/model"
"""Where the parts lie inside a logged model."""
DIGESTS = "model-digests.json"
"""The run's artefact that lists the SHA-256 of every file of its logged model."""
SCORER = Path(__file__).with_name("scorer.py")


def digest_file(path: Path) -> str:
    """SHA-256 of one file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its path relative to it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


def model_digest(folder: Path) -> str:
    """The digest that stands for a whole saved model: that of its manifest, which holds those of the parts.

    Raises:
        RegistryError: `folder` holds no manifest.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise RegistryError(f"{folder} is no saved model: it has no manifest.json")
    return digest_file(manifest)


def describe_frames(example: pd.DataFrame, scored: pd.DataFrame) -> ModelSignature:
    """MLflow's signature, whole numbers as floats: a column without a missing value today may have one later."""
    return infer_signature(example.astype("float64"), scored.astype("float64"))


def log_model(model_folder: Path, example: pd.DataFrame, scored: pd.DataFrame) -> tuple[str, str, str]:
    """Log the saved model in `model_folder` under the active run.

    Args:
        model_folder: a saved `WaferModel`.
        example: some wafers' readings, a column per sensor.
        scored: what the model says of them.

    Returns:
        The MLflow id of the logged model, its URI, and the list of digests of all its files as JSON.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # always the same name inside the logged model, whatever the folder is called here
        staged = Path(scratch, "model")
        shutil.copytree(model_folder, staged)
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(SCORER),
            artifacts={"model": str(staged)},
            signature=describe_frames(example, scored),
            input_example=example.astype("float64"),
            pip_requirements=provenance.requirements(),
        )
        kept = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=mlflow.get_logged_model(logged.model_id).artifact_location,
                dst_path=str(Path(scratch, "kept")),
            )
        )
        digests = digest_folder(kept)
        for name, digest in digest_folder(model_folder).items():
            if digests.get(f"{PARTS}/{name}") != digest:
                raise TamperedError(f"{name} of {model_folder} changed while it was being registered")
    return logged.model_id, logged.model_uri, json.dumps(digests, indent=2, sort_keys=True) + "\n"


def verify_files(folder: Path, digests: Mapping[str, str], label: str) -> None:
    """Compare every file below `folder` with the digests that were registered.

    Raises:
        TamperedError: a file is missing, changed or was added; the message names it.
    """
    found = digest_folder(folder)
    for name in sorted(digests.keys() | found.keys()):
        if name not in found:
            raise TamperedError(f"{label}: {name} is missing")
        if name not in digests:
            raise TamperedError(f"{label}: {name} was not there when the model was registered")
        if found[name] != digests[name]:
            raise TamperedError(
                f"{label}: {name} is not what was registered, "
                f"expected SHA-256 {digests[name][:12]}…, got {found[name][:12]}…"
            )
