import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from wafer.learning.reference import ReferenceModel


@pytest.mark.slow
def test_reference_search_agrees_with_the_reference_method(real_wafers: Path) -> None:
    """On 200 real wafers the model scores 100 others as the re-stated method of the reference systems does."""
    script = real_wafers.parent / "bench" / "reference_method.py"
    if not script.is_file():
        pytest.skip(f"no reference method: {script} is not there")
    spec = importlib.util.spec_from_file_location("reference_method", script)
    assert spec is not None and spec.loader is not None
    reference: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    files = [pd.read_csv(file) for file in sorted((real_wafers / "training").glob("*.csv"))[1:4]]
    X = np.vstack([file.iloc[:, 1:-1].to_numpy(float) for file in files])
    y = np.concatenate([file.iloc[:, -1].to_numpy(int) for file in files])
    expected = reference.predict(reference.fit(X[:200], (y[:200] == 1).astype(int), 1), X[200:])
    model = ReferenceModel().fit(X[:200], y[:200])
    assert_allclose(model.predict_proba(X[200:])[:, 1], expected, atol=1e-6)


def test_reference_method_needs_no_second_fault_in_a_cluster(wafers: Any) -> None:
    """Clusters with a single fault give their share of faults, and no alarm."""
    y = np.full(240, -1)
    y[5] = 1
    model = ReferenceModel().fit(wafers.X, y)
    cluster = model.assign_clusters(wafers.X)
    shares = np.array([np.mean(y[cluster == number] == 1) for number in range(len(model.centres_))])
    assert_allclose(model.predict_proba(wafers.X)[:, 1], shares[cluster], atol=1e-12)
    assert (model.predict(wafers.X) == -1).all()
