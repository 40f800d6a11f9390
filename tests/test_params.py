"""params.yaml and its checks."""

from pathlib import Path

import pytest
import yaml

from wafer.errors import ParameterError
from wafer.learning.model import WaferModel
from wafer.params import read_params

SHIPPED = Path(__file__).parents[1] / "params.yaml"


def changed(folder: Path, section: str, **values: object) -> Path:
    content = yaml.safe_load(SHIPPED.read_text())
    content[section] |= values
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_shipped_file_gives_the_models_own_defaults() -> None:
    """`WaferModel()` in a notebook is the model that the flows train."""
    fit = read_params(SHIPPED).fit.model_dump()
    assert {**WaferModel().get_params(), **fit} == WaferModel().get_params()
    assert WaferModel().get_params().keys() - fit.keys() == {"n_jobs", "faulty_label"}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("fit", {"trees": 0}, r"fit\.trees: input should be greater than or equal to 10, got 0"),
        ("fit", {"tress": 10}, r"fit\.tress is not a known key"),
        ("fit", {"imputation": "magic"}, r"fit\.imputation: .*'magic'"),
        ("evaluate", {"folds": "5"}, r"evaluate\.folds: .*integer, got '5'"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, section: str, values: dict[str, object], message: str) -> None:
    """An unknown key and an impossible value are refused with the key's name and what came."""
    with pytest.raises(ParameterError, match=message):
        read_params(changed(tmp_path, section, **values))


@pytest.mark.parametrize(("text", "message"), [(None, "is not a file"), ("a: [", "is not YAML"), ("", "the file")])
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str | None, message: str) -> None:
    """A missing, broken or empty file is one clear sentence."""
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ParameterError, match=message):
        read_params(file)
