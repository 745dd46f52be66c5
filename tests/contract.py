"""The rules that hold the pipeline together, each a function that returns what breaks it.

DVC does not follow imports and does not know which parameters a script reads, so a graph written by hand goes stale
without a sign. These functions compare it with the code.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grimp
from repository import ROOT

from retrace import params

WATCHERS = ("retrace.journal", "retrace.tracking", "retrace.progress")  # they change nothing that a stage makes
TABLES = {"datasets": "dataset", "models": "model", "figures": None}  # folder -> the choice, if one of it is chosen

Graph = Mapping[str, Iterable[str]]  # module -> the modules that it imports


def imports_of(package: str = "retrace") -> Graph:
    """Who imports whom in the package, as it is on disk."""
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
    folder = f"src/{'/'.join(parts)}"
    if len(parts) == 1 or (len(parts) == 2 and parts[1] in TABLES):
        return None
    if len(parts) == 3 and (choice := TABLES.get(parts[1])):
        return f"src/retrace/{parts[1]}/${{{choice}}}.py"
    return f"{folder}/__init__.py" if (ROOT / folder).is_dir() else f"{folder}.py"


def stale_deps(stage: str, declared: Iterable[str], source: str, graph: Graph) -> list[str]:
    """What dvc.yaml's `deps:` of a stage lacks or has too much, against what the stage's script imports."""
    files = {file for module in reached(imports_of_script(source, graph), graph) if (file := file_of(module))}
    needed = files | {f"stages/{stage}.py"}
    code = {dep for dep in declared if dep.startswith(("src/", "stages/"))}
    folders = {dep for dep in code if not dep.endswith(".py")}
    missing = {file for file in needed - code if not any(file.startswith(f"{folder}/") for folder in folders)}
    idle = {dep for dep in code - needed if not any(file.startswith(f"{dep}/") for file in needed)}
    return [f"{stage}: deps lacks {file}" for file in sorted(missing)] + [
        f"{stage}: deps has {file}, which it does not import" for file in sorted(idle)
    ]


def stale_params(stage: str, declared: Iterable[str]) -> list[str]:
    """What dvc.yaml's `params:` of a stage lacks or has too much, against the stage's typed parameters."""
    needed, said = set(params.keys_of(params.STAGES[stage])), set(declared)
    return [f"{stage}: params lacks {key}" for key in sorted(needed - said)] + [
        f"{stage}: params has {key}, which it does not read" for key in sorted(said - needed)
    ]


def unread_params(stage: type[params.Strict], sources: Iterable[str]) -> list[str]:
    """Fields of a stage's parameters (an object called `p` or `hardware`) that none of the sources it runs reads;
    `params.chosen` reads them all.
    """
    nodes = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    if any(ast.unparse(node) == "params.chosen" for node in nodes):
        return []
    read = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id in ("p", "hardware")}
    return [f"{stage.__name__}: nothing reads {field}" for field in stage.model_fields if field not in read]


def misnamed_entries(table: str, keys: Iterable[str], files: Iterable[str], settings: Iterable[str]) -> list[str]:
    """Where a table's keys, its files and its settings in params.yaml are not the same names."""
    names = {Path(file).stem for file in files}
    odd = (set(keys) ^ names) | (set(keys) ^ set(settings))
    return [f"{table}: {name} is not in the table, its folder and params.yaml alike" for name in sorted(odd)]


def defaults(models: Iterable[type[params.Strict]]) -> list[str]:
    """Typed parameters with a default: a second place for a value."""
    return [
        f"{model.__name__}.{name} has a default"
        for model in models
        for name, field in model.model_fields.items()
        if not field.is_required()
    ]


def settings_with_defaults(table: Mapping[str, Any]) -> list[str]:
    """Settings (keyword-only arguments) of a table's functions with a default."""
    return [f"{name} has a default" for name, function in table.items() if function.__kwdefaults__]


def shell_injections(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Stages whose command is built from parameters, which `-S` fills."""
    return [f"{name}: ${{}} in cmd" for name, stage in stages.items() if re.search(r"\$\{", str(stage["cmd"]))]


def commands_not_from_here(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Stages that would run another tree's code in a queued experiment."""
    return [
        f"{name}: {stage['cmd']}"
        for name, stage in stages.items()
        if stage["cmd"] != f"PYTHONPATH=src python stages/{name}.py"
    ]
