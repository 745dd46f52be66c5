"""The `retrace` command: names, help and exit codes. A command's module is imported when it is called.

To add one: a block in `_add_commands` (its first words are its line in the help, up to a colon), a function that calls
it, and its name in `GROUPS`.

Exit codes: 0, done; 1, a check found something (verify, doctor); 2, what was typed or what is there does not allow it,
and a line on stderr says what to do; 128 + n, ended by signal n: 130 by Ctrl-C, 141 by a pipe that nobody reads, 143 by
SIGTERM or a lost terminal. An error of ours has a traceback, and 1.
"""

import os
import signal
import sys
import textwrap
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from retrace import errors, paths, usage
from retrace.errors import ParamsError

Command = Callable[[Namespace, Path], None]

GROUPS = {  # of the help: a group's commands, in its order
    "run": ("recipe",),
    "look": ("ui",),
    "trust": ("trace", "verify"),
    "mend": ("doctor", "sync", "reconcile", "clean"),
}
JSON = "one JSON document, for scripts, in place of what people read"


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
    if arguments.version:
        print(f"retrace {metadata.version('retrace')}")
    elif arguments.print_completion:
        print(usage.completion(parser, arguments.print_completion))
    elif arguments.command is None:
        parser.print_help()
    else:
        here = Path.cwd()
        os.chdir(_root())
        arguments.command(arguments, here)


def _parser() -> usage.Root:
    parser = usage.Root("retrace")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--print-completion", choices=usage.SHELLS, metavar="SHELL")
    parser.set_defaults(command=None)
    said: dict[str, str] = {}
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=usage.Parser)
    _add_commands(partial(_added, commands, said))
    parser.groups, parser.said = GROUPS, said
    return parser


