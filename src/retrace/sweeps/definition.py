"""What defines a sweep: its space, metric, other parameters and code."""

import json
from dataclasses import dataclass
from typing import Any

from retrace.errors import ParamsError
from retrace.pipeline.overrides import Flat
from retrace.sweeps.objective import Objective
from retrace.sweeps.space import Space


@dataclass(frozen=True)
class SweepSettings:
    """The settings of a sweep."""

    name: str
    space: Space
    objective: Objective
    trials: int  # total, including those of earlier calls and other machines
    seed: int
    prune: bool
    steps: str | None = None  # the parameter that counts the steps of a curve

    @property
    def metric(self) -> str:
        return self.objective.metric

    def n_steps(self, changes: Flat) -> int | None:
        """Return how many steps a trial has; None if no parameter says so."""
        if self.steps is None:
            return None
        number = (self.space.parameters.base | changes).get(self.steps)
        return number if isinstance(number, int) else None


def describe(sweep: SweepSettings) -> dict[str, Any]:
    """Return what equal sweeps have in common: space, metric, other parameters and code."""
    about = {
        "space": sweep.space.described(),
        "metric": f"{sweep.metric} ({sweep.objective.direction})",
        "params": sweep.space.read(),
        "code": sweep.space.code(),
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
