"""An image moves to an environment by a commit to its overlay, on real repositories of git."""

import subprocess
from pathlib import Path

import pytest

from deploy import promote
from deploy.promote import Image, PromoteError, moved

TEXT = """\
# a comment that stays
resources: [../../base]
images:
  - name: other
    newTag: "1"
  - name: wafer # moved by a script
    newName: registry.example.com/wafer
    newTag: "0.1.0"
patches: []
"""
NEW = "registry.example.com/fab/wafer:4f1c0de"
DIGEST = "sha256:" + "ab" * 32
SOURCE = "0123456789abcdef0123456789abcdef01234567"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def author(monkeypatch: pytest.MonkeyPatch) -> None:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Fab")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "fab@example.com")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository with two overlays."""
    bare, first = tmp_path / "origin.git", tmp_path / "first"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", str(bare))
    git(tmp_path, "clone", "--quiet", str(bare), str(first))
    for overlay in ("eks", "staging"):
        folder = first / promote.OVERLAYS / overlay
        folder.mkdir(parents=True)
        (folder / "kustomization.yaml").write_text(TEXT)
    git(first, "add", ".")
    git(first, "commit", "--quiet", "--message", "first")
    git(first, "push", "--quiet", "origin", "HEAD:main")
    return bare


def clone(origin: Path, name: str) -> Path:
    folder = origin.parent / name
    git(origin.parent, "clone", "--quiet", str(origin), str(folder))
    return folder


