"""The graph as DVC has it: dvc.yaml with its parameters filled in, and what dvc.lock says was made."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml import CSafeLoader

from retrace import paths
from retrace.errors import DataError

LOCK = Path("dvc.lock")
DEEPEST = 10_000  # brackets of a file, or characters of a line: libyaml dies of some ten thousand levels


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml."""

    deps: tuple[str, ...]
    outs: tuple[str, ...]


@dataclass(frozen=True)
class Locked:
    """A stage of dvc.lock: the MD5 of what it read and made, and the parameters that it ran with, by their keys in
    params.yaml.
    """

    deps: Mapping[str, str]
    outs: Mapping[str, str]
    params: Mapping[str, Any]


def stages(values: Mapping[str, Any], folder: Path = Path()) -> dict[str, Stage]:
    """The stages of `folder`'s dvc.yaml in its order, with `${...}` filled in from `values`. Raises DataError where it
    is not as DVC has it.
    """
    written = declared(folder)
    with _dvc_s(folder / paths.GRAPH):
        return {
            name: Stage(
                deps=tuple(_filled(dep, values) for dep in stage.get("deps", [])),
                outs=tuple(
                    _filled(out if isinstance(out, str) else next(iter(out)), values)
                    for kind in ("outs", "metrics", "plots")
                    for out in stage.get(kind, [])
                ),
            )
            for name, stage in written.items()
        }


def declared(folder: Path = Path()) -> dict[str, dict[str, Any]]:
    """The stages of `folder`'s dvc.yaml as they are written there, with its `${...}`. Raises DataError."""
    file = folder / paths.GRAPH
    with _dvc_s(file):
        return _parsed(file.read_text(encoding="utf-8"))["stages"]


def makers(graph: Mapping[str, Stage]) -> dict[str, str]:
    """Which stage makes a file, by path."""
    return {out: name for name, stage in graph.items() for out in stage.outs}


def locked(folder: Path = Path()) -> dict[str, Locked]:
    """The stages of `folder`'s dvc.lock; none where there is no dvc.lock. Raises DataError where it is not as DVC has
    it, as after a merge.
    """
    file = folder / LOCK
    if not file.exists():
        return {}
    with _dvc_s(file):
        return {
            name: Locked(
                deps={dep["path"]: dep["md5"] for dep in stage.get("deps", [])},
                outs={out["path"]: out["md5"] for out in stage.get("outs", [])},
                params=stage.get("params", {}).get(str(paths.PARAMS), {}),
            )
            for name, stage in (_parsed(file.read_text(encoding="utf-8")) or {}).get("stages", {}).items()
        }


def _parsed(text: str) -> Any:
    """What `yaml.safe_load` gives, plain values and no objects, ten times as fast: its loader, in C.

    Raises YAMLError where it could be nested so deeply that the process would end without a word.
    """
    if max(text.count("[") + text.count("{"), *map(len, text.split("\n"))) > DEEPEST:
        raise yaml.YAMLError(f"more than {DEEPEST:,} brackets, or characters in a line")
    return yaml.load(text, CSafeLoader)


@contextmanager
def _dvc_s(file: Path) -> Iterator[None]:
    try:
        yield
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, LookupError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{file}: not as DVC has it: {said}; `git diff {file}` shows what changed") from None


def _filled(path: str, values: Mapping[str, Any]) -> str:
    """The path, with the parameters that it names by `${...}`."""
    return re.sub(r"\$\{([\w.]+)\}", lambda name: str(_looked_up(values, name[1])), path)


def _looked_up(values: Mapping[str, Any], name: str) -> Any:
    value: Any = values
    for part in name.split("."):
        value = value[part]
    return value
