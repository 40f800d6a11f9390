"""params.yaml and its checks."""

import inspect
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from wafer.cli.main import cli
from wafer.diagnosis.charts import ControlCharts
from wafer.diagnosis.runs_rules import RULES
from wafer.documents import LONGEST_PROBLEM, MOST_PROBLEMS
from wafer.errors import ParameterError
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.params import Params, RuleName, read_params

SHIPPED = Path(__file__).parents[1] / "params.yaml"
TEXT = SHIPPED.read_text()
NEXT_LINE = TEXT.count("\n") + 1
SEEDED = sorted(Params.model_fields.keys() - {"monitor", "policy", "retrain"})
LONGEST = (MOST_PROBLEMS + 1) * LONGEST_PROBLEM  # characters of a message, its file's name apart


def changed(folder: Path, section: str, **values: object) -> Path:
    content = yaml.safe_load(SHIPPED.read_text())
    content[section] |= values
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_shipped_file_gives_the_models_own_defaults() -> None:
    """`WaferModel()` in a notebook is the model that the flows train."""
    params = read_params(SHIPPED)
    fit = params.fit.model_dump()
    assert {**WaferModel().get_params(), **fit} == WaferModel().get_params()
    assert WaferModel().get_params().keys() - fit.keys() == {
        "n_jobs",
        "faulty_label",
        "policy",
        "members",
        "candidates",
    }
    assert Policy(**params.policy.model_dump()) == WaferModel().policy_ == Policy()


def test_the_shipped_file_gives_the_charts_own_defaults() -> None:
    """`ControlCharts.learn` without arguments is what a training does, and each of its rules can be named."""
    told = inspect.signature(ControlCharts.learn).parameters
    defaults = {name: knob.default for name, knob in told.items() if knob.kind is knob.KEYWORD_ONLY}
    shipped = read_params(SHIPPED).monitor.model_dump()
    assert shipped == defaults | {"rules": list(defaults["rules"]), "without": defaults["without"] or {}}
    assert get_args(RuleName) == tuple(RULES)


def earlier(**gate: float) -> dict[str, Any]:
    """The shipped parameters as a file of the earlier layout has them."""
    content = yaml.safe_load(TEXT)
    costs = {name: value for name, value in content.pop("policy").items() if name != "threshold"}
    content["fit"] |= {"search": "budget", **costs}
    content["gate"] |= gate
    del content["gate"]["canary_z"], content["monitor"], content["retrain"]
    return content


