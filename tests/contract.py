"""The rules that hold the pipeline together, each a function that returns what breaks it."""

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab import params


def unread_params(stage: type[params.Strict], sources: Iterable[str]) -> list[str]:
    """Fields of a stage's parameters (an object called `p` or `hardware`) that none of the sources it runs reads;
    `params.chosen` reads them all.
    """
    nodes = [
        node
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
    ]
    if any(ast.unparse(node) == "params.chosen" for node in nodes):
        return []
    read = {
        node.attr
        for node in nodes
        if isinstance(node.value, ast.Name) and node.value.id in ("p", "hardware")
    }
    return [
        f"{stage.__name__}: nothing reads {field}"
        for field in stage.model_fields
        if field not in read
    ]


def misnamed_entries(
    table: str, keys: Iterable[str], files: Iterable[str], settings: Iterable[str]
) -> list[str]:
    """Where a table's keys, its files and its settings in params.yaml are not the same names."""
    names = {Path(file).stem for file in files}
    odd = (set(keys) ^ names) | (set(keys) ^ set(settings))
    return [
        f"{table}: {name} is not in the table, its folder and params.yaml alike"
        for name in sorted(odd)
    ]


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
    return [
        f"{name}: ${{}} in cmd"
        for name, stage in stages.items()
        if re.search(r"\$\{", str(stage["cmd"]))
    ]


def commands_not_from_here(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Stages that would run another tree's code in a queued experiment."""
    return [
        f"{name}: {stage['cmd']}"
        for name, stage in stages.items()
        if stage["cmd"] != f"PYTHONPATH=src python stages/{name}.py"
    ]
