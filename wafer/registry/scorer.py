"""The file that MLflow runs to serve a version (`mlflow models serve`): a model from code around a saved bundle.

The project itself never goes this way: it loads the parts with the installed `Bundle` after checking their digests
(`wafer.registry.tracking.Registry.load`). MLflow asks that the file names its model, hence the call at the end.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from wafer.registry.packaging import scored_wafers
from wafer.scoring.bundle import Bundle


class WaferScorer(PythonModel):
    """Readings in (a column per sensor), one row per wafer out, as of `wafer.registry.packaging.scored_wafers`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the parts and check them against their manifest."""
        self.bundle = Bundle.load(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score wafers."""
        return scored_wafers(self.bundle, model_input)


set_model(WaferScorer())
