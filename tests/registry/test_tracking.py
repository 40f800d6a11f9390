import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.registry.rules import RULES, rules
from wafer.errors import ModelError, RegistryError, TamperedError
from wafer.learning.parts import model_digest
from wafer.registry import Registry
from wafer.registry.packaging import digest_folder, make_probe, split_probe
from wafer.scoring.bundle import Bundle


def logged_model(registry: Registry) -> Path:
    """The folder in which MLflow keeps the only logged model."""
    (folder,) = Path(str(registry.artifact_root)).glob("models/*/artifacts")
    return folder


def test_an_empty_registry_has_no_champion(registry):
    """Before the first training there are no versions, no aliases, no champion and no decisions."""
    assert (registry.champion(), registry.versions(), registry.aliases(), registry.ledger()) == (None, [], {}, [])


def test_a_training_is_logged_whole(registry, model_folder, readings, make_scores, tmp_path):
    """Params, metrics, scores, figures, files and lineage of a training can be read back; it is the challenger."""
    note = tmp_path / "manifest.json"
    note.write_text("{}")
    version = registry.log_training(
        params={"fit": {"trees": 5}, "seed": 0},
        metrics={"forward": {"auc": 0.71, "confusion": {"tp": 3}}, "broken": float("nan"), "note": "text"},
        scores=make_scores(2.0),
        model_folder=model_folder,
        example=readings.head(4),
        figures={"elbow": Figure()},
        files={"snapshot.json": note, "curve.csv": pd.DataFrame({"a": [1]})},
        tags={"snapshot": "abc", "git": {"dirty": True}},
    )
    assert (version.version, version.stage, version.digest) == (1, "staging", model_digest(model_folder))
    assert (version.tags["snapshot"], version.tags["git.dirty"]) == ("abc", "true")
    assert registry.aliases() == {"challenger": 1}
    metrics = registry.metrics(1)
    assert metrics.pop("threshold") == registry.load(1).classifier.threshold_
    assert metrics == {"forward.auc": 0.71, "forward.confusion.tp": 3.0}
    pd.testing.assert_frame_equal(registry.scores(1), make_scores(2.0))
    run = registry._client.get_run(version.run_id)
    assert run.data.params == {"fit.trees": "5", "seed": "0"}
    assert sorted(item.path for item in registry._client.list_artifacts(version.run_id)) == [
        "curve.csv",
        "elbow.png",
        "libraries.json",
        "model-digests.json",
        "params.json",
        "probe.parquet",
        "scores.parquet",
        "snapshot.json",
    ]


def test_the_first_version_becomes_champion(registry, log_training):
    """The first version becomes champion, and the ledger says so."""
    decision = registry.decide(log_training(), RULES)
    assert (decision.promoted, decision.challenger, decision.champion) == (True, 1, None)
    assert decision.reason == "Version 1 is the first champion: forward ROC AUC 0.710, asked for is 0.500."
    assert registry.aliases() == {"champion": 1}
    assert registry.version("champion").stage == "production"
    assert registry.ledger() == [decision]


def test_a_first_version_below_the_minimum_is_refused(registry, log_training):
    """A first version that does not reach the minimum is refused, and there is still no champion."""
    decision = registry.decide(log_training(), rules(minimum_auc=0.8))
    assert (decision.promoted, registry.champion()) == (False, None)
    assert "there is still no champion: forward ROC AUC 0.710, asked for is 0.800" in decision.reason


def test_a_worse_version_is_refused(registry, log_training):
    """A version that is worse on the same wafers stays challenger; the champion stays in use, the ledger says why."""
    registry.decide(log_training(2.0), RULES)
    decision = registry.decide(log_training(0.0), RULES)
    assert (decision.promoted, decision.challenger, decision.champion) == (False, 2, 1)
    assert decision.comparison is not None
    assert decision.comparison.wafers == 160
    assert decision.reason.startswith("Version 2 was refused and version 1 stays champion: forward ROC AUC 0.")
    assert registry.aliases() == {"champion": 1, "challenger": 2}
    assert [version.stage for version in registry.versions()] == ["production", "staging"]
    assert [line.promoted for line in registry.ledger()] == [True, False]


