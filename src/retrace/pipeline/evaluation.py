"""How a metric comes about: the stages that make it, their data, the parameters that matter."""

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from retrace.pipeline import git, metrics
from retrace.pipeline.definition import PARAMS_YAML, Pipeline, Stage
from retrace.pipeline.workspace import Workspace

TABLES = (  # files that are data even if git tracks them
    *(".csv", ".tsv", ".json", ".jsonl", ".parquet", ".feather", ".arrow", ".xlsx", ".txt"),
    *(".npy", ".npz", ".h5", ".hdf5"),
)


def stages_of(workspace: Workspace, metric: str) -> tuple[str, ...]:
    """Return the stages whose metrics files have a metric; if none has it, all with such files."""
    pipeline = workspace.pipeline
    files: dict[str, list[str]] = {}
    for file in pipeline.metrics_files:
        if maker := pipeline.maker(file):
            files.setdefault(maker, []).append(file)
    prefixes = {stage: pipeline.stages[stage].metrics_prefix for stage in files}
    named = [stage for stage, prefix in prefixes.items() if prefix and metric.startswith(prefix)]
    if not named:
        named = [
            stage
            for stage, own in files.items()
            if metric in metrics.read_all(workspace.root / file for file in own).numbers
        ]
    return tuple(named or files)


def data_of(workspace: Workspace, *stages: str) -> list[str]:
    """Return the data that these stages evaluate a model on: what they read, but for the model.

    What was made with a model, or from other files that these stages read, does not count. A stage
    that reads nothing else evaluates on what the stages before it do.
    """
    pipeline = workspace.pipeline
    later = {each for each in pipeline.stages if _is_after_training(pipeline, each)}
    paths: list[str] = []
    for stage in stages:
        data = _data(workspace, pipeline.stages[stage])
        original = [path for path in data if not _is_derived(pipeline, path, data)]
        own = [path for path in original if pipeline.maker(path) not in later]
        makers = {pipeline.maker(path) for path in data if path not in pipeline.models}
        before = [each for each in pipeline.upstream(stage) if each in makers & later]
        paths += own or data_of(workspace, *before)
    return list(dict.fromkeys(paths))


def is_later(pipeline: Pipeline, stages: Collection[str]) -> Callable[[str], bool]:
    """Return a function: is a parameter read only by stages that come after these?"""
    ancestors = pipeline.ancestors(*stages)
    before = _keys(pipeline.stages[stage] for stage in ancestors)
    after = _keys(stage for name, stage in pipeline.stages.items() if name not in ancestors)

    def answer(param: str) -> bool:
        return bool(stages) and _is_in(param, after) and not _is_in(param, before)

    return answer


def _is_after_training(pipeline: Pipeline, stage: str) -> bool:
    trained = {pipeline.maker(path) for path in pipeline.models}
    return not trained.isdisjoint(pipeline.ancestors(stage))


def _data(workspace: Workspace, stage: Stage) -> list[str]:
    pipeline = workspace.pipeline
    suffix = Path(workspace.program(stage) or "").suffix or ".py"
    untracked = git.untracked(stage.deps, workspace.root)
    new = {path for path in untracked if not _is_code(workspace.root / path, suffix)}
    data = [path for path in stage.deps if pipeline.is_data(path) or path in new]
    return data or [path for path in stage.deps if path.lower().endswith(TABLES)]


def _is_code(path: Path, suffix: str) -> bool:
    """Return whether a file has this suffix, or a folder such a file."""
    return path.suffix == suffix or next(path.rglob(f"*{suffix}"), None) is not None


def _is_derived(pipeline: Pipeline, path: str, data: Iterable[str]) -> bool:
    """Return whether `path` was made by a stage that needs some of the other `data`."""
    maker = pipeline.maker(path)
    if maker is None:
        return False
    ancestors = pipeline.ancestors(maker)
    read = {dep for name in ancestors for dep in pipeline.stages[name].deps}
    others = [other for other in data if other != path]
    makers = {pipeline.maker(other) for other in others} - {maker}
    return not read.isdisjoint(others) or not makers.isdisjoint(ancestors)


def _keys(stages: Iterable[Stage]) -> list[tuple[str, str]]:
    """Return the files with the keys that stages read; `*` for a whole file."""
    tables = [item for stage in stages for item in stage.params.items()]
    return [(file, key) for file, keys in tables for key in keys or ("*",)]


def _is_in(param: str, keys: Iterable[tuple[str, str]]) -> bool:
    file, _, name = param.rpartition(":")
    return any(
        (file or PARAMS_YAML) == of_file and (fnmatchcase(name, key) or name.startswith(f"{key}."))
        for of_file, key in keys
    )