def run(tree: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = promote.main([*arguments, "--repository", str(tree)])
    told = capsys.readouterr()
    return status, told.out.strip(), told.err.strip()


def overlay_text(tree: Path, overlay: str = "eks") -> str:
    return (tree / promote.OVERLAYS / overlay / "kustomization.yaml").read_text()


def test_only_the_lines_of_the_image_change() -> None:
    """Comments, order and other images stay; a tag is quoted, since `1e5` would be a number."""
    expected = TEXT.replace(
        "    newName: registry.example.com/wafer\n", "    newName: registry.example.com/fab/wafer\n"
    )
    assert moved(TEXT, Image.parse(NEW)) == expected.replace('newTag: "0.1.0"', 'newTag: "4f1c0de"')


def test_a_digest_takes_the_place_of_a_tag_and_the_other_way_round() -> None:
    """An entry never has both, which kustomize would join."""
    by_digest = moved(TEXT, Image.parse(f"registry.example.com/wafer@{DIGEST}"))
    assert by_digest == TEXT.replace('newTag: "0.1.0"', f"digest: {DIGEST}")
    assert moved(by_digest, Image.parse("registry.example.com/wafer:0.1.0")) == TEXT


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("resources: []\n", "not one entry named wafer"),
        ("", "not one entry named wafer"),
        ("images:\n  - name: wafer\n  - name: wafer\n", "not one entry named wafer"),
        ("images: [{name: wafer, newTag: a}]\n", "in braces"),
        ("images:\n  - newTag: a\n    name: wafer\n", "begins with another key"),
    ],
)
def test_a_kustomization_of_another_form_is_refused(text: str, why: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(PromoteError, match=why):
        moved(text, Image.parse(NEW))


@pytest.mark.parametrize(
    "text", ["wafer", "wafer:", "wafer@sha256:ab", "Wafer:1", "a b:1", "wafer:1\nnewTag: 2", "-x:1"]
)
def test_what_is_no_image_is_refused(text: str) -> None:
    """An image has a name and one of tag and digest, and nothing that would be another line."""
    with pytest.raises(PromoteError, match="expected NAME:TAG or NAME@sha256:DIGEST"):
        Image.parse(text)


def test_the_commit_says_image_and_source_and_is_pushed(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commit touches one file, and the server has it."""
    tree = clone(origin, "mine")
    status, told, _ = run(tree, capsys, "eks", NEW, "--source", SOURCE, "--push")
    assert (status, told.split(" by ")[0], told.split("; ")[1]) == (0, f"eks moves to {NEW}", "pushed to main")
    assert git(origin, "log", "-1", "--format=%B", "main") == f"eks moves to {NEW}\n\nImage: {NEW}\nSource: {SOURCE}"
    changed = git(origin, "show", "--format=", "--name-only", "main")
    assert changed == f"{promote.OVERLAYS}/eks/kustomization.yaml"


def test_without_push_the_server_stays_as_it_is(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A later call with --push brings the commit that was made before; the source is that of the tree by default."""
    tree = clone(origin, "mine")
    before = git(origin, "rev-parse", "main")
    assert run(tree, capsys, "eks", NEW)[0] == 0
    assert git(tree, "log", "-1", "--format=%B").splitlines()[-1] == f"Source: {before}"
    assert git(origin, "rev-parse", "main") == before
    status, told, _ = run(tree, capsys, "eks", NEW, "--push")
    assert (status, told) == (0, f"eks is at {NEW} already: nothing to commit; pushed to main")
    assert git(origin, "rev-parse", "main") == git(tree, "rev-parse", "HEAD")


def test_the_same_image_again_is_no_commit(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so and ends with status 0, so that a pipeline can be run again."""
    tree = clone(origin, "mine")
    assert run(tree, capsys, "eks", NEW, "--push")[0] == 0
    head = git(tree, "rev-parse", "HEAD")
    status, told, _ = run(tree, capsys, "eks", NEW, "--push")
    assert (status, told) == (0, f"eks is at {NEW} already: nothing to commit")
    assert git(tree, "rev-parse", "HEAD") == head


@pytest.mark.parametrize("overlay", ["production", "../eks", "", "base"])
def test_an_unknown_overlay_is_named_with_those_that_are_there(
    origin: Path, capsys: pytest.CaptureFixture[str], overlay: str
) -> None:
    """One sentence, and status 2."""
    status, _, told = run(clone(origin, "mine"), capsys, overlay, NEW)
    assert (status, told) == (2, f"no overlay is called {overlay!r}: there are eks, staging")


def test_a_tree_with_changes_is_refused(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody's work is never committed with it."""
    tree = clone(origin, "mine")
    file = tree / promote.OVERLAYS / "staging" / "kustomization.yaml"
    file.write_text("images: []\n")
    status, _, told = run(tree, capsys, "eks", NEW)
    assert (status, told) == (2, f"{tree} has changes that are not committed: commit or drop them")
    assert overlay_text(tree) == TEXT


@pytest.mark.parametrize("source", ["main", "0123456789abcdef; rm", "--all"])
def test_a_source_that_is_no_commit_is_refused(origin: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    """It would stand in the message for ever."""
    status, _, told = run(clone(origin, "mine"), capsys, "eks", NEW, f"--source={source}")
    assert (status, told) == (2, f"{source!r} is no commit: expected 7 to 40 hexadecimal digits")


def test_a_lost_race_is_made_up_for(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever pushes second puts the commit on top of the other's, and both overlays are moved."""
    mine, theirs = clone(origin, "mine"), clone(origin, "theirs")
    assert run(theirs, capsys, "staging", NEW, "--push")[0] == 0
    status, told, _ = run(mine, capsys, "eks", NEW, "--push")
    assert (status, told.split("; ")[1]) == (0, "pushed to main")
    fresh = clone(origin, "fresh")
    assert overlay_text(fresh, "eks") == overlay_text(fresh, "staging") == moved(TEXT, Image.parse(NEW))
    assert git(fresh, "rev-list", "--count", "HEAD") == "3"


def test_a_pipelines_commit_without_a_branch_goes_to_the_delivered_one(
    origin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On top of what others have pushed meanwhile; once more it is no commit."""
    mine, theirs = clone(origin, "mine"), clone(origin, "theirs")
    git(mine, "checkout", "--quiet", "--detach")
    (theirs / "another").touch()
    git(theirs, "add", ".")
    git(theirs, "commit", "--quiet", "--message", "another")
    git(theirs, "push", "--quiet", "origin", "HEAD:main")
    status, told, _ = run(mine, capsys, "eks", NEW, "--source", SOURCE, "--push")
    assert (status, told.endswith("pushed to main")) == (0, True)
    after = clone(origin, "after")
    assert overlay_text(after) == moved(TEXT, Image.parse(NEW))
    assert (after / "another").exists()
    assert run(mine, capsys, "eks", NEW, "--source", SOURCE, "--push")[1].endswith("nothing to commit")


def test_a_race_for_the_same_overlay_is_left_to_people(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is overwritten, and the tree is not left in the middle of a rebase."""
    mine, theirs = clone(origin, "mine"), clone(origin, "theirs")
    assert run(theirs, capsys, "eks", "registry.example.com/wafer:theirs", "--push")[0] == 0
    status, _, told = run(mine, capsys, "eks", NEW, "--push")
    expected = "somebody else has moved the same overlay on main: fetch it, and decide which image it is"
    assert (status, told) == (2, expected)
    assert git(mine, "status", "--porcelain") == ""
    assert not (mine / ".git" / "rebase-merge").exists()
    assert "theirs" in overlay_text(clone(origin, "fresh"))


def test_a_race_that_is_lost_each_time_ends(
    origin: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five tries it says so; others' pushes come between each fetch and push."""
    mine, theirs = clone(origin, "mine"), clone(origin, "theirs")
    ran = promote._ran

    def with_rivals(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "push":
            git(theirs, "commit", "--quiet", "--allow-empty", "--message", "theirs")
            git(theirs, "push", "--quiet", "origin", "HEAD:main")
        return ran(repository, *arguments)

    monkeypatch.setattr(promote, "_ran", with_rivals)
    status, _, told = run(mine, capsys, "eks", NEW, "--push")
    assert (status, told) == (2, "the commit is made, but main was changed by others 5 times before it could be pushed")


def test_a_refusal_of_the_server_is_told(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A protected branch is not tried five times."""
    hook = origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho protected >&2\nexit 1\n")
    hook.chmod(0o755)
    status, _, told = run(clone(origin, "mine"), capsys, "eks", NEW, "--push")
    assert (status, told.split(": ")[0]) == (2, "the commit is made, but cannot be pushed")
