"""The text of a pipeline's code, to look for what a program uses."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from retrace.pipeline.definition import Stage
from retrace.pipeline.workspace import Workspace

SUFFIXES = (
    *(".py", ".r", ".jl", ".sh", ".ipynb"),
    *(".yaml", ".yml", ".toml", ".json", ".cfg", ".ini"),
)
MAX_BYTES = 10**6  # of a file
MAX_FILES = 200


def texts(workspace: Workspace, stage: Stage) -> Iterator[str]:
    """Yield the text of a stage's program, and of the code and parameters that it reads."""
    for file in islice(_files(workspace, stage), MAX_FILES):
        with suppress(OSError):
            if file.stat().st_size <= MAX_BYTES:
                yield file.read_text(encoding="utf-8", errors="replace")


def _files(workspace: Workspace, stage: Stage) -> Iterator[Path]:
    program = workspace.program(stage)
    paths = [workspace.root / path for path in (*stage.deps, *stage.params)]
    paths += [workspace.root / program] if program else []
    for path in dict.fromkeys(paths):
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in inside if file.suffix.lower() in SUFFIXES and file.is_file())