@pytest.mark.slow
@pytest.mark.invariant
def test_a_version_that_is_not_worse_replaces_the_champion(registry, log_training):
    """A version that is not worse becomes champion; the one before is remembered as previous and archived."""
    registry.decide(log_training(1.5), RULES)
    decision = registry.decide(log_training(2.0), RULES)
    assert (decision.promoted, decision.champion) == (True, 1)
    assert registry.aliases() == {"champion": 2, "previous": 1}
    assert [version.stage for version in registry.versions()] == ["archived", "production"]


@pytest.mark.slow
@pytest.mark.invariant
def test_a_refused_challenger_is_archived_by_the_next(registry, log_training):
    """Only the newest challenger is staging."""
    registry.decide(log_training(2.0), RULES)
    registry.decide(log_training(0.0), RULES)
    registry.decide(log_training(0.1), RULES)
    assert [version.stage for version in registry.versions()] == ["production", "archived", "staging"]
    assert registry.aliases() == {"champion": 1, "challenger": 3}


def test_deciding_again_about_the_champion_changes_nothing(registry, log_training):
    """A step that is run again after its version became champion gets the same decision and adds no line."""
    version = log_training()
    decision = registry.decide(version, RULES)
    assert registry.decide(version, RULES) == decision
    assert len(registry.ledger()) == 1


@pytest.mark.slow
@pytest.mark.invariant
def test_a_logged_version_without_decision_leaves_the_champion(registry, log_training):
    """A training that dies between logging and deciding leaves the old champion in use, and the rerun completes."""
    registry.decide(log_training(2.0), RULES)
    log_training(2.0)
    assert registry.champion().version == 1
    assert registry.decide(log_training(2.0), RULES).promoted
    assert registry.aliases() == {"champion": 3, "previous": 1}


@pytest.mark.slow
@pytest.mark.invariant
def test_two_deciders_at_once_leave_one_champion_and_a_whole_ledger(registry, log_training):
    """Two decisions at the same time are both in the ledger, and the champion is one of the two versions."""
    registry.decide(log_training(2.0), RULES)
    versions = [log_training(2.0), log_training(2.0)]
    with ThreadPoolExecutor(2) as pool:
        decisions = list(pool.map(registry.decide, versions, [RULES, RULES]))
    assert registry.champion().version in (2, 3)
    assert {line.challenger for line in registry.ledger()} == {1, 2, 3}
    assert all(decision.promoted for decision in decisions)


@pytest.mark.slow
@pytest.mark.invariant
def test_rolling_back_restores_the_champion_before(registry, log_training):
    """A rollback is one call, needs a reason, and stands in the ledger."""
    registry.decide(log_training(2.0), RULES)
    with pytest.raises(RegistryError, match="there is no previous champion to go back to"):
        registry.rollback("too many alarms")
    registry.decide(log_training(2.0), RULES)
    with pytest.raises(RegistryError, match="a rollback needs a reason"):
        registry.rollback(" ")
    decision = registry.rollback("too many alarms")
    assert (decision.kind, decision.challenger, decision.champion) == ("rollback", 1, 2)
    assert registry.aliases() == {"champion": 1, "previous": 2}
    assert [version.stage for version in registry.versions()] == ["production", "archived"]
    assert registry.ledger()[-1] == decision


@pytest.mark.slow
@pytest.mark.invariant
def test_promoting_by_hand_needs_a_reason_and_a_whole_model(registry, log_training):
    """A refused version can be promoted by hand, with a reason, and only if it loads as it was registered."""
    registry.decide(log_training(2.0), RULES)
    registry.decide(log_training(0.0), RULES)
    assert registry.promote(2, "the old one misses a new kind of fault").promoted
    assert registry.champion().version == 2
    with pytest.raises(RegistryError, match="version 2 is the champion already"):
        registry.promote(2, "again")


