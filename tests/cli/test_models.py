"""`wafer models …`, as a person uses it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.conftest import REPOSITORY
from tests.registry.rules import RULES, another_model, with_canary
from wafer.cli.main import main
from wafer.cli.models import models
from wafer.learning.decision import Policy
from wafer.learning.model import WaferModel
from wafer.registry import Registry
from wafer.scoring.bundle import fit_bundle
from wafer.settings import Settings

SENSORS = [f"Sensor-{number}" for number in range(1, 9)]
WAFERS = 120
COMMANDS = ("list", "show", "compare", "promote", "rollback", "retune", "what-if", "log", "at", "verify", "rebuild")
Wafer = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    labels = np.where(np.arange(WAFERS) % 8 == 0, 1, -1)
    recipe = WaferModel(trees=5, search_budget=1, search_folds=2, calibration_folds=2, max_clusters=1)
    fit_bundle(recipe, readings(), labels, reasons=False).save(folder)
    return folder


def readings() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).normal(size=(WAFERS, len(SENSORS))), columns=SENSORS)


def scores(quality: float) -> pd.DataFrame:
    """Forward scores of 120 wafers in three batches; faulty ones lie `quality` above the others."""
    number = np.arange(WAFERS)
    label = np.where(number % 8 == 0, 1, -1)
    score = np.random.default_rng(1).normal(size=WAFERS) + quality * (label == 1)
    return pd.DataFrame(
        {
            "protocol": "forward",
            "repeat": 0,
            "row": number,
            "fold": [f"Wafer_{n // 40}.csv" for n in number],
            "wafer": [f"Wafer-{n}" for n in number],
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
            "alarm": score > 1.5,
            "tail": (score[None, :] >= score[:, None]).mean(axis=1),
            "recent_tail": (score[None, :] >= score[:, None]).mean(axis=1),
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Settings:
    """A storage whose registry holds two versions, decided by the gate: the first champion, a worse one."""
    return make(tmp_path_factory.mktemp("storage"), model_folder)


def make(storage: Path, model_folder: Path, example: pd.DataFrame | None = None) -> Settings:
    settings = Settings.read(storage_url=str(storage), mlflow_url=None)
    registry = Registry.open(settings)
    for number, (quality, auc) in enumerate(((2.0, 0.71), (0.0, 0.52))):
        version = registry.log_training(
            params={"fit": {"trees": 5}, "gate": {"seed": 0}},
            metrics={
                "forward": {"auc": auc, "auc_low": 0.6, "auc_high": 0.8},
                "shuffled": {"auc": 0.75},
                "permuted": {"auc": 0.5},
                "wafers": 120,
            },
            scores=with_canary(scores(quality)),
            model_folder=another_model(model_folder, storage / "made" / str(number), number),
            example=(readings() if example is None else example).head(3),
            tags={"snapshot.digest": "3f2a90c1" * 8, "git.commit": "c0ffee" * 6 + "abcd", "library.numpy": "2.0"},
        )
        registry.decide(version, RULES)
    return settings


@pytest.fixture
def wafer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Wafer:
    """Run the command on a storage: exit status, standard output, standard error."""

    def run(settings: Settings, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(REPOSITORY)
        monkeypatch.setenv("WAFER_STORAGE", settings.storage_url)
        monkeypatch.setattr(sys, "argv", ["wafer", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_versions_are_listed(wafer: Wafer, made: Settings) -> None:
    """A line each with alias, stage, time, both AUCs, snapshot and commit; the same as JSON."""
    status, out, _ = wafer(made, "list")
    heading, first, second = out.splitlines()
    assert status == 0
    assert heading.split() == [
        *("version", "alias", "stage", "trained", "shuffled", "forward", "threshold", "policy", "snapshot", "commit")
    ]
    threshold = Registry.open(made).load(1).classifier.threshold_
    assert (first.split()[:3], first.split()[5:]) == (
        ["1", "champion", "production"],
        ["0.750", "0.710", f"~{threshold:.3f}", "20:1", "≤10%", "3f2a90c13f2a", "c0ffeec0ff"],
    )
    assert second.split()[:3] == ["2", "challenger", "staging"]
    rows = json.loads(wafer(made, "list", "--json")[1])
    assert [(row["version"], row["aliases"], row["forward_auc"], row["threshold"]) for row in rows] == [
        (1, ["champion"], 0.71, threshold),
        (2, ["challenger"], 0.52, threshold),
    ]
    assert rows[0]["policy"] == {
        **{"cost_missed_fault": 20.0, "cost_false_alarm": 1.0, "alarm_rate_ceiling": 0.1, "threshold": "rolling"}
    }
    assert rows[0]["trained"][:16].replace("T", " ") in first


def test_a_version_is_shown_whole(wafer: Wafer, made: Settings) -> None:
    """By number or alias: metrics with intervals, lineage, params and decisions; the same as JSON."""
    status, out, _ = wafer(made, "show", "champion")
    assert status == 0
    assert out.splitlines()[0] == "version 1  champion, production"
    for text in ("auc                           0.71  [0.6, 0.8]", "numpy", "trees", "Version 1 is the first champion"):
        assert text in out
    record = json.loads(wafer(made, "show", "1", "--json")[1])
    assert record["params"] == {"fit": {"trees": 5}, "gate": {"seed": 0}}
    assert record["metrics"]["forward.auc_low"] == 0.6
    assert record["lineage"] == {
        "git.commit": "c0ffee" * 6 + "abcd",
        "library.numpy": "2.0",
        "snapshot.digest": "3f2a90c1" * 8,
    }
    assert [line["promoted"] for line in record["decisions"]] == [True]


def test_two_versions_are_compared(wafer: Wafer, made: Settings) -> None:
    """Both on their common wafers with paired intervals, the second one being the champion unless named."""
    status, out, _ = wafer(made, "compare", "2")
    assert status == 0
    assert out.splitlines()[0] == "120 common wafers, 15 faulty, 3 batches, stored forward scores"
    found = json.loads(wafer(made, "compare", "2", "champion", "--json")[1])
    assert (found["first"], found["second"], found["wafers"]) == (2, 1, 120)
    assert found["auc_low"] < found["auc_difference"] < found["auc_high"] < 0
    other = json.loads(wafer(made, "compare", "1", "2", "--json")[1])
    assert other["auc_difference"] == pytest.approx(-found["auc_difference"])


@pytest.mark.slow
@pytest.mark.invariant
def test_what_was_made_differently_is_told(tmp_path: Path, model_folder: Path) -> None:
    """A parameter, a snapshot and a library that differ stand beside each other; what is the same is left out."""
    registry = Registry.open(Settings.read(storage_url=str(tmp_path)))
    for trees, tags in ((5, {"snapshot.digest": "a"}), (6, {"snapshot.digest": "b", "library.numpy": "2.0"})):
        registry.log_training(
            params={"fit": {"trees": trees, "seed": 0}},
            metrics={},
            scores=scores(1.0),
            model_folder=model_folder,
            example=readings().head(2),
            tags={"git.commit": "c0ffee", **tags},
        )
    assert registry.changes(1, 2) == [
        {"name": "library.numpy", "first": None, "second": "2.0"},
        {"name": "params.fit.trees", "first": "5", "second": "6"},
        {"name": "snapshot.digest", "first": "a", "second": "b"},
    ]
    assert registry.changes(2, 2) == []


def test_the_ledger_is_told(wafer: Wafer, made: Settings) -> None:
    """Newest last, with the reason; as JSON with every number."""
    status, out, _ = wafer(made, "log")
    lines = out.splitlines()
    assert status == 0
    assert [line.split("  ", 1)[1] for line in lines[::2]] == [
        "gate        version 1 promoted",
        "gate        version 2 refused",
    ]
    assert lines[3].strip().startswith("Version 2 was refused and version 1 stays champion: forward ROC AUC 0.")
    first, second = json.loads(wafer(made, "log", "--json")[1])
    assert (first["champion"], second["champion"], second["promoted"]) == (None, 1, False)
    assert second["comparison"]["wafers"] == 120
    assert [check["name"] for check in second["checks"]][-3:] == ["forward ROC AUC", "forward cost", "best"]


@pytest.mark.slow
@pytest.mark.invariant
def test_who_was_in_use_at_a_moment(wafer: Wafer, model_folder: Path, tmp_path: Path) -> None:
    """With or without a time zone: which version, since and until when, by which decision; as JSON too."""
    settings = make(tmp_path, model_folder)
    registry = Registry.open(settings)
    changed = registry.promote(2, "a new kind of fault").time
    first = registry.ledger()[0].time
    between = datetime.fromisoformat(first) + (datetime.fromisoformat(changed) - datetime.fromisoformat(first)) / 2

    def shown(time: str) -> str:
        return f"{time[:19].replace('T', ' ')} UTC"

    status, out, _ = wafer(settings, "at", between.isoformat())
    assert (status, out.splitlines()[0]) == (
        0,
        f"version 1 was in use at {shown(between.isoformat())}, from {shown(first)} until {shown(changed)}",
    )
    assert out.splitlines()[1].startswith("    gate: Version 1 is the first champion: ")
    elsewhere = between.astimezone(timezone(timedelta(hours=-7))).isoformat()
    unzoned = between.replace(tzinfo=None).isoformat()
    for spelling in (elsewhere, unzoned):
        assert json.loads(wafer(settings, "at", spelling, "--json")[1]) == {
            "at": between.isoformat(timespec="seconds"),
            "version": 1,
            "since": first,
            "until": changed,
            "kind": "gate",
            "why": registry.ledger()[0].reason,
            "in_use": {"version": 1, "threshold": registry.version(1).threshold, "policy": registry.version(1).policy},
        }
    assert wafer(settings, "at", changed)[1].splitlines() == [
        f"version 2 was in use at {shown(changed)}, from {shown(changed)} until now",
        "    promote: a new kind of fault",
        f"    {told_in_use(registry, 2)}",
    ]
    told = f"no version was in use at 2020-01-01 00:00:00 UTC: the first is in use since {shown(first)}\n"
    assert wafer(settings, "at", "2020-01-01")[:2] == (1, told)
    status, out, _ = wafer(settings, "at", "2020-01-01T00:00+00:00", "--json")
    assert (status, json.loads(out)["version"]) == (1, None)


def told_in_use(registry: Registry, version: int) -> str:
    return (
        f"alarms from probability about {registry.version(version).threshold:.4f}, as the wafers before each one say: "
        "a missed fault costs 20, a false alarm 1, at most 10 % of wafers may raise one"
    )


@pytest.mark.slow
def test_another_threshold_needs_no_training(wafer: Wafer, model_folder: Path, tmp_path: Path) -> None:
    """A version with another policy goes through the gate; every command shows it; a rollback takes it back."""
    settings = make(tmp_path, model_folder)
    registry = Registry.open(settings)
    params = tmp_path / "params.yaml"  # these trainings have no shuffled scores to measure a calibration error on
    shipped = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    params.write_text(shipped.replace("calibration_error: 0.05", "calibration_error: 1.0"), encoding="utf-8")
    why = ("--params", str(params), "--why", "faults slip through")
    status, out, _ = wafer(
        settings, "retune", "champion", "--cost-missed-fault", "100", "--alarm-rate-ceiling", "0.3", *why
    )
    lines = out.splitlines()
    assert (status, lines[0]) == (0, "version 3 has the parts of version 1 and another policy")
    assert lines[2].strip() == told_in_use(registry, 1)
    assert lines[4].endswith("at most 30 % of wafers may raise one")
    assert lines[5].startswith("the threshold stays: the ceiling of alarms sets it"), "this model tells nothing apart"
    assert lines[6].startswith("Version 3 is version 1 with another policy: faults slip through. Version 3 replaces")
    told = f"the next training follows {params}: to keep it, write there under policy: "
    assert lines[7] == f"{told}cost_missed_fault: 100, alarm_rate_ceiling: 0.3"
    assert "100:1 ≤30%" in wafer(settings, "list")[1].splitlines()[3]
    assert "retuned from version 1: faults slip through" in wafer(settings, "show", "3")[1]
    assert "params.policy.alarm_rate_ceiling" in wafer(settings, "compare", "3", "1")[1]
    assert "retune      version 3 promoted" in wafer(settings, "log")[1]
    assert wafer(settings, "verify", "3")[0] == 0
    undone = wafer(settings, "rollback", "--why", "too many alarms")[1]
    assert undone.splitlines() == ["version 1 is champion, version 3 was before", f"    {told_in_use(registry, 1)}"]
    status, out, _ = wafer(settings, "retune", "champion", "--cost-missed-fault", "1000", *why, "--json")
    found = json.loads(out)
    assert (status, found["kind"], found["before"]["version"], found["now"]["version"]) == (0, "retune", 1, 4)
    assert found["now"]["policy"]["cost_missed_fault"] == 1000


def test_other_costs_are_answered_from_stored_scores(wafer: Wafer, made: Settings) -> None:
    """What alarms of other costs would have been worth, and so many inspected wafers of each batch."""
    status, out, _ = wafer(made, "what-if", "--cost-missed-fault", "10", "--json")
    found = json.loads(out)
    assert (status, found["version"], found["policy"]["cost_missed_fault"]) == (0, 1, 10)
    ways = {row["way"]: row for row in found["ways"]}
    assert list(ways) == ["no inspection", "inspecting every wafer", "inspecting a random tenth", "this model"]
    assert [ways[way]["cost"] for way in list(ways)[:3]] == pytest.approx([1250.0, 875.0, 1212.5])
    told = Policy(cost_missed_fault=10.0).alarms(
        *(scores(2.0)[name].to_numpy() for name in ("probability", "recent_tail"))
    )
    assert ways["this model"]["alarm_rate"] == told.mean()
    lines = wafer(made, "what-if", "1", "--cost-missed-fault", "50", "--alarm-rate", "0.05")[1].splitlines()
    assert lines[0] == "version 1: a missed fault costs 50, a false alarm 1, 5 % of each batch are inspected"
    assert [line.split()[:3] for line in lines[2:4]] == [
        ["no", "inspection", "6,250"],
        ["inspecting", "every", "wafer"],
    ]
    assert lines[-1].startswith("Forward, the alarms cost ") and lines[-1].endswith("here it costs 50.")


@pytest.mark.slow
@pytest.mark.invariant
def test_a_version_without_scores_cannot_tell_what_if(wafer: Wafer, model_folder: Path, tmp_path: Path) -> None:
    """It is told in one sentence."""
    settings = make(tmp_path, model_folder)
    next(
        Path(str(settings.artifact_root)).glob(f"{Registry.open(settings).version(2).run_id}/**/scores.parquet")
    ).unlink()
    status, out, err = wafer(settings, "what-if", "2")
    assert (status, out) == (2, "")
    assert "could not read scores.parquet of version 2" in err


@pytest.mark.slow
@pytest.mark.invariant
def test_champions_change_by_hand(wafer: Wafer, model_folder: Path, tmp_path: Path) -> None:
    """Promote and roll back, each with its reason in the ledger; a broken version is refused and fails its check."""
    settings = make(tmp_path, model_folder)
    assert wafer(settings, "promote", "2", "--why", "a new kind of fault") == (
        0,
        f"version 2 is champion, version 1 was before\n    {told_in_use(Registry.open(settings), 2)}\n",
        "",
    )
    status, out, _ = wafer(settings, "rollback", "--why", "it was none", "--json")
    assert (status, json.loads(out)["challenger"]) == (0, 1)
    for why, told in (("it was one", "version 2 is champion, version 1"), ("it was none", "version 1 is champion")):
        assert wafer(settings, "rollback", "--why", why)[1].startswith(told)
    told = json.loads(wafer(settings, "log", "--json")[1])
    assert [(line["kind"], line["reason"]) for line in told[2:]] == [
        ("promote", "a new kind of fault"),
        ("rollback", "it was none"),
        ("rollback", "it was one"),
        ("rollback", "it was none"),
    ]
    assert wafer(settings, "verify")[0] == 0
    models = sorted((tmp_path / "state" / "mlflow").glob("artifacts/models/*/artifacts/artifacts/model/manifest.json"))
    assert len(models) == 2
    for file in models:
        file.write_text("{}")
    status, out, _ = wafer(settings, "verify", "2")
    assert (status, "manifest.json is not what was registered" in out) == (1, True)
    checks = json.loads(wafer(settings, "verify", "--json")[1])
    assert {number: [check["passed"] for check in found] for number, found in checks.items()} == {
        "1": [False],
        "2": [False],
    }
    status, out, err = wafer(settings, "promote", "2", "--why", "again")
    assert (status, out) == (2, "")
    assert err.startswith(
        "wafer: version 2 cannot become champion: version 2 of 'wafer': artifacts/model/manifest.json"
    )


@pytest.mark.slow
@pytest.mark.invariant
def test_what_cannot_be_fetched_does_not_hide_the_others(wafer: Wafer, model_folder: Path, tmp_path: Path) -> None:
    """One version's files are gone: it fails its check, the other is checked as ever, and the exit status is 1."""
    settings = make(tmp_path, model_folder)
    shutil.rmtree(Path(str(settings.artifact_root)) / Registry.open(settings).version(1).run_id)
    status, out, err = wafer(settings, "verify")
    assert (status, err) == (1, "")
    lines = [line.strip() for line in out.splitlines()]
    assert (lines[0], lines[2]) == ("version 1", "version 2")
    assert lines[1].startswith("failed  loads verified: the model registry at sqlite:")
    assert [line.split(":")[0] for line in lines[3:]] == ["passed  loads verified", "passed  probe"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "7"), "the model registry has no version '7' of 'wafer', only: 1, 2"),
        (("promote", "2"), "Missing option '--why'"),
        (("promote", "2", "--why", " "), "a promote needs a reason, which the ledger keeps"),
        (("rollback", "--why", "x"), "there is no previous champion to go back to"),
        (
            ("retune", "1", "--why", "x"),
            "name what changes: --cost-missed-fault, --cost-false-alarm, --alarm-rate-ceiling or",
        ),
        (("retune", "1", "--cost-missed-fault", "50"), "Missing option '--why'"),
        (
            ("retune", "1", "--cost-missed-fault", "0", "--why", "x"),
            "cost_missed_fault must be above 0, at most 1,000,000,000",
        ),
        (("retune", "1", "--cost-missed-fault", "20", "--why", "x"), "version 1 has this policy already"),
        (("what-if", "--cost-false-alarm", "0"), "cost_false_alarm must be above 0, at most 1,000,000,000, got 0.0"),
        (("what-if", "2", "--alarm-rate", "1.5"), "the alarm rate must be above 0 and at most 1, got 1.5"),
        (("what-if", "2", "--alarm-rate", "nan"), "the alarm rate must be above 0 and at most 1, got nan"),
        (("what-if", "2", "--alarm-rate", "few"), "'few' is not a valid float"),
        (("compare", "2", "--params", "no/such/params.yaml"), "no/such/params.yaml is not a file"),
        (("at", "yesterday"), "'yesterday' is no time: expected one like 2026-05-01T12:00"),
        (("at", "0001-01-01T00:00+12:00"), "'0001-01-01T00:00+12:00' is no time"),
        (("at", "9990-01-01"), "'9990-01-01' has not come yet"),
        (("show", "²"), "the model registry has no version '²' of 'wafer', only: 1, 2"),
        (("show", "9" * 60), f"the model registry has no version '{'9' * 40}…' of 'wafer', only: 1, 2"),
        (("show", "no such alias"), "the model registry has no version 'no such alias' of 'wafer', only: 1, 2"),
        (("rebuild", "1"), "version 1 cannot be rebuilt: its run has no snapshot/manifest.json"),
    ],
)
def test_wrong_use_is_one_clear_sentence(
    wafer: Wafer, made: Settings, arguments: tuple[str, ...], message: str
) -> None:
    """Exit status 2, the thing concerned is named, nothing on standard output."""
    status, out, err = wafer(made, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.invariant
def test_without_a_version_it_says_what_makes_one(wafer: Wafer, tmp_path: Path) -> None:
    """In an empty registry listing and log say so, and are no error; a check of nothing is a negative result."""
    settings = Settings.read(storage_url=str(tmp_path))
    assert wafer(settings, "list")[:2] == (0, "no version yet: `wafer train` makes the first\n")
    told = "wafer: there is no version to check yet: `wafer train` makes the first\n"
    assert wafer(settings, "verify") == (1, "", told)
    assert wafer(settings, "log")[:2] == (0, "no decision yet\n")
    told = "no version was in use at 2020-01-01 00:00:00 UTC: there has been no champion yet\n"
    assert wafer(settings, "at", "2020-01-01")[:2] == (1, told)
    assert json.loads(wafer(settings, "list", "--json")[1]) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_at_once(command: str) -> None:
    """Each command explains itself, the larger ones with an example, without importing what takes seconds."""
    script = "import sys; from wafer.cli.main import main\nsys.argv = ['wafer', 'models', sys.argv[1], '--help']\n"
    script += "try: main()\n"
    script += "finally: print([m for m in ('pandas', 'mlflow', 'sklearn', 'xgboost', 'dvc') if m in sys.modules])"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, command], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 5, "a busy machine is slow, but not as slow as an import of MLflow"
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Usage: wafer models" in done.stdout
    assert ("wafer models " in done.stdout.partition("\n\n")[2]) == (command != "list")


def test_help_says_what_a_second_rollback_does() -> None:
    """It takes back the first, so nobody expects to go further back by it; help and manual say so."""
    told = " ".join(CliRunner().invoke(models, ["rollback", "--help"]).output.split())
    manual = " ".join((REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8").split())
    assert "A second rollback takes back the first" in told
    assert "A second `rollback` takes back the first" in manual


@pytest.mark.parametrize("command", [["list"], ["show", "1"], ["at", "2026-05-01"], ["rebuild", "1"]], ids=" ".join)
def test_a_variable_that_cannot_be_used_is_told_at_once(command: list[str]) -> None:
    """Before MLflow is imported, which takes seconds."""
    code = (
        "import sys; from wafer.cli.main import main\n"
        f"try: main({['models', *command]!r})\n"
        "except SystemExit as end: sys.exit(10 * ('mlflow' in sys.modules) + end.code)"
    )
    env = {**os.environ, "MLFLOW_TRACKING_URI": "ftp://host"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("wafer: MLFLOW_TRACKING_URI is 'ftp://host': expected an address")
