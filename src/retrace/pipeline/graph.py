"""Read the stages that a plain dvc.yaml declares, for parameters that differ from params.yaml."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrace import settings
from retrace.errors import DataError
from retrace.pipeline import yaml_files

CHOICE = re.compile(r"(?P<table>[\w.]+)\.\$\{(?P<choice>\w+)\}")


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml."""

    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: tuple[str, ...]  # keys of params.yaml, some of them tables


def stages(values: Mapping[str, Any], folder: Path = Path()) -> dict[str, Stage]:
    """Return the stages of dvc.yaml in its order, with each `${...}` replaced by its value.

    Raises DataError if dvc.yaml is not valid.
    """
    declarations = declared(folder)
    with _validated(folder / settings.DVC_YAML):
        return {
            name: Stage(
                deps=tuple(_filled(dep, values) for dep in stage.get("deps", [])),
                outs=tuple(
                    _filled(out if isinstance(out, str) else next(iter(out)), values)
                    for kind in ("outs", "metrics", "plots")
                    for out in stage.get(kind, [])
                ),
                params=tuple(_filled(key, values) for key in stage.get("params", [])),
            )
            for name, stage in declarations.items()
        }


def declared(folder: Path = Path()) -> dict[str, dict[str, Any]]:
    """Return the stages of dvc.yaml as written, without replacing `${...}`. Raises DataError."""
    file = folder / settings.DVC_YAML
    with _validated(file):
        return yaml_files.parse(file.read_text(encoding="utf-8"))["stages"]


def choices(folder: Path = Path()) -> dict[str, str]:
    """Return each parameter that chooses an entry of a table, with the table: model -> models.

    In dvc.yaml, this is written `models.${model}`. Raises DataError.
    """
    keys = [key for stage in declared(folder).values() for key in stage.get("params", [])]
    pairs = filter(None, map(CHOICE.fullmatch, keys))
    return {pair["choice"]: pair["table"] for pair in pairs}


def makers(graph: Mapping[str, Stage]) -> dict[str, str]:
    """Return the stage that writes each output, by path."""
    return {out: name for name, stage in graph.items() for out in stage.outs}


@contextmanager
def _validated(file: Path) -> Iterator[None]:
    """Turn errors from parsing `file`, or from invalid entries, into DataError."""
    try:
        yield
    except yaml_files.INVALID as error:
        reason = " ".join(str(error).split())
        message = f"{file}: is not valid: {reason}; `git diff {file}` shows what changed"
        raise DataError(message) from None


def _filled(path: str, values: Mapping[str, Any]) -> str:
    """Return `path` with each `${...}` replaced by its value."""
    return re.sub(r"\$\{([\w.]+)\}", lambda name: str(_looked_up(values, name[1])), path)


def _looked_up(values: Mapping[str, Any], name: str) -> Any:
    value: Any = values
    for part in name.split("."):
        value = value[part]
    return value
