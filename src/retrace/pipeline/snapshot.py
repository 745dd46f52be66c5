"""Read the state of the pipeline: parameters, key and dvc.lock, if dvc.lock is up to date."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrace import settings
from retrace.errors import DataError, ParamsError
from retrace.pipeline import graph, hashing, identity, overrides, params_file
from retrace.pipeline.metrics import parse_metrics


@dataclass(frozen=True)
class Snapshot:
    """The state of a folder whose dvc.lock is up to date with its code and parameters."""

    values: params_file.Values
    params: overrides.Flat  # those that a stage reads
    key: str
    locked: dict[str, graph.Locked]
    metrics: dict[str, float]  # of reports/metrics.json


def read(folder: Path) -> Snapshot | None:
    """Read a folder; None if dvc.lock lacks a stage, or is not up to date."""
    try:
        values = params_file.read(folder / settings.PARAMS)
        locked = graph.locked(folder)
        stages = graph.stages(values, folder)
        if not _is_up_to_date(values, stages, locked, folder):
            return None
    except (ParamsError, DataError, KeyError, OSError):
        return None
    images = locked["download"].deps.get(str(settings.IMAGES))
    file = folder / settings.METRICS
    is_locked = file.exists() and hashing.md5(file) == locked["evaluate"].outs.get(
        str(settings.METRICS)
    )
    metrics = parse_metrics(file.read_bytes()) if is_locked else {}
    used = graph.used_params(values, stages)
    return Snapshot(values, used, identity.key(values, folder, images), locked, metrics)


def _is_up_to_date(
    values: params_file.Values,
    stages: Mapping[str, graph.Stage],
    locked: Mapping[str, graph.Locked],
    folder: Path,
) -> bool:
    """Return whether dvc.lock records each stage with these parameters and files."""
    outs: dict[str, str] = {}
    for name, stage in stages.items():
        entry = locked.get(name)
        if (
            entry is None
            or set(entry.deps) != set(stage.deps)
            or set(entry.outs) != set(stage.outs)
        ):
            return False
        if overrides.flatten(entry.params) != overrides.select(values, stage.params):
            return False
        for path, md5 in entry.deps.items():
            if outs.get(path, _md5(folder / path) or md5) != md5:
                return False
        outs |= entry.outs  # dependencies of later stages
    return True


def _md5(path: Path) -> str | None:
    return hashing.md5(path) if path.exists() else None
