"""The rooms of the library: what may import what, and what each says of itself."""

import ast
import re

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.imports import cells, imported, named, reached, room, sources, tree
from wafer.records import REPORTS
from wafer.study import NEED_DATABASE

ENTRY_POINTS = {"wafer.__main__"}
OWNERS = {
    "pymongo": "store",
    "bson": "store",
    "gridfs": "store",
    "mlflow": "registry",
    "prefect": "flows",
    "great_expectations": "contract",
    "papermill": "reporting",
    "secantusdb": "store",
    "fastapi": "service",
    "starlette": "service",
    "uvicorn": "service",
    "prometheus_client": "service",
}

TELL_AND_WATCH = {
    f"wafer/{name}.py" for name in ("__init__", "addresses", "errors", "lifeline", "logs", "progress", "shown")
}
"""What no result depends on, though every room imports it: a stage of DVC need not run again for it."""


def order() -> list[str]:
    """The rooms as the architecture lists them, from the top."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    (block,) = re.findall(r"```text rooms\n(.*?)```", text, flags=re.DOTALL)
    return re.findall(r"\w+", block)


def place(module: str) -> str:
    """The room of a module: a package of `wafer`, a module that stands alone, or `flows`."""
    first, *rest = module.split(".")
    return rest[0] if first == "wafer" and rest else first


def arrows() -> set[tuple[str, str]]:
    """Which module imports which, of another room; `wafer` itself stands for the workspace that it opens."""
    found = {
        (module, "wafer.workspace" if target == "wafer" and _opens(tree(module)) else target)
        for module in sources().keys() - ENTRY_POINTS - {"wafer"}
        for target in imported(tree(module))
    }
    return {(one, two) for one, two in found if place(one) != place(two) and two not in ("wafer", "flows")}


def _opens(code: ast.AST) -> bool:
    return any(isinstance(node, ast.Import) and any(a.name == "wafer" for a in node.names) for node in ast.walk(code))


def test_imports_go_downwards() -> None:
    """Every import, within a function too, is of a room further down; so there is no circle."""
    rooms = order()
    assert sorted(rooms) == sorted({place(module) for module in sources().keys() - ENTRY_POINTS - {"wafer"}})
    above = {name: number for number, name in enumerate(rooms)}
    assert sorted(f"{one} -> {two}" for one, two in arrows() if above[place(one)] > above[place(two)]) == []


def test_a_library_has_one_room() -> None:
    """Only the store knows MongoDB, only the registry MLflow, only the flows Prefect, and so on."""
    found = {
        (library, place(module))
        for module in sources()
        for library in {name.partition(".")[0] for name in named(tree(module))} & OWNERS.keys()
    }
    assert found <= set(OWNERS.items())
    assert {"pymongo", "mlflow", "prefect"} <= dict(found).keys()


def test_each_room_says_what_belongs_there() -> None:
    """A package's docstring says what it holds, and what a reader might look for there but finds elsewhere."""
    packages = [module for module, file in sources().items() if file.name == "__init__.py" and module != "wafer"]
    assert "wafer.learning" in packages
    silent = [name for name in packages if "Not here: " not in " ".join((ast.get_docstring(tree(name)) or "").split())]
    assert silent == []


def stages() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    return found


def rooms_of(steps: list[str]) -> set[str]:
    """The rooms that the code of some steps of a study imports, a report's notebook with it, as files and folders."""
    reports = [REPORTS[step] for step in steps if step in REPORTS]
    functions = {step.partition("-")[0] for step in steps}
    code = [cell for name in reports for cell in cells(REPOSITORY / "notebooks" / f"{name}.ipynb")]
    modules = reached("wafer.steps", functions, code) | {"wafer.study"}
    if NEED_DATABASE.intersection(steps):
        modules |= reached("wafer.study", ["_throwaway_database"]) & {m for m in sources() if place(m) == "store"}
    return {room(module) for module in modules} - TELL_AND_WATCH


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_the_rooms_that_it_uses(name: str) -> None:
    """The sources that a stage of dvc.yaml names are those that its steps import, down to the last."""
    stage = stages()[name]
    steps = str(stage["cmd"]).removeprefix("wafer study ").split()
    assert sorted(one for one in stage["deps"] if one.startswith("wafer")) == sorted(rooms_of(steps))


def test_nothing_that_is_drawn_refits_a_model() -> None:
    """Neither the fit nor the evaluation depends on how pages and plots look, or on the registry."""
    for name in ("fit", "evaluate"):
        assert not {"wafer/reporting", "wafer/registry", "wafer/cli"} & set(stages()[name]["deps"]), name
