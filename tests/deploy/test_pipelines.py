"""Workflows and Jenkinsfile: valid, without stored keys, and nothing but targets that run anywhere."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import changed
from tests.conftest import REPOSITORY
from tests.deploy.tools import DEPLOY, OWN, ran, tool
from tests.test_docs import make_targets

FOLDER = REPOSITORY / ".github" / "workflows"
WORKFLOWS = {file.name: yaml.load(file.read_text(), yaml.BaseLoader) for file in sorted(FOLDER.glob("*.yml"))}
JENKINSFILE = REPOSITORY / "Jenkinsfile"
PARTS = set(changed.read_paths()) - {changed.NOTHING}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step of each workflow with its workflow's name."""
    for name, workflow in WORKFLOWS.items():
        for job in workflow["jobs"].values():
            for step in job.get("steps", []):
                yield name, step


def called(text: str) -> set[str]:
    """The targets that a text calls."""
    return set(re.findall(r"\bmake (?:--silent )?([a-z-]+)", text))


def actionlint() -> tuple[str, ...]:
    """The command that checks workflows, which npm brings."""
    node = tool("node")
    program = OWN.parent / "npm" / "node_modules" / "@tktco" / "node-actionlint" / "bin" / "node-actionlint.js"
    if not program.exists():
        tool("npm")
        raise FileNotFoundError(f"{program} is missing: run `make deploy-test`, which installs it")
    return node, str(program)


@pytest.mark.slow
@pytest.mark.invariant
def test_workflows_are_valid(tmp_path: Path) -> None:
    """GitHub's schema, actionlint and zizmor find nothing; the last two find what is broken in a copy."""
    ran(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *(FOLDER / name for name in WORKFLOWS))
    lint = (*actionlint(), ".github/workflows/*.yml")
    look = (tool("zizmor"), "--offline", "--no-progress", "--config", str(DEPLOY / "zizmor.yml"), ".github/workflows")
    ran(*lint, cwd=REPOSITORY)
    ran(*look, cwd=REPOSITORY)
    place = tmp_path / ".github" / "workflows"
    place.mkdir(parents=True)
    text = (FOLDER / "parts.yml").read_text()
    for command, broken in (
        (lint, text.replace("steps.parts.outputs", "steps.part.outputs")),
        (look, text.replace("persist-credentials: false", "")),
        (look, text.replace("$parts", "${{ github.head_ref }}")),
    ):
        assert broken != text
        (place / "parts.yml").write_text(broken)
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0, broken


def test_no_key_is_stored() -> None:
    """No workflow reads a secret, and only jobs of an environment may ask another system who they are."""
    for name, workflow in WORKFLOWS.items():
        assert "secrets." not in (FOLDER / name).read_text()
        assert workflow["permissions"] == {}
        for job in workflow["jobs"].values():
            assert job["permissions"].get("id-token") is None or "environment" in job
    text = JENKINSFILE.read_text()
    assert re.search(r"credentials|password|token", text, flags=re.IGNORECASE) is None


def test_actions_are_pinned() -> None:
    """By the digest of a commit, with its release beside it."""
    used = [line for name in WORKFLOWS for line in re.findall(r"uses: (.+)", (FOLDER / name).read_text())]
    assert used
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/[\w-]+\.yml")
    assert [one for one in used if not pinned.fullmatch(one)] == []


def test_both_call_the_same_targets() -> None:
    """Each step of a workflow is a target of make or gets a hosted machine ready; Jenkins calls the same targets."""
    lines = [line for _, step in steps() for line in step.get("run", "").splitlines() if "make " not in line]
    words = {line.strip().removeprefix("sudo ").split()[0] for line in lines}
    assert words <= {
        "apt-get",
        "aws",
        "curl",
        "docker",
        "echo",
        "git",
        "--env",
        "minio/minio:RELEASE.2025-09-07T16-13-09Z",
    }
    by_workflow = {target for _, step in steps() for target in called(step.get("run", ""))}
    by_jenkins = called(JENKINSFILE.read_text())
    assert by_workflow | by_jenkins <= make_targets()
    assert by_workflow - by_jenkins == {"test-servers"}, "servers for tests are brought by the hosted machine"
    assert by_jenkins - by_workflow == set()


def test_both_go_by_the_path_map() -> None:
    """Each part decides on some job and some stage, and none is asked for that the map does not have."""
    conditions = "\n".join((FOLDER / name).read_text() for name in WORKFLOWS)
    assert set(re.findall(r"contains\(fromJSON\(needs\.parts\.outputs\.parts\), '(\w+)'\)", conditions)) == PARTS
    assert set(re.findall(r"concerned '(\w+)'", JENKINSFILE.read_text())) == PARTS


