"""Read the pipeline: the stages that dvc.yaml declares, and the state that dvc.lock records."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml import CSafeLoader

from retrace import settings
from retrace.errors import DataError
from retrace.pipeline import overrides

LOCK = Path("dvc.lock")
CHOICE = re.compile(r"(?P<table>[\w.]+)\.\$\{(?P<choice>\w+)\}")
INVALID = (
    *(yaml.YAMLError, RecursionError),  # of the parser
    *(ValueError, AttributeError, TypeError, LookupError),  # of entries
)
MAX_DEPTH = 10_000  # brackets in a file, or characters in a line: with more, libyaml can crash


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml."""

    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: tuple[str, ...]  # keys of params.yaml, some of them tables


@dataclass(frozen=True)
class Locked:
    """A stage of dvc.lock: the MD5 of its deps and outs by path, and its parameters by key."""

    deps: Mapping[str, str]
    outs: Mapping[str, str]
    params: Mapping[str, Any]


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
        return _parsed(file.read_text(encoding="utf-8"))["stages"]


def names(folder: Path = Path()) -> list[str]:
    """List the names of the stages, in dvc.yaml's order. Raises DataError."""
    return list(declared(folder))


def choices(folder: Path = Path()) -> dict[str, str]:
    """Return each parameter that chooses an entry of a table, with the table: model -> models.

    In dvc.yaml, this is written `models.${model}`. Raises DataError.
    """
    keys = [key for stage in declared(folder).values() for key in stage.get("params", [])]
    pairs = filter(None, map(CHOICE.fullmatch, keys))
    return {pair["choice"]: pair["table"] for pair in pairs}


def used_params(values: Mapping[str, Any], stages: Mapping[str, Stage]) -> overrides.Flat:
    """Return the values that any of the stages reads, flat; of a table only the chosen entry."""
    keys = dict.fromkeys(key for stage in stages.values() for key in stage.params)
    return overrides.select(values, keys)


def makers(graph: Mapping[str, Stage]) -> dict[str, str]:
    """Return the stage that writes each output, by path."""
    return {out: name for name, stage in graph.items() for out in stage.outs}


def locked(folder: Path = Path()) -> dict[str, Locked]:
    """Return the stages of dvc.lock; none if the file does not exist.

    Raises DataError if it is not valid, for example after a merge with conflicts.
    """
    file = folder / LOCK
    if not file.exists():
        return {}
    with _validated(file):
        document = _parsed(file.read_text(encoding="utf-8")) or {}
        return {
            name: Locked(
                deps={dep["path"]: dep["md5"] for dep in stage.get("deps", [])},
                outs={out["path"]: out["md5"] for out in stage.get("outs", [])},
                params=stage.get("params", {}).get(str(settings.PARAMS), {}),
            )
            for name, stage in document.get("stages", {}).items()
        }


def _parsed(text: str) -> Any:
    """Parse plain values like `yaml.safe_load`, but ten times as fast, with the loader in C.

    Also raises YAMLError if the text could be nested so deeply that libyaml would crash.
    """
    n_brackets = text.count("[") + text.count("{")
    longest_line = max(map(len, text.split("\n")))
    if max(n_brackets, longest_line) > MAX_DEPTH:
        raise yaml.YAMLError(f"more than {MAX_DEPTH:,} brackets, or characters in a line")
    return yaml.load(text, CSafeLoader)


@contextmanager
def _validated(file: Path) -> Iterator[None]:
    """Turn errors from parsing `file`, or from invalid entries, into DataError."""
    try:
        yield
    except INVALID as error:
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
