"""What the manifests say, as they are rendered: valid, locked down, and in keeping with each other and the programs."""

import importlib
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import prefect.settings
import pytest
import yaml
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorker

from deploy import promote
from deploy.kubernetes import job_template
from deploy.kubernetes.kind_secrets import manifest as kind_secrets
from tests.deploy.cluster import (
    COMPONENT,
    KUBERNETES,
    NAMESPACE,
    OVERLAYS,
    Object,
    Peer,
    image,
    named,
    objects,
    pods,
    reaches,
    run_job,
    text,
)
from tests.deploy.tools import DEPLOY, ran, tool
from wafer.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.invariant]
VERSION = "1.33.0"
"""Of the cluster that deploy/terraform makes."""

both = pytest.mark.parametrize("overlay", OVERLAYS)


def table(properties: Object, *required: str) -> Object:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


WORD: Object = {"type": "string", "minLength": 1}
WORDS: Object = {"type": "object", "additionalProperties": WORD}
REMOTE = table(
    {"secretKey": WORD, "remoteRef": table({"key": WORD, "property": WORD}, "key")}, "secretKey", "remoteRef"
)
SYNC = table({"prune": {"type": "boolean"}, "selfHeal": {"type": "boolean"}})
BACKOFF = table({"duration": WORD, "factor": {"type": "integer"}, "maxDuration": WORD})
IGNORED = table({"group": WORD, "kind": WORD, "name": WORD, "jsonPointers": {"type": "array", "items": WORD}}, "kind")
CUSTOM = {
    "external-secrets.io/v1 ExternalSecret": table(
        {
            "refreshInterval": WORD,
            "secretStoreRef": table({"kind": {"enum": ["ClusterSecretStore"]}, "name": WORD}, "kind", "name"),
            "target": table({"name": WORD}, "name"),
            "data": {"type": "array", "items": REMOTE, "minItems": 1},
        },
        "secretStoreRef",
        "data",
    ),
    "monitoring.coreos.com/v1 ServiceMonitor": table(
        {
            "jobLabel": WORD,
            "selector": table({"matchLabels": WORDS}),
            "endpoints": {
                "type": "array",
                "items": table(
                    {
                        "port": WORD,
                        "path": WORD,
                        "interval": WORD,
                        "authorization": table(
                            {"type": WORD, "credentials": table({"name": WORD, "key": WORD}, "name", "key")}
                        ),
                    }
                ),
            },
        },
        "selector",
        "endpoints",
    ),
    "argoproj.io/v1alpha1 Application": table(
        {
            "project": WORD,
            "source": table({"repoURL": WORD, "targetRevision": WORD, "path": WORD}, "repoURL", "path"),
            "destination": table({"server": WORD, "namespace": WORD}, "server"),
            "revisionHistoryLimit": {"type": "integer"},
            "syncPolicy": table(
                {
                    "automated": SYNC,
                    "syncOptions": {"type": "array", "items": {"type": "string", "pattern": r"^\w+=true$"}},
                    "retry": table({"limit": {"type": "integer"}, "backoff": BACKOFF}),
                }
            ),
            "ignoreDifferences": {"type": "array", "items": IGNORED},
        },
        "project",
        "source",
        "destination",
    ),
}
"""The fields of foreign kinds that are used here, by hand: their definitions are not on this machine."""


def strictly_valid(file: Path) -> str:
    """What kubernetes-validate says of a file that is as the API has it, unknown fields refused."""
    return ran(tool("kubernetes-validate"), "--strict", "--kubernetes-version", VERSION, file)


def application() -> Object:
    found: Object = yaml.safe_load((DEPLOY / "argocd" / "application.yaml").read_text())
    return found