def test_a_loaded_model_scores_as_the_saved_one(registry, log_training, model_folder, readings):
    """A version that is loaded by number or by alias scores bit by bit as the model that was logged."""
    registry.decide(log_training(), RULES)
    expected = Bundle.load(model_folder).classifier.predict_proba(readings)
    for which in (1, "1", "champion"):
        np.testing.assert_array_equal(registry.load(which).classifier.predict_proba(readings), expected)


@pytest.mark.slow
@pytest.mark.invariant
def test_another_process_fetches_the_same_parts(registry, log_training, model_folder, tmp_path):
    """A process that has logged nothing finds the model by the registry's address alone, and leaves no file behind."""
    log_training(0.5)
    script = (
        "import sys; from pathlib import Path; from wafer.registry import Registry; "
        "Registry(sys.argv[1]).fetch(1, Path(sys.argv[2]))"
    )
    place = tmp_path / "elsewhere"
    place.mkdir()
    command = [sys.executable, "-c", script, registry.tracking_uri, str(tmp_path / "parts")]
    subprocess.run(command, cwd=place, check=True)
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {p.name for p in model_folder.iterdir()}
    assert list(place.iterdir()) == []


def test_fetching_gives_the_parts_and_nothing_else(registry, log_training, model_folder, tmp_path):
    """The fetched folder holds exactly the files of the saved model."""
    log_training(model=model_folder)
    assert digest_folder(registry.fetch(1, tmp_path / "model")) == digest_folder(model_folder)


@pytest.mark.slow
@pytest.mark.invariant
def test_any_changed_file_of_a_model_is_refused(registry, log_training):
    """Each file of a registered model, changed by one byte, cut, or gone, is refused and named."""
    log_training()
    folder = logged_model(registry)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 8
    for file in files:
        name = file.relative_to(folder).as_posix()
        content = file.read_bytes()
        for changed in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1]):
            file.write_bytes(changed)
            with pytest.raises(TamperedError, match=f"version 1 of 'wafer': {name} is not what was registered"):
                registry.load(1)
        file.unlink()
        with pytest.raises(TamperedError, match=f"version 1 of 'wafer': {name} is missing"):
            registry.load(1)
        file.write_bytes(content)
    registry.load(1)


def test_an_added_file_is_refused(registry, log_training):
    """A file that was slipped into a registered model is refused and named."""
    log_training()
    (logged_model(registry) / "artifacts" / "model" / "more.npz").write_bytes(b"")
    with pytest.raises(TamperedError, match=r"more\.npz was not there when the model was registered"):
        registry.load(1)


@pytest.mark.slow
@pytest.mark.invariant
def test_a_changed_list_of_digests_is_refused(registry, log_training):
    """Changing a file and its digest in the list is noticed too: the list's own digest is kept with the version."""
    version = log_training()
    listing = Path(str(registry.artifact_root)) / version.run_id / "artifacts" / "model-digests.json"
    listing.write_text(json.dumps(json.loads(listing.read_text()), indent=1))
    with pytest.raises(TamperedError, match=r"model-digests\.json is not what was registered"):
        registry.load(1)


def test_a_tampered_challenger_is_refused_by_the_gate(registry, log_training):
    """A version whose files were changed does not become champion, and the decision says why."""
    log_training()
    (logged_model(registry) / "artifacts" / "model" / "manifest.json").write_text("{}")
    decision = registry.decide(1, RULES)
    assert not decision.promoted
    assert "artifacts/model/manifest.json is not what was registered" in decision.reason


