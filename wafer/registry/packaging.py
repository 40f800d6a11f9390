"""How a saved model travels through MLflow: packed with digests of every file, unpacked only when they agree."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature, infer_signature

from wafer.errors import TamperedError
from wafer.registry import provenance
from wafer.scoring.bundle import Bundle
from wafer.scoring.judge import judge

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


def scored_wafers(bundle: Bundle, readings: pd.DataFrame) -> pd.DataFrame:
    """What a served version says of wafers, numbers alone, a row each with the index of `readings`.

    Returns:
        Columns Prediction (-1 good, 1 faulty; NaN where nobody can judge), probability (of a fault; NaN without any
        reading), cluster and unknown (1 where the verdict is missing or should not be trusted, else 0).
    """
    table = judge(bundle, readings).wafers.rename(columns={"verdict": "Prediction"})
    return table[["Prediction", "probability", "cluster", "unknown"]].astype("float64").set_index(readings.index)


def make_probe(readings: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """Readings, and in a last column without a name, as no sensor is, the probabilities that stand in `scored`."""
    probe = readings.reset_index(drop=True)
    probe.insert(probe.shape[1], "", scored["probability"].to_numpy())
    return probe


def split_probe(probe: pd.DataFrame) -> tuple[pd.DataFrame, "pd.Series[float]"]:
    """The readings of a probe and the probabilities in its last column, which had a name in earlier builds."""
    return probe.iloc[:, :-1], probe.iloc[:, -1]


def probe_deviation(bundle: Bundle, probe: pd.DataFrame) -> float:
    """The largest difference from the probabilities noted in `probe`, see `make_probe`."""
    readings, noted = split_probe(probe)
    found = scored_wafers(bundle, readings)["probability"]
    gap = np.abs(found.fillna(-1.0).to_numpy() - noted.fillna(-1.0).to_numpy())
    return float(np.max(gap, initial=0.0))


def probe_tolerance(bundle: Bundle) -> float:
    """How far a probability may be from the one noted at registration.

    Models of format 1, which keep no held-out scores, were registered when forests added up in double precision.
    """
    return 2e-7 if bundle.classifier.held_out_.empty else 1e-9


def describe_frames(example: pd.DataFrame, scored: pd.DataFrame) -> ModelSignature:
    """MLflow's signature, whole numbers as floats: a column without a missing value today may have one later."""
    return infer_signature(example.astype("float64"), scored.astype("float64"))


def pack(
    model_folder: Path, target: Path, example: pd.DataFrame, scored: pd.DataFrame, *, run_id: str, model_id: str
) -> dict[str, str]:
    """Write the saved model in `model_folder` as an MLflow model to the new folder `target`.

    Args:
        model_folder: a saved `Bundle`.
        target: must not exist yet.
        example: some wafers' readings, a column per sensor.
        scored: what the model says of them.
        run_id: the run that it is logged with.
        model_id: MLflow's id of the logged model.

    Returns:
        SHA-256 of every file of the packed model, by its path.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # always the same name inside the logged model, whatever the folder is called here
        staged, scorer = Path(scratch, "model"), Path(scratch, SCORER.name)
        shutil.copytree(model_folder, staged)
        shutil.copyfile(SCORER, scorer)  # with the mode that the umask gives, which MLflow copies
        mlflow.pyfunc.save_model(
            target,
            mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
            python_model=str(scorer),
            artifacts={"model": str(staged)},
            signature=describe_frames(example, scored),
            input_example=example.astype("float64"),
            pip_requirements=provenance.requirements(),
        )
    for leftover in target.rglob("__pycache__"):
        shutil.rmtree(leftover)
    digests = digest_folder(target)
    for name, digest in digest_folder(model_folder).items():
        if digests.get(f"{PARTS}/{name}") != digest:
            raise TamperedError(f"{name} of {model_folder} changed while it was being registered")
    return digests


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
