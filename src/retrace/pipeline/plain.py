"""Read a plain pipeline without DVC, in milliseconds.

Plain is a repository with one dvc.yaml, at its root, without `vars`, `foreach`, `matrix` and
`wdir`, in which each `${...}` within a text is text, a number or a bool of params.yaml. `.dvc`
files may be anywhere. Whatever else DVC allows, and whatever it might refuse, is not plain: DVC
decides.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from retrace.errors import RetraceError
from retrace.pipeline import dvc_ignore, top_level, yaml_files
from retrace.pipeline.definition import (
    DVC_YAML,
    PARAMS_YAML,
    Kind,
    Out,
    Pipeline,
    Source,
    Stage,
    commands,
    prefixes,
)
from retrace.pipeline.dvc_files import INTERNAL, Files
from retrace.pipeline.plain_schema import (
    ARTIFACT,
    DATA,
    DOCUMENT,
    DVC_FILE,
    OUT,
    PLOT,
    STAGE,
    NotPlainError,
    Schema,
    require,
    require_plots,
    require_table,
    require_texts,
)

PLACEHOLDER = re.compile(r"\$\{([^\s.${}\[\]\\]+(?:\.[^\s.${}\[\]\\]+)*)\}")
KINDS: dict[str, Kind] = {"outs": "out", "metrics": "metric", "plots": "plot"}


def read(root: Path, files: Files) -> Pipeline | None:
    """Return the pipeline of the repository at `root` with these files; None if it is not plain.

    An invalid params.yaml is not noticed if dvc.yaml has no `${...}`.
    """
    try:
        return _pipeline(root, files)
    except (NotPlainError, RetraceError, yaml_files.YAMLError, RecursionError):
        return None
    except (UnicodeDecodeError, OSError):  # no params.yaml
        return None


def _pipeline(root: Path, files: Files) -> Pipeline:
    require(not files.repositories and set(files.pipelines) <= {DVC_YAML})
    document = _document(root / DVC_YAML) if files.pipelines else {}
    stages = {name: _stage(name, body) for name, body in document.get("stages", {}).items()}
    sources = tuple(source for file in files.sources for source in _sources(root, file))
    _check_outs(stages, sources, files)
    _check_ignored(root, stages, sources, files)
    require_texts(document.get("params", []))
    artifacts = document.get("artifacts", {})
    for artifact in artifacts.values():
        require_table(artifact, ARTIFACT, "path")
    plots = require_plots(document.get("plots", []))
    own = [plot for body in document.get("stages", {}).values() for plot in body.get("plots", [])]
    return Pipeline(
        stages=stages,
        sources=sources,
        metrics=tuple(
            top_level.metrics_paths(DVC_YAML, require_texts(document.get("metrics", [])))
        ),
        plots=tuple(top_level.plots_paths(DVC_YAML, plots)),
        artifacts=tuple(top_level.declared_artifacts(DVC_YAML, artifacts)),
        predictions=tuple(top_level.confusion_tables(DVC_YAML, [*own, *plots])),
    )


def _document(file: Path) -> dict[str, Any]:
    """Return dvc.yaml with each `${...}` replaced."""
    text = file.read_text(encoding="utf-8")
    document = yaml_files.parse(text) or {}
    require_table(document, DOCUMENT)
    if "${" not in text:
        return document
    require(not any("${" in str(name) for name in document.get("stages", {})))
    params = file.with_name(PARAMS_YAML).read_text(encoding="utf-8")
    return _filled(document, yaml_files.parse(params))


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Return a value with each `${...}` in its texts replaced."""
    if isinstance(value, dict):
        return {_filled(key, values): _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = PLACEHOLDER.fullmatch(value)  # DVC would keep the type of a number
    require(not whole or isinstance(_looked_up(values, whole[1]), str))
    text = PLACEHOLDER.sub(lambda match: _text(_looked_up(values, match[1])), value)
    require("${" not in PLACEHOLDER.sub("", value) and "\\" not in value)
    return text


def _looked_up(values: Any, key: str) -> Any:
    for name in key.split("."):
        require(isinstance(values, dict) and name in values)
        values = values[name]
    return values


def _text(value: Any) -> str:
    """Return a text, a number or a bool as DVC writes it."""
    require(isinstance(value, str | int | float))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _stage(name: Any, body: Any) -> Stage:
    require_table(body, STAGE, "cmd")
    require(isinstance(name, str) and name != "" and "@" not in name)
    cmd = body["cmd"]
    return Stage(
        name=name,
        commands=commands(require_texts(cmd) if isinstance(cmd, list) else cmd),
        deps=tuple(dict.fromkeys(map(_path, require_texts(body.get("deps", []))))),
        params=_params(body.get("params", [])),
        outs=tuple(
            Out(_path(path), kind, flags.get("cache", True), flags.get("persist", False))
            for key, kind in KINDS.items()
            for path, flags in _outs(body.get(key, []), PLOT if kind == "plot" else OUT)
        ),
        is_frozen=body.get("frozen", False),
        always_changed=body.get("always_changed", False),
    )


def _outs(entries: list[Any], schema: Schema) -> list[tuple[str, dict[str, Any]]]:
    """Return the path of each output with its flags."""
    outs: list[tuple[str, dict[str, Any]]] = []
    for entry in entries:
        require(isinstance(entry, str | dict))
        pairs = [(entry, {})] if isinstance(entry, str) else list(entry.items())
        for _, flags in pairs:
            require_table(flags, schema)
        outs += pairs
    return outs


def _params(entries: list[Any]) -> dict[str, tuple[str, ...]]:
    """Return the keys by file; no keys, in any of its entries, mean the whole file."""
    tables = [{PARAMS_YAML: [entry]} if isinstance(entry, str) else entry for entry in entries]
    keys: dict[str, dict[str, None]] = {}
    whole: set[str] = set()
    for table in tables:
        require(isinstance(table, dict))
        for file, own in table.items():
            path = _path(file)
            keys.setdefault(path, {}).update(dict.fromkeys(require_texts(own or [])))
            if not own:
                whole.add(path)
    return {path: () if path in whole else tuple(own) for path, own in keys.items()}


def _sources(root: Path, file: str) -> list[Source]:
    """Return the data of a `.dvc` file."""
    document = yaml_files.parse((root / file).read_text(encoding="utf-8")) or {}
    require_table(document, DVC_FILE)
    outs = document.get("outs", [])
    for out in outs:
        require_table(out, DATA, "path")
        require(out.get("hash", "md5") == "md5")
    wdir = document.get("wdir", ".")
    require(not wdir.startswith("/"))
    folder = posixpath.join(posixpath.dirname(file), wdir)
    return [Source(file, _path(out["path"], folder), out.get("md5") or None) for out in outs]


def _path(path: Any, folder: str = ".") -> str:
    """Return a path relative to the root; the address of external data as it is."""
    require(isinstance(path, str))
    if "://" in path:
        return path
    normal = posixpath.normpath(posixpath.join(folder, path))
    is_absolute = path.startswith(("/", "~"))
    is_internal = bool(set(INTERNAL) & set(normal.split("/"))) or normal.endswith(".dvc")
    is_pipeline = posixpath.basename(normal) == DVC_YAML
    require(path != "" and normal != "." and not (is_absolute or is_internal or is_pipeline))
    return normal


def _check_outs(stages: Mapping[str, Stage], sources: Iterable[Source], files: Files) -> None:
    """Require outputs in the repository that don't overlap, nor contain a file of DVC's."""
    outs = [out.path for stage in stages.values() for out in stage.outs]
    outs += [source.path for source in sources]
    require(not any("://" in out or out.split("/")[0] == ".." for out in outs))
    paths = set(outs)
    require(len(paths) == len(outs))
    require(not any(_is_within(posixpath.dirname(out), paths) for out in outs))
    require(not any(_is_within(file, paths) for file in files.sources))
    for stage in stages.values():
        own = {out.path for out in stage.outs}
        deps = {*stage.deps, *stage.params}
        require(not any(_is_within(dep, own) for dep in deps))
        require(not any(_is_within(out, deps) for out in own))


def _is_within(path: str, folders: set[str]) -> bool:
    """Return whether a path is one of these, or in one of them."""
    return any(prefix in folders for prefix in prefixes(path))


def _check_ignored(
    root: Path, stages: Mapping[str, Stage], sources: Iterable[Source], files: Files
) -> None:
    """Require that no .dvcignore could match a path, by the last part of its patterns."""
    patterns = [part for file in files.ignores for part in dvc_ignore.last_parts(root / file)]
    if not patterns:
        return
    paths = {*files.pipelines, *files.sources, *(source.path for source in sources)}
    for stage in stages.values():
        paths |= {*stage.deps, *stage.params, *(out.path for out in stage.outs)}
    names = {name for path in paths for name in path.split("/")}
    require(not any(fnmatchcase(name, pattern) for pattern in patterns for name in names))
