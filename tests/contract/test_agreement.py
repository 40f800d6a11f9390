import copy
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafer.contract.agreement import (
    DEFAULTS,
    Agreement,
    import_agreement,
    init_agreement,
    make_suite,
    read_agreement,
)
from wafer.contract.facts import FACTS
from wafer.contract.rules import SEVERITIES
from wafer.contract.suites import Contract
from wafer.documents import LONGEST_PROBLEM, MOST_PROBLEMS
from wafer.errors import AgreementError

EXPECTATIONS = Path(__file__).parents[2] / "expectations"
NEEDED = [str(field.alias) for field in Agreement.model_fields.values() if field.is_required()]
LONGEST = (MOST_PROBLEMS + 1) * LONGEST_PROBLEM  # characters of a message, its file's name apart


def document(kind: str, sensors: int = 590) -> dict[str, Any]:
    """An agreement as customers write it: names with spaces, types with blanks."""
    columns = {"Wafer": "varchar"} | {f"Sensor - {number}": " float" for number in range(1, sensors + 1)}
    if kind == "training":
        columns["Output"] = "Integer"
    return {
        "SampleFileName": "wafer_08012020_120000.csv",
        "LengthOfDateStampInFile": 8,
        "LengthOfTimeStampInFile": 6,
        "NumberofColumns": len(columns),
        "ColName": columns,
    }


def write(folder: Path, content: Any) -> Path:
    """`content` as a JSON file in `folder`."""
    path = folder / "schema.json"
    path.write_text(json.dumps(content))
    return path


def rules(path: Path) -> dict[str, dict[str, Any]]:
    """The rules of a suite file by name, both sections."""
    suite = json.loads(path.read_bytes())
    return {entry["meta"]["rule"]: entry for entry in suite["expectations"] + suite["readings"]}


OWN = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "Sensor-1", "min_value": 0},
    "meta": {"rule": "sensor_1", "severity": "warn", "message": "low", "source": "customer"},
}


@pytest.mark.parametrize("kind", ["training", "prediction"])
def test_the_committed_suites_are_what_the_agreement_states(tmp_path, kind):
    """Importing the agreement afresh gives the committed suite, byte for byte."""
    target = import_agreement(write(tmp_path, document(kind)), kind, folder=tmp_path / "expectations")
    assert target == tmp_path / "expectations" / f"{kind}.json"
    assert target.read_bytes() == (EXPECTATIONS / f"{kind}.json").read_bytes()


@pytest.mark.parametrize("kind", ["training", "prediction"])
def test_the_real_agreement_states_the_committed_suites(real_wafers, kind):
    """The customer's own file leads to the committed suite."""
    suite = make_suite(read_agreement(real_wafers / "agreement" / f"schema_{kind}.json"))
    assert suite == json.loads((EXPECTATIONS / f"{kind}.json").read_bytes())


def test_importing_replaces_only_rules_of_an_agreement(tmp_path):
    """The customer's own rules and settings stay, one of an agreed name wins, and a second import changes nothing."""
    folder = tmp_path / "expectations"
    source = write(tmp_path, document("training", 3))
    target = import_agreement(source, folder=folder)
    suite = json.loads(target.read_bytes())
    suite["readings"].append(OWN)
    for entry in suite["expectations"]:
        if entry["meta"]["rule"] == "empty_sensors":
            entry["meta"] |= {"severity": "reject file", "source": "customer"}
        if entry["meta"]["rule"] == "wafers":
            entry["kwargs"]["min_value"] = 7
    suite["meta"] |= {"repeat_tolerance": 1e-6, "order": "file_time"}
    target.write_text(json.dumps(suite))

    import_agreement(source, folder=folder)
    found = rules(target)
    assert found["sensor_1"] == OWN
    assert found["empty_sensors"]["meta"]["severity"] == "reject file"
    assert found["wafers"]["kwargs"]["min_value"] == 1
    meta = json.loads(target.read_bytes())["meta"]
    assert (meta["repeat_tolerance"], meta["order"]) == (1e-6, "file_time")

    before = target.read_bytes()
    import_agreement(source, folder=folder)
    assert target.read_bytes() == before


