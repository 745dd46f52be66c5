"""What dvc.yaml says that a stage depends on, against what its script imports and is given.

DVC does not follow imports and does not know which parameters a script reads, so a graph written by hand goes stale
without a sign.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from retrace import params

ROOT = Path(__file__).parents[2]
WATCHERS = ("retrace.journal", "retrace.tracking", "retrace.progress")  # they change nothing that a stage makes
TABLES = {"datasets": "dataset", "models": "model", "figures": None}  # folder -> the choice, if one of it is chosen

Graph = Mapping[str, Iterable[str]]  # module -> the modules that it imports


class Stale(NamedTuple):
    """An entry of dvc.yaml that is not as it should be: one that a stage `lacks`, or one that it `has` too much."""

    stage: str
    key: str  # deps or params
    fault: str
    entry: str

    def __str__(self) -> str:
        idle = {"deps": ", which it does not import", "params": ", which it does not read"}[self.key]
        return f"{self.stage}: {self.key} {self.fault} {self.entry}{idle if self.fault == 'has' else ''}"


def imports_of(package: str = "retrace") -> Graph:
    """Who imports whom in the package, as it is on disk."""
    import grimp

    graph = grimp.build_graph(package, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def imports_of_script(source: str, graph: Graph) -> set[str]:
    """The modules of the package that a script names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "retrace":
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module for module in named if module in graph} or {node.module}
            found |= {node.module} if named - set(graph) else set()
    return found - {"retrace"}


def reached(start: Iterable[str], graph: Graph) -> set[str]:
    """All that is imported from `start` on, transitively, but for the watchers and what only they import."""
    seen, left = set(), [module for module in start if module not in WATCHERS]
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left += [imported for imported in graph[module] if imported not in WATCHERS]
    return seen


def file_of(module: str) -> str | None:
    """The file that a stage depends on for `module`; None for a table's __init__.py, which only names the entries."""
    parts = module.split(".")
    path = Path("src", *parts)
    if len(parts) == 1 or (len(parts) == 2 and parts[1] in TABLES):
        return None
    if len(parts) == 3 and (choice := TABLES.get(parts[1])):
        return f"src/retrace/{parts[1]}/${{{choice}}}.py"
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def stale_deps(stage: str, declared: Iterable[str], source: str, graph: Graph) -> list[Stale]:
    """What dvc.yaml's `deps:` of a stage lacks or has too much, against what the stage's script imports."""
    files = {file for module in reached(imports_of_script(source, graph), graph) if (file := file_of(module))}
    needed = files | {f"stages/{stage}.py"}
    code = {dep for dep in declared if dep.startswith(("src/", "stages/"))}
    folders = {dep for dep in code if not dep.endswith(".py")}
    missing = {file for file in needed - code if not any(file.startswith(f"{folder}/") for folder in folders)}
    idle = {dep for dep in code - needed if not any(file.startswith(f"{dep}/") for file in needed)}
    lacks = [Stale(stage, "deps", "lacks", file) for file in sorted(missing)]
    return lacks + [Stale(stage, "deps", "has", file) for file in sorted(idle)]


def stale_params(stage: str, declared: Iterable[str]) -> list[Stale]:
    """What dvc.yaml's `params:` of a stage lacks or has too much, against the stage's typed parameters."""
    needed, said = set(params.keys_of(params.STAGES[stage])), set(declared)
    lacks = [Stale(stage, "params", "lacks", key) for key in sorted(needed - said)]
    return lacks + [Stale(stage, "params", "has", key) for key in sorted(said - needed)]
