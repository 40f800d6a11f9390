"""What a change asks to be made, on real local repositories with the real path map."""

import io
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy import changed
from tests.conftest import REPOSITORY
from tests.deploy.tools import DEPLOY, ran

PATHS = changed.read_paths()
FILES = {
    "wafer/steps.py": "steps",
    "flows/train.py": "flow",
    "docs/service.md": "words",
    "README.md": "words",
    "deploy/README.md": "words",
    "deploy/terraform/main.tf": "bucket",
    "deploy/kubernetes/base/service.yaml": "pod",
    "deploy/monitoring/rules.yml": "alert",
    "tests/test_runs.py": "test",
    "deploy/Containerfile": "FROM base",
}


class Repository:
    """A repository with one file of each kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main")
        for name, text in FILES.items():
            self.write(name, text)
        self.first = self.commit()

    def git(self, *words: str) -> str:
        """What git says."""
        who = ("-c", "user.name=someone", "-c", "user.email=someone@example.com", "-c", "commit.gpgsign=false")
        return ran("git", *who, *words, cwd=self.folder).strip()

    def write(self, name: str, text: str) -> None:
        """Change or make a file."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def commit(self) -> str:
        """Commit all that was changed; its name."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a change")
        return self.git("rev-parse", "HEAD")

    def after(self, **changes: str) -> list[str]:
        """The parts that a commit with these changes concerns; names have _ for / and are the starts of known ones."""
        before = self.git("rev-parse", "HEAD")
        for name, text in changes.items():
            self.write(next(one for one in FILES if one.replace("/", "_").startswith(name)), text)
        self.commit()
        return self.parts(before)

    def parts(self, since: str) -> list[str]:
        """The parts that all changes since a commit concern."""
        return changed.parts_of(changed.changed_files(self.folder, since), PATHS)

    def tag(self, commit: str = "HEAD") -> str:
        """The image's tag."""
        return changed.image_tag(self.folder, PATHS, commit)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "clone")


def test_a_change_in_documents_builds_nothing(repository: Repository) -> None:
    """Neither parts nor another tag."""
    tag = repository.tag()
    assert repository.after(docs="other words", README="others", deploy_README="others") == []
    assert repository.tag() == tag


def test_a_change_of_the_library_builds_the_image_once(repository: Repository) -> None:
    """It concerns image and tests; the tag is another one, and stays that one in later commits and after a way back."""
    before = repository.tag()
    assert repository.after(wafer_steps="better steps") == ["image", "tests"]
    after = repository.tag()
    assert after != before
    assert repository.after(docs="what is better") == []
    assert repository.tag() == after
    assert repository.after(wafer_steps=FILES["wafer/steps.py"]) == ["image", "tests"]
    assert repository.tag() == before == repository.tag(repository.first)


def test_a_change_of_infrastructure_plans_that_alone(repository: Repository) -> None:
    """So do one of the manifests and one of the alerts with theirs; several changes concern several parts."""
    tag = repository.tag()
    assert repository.after(deploy_terraform="another bucket") == ["infrastructure"]
    assert repository.after(deploy_kubernetes="another pod") == ["manifests"]
    assert repository.after(deploy_monitoring="another alert") == ["monitoring"]
    assert repository.after(tests="another test") == ["tests"]
    assert repository.parts(repository.first) == ["infrastructure", "manifests", "monitoring", "tests"]
    assert repository.tag() == tag
    assert repository.after(deploy_Containerfile="FROM another") == ["image", "manifests"]
    assert repository.tag() != tag


def test_a_file_that_moves_or_goes_is_a_change(repository: Repository) -> None:
    """Of a rename both names count; the mode of a file counts for the tag."""
    tag, before = repository.tag(), repository.git("rev-parse", "HEAD")
    repository.git("mv", "deploy/terraform/main.tf", "docs/main.tf")
    repository.commit()
    assert repository.parts(before) == ["infrastructure"]
    (repository.folder / "wafer" / "steps.py").chmod(0o755)
    repository.commit()
    executable = repository.tag()
    repository.git("rm", "--quiet", "wafer/steps.py")
    repository.commit()
    assert len({tag, executable, repository.tag()}) == 3


def test_where_it_is_not_known_what_changed_everything_is_made(repository: Repository) -> None:
    """A file that stands nowhere, and a commit that is not there: a new branch, or a history that was rewritten."""
    every = ["image", "infrastructure", "manifests", "monitoring", "tests"]
    before = repository.git("rev-parse", "HEAD")
    repository.write("new/kind.txt", "what is this")
    repository.commit()
    assert repository.parts(before) == every
    assert repository.parts(changed.NO_COMMIT) == every
    assert repository.parts("4f1c0de" * 5) == every
    with pytest.raises(changed.ChangeError, match="has no commit 'gone'"):
        changed.changed_files(repository.folder, before, "gone")


def test_no_tag_is_told_of_what_is_not_committed(repository: Repository) -> None:
    """Of HEAD, where a file of the image is changed or new; another file does not matter."""
    tag = repository.tag()
    repository.write("docs/service.md", "half a sentence")
    assert repository.tag() == tag
    repository.write("wafer/new.py", "new")
    with pytest.raises(changed.ChangeError, match=r"wafer/new.py is not as in HEAD"):
        repository.tag()
    repository.commit()
    repository.write("flows/train.py", "changed")
    with pytest.raises(changed.ChangeError, match=r"flows/train.py is not as in HEAD"):
        repository.tag()


def test_an_image_that_is_there_is_not_built(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says so, by what skopeo lists or by words; else exit status 2 and one sentence."""
    tag, script = repository.tag(), (sys.executable, DEPLOY / "changed.py", "--repository", repository.folder)

    def told(known: str) -> str:
        command = [str(one) for one in (*script, "tag", "--known", "-")]
        return subprocess.run(command, input=known, capture_output=True, text=True, check=True).stdout

    assert told(f'{{"Repository": "registry.example.com/wafer", "Tags": ["dev", "{tag}"]}}') == f"{tag} exists\n"
    assert told(f"dev\t{tag}\n") == f"{tag} exists\n"
    assert told("") == told(f"{tag}0 dev") == f"{tag} build\n"
    assert ran(*script, "parts", repository.first) == ""
    assert ran(*script, "parts", "--json", repository.first) == "[]\n"
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    assert changed.main(["--repository", str(repository.folder), "tag", "gone"]) == 2
    assert said.getvalue() == f"{repository.folder} has no commit 'gone'\n"


def test_every_file_of_this_repository_stands_in_the_path_map() -> None:
    """So that nothing concerns all parts by oversight; no line of the map is there twice in a part."""
    files = ran("git", "ls-files", "-z", cwd=REPOSITORY).split("\0")[:-1]
    assert [one for one in files if not any(changed.concerns(one, listed) for listed in PATHS.values())] == []
    assert [part for part, listed in PATHS.items() if len(set(listed)) < len(listed)] == []


def test_all_that_goes_into_the_wheel_is_of_the_image() -> None:
    """Packages and defaults of the project; documents, which go into its metadata, are of no part."""
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for name in (*build["packages"], *build["force-include"], "pyproject.toml"):
        assert name in PATHS["image"] or f"{name}/" in PATHS["image"], name
    assert [one for one in PATHS["nothing"] if changed.concerns(one, PATHS["image"])] == []


def test_a_map_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """Other than lists of paths, or without an image."""
    file = tmp_path / "paths.toml"
    for text in ("", "image = 'wafer/'", "image = [1]", "tests = ['tests/']", "image = []", "- image"):
        file.write_text(text)
        with pytest.raises(changed.ChangeError):
            changed.read_paths(file)
