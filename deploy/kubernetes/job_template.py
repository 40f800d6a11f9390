"""Write the job template of the work pool: prefect_kubernetes' own, corrected and locked down.

python deploy/kubernetes/job_template.py
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent / "base" / "job-template.json"
DEFAULTS = {
    "namespace": "wafer",
    "service_account_name": "wafer-flow",
    "finished_job_ttl": 86400,
    "pod_watch_timeout_seconds": 300,  # a node may have to come first
    "cpu_request": "1",
    "cpu_limit": "4",
    "memory_request": "2Gi",
    "memory_limit": "8Gi",
}


def corrected(default: dict[str, Any]) -> dict[str, Any]:
    """The template of a run's job, from that of prefect_kubernetes."""
    template = deepcopy(default)
    for name, value in DEFAULTS.items():
        template["variables"]["properties"][name]["default"] = value
    job = template["job_configuration"]["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    for name in ("completions", "parallelism"):
        if name in pod:  # where a strict cluster refuses them
            job[name] = pod.pop(name)
    job["template"]["metadata"] = {"labels": {"app.kubernetes.io/component": "run"}}
    profile = {"seccompProfile": {"type": "RuntimeDefault"}}
    user = {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    pod |= {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,  # a run that is told to end has 30 seconds
        "securityContext": {"runAsNonRoot": True, **user, **profile},
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}}],
    }
    container = pod["containers"][0]
    container |= {
        # in place of "{{ env }}", which Prefect's worker then puts before these
        "env": [
            {
                "name": "WAFER_JOBS",
                "valueFrom": {"resourceFieldRef": {"containerName": container["name"], "resource": "limits.cpu"}},
            }
        ],
        "envFrom": [{"configMapRef": {"name": "wafer-runs"}}, {"secretRef": {"name": "wafer"}}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            **profile,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "workingDir": "/tmp",
    }
    return template


def text() -> str:
    """The file's content for the prefect_kubernetes that is installed."""
    from prefect_kubernetes.worker import KubernetesWorker

    return json.dumps(corrected(KubernetesWorker.get_default_base_job_template()), indent=2) + "\n"


if __name__ == "__main__":
    TEMPLATE.write_text(text(), encoding="utf-8")
