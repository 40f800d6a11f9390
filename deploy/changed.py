"""What a change asks to be made: its parts, by paths.toml, and the image's tag, by the content of what goes into it.

python deploy/changed.py parts 4f1c0de        # since that commit, a line each
python deploy/changed.py tag                  # of HEAD
skopeo list-tags docker://registry.example.com/wafer | python deploy/changed.py tag --known -   # … exists, or … build

A tag is the digest of the names, modes and bytes of all files that the part `image` lists, as git keeps them. So the
same content has the same tag in whichever commit, and an image that is in the registry is neither built nor pushed
again; its label names the commit that it was built from. Nothing but Python and git is needed, so that a pipeline can
ask before it installs anything.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PATHS = Path(__file__).with_name("paths.toml")
IMAGE, NOTHING = "image", "nothing"
NO_COMMIT = "0" * 40
"""What a host calls the commit before the first one of a branch."""
DIGITS = 16
"""Of a tag."""


class ChangeError(Exception):
    """What was asked for cannot be told; the message is one sentence that says why."""


def read_paths(file: Path = PATHS) -> dict[str, list[str]]:
    """The path map: the files and folders of each part.

    Raises:
        ChangeError: it is no map from parts to lists of paths, or has no image.
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ChangeError(f"{file} cannot be read: {error}") from error
    if not all(isinstance(some, list) and all(isinstance(one, str) for one in some) for some in found.values()):
        raise ChangeError(f"{file} is no map from parts to lists of paths")
    if not found.get(IMAGE):
        raise ChangeError(f"{file} does not say what goes into the image")
    return found


def concerns(path: str, listed: Iterable[str]) -> bool:
    """Whether a file is one of those listed, or lies in a folder that is."""
    return any(path.startswith(one) if one.endswith("/") else path == one for one in listed)


def parts_of(files: Iterable[str], paths: Mapping[str, Sequence[str]]) -> list[str]:
    """The parts that these files concern, in the order of the path map; one that stands nowhere concerns all."""
    built = [part for part in paths if part != NOTHING]
    found: set[str] = set()
    for file in files:
        concerned = [part for part, listed in paths.items() if concerns(file, listed)]
        found.update(concerned or built)
    return [part for part in built if part in found]


def changed_files(repository: Path, since: str, until: str = "HEAD") -> list[str]:
    """The files that differ between two commits, of a renamed one both names.

    Where the first commit is not known (a new branch, a history that was rewritten or cut short), all files of the
    second.

    Raises:
        ChangeError: the second commit is not known.
    """
    last = _commit(repository, until)
    if last is None:
        raise ChangeError(f"{repository} has no commit {until!r}")
    first = None if since == NO_COMMIT else _commit(repository, since)
    if first is None:
        return _names(_git(repository, "ls-tree", "-r", "-z", "--name-only", last))
    return _names(_git(repository, "diff", "-z", "--name-only", "--no-renames", first, last))


def image_tag(repository: Path, paths: Mapping[str, Sequence[str]], commit: str = "HEAD") -> str:
    """The tag of the image with the content of a commit.

    Raises:
        ChangeError: there is no such commit, it has none of the files, or HEAD was asked for and files are changed.
    """
    if _commit(repository, commit) is None:
        raise ChangeError(f"{repository} has no commit {commit!r}")
    if commit == "HEAD":
        changed = _names(_git(repository, "diff", "-z", "--name-only", "HEAD"))
        changed += _names(_git(repository, "ls-files", "-z", "--others", "--exclude-standard"))
        if mine := sorted(one for one in changed if concerns(one, paths[IMAGE])):
            raise ChangeError(f"{mine[0]} is not as in HEAD, so no tag says what would be built: commit first")
    lines = _names(_git(repository, "ls-tree", "-r", "-z", "--full-tree", commit))
    of_image = sorted(line for line in lines if concerns(line.partition("\t")[2], paths[IMAGE]))
    if not of_image:
        raise ChangeError(f"{commit} has none of the files that go into the image")
    return f"content-{hashlib.sha256(chr(0).join(of_image).encode()).hexdigest()[:DIGITS]}"


def known_tags(text: str) -> set[str]:
    """The tags that a registry lists: what `skopeo list-tags` prints, or words."""
    try:
        listed = json.loads(text)
    except ValueError:
        return set(text.split())
    return set(listed["Tags"] if isinstance(listed, dict) else listed)


def _commit(repository: Path, name: str) -> str | None:
    done = _ran(repository, "rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
    return done.stdout.strip() if done.returncode == 0 else None


def _names(text: str) -> list[str]:
    return [name for name in text.split("\0") if name]


def _git(repository: Path, *arguments: str) -> str:
    done = _ran(repository, *arguments)
    if done.returncode:
        raise ChangeError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _ran(repository: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    commands = parser.add_subparsers(dest="command", required=True)
    parts = commands.add_parser("parts", help="the parts that a change concerns")
    parts.add_argument("since", help="the last commit that was delivered; one that is not known: all parts")
    parts.add_argument("until", nargs="?", default="HEAD")
    parts.add_argument("--json", action="store_true", help="as a list of JSON, for a workflow")
    tag = commands.add_parser("tag", help="the image's tag")
    tag.add_argument("commit", nargs="?", default="HEAD")
    tag.add_argument("--known", type=argparse.FileType(), help="tags that the registry has; -: from standard input")
    given = parser.parse_args(arguments)
    try:
        paths = read_paths()
        if given.command == "parts":
            found = parts_of(changed_files(given.repository, given.since, given.until), paths)
            told = json.dumps(found) if given.json else "\n".join(found)
        else:
            told = image_tag(given.repository, paths, given.commit)
            if given.known is not None:
                told += " exists" if told in known_tags(given.known.read()) else " build"
    except ChangeError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if told:
        sys.stdout.write(f"{told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
