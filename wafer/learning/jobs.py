"""Independent work side by side: threads, as the libraries release Python's lock, and seeds that allow any order."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLOCK = 512  # rows that one thread works on at a time


def run(jobs: Sequence[Callable[[], Any]], n_jobs: int) -> list[Any]:
    """The results of independent jobs in their order."""
    if n_jobs == 1 or len(jobs) < 2:
        return [job() for job in jobs]
    return list(Parallel(n_jobs=n_jobs, backend="threading")(delayed(job)() for job in jobs))


def in_blocks(work: Callable[[Floats], Floats], F: Floats, n_jobs: int) -> Floats:
    """What `work` gives for the rows of `F`, which it treats each by itself, done block by block."""
    if len(F) <= BLOCK:
        return work(F)
    return np.concatenate(run([partial(work, F[row : row + BLOCK]) for row in range(0, len(F), BLOCK)], n_jobs))


def derived_seed(seed: int, *names: object) -> int:
    """A seed that depends on `seed` and the names alone, so that work may be done in any order."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
