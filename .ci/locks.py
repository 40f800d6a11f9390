"""Check the lock files, or with --write resolve them anew.

A lock is current when its first line names the digest of what pyproject.toml asks for. It must name versions and hashes
only: an address of a registry would be another machine's.
"""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

TOOLS = Path("deploy/requirements.in")
IMAGE = ["--extra=pipeline", "--extra=s3", "--extra=service", "--extra=kubernetes", "--extra=postgres"]
"""What the image holds: nothing under the GPL, as the embedded database is."""
LOCKS = {
    Path("requirements.lock"): ["pyproject.toml", "--all-extras"],
    Path("requirements-dev.lock"): ["pyproject.toml", "--all-extras", "--group", "dev", "-c", "requirements.lock"],
    Path("deploy/image.lock"): ["pyproject.toml", *IMAGE, "-c", "requirements.lock"],
    Path("deploy/requirements.lock"): [str(TOOLS)],
}
OPTIONS = ["--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate", "--python-version", "3.11"]


def first_line(lock: Path) -> str:
    """The line that a current lock starts with."""
    if lock == TOOLS.with_suffix(".lock"):
        return f"# of {TOOLS}, sha256 {hashlib.sha256(TOOLS.read_bytes()).hexdigest()}; write anew: make lock"
    content = tomllib.loads(Path("pyproject.toml").read_text())
    project = content["project"]
    asked = [project["requires-python"], project["dependencies"], project["optional-dependencies"]]
    digest = hashlib.sha256(json.dumps([*asked, content["dependency-groups"]]).encode()).hexdigest()
    return f"# of pyproject.toml's dependencies, sha256 {digest}; write anew: make lock"


def write() -> None:
    """Resolve all locks, the development one on top of the first."""
    for lock, asked in LOCKS.items():
        subprocess.run(["uv", "pip", "compile", *OPTIONS, *asked, "-o", str(lock)], check=True)
        lock.write_text(f"{first_line(lock)}\n{lock.read_text()}")


def problems() -> list[str]:
    """What is wrong with the locks, a sentence each."""
    found = []
    for lock in LOCKS:
        text = lock.read_text()
        if text.splitlines()[0] != first_line(lock):
            found.append(f"{lock} is not of what is asked for now: run `make lock`")
        if "://" in text:
            found.append(f"{lock} holds an address")
        if text.count("==") > text.count("--hash=sha256:"):
            found.append(f"{lock} holds a version without a hash")
    return found


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write()
    sys.exit("\n".join(problems()) or 0)
