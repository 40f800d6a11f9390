"""Messages to a webhook: a run that failed, what gate or quarantine refused, drift, new alarms; each event once.

Headers, signature and body are those of Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over
``<webhook-id>.<webhook-timestamp>.<body>``. An event that was received is noted below `webhook/` of the storage, by
what it is about, and with its run. One that could not be sent is told by the next run that sees it.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import requests

from wafer.records import SAME_MODEL, Decided, Ingested, Predicted, Refused, Registered
from wafer.runs import Run
from wafer.scoring.timeline import INDEX
from wafer.settings import Settings
from wafer.shown import shown_message, shown_text
from wafer.storage import is_silent
from wafer.workspace import Workspace

SECONDS_BEFORE = (0.0, 1.0, 4.0, 9.0)
"""What each attempt waits for."""
SECONDS_TO_ANSWER = 5.0
SECONDS_IN_ALL = 30.0
"""Of all events of a run; no attempt begins later."""
MOST_ITEMS = 20
"""Things that one message lists; it counts all."""
TRIED_AGAIN = frozenset({408, 429})
PLACE = "webhook"

Event = tuple[str, dict[str, dict[str, Any]]]
"""What happened, and to what: facts by a name that stays the same when it is seen again."""


def tell(workspace: Workspace, run: Run, error: Exception | None = None) -> tuple[str, ...]:
    """Tell the webhook, where there is one, what came of a run or by which `error` it failed; what it complains of.

    It never raises, since it must not fail the run that it tells of.
    """
    if error is not None and is_silent(error):  # a bucket that gives no answer is not asked once more
        return tell_failure(workspace.settings, run.id, run.kind, error)
    if workspace.settings.webhook_url is None:
        return ()
    deadline = time.monotonic() + SECONDS_IN_ALL
    try:
        for event in _events(run, error):
            _tell_once(workspace, run, event, deadline)
    except Exception as other:  # noqa: BLE001 - see above
        return _untold(run.id, other)
    return ()


def tell_failure(settings: Settings, name: str, kind: str, error: Exception) -> tuple[str, ...]:
    """Tell the webhook, where there is one, of work that could not begin or be noted; what it complains of.

    Parameters:
        settings: which name the webhook.
        name: of the work, the same however often it is told.
        kind: of work.
        error: by which it failed.
    """
    if settings.webhook_url is None:
        return ()
    try:
        message = _message(name, kind, *_failure(name, error))
        _send(settings, *message, time.monotonic() + SECONDS_IN_ALL)
    except Exception as other:  # noqa: BLE001 - it must not take the place of the error that it tells
        return _untold(name, other)
    return ()


def _untold(name: str, error: Exception) -> tuple[str, ...]:
    why = str(error) if isinstance(error, _UntoldError) else shown_message(f"{type(error).__name__}: {error}", 300)
    return (f"the webhook (WAFER_WEBHOOK_URL) could not be told of {name}: {why}",)


class _UntoldError(Exception):
    pass


def _failure(name: str, error: Exception) -> Event:
    return "failure", {name: {"error": shown_message(str(error) or type(error).__name__)}}


def _events(run: Run, error: Exception | None) -> Iterator[Event]:
    """What the records of a run have to tell."""
    if error is not None:
        yield _failure(run.id, error)
    for kind in ("training", "prediction"):
        if run.has(Ingested, f"ingest-{kind}"):
            report = run.storage.read_json(run.read(Ingested, f"ingest-{kind}").report)
            refused = [batch for batch in report["batches"] if batch["verdict"] == "quarantined"]
            yield "quarantine", {f"{kind}-{batch['digest']}": _refusal(batch) for batch in refused}
    if run.has(Decided):
        decision, version = run.storage.read_json(run.read(Decided).decision), run.read(Registered).version
        refused_by_gate = not decision["promoted"] and decision["kind"] != SAME_MODEL
        told = {"version": version, "why": shown_message(decision["reason"])}
        yield "refusal", {f"version-{version}": told} if refused_by_gate else {}
    if run.has(Refused):
        version, in_a_row = run.read(Registered).version, run.read(Refused).in_a_row
        yield "refusals", {f"version-{version}": {"version": version, "in_a_row": in_a_row}}
    if run.has(Predicted):
        index = run.storage.read_json(run.key(INDEX))
        alarms, drifted = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
        for batch in index:
            name = f"{batch['digest']}-{batch['model_version']}"
            facts = {"file": shown_text(batch["file"]), "version": batch["model_version"]}
            if batch["alarms"]:
                alarms[name] = {**facts, "alarms": batch["alarms"], "wafers": batch["wafers"]}
            if batch.get("drifted"):  # not told of a batch without wafers
                drifted[name] = {**facts, "score": batch["score"], "threshold": batch["threshold"]}
        yield "alarms", alarms
        yield "drift", drifted


def _refusal(batch: Mapping[str, Any]) -> dict[str, Any]:
    why = next((reason["message"] for reason in batch["reasons"]), "")
    return {"file": shown_text(batch["file"]), "why": shown_message(why, 300)}


def _tell_once(workspace: Workspace, run: Run, event: Event, deadline: float) -> None:
    """Send what of an event was not received yet, and note it then."""
    what, items = event
    if not items:
        return
    known = set(run.storage.children(f"{PLACE}/{what}"))
    new = {name: facts for name, facts in items.items() if f"{name}.json" not in known}
    if not new:
        return
    key, message = _message(run.id, run.kind, what, new, page=workspace.link(run.key("")))
    _send(workspace.settings, key, message, deadline)
    for name in new:
        run.storage.write_json(f"{PLACE}/{what}/{name}.json", {"run": run.id, "id": key})
    run.storage.write_json(run.key(f"{PLACE}/{what}.json"), {"id": key, **message})


def _message(
    run: str, kind: str, what: str, items: Mapping[str, Mapping[str, Any]], page: str = ""
) -> tuple[str, dict[str, Any]]:
    """The id of a message, the same for the same items, and its body."""
    key = hashlib.sha256("\n".join([what, *sorted(items)]).encode()).hexdigest()[:32]
    data = {"run": run, "kind": kind, "count": len(items), "items": list(items.values())[:MOST_ITEMS]}
    told = {"type": f"wafer.{what}", "timestamp": datetime.now(UTC).isoformat(timespec="seconds")}
    return key, {**told, "data": {**data, "place": page} if page else data}


def _send(settings: Settings, key: str, message: Mapping[str, Any], deadline: float) -> None:
    assert settings.webhook_url is not None
    assert settings.webhook_secret is not None
    body = json.dumps(message, ensure_ascii=False).encode()
    told = "there was no time left"
    for wait in SECONDS_BEFORE:
        if time.monotonic() + wait > deadline:
            break
        time.sleep(wait)
        headers = {"content-type": "application/json", **signed(settings.webhook_secret.get_secret_value(), key, body)}
        try:
            with requests.post(
                settings.webhook_url.get_secret_value(),
                data=body,
                headers=headers,
                timeout=SECONDS_TO_ANSWER,
                allow_redirects=False,
                stream=True,  # what it says besides its status is not waited for
            ) as answer:
                status = answer.status_code
        except requests.RequestException as error:  # whose words hold the address, which may be a secret
            told = "it gave no answer in time" if isinstance(error, requests.Timeout) else "nobody answers there"
            continue
        if 200 <= status < 300:
            return
        told = f"it answered with status {status}"
        if status < 500 and status not in TRIED_AGAIN:
            break
    raise _UntoldError(told)


def signed(secret: str, key: str, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows a message again and that it is genuine.

    Args:
        secret: a text, or after ``whsec_`` the bytes in base64.
        key: the id of the message.
        body: its bytes.
    """
    encoded = secret.removeprefix("whsec_")
    known = secret.encode() if encoded == secret else base64.b64decode(encoded)
    at = str(int(time.time()))
    code = hmac.new(known, f"{key}.{at}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(code).decode()}"
    return {"webhook-id": key, "webhook-timestamp": at, "webhook-signature": signature}
