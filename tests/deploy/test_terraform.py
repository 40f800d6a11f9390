"""What deploy/terraform makes: checked as it stands, and made, used and destroyed on emulators of AWS."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.conftest import REPOSITORY, S3_KEYS
from tests.deploy.tools import DEPLOY, ran, tool
from tests.stack.servers import free_base
from tests.test_bucket_rights import work
from wafer.fab.simulate import simulate_batches
from wafer.intake.watching import PLACE as WATCHED
from wafer.stack.parts import ask
from wafer.storage import Storage

CODE = DEPLOY / "terraform"
ACCOUNT = "111122223333"
NAME = "wafer-staging"
STATES = f"wafer-terraform-{ACCOUNT}"
BUCKET = f"{NAME}-{ACCOUNT}"
REGION = "eu-central-1"
static = [pytest.mark.slow, pytest.mark.invariant]

AT_MOTO = ("CLOUDWATCH_LOGS", "EC2", "RDS")
"""Services of which ministack forgets more of what it was told than moto does; all others are asked of ministack."""
FORGOTTEN = {
    "ecs": {"aws_ecs_service.worker": ["availability_zone_rebalancing"]},
    "eks": {
        "aws_eks_node_group.this": ["launch_template", "update_config", "scaling_config[0].desired_size"],
        "aws_launch_template.nodes": ["tag_specifications"],
    },
    "mlflow": {
        "aws_ecs_service.server": ["availability_zone_rebalancing"],
        "aws_db_instance.this": ["performance_insights_enabled", "performance_insights_kms_key_id"],
        "aws_db_parameter_group.this": ["parameter"],
        "aws_vpc_security_group_egress_rule.database": ["description"],
        "aws_vpc_security_group_ingress_rule.database": ["description"],
    },
}
"""What both emulators take and then do not tell, so that a second plan would set it again."""
EVERYTHING = ("-var", 'pools=["ecs","eks"]', "-var", "github_repository=fab/wafer", "-var", "budget_usd=0")
"""All that can be made but the budget, of whose subscribers neither emulator knows."""


@dataclass(frozen=True)
class Terraform:
    """Terraform in a copy of the code, so that nothing is left beside it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *arguments: str, status: int = 0) -> str:
        """What a command of it tells, which ends with this exit status."""
        environment = {name: value for name, value in os.environ.items() if name != "TF_CLI_CONFIG_FILE"} | {
            "CHECKPOINT_DISABLE": "1",
            "TF_IN_AUTOMATION": "1",
            **self.environment,
        }
        done = subprocess.run(
            [tool("terraform"), *arguments, "-no-color"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{arguments[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def init(self, *arguments: str) -> None:
        """Skips where the provider cannot be had; one that was brought below /opt needs no registry."""
        brought = [f"-plugin-dir={found.parent}" for found in Path("/opt").glob("*/registry.terraform.io")]
        try:
            self.run("init", "-input=false", *brought[:1], *arguments)
        except AssertionError as error:
            if "Failed to query available provider packages" not in str(error):
                raise
            pytest.skip("Terraform's provider hashicorp/aws 5.100 is not on this machine, and no registry answers")


def copied(folder: Path, **environment: str) -> Terraform:
    """A copy of the code, in which it finds the policy that it reads."""
    place = folder / "deploy" / "terraform"
    shutil.copytree(CODE, place, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*"))
    (folder / "docs").mkdir()
    shutil.copyfile(REPOSITORY / "docs" / "s3-policy.json", folder / "docs" / "s3-policy.json")
    return Terraform(place, {**S3_KEYS, **environment})


class TestAsItStands:
    """Without an AWS and without an emulator."""

    pytestmark = static

    def test_it_is_formatted(self) -> None:
        """All files are as `terraform fmt` writes them."""
        assert ran(tool("terraform"), "fmt", "-check", "-recursive", CODE, TF_CLI_CONFIG_FILE="") == ""

    def test_it_is_valid_and_its_own_tests_pass(self, tmp_path: Path) -> None:
        """`terraform validate` takes every module, and `terraform test` plans what tests/*.tftest.hcl ask for."""
        terraform = copied(tmp_path)
        terraform.init("-backend=false")
        terraform.run("validate")
        told = terraform.run("test")
        assert re.search(r"Success! [1-9]\d* passed, 0 failed", told), told

    def test_no_known_weakness_is_left_unexplained(self) -> None:
        """checkov finds nothing but what a comment in the code gives a reason for."""
        command = [tool("checkov"), "--directory", str(CODE), "--framework", "terraform", "--skip-download", "--quiet"]
        found = json.loads(ran(*command, "--compact", "--output", "json"))
        assert found["summary"]["failed"] == 0
        assert found["summary"]["parsing_errors"] == 0
        assert found["summary"]["passed"] > 300
        skipped = [one["check_result"]["suppress_comment"] for one in found["results"].get("skipped_checks", [])]
        assert all(len(reason) > 20 for reason in skipped)

    def test_the_atlas_root_can_be_read(self) -> None:
        """The one part whose provider the tests do not have: its files parse, and it makes no password."""
        parsed: dict[str, list[Any]] = {}
        for file in sorted((CODE / "atlas").glob("*.tf")):
            for kind, blocks in json.loads(ran(tool("hcl2tojson"), file)).items():
                parsed.setdefault(kind, []).extend(blocks)
        kinds = {kind.strip('"') for resource in parsed["resource"] for kind in resource}
        assert kinds == {
            "mongodbatlas_project",
            "mongodbatlas_advanced_cluster",
            "mongodbatlas_project_ip_access_list",
            "mongodbatlas_database_user",
        }
        used = set(re.findall(r"\bvar\.(\w+)", "".join(file.read_text() for file in (CODE / "atlas").glob("*.tf"))))
        assert used == {name.strip('"') for variable in parsed["variable"] for name in variable}
        assert "password" not in json.dumps(parsed["resource"])


@pytest.mark.slow
@pytest.mark.invariant
def test_pointers_are_never_written_blindly(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bucket's policy refuses, a put below latest/ or watched/ without a condition, wafer does not do."""
    asked = pytest.importorskip("aiobotocore.client").AioBaseClient
    plain = asked._make_api_call
    puts: list[tuple[str, bool]] = []

    async def noted(self: Any, name: str, given: dict[str, Any]) -> Any:
        if name in ("PutObject", "CopyObject", "CreateMultipartUpload"):
            puts.append((given["Key"], "IfNoneMatch" in given or "IfMatch" in given))
        return await plain(self, name, given)

    monkeypatch.setattr(asked, "_make_api_call", noted)
    boto3.client("s3", endpoint_url=s3_address).create_bucket(Bucket="pointers")
    storage = Storage("s3://pointers/data", endpoint_url=s3_address, key="test", secret="test")
    work(storage)
    assert storage.put_new(f"{WATCHED}/one.json", b"{}")
    guarded = re.search(r"conditional_keys = \[(.*)\]", (CODE / "main.tf").read_text())
    assert guarded is not None
    folders = re.findall(r"\$\{var\.storage_prefix\}(/\w+/)\*", guarded[1])
    assert folders == ["/latest/", f"/{WATCHED}/"]
    pointers = [conditional for key, conditional in puts if any(f"data{folder}" in key for folder in folders)]
    assert len(pointers) >= 2
    assert all(pointers)
    assert not all(conditional for _, conditional in puts)


@contextmanager
def server(port: int, path: str, command: list[str], folder: Path, **environment: str) -> Iterator[None]:
    """A server of this test's own; what it told is shown where it does not start."""
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 180
        while ask(port, path)[0] != 200:
            assert process.poll() is None, (folder / f"{port}.log").read_text()
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def emulators(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of whoever asks the emulators in place of AWS."""
    tool("terraform")
    base = free_base()
    bound = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(base), "IOT_MTLS_ENABLED": "0"}
    whose = {"MINISTACK_ACCOUNT_ID": ACCOUNT, "MINISTACK_REGION": REGION, "STATE_DIR": str(tmp_path / "ministack")}
    moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(base + 1)]
    with ExitStack() as servers:
        ministack = server(base, "/_ministack/health", [tool("ministack")], tmp_path, **bound, **whose)
        servers.enter_context(ministack)
        servers.enter_context(server(base + 1, "/moto-api/data.json", moto, tmp_path, MOTO_ACCOUNT_ID=ACCOUNT))
        asked = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{base}"}
        asked |= {f"AWS_ENDPOINT_URL_{name}": f"http://127.0.0.1:{base + 1}" for name in AT_MOTO}
        yield {**asked, **S3_KEYS, "AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_DEFAULT_REGION": REGION}


def for_emulators(terraform: Terraform) -> None:
    """Lay beside the code what only emulators need: addresses without names of buckets, and what they forget."""
    lines = ["s3_use_path_style = true", "skip_credentials_validation = true", "skip_metadata_api_check = true"]
    (terraform.folder / "emulator_override.tf").write_text('provider "aws" {\n' + "\n".join(lines) + "\n}\n")
    for module, resources in FORGOTTEN.items():
        text = ""
        for address, attributes in resources.items():
            kind, _, name = address.partition(".")
            ignored = f"lifecycle {{\n    ignore_changes = [{', '.join(attributes)}]\n  }}"
            text += f'resource "{kind}" "{name}" {{\n  {ignored}\n}}\n'
        (terraform.folder / "modules" / module / "emulator_override.tf").write_text(text)


def client(service: str, environment: dict[str, str]) -> Any:
    """A client of the emulator that knows this service."""
    name = {"logs": "CLOUDWATCH_LOGS"}.get(service, service.upper())
    return boto3.client(
        service,
        endpoint_url=environment.get(f"AWS_ENDPOINT_URL_{name}", environment["AWS_ENDPOINT_URL"]),
        aws_access_key_id=ACCOUNT,
        aws_secret_access_key="test",
        region_name=REGION,
    )


def what_there_is(environment: dict[str, str]) -> dict[str, list[str]]:
    """What the account holds, by kinds, without what every account holds."""

    def listed(service: str, call: str, key: str, name: str | None = None, **question: Any) -> list[str]:
        found = getattr(client(service, environment), call)(**question)[key]
        return sorted(one if name is None else one[name] for one in found)

    return {
        "buckets": [name for name in listed("s3", "list_buckets", "Buckets", "Name") if name != STATES],
        "roles": listed("iam", "list_roles", "Roles", "RoleName"),
        "policies": listed("iam", "list_policies", "Policies", "PolicyName", Scope="Local"),
        "identity providers": listed("iam", "list_open_id_connect_providers", "OpenIDConnectProviderList", "Arn"),
        "secrets": listed("secretsmanager", "list_secrets", "SecretList", "Name"),
        "repositories": listed("ecr", "describe_repositories", "repositories", "repositoryName"),
        "clusters of ECS": listed("ecs", "list_clusters", "clusterArns"),
        "clusters of EKS": listed("eks", "list_clusters", "clusters"),
        "databases": listed("rds", "describe_db_instances", "DBInstances", "DBInstanceIdentifier"),
        "networks": listed(
            "ec2", "describe_vpcs", "Vpcs", "VpcId", Filters=[{"Name": "is-default", "Values": ["false"]}]
        ),
        "addresses": listed("ec2", "describe_addresses", "Addresses", "AllocationId"),
        "log groups": listed("logs", "describe_log_groups", "logGroups", "logGroupName"),
        "namespaces": listed("servicediscovery", "list_namespaces", "Namespaces", "Name"),
    }


def run_a_flow(environment: dict[str, str], storage: str, mongodb_url: str, folder: Path) -> None:
    """Take in a delivery by the flow `ingest`, with everything that it keeps in the bucket."""
    list(simulate_batches(folder / "training", wafers=40, batches=2, seed=5))
    (folder / "home").mkdir()
    given = {
        "HOME": str(folder / "home"),
        "MONGODB_DATABASE": "terraform",
        "MONGODB_URL": mongodb_url,
        "PYTHONPATH": str(REPOSITORY),
        "WAFER_JOBS": "1",
        "WAFER_PROJECT": str(REPOSITORY),
        "WAFER_STATE": str(folder / "state"),
        "WAFER_STORAGE": storage,
    }
    command = [sys.executable, "-m", "wafer", "ingest", "--raw", str(folder / "training")]
    ran(*command, cwd=folder, **environment, **given)


def look_at_the_bucket(environment: dict[str, str]) -> None:
    """The run is there, encrypted by the environment's key; a pointer that was written again has two versions."""
    s3 = client("s3", environment)
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET, Prefix="data/")["Contents"]]
    (run,) = [key for key in keys if re.fullmatch(r"data/runs/ingest-training-[\d-]+/run\.json", key)]
    assert json.load(s3.get_object(Bucket=BUCKET, Key=run)["Body"])["state"] == "finished"
    assert "data/latest/ingest-training.json" in keys
    (alias,) = [one for one in client("kms", environment).list_aliases()["Aliases"] if one["AliasName"].endswith(NAME)]
    head = s3.head_object(Bucket=BUCKET, Key=run)
    assert head["ServerSideEncryption"] == "aws:kms"
    assert head["SSEKMSKeyId"].endswith(alias["TargetKeyId"])
    assert len(s3.list_object_versions(Bucket=BUCKET, Prefix=run)["Versions"]) == 2


def look_at_the_rights(environment: dict[str, str]) -> None:
    """Flow runs may do what docs/s3-policy.json says; the worker starts tasks that have their two roles alone."""
    iam = client("iam", environment)
    documented = json.loads((REPOSITORY / "docs" / "s3-policy.json").read_text().replace(":::fab/wafer", ":::fab/data"))
    here = json.loads(json.dumps(documented).replace(":::fab", f":::{BUCKET}"))
    for role in (f"{NAME}-flow", f"{NAME}-pods"):
        assert iam.list_role_policies(RoleName=role)["PolicyNames"] == []
        (attached,) = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
        policy = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)["PolicyVersion"]["Document"]
        assert policy["Statement"][:-1] == here["Statement"]
        assert policy["Statement"][-1]["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    worker = iam.get_role_policy(RoleName=f"{NAME}-worker", PolicyName="run")["PolicyDocument"]["Statement"]
    (passed,) = [one for one in worker if "iam:PassRole" in one["Action"]]
    arn = f"arn:aws:iam::{ACCOUNT}:role/{NAME}"
    assert sorted(passed["Resource"]) == [f"{arn}-execution", f"{arn}-flow"]
    anywhere = {one["Sid"]: one["Action"] for one in worker if one["Resource"] == "*"}
    assert list(anywhere) == ["Register"]
    trust = iam.get_role(RoleName=f"{NAME}-pods")["Role"]["AssumeRolePolicyDocument"]["Statement"][0]
    (accounts,) = [value for key, value in trust["Condition"]["StringEquals"].items() if key.endswith(":sub")]
    assert sorted(accounts) == ["system:serviceaccount:wafer:wafer-flow", "system:serviceaccount:wafer:wafer-service"]


def look_at_the_password(environment: dict[str, str]) -> None:
    """MLflow's database has one, which the state does not hold; the server gets it by its environment."""
    secrets = client("secretsmanager", environment)
    address = secrets.get_secret_value(SecretId=f"{NAME}/mlflow-database")["SecretString"]
    found = re.fullmatch(r"postgresql\+pg8000://mlflow:([0-9A-Za-z]{40})@[\w.-]+:5432/mlflow", address)
    assert found is not None
    password = found[1]
    s3 = client("s3", environment)
    state = s3.get_object(Bucket=STATES, Key="wafer/staging.tfstate")["Body"].read().decode()
    assert "aws_db_instance" in state
    assert password not in state
    versions = [one for one in json.loads(state)["resources"] if one["type"] == "aws_secretsmanager_secret_version"]
    assert [one["module"] for one in versions] == ["module.mlflow[0]"]
    assert not versions[0]["instances"][0]["attributes"]["secret_string"]
    task = client("ecs", environment).describe_task_definition(taskDefinition=f"{NAME}-mlflow")["taskDefinition"]
    (container,) = task["containerDefinitions"]
    assert [one["name"] for one in container["secrets"]] == ["MLFLOW_BACKEND_STORE_URI"]
    assert password not in json.dumps(task, default=str)


@pytest.mark.slow
def test_all_of_it_is_made_used_and_destroyed(emulators: dict[str, str], mongodb_url: str, tmp_path: Path) -> None:
    """An apply makes it, a second plan finds nothing to do, a flow works in its bucket, and a destroy leaves nothing.

    The state lies in a bucket as documented: who finds its lock taken waits for nobody and changes nothing. Production
    can be planned with what stands in its file, the budget included.
    """
    s3 = client("s3", emulators)
    s3.create_bucket(Bucket=STATES, CreateBucketConfiguration={"LocationConstraint": REGION})
    before = what_there_is(emulators)
    terraform = copied(tmp_path / "code", **emulators)
    for_emulators(terraform)
    backend = ("use_path_style=true", "skip_credentials_validation=true", "skip_metadata_api_check=true")
    given = ["environments/staging.s3.tfbackend", *backend]
    terraform.init(*(f"-backend-config={one}" for one in given))
    options = ("-input=false", "-var-file=environments/staging.tfvars", *EVERYTHING)

    terraform.run("apply", "-auto-approve", *options)
    terraform.run("plan", "-detailed-exitcode", *options)
    outputs = json.loads(terraform.run("output", "-json"))
    assert outputs["storage"]["value"] == f"s3://{BUCKET}/data"
    assert outputs["eks"]["value"]["pod_roles"]["pods"] == f"arn:aws:iam::{ACCOUNT}:role/{NAME}-pods"
    made = what_there_is(emulators)
    assert all(len(made[kind]) > len(before[kind]) for kind in made)

    run_a_flow(emulators, outputs["storage"]["value"], mongodb_url, tmp_path)
    look_at_the_bucket(emulators)
    look_at_the_rights(emulators)
    look_at_the_password(emulators)

    lock = {
        "ID": "somebody",
        "Operation": "OperationTypeApply",
        "Who": "somebody else",
        "Created": "2026-01-31T08:30:12Z",
    }
    s3.put_object(Bucket=STATES, Key="wafer/staging.tfstate.tflock", Body=json.dumps(lock).encode())
    assert "somebody else" in terraform.run("plan", *options, status=1)
    s3.delete_object(Bucket=STATES, Key="wafer/staging.tfstate.tflock")

    terraform.run("destroy", "-auto-approve", *options)
    assert what_there_is(emulators) == before
    planned = terraform.run("plan", "-input=false", "-var-file=environments/production.tfvars")
    assert re.search(r"Plan: 1\d\d to add, 0 to change, 0 to destroy", planned), planned
    for line in (
        r"deletion_protection += true",
        r"multi_az += true",
        r"force_destroy += false",
        r'limit_amount += "900"',
    ):
        assert re.search(line, planned), line