def test_an_agreement_says_more_where_it_wants_to(tmp_path):
    """Severities, limits, names and order come from the agreement's further keys."""
    terms = {
        "EmptySensors": "reject",
        "BadWafers": "drop wafer",
        "MaxDroppedShare": 0.25,
        "MaxBytes": 1000,
        "Order": "file_time",
        "LabelNames": ["Verdict"],
        "Labels": {"ok": -1, "faulty": 1},
    }
    target = import_agreement(write(tmp_path, document("training", 3) | terms), folder=tmp_path)
    found, meta = rules(target), json.loads(target.read_bytes())["meta"]
    assert found["empty_sensors"]["meta"]["severity"] == "reject file"
    assert found["bad_cells"]["meta"]["severity"] == "drop wafer"
    assert found["too_large"]["kwargs"] == {"column": "size", "max_value": 1000}
    assert (meta["max_dropped_share"], meta["order"]) == (0.25, "file_time")
    assert (meta["form"]["label"], meta["form"]["labels"]) == (["Verdict", "Output"], {"ok": -1, "faulty": 1})


def test_other_stamps_and_names_are_agreed_on(tmp_path):
    """A short date, a time without seconds and another name give the rules for them."""
    other = {"SampleFileName": "lot.a_080120_1200.txt", "LengthOfDateStampInFile": 6, "LengthOfTimeStampInFile": 4}
    target = import_agreement(write(tmp_path, document("prediction", 3) | other), folder=tmp_path)
    found = rules(target)
    assert found["file_name"]["kwargs"]["regex"] == r"\A[Ll]ot\.a_[0-9]+_[0-9]+\.txt\Z"
    assert found["file_name"]["meta"]["expected"] == "lot.a_DDMMYY_HHMM.txt"
    assert found["calendar"]["kwargs"]["strftime_format"] == "%d%m%y_%H%M"
    assert "labels_missing" not in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SampleFileName": None}, "SampleFileName: expected text, got null"),
        (
            {"SampleFileName": "wafer.csv"},
            "SampleFileName: expected name_DDDDDDDD_TTTTTT.csv with stamps of the agreed",
        ),
        *(
            ({"SampleFileName": name}, "SampleFileName: expected name_DDDDDDDD_TTTTTT.csv")
            for name in (".wafer_08012020_120000.csv", "wafer_08012020_120000.part")
        ),
        ({"SampleFileName": "wafer_0801202_120000.csv"}, "SampleFileName: expected name_DDDDDDDD_TTTTTT.csv"),
        ({"SampleFileName": "wafer_32012020_120000.csv"}, "SampleFileName: 32012020_120000 is no date and time"),
        ({"LengthOfDateStampInFile": "8"}, "LengthOfDateStampInFile: expected 8 or 6, got '8'"),
        ({"LengthOfTimeStampInFile": 7}, "LengthOfTimeStampInFile: expected 6 or 4, got 7"),
        ({"NumberofColumns": 4}, "NumberofColumns: 4, but ColName lists 5 columns"),
        ({"ColName": []}, "ColName: expected an object of keys and values, got []"),
        ({"Colour": 1}, "Colour: unknown key"),
        ({"EmptySensors": "ignore"}, "EmptySensors: expected 'tolerate' or 'reject', got 'ignore'"),
        ({"MaxDroppedShare": 7}, "MaxDroppedShare: must be below 1.0, got 7"),
        ({"MaxBytes": 0}, "MaxBytes: must be at least 1, got 0"),
        ({"Labels": {"x": 0}}, "Labels: expected spellings of -1 (good) and 1 (faulty)"),
        ({"Labels": {"0": [-1]}}, "Labels.0: expected a whole number, got [-1]"),
        ({"Labels": {"0": -1.0, "1": 1.0}}, "Labels.0: expected a whole number, got -1.0"),
        ({"Labels": {"0": False, "1": True}}, "Labels.0: expected a whole number, got false"),
        ({"Labels": {}}, "Labels: expected spellings of -1 (good) and 1 (faulty), got {}"),
        ({"Labels": {"0": 1}}, "Labels: expected spellings of -1 (good) and 1 (faulty), got {'0': 1}"),
        ({"Labels": {"a": 1, "b": 1}}, "Labels: expected spellings of -1 (good) and 1 (faulty)"),
        ({"Labels": {" ok": -1, "bad": 1}}, "Labels: a spelling is text without blanks around it, got ' ok'"),
        (
            {"Labels": {"good": -1, "Good": 1}},
            "Labels: 'good' and 'Good' read alike, so they cannot mean good and faulty",
        ),
        ({"Labels": {"0": -1, "1": 1, "-0.0": 1}}, "Labels: '0' and '-0.0' read alike"),
        ({"Labels": {"": -1, "bad": 1}}, "Labels: a spelling is text without blanks around it, got ''"),
        ({"WaferNames": ["Sensor-1"]}, "WaferNames: each name once, but 'Sensor-1' stands in ColName too"),
        ({"WaferNames": ["Output"]}, "WaferNames: each name once, but 'Output' stands in ColName too"),
        ({"WaferNames": ["Id", "I d"]}, "WaferNames: each name once, but 'I d' stands twice"),
        ({"LabelNames": ["Sensor-1"]}, "LabelNames: each name once, but 'Sensor-1' stands in ColName too"),
        ({"LabelNames": ["Wafer"]}, "LabelNames: each name once, but 'Wafer' stands in ColName too"),
        ({"LabelNames": ["Unnamed: 0"]}, "LabelNames: each name once, but 'Unnamed: 0' stands in WaferNames too"),
        ({"LabelNames": ["a", "a"]}, "LabelNames: each name once, but 'a' stands twice"),
        ({"LabelNames": [" "]}, "LabelNames: expected names, got an empty one"),
        ({"NumberOfColumns": 5}, "NumberOfColumns: unknown key, did you mean 'NumberofColumns'?"),
        ({"NumberofColumns": 5.0}, "NumberofColumns: expected a whole number, got 5.0"),
        ({"LengthOfDateStampInFile": 8.0}, "LengthOfDateStampInFile: expected a whole number, got 8.0"),
        ({"WaferId": "("}, "WaferId: missing ), unterminated subpattern"),
        ({"WaferId": "(?P<number>[0-9]{99999999999})"}, "WaferId: "),
        ({"MaxBytes": 10**30}, "MaxBytes: must be at most"),
        ({"Listed": True}, "Listed: expected a whole number, got true"),
        ({"MaxDroppedShare": -0.1}, "MaxDroppedShare: must be at least 0.0, got -0.1"),
        ({"ColName": ["Wafer", "Output"]}, "ColName: expected an object of keys and values, got ['Wafer', 'Output']"),
        ({"ColName": {"Wafer": "varchar", " ": "float"}, "NumberofColumns": 2}, "ColName: a sensor needs a name"),
        *(
            (
                {"ColName": {"Wafer": "varchar", name: "float"}, "NumberofColumns": 2},
                f"ColName: a sensor may not be called {name!r}",
            )
            for name in ("label", "wafer", "or der", "batch")
        ),
        (
            {"ColName": {"Wafer": "varchar", "\u00e9": "float", "e\u0301": "float"}, "NumberofColumns": 3},
            "ColName: each name once, but 'e\u0301' stands twice",
        ),
        ({"WaferNames": ["a\x1b[1m"]}, r"WaferNames: expected a name that can be printed, got 'a\x1b[1m'"),
        ({"LabelNames": ["a\nb"]}, r"LabelNames: expected a name that can be printed, got 'a\nb'"),
        ({"Labels": {"d\u00e9faut": 1, "de\u0301faut": -1}}, "read alike, so they cannot mean good and faulty"),
        ({"Labels": {"\uff2f\uff2b": 1, "ok": -1}}, "read alike, so they cannot mean good and faulty"),
        (
            {"ColName": {"Wafer": "varchar", "S\n1": "float"}, "NumberofColumns": 2},
            "ColName: expected a name that can be",
        ),
        ({"LabelNames": "Output"}, "LabelNames: expected a list, got 'Output'"),
        ({"WaferId": "Wafer-[0-9]+"}, "WaferId: needs the groups number in each match, got 'Wafer-[0-9]+'"),
        ({"WaferId": "W(a+)+-(?P<number>[0-9]+)"}, "WaferId: expected repeats that the next character ends"),
        ({"WaferId": "W(?P<number>.*)"}, "WaferId: expected 1 to 18 digits and nothing else in the group number, got"),
        (
            {"ColName": {"Wafer": "varchar", "a": "float", "b": "date"}, "NumberofColumns": 3},
            "ColName: expected varchar, float or Integer for 'b'",
        ),
        ({"ColName": {"a": "float", "Wafer": "varchar"}, "NumberofColumns": 2}, "ColName: expected the id (varchar)"),
        ({"ColName": {"Wafer": "varchar", "Output": "Integer"}, "NumberofColumns": 2}, "ColName: expected one varchar"),
        (
            {"ColName": {"Wafer": "varchar", "S - 1": "float", "S-1": "float"}, "NumberofColumns": 3},
            "ColName: each name once, but 'S-1' stands twice",
        ),
    ],
)
def test_an_agreement_that_cannot_be_used_names_the_key(tmp_path, change, message):
    """What is wrong with an agreement is said with its file and key, and no suite is written."""
    source = write(tmp_path, document("training", 3) | change)
    with pytest.raises(AgreementError, match=re.escape(message)) as raised:
        import_agreement(source, folder=tmp_path / "expectations")
    assert str(source) in str(raised.value)
    assert len(str(raised.value)) - len(str(source)) < LONGEST
    assert not (tmp_path / "expectations").exists()


