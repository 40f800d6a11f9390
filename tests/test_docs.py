"""What the documents say is so."""

import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.imports import cells, named, tree
from wafer.cli.main import cli
from wafer.params import Params
from wafer.settings import Settings
from wafer.study import NAMES

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "data" / "README.md"])
GUIDE = REPOSITORY / "wafer" / "project" / "README.md"
FROM_THE_ENVIRONMENT_ALONE = {"WAFER_PROJECT"}
READ_BY_PREFECT = {"PREFECT_API_KEY"}


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


def console(text: str) -> str:
    return "\n".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL))


def unknown_in(line: str) -> list[str]:
    """What a line of a console gives to `wafer` that it does not know: a command or an option."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    if words[:1] != ["wafer"]:
        return []
    command, given = cli, words[1 : words.index("&&") if "&&" in words else None]
    while isinstance(command, click.Group) and given and not given[0].startswith("-"):
        name = given.pop(0)
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    known = {option for parameter in command.get_params(click.Context(command)) for option in parameter.opts}
    return [word for word in given if word.startswith("-") and word.partition("=")[0] not in known]


def test_what_wafer_does_not_know_is_found() -> None:
    """Neither a command of a group nor an option passes that is not there; comments and variables do not count."""
    assert unknown_in("wafer models lst") == ["lst"]
    assert unknown_in("A=1 wafer models rollback --why 'x --y' --reason=z   # or --no-reason") == ["--reason=z"]
    assert unknown_in("wafer models list --json && cd --nowhere") == []


@pytest.mark.parametrize("document", [*DOCUMENTS, GUIDE], ids=lambda d: str(d.relative_to(REPOSITORY)))
def test_commands_in_the_documents_exist(document: Path) -> None:
    """Each make target, `wafer` command with its options, module and linked file that a document names is there."""
    text = document.read_text()
    blocks = console(text)
    named = set(re.findall(r"^make ([a-z-]+)", blocks, flags=re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)", text))
    assert named <= make_targets()
    assert {line: unknown for line in blocks.splitlines() if (unknown := unknown_in(line))} == {}
    for module in re.findall(r"python -m ([a-z_.]+)", text):
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), target


def example_of_the_readme() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)
    return str(code)


@pytest.mark.slow
@pytest.mark.invariant
def test_the_notebook_example_of_the_readme_runs() -> None:
    """The Python of the README runs as it stands, from files to alarms with reasons."""
    scope: dict[str, Any] = {}
    exec(compile(example_of_the_readme(), "README.md", "exec"), scope)
    assert [verdict.word for verdict in scope["verdicts"]] == ["accepted"] * 3
    assert len(scope["probability"]) == 100
    assert set(scope["reasons"]["row"]) <= set(scope["said"].wafers.index[scope["said"].alarms])


def test_the_example_of_the_readme_is_the_short_form_of_the_notebook() -> None:
    """It imports nothing that `first_steps` does not."""
    notebook = set().union(*map(named, cells(REPOSITORY / "notebooks" / "first_steps.ipynb")))
    assert named(ast.parse(example_of_the_readme())) <= notebook


def test_every_variable_is_listed() -> None:
    """Each variable that the settings read stands in .env.example and in the operations manual."""
    names = {field.alias for field in Settings.model_fields.values()}
    for file in (".env.example", "docs/operations.md"):
        assert {n for n in names if n not in (REPOSITORY / file).read_text()} == set(), file
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    listed = {line[1:].partition("=")[0] for line in lines if re.match(r"#[A-Z_]+=", line)}
    assert listed == names - FROM_THE_ENVIRONMENT_ALONE | READ_BY_PREFECT


def sections_in(code: ast.AST) -> set[str]:
    """The sections of the parameters that code reads as attributes of `params`."""
    read = {
        node.attr
        for node in ast.walk(code)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }
    return read & Params.model_fields.keys()


def test_every_section_of_the_params_is_used_by_a_stage_or_a_flow() -> None:
    """params.yaml has the sections that the code knows, and each of them is read by a stage or a flow."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert params.keys() == Params.model_fields.keys()
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].values()
    named = {section for stage in stages for section in stage.get("params", [])}
    flows = [f"flows.{file.stem}" for file in (REPOSITORY / "flows").glob("[a-z]*.py")]
    read = set().union(*(sections_in(tree(module)) for module in [*flows, "wafer.steps"]))
    assert named | read == Params.model_fields.keys()


def test_a_stage_names_the_sections_that_its_steps_read() -> None:
    """DVC runs a stage again after a change of any section that its steps are given, and of no other."""
    tables = [node for node in ast.walk(tree("wafer.study")) if isinstance(node, ast.Dict)]
    given = {
        key.value: sections_in(value)
        for table in tables
        for key, value in zip(table.keys, table.values, strict=True)
        if isinstance(key, ast.Constant) and key.value in NAMES
    }
    assert given["fit"] == {"fit", "monitor", "policy"}
    for name, stage in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].items():
        steps = stage["cmd"].removeprefix("wafer study ").split()
        assert set(stage.get("params", [])) == set().union(*(given.get(step, set()) for step in steps)), name


def test_the_changelog_has_the_version() -> None:
    """The present version has its heading."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (REPOSITORY / "CHANGELOG.md").read_text()
