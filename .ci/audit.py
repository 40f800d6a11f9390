"""Look up the known vulnerabilities of all that the locks hold: exit status 0 where there are none, 1 where there are.

The advisories are PyPI's, asked over the internet; none are kept here. pip-audit takes packages that it cannot look up
for clean, so a version that is known to be vulnerable is asked for first, and all others must have been looked up:
else exit status 2.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NoReturn

LOCK = Path("requirements-dev.lock")  # which holds all of requirements.lock
VULNERABLE = "flask==0.5"
COMMAND = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off", "-f", "json"]


def known(requirements: Path) -> dict[str, list[str]]:
    """The ids of the advisories about each package.

    Raises:
        SystemExit: with status 2, some package could not be looked up.
    """
    done = subprocess.run([*COMMAND, "-r", requirements], capture_output=True, text=True, check=False)
    if not done.stdout:
        stop((done.stderr.strip() or f"pip-audit ended with status {done.returncode}").splitlines()[-1])
    found = json.loads(done.stdout)["dependencies"]
    skipped = [one["skip_reason"] for one in found if "skip_reason" in one]
    if skipped:
        stop(f"{len(skipped)} of {len(found)} packages could not be looked up, first: {skipped[0]}")
    return {f"{one['name']} {one['version']}": [vuln["id"] for vuln in one["vulns"]] for one in found}


def stop(why: str) -> NoReturn:
    """End, since it is not known whether there are vulnerabilities."""
    print(
        f"audit: PyPI's advisories cannot be had here, so nothing is known of vulnerabilities; they need an internet "
        f"connection to pypi.org itself, a mirror does not have them ({why})",
        file=sys.stderr,
    )
    sys.exit(2)


def main() -> int:
    """Tell what is known."""
    with NamedTemporaryFile("w", suffix=".txt") as first:
        first.write(VULNERABLE)
        first.flush()
        if not any(known(Path(first.name)).values()):
            stop(f"nothing is told of {VULNERABLE}, which is known to be vulnerable")
    found = known(LOCK)
    vulnerable = {package: ids for package, ids in found.items() if ids}
    for package, ids in vulnerable.items():
        print(f"{package}: {', '.join(ids)}")
    print(f"audit: of {len(found)} packages in {LOCK}, {len(vulnerable)} have known vulnerabilities")
    return int(bool(vulnerable))


if __name__ == "__main__":
    sys.exit(main())
