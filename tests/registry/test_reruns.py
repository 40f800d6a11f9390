"""The same training again, and trainings that were cut short."""

import signal
from pathlib import Path

import pytest

import wafer
from tests.conftest import REPOSITORY
from tests.registry.rules import RULES, with_canary
from tests.registry.test_ledger import struck
from wafer import steps
from wafer.errors import RegistryError, ReportError
from wafer.params import read_params
from wafer.records import Decided, Evaluated, Fitted, Frozen, Known, Registered
from wafer.registry import Registry, Version
from wafer.registry.provenance import describe_source
from wafer.registry.records import FINISHED, RUNNING

SOURCE = {"git.commit": "c0ffee", "git.dirty": "true", "source.digest": "5e", "python": "3.11", "library.numpy": "2.0"}
PARAMS = {"fit": {"trees": 5, "share": 0.1 + 0.2}, "evaluate": {"folds": 2}}


@pytest.fixture
def log(registry: Registry, model_folder, readings, make_scores):
    def log(params=PARAMS, **tags: str) -> Version:
        return registry.log_training(
            params={**params, "gate": {"seed": 0}},
            metrics={"forward": {"auc": 0.7}, "permuted": {"auc": 0.5}},
            scores=with_canary(make_scores(2.0)),
            model_folder=model_folder,
            example=readings.head(2),
            tags={"snapshot.digest": "d" * 64, **SOURCE, **tags},
        )

    return log


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "training.html"
    file.write_text("page")
    return file


def test_the_same_training_is_found(registry, log, page):
    """Snapshot, params, code and libraries as before: the finished version, else the newest that is still running."""
    assert registry.find_same("d" * 64, PARAMS, SOURCE) is None
    first, second = log(), log()
    assert (first.training, registry.find_same("d" * 64, PARAMS, SOURCE)) == (RUNNING, registry.version(2))
    registry.decide(first, RULES)
    registry.log_files(first.run_id, [page], "reports")
    registry.finish(first)
    found = registry.find_same("d" * 64, PARAMS, SOURCE)
    assert found is not None
    assert (found.version, found.training) == (1, FINISHED)
    assert registry.find_same("d" * 64, {"fit": PARAMS["fit"]}, SOURCE) == found
    registry.archive(second, "not needed")
    others = [
        ("e" * 64, PARAMS, SOURCE),
        ("d" * 64, {**PARAMS, "fit": {"trees": 6, "share": 0.1 + 0.2}}, SOURCE),
        ("d" * 64, {**PARAMS, "policy": {}}, SOURCE),
        ("d" * 64, PARAMS, {**SOURCE, "library.numpy": "2.1"}),
        ("d" * 64, PARAMS, {**SOURCE, "library.xgboost": "3.0"}),
        ("d" * 64, PARAMS, {**SOURCE, "python": "3.12"}),
        ("d" * 64, PARAMS, {**SOURCE, "source.digest": "6e"}),
    ]
    assert [registry.find_same(*other) for other in others] == [None] * len(others)


def test_without_a_digest_of_the_code_only_a_clean_commit_counts(registry, log):
    """The commit of a tree with changes says nothing of its code."""
    plain = {name: value for name, value in SOURCE.items() if name != "source.digest"}
    registry._client.delete_model_version_tag("wafer", str(log(**{"git.dirty": "false"}).version), "source.digest")
    assert registry.find_same("d" * 64, PARAMS, plain) is None
    assert registry.find_same("d" * 64, PARAMS, {**plain, "git.dirty": "false"}) == registry.version(1)
    assert registry.find_same("d" * 64, PARAMS, {**plain, "git.dirty": "false", "git.commit": "beef"}) is None


def test_the_digest_of_the_code_follows_its_files(tmp_path):
    """Content and path of each Python file count, anything else does not."""

    def digest() -> str:
        return describe_source(tmp_path)["source.digest"]

    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("a = 1\n")
    first = digest()
    (tmp_path / "note.txt").write_text("no code")
    assert digest() == first
    (tmp_path / "room" / "a.py").write_text("a = 2\n")
    second = digest()
    (tmp_path / "room" / "a.py").rename(tmp_path / "room" / "b.py")
    assert len({first, second, digest()}) == 3


def test_a_training_is_finished_step_by_step(registry, log, page):
    """What is missing is told in its sequence; with all of it the training is finished and no longer listed."""
    version = log()
    assert registry.missing(1) == ("decision", "reports")
    with pytest.raises(RegistryError, match="the training of version 1 is not finished: it has no decision"):
        registry.finish(1)
    registry.decide(version, RULES)
    assert (registry.missing(1), registry.unfinished()) == (("reports",), [registry.version(1)])
    registry.log_files(version.run_id, [page], "reports")
    registry.finish(1)
    assert (registry.missing(1), registry.unfinished(), registry.version(1).training) == ((), [], FINISHED)


def test_a_training_that_was_cut_short_can_be_set_aside(registry, log):
    """With its reason; it is neither found nor listed again and no challenger any more; no champion ever is."""
    registry.decide(log(), RULES)
    version = log()
    registry._client.delete_registered_model_alias("wafer", "champion")  # as where the decision was cut short
    assert not registry.archive(1, "a test")
    registry._client.set_registered_model_alias("wafer", "champion", "1")
    with pytest.raises(RegistryError, match="archiving needs a reason"):
        registry.archive(version, " ")
    assert registry.archive(version, "its training was killed")
    found = registry.version(2)
    assert (found.stage, found.training, found.tags["archived"]) == ("archived", "archived", "its training was killed")
    assert (registry.aliases(), registry.unfinished()) == ({"champion": 1}, [registry.version(1)])
    registry.promote(log(), "a test")
    assert registry.champion().version == 3 and not registry.archive(1, "a test")


