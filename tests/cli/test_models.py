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
from wafer.learning.model import WaferModel
from wafer.registry import Registry
from wafer.scoring.bundle import fit_bundle
from wafer.settings import Settings

SENSORS = [f"Sensor-{number}" for number in range(1, 9)]
WAFERS = 120
COMMANDS = ("list", "show", "compare", "promote", "rollback", "log", "at", "verify", "rebuild")
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
            "fold": [f"Wafer_{n // 40}.csv" for n in number],
            "wafer": [f"Wafer-{n}" for n in number],
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
            "alarm": score > 1.5,
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Settings:
    """A storage whose registry holds two versions, decided by the gate: the first champion, a worse one."""
    return make(tmp_path_factory.mktemp("storage"), model_folder)


def make(storage: Path, model_folder: Path) -> Settings:
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
            example=readings().head(3),
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
    assert heading.split() == ["version", "alias", "stage", "trained", "shuffled", "forward", "snapshot", "commit"]
    assert (first.split()[:3], first.split()[5:]) == (
        ["1", "champion", "production"],
        ["0.750", "0.710", "3f2a90c13f2a", "c0ffeec0ff"],
    )
    assert second.split()[:3] == ["2", "challenger", "staging"]
    rows = json.loads(wafer(made, "list", "--json")[1])
    assert [(row["version"], row["aliases"], row["forward_auc"]) for row in rows] == [
        (1, ["champion"], 0.71),
        (2, ["challenger"], 0.52),
    ]
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
        }
    assert wafer(settings, "at", changed)[1].splitlines() == [
        f"version 2 was in use at {shown(changed)}, from {shown(changed)} until now",
        "    promote: a new kind of fault",
    ]
    told = f"no version was in use at 2020-01-01 00:00:00 UTC: the first is in use since {shown(first)}\n"
    assert wafer(settings, "at", "2020-01-01")[:2] == (1, told)
    status, out, _ = wafer(settings, "at", "2020-01-01T00:00+00:00", "--json")
    assert (status, json.loads(out)["version"]) == (1, None)


def test_champions_change_by_hand(wafer: Wafer, model_folder: Path, tmp_path: Path) -> None:
    """Promote and roll back, each with its reason in the ledger; a broken version is refused and fails its check."""
    settings = make(tmp_path, model_folder)
    assert wafer(settings, "promote", "2", "--why", "a new kind of fault") == (
        0,
        "version 2 is champion, version 1 was before\n",
        "",
    )
    status, out, _ = wafer(settings, "rollback", "--why", "it was none", "--json")
    assert (status, json.loads(out)["challenger"]) == (0, 1)
    assert wafer(settings, "rollback", "--why", "it was one")[1] == "version 2 is champion, version 1 was before\n"
    assert wafer(settings, "rollback", "--why", "it was none")[1] == "version 1 is champion, version 2 was before\n"
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


def test_without_a_version_it_says_what_makes_one(wafer: Wafer, tmp_path: Path) -> None:
    """In an empty registry listing and log say so, and are no error."""
    settings = Settings.read(storage_url=str(tmp_path))
    assert wafer(settings, "list")[:2] == (0, "no version yet: `wafer train` makes the first\n")
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
