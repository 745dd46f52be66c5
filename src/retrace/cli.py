"""The `retrace` command: names, help and exit codes. A command's module is imported when it is called."""

import os
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from retrace import errors, paths
from retrace.errors import ParamsError

Command = Callable[[Namespace, Path], None]

EXAMPLES = """\
examples:
  retrace recipe                                        what there is to reproduce
  dvc exp run $(retrace recipe cifar10_v3) -S lr=0.05   a recipe, with another learning rate
  retrace sweep lr=log:1e-4..1e-1 model=cnn,lenet       the best of thirty trials
  retrace ui                                            every run, curve, picture and model
  retrace sync                                          MLflow has what it missed
  retrace trace models/model.safetensors                what made this file, down to the raw data
  retrace verify 4f0c2d                                 make a run again, and compare every bit
  retrace clean                                         trainings that were interrupted, which can go on
  retrace reconcile                                     DVC's queue works again after a crash
"""


def main() -> None:
    """The process ends as `errors.run` says; without a word and with 141 where nobody reads its output any more."""
    try:
        try:
            errors.run(_call)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try once more, and complain
        sys.exit(128 + signal.SIGPIPE)


def _call() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.command is None:
        parser.print_help()
        return
    here = Path.cwd()
    os.chdir(_root())
    arguments.command(arguments, here)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "retrace",
        description="What one does around the pipeline; `dvc` and `mlflow` do the rest.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=None)
    _add_commands(partial(_added, parser.add_subparsers(title="commands", metavar="COMMAND")))
    return parser


def _added(commands: Any, name: str, command: Command, said: str, *examples: str) -> ArgumentParser:
    epilog = "\n  ".join(["examples:", *examples]) if examples else None
    parser = commands.add_parser(
        name, help=said, description=said, epilog=epilog, formatter_class=RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=command)
    return parser


def _add_commands(add: Callable[..., ArgumentParser]) -> None:
    recipe = add("recipe", _recipe, "print a recipe as flags for `dvc exp run`, or list all recipes")
    recipe.add_argument("name", nargs="?", metavar="NAME", help="a file in recipes/, without .yaml; none: list them")

    add("sync", _sync, "upload to MLflow what it missed: an outage, a killed stage, what DVC took from its cache")

    trace = add("trace", _trace, "say what made a file, or what a run made and how to get it back")
    trace.add_argument("target", metavar="FILE|RUN_ID", help="a file, wherever it lies now, or MLflow's id of a run")

    said = "make a run again from its code, parameters and data, and compare every output and metric; or hash the cache"
    verify = add("verify", _verify, said)
    which = verify.add_mutually_exclusive_group(required=True)
    which.add_argument("run", nargs="?", metavar="RUN_ID", help="MLflow's id of a run, or its first digits")
    said = "hash every file that dvc.lock names, here and in DVC's cache"
    which.add_argument("--cache", action="store_true", help=said)
    said = "of metrics, where the device is another kind; %(default)s"
    verify.add_argument("--tolerance", type=float, default=0.005, help=said)

    clean = add("clean", _clean, "list the checkpoints of trainings that did not end, or remove them")
    clean.add_argument("--force", action="store_true", help="remove those that no process uses")

    add("reconcile", _reconcile, "put back into DVC's queue what a worker had that is gone")

    ui = add("ui", _ui, "MLflow's pages, for this machine alone: one worker, and no page of another site gets in")
    ui.add_argument("--host", default="127.0.0.1", help="%(default)s, or another name of this machine for itself")
    ui.add_argument("--port", type=int, default=5000, help="%(default)s")

    said = "search parameters for the best validation metric: trials proposed by Optuna, each an experiment of DVC's"
    examples = (
        "retrace sweep lr=log:1e-4..1e-1 model=cnn,lenet",
        "retrace sweep lr=log:1e-4..1e-1 batch_size=32..256:32 epochs=3 --trials 50 --jobs 2 --metric val_loss",
        "retrace sweep model=mlp models.mlp.hidden=[64],[128,64] --name hidden",
    )
    sweep = add("sweep", _sweep, said, *examples)
    said = "KEY=LOW..HIGH, KEY=log:LOW..HIGH, KEY=LOW..HIGH:STEP, KEY=A,B,C (choices), KEY=A (the same in all trials)"
    sweep.add_argument("words", nargs="+", metavar="KEY=VALUES", help=said)
    said = "in all, with those of earlier calls; %(default)s"
    sweep.add_argument("--trials", type=int, default=30, metavar="N", help=said)
    sweep.add_argument("--metric", default="val_accuracy", metavar="NAME", help="val_loss or val_accuracy; %(default)s")
    sweep.add_argument("--name", help="of the sweep and, with a number behind it, of its experiments; else of the keys")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="trials at a time; %(default)s")
    sweep.add_argument(
        "--timeout", type=float, default=float("inf"), metavar="S", help="seconds, after which none begins"
    )
    sweep.add_argument("--seed", type=int, default=0, metavar="N", help="of what Optuna proposes; %(default)s")
    sweep.add_argument("--no-prune", action="store_true", help="hopeless trials too run to their end")
    said = "a database of several machines, as postgresql+psycopg2://host/name; else RETRACE_SWEEP_STORAGE, or a file"
    sweep.add_argument("--storage", metavar="URL", help=said)
    sweep.add_argument("--json", action="store_true", help="at the end, all trials as one document on stdout")


def _recipe(arguments: Namespace, _: Path) -> None:
    from retrace.commands import recipe

    if arguments.name is None:
        recipe.show()
    else:
        recipe.flags(arguments.name)


def _sync(_arguments: Namespace, _: Path) -> None:
    from retrace.commands import sync

    sync.sync()


def _trace(arguments: Namespace, here: Path) -> None:
    from retrace.commands import trace

    file = os.path.join(here, arguments.target)  # noqa: PTH118 - a run's id is none, however long
    trace.show(file if os.path.exists(file) else arguments.target)  # noqa: PTH110


def _verify(arguments: Namespace, _: Path) -> None:
    if arguments.cache:
        from retrace.commands import cache

        sys.exit(cache.check())
    from retrace.commands import verify

    sys.exit(verify.check(arguments.run, arguments.tolerance))


def _clean(arguments: Namespace, _: Path) -> None:
    from retrace.commands import clean

    clean.clean(force=arguments.force)


def _ui(arguments: Namespace, _: Path) -> None:
    from retrace.commands import ui

    ui.serve(arguments.host, arguments.port)


def _reconcile(_arguments: Namespace, _: Path) -> None:
    from retrace.commands import reconcile

    reconcile.reconcile()


def _sweep(arguments: Namespace, _: Path) -> None:
    from retrace.commands import sweep

    sweep.sweep(
        arguments.words,
        metric=arguments.metric,
        trials=arguments.trials,
        name=arguments.name,
        storage=arguments.storage,
        seed=arguments.seed,
        jobs=arguments.jobs,
        timeout=arguments.timeout,
        prune=not arguments.no_prune,
        as_json=arguments.json,
    )


def _root() -> Path:
    """The repository that the working directory is in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / paths.GRAPH).is_file():
            return folder
    raise ParamsError(f"{here}: has no {paths.GRAPH}, nor has a folder above; run retrace in the repository")
