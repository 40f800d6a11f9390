"""Models of every format that was ever written, and what may change without making one unreadable.

A golden model is a tiny one with the figures that it gave when it was made: `golden/<format>/expected.csv` holds wafers
with probability, cluster, p-value and alarm, `expected_reasons.csv` their reasons.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from wafer.errors import ModelError, TamperedError
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.learning.parts import json_bytes, read_parts, write_parts
from wafer.learning.saved import POLICY, RECIPE
from wafer.scoring import formats
from wafer.scoring.bundle import Bundle, fit_bundle
from wafer.scoring.judge import judge

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(scope="module")
def bundle(wafers: Any, quick: dict[str, int]) -> Bundle:
    return fit_bundle(WaferModel(**quick), *wafers, permutations=2)


def test_there_is_a_golden_model_of_every_format() -> None:
    """A reader without a model that it is held to is one that may break unseen."""
    assert {int(folder.name) for folder in GOLDEN.iterdir()} == set(formats.READERS)
    assert all(sum(file.stat().st_size for file in folder.iterdir()) < 100_000 for folder in GOLDEN.iterdir())


@pytest.mark.parametrize("version", sorted(formats.READERS))
def test_a_golden_model_scores_as_recorded(version: int, tmp_path: Path) -> None:
    """Probabilities move by less than 1e-7, verdicts, ranks and clusters not at all; reasons and drift are there."""
    golden = Bundle.load(GOLDEN / str(version))
    expected = pd.read_csv(GOLDEN / str(version) / "expected.csv")
    X, order = expected.filter(like="Sensor-"), expected["order"].to_numpy()
    found = judge(golden, X, order, reasons="all", drift=True)
    assert_allclose(found.wafers["probability"], expected["probability"], rtol=0, atol=1e-7)
    ranks = (one["probability"].rank() for one in (found.wafers, expected))
    assert_array_equal(*ranks)
    assert_allclose(found.wafers["p_value"], expected["p_value"], rtol=1e-12)
    assert found.alarms.tolist() == expected["alarm"].tolist()
    assert found.wafers["cluster"].tolist() == expected["cluster"].tolist()
    reasons = pd.read_csv(GOLDEN / str(version) / "expected_reasons.csv", keep_default_na=False, na_values=[""])
    assert found.reasons is not None
    assert (
        found.reasons[["row", "rank", "sensor"]].values.tolist() == reasons[["row", "rank", "sensor"]].values.tolist()
    )
    assert_allclose(found.reasons["strength"], reasons["strength"], atol=2e-6)
    if golden.monitor is not None:
        monitored = judge(golden, X, order, monitor=True).monitored
        assert monitored is not None
        known = pd.read_csv(GOLDEN / str(version) / "expected_monitored.csv")
        pd.testing.assert_frame_equal(monitored.wafers, known, rtol=1e-9)
    assert (golden.monitor is None) == (version < 3)
    once, again = golden.save(tmp_path / "once"), Bundle.load(tmp_path / "once").save(tmp_path / "again")
    assert once == again


def test_a_loaded_bundle_is_the_saved_one(bundle: Bundle, wafers: Any, tmp_path: Path) -> None:
    """The same judgements, parameters, tables and parts; no part is a pickle."""
    digests = bundle.save(tmp_path / "saved")
    loaded = Bundle.load(tmp_path / "saved", n_jobs=2)
    first, second = (judge(one, *wafers[::2], reasons="alarms", drift=True, monitor=True) for one in (bundle, loaded))
    pd.testing.assert_frame_equal(first.wafers, second.wafers, check_exact=True)
    assert first.reasons is not None and second.reasons is not None
    pd.testing.assert_frame_equal(first.reasons, second.reasons, check_exact=True)
    assert first.drift is not None and second.drift is not None
    pd.testing.assert_frame_equal(first.drift.sensors, second.drift.sensors, check_exact=True)
    assert first.monitored is not None and second.monitored is not None
    for name in ("wafers", "sensors", "contributions", "batches"):
        frames = (getattr(one.monitored, name) for one in (first, second))
        pd.testing.assert_frame_equal(*frames, check_exact=True)
    params = loaded.classifier.get_params()
    assert params == {**bundle.classifier.get_params(), "policy": Policy(), "n_jobs": 2}
    for name in ("elbow_", "clusters_", "profile_", "panel_", "held_out_"):
        expected = getattr(bundle.classifier, name)
        pd.testing.assert_frame_equal(getattr(loaded.classifier, name), expected, check_exact=True)
    assert loaded.save(tmp_path / "again") == digests
    assert {path.suffix for path in (tmp_path / "saved").iterdir()} <= {".json", ".npz", ".ubj"}


def test_threads_and_repetition_give_the_same_bytes(
    bundle: Bundle, wafers: Any, quick: dict[str, int], tmp_path: Path
) -> None:
    """The same data and parameters give the same parts, with one thread and with three."""
    again = fit_bundle(WaferModel(n_jobs=3, **quick), *wafers, permutations=2)
    assert again.save(tmp_path / "three") == bundle.save(tmp_path / "one")
    assert (tmp_path / "three/manifest.json").read_bytes() == (tmp_path / "one/manifest.json").read_bytes()


def test_another_policy_is_another_threshold_alone(bundle: Bundle, tmp_path: Path) -> None:
    """With another policy every part but the document stays the same, also of a bundle that was loaded."""
    before = bundle.save(tmp_path / "one")
    other = Bundle.load(tmp_path / "one").with_policy(Policy(cost_missed_fault=2.0, alarm_rate_ceiling=0.5))
    after = other.save(tmp_path / "two")
    assert {name for name in before if before[name] != after[name]} == {"model.json"}
    assert other.classifier.threshold_ == bundle.with_policy(other.classifier.policy_).classifier.threshold_
    with pytest.raises(ModelError, match="keeps no held-out scores to choose another threshold from"):
        Bundle.load(GOLDEN / "1").with_policy(Policy())


def test_every_parameter_has_a_name_in_the_file() -> None:
    """A new or renamed parameter must say what the file calls it; the file's own names stay."""
    apart = {"policy", "faulty_label", "n_jobs", "members", "candidates"}
    assert set(RECIPE.values()) == WaferModel().get_params().keys() - apart
    assert {**POLICY, **RECIPE}.keys() >= {"trees", "panel", "max_missing", "reference_window", "cost_missed_fault"}


