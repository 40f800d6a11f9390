import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from wafer.learning.model import WaferModel


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reference_search_agrees_with_the_reference_method(real_wafers: Path, tmp_path: Path) -> None:
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
    model = WaferModel(search="reference").fit(X[:200], y[:200])
    assert_allclose(model.predict_proba(X[200:])[:, 1], expected, atol=1e-6)
    model.save(tmp_path)
    assert_array_equal(WaferModel.load(tmp_path).predict_proba(X[200:]), model.predict_proba(X[200:]))


def test_reference_search_needs_no_second_fault_in_a_cluster(wafers: Any, tmp_path: Path) -> None:
    """Clusters with a single fault give their share of faults; the model is saved and loaded like any other."""
    y = np.full(240, -1)
    y[5] = 1
    model = WaferModel(search="reference").fit(wafers.X, y, wafers.order)
    assert set(model.clusters_["model"]) == {"pooled"}
    assert model.clusters_["weight"].tolist() == [1.0] * len(model.clusters_)
    cluster = model.assign_clusters(wafers.X, wafers.order)
    shares = np.array([np.mean(y[cluster == number] == 1) for number in model.clusters_["cluster"]])
    probability = model.predict_proba(wafers.X, wafers.order)[:, 1]
    assert_allclose(probability, shares[cluster], atol=1e-8)
    assert (model.predict(wafers.X, wafers.order) == -1).all()
    digests = model.save(tmp_path)
    loaded = WaferModel.load(tmp_path)
    assert_array_equal(loaded.predict_proba(wafers.X, wafers.order)[:, 1], probability)
    assert loaded.save(tmp_path / "again") == digests
