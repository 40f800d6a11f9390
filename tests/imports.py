"""Which modules of the library a piece of code imports: read from the sources, nothing is run."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.conftest import REPOSITORY

PACKAGES = ("wafer", "flows")
OPENED_BY_NAME = "wafer.workspace"
"""A module whose parts are opened when they are asked for: `workspace.store` imports the store, and nothing else."""


@cache
def sources() -> dict[str, Path]:
    """Each module of the library by its name."""
    files = [file for package in PACKAGES for file in sorted((REPOSITORY / package).rglob("*.py"))]
    return {".".join(f.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def tree(module: str) -> ast.Module:
    """The syntax of a module, without what only type checkers and `python file.py` see."""
    parsed = ast.parse(sources()[module].read_text())
    for node in ast.walk(parsed):
        if isinstance(node, ast.If) and re.search("TYPE_CHECKING|__main__", ast.unparse(node.test)):
            node.body = []
    return parsed


def named(code: ast.AST) -> set[str]:
    """What `code` imports anywhere: modules, and names from modules, which may be modules too."""
    found: set[str] = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported(code: ast.AST) -> set[str]:
    """The modules of the library that `code` imports anywhere, the packages above them included."""
    return {above for name in named(code) for above in _with_packages(name) if above in sources()}


def _with_packages(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


@cache
def _functions(module: str) -> dict[str, ast.AST]:
    """The functions of a module by name, methods by theirs."""
    return {n.name: n for n in ast.walk(tree(module)) if isinstance(n, ast.FunctionDef)}


def _outside_functions(module: str) -> set[str]:
    """What a module imports when it is itself imported."""
    statements = [n for n in tree(module).body if not isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return imported(ast.Module(statements, []))


def _opened(code: ast.AST, *names: str) -> set[str]:
    """The parts of a workspace that `code` asks for, of a variable or attribute called one of `names`."""
    asked = {
        node.attr
        for node in ast.walk(code)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", getattr(node.value, "attr", None)) in names
    }
    return asked & _functions(OPENED_BY_NAME).keys()


def reached(module: str, functions: Iterable[str], others: Iterable[ast.AST] = ()) -> set[str]:
    """The modules that code may run: some functions of `module`, and `others`, with all that they import in turn.

    A function of `module` that one of them calls counts too, and of a workspace only the parts that are asked for.
    """
    found = {module, *_outside_functions(module)}
    waiting: list[tuple[ast.AST, str]] = [(_functions(module)[name], module) for name in functions]
    waiting += [(code, "") for code in others]
    known: set[int] = set()
    waiting += [(tree(name), name) for name in found - {module, OPENED_BY_NAME}]
    while waiting:
        code, home = waiting.pop()
        if id(code) in known:
            continue
        known.add(id(code))
        if home == module:
            called = {getattr(node.func, "id", "") for node in ast.walk(code) if isinstance(node, ast.Call)}
            waiting += [(_functions(module)[name], module) for name in called & _functions(module).keys()]
        for part in _opened(code, "workspace", *(["self"] if home == OPENED_BY_NAME else [])):
            waiting.append((_functions(OPENED_BY_NAME)[part], OPENED_BY_NAME))
        new = imported(code) - found
        if OPENED_BY_NAME in new:
            new |= _outside_functions(OPENED_BY_NAME) - found
        found |= new
        waiting += [(tree(name), name) for name in new - {OPENED_BY_NAME}]
    return found


def cells(notebook: Path) -> list[ast.AST]:
    """The code of a notebook."""
    content = json.loads(notebook.read_text())
    return [ast.parse("".join(cell["source"])) for cell in content["cells"] if cell["cell_type"] == "code"]


def room(module: str) -> str:
    """The folder of a package, or the file of a module that stands alone, as DVC names it."""
    path = sources()[module].relative_to(REPOSITORY)
    return str(Path(*path.parts[:2])) if len(path.parts) > 2 else str(path)