@both
def test_every_object_is_strictly_valid(overlay: str, tmp_path: Path) -> None:
    """Each field is one that the API has; of foreign kinds those that are written down here."""
    for number, one in enumerate(objects(overlay)):
        kind = f"{one['apiVersion']} {one['kind']}"
        if kind in CUSTOM:
            jsonschema.validate(one["spec"], CUSTOM[kind])
            assert set(one) == {"apiVersion", "kind", "metadata", "spec"}
            one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": one["metadata"]}
        (tmp_path / f"{number:03}.yaml").write_text(yaml.safe_dump(one))
    (tmp_path / "all.yaml").write_text("---\n".join(one.read_text() for one in sorted(tmp_path.iterdir())))
    assert "find schema" not in strictly_valid(tmp_path / "all.yaml")


def test_a_field_that_the_api_lacks_would_be_found(tmp_path: Path) -> None:
    """The validation that these tests trust refuses one wrong word."""
    wrong = text("kind").replace("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", 1)
    (tmp_path / "wrong.yaml").write_text(wrong)
    with pytest.raises(AssertionError, match="readOnlyRootFileSystem"):
        strictly_valid(tmp_path / "wrong.yaml")


def test_the_application_follows_the_overlay_that_promote_moves() -> None:
    """Its path is an overlay, its namespace that of the objects; the autoscaler's replicas are no difference."""
    found = application()
    jsonschema.validate(found["spec"], CUSTOM[f"{found['apiVersion']} {found['kind']}"])
    assert found["spec"]["source"]["path"] == f"{promote.OVERLAYS}/eks"
    assert found["spec"]["destination"]["namespace"] == NAMESPACE
    assert "replicas" not in named("eks", "Deployment", "service")["spec"]


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    """Nothing but what deploy/kubernetes/checkov.yaml and one annotation leave out, with why."""
    for overlay in OVERLAYS:
        (tmp_path / overlay).mkdir()
        job = {**run_job(overlay), "metadata": {"name": "run", "namespace": NAMESPACE}}
        (tmp_path / overlay / "all.yaml").write_text(f"{text(overlay)}---\n{yaml.safe_dump(job)}")
    config = KUBERNETES / "checkov.yaml"
    told = json.loads(ran(tool("checkov"), "--config-file", config, "-d", tmp_path, "-o", "json"))
    summary = told["summary"]
    assert (summary["failed"], summary["parsing_errors"], summary["skipped"]) == (0, 0, len(OVERLAYS))
    assert summary["passed"] > 500


@both
def test_every_pod_is_restricted(overlay: str) -> None:
    """Not root, no way to become it, nothing of the kernel, a root folder that nobody writes to."""
    for pod in pods(overlay):
        wanted = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        user = pod.spec["securityContext"].pop("runAsUser")
        assert user >= 10000, pod.owner
        assert pod.spec["securityContext"] == wanted | {"runAsGroup": user, "fsGroup": user}, pod.owner
        assert pod.spec.get("automountServiceAccountToken") is (pod.owner == "worker"), pod.owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec), pod.owner
        assert all(set(one) - {"name"} <= MOUNTED for one in pod.spec.get("volumes", [])), pod.owner
        for one in pod.containers:
            assert one["securityContext"] == wanted | {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, one["name"]
            resources = one["resources"]
            assert {name: set(resources[name]) for name in ("requests", "limits")} == {
                "requests": {"cpu", "memory"},
                "limits": {"cpu", "memory"},
            }, one["name"]


MOUNTED = {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}


@both
def test_the_namespace_refuses_what_is_not_restricted(overlay: str) -> None:
    """Pod Security Admission enforces it, in a namespace that holds everything."""
    namespace = named(overlay, "Namespace", NAMESPACE)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [one for one in objects(overlay) if one["kind"] != "Namespace"]
    assert {one["metadata"].get("namespace") for one in others} == {NAMESPACE}
    assert {one["metadata"]["labels"]["app.kubernetes.io/part-of"] for one in others} == {"wafer"}


@both
def test_only_the_worker_may_ask_the_cluster_and_only_about_jobs(overlay: str) -> None:
    """A role of this namespace, with the calls of prefect_kubernetes' worker and observer; no right in the cluster."""
    assert objects(overlay, "ClusterRole", "ClusterRoleBinding") == []
    (role,), (binding,) = objects(overlay, "Role"), objects(overlay, "RoleBinding")
    assert {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]} == {
        "jobs": {"create", "delete", "get", "list", "watch"},
        "pods": {"list", "watch"},
        "pods/log": {"get"},
    }
    accounts = {pod.owner: pod.spec.get("serviceAccountName") for pod in pods(overlay)}
    assert [one["name"] for one in binding["subjects"]] == [accounts["worker"]]
    assert list(accounts.values()).count(accounts["worker"]) == 1
    settings = named(overlay, "ConfigMap", "worker")["data"]
    assert settings["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"] == NAMESPACE


