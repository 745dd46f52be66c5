"""`retrace sweep`: run trials that Optuna proposes as DVC experiments, and print the best."""

from __future__ import annotations

import json
import math
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrace.cli import arguments
from retrace.errors import ParamsError, RetraceError
from retrace.pipeline import git, params_file
from retrace.system import files

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from rich.console import Console
    from rich.table import Table

    from retrace.sweeps.runner import Runner
    from retrace.sweeps.study import Sweep
    from retrace.sweeps.study import SweepSettings as Asked

GROUP = "run"
SUMMARY = "search parameters for the best validation metric: Optuna proposes trials, each a DVC experiment"
EXAMPLES = (
    "retrace sweep lr=log:1e-4..1e-1 model=cnn,lenet",
    "retrace sweep lr=log:1e-4..1e-1 epochs=3 --trials 50 --metric val_loss",
    "retrace sweep model=mlp models.mlp.hidden=[64],[128,64] --name hidden",
)
BEST = 5  # trials in the table at the end
WIDTH = 120  # if stdout is no terminal


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "KEY=LOW..HIGH, KEY=log:LOW..HIGH, KEY=LOW..HIGH:STEP, KEY=A,B,C (choices), "
    text += "KEY=A (fixed in all trials)"
    parser.add_argument("words", nargs="+", metavar="KEY=VALUES", help=text)
    text = "in all, with those of earlier calls; %(default)s"
    parser.add_argument("--trials", type=int, default=30, metavar="N", help=text)
    text = "val_loss or val_accuracy; %(default)s"
    parser.add_argument("--metric", default="val_accuracy", metavar="NAME", help=text)
    text = "of the sweep and, with a number appended, of its experiments; default: the keys"
    parser.add_argument("--name", help=text)
    text = "trials at a time; %(default)s"
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=text)
    text = "seconds after which no trial starts"
    parser.add_argument("--timeout", type=float, default=float("inf"), metavar="S", help=text)
    text = "of Optuna's sampler; %(default)s"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    text = "run hopeless trials to their end too"
    parser.add_argument("--no-prune", action="store_true", help=text)
    text = "a database shared by several machines, as postgresql+psycopg2://host/name; "
    text += "default: RETRACE_SWEEP_STORAGE, or a file"
    parser.add_argument("--storage", metavar="URL", help=text)


def run(args: Namespace) -> None:
    sweep(
        args.words,
        metric=args.metric,
        trials=args.trials,
        name=args.name,
        storage=args.storage,
        seed=args.seed,
        jobs=args.jobs,
        timeout=args.timeout,
        prune=not args.no_prune,
        as_json=args.json,
    )


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
    """Run the sweep until it has so many trials, with earlier calls' and other machines'; print the best.

    If it is stopped, the same call resumes it.

    Raises RetraceError, before anything runs, if a word or option is not allowed or the name is
    another sweep's; and if the first trials all fail.
    """
    from rich.console import Console

    from retrace.sweeps import study, worktree
    from retrace.sweeps.runner import Runner
    from retrace.sweeps.study import Sweep
    from retrace.system.redaction import redacted

    for option, number in (("--trials", trials), ("--jobs", jobs), ("--timeout", timeout)):
        if not number > 0:
            raise ParamsError(f"{option} is {number:g}; should be above 0")
    asked = _asked(words, metric, trials, name, seed, prune=prune)
    place = study.storage_address(storage)
    worktree.current_origin()
    held = Sweep(asked, place)
    if held.is_new and (others := _named(asked.name)):
        held.forget()
        known = f"there are experiments of that name, as {others[0]}, unknown to {redacted(place)}"
        raise ParamsError(f"{asked.name}: {known}; `dvc exp remove` them, or choose another --name")
    is_shown = sys.stderr.isatty() if as_json else sys.stdout.isatty()
    say = Console(
        stderr=as_json,
        width=None if is_shown else WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )
    running = Runner(held, jobs, time.monotonic() + timeout, say)
    running.run()
    _print_best(running, say, as_json=as_json)


def _asked(
    words: Sequence[str], metric: str, trials: int, name: str | None, seed: int, *, prune: bool
) -> Asked:
    from retrace.sweeps import space
    from retrace.sweeps.study import SweepSettings as Asked

    direction = space.sweep_direction(metric)
    if not 0 <= seed < 2**32:
        raise ParamsError(f"--seed is {seed}; should be from 0 to {2**32 - 1}")
    values = params_file.read()
    params_file.check(values)
    searched = space.parse_space(words, values)
    name = name or searched.name(metric)
    if not space.NAME.fullmatch(name):
        raise ParamsError(
            f"--name is {name!r}; should be a letter, then letters, digits, _ and -, at most 51"
        )
    return Asked(name, searched, metric, direction, trials, seed, prune)


def _named(name: str) -> list[str]:
    """Return the experiments that have the names of the sweep's trials."""
    return [ref.name for ref in git.experiments() if ref.name.rpartition("-")[0] == name]


def _print_best(running: Runner, say: Console, *, as_json: bool) -> None:
    """Print the best trials as a table, with commands, and draw the plot."""
    from retrace.store import sweep_runs as shown
    from retrace.sweeps import runner, worktree

    held = running.sweep
    complete = held.complete()
    if not complete:
        raise RetraceError(f"{held.asked.name}: no trial ran to its end; each has its reason above")
    picture = worktree.sweep_folder(held.asked.name).with_suffix(".png")
    _draw(held, picture)
    name, changes = runner.best(held)
    running.show(
        shown.update, running.dataset, held.asked.name, held.n_over, name, changes, picture
    )
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
        say.print(f"{experiment} ran on another machine; here: dvc exp run {flags}")
    say.print(f"plot of all trials: {picture.relative_to(files.root())}")
    say.print(f"in MLflow they are below the run {held.asked.name}")


def _draw(held: Sweep, picture: Path) -> None:
    from retrace.sweeps import plot as drawn  # matplotlib

    drawn.draw(held.study, held.asked.metric, picture)


def _table(held: Sweep, trials: Sequence[FrozenTrial]) -> Table:
    from rich.table import Table

    keys = list(held.asked.space.axes)
    shown_in = Table(
        "experiment", held.asked.metric, *keys, box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for each in trials:
        cells = [each.params.get(key, "") for key in keys]
        words = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        shown_in.add_row(each.user_attrs["experiment"], f"{each.value:.4f}", *words)
    return shown_in


def _document(
    held: Sweep, complete: Sequence[FrozenTrial], picture: Path, flags: str
) -> dict[str, Any]:
    """Return all that is known of the sweep, for a script."""
    asked = held.asked
    return {
        "sweep": asked.name,
        "metric": asked.metric,
        "direction": asked.direction,
        "best": {
            "experiment": complete[0].user_attrs["experiment"],
            "value": complete[0].value,
            "flags": flags,
        },
        "picture": str(picture),
        "trials": [
            {
                "number": each.number,
                "state": each.state.name.lower(),
                "value": each.value if each.value is None or math.isfinite(each.value) else None,
                "params": asked.space.changes(each.params),
                "curve": {str(epoch): value for epoch, value in each.intermediate_values.items()},
                **{
                    fact: each.user_attrs[fact]
                    for fact in ("experiment", "reason")
                    if fact in each.user_attrs
                },
            }
            for each in held.trials()
        ],
    }