@pytest.mark.parametrize("key", ["SampleFileName", "LengthOfDateStampInFile", "NumberofColumns", "ColName"])
def test_a_missing_key_is_named(tmp_path, key):
    """Each key that an agreement needs is asked for."""
    content = document("training", 3)
    del content[key]
    with pytest.raises(AgreementError, match=f"{key}: missing"):
        read_agreement(write(tmp_path, content))


def test_a_key_that_stands_twice_is_no_agreement(tmp_path):
    """A column listed twice would silently be one, and is refused."""
    path = tmp_path / "schema.json"
    path.write_text('{"ColName": {"Wafer": "varchar", "Wafer": "float"}}')
    with pytest.raises(AgreementError, match=r"ColName\.Wafer: stands twice"):
        read_agreement(path)


def test_another_encoding_of_an_agreement(tmp_path):
    """A byte order mark does no harm; any other encoding than UTF-8 is told with the line."""
    text = json.dumps(document("training", 3), indent=1)
    path = tmp_path / "schema.json"
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_agreement(path).sensors == ["Sensor - 1", "Sensor - 2", "Sensor - 3"]
    path.write_bytes(text.replace("Output", "G\xfcte").encode("latin-1"))
    with pytest.raises(AgreementError, match="expected UTF-8 text, got the byte 0xfc in line 11"):
        read_agreement(path)


