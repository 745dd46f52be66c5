"""Read the state of the pipeline in a folder or a commit, if dvc.lock is up to date."""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrace import settings
from retrace.errors import DataError, ParamsError
from retrace.pipeline import git, grouping, lockfile
from retrace.pipeline.overrides import Flat
from retrace.pipeline.workspace import Workspace
from retrace.system import files

SETTINGS = (".yaml", ".yml", ".toml", ".json")  # dvc.yaml may take values from such files
MAX_SETTINGS = 256 * 1024  # bytes; larger ones are data
OF_DVC = (".dvc", "dvc.lock", ".dvcignore", ".dvc/config")


@dataclass(frozen=True)
class Snapshot:
    """The state of a folder whose dvc.lock is up to date with its code and parameters."""

    params: Flat  # those that a stage reads
    key: str
    place: Mapping[str, Any]  # the MLflow experiment and the group, see pipeline/grouping
    locked: Mapping[str, lockfile.Locked]
    metrics: Mapping[str, float]  # of the metrics files


def read(folder: Path, names: Collection[str] | None = None) -> Snapshot | None:
    """Read a folder; None if dvc.lock lacks a stage, or is not up to date.

    With `names`, only these stages count, and what they made.
    """
    try:
        workspace = Workspace(folder)
        if not workspace.is_up_to_date(names):
            return None
        pipeline = workspace.pipeline
        counted = pipeline.stages if names is None else names
        return Snapshot(
            params=workspace.params(*pipeline.stages.values()),
            key=workspace.key(),
            place=grouping.of(workspace, settings.load(files.root())),
            locked={name: each for name, each in workspace.locked.items() if name in counted},
            metrics=workspace.metrics(names),
        )
    except (ParamsError, DataError, KeyError, OSError):
        return None


@contextmanager
def export(rev: str, *, with_files: bool = True) -> Iterator[Path]:
    """Yield a temporary folder with a commit's dvc.yaml, dvc.lock, and the values that they use.

    `with_files` adds the code, parameters and metrics, and also data if git has it.
    """
    sizes = git.list_files(rev)
    first = [path for path, size in sizes.items() if _is_of_pipeline(path, size)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for parent in {(folder / path).parent for path in sizes}:
            parent.mkdir(parents=True, exist_ok=True)  # DVC wants to see each `wdir`
        git.export_into(folder, rev, *first)
        with suppress(DataError):  # the caller reads it again, and says what is wrong
            pipeline = Workspace(folder).pipeline
            others = (*pipeline.leaves, *pipeline.params_files, *pipeline.metrics_files)
            missing = [path for path in others if path not in first]
            git.export_into(folder, rev, *(missing if with_files else ()))
        yield folder


def _is_of_pipeline(path: str, size: int) -> bool:
    return path.endswith(OF_DVC) or (path.endswith(SETTINGS) and size <= MAX_SETTINGS)
