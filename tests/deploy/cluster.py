"""What an overlay renders to, its pods, and who may reach whom by its network policies."""

import asyncio
import ipaddress
import json
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import uuid4

import yaml

from deploy.kubernetes.base.register import filled
from tests.deploy.tools import DEPLOY, ran, tool

Object = dict[str, Any]
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("kind", "eks")
NAMESPACE = "wafer"
COMPONENT = "app.kubernetes.io/component"


@cache
def text(overlay: str) -> str:
    """What `kubectl kustomize` makes of an overlay."""
    return ran(tool("kubectl"), "kustomize", KUBERNETES / "overlays" / overlay)


def objects(overlay: str, *kinds: str) -> list[Object]:
    """The objects of an overlay, of these kinds or of all."""
    return [deepcopy(one) for one in _all(overlay) if not kinds or one["kind"] in kinds]


@cache
def _all(overlay: str) -> list[Object]:
    return list(yaml.load_all(text(overlay), yaml.CSafeLoader))


def named(overlay: str, kind: str, name: str) -> Object:
    """The one object of this name; kustomize's hash of a config map's content is passed over."""
    hashed = re.compile(rf"{name}(-[a-z0-9]{{10}})?" if kind == "ConfigMap" else name)
    found = [one for one in objects(overlay, kind) if hashed.fullmatch(one["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name}: {len(found)} found"
    return found[0]


@dataclass(frozen=True)
class Pod:
    """The pods that an object makes: its name, their labels and their specification."""

    owner: str
    labels: dict[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        """All of them, also those that come first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def run_job(overlay: str) -> Object:
    """The job of a flow run, as Prefect's worker makes it from the template, with what prefect.yaml asks for."""
    return deepcopy(_run_job(overlay))


@cache
def _run_job(overlay: str) -> Object:
    from prefect.client.schemas.objects import Flow, FlowRun
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    template = filled(json.loads((KUBERNETES / "base" / "job-template.json").read_text()), image(overlay), NAMESPACE)
    values = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}}
    made = KubernetesWorkerJobConfiguration.from_template_and_values(template, values, client=object())
    configuration: Any = asyncio.run(made)
    flow = Flow(name="ingest", id=uuid4(), labels={})
    configuration.prepare_for_flow_run(FlowRun(name="ingest-of-raw", id=uuid4(), flow_id=flow.id), flow=flow)
    manifest: Object = configuration.job_manifest
    return manifest


def image(overlay: str) -> str:
    """The image of the product."""
    found: str = named(overlay, "Deployment", "worker")["spec"]["template"]["spec"]["containers"][0]["image"]
    return found


def pods(overlay: str) -> Iterator[Pod]:
    """All pods of an overlay, those of flow runs among them."""
    for one in (*objects(overlay, "Deployment", "StatefulSet", "Job"), run_job(overlay)):
        made = one["spec"]["template"]
        name = one["metadata"].get("name", "run")
        yield Pod(name, made["metadata"]["labels"], made["spec"])


@dataclass(frozen=True)
class Peer:
    """Somebody who sends or is sent to: a pod by its namespace and labels, or an address outside."""

    namespace: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    address: str | None = None


def reaches(policies: list[Object], source: Peer, target: Peer, port: int) -> bool:
    """Whether a TCP connection comes about; who is in no policy's pods may do all."""
    return _lets(policies, "Egress", source, target, port) and _lets(policies, "Ingress", target, source, port)


def _lets(policies: list[Object], direction: str, pod: Peer, other: Peer, port: int) -> bool:
    concerned = [
        one["spec"]
        for one in policies
        if pod.namespace == NAMESPACE
        and direction in one["spec"]["policyTypes"]
        and _selects(one["spec"]["podSelector"], pod.labels)
    ]
    rules = [rule for one in concerned for rule in one.get(direction.lower(), [])]
    key = "to" if direction == "Egress" else "from"
    return not concerned or any(
        (key not in rule or any(_is(peer, other) for peer in rule[key]))
        and ("ports" not in rule or any(p["protocol"] == "TCP" and p["port"] == port for p in rule["ports"]))
        for rule in rules
    )


def _is(peer: Object, other: Peer) -> bool:
    if "ipBlock" in peer:
        return other.address is not None and ipaddress.ip_address(other.address) in ipaddress.ip_network(
            peer["ipBlock"]["cidr"]
        )
    if other.namespace is None:
        return False
    namespaces = peer.get("namespaceSelector")
    there = {"kubernetes.io/metadata.name": other.namespace}
    in_namespace = other.namespace == NAMESPACE if namespaces is None else _selects(namespaces, there)
    return in_namespace and _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted = selector.get("matchLabels", {})
    among = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in among)
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        labels.get(one["key"]) in one["values"] for one in among
    )
