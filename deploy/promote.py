"""Move an environment to an image, by a commit to its overlay, which Argo CD follows.

python deploy/promote.py eks registry.example.com/wafer:4f1c… --source "$(git rev-parse HEAD)" --push
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

OVERLAYS = "deploy/kubernetes/overlays"
NAME = "wafer"
"""What manifests call the image; the overlay says what that is."""
IMAGE = re.compile(
    r"(?P<name>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::\d+)?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))"
)
SOURCE = re.compile(r"[0-9a-f]{7,40}")
DELIVERED = "main"
TRIES = 5


class PromoteError(Exception):
    """Nothing was moved; the message is one sentence that says why."""


@dataclass(frozen=True)
class Image:
    """An image of a registry, named by its tag or by its digest."""

    name: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> "Image":
        """The image that a text such as `registry/wafer:tag` or `registry/wafer@sha256:…` names.

        Raises:
            PromoteError: it names none, or neither tag nor digest.
        """
        found = IMAGE.fullmatch(text)
        if found is None:
            raise PromoteError(f"{text!r} is no image: expected NAME:TAG or NAME@sha256:DIGEST")
        return cls(**found.groupdict())

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def moved(text: str, image: Image) -> str:
    """A kustomization's text with another image; everything else stays as it is, comments too.

    Raises:
        PromoteError: it has no entry for the image, or one of another form.
    """
    entries = (yaml.safe_load(text) or {}).get("images") or []
    if [one.get("name") for one in entries].count(NAME) != 1:
        raise PromoteError(f"its images have not one entry named {NAME}")
    lines = text.splitlines(keepends=True)
    first, last, indent = _place(text)
    kept = [line for line in lines[first:last] if not re.match(r"\s*(newName|newTag|digest):", line)]
    which = f"digest: {image.digest}" if image.digest else f'newTag: "{image.tag}"'
    lines[first:last] = [*kept, f"{indent}newName: {image.name}\n", f"{indent}{which}\n"]
    return "".join(lines)


def _place(text: str) -> tuple[int, int, str]:
    """First line, line behind the last, and indent of the image's entry."""
    tree: Any = yaml.compose(text)
    images = next(value for key, value in tree.value if key.value == "images")
    for entry in images.value:
        names = {key.value: (key, value) for key, value in entry.value}
        if names["name"][1].value == NAME:
            if entry.flow_style or images.flow_style:
                raise PromoteError(f"the entry of {NAME} among its images is in braces: write a line for each key")
            lines = {key.start_mark.line for key, _ in names.values()}
            start = names["name"][0].start_mark
            if start.line != min(lines):
                raise PromoteError(f"the entry of {NAME} among its images begins with another key than its name")
            return start.line, max(lines) + 1, " " * start.column
    raise PromoteError(f"its images have no entry named {NAME}")


def promote(repository: Path, overlay: str, image: Image, source: str, push: bool) -> str:
    """Commit an image to an overlay, push it where that is wanted, and tell what was done.

    Where somebody else has pushed meanwhile, the commit is put on top of theirs and pushed again.

    Raises:
        PromoteError: no overlay has that name, the tree has changes, or git refuses.
    """
    file = repository / OVERLAYS / overlay / "kustomization.yaml"
    if not re.fullmatch(r"[\w-]+", overlay) or not file.is_file():
        there = sorted(one.parent.name for one in (repository / OVERLAYS).glob("*/kustomization.yaml"))
        raise PromoteError(f"no overlay is called {overlay!r}: there are {', '.join(there) or 'none'}")
    if _git(repository, "status", "--porcelain", "--untracked-files=no"):
        raise PromoteError(f"{repository} has changes that are not committed: commit or drop them")
    before = file.read_text(encoding="utf-8")
    try:
        after = moved(before, image)
    except (PromoteError, yaml.YAMLError) as error:
        raise PromoteError(f"{file.relative_to(repository)} cannot be edited: {error}") from error
    if after == before:
        told = f"{overlay} is at {image} already: nothing to commit"
        return f"{told}; {_push(repository)}" if push and _ahead(repository) else told
    file.write_text(after, encoding="utf-8")
    message = f"{overlay} moves to {image}\n\nImage: {image}\nSource: {source}\n"
    try:
        _git(repository, "commit", "--quiet", "--message", message, "--", str(file))
    except PromoteError:
        file.write_text(before, encoding="utf-8")
        raise
    told = f"{overlay} moves to {image} by {_git(repository, 'rev-parse', '--short', 'HEAD')}"
    return f"{told}; {_push(repository)}" if push else told


def _ahead(repository: Path) -> bool:
    return _git(repository, "rev-list", "--count", f"origin/{_branch(repository)}..HEAD") != "0"


def _branch(repository: Path) -> str:
    """The branch that is checked out; of a commit alone, as pipelines check out, the one that is delivered."""
    return _ran(repository, "symbolic-ref", "--quiet", "--short", "HEAD").stdout.strip() or DELIVERED


def _push(repository: Path) -> str:
    branch = _branch(repository)
    for _ in range(TRIES):
        done = _ran(repository, "push", "--porcelain", "origin", f"HEAD:refs/heads/{branch}")
        if done.returncode == 0:
            return f"pushed to {branch}"
        if not re.search(
            r"\((non-fast-forward|fetch first)\)|failed to update ref|cannot lock ref", done.stdout + done.stderr
        ):
            raise PromoteError(f"the commit is made, but cannot be pushed: {_last(done)}")
        _git(repository, "fetch", "--quiet", "origin", branch)
        rebased = _ran(repository, "rebase", "--quiet", "FETCH_HEAD")
        if rebased.returncode:
            _ran(repository, "rebase", "--abort")
            raise PromoteError(
                f"somebody else has moved the same overlay on {branch}: fetch it, and decide which image it is"
            )
    raise PromoteError(
        f"the commit is made, but {branch} was changed by others {TRIES} times before it could be pushed"
    )


def _git(repository: Path, *arguments: str) -> str:
    done = _ran(repository, *arguments)
    if done.returncode:
        raise PromoteError(f"git {arguments[0]} failed: {_last(done)}")
    return done.stdout.strip()


def _ran(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return next(iter((done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]), f"status {done.returncode}")


def main(arguments: list[str] | None = None) -> int:
    """The command; 0: done, or nothing to do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overlay", help=f"a folder of {OVERLAYS}")
    parser.add_argument("image", help="NAME:TAG or NAME@sha256:DIGEST")
    parser.add_argument("--source", help="commit that the image was built from; default: that of this tree")
    parser.add_argument("--push", action="store_true", help="push to origin, again where somebody else came first")
    parser.add_argument("--repository", type=Path, default=Path(__file__).parents[1], help="a working tree")
    given = parser.parse_args(arguments)
    try:
        source = given.source or _git(given.repository, "rev-parse", "HEAD")
        if not SOURCE.fullmatch(source):
            raise PromoteError(f"{source!r} is no commit: expected 7 to 40 hexadecimal digits")
        told = promote(given.repository, given.overlay, Image.parse(given.image), source, given.push)
    except PromoteError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
