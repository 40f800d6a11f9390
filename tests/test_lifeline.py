"""What a process starts ends with it, and what it shares with others does not."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

OWNER = """
import subprocess, sys, time
from wafer.lifeline import tie_children, unmarked
tie_children()
tie_children()
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
NESTED = "import subprocess, sys; subprocess.run(" + repr(SLEEPER) + ")"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", NESTED], start_new_session=True)
stubborn = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
stubborn.stdout.readline()
shared = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL, env=unmarked(), start_new_session=True)
print(shared.pid, flush=True)
time.sleep(600)
"""
ORDERLY = """
import time
from wafer.lifeline import end_in_order
end_in_order()
try:
    print("ready", flush=True)
    time.sleep(600)
finally:
    print("left", flush=True)
"""


@pytest.mark.slow
@pytest.mark.invariant
def test_what_it_started_ends_with_a_process() -> None:
    """Children, their children, and who ignores SIGTERM end with it; what was started unmarked lives on."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    shared = psutil.Process(int(owner.stdout.readline()))
    started = psutil.Process(owner.pid).children(recursive=True)
    assert sum(str(Path("wafer", "lifeline.py")) in " ".join(process.cmdline()) for process in started) == 1
    started.remove(shared)
    owner.kill()
    owner.communicate()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []
    assert shared.is_running()
    shared.kill()


def test_sigterm_ends_a_process_in_order() -> None:
    """Its blocks are left, and its exit status tells the signal."""
    process = subprocess.Popen([sys.executable, "-c", ORDERLY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert (rest, process.returncode) == ("left\n", 128 + signal.SIGTERM)


def test_a_process_ends_in_order_when_its_parent_is_killed() -> None:
    """Also by `kill -9`: its blocks are left."""
    child = ORDERLY.replace("end_in_order()\n", "end_in_order()\nend_with_parent()\n", 1)
    child = child.replace("import end_in_order", "import end_in_order, end_with_parent")
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    rest, _ = process.communicate(timeout=60)
    assert rest == "left\n"