@both
def test_whatever_is_referred_to_is_there(overlay: str) -> None:
    """Config maps, secrets and their keys, claims and accounts; secrets come from outside, by what is listed here."""
    maps = {one["metadata"]["name"]: set(one["data"]) for one in objects(overlay, "ConfigMap")}
    accounts = {one["metadata"]["name"] for one in objects(overlay, "ServiceAccount")}
    claims = {one["metadata"]["name"] for one in objects(overlay, "PersistentVolumeClaim")}
    secrets = outside(overlay)
    asked: set[str] = set()
    for pod in pods(overlay):
        assert pod.spec.get("serviceAccountName", "") in accounts or pod.owner in ("mongodb", "s3"), pod.owner
        for one in pod.containers:
            for env in one.get("envFrom", []):
                if "configMapRef" in env:
                    assert env["configMapRef"]["name"] in maps, one["name"]
                else:
                    assert env["secretRef"]["name"] in secrets, one["name"]
                    asked.add(env["secretRef"]["name"])
            for env in one.get("env", []):
                if "secretKeyRef" in env.get("valueFrom", {}):
                    key = env["valueFrom"]["secretKeyRef"]
                    assert key["key"] in secrets[key["name"]], one["name"]
                    asked.add(key["name"])
            templates = named(overlay, "StatefulSet", pod.owner)["spec"] if pod.owner in ("mongodb", "s3") else {}
            made = [claim["metadata"]["name"] for claim in templates.get("volumeClaimTemplates", [])]
            there = {volume["name"] for volume in pod.spec["volumes"]} | set(made)
            assert {mount["name"] for mount in one["volumeMounts"]} <= there, one["name"]
        for volume in pod.spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets
                asked.add(volume["secret"]["secretName"])
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
    for monitor in objects(overlay, "ServiceMonitor"):
        credentials = monitor["spec"]["endpoints"][0]["authorization"]["credentials"]
        assert credentials["key"] in secrets[credentials["name"]]
        asked.add(credentials["name"])
    assert asked == set(secrets)
    assert "MONGODB_URL" in secrets["wafer"]


def outside(overlay: str) -> dict[str, set[str]]:
    """Secrets that come from elsewhere, with their keys: by External Secrets, or by the script for `kind`."""
    if overlay == "kind":
        items: Any = kind_secrets()["items"]
        return {one["metadata"]["name"]: set(one["stringData"]) for one in items}
    return {
        one["spec"]["target"]["name"]: {entry["secretKey"] for entry in one["spec"]["data"]}
        for one in objects(overlay, "ExternalSecret")
    }


def test_no_manifest_holds_a_secret() -> None:
    """None is rendered, and each call of the script makes other passwords, which servers and clients share."""
    for overlay in OVERLAYS:
        assert objects(overlay, "Secret") == []
    made: list[Any] = [kind_secrets()["items"] for _ in range(2)]
    first, second = ({one["metadata"]["name"]: one["stringData"] for one in items} for items in made)
    assert not set(values(first)) & set(values(second))
    assert first["mongodb"]["password"] in first["wafer"]["MONGODB_URL"]
    (identity,) = json.loads(first["s3-server"]["s3.json"])["identities"]
    (keys,) = identity["credentials"]
    assert keys == {
        "accessKey": first["wafer"]["AWS_ACCESS_KEY_ID"],
        "secretKey": first["wafer"]["AWS_SECRET_ACCESS_KEY"],
    }
    assert first["s3-keys"].items() <= first["wafer"].items()