def test_parameters_that_a_release_does_not_know_or_lacks_make_no_model_unreadable(
    bundle: Bundle, wafers: Any, tmp_path: Path
) -> None:
    """A parameter of another release is left out, and one that the file lacks takes its default."""
    bundle.save(tmp_path / "saved")
    _, found = read_parts(tmp_path / "saved", formats.READERS)
    document = json.loads(found["model.json"])
    recipe = document["classifier"]["recipe"]
    document["classifier"]["recipe"] = {**{k: v for k, v in recipe.items() if k != "search_folds"}, "gone": 1}
    write_parts(tmp_path / "other", found | {"model.json": json_bytes(document)}, version=formats.FORMAT)
    other = Bundle.load(tmp_path / "other")
    assert other.classifier.search_folds == WaferModel().search_folds
    expected = judge(bundle, wafers.X, wafers.order).wafers
    pd.testing.assert_frame_equal(judge(other, wafers.X, wafers.order).wafers, expected, check_exact=True)


def test_changed_parts_are_refused(tmp_path: Path) -> None:
    """A part with other bytes, a missing part, an unknown format and a folder without a model are refused by name."""
    shutil.copytree(GOLDEN / "3", tmp_path / "model")
    part = tmp_path / "model/arrays.npz"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(TamperedError, match=r"arrays\.npz has SHA-256 .* was registered"):
        Bundle.load(tmp_path / "model")
    part.unlink()
    with pytest.raises(ModelError, match=r"lacks the part arrays\.npz"):
        Bundle.load(tmp_path / "model")
    with pytest.raises(ModelError, match=r"is not a saved model: it has no manifest\.json"):
        Bundle.load(tmp_path / "nothing")
    manifest = json.loads((tmp_path / "model/manifest.json").read_bytes())
    (tmp_path / "model/manifest.json").write_text(json.dumps(manifest | {"parts": {"../x": "0"}}))
    with pytest.raises(TamperedError, match=r"outside its folder: '\.\./x'"):
        Bundle.load(tmp_path / "model")
    (tmp_path / "model/manifest.json").write_text(json.dumps(manifest | {"format": 4}))
    with pytest.raises(ModelError, match="has format 4, this release reads 1 and 2 and 3"):
        Bundle.load(tmp_path / "model")


def test_a_model_of_the_reference_search_says_that_it_is_kept_no_longer(tmp_path: Path) -> None:
    """Format 1 could hold one; it is refused in words."""
    _, found = read_parts(GOLDEN / "1", formats.READERS)
    document = json.loads(found["model.json"])
    document["params"]["search"] = "reference"
    write_parts(tmp_path, found | {"model.json": json_bytes(document)}, version=1)
    with pytest.raises(ModelError, match="was trained by the reference search, which is no longer kept"):
        Bundle.load(tmp_path)


def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    """A member that XGBoost cannot read is told as what it is."""
    _, found = read_parts(GOLDEN / "2", formats.READERS)
    name = next(name for name in found if name.endswith(".ubj"))
    write_parts(tmp_path, found | {name: b"{}"}, version=2)
    with pytest.raises(ModelError, match=r"the parts of the model in .* do not fit together"):
        Bundle.load(tmp_path)
