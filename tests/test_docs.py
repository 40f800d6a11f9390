"""What the documents say is so."""

import re
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from tests.conftest import REPOSITORY
from wafer.cli.main import cli
from wafer.params import Params
from wafer.settings import Settings

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "data" / "README.md"])


def commands(group: click.Group, prefix: str = "wafer") -> list[str]:
    names: list[str] = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        names += commands(command, full) if isinstance(command, click.Group) else [full]
    return names


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))


def test_every_command_is_documented() -> None:
    """Each `wafer` command stands in the README or the docs."""
    text = "\n".join(d.read_text() for d in DOCUMENTS)
    assert [c for c in commands(cli) if c not in text] == []


def test_every_option_has_help() -> None:
    """Each option of each command is explained."""

    def options(group: click.Group) -> list[tuple[str | None, click.Option]]:
        found = []
        for command in group.commands.values():
            if isinstance(command, click.Group):
                found += options(command)
            else:
                found += [(command.name, p) for p in command.params if isinstance(p, click.Option)]
        return found

    assert [(name, option.name) for name, option in options(cli) if not option.help] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_commands_in_the_documents_exist(document: Path) -> None:
    """Each make target, `wafer` command, module and linked file that a document names is there."""
    text = document.read_text()
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL))
    named = set(re.findall(r"^make ([a-z-]+)", blocks, flags=re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)", text))
    assert named <= make_targets()
    known = {c.split()[1] for c in commands(cli)}
    assert set(re.findall(r"^wafer ([a-z]+)", blocks, flags=re.MULTILINE)) <= known
    for module in re.findall(r"python -m ([a-z_.]+)", text):
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), target


def test_the_notebook_example_of_the_readme_runs() -> None:
    """The Python of the README runs as it stands."""
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert len(scope["probability"]) == 100  # type: ignore[arg-type]


def test_every_variable_is_listed() -> None:
    """Each variable that the settings read stands in .env.example and in the operations manual."""
    names = {field.alias for field in Settings.model_fields.values()}
    for file in (".env.example", "docs/operations.md"):
        assert {n for n in names if n not in (REPOSITORY / file).read_text()} == set(), file


def test_every_section_of_the_params_is_used_by_a_stage_or_a_flow() -> None:
    """params.yaml has the sections that the code knows, and each stage names known ones."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert params.keys() == Params.model_fields.keys()


def test_the_changelog_has_the_version() -> None:
    """The present version has its heading."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (REPOSITORY / "CHANGELOG.md").read_text()
