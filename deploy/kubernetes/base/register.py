"""Tell Prefect's server of this release: work pool, deployments, automations; runs in the image, as often as one likes.

python register.py job-template.json

Reads IMAGE and NAMESPACE, of the runs' jobs, PREFECT_API_URL, and WAFER_PROJECT where the image holds a project.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def filled(template: dict[str, Any], image: str, namespace: str) -> dict[str, Any]:
    """The job template with the image and the namespace of this release."""
    properties = template["variables"]["properties"]
    named = {"image": image, "namespace": namespace}
    changed = {name: {**properties[name], "default": value} for name, value in named.items()}
    return {**template, "variables": {**template["variables"], "properties": {**properties, **changed}}}


def register(template: Path, image: str, namespace: str) -> None:
    """Make or bring up to date all that the server knows of this release."""
    from wafer.settings import Settings, prepare_environment

    prepare_environment()
    project = Settings.read().project
    folder = project or Path("/tmp")  # which every pod has; there a run finds no project, and takes the library's own
    with tempfile.TemporaryDirectory() as made:
        job = Path(made) / "job.json"
        job.write_text(json.dumps(filled(json.loads(template.read_text()), image, namespace)))
        pool = ["work-pool", "create", "wafer", "--type", "kubernetes", "--base-job-template", str(job), "--overwrite"]
        _do(folder, "prefect", *pool)
    _do(folder, "prefect", "deploy", "--all", "--prefect-file", str(Settings.read().default("prefect.yaml")))
    _do(folder, "wafer", "automate")


def _do(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PWD": str(folder)}, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} ended with status {done.returncode}")


if __name__ == "__main__":
    register(Path(sys.argv[1]), os.environ["IMAGE"], os.environ["NAMESPACE"])
