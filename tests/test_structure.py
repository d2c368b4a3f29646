"""How the package hangs together: imports point one way, folders are small, and names say which file is which."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import d4c

ROOT = Path(d4c.__file__).parent

TOP = {"__init__", "__main__", "cli", "comparison", "loading", "report", "run"}
"""Modules that may import everything, and that nothing below imports."""

GROUND_FLOOR = {"reading", "settings", "storage", "zeroshot"}
"""Folders of the ground floor."""

MAY_IMPORT = {
    "ground floor": set[str](),
    "kernels": set[str](),
    "models": set[str](),
    "calibration": {"models"},
    "synthesis": {"models", "calibration", "kernels"},
    "quantization": {"models", "calibration", "kernels"},
    "evaluation": set[str](),
    "inspection": {"models", "calibration", "synthesis", "evaluation"},
    "integer": {"models", "quantization", "kernels"},
    "runtime": {"models"},
    "deployment": {"models", "calibration", "quantization", "runtime"},
}
"""The other rooms that each room may import from; all may use the ground floor."""

SHARED_NAMES = {"__init__", "config", "resume"}
"""Base names that several modules may have, since their folder says which is which."""

FILES_IN_A_FOLDER = 12
"""Modules that may lie flat in a folder beside its `__init__`."""

LINES_IN_A_FILE = 300
"""A file with more has more than one idea."""


def module_name(file: Path) -> str:
    """The dotted name of a module inside the package; a package's own is that of its folder and `__init__`."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports from the package, inside functions and for type checkers as well."""
    files = {module_name(file): file for file in ROOT.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name} imports relatively"
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                if target.partition(".")[0] == "d4c":
                    graph[name].add(resolve(target.partition(".")[2], files))
    return graph


def resolve(target: str, files: dict[str, Path]) -> str:
    """The module that an imported name lies in."""
    while target and target not in files and f"{target}.__init__" not in files:
        target = target.rpartition(".")[0]
    return target if target in files else f"{target}.__init__".lstrip(".")


def room(name: str) -> str:
    """The room of a module: its first folder, "top", or "ground floor"."""
    first, _, rest = name.partition(".")
    if first in TOP:
        return "top"
    return first if rest and first not in GROUND_FLOOR else "ground floor"


def test_the_graph_knows_the_package() -> None:
    graph = imports()
    assert "calibration.images" in graph["synthesis.synthesize"]
    assert "cli.__init__" in graph["__main__"]
    assert {room(name) for name in graph} == {*MAY_IMPORT, "top"}


@pytest.mark.parametrize("of", MAY_IMPORT)
def test_imports_point_one_way(of: str) -> None:
    upward = [
        f"{name} imports {target}"
        for name, targets in imports().items()
        for target in targets
        if room(name) == of and room(target) not in {of, "ground floor", *MAY_IMPORT[of]}
    ]
    assert upward == []


def test_no_module_imports_itself_by_a_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_folders_are_small() -> None:
    folders = {file.parent for file in ROOT.rglob("*.py")}
    sizes = {folder.name: len(set(folder.glob("*.py")) - {folder / "__init__.py"}) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > FILES_IN_A_FOLDER} == {}


def test_files_are_short() -> None:
    lines = {module_name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in ROOT.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > LINES_IN_A_FILE} == {}


def test_a_base_name_belongs_to_one_module() -> None:
    by_name = defaultdict(list)
    for file in ROOT.rglob("*.py"):
        by_name[file.stem].append(module_name(file))
    twice = {name: modules for name, modules in by_name.items() if len(modules) > 1 and name not in SHARED_NAMES}
    assert twice == {}
