"""Compare the deps and params that dvc.yaml declares with what a stage imports and reads.

DVC does not follow imports and does not know which parameters a script reads, so what is written
by hand goes out of date unnoticed.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from retrace import params

ROOT = Path(__file__).parents[2]
# They change no output of a stage.
WATCHERS = ("retrace.journal", "retrace.tracking", "retrace.progress")
# Folder -> the parameter that chooses one of its modules; None if all are used.
TABLES = {"datasets": "dataset", "models": "model", "figures": None}

Graph = Mapping[str, Iterable[str]]  # module -> the modules that it imports


class Stale(NamedTuple):
    """An entry of dvc.yaml that a stage `lacks`, or that it `has` without need."""

    stage: str
    key: str  # deps or params
    fault: str
    entry: str

    def __str__(self) -> str:
        text = f"{self.stage}: {self.key} {self.fault} {self.entry}"
        if self.fault == "lacks":
            return text
        return f"{text}, which it does not {'import' if self.key == 'deps' else 'read'}"


def imports_of(package: str = "retrace") -> Graph:
    """The imports between the modules of a package, read from disk."""
    import grimp

    graph = grimp.build_graph(package, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def imports_of_script(source: str, graph: Graph) -> set[str]:
    """The modules of the package that a script imports."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.split(".")[0] == "retrace":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= names & set(graph)
            if names - set(graph):  # a function or class of the module
                modules.add(node.module)
    return modules - {"retrace"}


def reached(start: Iterable[str], graph: Graph) -> set[str]:
    """The modules that `start` imports, directly or not, except through WATCHERS."""
    seen: set[str] = set()
    left = [module for module in start if module not in WATCHERS]
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left += [imported for imported in graph[module] if imported not in WATCHERS]
    return seen


def file_of(module: str) -> str | None:
    """The dep of a stage that imports `module`; None for the __init__.py of a table."""
    parts = module.split(".")
    path = Path("src", *parts)
    if len(parts) == 1 or (len(parts) == 2 and parts[1] in TABLES):
        return None
    if len(parts) == 3 and (choice := TABLES.get(parts[1])):
        return f"src/retrace/{parts[1]}/${{{choice}}}.py"
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def stale_deps(stage: str, declared: Iterable[str], source: str, graph: Graph) -> list[Stale]:
    """The deps that a stage lacks or has without need, by what its script imports."""
    modules = reached(imports_of_script(source, graph), graph)
    needed = {file for file in map(file_of, modules) if file} | {f"stages/{stage}.py"}
    code = {dep for dep in declared if dep.startswith(("src/", "stages/"))}
    folders = {dep for dep in code if not dep.endswith(".py")}
    in_folder = {file for file in needed if any(file.startswith(f"{dep}/") for dep in folders)}
    missing = needed - code - in_folder
    idle = {dep for dep in code - needed if not any(file.startswith(f"{dep}/") for file in needed)}
    lacks = [Stale(stage, "deps", "lacks", file) for file in sorted(missing)]
    return lacks + [Stale(stage, "deps", "has", file) for file in sorted(idle)]


def stale_params(stage: str, declared: Iterable[str]) -> list[Stale]:
    """The params that a stage lacks or has without need, by its typed parameters."""
    needed = set(params.keys_of(params.STAGES[stage]))
    present = set(declared)
    lacks = [Stale(stage, "params", "lacks", key) for key in sorted(needed - present)]
    return lacks + [Stale(stage, "params", "has", key) for key in sorted(present - needed)]