def values(secrets: dict[str, dict[str, str]]) -> Iterator[str]:
    return (value for one in secrets.values() for value in one.values())


def test_the_secrets_for_kind_are_valid(tmp_path: Path) -> None:
    """As what `kubectl create` takes."""
    items: Any = kind_secrets()["items"]
    (tmp_path / "secrets.yaml").write_text(yaml.safe_dump_all(items))
    assert "find schema" not in strictly_valid(tmp_path / "secrets.yaml")


@both
def test_every_variable_is_known_to_who_reads_it(overlay: str) -> None:
    """A name with a slip would silently do nothing."""
    known = {str(one.alias) for one in Settings.model_fields.values()} | {"AWS_REGION", "DO_NOT_TRACK", "HOME"}
    known |= {"IMAGE", "NAMESPACE", "POD_IP", "MONGO_INITDB_ROOT_USERNAME", "MONGO_INITDB_ROOT_PASSWORD"}
    known |= {"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"}  # by Prefect's worker itself
    mlflow = {str(one.envvar) for one in command_of_mlflow().params if isinstance(one, click.Option) and one.envvar}
    mlflow |= set(vars(importlib.import_module("mlflow.environment_variables")))
    used = {name for one in objects(overlay, "ConfigMap") for name in one["data"] if name.isupper()}
    used |= {env["name"] for pod in pods(overlay) for one in pod.containers for env in one.get("env", [])}
    used |= {name for keys in outside(overlay).values() for name in keys if name.isupper()}
    assert len(used) > 20
    prefect_names = {name for name in used if name.startswith("PREFECT_") and "__" not in name}
    assert {name for name in used - prefect_names if name not in known | mlflow and "__" not in name} == set()
    assert {name for name in prefect_names - known if not known_to_prefect(name)} == set()


def known_to_prefect(name: str) -> bool:
    kubernetes = "PREFECT_INTEGRATIONS_KUBERNETES_"
    if name.startswith(kubernetes):
        group, field = name.removeprefix(kubernetes).lower().split("_", 1)
        return hasattr(getattr(KubernetesSettings(), group), field)
    return hasattr(prefect.settings, name)


def command_of_mlflow() -> click.Command:
    found: click.Command = importlib.import_module("mlflow.cli").cli.commands["server"]
    return found


@both
def test_every_command_takes_its_words(overlay: str) -> None:
    """The program's own parser reads each, the words of the overlay among them."""
    asked = {pod.owner: pod.containers[-1]["args"] for pod in pods(overlay)}
    serve = importlib.import_module("wafer.cli.service").serve
    given = serve.make_context("serve", [word.replace("$(POD_IP)", "10.1.2.3") for word in asked["service"][2:]]).params
    names = {"10.1.2.3", "service", "localhost"} | ({"wafers.fab.example"} if overlay == "eks" else set())
    assert (given["host"], given["port"], set(given["hosts"])) == ("0.0.0.0", 8321, names)
    given = command_of_mlflow().make_context("server", list(asked["mlflow"][2:])).params
    assert (given["host"], given["port"], int(given["workers"])) == ("0.0.0.0", 5000, 1)
    assert asked["worker"][:7] == ["prefect", "worker", "start", "--pool", "wafer", "--type", "kubernetes"]
    assert asked["run"] == ["prefect", "flow-run", "execute"]
    assert asked["register"] == ["python", "/etc/register/register.py", "/etc/register/job-template.json"]
    mounted = named(overlay, "ConfigMap", "register")["data"]
    assert set(mounted) == {"register.py", "job-template.json"}


