"""A customer's own project: the folder that holds their agreement, parameters and notebooks, and in which `wafer` runs.

The files are those of this repository, in a wheel those that it brings (`wafer.settings.DEFAULTS`); only the guide and
the list of what git ignores are the project's own, and stages of DVC depend on the library's version instead of its
sources. Not here: how a project is found (`wafer.settings`), and what its files mean.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wafer.errors import ProjectError
from wafer.settings import DEFAULTS, is_project
from wafer.shown import shown_text
from wafer.storage import write_bytes

COPIED = ("expectations/*.json", "notebooks/*.ipynb", "params.yaml", "prefect.yaml", ".dvcignore", ".env.example")
WELCOME = frozenset({".git", ".venv"})
"""What may lie in a folder before it becomes a project."""
LIBRARY = "data/repro/library.txt"
LIBRARY_STAGE = f"""stages:
  library:
    desc: the version of wafer, by which the stages below notice another one
    cmd: mkdir -p data/repro && wafer --version > {LIBRARY}
    always_changed: true
    outs:
      - {LIBRARY}:
          cache: false

"""


def write_project(folder: Path) -> list[str]:
    """Make `folder` a project, or add what one lacks: nothing that is there is changed.

    Returns: the files written, relative to `folder`.

    Raises:
        ProjectError: something else lies in `folder`.
        OSError: it cannot be written; what was written until then is gone again.
    """
    files = dict(_files())
    _check_folder(folder, {Path(name).parts[0] for name in files})
    missing = {name: content for name, content in files.items() if not os.path.lexists(folder / name)}
    made: list[Path] = []
    try:
        for name, content in missing.items():
            above = [one for one in (folder / name).parents if not one.exists()]
            made += [*reversed(above), folder / name]
            write_bytes(folder / name, content)
    except BaseException:
        _remove(made)
        raise
    return list(missing)


def _check_folder(folder: Path, names: set[str]) -> None:
    """Refuse a folder in which something else lies; what an earlier call has left half done is no hindrance."""
    if re.match(r"\w+:/", str(folder)):
        raise ProjectError(f"a project lies in a folder of this machine, not at {shown_text(folder)}")
    if not folder.exists() or is_project(folder):
        return
    strange = sorted(one.name for one in folder.iterdir() if one.name not in names | WELCOME)
    if strange:
        more = f" and {len(strange) - 1:,} more" if len(strange) > 1 else ""
        raise ProjectError(
            f"{shown_text(folder)} is not empty and not a project (it holds {shown_text(strange[0], 80)}{more}): "
            "name a new folder"
        )


def _files() -> Iterator[tuple[str, bytes]]:
    """Each file of a project: its name and what a new project holds there."""
    for pattern in COPIED:
        for file in sorted(DEFAULTS.glob(pattern)):
            yield file.relative_to(DEFAULTS).as_posix(), file.read_bytes()
    yield "dvc.yaml", without_sources((DEFAULTS / "dvc.yaml").read_text()).encode()
    for own in ("README.md", "gitignore"):
        yield own.replace("gitignore", ".gitignore"), (Path(__file__).parent / own).read_bytes()


def without_sources(stages: str) -> str:
    """The text of a dvc.yaml whose stages depend on the library's version in place of its sources."""
    lines: list[str] = []
    for line in stages.replace("stages:\n", LIBRARY_STAGE, 1).splitlines(keepends=True):
        source = re.fullmatch(r"( +- )wafer(?:/\S+)?\n", line)
        line = f"{source[1]}{LIBRARY}\n" if source else line
        if not (source and lines[-1] == line):
            lines.append(line)
    return "".join(lines)


def _remove(made: list[Path]) -> None:
    for path in reversed(made):
        with suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