def test_production_comes_after_staging_and_waits() -> None:
    """For an environment that somebody has to approve, or for somebody's word."""
    jobs = WORKFLOWS["image.yml"]["jobs"]
    assert (jobs["staging"]["needs"], jobs["production"]["needs"]) == ("image", "staging")
    assert jobs["production"]["with"] == {"environment": "production"}
    assert WORKFLOWS["deploy.yml"]["jobs"]["deploy"]["environment"] == "${{ inputs.environment }}"
    apply = WORKFLOWS["infrastructure.yml"]["jobs"]["apply"]
    assert (apply["needs"], apply["environment"]) == ("plan", "${{ matrix.environment }}")
    assert apply["strategy"] == {"max-parallel": "1", "matrix": {"environment": ["staging", "production"]}}
    stages = JENKINSFILE.read_text().split("stage('")
    asked = {stage.partition("'")[0] for stage in stages if re.search(r"\binput\b", stage)}
    assert asked == {"infrastructure of production", "production"}
    names = [stage.partition("'")[0] for stage in stages[1:]]
    assert names.index("image") < names.index("production")


@pytest.mark.slow
@pytest.mark.invariant
def test_the_jenkinsfile_is_groovy() -> None:
    """A parser of the language reads it, and what its stages run are words of make; cut short it is refused."""
    assert (OWN / "python").exists(), "run `make deploy-test`, which installs the tools"
    program = (
        "import json, sys; from groovy_parser.parser import parse_and_digest_groovy_content as parse;"
        "print(json.dumps(parse(sys.stdin.read())))"
    )
    command, text = [str(OWN / "python"), "-c", program], JENKINSFILE.read_text()
    tree = json.loads(subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout)
    told = list(leaves(tree))
    assert told[: told.index("{")] == ["def", "concerned", "(", "String", "part", ")"]
    run = [then for word, then in pairwise(told) if word == "sh" and then != "("]
    assert run
    assert [one for one in run if not re.fullmatch(r"make [a-z-]+( ENVIRONMENT=(staging|production))?", one)] == []
    cut = text[: text.index("stages {")]
    assert subprocess.run(command, input=cut, capture_output=True, text=True, check=False).returncode != 0


def leaves(tree: Any) -> Iterator[str]:
    """The words of a tree in their order."""
    if "value" in tree:
        yield tree["value"]
    for child in tree.get("children", ()):
        yield from leaves(child)


def test_an_image_is_built_and_pushed_once(tmp_path: Path) -> None:
    """`make deploy-image` in a clone builds and pushes what the registry has not, and nothing that it has."""
    clone, pushed = tmp_path / "clone", tmp_path / "pushed"
    files = ran("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY).split("\0")[:-1]
    for name in filter(lambda name: (REPOSITORY / name).is_file(), files):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, clone / name)
    who = ("-c", "user.name=someone", "-c", "user.email=someone@example.com", "-c", "commit.gpgsign=false")
    for words in (("init", "--quiet"), ("add", "--all"), (*who, "commit", "--quiet", "--message", "all of it")):
        ran("git", *words, cwd=clone)
    pushed.touch()
    stand_in = tmp_path / "containers"  # of podman and its registry: what it is told to push is there from then on
    stand_in.write_text(
        f'#!/bin/sh\nset -eu\n[ "$1" = build ] && ls dist/wafer-*.whl && exit\necho "${{2##*:}}" >> {pushed}\n'
    )
    stand_in.chmod(0o755)
    variables = (f"BIN={Path(sys.executable).parent}", f"CONTAINERS={stand_in}", f"KNOWN=cat {pushed}")
    command = ("make", "--silent", "--old-file", ".venv/.ready", "deploy-image", *variables)
    first, second = ran(*command, cwd=clone), ran(*command, cwd=clone)
    (tag,) = pushed.read_text().split()
    assert first.splitlines()[-1] == f"registry.example.com/wafer:{tag} is built and pushed"
    assert "dist/wafer-" in first
    assert second == f"registry.example.com/wafer:{tag} exists\n"
    silent = subprocess.run([*command, "KNOWN=false"], cwd=clone, capture_output=True, text=True, check=False)
    assert silent.returncode != 0
    assert "the registry does not say what it has" in silent.stderr
    assert pushed.read_text().split() == [tag]
