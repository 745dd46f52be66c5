"""Log what a stage made: its metrics files as metrics, its plots as artifacts, its models."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath

from retrace.event_log import EventLog, read
from retrace.pipeline import hashing, metrics
from retrace.pipeline.definition import Kind, Out, Pipeline, Stage
from retrace.pipeline.workspace import Workspace
from retrace.system.files import within

MAX_BYTES = 20 * 10**6  # of a plot; larger files are data
MAX_FILES = 200  # of a folder of plots
SHOWN = (  # what MLflow's page shows
    *(".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".html"),
    *(".json", ".yaml", ".yml", ".toml", ".csv", ".tsv", ".txt", ".md"),
)
PROBLEMS = "retrace.metrics.left_out"


def log(run: EventLog, workspace: Workspace, stage: Stage) -> None:
    """Log the metrics, plots and models of a finished stage.

    A stage without metrics files may have its numbers in other small files, which are read instead.
    If the stage has logged a summary itself, its numbers are not read; what it has logged for the
    experiment's run is not logged again.
    """
    root = workspace.root
    pipeline = workspace.pipeline

    def is_new(path: str) -> bool:
        file = root / path
        return file.exists() and file.stat().st_mtime_ns // 10**6 >= run.header["time"]

    declared = [*pipeline.files_of(stage, "metric"), *filter(is_new, _unmade(pipeline, "metric"))]
    plots = [*pipeline.files_of(stage, "plot"), *filter(is_new, _unmade(pipeline, "plot"))]
    contents = metrics.read_all(root / path for path in declared)
    if not contents.numbers:
        outs = (root / out.path for out in stage.outs if out.kind == "out")
        contents.numbers = metrics.read_outs(outs).numbers
    if contents.numbers and not run.has_summary():
        shared = workspace.shared(stage, contents.numbers)
        run.results(contents.numbers, workspace.summary(stage, contents.numbers) | shared)
    if contents.texts:
        run.tags(**contents.texts)
    if contents.problems:
        problems = (f"{path.name}: {why}" for path, why in contents.problems.items())
        run.tags(**{PROBLEMS: "; ".join(problems)})
    _log_models(run, workspace, stage)
    logged = {event["path"] for event in read(run.path) if event.get("headline") is True}
    for path in (*declared, *plots):
        for file in _shown(root / path):
            relative = file.relative_to(root)
            if str(relative) not in logged:
                run.artifact(relative, summary=True, root=root)


def _log_models(run: EventLog, workspace: Workspace, stage: Stage) -> None:
    """Log the models that the stage has made, unless its own code has logged them."""
    pipeline = workspace.pipeline
    events = read(run.path)
    packaged = {event["weights"] for event in events if event["kind"] == "model"}
    logged = {event["path"]: event["md5"] for event in events if event["kind"] == "model_files"}
    for artifact in pipeline.artifacts:
        path = artifact.path
        makers = pipeline.makers_within(path) or [pipeline.maker(path)]
        is_made = artifact.type == "model" and makers[-1] == stage.name and path not in packaged
        if not (is_made and _is_here(path) and (workspace.root / path).exists()):
            continue
        if path not in logged or hashing.md5(workspace.root / path) != logged[path]:
            run.model_files(Path(path), artifact.name, root=workspace.root)


def files(workspace: Workspace, stage: Stage) -> list[str]:
    """Return the files and folders that may have curves while the stage runs."""
    pipeline = workspace.pipeline
    paths = [out.path for out in stage.outs]
    for kind in ("metric", "plot"):
        paths += [*pipeline.files_of(stage, kind), *_unmade(pipeline, kind)]
    return list(dict.fromkeys(paths))


def is_missing(workspace: Workspace, out: Out) -> bool:
    """Return whether a stage that ended well did not make an output of this repository."""
    return _is_here(out.path) and not (workspace.root / out.path).exists()


def _is_here(path: str) -> bool:
    return "://" not in path and not PurePath(path).is_absolute()


def _unmade(pipeline: Pipeline, kind: Kind) -> list[str]:
    """Return the metrics or plots of the top level that no stage declares as an output.

    DVCLive writes such files. They are the stage's that changes them.
    """
    top = pipeline.metrics if kind == "metric" else pipeline.plots
    return [path for path in top if pipeline.maker(path) is None]


def _shown(path: Path) -> Iterator[Path]:
    """Yield the file, or the files in the folder, that are small and of a kind that is shown."""
    shown = (file for file in within(path) if file.suffix.lower() in SHOWN)
    yield from islice((file for file in shown if file.stat().st_size <= MAX_BYTES), MAX_FILES)
