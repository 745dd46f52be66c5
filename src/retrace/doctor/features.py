"""What this repository's pipeline uses, and what of it is not tracked."""

from collections.abc import Callable, Iterator
from pathlib import Path

from retrace.doctor.findings import Check, Finding, ok, some, warning
from retrace.errors import RetraceError
from retrace.pipeline import inventory, program
from retrace.pipeline.definition import Pipeline, Stage, split_name
from retrace.pipeline.workspace import Workspace
from retrace.system.text import count

LIBRARIES = {"dvclive": "DVCLive", "mlflow": "MLflow"}  # which log by themselves


def seen() -> Iterator[Finding]:
    """List the features of the pipeline."""
    workspace = _workspace()
    if workspace is None:
        return  # the check of dvc.lock says why
    pipeline = workspace.pipeline
    stages = pipeline.stages.values()
    yield ok("; ".join([_stages(pipeline), *_declared(workspace), *_files(pipeline)]))
    imported = {stage.name: _libraries(workspace, stage) for stage in stages}
    for library, name in LIBRARIES.items():
        users = [stage for stage, own in imported.items() if library in own]
        if users:
            yield ok(f"{name} in {some(users)}")


def untracked() -> Iterator[Finding]:
    """List what is not tracked, and why."""
    workspace = _workspace()
    if workspace is None:
        return
    for what, why in inventory.untracked(workspace):
        yield ok(f"{what} {why}")
    old = inventory.old_locks(workspace)
    if old:
        state = "recorded by DVC 2 or older, whose hashes of text files are not those of the bytes"
        effect = "so files are not traced to the stage until DVC 3 has run it"
        yield warning(f"{some(old)}: {state}, {effect}", "dvc cache migrate --dvc-files")


def _workspace() -> Workspace | None:
    try:
        return Workspace(Path())
    except RetraceError:
        return None


def _stages(pipeline: Pipeline) -> str:
    words = count(len(pipeline.stages), "stage")
    n_files = len(pipeline.files)
    return words if n_files == 1 else f"{words} in {n_files} dvc.yaml"


def _declared(workspace: Workspace) -> Iterator[str]:
    """Yield the features of the stages, with how many stages have each."""
    stages = workspace.pipeline.stages.values()
    features: dict[str, Callable[[Stage], bool]] = {
        "of foreach or matrix": lambda stage: "@" in split_name(stage.name)[1],
        "with wdir": lambda stage: stage.folder != _folder(stage),
        "with several commands": lambda stage: len(stage.commands) > 1,
        "without deps": lambda stage: not stage.deps,
        "without outs": lambda stage: not stage.outs,
        "always_changed": lambda stage: stage.always_changed,
        "frozen": lambda stage: stage.is_frozen,
    }
    for name, has in features.items():
        if n := sum(map(has, stages)):
            yield f"{n} {name}"
    if any("${" in text for text in _texts(workspace)):
        yield "templating"


def _files(pipeline: Pipeline) -> Iterator[str]:
    if pipeline.sources:
        yield count(len(pipeline.sources), ".dvc file")
    if pipeline.params_files:
        yield f"params in {some(list(pipeline.params_files))}"
    if pipeline.metrics_files:
        yield f"metrics in {some(list(pipeline.metrics_files))}"
    if pipeline.artifacts:
        yield count(len(pipeline.artifacts), "artifact")


def _folder(stage: Stage) -> str:
    """Return the folder of a stage's dvc.yaml, which is its default `wdir`."""
    return Path(split_name(stage.name)[0]).parent.as_posix()


def _texts(workspace: Workspace) -> list[str]:
    return [(workspace.root / file).read_text("utf-8") for file in workspace.pipeline.files]


def _libraries(workspace: Workspace, stage: Stage) -> set[str]:
    script = workspace.program(stage)
    if script is None or not script.endswith(".py"):
        return set()
    own = program.imported(workspace.root, stage, script)
    return program.libraries(workspace.root / file for file in (script, *own))


CHECKS: dict[str, Check] = {"features": seen, "not tracked": untracked}
