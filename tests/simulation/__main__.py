"""Runs seeds: python -m tests.simulation --seeds 500, or --seed 7 to see what happens in one."""

import argparse
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any


def main() -> int:
    """Exit status 1 where an invariant was broken; then one line says how to see it again."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many")
    parser.add_argument("--first", type=int, default=1, help="number of the first")
    parser.add_argument("--seed", type=int, help="this one alone, with every call that is made")
    parser.add_argument("--mutate", help="take away a safeguard of the product first, by its name in mutations.py")
    given = parser.parse_args()
    from tests.simulation.mutations import mutated
    from tests.simulation.scenario import play

    logging.disable(logging.CRITICAL)
    with mutated(given.mutate) if given.mutate else nullcontext():
        return run(given, play)


def run(given: argparse.Namespace, play: Callable[..., Any]) -> int:
    """Play the seeds; exit status."""
    start, seen, calls = time.process_time(), Counter[str](), 0
    for seed in range(given.first, given.first + given.seeds) if given.seed is None else [given.seed]:
        try:
            world = play(seed, print if given.seed is not None else None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed shows it again
            if given.seed is not None:
                traceback.print_exc()
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            sys.stderr.write(f"make simulate-faults SEED={seed}  # {told}\n")
            return 1
        seen.update(world.seen)
        calls += world.calls
    told = ", ".join(f"{count:,} × {fault}" for fault, count in seen.most_common())
    sys.stdout.write(f"{calls:,} calls, {told or 'no fault'}; {time.process_time() - start:.0f} s\n")
    return 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of texts have the same order in each process
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
