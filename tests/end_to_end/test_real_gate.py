"""The gate on real wafers: a good configuration becomes champion, a worse one does not, and one goes back by hand."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests import working
from tests.conftest import REPOSITORY
from wafer.params import Params, read_params
from wafer.registry import Registry
from wafer.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.invariant]
GOOD = {"panel": "linear", "max_clusters": 1}
WORSE = {"panel": "forests", "trees": 10, "max_clusters": 1}


def configured(**fit: object) -> Params:
    """The project's parameters with another recipe and a small evaluation."""
    content = read_params(REPOSITORY / "params.yaml").model_dump()
    content["fit"] |= fit
    content["evaluate"] |= {"folds": 3, "repeats": 1, "permutations": 1}
    return Params.model_validate(content)


def scored_by(settings: Settings, delivered: Path) -> set[int]:
    """The version that a prediction of this moment names in each of its files."""
    predicted = working.predict(settings, delivered)
    files = [settings.storage.place(f"{predicted.folder}/{name}") for name in predicted.files]
    assert files
    return {int(version) for file in files for version in pd.read_csv(str(file))["model_version"]}


def test_the_gate_lets_the_good_in_and_the_worse_not(
    settings: Settings, real_wafers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions come from the champion throughout, and the ledger says why it is which.

    It is the first, not the worse one; after a promotion by hand the worse one, after the rollback the first again.
    """
    monkeypatch.chdir(REPOSITORY)
    delivered = tmp_path / "prediction"
    delivered.mkdir()
    for file in sorted((real_wafers / "prediction").glob("wafer_*.csv"))[:2]:
        shutil.copyfile(file, delivered / file.name)
    working.ingest(settings, "training", real_wafers / "training")

    first = working.train(settings, configured(**GOOD))
    assert first.promoted, first.reason
    assert scored_by(settings, delivered) == {1}
    second = working.train(settings, configured(**WORSE))
    assert not second.promoted
    assert scored_by(settings, delivered) == {1}

    registry = Registry.open(settings)
    assert registry.promote(2, "to see how its alarms look").promoted
    assert scored_by(settings, delivered) == {2}
    assert registry.rollback("they look worse").challenger == 1
    assert scored_by(settings, delivered) == {1}
    assert [(line.kind, line.challenger, line.promoted) for line in registry.ledger()] == [
        ("gate", 1, True),
        ("gate", 2, False),
        ("promote", 2, True),
        ("rollback", 1, True),
    ]
    refused = registry.ledger()[1]
    assert refused.reason.startswith("Version 2 was refused and version 1 stays champion: forward ")
    assert refused.comparison is not None
    assert refused.comparison.auc_difference is not None
    assert refused.comparison.auc_difference < 0
    assert (refused.comparison.wafers, refused.comparison.evidence) == (937, "forward scores")
