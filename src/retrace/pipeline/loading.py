"""Load the pipeline of a repository, in milliseconds unless DVC must read a changed one."""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import platformdirs

from retrace.errors import DataError
from retrace.pipeline import dvc_files, plain, yaml_files
from retrace.pipeline.definition import (
    PARAMS_YAML,
    Artifact,
    Out,
    Pipeline,
    Source,
    Stage,
    qualified,
    split_name,
)
from retrace.settings import PredictionsTable
from retrace.system import files as atomic_files

CACHE = Path(".retrace") / "pipeline.json"
FORMAT = 2  # of CACHE
CONFIG = (".dvc/config", ".dvc/config.local")


def root(start: Path) -> Path:
    """Return the repository that a folder is in: the nearest one upwards with `.dvc/`.

    Raises DataError if there is none.
    """
    absolute = start.resolve()
    for folder in (absolute, *absolute.parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise DataError(f"{start}: is not in a DVC repository; `dvc init` makes one")


def canonical(stage: str, dvc_cwd: Path, root: Path) -> str:
    """Return a stage's name in `Pipeline`, from DVC_STAGE and the folder that DVC was started in.

    Raises DataError if that stage is not in the repository at `root`.
    """
    file, name = split_name(stage)
    path = os.path.normpath(dvc_cwd.resolve() / file)
    relative = Path(os.path.relpath(path, root.resolve())).as_posix()
    if relative.startswith("../"):
        raise DataError(f"{stage}: started in {dvc_cwd}, it is not a stage of {root}")
    return qualified(relative, name)


def load(root: Path) -> Pipeline:
    """Return the pipeline of the repository at `root`. Raises DataError if it is not valid."""
    declaring = dvc_files.find(root)
    return plain.read(root, declaring) or _cached(root, declaring) or _indexed(root, declaring)


def _cached(root: Path, declaring: dvc_files.Files) -> Pipeline | None:
    """Return the pipeline in CACHE, if it is still that of these files."""
    try:
        entry = json.loads((root / CACHE).read_bytes())
        is_current = entry["about"] == _about(declaring) and all(
            _digest(root / path) == digest for path, digest in entry["inputs"].items()
        )
        return _decoded(entry["pipeline"]) if is_current else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, DataError):
        return None


def _indexed(root: Path, declaring: dvc_files.Files) -> Pipeline:
    """Return the pipeline as DVC reads it, and write it to CACHE."""
    from retrace.pipeline import dvc_index  # imports DVC

    started = time.time_ns()
    pipeline = dvc_index.index(root, declaring)
    try:
        paths = [*_declared(declaring), *vars_files(root, declaring, pipeline)]
    except yaml_files.INVALID:  # two parsers disagree
        return pipeline
    inputs = {path: _digest(root / path) for path in paths}
    if not any(_is_newer(root / path, started) for path in paths):  # changed while DVC read it
        entry = {"about": _about(declaring), "inputs": inputs, "pipeline": asdict(pipeline)}
        with suppress(OSError, DataError), atomic_files.atomic(root / CACHE) as unfinished:
            unfinished.write_text(json.dumps(entry), encoding="utf-8")
    return pipeline


def _about(declaring: dvc_files.Files) -> dict[str, Any]:
    """Return what a cached pipeline depends on besides the contents of files, as JSON keeps it."""
    from importlib.metadata import version  # takes time to import

    return json.loads(json.dumps({"format": FORMAT, "dvc": version("dvc"), **asdict(declaring)}))


def _declared(declaring: dvc_files.Files) -> list[str]:
    """Return the files that are read for any pipeline; some don't exist."""
    folders = {
        "DVC_GLOBAL_CONFIG_DIR": platformdirs.user_config_dir("dvc", "iterative"),
        "DVC_SYSTEM_CONFIG_DIR": platformdirs.site_config_dir("dvc", "iterative"),
    }
    outside = [f"{os.environ.get(name, folder)}/config" for name, folder in folders.items()]
    return [*declaring.pipelines, *declaring.sources, *declaring.ignores, *CONFIG, *outside]


def vars_files(root: Path, declaring: dvc_files.Files, pipeline: Pipeline) -> list[str]:
    """Return the files whose values `${...}` in a dvc.yaml may use; some don't exist.

    Those of a dvc.yaml are relative to its folder, those of a stage to the stage's `wdir`.
    """
    folders: dict[str, set[str]] = {}
    for stage in pipeline.stages.values():
        folders.setdefault(split_name(stage.name)[0], set()).add(stage.folder)
    paths: list[str] = []
    for file in declaring.pipelines:
        own = str(Path(file).parent)
        named = _named(yaml_files.parse((root / file).read_text(encoding="utf-8")))
        for folder in {own, *folders.get(file, ())}:
            paths += [f"{folder}/{name}" for name in (PARAMS_YAML, *named)]
    return sorted(set(paths))


def _named(document: Any) -> set[str]:
    """Return the files that `vars`, of dvc.yaml or of a stage, name: `a.yaml`, `a.yaml:key`."""
    tables: list[Any] = [document]
    tables += (document or {}).get("stages", {}).values()
    tables += [table["do"] for table in tables if "do" in (table or {})]
    entries = [entry for table in tables for entry in (table or {}).get("vars", [])]
    return {entry.partition(":")[0] for entry in entries if isinstance(entry, str)}


def _digest(path: Path) -> str | None:
    """Return a file's SHA-256; None if it cannot be read."""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _is_newer(path: Path, time_ns: int) -> bool:
    """Return whether a file was changed after that time."""
    return path.exists() and path.stat().st_mtime_ns > time_ns


def _decoded(entry: dict[str, Any]) -> Pipeline:
    """Return a pipeline from what `asdict` and JSON made of it."""
    stages = {name: _stage(stage) for name, stage in entry["stages"].items()}
    return Pipeline(
        stages=stages,
        sources=tuple(Source(**source) for source in entry["sources"]),
        metrics=tuple(entry["metrics"]),
        plots=tuple(entry["plots"]),
        artifacts=tuple(Artifact(**artifact) for artifact in entry["artifacts"]),
        predictions=tuple(PredictionsTable(**table) for table in entry["predictions"]),
    )


def _stage(entry: dict[str, Any]) -> Stage:
    lists = {key: tuple(entry[key]) for key in ("commands", "deps")}
    params = {file: tuple(keys) for file, keys in entry["params"].items()}
    outs = tuple(Out(**out) for out in entry["outs"])
    return Stage(**{**entry, **lists, "params": params, "outs": outs})
