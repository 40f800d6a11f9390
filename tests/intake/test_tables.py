"""Batch files as one table, without a store."""

from pathlib import Path

import pytest

from wafer.contract.suites import Contract
from wafer.errors import EmptyError
from wafer.fab.simulate import simulate_batches, simulate_frame
from wafer.intake.tables import read_wafers
from wafer.records import TABLE


def test_files_become_a_table_in_production_order(tmp_path: Path) -> None:
    """Accepted files make the table that a snapshot has; one that breaks the agreement has a verdict and no wafers."""
    files = list(simulate_batches(tmp_path, batches=2, wafers=5, seed=7))
    (tmp_path / "broken.csv").write_text("nothing of use\n")
    contract = Contract.load("training")
    table, verdicts = read_wafers([tmp_path, files[1]], contract)
    assert {one.file: one.word for one in verdicts} == {
        "broken.csv": "quarantined",
        **{file.name: "accepted" for file in files},
    }
    assert list(table) == [*TABLE, *contract.sensors]
    assert table["order"].tolist() == list(range(1, 11))
    assert table["batch"].tolist() == [files[0].name] * 5 + [files[1].name] * 5
    second = simulate_frame(1, wafers=5, seed=7)
    assert table["label"].tolist()[5:] == second["label"].tolist()
    assert table.iloc[5:, 4:].reset_index(drop=True).equals(second[list(contract.sensors)])
    assert table.attrs["units"]["order"] == "number"


@pytest.mark.slow
@pytest.mark.invariant
def test_files_without_labels_leave_them_open(tmp_path: Path) -> None:
    """By the agreement for prediction there is no label; where no wafer is left, that is said."""
    (file,) = simulate_batches(tmp_path, batches=1, wafers=4, seed=7, labelled=False)
    table, _ = read_wafers([file], Contract.load("prediction"))
    assert table["label"].isna().tolist() == [True] * 4
    with pytest.raises(EmptyError, match="no wafer is left: of 1 files 0 were accepted"):
        read_wafers([file], Contract.load("training"))