def test_a_model_that_scores_otherwise_is_refused_by_the_gate(registry, model_folder, readings, make_scores, tmp_path):
    """The probe wafers must score as they did when the version was logged."""
    version = registry.log_training(
        params={}, metrics={}, scores=make_scores(2.0), model_folder=model_folder, example=readings.head(4)
    )
    probe = Path(str(registry.artifact_root)) / version.run_id / "artifacts" / "probe.parquet"
    stored = pd.read_parquet(probe)
    stored.assign(**{"": stored[""] + 0.01}).to_parquet(probe, index=False)
    loads, scores_alike = registry.verify(1)
    assert (loads.passed, scores_alike.passed, scores_alike.value) == (True, False, pytest.approx(0.01))


def test_a_sensor_may_be_called_as_a_column_of_ours():
    """The probe keeps the readings of a sensor `probability`, beside what the model said; earlier ones can be read."""
    readings = pd.DataFrame({"probability": [1.5, 2.5], "cluster": [3.5, 4.5]}, index=[7, 8])
    probe = make_probe(readings, pd.DataFrame({"probability": [0.1, None]}))
    own, noted = split_probe(probe)
    pd.testing.assert_frame_equal(own, readings.reset_index(drop=True))
    assert noted.fillna(-1).tolist() == [0.1, -1]
    earlier = split_probe(pd.DataFrame({"Sensor-1": [1.5], "probability": [0.1]}))
    assert (list(earlier[0]), earlier[1].tolist()) == (["Sensor-1"], [0.1])


def test_an_unknown_version_is_one_clear_sentence(registry, log_training):
    """Asking for a version that is not there names those that are."""
    log_training()
    for which in (7, "7", "nobody"):
        with pytest.raises(RegistryError, match=f"the model registry has no version {which!r} of 'wafer', only: 1"):
            registry.load(which)


def test_scores_without_wafer_ids_are_refused(registry, log_training, make_scores):
    """Scores that cannot be compared later are refused before anything is logged."""
    with pytest.raises(RegistryError, match="scores cannot be registered without the column 'wafer'"):
        log_training(scores=make_scores(2.0).drop(columns="wafer"))
    assert registry.versions() == []


@pytest.mark.slow
@pytest.mark.invariant
def test_logging_and_deciding_say_nothing_on_the_terminal(registry, log_training, capfd):
    """MLflow's own messages do not reach the user."""
    registry.decide(log_training(2.0), RULES)
    registry.decide(log_training(2.0), RULES)
    assert capfd.readouterr() == ("", "")


def test_logging_a_training_is_fast(log_training):
    """Logging costs far less than six seconds, because no requirement is inferred by importing the model."""
    log_training()
    start = time.perf_counter()
    log_training()
    assert time.perf_counter() - start < 6


def test_the_registry_is_whole_in_another_place(registry, log_training, tmp_path):
    """Another process that opens the same database finds versions, champion and ledger."""
    decision = registry.decide(log_training(), RULES)
    again = Registry(registry.tracking_uri, registry.artifact_root)
    assert asdict(again.champion()) == asdict(registry.champion())
    assert again.ledger() == [decision]


def test_mlflow_itself_can_serve_a_version(registry, log_training, readings, model_folder):
    """The logged model works through MLflow's own loader, for those who serve it that way."""
    import mlflow

    version = log_training()
    source = registry._client.get_model_version("wafer", str(version.version)).source
    served = mlflow.pyfunc.load_model(source).predict(readings.head(3))
    model = Bundle.load(model_folder).classifier
    assert served.columns.tolist() == ["Prediction", "probability", "cluster", "unknown"]
    assert served["Prediction"].tolist() == model.predict(readings.head(3)).tolist()
    np.testing.assert_array_equal(served["probability"], model.predict_proba(readings.head(3))[:, 1])


def test_a_missing_model_folder_is_one_clear_sentence(registry, readings, make_scores, tmp_path):
    """A folder that holds no saved model is named."""
    with pytest.raises(ModelError, match=r"is no saved model: it has no manifest\.json"):
        registry.log_training(
            params={}, metrics={}, scores=make_scores(1.0), model_folder=tmp_path, example=readings.head(2)
        )