@pytest.mark.parametrize("force", [False, True])
def test_a_forced_training_takes_up_nothing(force, registry, log, tmp_path):
    """One that was cut short after its decision is gone on with, decision and all; a forced one begins anew, so that
    its own version comes before the gate, and sets the other aside."""
    params = read_params(REPOSITORY / "params.yaml")
    with (
        wafer.open(storage_url=str(tmp_path / "data"), mlflow_url=registry.tracking_uri) as workspace,
        workspace.runs.started("training") as earlier,
        workspace.runs.started("training") as run,
    ):
        log()
        source = describe_source(Path(steps.__file__).parent, workspace.settings.commit)
        cut_short = log(params=params.model_dump(), run=earlier.id, **source)
        records = [Fitted("model", "5e"), Evaluated("metrics.json", "scores.parquet")]
        records += [Registered(cut_short.version, cut_short.run_id), Decided("decision.json", False, "not better")]
        for record in records:
            earlier.write(record)
        run.write(Frozen("snapshot", "d" * 64, 160, 20))
        assert steps.look_back(workspace, run, params, force=force) == Known(None if force else 2, False)
        assert [run.has(type(record)) for record in records] == [not force] * len(records)
        assert registry.version(2).training == ("archived" if force else RUNNING)


def test_versions_of_earlier_releases_count_as_finished(registry, log):
    """They carry no such tag, and nobody can complete them now."""
    registry._client.delete_model_version_tag("wafer", str(log().version), "training")
    assert (registry.version(1).training, registry.unfinished()) == (FINISHED, [])


def write_training(place: Path, model_folder: Path, readings, make_scores) -> Path:
    with_canary(make_scores(2.0)).to_parquet(place / "scores.parquet")
    readings.head(4).to_parquet(place / "example.parquet")
    (place / "model").symlink_to(model_folder)
    return place


@pytest.mark.slow
def test_killed_at_every_write_a_training_is_whole_or_known_as_unfinished(
    registry, log_training, model_folder, readings, make_scores, tmp_path, page
):
    """Whichever write a training is killed at: no version, or one that is known as unfinished and can be completed."""
    registry.decide(log_training(1.5), RULES)
    registry.log_files(registry.version(1).run_id, [page], "reports")
    registry.finish(1)
    place = write_training(tmp_path, model_folder, readings, make_scores)
    outcomes, strike = set(), 0
    while True:
        strike += 1
        before = len(registry.versions())
        done = struck(registry, "train", place, strike)
        made = registry.versions()[before:]
        outcomes.add(len(made))
        assert registry.champion().version == 1
        assert registry.unfinished() == made
        for version in made:
            assert registry.missing(version) == ("decision", "reports")
            assert registry.load(version).classifier.predict(readings).shape == (160,)
            registry.archive(version, "its training was killed")
            assert registry._client.get_run(version.run_id).info.status in ("KILLED", "FINISHED")
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert outcomes == {0, 1}
    assert strike > 8


@pytest.mark.slow
@pytest.mark.invariant
def test_a_training_killed_with_its_version_made_is_completed(
    registry, model_folder, readings, make_scores, tmp_path, page
):
    """Its files are whole: gate and reports go on from there, and its run ends as finished."""
    place = write_training(tmp_path, model_folder, readings, make_scores)
    assert struck(registry, "train", place, "set_terminated").returncode == -signal.SIGKILL
    (version,) = registry.unfinished()
    assert registry._client.get_run(version.run_id).info.status == "RUNNING"
    assert registry.decide(version, RULES).promoted
    registry.log_files(version.run_id, [page], "reports")
    registry.finish(version)
    assert registry._client.get_run(version.run_id).info.status == "FINISHED"
    assert (registry.unfinished(), registry.aliases()) == ([], {"champion": 1})


def test_figures_are_kept_as_far_as_they_could_be_drawn(registry, log):
    """One that fails is told by name after the version is whole; those before it are kept, of itself nothing is."""
    from matplotlib.figure import Figure

    version, broken = log(), Figure()
    broken.text(0.5, 0.5, r"$\frac{$")
    with pytest.raises(ReportError, match=r"the figure broken cannot be drawn: ValueError: "):
        registry.log_figures(version.run_id, {"elbow": Figure(), "broken": broken, "later": Figure()})
    kept = {item.path for item in registry._client.list_artifacts(version.run_id)}
    assert {name for name in kept if name.endswith(".png")} == {"elbow.png"}
    registry.log_figures(version.run_id, {"later.svg": Figure()})
    assert "later.svg" in {item.path for item in registry._client.list_artifacts(version.run_id)}


def test_a_predictions_run_stands_without_its_report(registry, log, page):
    """It is finished with its numbers as soon as it is logged; the report's files are added to it later."""
    log()
    run_id = registry.log_prediction("prediction", {"wafers": 80, "alarms": 3}, tags={"model.version": 1})
    run = registry._client.get_run(run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"wafers": 80.0, "alarms": 3.0})
    assert registry._client.list_artifacts(run_id) == []
    registry.log_files(run_id, [page], "reports")
    assert [item.path for item in registry._client.list_artifacts(run_id, "reports")] == ["reports/training.html"]
    assert registry._client.get_run(run_id).info.status == "FINISHED"