def _added(
    commands: Any, told: dict[str, str], name: str, command: Command, said: str, *examples: str
) -> ArgumentParser:
    parser = commands.add_parser(
        name,
        help=usage.short(said),
        description=textwrap.fill(said, usage.WIDTH),
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    told[name] = said
    return parser


def _add_commands(add: Callable[..., ArgumentParser]) -> None:
    recipe = add(
        *("recipe", _recipe, "print a recipe as flags for `dvc exp run`, or list all"),
        "retrace recipe                                       all of them",
        "dvc exp run $(retrace recipe mnist_fast)             one of them",
        "dvc exp run $(retrace recipe cifar10_v3) -S lr=0.05  another learning rate",
        "retrace recipe --json | jq -r '.[].name'             their names",
    )
    recipe.add_argument("name", nargs="?", metavar="RECIPE", help="a file in recipes/, without .yaml; none: list them")
    recipe.add_argument("--json", action="store_true", help=JSON)

    ui = add(
        *("ui", _ui, "MLflow's pages, for this machine alone: one worker, and no page of another site gets in"),
        "retrace ui               every run, curve, picture and model",
        "retrace ui --port 5001   where 5000 is taken",
    )
    ui.add_argument("--host", default="127.0.0.1", help="%(default)s, or another name of this machine for itself")
    ui.add_argument("--port", type=int, default=5000, help="%(default)s")

    trace = add(
        *("trace", _trace, "say what made a file, or what a run made and where that is"),
        "retrace trace models/model.safetensors   down to the raw data",
        "retrace trace 4f0c2d                     a run, by the first digits of its id",
        "retrace trace 4f0c2d --json | jq -r '.commands[]' | sh   its files, here again",
    )
    trace.add_argument("target", metavar="FILE|RUN_ID", help="a file, wherever it lies now, or MLflow's id of a run")
    trace.add_argument("--json", action="store_true", help=JSON)

    verify = add(
        "verify",
        _verify,
        "make a run again and compare every bit, or hash all files: the same code, parameters and raw data, in a "
        "folder of its own, without any cache; exit code 1 where something differs",
        "retrace verify 4f0c2d                    a run, by the first digits of its id",
        "retrace verify 4f0c2d --tolerance 0.01   made on another kind of device",
        "retrace verify --cache                   all that dvc.lock names, hashed",
    )
    which = verify.add_mutually_exclusive_group(required=True)
    which.add_argument("run", nargs="?", metavar="RUN_ID", help="MLflow's id of a run, or its first digits")
    said = "hash every file that dvc.lock names, here and in DVC's cache"
    which.add_argument("--cache", action="store_true", help=said)
    said = "of metrics, where the device is another kind; %(default)s"
    verify.add_argument("--tolerance", type=float, default=0.005, help=said)
    verify.add_argument("--json", action="store_true", help=JSON)

    doctor = add(
        "doctor",
        _doctor,
        "look for what is wrong here, and say how to mend it: the environment, the machine, git, DVC, the graph, "
        "MLflow; it changes nothing; exit code 1 where there is a problem",
        "retrace doctor          what is found, each with the command that mends it",
        "retrace doctor --all    and what is in order",
        "retrace doctor --json | jq -r '.findings[].repair'",
    )
    doctor.add_argument("--all", action="store_true", help="also what is in order")
    doctor.add_argument("--json", action="store_true", help=JSON)

    sync = add(
        *("sync", _sync, "upload to MLflow what it missed: an outage, a killed stage, what DVC took from its cache"),
        "retrace sync            after a crash, an outage, `dvc exp run` from the cache",
        "retrace sync --json     how much of what was uploaded, closed and added",
    )
    sync.add_argument("--json", action="store_true", help=JSON)

    reconcile = add(
        *("reconcile", _reconcile, "put back into DVC's queue what a worker had that is gone"),
        "retrace reconcile && dvc queue start   after a crash, the queue goes on",
        "retrace reconcile --json               what was put back and removed",
    )
    reconcile.add_argument("--json", action="store_true", help=JSON)

    clean = add(
        *("clean", _clean, "list checkpoints of interrupted trainings, or remove them"),
        "retrace clean            what can go on, with its size",
        "retrace clean --force    none of them shall go on",
    )
    clean.add_argument("--force", action="store_true", help="remove those that no process uses")
    clean.add_argument("--json", action="store_true", help=JSON)


def _recipe(arguments: Namespace, _: Path) -> None:
    from retrace.commands import recipe

    if arguments.name is None:
        recipe.show(as_json=arguments.json)
    else:
        recipe.flags(arguments.name, as_json=arguments.json)


def _sync(arguments: Namespace, _: Path) -> None:
    from retrace.commands import sync

    sync.sync(as_json=arguments.json)


def _trace(arguments: Namespace, here: Path) -> None:
    from retrace.commands import trace

    file = os.path.join(here, arguments.target)  # noqa: PTH118 - a run's id is none, however long
    target = file if os.path.exists(file) else arguments.target  # noqa: PTH110
    trace.show(target, as_json=arguments.json)


def _verify(arguments: Namespace, _: Path) -> None:
    if arguments.cache:
        from retrace.commands import cache

        sys.exit(cache.check(as_json=arguments.json))
    from retrace.commands import verify

    sys.exit(verify.check(arguments.run, arguments.tolerance, as_json=arguments.json))


def _clean(arguments: Namespace, _: Path) -> None:
    from retrace.commands import clean

    clean.clean(force=arguments.force, as_json=arguments.json)


def _doctor(arguments: Namespace, _: Path) -> None:
    from retrace.commands import doctor

    sys.exit(doctor.examine(everything=arguments.all, as_json=arguments.json))


def _ui(arguments: Namespace, _: Path) -> None:
    from retrace.commands import ui

    ui.serve(arguments.host, arguments.port)


def _reconcile(arguments: Namespace, _: Path) -> None:
    from retrace.commands import reconcile

    reconcile.reconcile(as_json=arguments.json)


def _root() -> Path:
    """The repository that the working directory is in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / paths.GRAPH).is_file():
            return folder
    raise ParamsError(f"{here}: has no {paths.GRAPH}, nor has a folder above; run retrace in the repository")