def test_vanished_artefacts_are_one_clear_sentence(registry, log_training):
    """Where the artefacts are gone, loading says so without a traceback of MLflow's."""
    log_training()
    shutil.rmtree(str(registry.artifact_root))
    with pytest.raises(RegistryError, match=r"the model registry at sqlite:.* could not fetch the model of version 1"):
        registry.load(1)


def test_a_version_that_cannot_be_fetched_is_a_failed_check(registry, log_training):
    """Its files are gone: the check fails with the sentence, and by hand it cannot become champion."""
    version = log_training()
    shutil.rmtree(str(registry.artifact_root))
    (check,) = registry.verify(version)
    assert (check.name, check.passed) == ("loads verified", False)
    assert "could not fetch the model of version 1" in check.text
    with pytest.raises(RegistryError, match=r"version 1 cannot become champion: .* could not fetch the model"):
        registry.promote(1, "a test")


@pytest.mark.parametrize("harm", ["gone", "no table"])
def test_probe_wafers_that_cannot_be_read_are_a_failed_check(registry, log_training, harm):
    """The model loads, the wafers to score with it do not: one check passes, the other fails."""
    version = log_training()
    probe = Path(str(registry.artifact_root)) / version.run_id / "artifacts" / "probe.parquet"
    if harm == "gone":
        probe.unlink()
    else:
        probe.write_text("no table")
    loads, scores_alike = registry.verify(version)
    assert (loads.passed, scores_alike.name, scores_alike.passed) == (True, "probe", False)
    assert "probe.parquet" in scores_alike.text


def test_a_version_in_a_bucket_that_is_gone_is_a_failed_check(
    registry, s3_address, monkeypatch, model_folder, readings
):
    """Files in S3 that cannot be fetched are one sentence, as those on a disk are."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    bucket = boto3.resource("s3").Bucket("vanishing-artifacts")
    bucket.create()
    away = Registry(registry.tracking_uri, "s3://vanishing-artifacts/mlflow")
    scores = pd.DataFrame({name: [] for name in ("protocol", "wafer", "label", "probability", "alarm")})
    away.log_training(params={}, metrics={}, scores=scores, model_folder=model_folder, example=readings.head(2))
    assert [check.passed for check in away.verify(1)] == [True, True]
    bucket.objects.delete()
    bucket.delete()
    (check,) = away.verify(1)
    assert (check.passed, "could not fetch the model of version 1" in check.text) == (False, True)
    with pytest.raises(RegistryError, match=r"could not read params\.json of version 1: .*bucket"):
        away.stored_json(away.version(1), "params.json")


def test_the_gate_refuses_a_version_that_cannot_be_fetched(registry, log_training):
    """The decision is written to the ledger, says what is missing, and leaves the champion in use."""
    registry.decide(log_training(2.0), RULES)
    version = log_training(2.0)
    root = Path(str(registry.artifact_root))
    shutil.rmtree(root / version.run_id)
    decision = registry.decide(version, RULES)
    assert (decision.promoted, registry.champion().version, registry.ledger()[-1]) == (False, 1, decision)
    assert "could not fetch the model of version 2" in decision.reason
    assert "version 2 cannot be compared with version 1: " in decision.reason


def test_the_gate_refuses_what_it_cannot_compare(registry, log_training):
    """The champion's files are gone: a whole challenger is refused, with the reason, and can be promoted by hand."""
    champion = log_training(2.0)
    registry.decide(champion, RULES)
    shutil.rmtree(Path(str(registry.artifact_root)) / champion.run_id)
    decision = registry.decide(log_training(2.0), RULES)
    assert [(check.name, check.passed) for check in decision.checks] == [
        ("loads verified", True),
        ("probe", True),
        ("canary", True),
        ("calibration", True),
        ("minimum ROC AUC", True),
        ("comparison", False),
        ("best", True),
    ]
    assert "could not read scores.parquet of version 1" in decision.reason
    assert registry.ledger()[-1] == decision
    assert registry.promote(2, "the files of version 1 are lost").promoted
