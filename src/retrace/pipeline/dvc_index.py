"""Read any pipeline with DVC's own index, which dvc.api (3.67) has no function for.

A module beside dvc_internals, which does not import DVC before it needs it: here everything does.
tests/pipeline/test_dvc_index.py fails if these internals change.
"""

import logging
import os
import posixpath
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.repo import Repo

from retrace.errors import DataError
from retrace.pipeline import dvc_internals, top_level, yaml_files
from retrace.pipeline.definition import (
    DVC_YAML,
    Kind,
    Out,
    Pipeline,
    Source,
    Stage,
    commands,
    qualified,
)
from retrace.pipeline.dvc_files import Files

# What DVC raises for an invalid dvc.yaml besides its own exceptions. ImportError: a dep at an
# address whose plugin, such as dvc-s3, is not installed.
OTHER_ERRORS = (ImportError, AssertionError, AttributeError, TypeError, ValueError, RecursionError)


class _Reader(Repo):
    """DVC's repository object, as for a repository that is only read.

    Otherwise opening it creates databases, `.dvc/tmp` and entries of `.dvc/.gitignore`.
    """

    def _get_repo_dirs(self, root_dir: str | None = None, *_: Any, **__: Any) -> tuple[str, None]:
        return root_dir or ".", None  # no folder to write to

    @cached_property
    def config(self) -> Config:
        folder = Path(self.root_dir) / self.DVC_DIR
        config: Any = Config(dvc_dir=str(folder))  # DVC has few type annotations
        config["cache"].setdefault("dir", str(folder / "cache"))  # an import needs to know it
        if not any((each / ".git").exists() for each in folder.parents):  # an exported commit
            config["core"]["no_scm"] = True
        return config


def index(root: Path, files: Files) -> Pipeline:
    """Return the pipeline of the repository at `root` with these files, as DVC reads it.

    Raises DataError with DVC's message if it is not valid.
    """
    root = root.absolute()
    with _errors(), _silence():
        for file in (*files.pipelines, *files.sources):
            _check_depth(root / file)
        with _Reader(str(root)) as repo:
            loaded: Any = repo.index
            loaded.check_graph()
            return _pipeline(root, loaded)


def _pipeline(root: Path, loaded: Any) -> Pipeline:
    stages = [stage for stage in loaded.stages if not stage.is_data_source]
    sources = [
        Source(_relative(root, stage.path), _path(root, out), _md5(out))
        for stage in loaded.stages
        if stage.is_data_source
        for out in stage.outs
    ]
    # DVC finds files in the order of the file system.
    stages.sort(key=lambda stage: _position(stage.path_in_repo))
    sources.sort(key=lambda source: _position(source.file))
    metrics, plots, artifacts = (
        sorted(
            ((_relative(root, file), entries) for file, entries in section.items()),
            key=lambda item: _position(item[0]),
        )
        for section in dvc_internals.top_level(loaded)
    )
    return Pipeline(
        stages={stage.name: stage for stage in (_stage(root, stage) for stage in stages)},
        sources=tuple(sources),
        metrics=tuple(path for item in metrics for path in top_level.metrics_paths(*item)),
        plots=tuple(path for item in plots for path in top_level.plots_paths(*item)),
        artifacts=tuple(
            entry for item in artifacts for entry in top_level.declared_artifacts(*item)
        ),
        predictions=tuple(
            table
            for item in [(DVC_YAML, _own_plots(root, stages)), *plots]
            for table in top_level.confusion_tables(*item)
        ),
    )


def _stage(root: Path, stage: Any) -> Stage:
    params = set(stage.params)
    return Stage(
        name=qualified(_relative(root, stage.path), stage.name),
        commands=commands(stage.cmd),
        folder=_relative(root, stage.wdir),
        deps=tuple(dict.fromkeys(_path(root, dep) for dep in stage.deps if dep not in params)),
        params=_params(root, stage),
        outs=tuple(
            Out(_path(root, out), _kind(out), bool(out.use_cache), bool(out.persist))
            for out in stage.outs
        ),
        is_frozen=stage.frozen,
        always_changed=stage.always_changed,
    )


def _own_plots(root: Path, stages: list[Any]) -> list[dict[str, Any]]:
    """Return the plots that are outputs of stages, as dvc.yaml has them at the top level."""
    return [
        {_path(root, out): out.plot}
        for stage in stages
        for out in stage.outs
        if isinstance(out.plot, dict)
    ]


def _params(root: Path, stage: Any) -> dict[str, tuple[str, ...]]:
    """Return the keys by file; no keys, in any of its entries, mean the whole file."""
    keys: dict[str, tuple[str, ...]] = {}
    for dep in stage.params:
        path = _path(root, dep)
        is_whole = not dep.params or keys.get(path) == ()
        keys[path] = () if is_whole else tuple(dict.fromkeys((*keys.get(path, ()), *dep.params)))
    return keys


def _kind(out: Any) -> Kind:
    if out.plot:  # its properties, or True
        return "plot"
    return "metric" if out.metric else "out"


def _path(root: Path, item: Any) -> str:
    """Return the path of a dep or an output; an address, or a path outside, as it is written."""
    is_outside = posixpath.isabs(item.def_path) and not item.is_in_repo
    if "://" in item.def_path or is_outside:
        return item.def_path
    return _relative(root, item.fs_path)


def _relative(root: Path, path: str) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _position(file: str) -> tuple[int, str]:
    """Return the key that sorts files: those of the root first."""
    return posixpath.normpath(file).count("/"), file


def _md5(out: Any) -> str | None:
    """Return the hash that a `.dvc` file records."""
    info = out.hash_info
    return info.value if info and info.name.startswith("md5") else None


def _check_depth(file: Path) -> None:
    try:
        yaml_files.check_depth(file.read_text(encoding="utf-8", errors="replace"))
    except yaml_files.YAMLError as error:
        raise DataError(f"{file}: is not valid: {error}") from None


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what DVC raises for an invalid repository into DataError, in one line."""
    try:
        yield
    except (DvcException, *OTHER_ERRORS) as error:
        cause = error.__cause__
        detail = str(getattr(cause, "problem", None) or cause or "")  # such as YAML's
        reason = str(error) or type(error).__name__
        parts = [reason] if not detail or detail in reason else [reason, detail]
        raise DataError(" ".join(": ".join(parts).split())) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress what DVC logs, on stderr, and Python's warnings about it."""
    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