def test_an_import_that_fails_leaves_the_suites_as_they_are(tmp_path):
    """A suite that was imported before stays byte for byte, and nothing else is left in its folder."""
    target = import_agreement(write(tmp_path, document("training", 3)), folder=tmp_path / "suites")
    before = target.read_bytes()
    source = write(tmp_path, document("training", 3) | {"Labels": {"0": 1}})
    with pytest.raises(AgreementError, match="Labels: expected spellings"):
        import_agreement(source, folder=tmp_path / "suites")
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "suites").iterdir()] == [("training.json", before)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
near = st.sampled_from([*DEFAULTS.values(), 8, 6, 4, {"0": -1, "1": 1}, ["Lot"], "lot_080120_1200.txt", 0.5])


@given(st.dictionaries(st.sampled_from([*NEEDED, *DEFAULTS]) | st.text(max_size=9), json_values | near, max_size=4))
@settings(deadline=None, max_examples=150)
def test_any_agreement_is_accepted_whole_or_refused_in_a_sentence(changes):
    """Whatever its keys hold, an agreement says what was written, or is refused in one bounded, printable sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), document("training", 3) | changes)
        try:
            agreement = read_agreement(path)
        except AgreementError as error:
            told = str(error).removeprefix(str(path))
            assert len(told) < LONGEST
            assert told.isprintable()
        else:
            assert agreement.model_dump(by_alias=True) == DEFAULTS | document("training", 3) | changes


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places within a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, inner in items for found in paths(inner, (*path, key)))]


SMALL = make_suite(Agreement.model_validate(document("training", 2)))


@given(st.lists(st.tuples(st.sampled_from(paths(SMALL)[1:]), json_values), min_size=1, max_size=3))
@settings(deadline=None, max_examples=150)
def test_any_suite_is_accepted_whole_or_refused_in_a_sentence(changes):
    """Whatever stands at any place of a suite, its outline is as written, or it is refused in one bounded sentence."""
    suite = copy.deepcopy(SMALL)
    for path, value in changes:
        here: Any = suite
        try:
            for key in path[:-1]:
                here = here[key]
            here[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "training.json")
        file.write_text(json.dumps(suite))
        try:
            form = Contract.load_form("training", Path(folder))
        except AgreementError as error:
            told = str(error).removeprefix(str(file))
            assert len(told) < LONGEST
            assert told.isprintable()
        else:
            meta = suite["meta"]["form"]
            assert [*form.wafer] == meta["wafer"]
            assert [*form.sensors] == meta["sensors"]
            assert form.labels == meta["labels"]


def test_a_file_that_is_no_agreement_is_named(tmp_path):
    """A missing file, text that is no JSON and another document are one clear sentence each."""
    with pytest.raises(AgreementError, match=r"none\.json: No such file or directory"):
        read_agreement(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(AgreementError, match=r"text\.json: no JSON document"):
        read_agreement(tmp_path / "text.json")
    with pytest.raises(AgreementError, match="the document: expected an object of keys and values, got "):
        read_agreement(write(tmp_path, []))


def test_the_kind_must_fit_the_agreement(tmp_path):
    """An agreement without a label is none for training, and the other way round."""
    with pytest.raises(AgreementError, match=r"has no label column \(Integer\), so it is no training agreement"):
        import_agreement(write(tmp_path, document("prediction", 3)), "training", folder=tmp_path)
    with pytest.raises(AgreementError, match=r"has a label column \(Integer\), so it is no prediction agreement"):
        import_agreement(write(tmp_path, document("training", 3)), "prediction", folder=tmp_path)


def test_a_present_suite_that_cannot_be_read_is_not_overwritten(tmp_path):
    """Own rules are never lost to an import: what cannot be read stays as it is."""
    source = write(tmp_path, document("training", 3))
    for content in ("{", '{"expectations": [{}], "readings": [], "meta": {}}', "[]"):
        (tmp_path / "training.json").write_text(content)
        with pytest.raises(AgreementError):
            import_agreement(source, folder=tmp_path)
        assert (tmp_path / "training.json").read_text() == content


@pytest.mark.parametrize("kind", ["training", "prediction"])
def test_a_first_agreement_can_be_imported_as_it_is(tmp_path, kind):
    """What `init` writes for a new customer has every key, and leads to the same suite as the bare agreement."""
    path = init_agreement(tmp_path / "new.json", kind)
    target = import_agreement(path, kind, folder=tmp_path)
    assert target.read_bytes() == (EXPECTATIONS / f"{kind}.json").read_bytes()


def test_a_first_agreement_never_overwrites_and_checks_its_arguments(tmp_path):
    """An agreement that is there stays, and impossible arguments are refused."""
    path = tmp_path / "new.json"
    init_agreement(path, "training", sensors=2, customer="Acme-7")
    before = path.read_bytes()
    assert json.loads(before)["SampleFileName"] == "Acme-7_08012020_120000.csv"
    with pytest.raises(AgreementError, match="is there already and stays as it is"):
        init_agreement(path)
    assert path.read_bytes() == before
    for arguments, message in (
        ({"kind": "other"}, "kind: expected training or prediction, got 'other'"),
        ({"sensors": 0}, "sensors: expected 1 to 50000, got 0"),
        ({"sensors": 10**400}, "sensors: expected 1 to 50000, got 10"),
        ({"customer": "a_b"}, "customer: expected letters, digits and hyphens, got 'a_b'"),
    ):
        with pytest.raises(AgreementError, match=message):
            init_agreement(tmp_path / "other.json", **arguments)


DOCS = Path(__file__).parents[2] / "docs" / "agreement.md"


def test_every_key_fact_and_rule_is_documented():
    """The documentation names each key of an agreement, each fact, each agreed rule and each word of a rule."""
    text = DOCS.read_text()
    names = {*NEEDED, *DEFAULTS, *FACTS, *rules(EXPECTATIONS / "training.json"), *SEVERITIES}
    names |= {"rule", "severity", "message", "source", "expected", "told", "tolerance"}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_the_documented_rules_are_rules():
    """The rule shown in the documentation is the committed one, and the customer's own one can be added as it is."""
    shown = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    suite = json.loads((EXPECTATIONS / "training.json").read_bytes())
    assert json.loads(shown[0]) in suite["expectations"]
    suite |= json.loads(f"{{{shown[1]}}}")
    assert Contract.of(suite, "training").rules[-1].name == "sensor_12_range"
