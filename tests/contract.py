"""The rules that hold the pipeline together: each function lists what breaks one."""

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from lab import params


def unread_params(stage: type[params.Strict], sources: Iterable[str]) -> list[str]:
    """List the fields of a stage's parameters that none of the sources reads.

    The parameters are objects called `p`, `self.p` or `hardware`. `params.chosen` reads all fields.
    """
    trees = [ast.parse(source) for source in sources]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    if any(ast.unparse(node) == "params.chosen" for node in nodes):
        return []
    owners = ("p", "self.p", "hardware")
    read = {node.attr for node in nodes if ast.unparse(node.value) in owners}
    return [field for field in stage.model_fields if field not in read]


def misnamed_entries(
    functions: Iterable[str], files: Iterable[str], settings: Iterable[str]
) -> list[str]:
    """List the names that are not in a table, its folder and params.yaml alike."""
    names = set(functions)
    return sorted((names ^ set(files)) | (names ^ set(settings)))


def defaults(models: Iterable[type[params.Strict]]) -> list[str]:
    """List the typed parameters with a default, which is a second place for a value."""
    return [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if not field.is_required()
    ]


def settings_with_defaults(table: Mapping[str, Any]) -> list[str]:
    """List the functions of a table with a default for a setting, a keyword-only argument."""
    return [name for name, function in table.items() if function.__kwdefaults__]


def commands_with_params(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the stages whose command is built from parameters, which `-S` fills."""
    return [name for name, stage in stages.items() if "${" in str(stage["cmd"])]


def commands_not_from_here(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the stages that would run another tree's code in a queued experiment."""
    return [
        name
        for name, stage in stages.items()
        if stage["cmd"] != f"PYTHONPATH=src python stages/{name}.py"
    ]
