"""What defines a sweep: its space, metric, other parameters and code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrace import settings
from retrace.errors import ParamsError
from retrace.pipeline import graph, hashing
from retrace.pipeline.metrics import Direction
from retrace.sweeps.space import Space


@dataclass(frozen=True)
class SweepSettings:
    """The settings of a sweep."""

    name: str
    space: Space
    metric: str
    direction: Direction
    trials: int  # total, including those of earlier calls and other machines
    seed: int
    prune: bool


def describe(sweep: SweepSettings) -> dict[str, Any]:
    """Return what equal sweeps have in common: space, metric, other parameters and code."""
    swept = dict.fromkeys(sweep.space.axes)
    about = {
        "space": sweep.space.described(),
        "metric": sweep.metric,
        "params": {
            key: value
            for key, value in (sweep.space.base | sweep.space.fixed).items()
            if key not in swept
        },
        "code": _code(sweep.space),
    }
    return json.loads(json.dumps(about))  # as it is read back from the database


def check_equal(name: str, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise ParamsError with the first difference between the stored sweep and this one."""
    for kind, what in (
        ("space", "searches"),
        ("metric", "optimizes"),
        ("params", "has"),
        ("code", "was started with"),
    ):
        then = stored[kind]
        now = current[kind]
        if then == now:
            continue
        if kind == "code":
            file = min(file for file in then | now if then.get(file) != now.get(file))
            difference = f"a different version of {file}"
        elif isinstance(then, dict):
            key = min(key for key in then | now if then.get(key) != now.get(key))
            difference = f"no {key}"
            if key in then:
                instead = f"not {now[key]}" if key in now else "which is missing now"
                difference = f"{key}={then[key]}, {instead}"
        else:
            difference = f"{then}, not {now}"
        advice = "undo the change to continue it, or start a new sweep with --name NAME"
        raise ParamsError(f"sweep {name} {what} {difference}; {advice}")


def _code(space: Space) -> dict[str, str]:
    """Return the MD5 of each file that a stage of any trial depends on and no stage makes."""
    hashes: dict[str, str] = {str(settings.DVC_YAML): hashing.md5(settings.DVC_YAML)}
    choices = [{key: value} for key, many in space.choices.items() for value in many.values()]
    for changes in [{}, *choices]:
        stages = graph.stages(space.values(space.fixed | changes))
        deps = {dep for stage in stages.values() for dep in stage.deps}
        leaves = deps - graph.makers(stages).keys() - hashes.keys()
        hashes |= {dep: hashing.md5(Path(dep)) for dep in leaves if Path(dep).exists()}
    return hashes
