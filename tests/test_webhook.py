"""What a webhook is told, on a real server: each event once, signed, and never at the cost of the run."""

import base64
import hashlib
import hmac
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.receiver import SECRET, Receiver, listening
from wafer import steps, webhook
from wafer.errors import EmptyError, SettingsError
from wafer.records import Decided, Ingested, Predicted, Registered
from wafer.runs import Run
from wafer.settings import Settings
from wafer.workspace import Workspace


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Whom the environment names; what it does not take is sent again soon."""
    monkeypatch.setattr(webhook, "SECONDS_BEFORE", (0.0, 0.05, 0.1, 0.2))
    with listening(monkeypatch) as receiver:
        yield receiver


@pytest.fixture
def workspace(receiver: Receiver, tmp_path: Path) -> Iterator[Workspace]:
    """A workspace that knows the receiver."""
    with Workspace(Settings.read(storage_url=str(tmp_path / "data"))) as workspace:
        yield workspace


def take_in(run: Run, *refused: str) -> None:
    """Leave what an ingest leaves that turned these files away."""
    batches = [{"file": "good.csv", "digest": "00", "verdict": "accepted", "reasons": []}]
    batches += [
        {"file": name, "digest": name[:2], "verdict": "quarantined", "reasons": [{"message": "no label"}]}
        for name in refused
    ]
    run.storage.write_json(run.key("ingest.json"), {"batches": batches})
    run.write(Ingested(run.key("ingest.json"), None, len(batches), 1, len(refused), 0, 0), "ingest-prediction")


def predict(run: Run, *batches: tuple[str, int, bool]) -> None:
    """Leave what a prediction leaves: batches, their alarms, and whether they drifted."""
    index = [
        {"file": f"{name}.csv", "digest": name, "predictions": f"{name}.csv", "wafers": 40, "alarms": alarms}
        | {"model_version": 3, "drifted": drifted, "score": 0.4, "threshold": 0.1}
        for name, alarms, drifted in batches
    ]
    run.storage.write_json(run.key("predictions.json"), index)
    counts = 40 * len(batches), sum(alarms for _, alarms, _ in batches)
    run.write(Predicted("", (), *counts, run.key("details"), "", 3, None))


def test_each_event_is_told_once_and_signed(receiver: Receiver, workspace: Workspace) -> None:
    """A second run over the same files tells what is new alone, whatever it was called before."""
    for batches, refused in (
        ([("aa", 2, False), ("bb", 0, True)], ["x1.csv"]),
        ([("bb", 0, True), ("aa", 2, False)], ["x1.csv"]),
        ([("aa", 2, False), ("bb", 0, True), ("cc", 1, False)], ["x1.csv", "x2.csv"]),
    ):
        with workspace.runs.started("prediction") as run:
            take_in(run, *refused)
            predict(run, *batches)
            assert webhook.tell(workspace, run) == ()
    assert receiver.types == ["wafer.quarantine", "wafer.alarms", "wafer.drift", "wafer.quarantine", "wafer.alarms"]
    items = [message["data"]["items"] for message in receiver.messages]
    assert items[0] == [{"file": "x1.csv", "why": "no label"}]
    assert items[2] == [{"file": "bb.csv", "version": 3, "score": 0.4, "threshold": 0.1}]
    assert items[3] == [{"file": "x2.csv", "why": "no label"}]
    assert items[4] == [{"file": "cc.csv", "version": 3, "alarms": 1, "wafers": 40}]
    assert len({headers["webhook-id"] for headers, _ in receiver.told}) == 5
    for headers, body in receiver.told:
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        code = base64.b64encode(hmac.new(SECRET.encode(), content, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{code}"
    kept = run.storage.read_json(run.key("webhook/alarms.json"))
    assert (kept["id"], kept["data"]) == (receiver.told[-1][0]["webhook-id"], receiver.messages[-1]["data"])


@pytest.mark.parametrize(
    ("kind", "promoted", "types"),
    [
        ("gate", False, ["wafer.refusal"]),
        ("gate", True, []),
        ("retune", False, ["wafer.refusal"]),
        ("same model", False, []),
    ],
)
def test_a_refusal_of_the_gate_is_told(
    kind: str, promoted: bool, types: list[str], receiver: Receiver, workspace: Workspace
) -> None:
    """With its reason; the same model again is no refusal."""
    with workspace.runs.started("training") as run:
        decision = {"kind": kind, "promoted": promoted, "reason": "worse"}
        run.storage.write_json(run.key("decision.json"), decision)
        run.write(Registered(7, "mlflow"))
        run.write(Decided(run.key("decision.json"), promoted, "worse"))
        webhook.tell(workspace, run)
    assert receiver.types == types
    assert [message["data"]["items"] for message in receiver.messages] == [[{"version": 7, "why": "worse"}]] * len(
        types
    )


@pytest.mark.parametrize(
    ("answers", "attempts", "told"),
    [
        ([500, 500], 3, ""),
        ([429], 2, ""),
        ([503] * 4, 4, "it answered with status 503"),
        ([404], 1, "it answered with status 404"),
        ([302], 1, "it answered with status 302"),
    ],
)
def test_what_a_server_cannot_take_now_is_sent_again(
    answers: list[int], attempts: int, told: str, receiver: Receiver, workspace: Workspace
) -> None:
    """With the same id; what was not received is a complaint without the address, and told by the next run."""
    receiver.answers = list(answers)
    with workspace.runs.started("prediction") as run:
        predict(run, ("aa", 2, False))
        complaints = webhook.tell(workspace, run)
    assert complaints == ((f"the webhook (WAFER_WEBHOOK_URL) could not be told of {run.id}: {told}",) if told else ())
    assert len(receiver.told) == attempts
    assert webhook.tell(workspace, run) == ()
    assert len(receiver.told) == attempts + bool(told)
    assert len({headers["webhook-id"] for headers, _ in receiver.told}) == 1


def test_a_webhook_that_hangs_or_is_gone_costs_little(
    receiver: Receiver, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No attempt begins once the time is over, and each waits for its answer a short while only."""
    monkeypatch.setattr(webhook, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(webhook, "SECONDS_IN_ALL", 0.5)
    receiver.silent_for = 5.0
    with workspace.runs.started("prediction") as run:
        predict(run, ("aa", 2, False))
        start = time.monotonic()
        (told,) = webhook.tell(workspace, run)
        assert time.monotonic() - start < 2
    assert told.endswith("it gave no answer in time")
    assert len(receiver.told) < 4
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WAFER_WEBHOOK_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/h1dden-path")
        with Workspace(Settings.read(storage_url=workspace.settings.storage_url)) as other:
            assert webhook.tell(other, run)[0].endswith("nobody answers there")


@pytest.mark.parametrize("reachable", [True, False])
def test_a_run_that_fails_is_told_and_fails_as_before(
    reachable: bool, receiver: Receiver, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """The error that ended it stays the one that is raised and noted; no secret is in the message, log or storage."""
    receiver.answers = [] if reachable else [500] * 4
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(EmptyError, match="no batch files") as caught,
        steps.working(workspace, "ingest-training") as run,
    ):
        raise EmptyError(f"no batch files in s3://me:secret-of-mine@host, told by {SECRET} at {receiver.address}")
    assert receiver.types[:1] == ["wafer.failure"]
    assert not hasattr(caught.value, "__notes__")
    assert ("could not be told" in caplog.text) != reachable
    item = receiver.messages[0]["data"]["items"]
    assert item == [{"error": "no batch files in s3://me:***@host, told by *** at ***"}]
    left = [file.read_text() for file in Path(workspace.settings.storage_url).rglob("*") if file.is_file()]
    shown = [caplog.text, *left, *(body.decode() for _, body in receiver.told)]
    assert [text for text in shown if "h1dden" in text or "secret-of-mine" in text] == []
    assert run.outcome()["state"] == "failed"


def test_work_that_could_not_begin_is_told_too(receiver: Receiver, workspace: Workspace) -> None:
    """Without a run: the same message for the same name; nobody who listens costs a complaint, no error."""
    for _ in range(2):
        assert webhook.tell_failure(workspace.settings, "flow-1", "predict", EmptyError("no server")) == ()
    first, again = receiver.told
    assert receiver.types == ["wafer.failure"] * 2 and first[0]["webhook-id"] == again[0]["webhook-id"]
    assert receiver.messages[0]["data"]["items"] == [{"error": "no server"}]
    receiver.answers = [500] * 4
    (complaint,) = webhook.tell_failure(workspace.settings, "flow-2", "predict", EmptyError("no server"))
    assert complaint.endswith("could not be told of flow-2: it answered with status 500")


def test_nobody_is_told_without_an_address_and_nothing_unsigned(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address without a secret is refused by name, and one that cannot be read is not shown."""
    monkeypatch.delenv("WAFER_WEBHOOK_SECRET")
    with pytest.raises(SettingsError, match="without WAFER_WEBHOOK_SECRET"):
        Settings.read(storage_url=str(tmp_path))
    monkeypatch.setenv("WAFER_WEBHOOK_URL", "ftp://host/h1dden-path")
    with pytest.raises(SettingsError, match=r"WAFER_WEBHOOK_URL is '\*\*\*': expected an address") as caught:
        Settings.read(storage_url=str(tmp_path))
    assert "h1dden" not in str(caught.value)
    monkeypatch.delenv("WAFER_WEBHOOK_URL")
    with Workspace(Settings.read(storage_url=str(tmp_path))) as workspace, workspace.runs.started("prediction") as run:
        predict(run, ("aa", 2, True))
        assert webhook.tell(workspace, run) == ()
    assert receiver.told == []


def test_a_signature_is_that_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example by which the libraries of Standard Webhooks are tested, whose secret is in base64."""
    monkeypatch.setattr(webhook.time, "time", lambda: 1614265330.7)
    key, secret = "msg_p5jXN8AQM9LWM0D4loKWxJek", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert webhook.signed(secret, key, b'{"test": 2432232314}') == {
        "webhook-id": key,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
