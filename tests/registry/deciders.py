"""One of several processes that decide at the same time: waits for the word, then promotes its version again and again.

python -m tests.registry.deciders ADDRESS ARTIFACTS VERSION TIMES GO
"""

import sys
import time
from pathlib import Path

from tests.registry.rules import RULES
from wafer.errors import RegistryError
from wafer.registry import Registry


def main(address: str, artifacts: str, version: str, times: str, go: str) -> None:
    """Decide once by the gate, then promote by hand; print how many decisions were carried out."""
    registry = Registry(address, artifacts or None)
    registry.version(version)
    Path(f"{go}.{version}").touch()
    while not Path(go).exists():
        time.sleep(0.005)
    before = {line.time for line in registry.ledger() if line.challenger == int(version)}
    carried_out = int(registry.decide(version, RULES).time not in before)
    for number in range(int(times)):
        try:
            registry.promote(version, f"round {number}")
            carried_out += 1
        except RegistryError as error:
            if "is the champion already" not in str(error):
                raise
    print(carried_out)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main(*sys.argv[1:])
