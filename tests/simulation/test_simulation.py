"""Invariants hold in every order of steps and faults that was tried, and a seed always tries the same one."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.simulation.mutations import MUTATIONS

SEEDS = 500  # of 10,000 and more by hand: make simulate-faults
SEEDS_FOR_A_MUTATION = 200


def simulate(*arguments: str, fails: bool = False) -> str:
    """What `make simulate-faults` says."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == int(fails), done.stderr
    return done.stderr if fails else done.stdout


@pytest.mark.slow
@pytest.mark.invariant
def test_seeds() -> None:
    """Whatever the seed, nothing is lost or doubled, and everything goes through once the faults are over."""
    told = simulate("--seeds", str(SEEDS))
    for fault in (
        "kill before",
        "kill after",
        "kill half way",
        "half way",
        "lost answer",
        "delivered twice",
        "stall",
        "outage",
    ):
        assert f"× {fault}" in told


@pytest.mark.slow
def test_a_seed_is_always_the_same() -> None:
    """Two processes see each call of a seed in the same order, at the same time and with the same faults."""
    first, second = (re.sub(r"\d+ s$", "", simulate("--seed", "3"), flags=re.MULTILINE) for _ in range(2))
    assert len(first) > 10_000
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MUTATIONS if name != "number not verified"])
def test_a_missing_safeguard_is_found(name: str) -> None:
    """Without any one of the product's safeguards one of the seeds fails, and is told in one line."""
    told = simulate("--mutate", name, "--seeds", str(SEEDS_FOR_A_MUTATION), fails=True)
    assert re.fullmatch(r"make simulate-faults SEED=\d+  # .+\n", told)
