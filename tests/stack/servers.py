"""Single servers of a stack, for tests that need no more."""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from wafer.stack.keeper import Running, wait_for_buckets
from wafer.stack.parts import OF_S3, SERVERS, Part, Place


def free_base() -> int:
    """The first of as many free ports as a stack needs."""
    while True:
        base = random.SystemRandom().randrange(20_000, 32_000)
        probes = [socket.socket() for _ in (*SERVERS, *OF_S3)]
        try:
            for number, probe in enumerate(probes):
                probe.bind(("127.0.0.1", base + number))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return base


@contextmanager
def running(part: Part, place: Place) -> Iterator[Running]:
    """A healthy server while the block runs."""
    server = Running(part)
    try:
        server.wait()
        if part.name == "S3 server":
            wait_for_buckets(place, server)
        yield server
    finally:
        server.stop()