@both
def test_selectors_and_ports_meet(overlay: str) -> None:
    """What selects finds what it should, and every port that is named is one of the container's."""
    found = list(pods(overlay))
    for one in objects(overlay, "Deployment", "StatefulSet"):
        wanted = one["spec"]["selector"]["matchLabels"]
        assert [pod.owner for pod in found if wanted.items() <= pod.labels.items()] == [one["metadata"]["name"]]
        spread = one["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
        assert all(each["labelSelector"]["matchLabels"] == wanted for each in spread)
    for one in objects(overlay, "Service"):
        wanted = one["spec"]["selector"]
        (pod,) = [pod for pod in found if wanted.items() <= pod.labels.items()]
        open_ports = {port["name"]: port["containerPort"] for port in pod.containers[-1]["ports"]}
        for port in one["spec"]["ports"]:
            assert open_ports[port["targetPort"]] == port["port"], one["metadata"]["name"]
    for pod in found:
        for container in pod.containers:
            names = {port["name"] for port in container.get("ports", [])}
            probes = [probe for kind, probe in container.items() if kind.endswith("Probe")]
            assert len(probes) == (0 if pod.owner in ("register", "run") else 3), container["name"]
            for probe in probes:
                assert (probe.get("httpGet") or probe["tcpSocket"])["port"] in names, container["name"]
    service = named(overlay, "Deployment", "service")["spec"]["selector"]["matchLabels"]
    (budget,) = objects(overlay, "PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"] == service
    for scaler in objects(overlay, "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "service"}
    for monitor in objects(overlay, "ServiceMonitor"):
        target = named(overlay, "Service", "service")
        assert monitor["spec"]["selector"]["matchLabels"].items() <= target["metadata"]["labels"].items()
        assert target["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "wafer"  # as the alerts' rules ask for
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in target["spec"]["ports"]}
    for ingress in objects(overlay, "Ingress"):
        (rule,) = ingress["spec"]["rules"]
        assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "service", "port": {"name": "http"}}
        assert (
            rule["host"] in named(overlay, "Deployment", "service")["spec"]["template"]["spec"]["containers"][0]["args"]
        )


@both
def test_addresses_name_services_of_this_overlay(overlay: str) -> None:
    """Each http:// address of a variable has the name and port of a Service, which MLflow lets in by that name."""
    ports = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in objects(overlay, "Service")}
    addresses = {
        match.groups()
        for one in objects(overlay, "ConfigMap")
        for name, value in one["data"].items()
        if name.isupper() and not name.endswith(("PAGES_URL", "UI_API_URL"))
        for match in re.finditer(r"http://([\w-]+):(\d+)", value)
    }
    assert {("prefect-server", "4200"), ("mlflow", "5000")} <= addresses
    assert all(ports[host] == int(port) for host, port in addresses)
    allowed = named(overlay, "ConfigMap", "mlflow")["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    security = importlib.import_module("mlflow.server.security_utils")
    assert security.is_allowed_host_header(allowed, "mlflow:5000")
    assert not security.is_allowed_host_header(allowed, "evil.example:5000")


@both
def test_one_image_is_everywhere(overlay: str) -> None:
    """All containers of the product have the same, and the job template gets it too."""
    own = {one["image"] for pod in pods(overlay) for one in pod.containers if pod.owner not in ("mongodb", "s3")}
    (register,) = objects(overlay, "Job")
    env = {one["name"]: one.get("value") for one in register["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert own == {image(overlay), env["IMAGE"]}
    assert all(":" in one["image"] and "latest" not in one["image"] for pod in pods(overlay) for one in pod.containers)


def test_a_promoted_overlay_renders_with_the_new_image(tmp_path: Path) -> None:
    """`promote` on the overlay as it is here, by tag and by digest; all else renders as before."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    file = tmp_path / "kubernetes" / "overlays" / "eks" / "kustomization.yaml"
    for new in ("registry.example.com/wafer:4f1c0de", f"registry.example.com/wafer@sha256:{'ab' * 32}"):
        file.write_text(promote.moved(file.read_text(), promote.Image.parse(new)))
        assert ran(tool("kubectl"), "kustomize", file.parent) == text("eks").replace(image("eks"), new)


def test_the_job_template_is_prefects_own_corrected() -> None:
    """`python deploy/kubernetes/job_template.py` takes over what another release of prefect-kubernetes has."""
    assert job_template.TEMPLATE.read_text() == job_template.text()


def test_prefects_own_template_is_refused_and_ours_is_not(tmp_path: Path) -> None:
    """`completions` and `parallelism` are the job's, not the pod's."""
    default = KubernetesWorker.get_default_base_job_template()["job_configuration"]["job_manifest"]["spec"]
    job = run_job("eks")
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump({**job, "metadata": {**job["metadata"], "name": "run"}}))
    strictly_valid(tmp_path / "ours.yaml")
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (1, 1)
    theirs = {name: default["template"]["spec"][name] for name in ("completions", "parallelism")}
    job["spec"]["template"]["spec"] |= theirs
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(job))
    with pytest.raises(AssertionError, match="completions"):
        strictly_valid(tmp_path / "theirs.yaml")


def test_a_runs_job_is_what_the_worker_may_and_should_make() -> None:
    """In its namespace, with its account, secrets by reference, cleaned up after a day, as many processes as cores."""
    job = run_job("eks")
    pod, spec = job["spec"]["template"]["spec"], job["spec"]
    assert (job["metadata"]["namespace"], pod["serviceAccountName"]) == (NAMESPACE, "wafer-flow")
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"], pod["restartPolicy"]) == (0, 86400, "Never")
    assert spec["template"]["metadata"]["labels"][COMPONENT] == "run"
    (container,) = pod["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "wafer-runs"}}, {"secretRef": {"name": "wafer"}}]
    env = {one["name"]: one.get("value") or one.get("valueFrom") for one in container["env"]}
    cores = {"resourceFieldRef": {"containerName": "prefect-job", "resource": "limits.cpu"}}
    assert (env["WAFER_JOBS"], env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) == (cores, "30")
    assert not any(re.search("KEY|SECRET|PASSWORD|MONGODB_URL", name) for name in env)
    assert container["args"] == ["prefect", "flow-run", "execute"]


@both
def test_a_runs_variables_are_those_of_the_service(overlay: str) -> None:
    """One file makes both maps; that of the runs has a name that does not change with its content."""
    assert named(overlay, "ConfigMap", "wafer-runs")["data"] == named(overlay, "ConfigMap", "wafer")["data"]
    (container,) = named(overlay, "Deployment", "service")["spec"]["template"]["spec"]["containers"]
    assert (
        container["envFrom"][0]["configMapRef"]["name"]
        == named(overlay, "ConfigMap", "wafer")["metadata"]["name"]
        != "wafer"
    )


@both
def test_the_settings_are_read_as_they_are_meant(overlay: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library takes the variables of an overlay, without a project."""
    monkeypatch.chdir(tmp_path)
    for name in ("WAFER_PROJECT", *(str(one.alias) for one in Settings.model_fields.values())):
        monkeypatch.delenv(name, raising=False)
    for name, value in named(overlay, "ConfigMap", "wafer")["data"].items():
        monkeypatch.setenv(name, value)
    settings = Settings.read()
    assert settings.project is None
    assert settings.storage_url.startswith("s3://")
    assert (settings.state, settings.log_format) == (Path("/tmp/state"), "json")
    assert settings.tracking_uri == "http://mlflow:5000"


OUTSIDE = {
    "dns": Peer("kube-system", {"k8s-app": "kube-dns"}),
    "prometheus": Peer("monitoring"),
    "stranger": Peer("default", {COMPONENT: "service"}),
    "network": Peer(address="10.20.3.4"),
    "internet": Peer(address="203.0.113.5"),
}
PORTS = (53, 443, 4200, 5000, 5432, 6443, 8080, 8321, 8333, 27017)
API = {f"{name}:{port}" for name in OUTSIDE for port in (443, 6443)}
AWS = {"network:443", "internet:443"}
ATLAS = {"network:27017", "internet:27017"}
SERVERS = {"dns:53", "mlflow:5000", "prefect-server:4200"}
REACHED: dict[str, dict[str, set[str]]] = {
    "kind": {
        "service": SERVERS | {"mongodb:27017", "s3:8333"},
        "run": SERVERS | {"mongodb:27017", "s3:8333"},
        "worker": {"dns:53", "prefect-server:4200"} | API,
        "register": {"dns:53", "prefect-server:4200", "s3:8333"},
        "mlflow": {"dns:53", "s3:8333"},
        "prefect-server": {"dns:53"},
        "mongodb": {"dns:53"},
        "s3": {"dns:53"},
        "dns": set(),
        "prometheus": {"service:8321"},
        "stranger": set(),
        "network": set(),
        "internet": set(),
    },
    "eks": {
        "service": SERVERS | AWS | ATLAS,
        "run": SERVERS | AWS | ATLAS,
        "worker": {"dns:53", "prefect-server:4200"} | API,
        "register": {"dns:53", "prefect-server:4200"},
        "mlflow": {"dns:53", "network:5432"} | AWS,
        "prefect-server": {"dns:53", "network:5432"},
        "dns": set(),
        "prometheus": {"service:8321"},
        "stranger": set(),
        "network": {"service:8321"},
        "internet": set(),
    },
}
"""All that is let through, by who begins; what is not here is not."""


@both
def test_the_network_lets_through_what_is_needed_and_nothing_else(overlay: str) -> None:
    """Every pair and port, from each pod and from outside, by the policies as rendered."""
    policies = objects(overlay, "NetworkPolicy")
    own = {pod.labels[COMPONENT]: Peer(NAMESPACE, pod.labels) for pod in pods(overlay)}
    everybody = own | OUTSIDE
    found = {
        source: {
            f"{target}:{port}"
            for target, there in everybody.items()
            for port in PORTS
            if source != target and (source in own or target in own) and reaches(policies, here, there, port)
        }
        for source, here in everybody.items()
    }
    assert found == REACHED[overlay]


@both
def test_probes_ask_what_the_programs_answer_without_a_token(overlay: str) -> None:
    """Each path is a route of its server, open to anybody."""
    from mlflow.server.security_utils import HEALTH_ENDPOINTS
    from prefect.server.api.server import create_api_app

    from wafer.service import app, guard

    asked = {
        pod.owner: {
            probe["httpGet"]["path"]
            for kind, probe in pod.containers[-1].items()
            if kind.endswith("Probe") and "httpGet" in probe
        }
        for pod in pods(overlay)
    }
    routes = {getattr(route, "path", "") for route in app.router.routes}
    assert asked["service"] == {"/healthz", "/readyz"} <= routes & guard.PUBLIC
    assert asked["mlflow"] == {"/health"} <= set(HEALTH_ENDPOINTS)
    health = inspect.signature(create_api_app).parameters["health_check_path"].default
    assert asked["prefect-server"] == {f"/api{health}", "/api/ready"}
    assert asked["worker"] == {"/health"}  # of prefect.workers.server


@pytest.mark.slow
@pytest.mark.invariant
def test_terraform_gives_its_roles_to_the_service_accounts_of_here() -> None:
    """Each account with a role in the overlay `eks` is one that may take it, and no other may."""
    told = (DEPLOY / "terraform" / "variables.tf").read_text()
    (given,) = re.findall(r"default\s*= \{ storage = (\[.*?\]), artifacts = (\[.*?\]) \}", told)
    roles = {
        "wafer-production-pods": set(json.loads(given[0])),
        "wafer-production-mlflow-pods": set(json.loads(given[1])),
    }
    asked: dict[str, set[str]] = {}
    for account in objects("eks", "ServiceAccount"):
        role = account["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn")
        if role is not None:
            name = f"{account['metadata']['namespace']}:{account['metadata']['name']}"
            asked.setdefault(role.rpartition("/")[2], set()).add(name)
    assert asked == roles