def test_a_file_of_the_earlier_layout_is_read_as_it_was_meant(tmp_path: Path) -> None:
    """Costs in `fit` are the policy's, and the usual band of the canary is the usual distance from chance."""
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(earlier(canary_low=0.4, canary_high=0.6)))
    shipped = read_params(SHIPPED)
    fixed = shipped.policy.model_copy(update={"threshold": "fixed"})
    assert read_params(file) == shipped.model_copy(update={"policy": fixed}), "no threshold rolled then"
    content = yaml.safe_load(TEXT)
    del content["retrain"]
    file.write_text(yaml.safe_dump(content))
    assert read_params(file) == shipped, "before `retrain` was a section"
    del content["monitor"], content["policy"]["threshold"]
    file.write_text(yaml.safe_dump(content))
    assert read_params(file) == shipped.model_copy(update={"policy": fixed}), "before `monitor` was a section"
    file.write_text(yaml.safe_dump(earlier(canary_low=0.0, canary_high=1.0)))
    assert read_params(file).gate.canary_z == 1000.0
    file.write_text(yaml.safe_dump(earlier(canary_low=0.9, canary_high=0.1)))
    with pytest.raises(ParameterError, match=r"gate\.canary_low: unknown key"):
        read_params(file)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("fit", {"trees": 0}, r"fit\.trees: must be at least 10, got 0"),
        ("fit", {"tress": 10}, r"fit\.tress: unknown key, did you mean 'trees'\?"),
        ("fit", {"Seed": 10}, r"fit\.Seed: unknown key, did you mean 'seed'\?"),
        ("fit", {"imputation": "magic"}, r"fit\.imputation: .*'magic'"),
        ("fit", {"trees": [600]}, r"fit\.trees: .*whole number, got \[600\]"),
        ("fit", {"trees": True}, r"fit\.trees: .*whole number, got true"),
        ("fit", {"trees": 600.0}, r"fit\.trees: .*whole number, got 600\.0"),
        ("fit", {"trees": 10**3000}, r"fit\.trees: must be at most 100000, got 1000"),
        ("policy", {"cost_missed_fault": float("inf")}, r"policy\.cost_missed_fault: .*finite number, got inf"),
        ("fit", {"max_missing": float("nan")}, r"fit\.max_missing: .*finite number, got nan"),
        ("policy", {"threshold": "loose"}, r"policy\.threshold: .*'loose'"),
        (
            "policy",
            {"alarm_rate_ceiling": 0.01},
            "policy: alarm_rate_ceiling must be at least 0.0196 where the threshold",
        ),
        ("policy", {"alarm_rate_ceiling": 1}, r"policy\.alarm_rate_ceiling: must be below 1.0, got 1"),
        ("fit", {"search_folds": 1}, r"fit\.search_folds: must be at least 2, got 1"),
        ("evaluate", {"folds": "5"}, r"evaluate\.folds: .*whole number, got '5'"),
        ("monitor", {"rules": ["nelson-9"]}, r"monitor\.rules.*'nelson-9'"),
        ("monitor", {"rules": []}, r"monitor\.rules: expected 1 or more items, got \[\]"),
        ("monitor", {"without": {"Sensor-1": "all"}}, r"monitor\.without.*'all'"),
        ("monitor", {"ewma_weight": 0}, r"monitor\.ewma_weight: must be above 0"),
        ("retrain", {"drifted_batches": 11}, "retrain: drifted_batches must be at most drift_window, got 11"),
        ("gate", {"auc_margin": -0.1}, r"gate\.auc_margin: must be at least 0.*, got -0\.1"),
        *((name, {"seed": 2**32}, rf"{name}\.seed: .*4294967295, got 4294967296") for name in SEEDED),
        *((name, {"seed": -1}, rf"{name}\.seed: must be at least 0.*, got -1") for name in SEEDED),
        ("fit", {f"k{n}": n for n in range(9)}, r"fit\.k0: .*fit\.k4: unknown key; and 4 more$"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, section: str, values: dict[str, object], message: str) -> None:
    """An unknown key and an impossible value are refused with the key's name and what came."""
    with pytest.raises(ParameterError, match=message):
        read_params(changed(tmp_path, section, **values))


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a file"),
        ("a: [", "no YAML document that can be used: line 1: "),
        ("", "the document: expected an object of keys and values, got null"),
        ("[1, 2]", r"the document: expected an object of keys and values, got \[1, 2\]"),
        ("fit: 3", "fit: expected an object of keys and values, got 3"),
        ("fit: null", "fit: expected an object of keys and values, got null"),
        (TEXT.replace("  trees: 600", "  trees: 10\n  trees: 600"), "line 23: the key 'trees' stands twice"),
        (TEXT + "fit: {}\n", f"line {NEXT_LINE}: the key 'fit' stands twice"),
        (TEXT.replace("600", "[{a: 1, a: 2}]"), "line 22: the key 'a' stands twice"),
        (TEXT + "# f\xfcr die Nachtschicht\n", f"expected UTF-8 text, got the byte 0xfc in line {NEXT_LINE}"),
        (TEXT.encode("utf-16"), "expected UTF-8 text, got the byte 0xff in line 1"),
        (TEXT.encode("utf-16-le"), "line 1: the character #x0000 is not allowed"),
        (BOMB, r"line 2: an alias \(\*a0\) is not taken"),
        (TEXT.replace("fit:", "fit:\n  <<: {seed: 1}"), r"line 12: a merge key \(<<\) is not taken"),
        (TEXT.replace("600", "!!int ''"), "line 22: a tag .* is not taken"),
        (TEXT.replace("  trees", "\ttrees"), r"line 22: .*found character '\\t'"),
        (TEXT.replace("600", "2020-99-99"), "line 22: the value '2020-99-99' cannot be read"),
        (TEXT.replace("600", "1" + "0" * 9000), "line 22: the value '1000.*' cannot be read"),
        *(
            (TEXT.replace("600", number), f"line 22: the number '{number}' must be written in decimal digits")
            for number in ("0600", "10:00", "0x10", "1_000")
        ),
        (TEXT.replace("600", '"\\U00110000"'), "no YAML document that can be used: line 22: "),
        (TEXT.replace("600", "2020-01-01"), "fit.trees: .*whole number, got datetime.date"),
        (TEXT + "---\na: 1\n", "expected a single document"),
        ("[" * 9000, "nested too deeply"),
        (f"# {'x' * 100_000}", "expected at most 100000 bytes, got 100002"),
        ("\n".join(f"k{n}: 1" for n in range(5000)), "; and 5002 more$"),
        (f"? {'x' * 50_000}\n: 1\n", "unknown key|missing"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    """Whatever a file holds, what is wrong with it is one sentence of a bounded length, with its line or key."""
    file = tmp_path / "params.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode("latin-1"))
    with pytest.raises(ParameterError, match=message) as raised:
        read_params(file)
    told = str(raised.value).removeprefix(str(file))
    assert len(told) < LONGEST
    assert told.isprintable()


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """An editor's mark at the start of the file is no reason to refuse it."""
    file = tmp_path / "params.yaml"
    file.write_bytes(TEXT.encode("utf-8-sig"))
    assert read_params(file) == read_params(SHIPPED)


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Section, key and schema of each knob."""
    for section, reference in schema["properties"].items():
        for key, field in schema["$defs"][reference["$ref"].rpartition("/")[2]]["properties"].items():
            yield section, key, field


def test_the_schema_tells_each_keys_meaning_bounds_and_value() -> None:
    """`wafer params schema` prints JSON: no key lacks a meaning, and its values are those of the shipped file."""
    done = CliRunner().invoke(cli, ["params", "schema"])
    assert done.exit_code == 0
    found = list(fields(json.loads(done.stdout)))
    assert all(field["description"] for _, _, field in found)
    shipped = read_params(SHIPPED).model_dump()
    assert {(section, key): field["default"] for section, key, field in found} == {
        (section, key): value for section, values in shipped.items() for key, value in values.items()
    }
    numbers = [field for _, _, field in found if field.get("type") in ("integer", "number")]
    assert all({"minimum", "exclusiveMinimum"} & field.keys() for field in numbers)
    assert all({"maximum", "exclusiveMaximum"} & field.keys() for field in numbers)


def test_a_file_can_be_checked_before_a_run(tmp_path: Path) -> None:
    """`wafer params check` says that a file can be used, or what is wrong with it."""
    good = CliRunner().invoke(cli, ["params", "check", str(SHIPPED)])
    assert (good.exit_code, good.stdout) == (0, f"{SHIPPED} can be used\n")
    bad = CliRunner().invoke(cli, ["params", "check", str(changed(tmp_path, "fit", trees=1))])
    assert bad.exit_code == 2
    assert "fit.trees: must be at least 10, got 1" in bad.stderr


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates() | st.binary(max_size=4)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(leaves, inner, max_size=3), max_leaves=6
)
keys = st.sampled_from([(section, key) for section, values in yaml.safe_load(TEXT).items() for key in values])


@given(st.lists(st.tuples(keys, values), max_size=3), st.lists(st.tuples(leaves, values), max_size=7))
@settings(deadline=None, max_examples=60)
def test_any_values_are_accepted_whole_or_refused_in_a_sentence(changes: list[Any], further: list[Any]) -> None:
    """Whatever stands at whichever key: the file is read as it says, or refused in one bounded, printable sentence."""
    content = yaml.safe_load(TEXT)
    for (section, key), value in changes:
        content[section][key] = value
    content |= dict(further)
    told(yaml.safe_dump(content).encode())


@given(st.integers(0, len(TEXT)), st.integers(0, 12), st.binary(max_size=12) | st.text(max_size=8).map(str.encode))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_accepted_whole_or_refused_in_a_sentence(start: int, cut: int, new: bytes) -> None:
    """The same of bytes that take the place of others anywhere in the file."""
    told(TEXT.encode()[:start] + new + TEXT.encode()[start + cut :])


def told(data: bytes) -> None:
    """Read a file of these bytes, and hold what comes of it to what was promised."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "params.yaml")
        file.write_bytes(data)
        try:
            params = read_params(file)
        except ParameterError as error:
            message = str(error).removeprefix(str(file))
            assert len(message) < LONGEST
            assert message.isprintable()
        else:
            file.write_text(yaml.safe_dump(params.model_dump()))
            assert read_params(file) == params
