"""The command `wafer` as a person at a terminal has it, run within this process, which holds its libraries already."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from wafer.cli.main import cli


@dataclass(frozen=True)
class Done:
    """What a person sees of a command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def wafer(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Done:
    """Run a command, in the folder `cwd`, with these environment variables beside those of the process."""
    with contextlib.chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(cli, [os.fspath(word) for word in arguments], env=environment, prog_name="wafer")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)
