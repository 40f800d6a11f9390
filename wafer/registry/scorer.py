"""The file that MLflow runs to serve a version (`mlflow models serve`): a model from code around a saved `WaferModel`.

The project itself never goes this way: it loads the parts with the installed `WaferModel` after checking their digests
(`wafer.registry.tracking.Registry.load`). MLflow asks that the file names its model, hence the call at the end.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from wafer.learning.model import WaferModel


class WaferScorer(PythonModel):
    """Readings in (a column per sensor), one row per wafer out: Prediction, probability, cluster."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the parts and check them against their manifest."""
        self.model = WaferModel.load(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score wafers: Prediction (−1 good, 1 faulty), probability of a fault, cluster."""
        return pd.DataFrame(
            {
                "Prediction": self.model.predict(model_input).astype(int),
                "probability": self.model.fault_probability(model_input),
                "cluster": self.model.assign_clusters(model_input).astype(int),
            },
            index=model_input.index,
        )


set_model(WaferScorer())
