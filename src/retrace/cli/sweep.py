"""`retrace sweep`: run trials that Optuna proposes as DVC experiments, and print the best."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrace.cli import arguments
from retrace.errors import ParamsError, RetraceError
from retrace.pipeline import git, overrides
from retrace.system import files
from retrace.system.text import command

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from rich.console import Console
    from rich.table import Table

    from retrace.sweeps.runner import Runner
    from retrace.sweeps.study import Sweep, SweepSettings

GROUP = "run"
SUMMARY = "search parameters for the best metric: Optuna proposes trials, each a DVC experiment"
EXAMPLES = (
    "retrace sweep lr=log:1e-4..1e-1 --metric val_loss",
    "retrace sweep depth=2..8 train.toml:subsample=0.5..1 --metric rmse --trials 50",
    "retrace sweep optimizer=sgd,adam net.hidden=[64],[128,64] seed=1 --name hidden",
    "retrace sweep lr=log:1e-4..1e-1 --on cluster",
)
BEST = 5  # trials in the table at the end
WIDTH = 120  # if stdout is not a terminal


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "KEY=LOW..HIGH, KEY=log:LOW..HIGH, KEY=LOW..HIGH:STEP, KEY=A,B,C (choices), "
    text += "KEY=A (fixed in all trials)"
    parser.add_argument("words", nargs="+", metavar="KEY=VALUES", help=text)
    text = "total number of trials, including earlier calls (default: %(default)s)"
    parser.add_argument("--trials", type=int, default=30, metavar="N", help=text)
    text = "metric to optimize, of a metrics file or a curve, but not on test data "
    text += "(default: the setting sweep.metric, else metrics.primary)"
    parser.add_argument("--metric", metavar="NAME", help=text)
    group = parser.add_mutually_exclusive_group()
    for name, better in (("minimize", "lower"), ("maximize", "higher")):
        text = f"a {better} value of the metric is better (default: by its name)"
        group.add_argument(
            f"--{name}", dest="direction", action="store_const", const=name, help=text
        )
    text = "name of the sweep, and prefix of its experiments' names (default: made from the keys)"
    parser.add_argument("--name", help=text)
    text = "run trials on the machines of `retrace cluster` (default: on this one)"
    parser.add_argument("--on", choices=["cluster"], help=text)
    text = "number of trials that run at the same time (default: 1; on a cluster, its CPUs)"
    parser.add_argument("--jobs", type=int, metavar="N", help=text)
    text = "GPUs of a trial on a cluster (default: 0)"
    parser.add_argument("--gpus", type=int, metavar="N", help=text)
    text = "seconds after which no more trials start"
    parser.add_argument("--timeout", type=float, default=float("inf"), metavar="S", help=text)
    text = "seed of Optuna's sampler (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    text = "do not prune any trial"
    parser.add_argument("--no-prune", action="store_true", help=text)
    text = "a database shared by several machines, such as postgresql+psycopg2://host/name "
    text += "(default: RETRACE_SWEEP_STORAGE, or a file)"
    parser.add_argument("--storage", metavar="URL", help=text)


def run(args: Namespace) -> None:
    """Run trials until the sweep has `--trials` of them, over all calls; print the best.

    The same call resumes a sweep that was stopped.

    Raises RetraceError, before anything runs, if an argument is not allowed or the name belongs to
    another sweep; and if the first trials all fail.
    """
    from retrace.cli.dvc import exclude
    from retrace.pipeline.origin import current_origin
    from retrace.sweeps import study
    from retrace.sweeps.executor import opened_executor
    from retrace.sweeps.runner import Runner
    from retrace.sweeps.study import Sweep

    _check_positive(trials=args.trials, jobs=args.jobs, timeout=args.timeout)
    os.chdir(files.root())  # in a repository with several dvc.yaml, the nearest may be below
    settings = _settings(args)
    address = study.storage_address(args.storage)
    current_origin()
    exclude(files.root())
    console = _console(stderr=args.json)
    with opened_executor(settings, args.on, args.jobs, args.gpus or 0) as executor:
        current = Sweep(settings, address)
        if current.is_new:
            _check_name_is_free(current, settings.name, address)
        runner = Runner(current, executor, time.monotonic() + args.timeout, console)
        runner.run()
    _print_best(runner, console, as_json=args.json, is_here=args.on is None)


def _check_positive(**options: float | None) -> None:
    for option, number in options.items():
        if number is not None and not number > 0:
            raise ParamsError(f"--{option} is {number:g}; should be above 0")


def _console(*, stderr: bool) -> Console:
    """Return a console without markup, of a fixed width in a pipe."""
    from rich.console import Console

    is_terminal = sys.stderr.isatty() if stderr else sys.stdout.isatty()
    return Console(
        file=sys.stderr if stderr else sys.stdout,
        width=None if is_terminal else WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def _settings(args: Namespace) -> SweepSettings:
    """Return the settings of the sweep. Raises ParamsError if an argument is not allowed."""
    from retrace import settings
    from retrace.pipeline.workspace import Workspace
    from retrace.store import names
    from retrace.sweeps import objective, space
    from retrace.sweeps.parameters import Parameters
    from retrace.sweeps.study import SweepSettings

    if not 0 <= args.seed < 2**32:
        raise ParamsError(f"--seed is {args.seed}; should be from 0 to {2**32 - 1}")
    configured = settings.load(files.root())
    workspace = Workspace(files.root())
    metric = names.decode(args.metric) if args.metric else None  # as MLflow shows it
    optimized = objective.choose(workspace, configured, metric, args.direction)
    known = Parameters(workspace, optimized.targets)
    steps = configured.sweep.steps
    if steps and steps not in known.base:
        raise ParamsError(f"the setting sweep.steps is {steps!r}, which is no parameter")
    searched = space.parse_space(args.words, known, configured.sweep.fixed)
    name = args.name or searched.name(optimized.metric)
    if not space.NAME.fullmatch(name):
        raise ParamsError(
            f"--name is {name!r}; should be a letter, then letters, digits, _ and -, "
            "at most 51 characters"
        )
    return SweepSettings(
        name, searched, optimized, args.trials, args.seed, not args.no_prune, steps
    )


def _check_name_is_free(new: Sweep, name: str, address: str) -> None:
    """Forget a new sweep and raise ParamsError if experiments have the names of its trials."""
    from retrace.system.redaction import redacted

    others = [ref.name for ref in git.experiments() if ref.name.rpartition("-")[0] == name]
    if others:
        new.forget()
        state = f"DVC already has experiments with this name, such as {others[0]}, "
        state += f"but {redacted(address)} does not contain their sweep"
        remedy = "remove them with `dvc exp remove`, or choose another --name"
        raise ParamsError(f"{name}: {state}; {remedy}")


def _print_best(runner: Runner, console: Console, *, as_json: bool, is_here: bool) -> None:
    """Print the best trials as a table, with commands, and draw the plot."""
    from retrace.store import sweep_runs
    from retrace.sweeps import plot, repositories
    from retrace.sweeps.runner import best

    current = runner.sweep
    name = current.settings.name
    complete = current.complete()
    if not complete:
        raise RetraceError(f"{name}: no trial completed; the reasons are above")
    figure = repositories.sweep_folder(name).with_suffix(".png")
    plot.draw(current.study, current.settings.metric, figure)
    experiment, changes = best(current)
    runner.update_mlflow(
        sweep_runs.update, runner.experiment, name, current.n_over, experiment, changes, figure
    )
    if runner.lacking:
        missing = f"some data of this sweep is not in MLflow yet ({runner.lacking})"
        advice = "`retrace sync` uploads the trials, the same command uploads the rest"
        print(f"warning: {missing}; {advice}", file=sys.stderr)
    pairs = (f"{key}={overrides.literal(value)}" for key, value in changes.items())
    flags = command(*(word for pair in pairs for word in ("-S", pair)))
    if as_json:
        print(json.dumps(_document(current, complete, figure, flags), indent=2))
        return
    console.print(_table(current, complete[:BEST]))
    if str(experiment[0]) in {ref.name for ref in git.experiments()}:
        apply = command("dvc", "exp", "apply", str(experiment[0]))
        repro = "dvc repro" if is_here else "dvc repro --pull"
        console.print(f"to apply the best trial to the workspace: {apply} && {repro}")
    else:
        console.print(
            f"{experiment[0]} ran on another machine; to run it here: dvc exp run {flags}"
        )
    console.print(f"plot of all trials: {figure.relative_to(files.root())}")
    console.print(f"in MLflow they are below the run {name}")


def _table(current: Sweep, trials: Sequence[FrozenTrial]) -> Table:
    from rich.table import Table

    keys = list(current.settings.space.axes)
    table = Table(
        "experiment", current.settings.metric, *keys, box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for trial in trials:
        values = [trial.params.get(key, "") for key in keys]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(trial.user_attrs["experiment"], f"{trial.value:.4g}", *cells)
    return table


def _document(
    current: Sweep, complete: Sequence[FrozenTrial], figure: Path, flags: str
) -> dict[str, Any]:
    """Return the sweep and its trials as a document for scripts."""
    settings = current.settings
    return {
        "sweep": settings.name,
        "metric": settings.metric,
        "direction": settings.objective.direction,
        "best": {
            "experiment": complete[0].user_attrs["experiment"],
            "value": complete[0].value,
            "flags": flags,
        },
        "picture": str(figure),
        "trials": [
            {
                "number": each.number,
                "state": each.state.name.lower(),
                "value": each.value if each.value is None or math.isfinite(each.value) else None,
                "params": settings.space.changes(each.params),
                "curve": {str(step): value for step, value in each.intermediate_values.items()},
                **{
                    fact: each.user_attrs[fact]
                    for fact in ("experiment", "reason")
                    if fact in each.user_attrs
                },
            }
            for each in current.trials()
        ],
    }
