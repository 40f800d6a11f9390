"""What a scrape is told of runs, decisions and batches that the storage, the registry and others know of."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.conftest import make_place
from wafer.errors import RegistryError
from wafer.records import Idle
from wafer.registry.records import Decision
from wafer.service import metrics
from wafer.service.core import Options, Service
from wafer.service.jobs import Job
from wafer.settings import Settings
from wafer.workspace import Workspace


@pytest.fixture
def service(
    tmp_path: Path, empty_database: Path, fitted: Path, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A service with a champion and without runs, whose every scrape looks anew."""
    monkeypatch.setattr(metrics, "SECONDS_KEPT", -1.0)
    place: Settings = make_place(tmp_path / "fab", empty_database, fitted, mongodb_url, f"metrics_{os.getpid()}")
    with Workspace(place) as workspace:
        made = Service(workspace, Options())
        made.champion.look()
        yield made


def told(service: Service, name: str) -> dict[tuple[str, ...], float]:
    """The values of one metric by the values of its labels."""
    families = text_string_to_metric_families(service.metrics.text().decode())
    samples = (sample for family in families for sample in family.samples if sample.name == name)
    return {tuple(sample.labels.values()): sample.value for sample in samples}


def ended(service: Service, run: str) -> float:
    return datetime.fromisoformat(service.workspace.runs.get(run).outcome()["ended"]).timestamp()


def test_the_newest_success_of_a_kind_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is none, a run that found nothing to do is one, and one that others have displaced is still known."""
    name, runs = "wafer_success_timestamp_seconds", service.workspace.runs
    assert told(service, name) == {}
    with runs.started("training") as training:
        pass
    with runs.started("prediction") as first:
        pass
    with pytest.raises(RegistryError), runs.started("prediction"):
        raise RegistryError("it is away")
    assert told(service, name) == {
        ("prediction",): ended(service, first.id),
        ("training",): ended(service, training.id),
    }
    with runs.started("prediction") as idle:
        idle.write(Idle("nothing was scored"))
    assert told(service, name)["prediction",] == ended(service, idle.id)
    monkeypatch.setattr(metrics, "RUNS_COUNTED", 1)
    assert told(service, name)["training",] == ended(service, training.id)
    assert told(service, "wafer_runs") == {("prediction", "finished"): 1}


def test_refused_versions_are_counted_until_one_passes(service: Service) -> None:
    """The champion's promotion is the first decision; two refusals follow it, then another promotion."""
    assert told(service, "wafer_refused_versions") == {(): 0}
    for number, promoted in ((2, False), (3, False), (4, True)):
        line = Decision("gate", number, 1, promoted, "because", "2026-01-01T00:00:00.000+00:00")
        service.registry._append(line, number)
        assert told(service, "wafer_refused_versions") == {(): 0 if promoted else number - 1}


def test_runs_that_wait_are_told_with_their_age(service: Service) -> None:
    """One that was asked for and has not begun; once it works, or where none was asked for, nothing waits."""
    assert told(service, "wafer_waiting_runs") == {(kind,): 0 for kind in ("ingest", "predict", "retrain", "train")}
    assert told(service, "wafer_waiting_run_seconds") == {(): 0}
    me = psutil.Process()
    owner = {"host": os.uname().nodename, "pid": me.pid, "born": me.create_time()}
    asked = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    job = Job("0b9f2d6e-1111-4222-8333-444455556666", "predict", {}, "somebody", asked, owner=owner)
    service.jobs._write(job)
    assert told(service, "wafer_waiting_runs")["predict",] == 1
    assert 3600 <= told(service, "wafer_waiting_run_seconds")[()] < 3900
    service.jobs._write(Job(**{**vars(job), "state": "running"}))
    assert told(service, "wafer_waiting_runs")["predict",] == 0
    assert told(service, "wafer_waiting_run_seconds") == {(): 0}


def test_what_cannot_be_looked_up_is_counted_and_left_out(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of look-up has its count before its first failure; the others go on to be told."""
    name = "wafer_metrics_failures_total"
    assert told(service, name) == {(what,): 0 for what in metrics.LOOKED_UP}

    def away() -> int:
        raise RegistryError("it is away")

    monkeypatch.setattr(service.registry, "ledger", away)
    assert told(service, "wafer_refused_versions") == {}
    assert told(service, "wafer_quarantine_size") == {("prediction",): 0, ("training",): 0}
    assert told(service, name) == {(what,): 2.0 * (what == "refusals") for what in metrics.LOOKED_UP}, "of two scrapes"


def test_the_budget_of_alarms_is_told(service: Service) -> None:
    """It is the policy of the version that scores."""
    served = service.champion.now()
    assert told(service, "wafer_champion_alarm_rate_ceiling") == {
        (): served.bundle.classifier.policy_.alarm_rate_ceiling
    }
