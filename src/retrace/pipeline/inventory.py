"""What a repository declares that can be tracked, and what of it cannot, and why."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from retrace.errors import DataError
from retrace.pipeline import dvc_files, lockfile, metrics
from retrace.pipeline.definition import PARAMS_YAML, Stage
from retrace.pipeline.workspace import Workspace

PREDICTED = re.compile(r"^(y_?)?(hat|pred(icted|iction|ictions)?)$", re.IGNORECASE)
ACTUAL = re.compile(r"^(y_?)?(true|actual|target|label|truth)$|^y$", re.IGNORECASE)
TABLES = (".csv", ".tsv")
QUALITY = re.compile(r"accuracy|score|auc|f1|r2|precision|recall|map|iou|bleu", re.IGNORECASE)
TIMES = re.compile(r"(^|[^a-z])(s|ms|time|seconds|latency|duration)$", re.IGNORECASE)


@dataclass(frozen=True)
class Inventory:
    """What a repository declares; each entry of a kind as text."""

    kinds: dict[str, list[str]]  # by kind, such as `metrics`; of some there is nothing
    untracked: list[tuple[str, str]]  # what is not tracked, or not fully, and why
    primary: str | None  # the metric by which experiments are probably compared


def take(workspace: Workspace) -> Inventory:
    """Return the inventory of a repository. Raises DataError if its dvc.yaml is not valid."""
    pipeline = workspace.pipeline
    stages = pipeline.stages.values()
    numbers = workspace.metrics()
    plots = [out.path for stage in stages for out in stage.outs if out.kind == "plot"]
    models = [each.path for each in pipeline.artifacts if each.type == "model"]
    kinds = {
        "stages": list(pipeline.stages),
        "params": sorted({name for stage in stages for name in _params(stage)}),
        "data": [source.path for source in pipeline.sources],
        "metrics": list(numbers) or list(pipeline.metrics_files),
        "plots": list(dict.fromkeys([*plots, *pipeline.plots])),
        "models": models,
        "predictions": list(dict.fromkeys(_predictions(workspace))),
    }
    missing = list(untracked(workspace))
    if old := old_locks(workspace):
        why = f"has hashes of DVC 2 ({', '.join(old)}): not compared until these stages run again"
        missing.append(("dvc.lock", why))
    return Inventory(kinds, missing, primary(numbers))


def primary(names: Iterable[str]) -> str | None:
    """Return the metric that probably says how good an experiment is; None if there is none.

    That is the first of those of the test split, else of the validation split, else of none.
    """
    known = [name for name in names if _is_quality(name)]
    for split in (r"test", r"val|dev", r"^(?!.*train)"):
        for name in known:
            if re.search(split, name, re.IGNORECASE):
                return name
    return known[0] if known else None


def _is_quality(name: str) -> bool:
    is_known = metrics.is_minimized(name) or QUALITY.search(name)
    return bool(is_known) and not TIMES.search(name)


def _params(stage: Stage) -> Iterator[str]:
    """Yield the parameters that a stage reads: lr, conf/net.toml:width, all of conf/net.toml."""
    for file, keys in stage.params.items():
        prefix = "" if file == PARAMS_YAML else f"{file}:"
        yield from (f"{prefix}{key}" for key in keys)
        if not keys:
            yield f"all of {file}"


def _predictions(workspace: Workspace) -> Iterator[str]:
    """Yield the outputs that are tables with an actual and a predicted value in each row."""
    pipeline = workspace.pipeline
    for path in (*pipeline.makers, *pipeline.plots):
        file = workspace.root / path
        if file.suffix.lower() in TABLES and file.is_file():
            delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
            with file.open(encoding="utf-8", errors="replace", newline="") as text:
                columns = next(csv.reader(text, delimiter=delimiter), [])
            if any(map(ACTUAL.search, columns)) and any(map(PREDICTED.search, columns)):
                yield path


def untracked(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Yield what is not tracked, or not fully, and why."""
    pipeline = workspace.pipeline
    for stage in pipeline.stages.values():
        if not stage.outs:
            yield stage.name, "has no outs: its files are not traced, and `verify` compares nothing"
        if stage.is_frozen:
            yield stage.name, "is frozen: DVC does not run it, so that it gets no run"
        paths = [*stage.deps, *(out.path for out in stage.outs)]
        for path in filter(_is_external, paths):
            yield path, f"is outside the repository ({stage.name}): its content is not hashed"
    for folder in dvc_files.find(workspace.root).repositories:
        yield folder, "is a DVC repository of its own: run `retrace` there"
    if not pipeline.metrics_files:
        yield "metrics", "none declared: numbers are read from small JSON, YAML and TOML outs only"
    yield from _unread(workspace)


def _unread(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Yield the metrics files and locks that cannot be read, or only in part."""
    files = (workspace.root / path for path in workspace.pipeline.metrics_files)
    for file, why in metrics.read_all(files).problems.items():
        yield file.relative_to(workspace.root).as_posix(), f"cannot be read: {why}"
    try:
        locked = workspace.locked
    except DataError as error:
        yield "dvc.lock", " ".join(str(error).split())
        return
    new = (name for name in workspace.pipeline.stages if name not in locked)
    yield from ((name, "is not in dvc.lock: it never ran") for name in new)


def old_locks(workspace: Workspace) -> list[str]:
    """Return the stages for which dvc.lock has hashes of DVC 2, not those of the files' bytes."""
    try:
        return [name for name, entry in workspace.locked.items() if _is_old(entry)]
    except DataError:
        return []


def _is_old(entry: lockfile.Locked) -> bool:
    hashes = (*entry.deps.values(), *entry.outs.values())
    return any(each and each.algorithm == "md5-dos2unix" for each in hashes)


def _is_external(path: str) -> bool:
    return "://" in path or Path(path).is_absolute() or path.startswith("../")
