"""A customer's own project, as `wafer init` writes it."""

import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from prefect.flows import load_flow_from_entrypoint

from tests.conftest import REPOSITORY
from wafer.cli.main import cli
from wafer.errors import ProjectError
from wafer.params import read_params
from wafer.project import LIBRARY, write_project
from wafer.settings import find_project

SAME = ["params.yaml", "prefect.yaml", ".dvcignore"]
OWN = {"README.md", ".gitignore", ".env.example", "dvc.yaml"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_project_holds_the_files_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites, notebooks, parameters and deployments are the repository's own, byte for byte; the command lists all."""
    result = CliRunner().invoke(cli, ["init", str(tmp_path / "fab")], standalone_mode=False)
    assert result.exit_code == 0, result.output
    found = contents(tmp_path / "fab")
    copied = [
        *SAME,
        *(f"{d}/{f.name}" for d in ("expectations", "notebooks") for f in (REPOSITORY / d).glob("[!.]*.[ij]*")),
    ]
    assert found.keys() == {*copied, *OWN}
    assert {name: found[name] for name in copied} == {name: (REPOSITORY / name).read_bytes() for name in copied}
    assert {line.strip() for line in result.output.splitlines()[:-1]} == found.keys()
    monkeypatch.chdir(tmp_path / "fab")
    assert find_project() == tmp_path / "fab"
    read_params(tmp_path / "fab" / "params.yaml")


def test_stages_depend_on_the_version_of_the_library(tmp_path: Path) -> None:
    """Where the repository's stages depend on sources, a project's depend on the version; all else is the same."""
    write_project(tmp_path / "fab")
    stages = yaml.safe_load((tmp_path / "fab" / "dvc.yaml").read_text())["stages"]
    ours = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    library = stages.pop("library")
    assert (library["always_changed"], [*library["outs"][0]]) == (True, [LIBRARY])
    for name, stage in ours.items():
        sources = [one for one in stage["deps"] if Path(one).parts[0] == "wafer"]
        assert sources, name
        stage["deps"] = [LIBRARY, *(one for one in stage["deps"] if one not in sources)]
    assert stages == ours


def test_deployments_find_their_flows_in_the_package() -> None:
    """Each deployment names a flow that is imported from wherever the package is installed."""
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    flows = [load_flow_from_entrypoint(one["entrypoint"], use_placeholder_flow=False) for one in deployments]
    assert [flow.name for flow in flows] == ["ingest", "train", "retrain", "predict", "watch"]


def test_the_guide_names_what_is_there(tmp_path: Path) -> None:
    """The guide's table has a line for each file and folder that a person edits."""
    write_project(tmp_path)
    guide = (tmp_path / "README.md").read_text()
    top = {Path(name).parts[0] for name in contents(tmp_path)} - {"README.md", ".gitignore", ".dvcignore"}
    assert {name for name in top if f"| `{name}" not in guide} == set()
    assert "WAFER_STORAGE" in (tmp_path / ".env.example").read_text()


def test_a_project_keeps_what_it_has(tmp_path: Path) -> None:
    """A second call writes nothing; what was removed comes back, what was changed stays, links too."""
    first = write_project(tmp_path)
    assert write_project(tmp_path) == []
    (tmp_path / "params.yaml").write_text("mine")
    (tmp_path / "prefect.yaml").unlink()
    (tmp_path / "prefect.yaml").symlink_to("elsewhere.yaml")
    shutil.rmtree(tmp_path / "notebooks")
    assert write_project(tmp_path) == [name for name in first if name.startswith("notebooks/")]
    assert (tmp_path / "params.yaml").read_text() == "mine"
    assert (tmp_path / "prefect.yaml").is_symlink()


def test_what_an_interrupted_call_has_left_is_completed(tmp_path: Path) -> None:
    """A folder with nothing but a project's own files, git's and an environment's becomes a project."""
    whole = write_project(tmp_path / "whole")
    half = tmp_path / "half"
    for folder in (".git", ".venv", "expectations"):
        (half / folder).mkdir(parents=True)
    assert write_project(half) == whole


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    """Somebody's other work is named and stays alone, however much there is."""
    for number in range(3):
        (tmp_path / f"work-{number}.txt").write_text("")
    before = contents(tmp_path)
    told = r"is not empty and not a project \(it holds work-0\.txt and 2 more\)"
    with pytest.raises(ProjectError, match=told):
        write_project(tmp_path)
    assert contents(tmp_path) == before
    with pytest.raises(ProjectError, match="a folder of this machine, not at s3:/bucket/fab"):
        write_project(Path("s3://bucket/fab"))


def test_a_project_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Where a file cannot be written, those before it are gone again and those of others stay."""
    folder = tmp_path / "above" / "fab"
    folder.mkdir(parents=True)
    (folder / "prefect.yaml").write_text("mine")
    (folder / "notebooks").write_text("a file where a folder is needed")
    before = contents(tmp_path)
    with pytest.raises(OSError, match="notebooks"):
        write_project(folder)
    assert contents(tmp_path) == before
    assert sorted(p.name for p in folder.iterdir()) == ["notebooks", "prefect.yaml"]
    with pytest.raises(OSError, match=r"mine\.txt"):
        (tmp_path / "mine.txt").write_text("")
        write_project(tmp_path / "mine.txt")
