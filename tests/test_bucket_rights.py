"""The rights that keys need for the bucket: those of `docs/s3-policy.json`, on a server that enforces them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import boto3
import pytest

from tests.conftest import REPOSITORY
from tests.stack.servers import free_base
from wafer.boundary import bounded
from wafer.runs import Runs
from wafer.stack.parts import ask
from wafer.storage import Storage, local_folder, written_folder

pytestmark = [pytest.mark.slow, pytest.mark.invariant]
POLICY = json.loads((REPOSITORY / "docs" / "s3-policy.json").read_text())
ACTIONS = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
STEPS_BEFORE = 5
"""Requests of `keys`, which need no rights: bucket, object, user, its key, its policy."""
AS_MOTO_CALLS_IT = {"s3:ListBucket": "s3:HeadBucket", "s3:GetObject": "s3:HeadObject"}
"""Amazon asks for the first of each; moto calls the right to look without reading by the name of the request."""
users = count()


def policy(without: str = "") -> dict[str, Any]:
    """The documented policy, or all of it but one right."""
    statements = []
    for statement in POLICY["Statement"]:
        named = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        rights = [right for right in named if right != without]
        rights += [AS_MOTO_CALLS_IT[right] for right in rights if right in AS_MOTO_CALLS_IT]
        statements += [{**statement, "Action": rights}] if rights else []
    return {**POLICY, "Statement": statements}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server that asks who may do what, once it is told to."""
    port = free_base()
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(STEPS_BEFORE)}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 120
            while ask(port, "/moto-api/data.json")[0] != 200 and time.monotonic() < deadline:
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture
def keys(server: str) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Makes a user with a policy; its keys."""

    def made(given_rights: dict[str, Any]) -> dict[str, str]:
        port = int(server.rpartition(":")[2])
        assert ask(port, "/moto-api/reset-auth", STEPS_BEFORE)[0] == 200
        given = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        s3, iam = (boto3.client(name, endpoint_url=server, **given) for name in ("s3", "iam"))
        s3.create_bucket(Bucket="fab")
        s3.put_object(Bucket="fab", Key="another/secret.txt", Body=b"of somebody else")
        name = f"user-{next(users)}"
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        iam.put_user_policy(UserName=name, PolicyName="wafer", PolicyDocument=json.dumps(given_rights))
        return {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}

    return made


def work(storage: Storage) -> None:
    """All kinds of what a run does in a bucket."""
    storage.check()
    with Runs(storage).started("prediction") as run:
        for names in (["a", "manifest.json"], ["manifest.json"]):
            with written_folder(run.place("details")) as aside:
                for name in names:
                    (aside / name).write_text(name)
        with local_folder(run.place("details")) as folder:
            assert [file.name for file in folder.iterdir()] == ["manifest.json"]
    assert Runs(storage).latest("prediction") == run
    assert run.outcome()["state"] == "finished"
    assert run.id in Runs(storage).names()


def test_the_documented_rights_are_enough(server: str, keys: Callable[..., dict[str, str]]) -> None:
    """All that a run does can be done below the prefix, and nothing beside it."""
    storage = Storage("s3://fab/wafer", endpoint_url=server, **keys(policy()))
    work(storage)
    with pytest.raises(PermissionError):
        storage.root.fs.cat("fab/another/secret.txt")
    with pytest.raises(PermissionError):
        storage.root.fs.pipe("fab/another/new.txt", b"x")


@pytest.mark.parametrize("action", ACTIONS)
def test_without_one_of_them_it_is_told(
    action: str,
    server: str,
    keys: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence with exit status 2: that the keys are refused, or may not do that."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    storage = Storage("s3://fab/wafer", endpoint_url=server, **keys(policy(without=action)))
    assert bounded(lambda: work(storage)) == 2
    told = capsys.readouterr().err
    assert re.search(
        r"refuses these keys|cannot be written: (Forbidden|Access Denied)|see that these keys may do that", told, re.I
    ), told
