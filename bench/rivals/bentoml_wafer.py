"""BentoML: `bentoml serve bentoml_wafer:Wafer`, adaptive batching as it is by default."""

import os
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType, Shape

from wafer.scoring.bundle import Bundle
from wafer.scoring.judge import judge

COLUMNS = ["verdict", "probability", "cluster", "unknown"]
Readings = Annotated[np.ndarray, DType("float64"), Shape((-1, 590))]


@bentoml.service
class Wafer:
    """Scores wafers with the version in the folder that WAFER_BUNDLE names."""

    def __init__(self) -> None:
        self.bundle = Bundle.load(Path(os.environ["WAFER_BUNDLE"]))

    @bentoml.api(batchable=True)
    def score(self, readings: Readings) -> list[dict[str, Any]]:
        """A row for each wafer."""
        said = judge(self.bundle, readings, apart=True).wafers[COLUMNS]
        return said.astype({"verdict": float}).to_dict("records")
