"""`retrace sweep`: trials of an experiment, proposed by Optuna, run by DVC, shown in MLflow; and the best of them."""

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from retrace import git, params, paths
from retrace.errors import ParamsError, RetraceError
from retrace.redaction import redacted
from retrace.sweeps import runner, space, studies, trees
from retrace.sweeps.runner import Runner
from retrace.sweeps.studies import Sweep, SweepSettings
from retrace.tracking import sweeps as shown

BEST = 5  # trials in the table at the end
WIDTH = 120  # where there is no terminal


def sweep(
    words: Sequence[str],
    *,
    metric: str,
    trials: int,
    name: str | None,
    storage: str | None,
    seed: int,
    jobs: int,
    timeout: float,
    prune: bool,
    as_json: bool,
) -> None:
    """The sweep has so many trials, with those of earlier calls and of other machines; the best are printed.

    Raises RetraceError, before anything runs, where a word or an option is not allowed, or the name is another sweep's;
    and where the first trials all fail. Stopped by anything, the same call goes on.
    """
    for option, number in (("--trials", trials), ("--jobs", jobs), ("--timeout", timeout)):
        if not number > 0:
            raise ParamsError(f"{option} is {number:g}; should be above 0")
    asked = _asked(words, metric, trials, name, seed, prune=prune)
    place = studies.storage_address(storage)
    trees.current_origin()
    held = Sweep(asked, place)
    if held.is_new and (others := _named(asked.name)):
        held.forget()
        known = f"experiments of that name are there, {others[0]} for one, which {redacted(place)} does not know"
        raise ParamsError(f"{asked.name}: {known}; `dvc exp remove` them, or take another: --name NAME")
    is_shown = sys.stderr.isatty() if as_json else sys.stdout.isatty()
    say = Console(
        stderr=as_json, width=None if is_shown else WIDTH, highlight=False, markup=False, emoji=False, soft_wrap=True
    )
    running = Runner(held, jobs, time.monotonic() + timeout, say)
    running.run()
    _tell(running, say, as_json=as_json)


def _asked(
    words: Sequence[str], metric: str, trials: int, name: str | None, seed: int, *, prune: bool
) -> SweepSettings:
    direction = space.sweep_direction(metric)
    if not 0 <= seed < 2**32:
        raise ParamsError(f"--seed is {seed}; should be from 0 to {2**32 - 1}")
    values = params.read()
    params.checked(values)
    searched = space.parse_space(words, values)
    name = name or searched.name(metric)
    if not space.NAME.fullmatch(name):
        raise ParamsError(f"--name is {name!r}; should be a letter, then letters, digits, _ and -, up to 51 in all")
    return SweepSettings(name, searched, metric, direction, trials, seed, prune)


def _named(name: str) -> list[str]:
    """The experiments that are called as the sweep's trials would be."""
    return [ref.name for ref in git.experiments() if ref.name.rpartition("-")[0] == name]


def _tell(running: Runner, say: Console, *, as_json: bool) -> None:
    """What is best, as a picture, a table, and commands."""
    held = running.sweep
    complete = held.complete()
    if not complete:
        raise RetraceError(f"{held.asked.name}: no trial ran to its end; each has its reason above")
    picture = trees.sweep_folder(held.asked.name).with_suffix(".png")
    _draw(held, picture)
    name, changes = runner.best(held)
    running.show(shown.told, running.dataset, held.asked.name, held.n_over, name, changes, picture)
    if running.lacking:
        print(f"warning: MLflow lacks some of this: {running.lacking}", file=sys.stderr)
    flags = " ".join(f"-S {key}={value}" for key, value in changes.items())
    if as_json:
        print(json.dumps(_document(held, complete, picture, flags), indent=2))
        return
    say.print(_table(held, complete[:BEST]))
    experiment = str(name[0])
    if experiment in {ref.name for ref in git.experiments()}:
        say.print(f"the best into the workspace: dvc exp apply {experiment}")
    else:
        say.print(f"{experiment} was run on another machine; here: dvc exp run {flags}")
    say.print(
        f"all trials in a picture: {picture.relative_to(paths.root())}; in MLflow they are below {held.asked.name}"
    )


def _draw(held: Sweep, picture: Path) -> None:
    from retrace.sweeps import picture as drawn  # matplotlib

    drawn.draw(held.study, held.asked.space.axes, held.asked.metric, picture)


def _table(held: Sweep, trials: Sequence[FrozenTrial]) -> Table:
    keys = list(held.asked.space.axes)
    shown_in = Table("experiment", held.asked.metric, *keys, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for each in trials:
        cells = [each.params.get(key, "") for key in keys]
        words = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        shown_in.add_row(each.user_attrs["experiment"], f"{each.value:.4f}", *words)
    return shown_in


def _document(held: Sweep, complete: Sequence[FrozenTrial], picture: Path, flags: str) -> dict[str, Any]:
    """All that is known of the sweep, for a script."""
    asked = held.asked
    return {
        "sweep": asked.name,
        "metric": asked.metric,
        "direction": asked.direction,
        "best": {"experiment": complete[0].user_attrs["experiment"], "value": complete[0].value, "flags": flags},
        "picture": str(picture),
        "trials": [
            {
                "number": each.number,
                "state": each.state.name.lower(),
                "value": each.value if each.value is None or math.isfinite(each.value) else None,
                "params": asked.space.changes(each.params),
                "curve": {str(epoch): value for epoch, value in each.intermediate_values.items()},
                **{fact: each.user_attrs[fact] for fact in ("experiment", "reason") if fact in each.user_attrs},
            }
            for each in held.trials()
        ],
    }
