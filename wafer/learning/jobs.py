"""Independent work side by side: threads, as the libraries release Python's lock, and seeds that allow any order."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed


def run(jobs: Sequence[Callable[[], Any]], n_jobs: int) -> list[Any]:
    """The results of independent jobs in their order."""
    if n_jobs == 1 or len(jobs) < 2:
        return [_done(job) for job in jobs]
    return list(Parallel(n_jobs=n_jobs, backend="threading")(delayed(_done)(job) for job in jobs))


def overflowing() -> np.errstate:
    """A context for sums over readings: an absurd one of 1e308 may become infinite, which is clipped, not warned of."""
    return np.errstate(over="ignore", invalid="ignore")


def _done(job: Callable[[], Any]) -> Any:
    with overflowing():  # each thread has a state of its own
        return job()


def derived_seed(seed: int, *names: object) -> int:
    """A seed that depends on `seed` and the names alone, so that work may be done in any order."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
