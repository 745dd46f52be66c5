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
    "look": ("ui", "compare", "leaderboard"),
    "use": ("predict", "promote", "probe"),
    "share": ("share",),
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

    said = "put experiments side by side: parameters, metrics, and a test on the same samples of whether one is better"
    compare = add(
        "compare",
        _compare,
        said,
        "retrace compare main tamed-zigs                    a commit and an experiment of DVC's",
        "retrace compare main 4f0c2d 91ab03 --html c.html   and runs of MLflow's, as a page with their curves",
        "retrace compare HEAD workspace --json              what has changed, for a script",
    )
    said = "`workspace`, DVC's experiment, a commit, branch or tag, or a run's id in MLflow; the first is the measure"
    compare.add_argument("names", nargs="+", metavar="NAME", help=said)
    compare.add_argument("--html", type=Path, metavar="FILE", help="write a page with learning curves")
    compare.add_argument("--json", action="store_true", help=JSON)

    leaderboard = add(
        "leaderboard",
        _leaderboard,
        "the experiments on a data set, the best first: seeds, mean, spread, seconds of training",
        "retrace leaderboard                            on params.yaml's data set, by test accuracy",
        "retrace leaderboard digits --metric val_loss --top 5",
        "retrace leaderboard --json                     with all parameters and ids, for a script",
    )
    leaderboard.add_argument("dataset", nargs="?", metavar="DATASET", help="none: the one in params.yaml")
    leaderboard.add_argument("--metric", default="test_accuracy", help="by which they are sorted; %(default)s")
    leaderboard.add_argument("--top", type=int, default=20, metavar="N", help="rows shown; %(default)s")
    leaderboard.add_argument("--json", action="store_true", help=JSON)

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

    said = (
        "give the team all that was made here: DVC's remote has it, every file hashed before, and nobody makes it again"
    )
    examples = ("retrace share            before `dvc exp push origin NAME`, or `git push`", "retrace share --check")
    share = add("share", _share, said, *examples)
    said = "hash what the remote has as well, and replace what is damaged there"
    share.add_argument("--check", action="store_true", help=said)

    _add_models(add)


def _add_models(add: Callable[..., ArgumentParser]) -> None:
    a_model = "models/model.safetensors, a folder with it and model.json, a run's id, or models:/name@alias"

    predict = add(
        "predict", _predict, "say what a model makes of pictures, on the CPU and in float32",
        "retrace predict models photo.png               the network that `dvc repro` has trained here",
        "retrace predict 4f0c2d photo.png --top 3       a run's, with the three likeliest classes",
        "retrace predict models:/mnist@champion scans   all pictures in a folder and those below it",
        "retrace predict models photo.png --invert      dark ink on white paper, for a network that learned MNIST",
    )  # fmt: skip
    predict.add_argument("model", metavar="MODEL", help=a_model)
    said = "PNG, JPEG, WEBP or BMP of any size: the middle is cut out and resized, as data/images are; or a folder"
    predict.add_argument("images", nargs="+", metavar="IMAGE", help=said)
    predict.add_argument("--top", type=int, default=1, metavar="N", help="classes a line, likeliest first; %(default)s")
    predict.add_argument("--invert", action="store_true", help="take the negatives; nothing is guessed without it")
    predict.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="%(default)s, whatever params.yaml says"
    )
    predict.add_argument("--json", action="store_true", help=JSON)

    promote = add(
        "promote", _promote, "give a run's model its name in the registry: its data set's, unless another has it that is better",
        "retrace promote 4f0c2d                   models:/mnist@champion is this run's model",
        "retrace promote 4f0c2d --as challenger   another alias",
    )  # fmt: skip
    promote.add_argument("run", metavar="RUN_ID", help="MLflow's id of a run, or its first digits")
    promote.add_argument("--as", dest="alias", default="champion", metavar="ALIAS", help="%(default)s")
    promote.add_argument("--force", action="store_true", help="also if it is worse, or was tested on other bytes")

    probe = add(
        "probe", _probe, "measure a model's server on this machine: its answers are checked, and both logged in MLflow",
        "mlflow models serve -m models:/mnist@champion --env-manager local --port 5001",
        "retrace probe models:/mnist@champion http://127.0.0.1:5001",
    )  # fmt: skip
    probe.add_argument("model", metavar="MODEL", help="a run's id, or models:/name@alias: what the server should have")
    probe.add_argument("url", metavar="URL", help="http://127.0.0.1:PORT")
    probe.add_argument("--requests", type=int, default=200, metavar="N", help="at most; %(default)s")
    probe.add_argument("--clients", type=int, default=1, metavar="N", help="that ask at once; %(default)s")
    probe.add_argument("--seconds", type=int, default=20, metavar="N", help="in which they begin; %(default)s")
    probe.add_argument("--images", type=int, default=1, metavar="N", help="a request; %(default)s")
    probe.add_argument("--json", action="store_true", help=JSON)


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


def _compare(arguments: Namespace, here: Path) -> None:
    from retrace.commands import compare

    page = here / arguments.html if arguments.html else None
    compare.compare(arguments.names, page, as_json=arguments.json)


def _leaderboard(arguments: Namespace, _: Path) -> None:
    from retrace.commands import leaderboard

    leaderboard.lead(arguments.dataset, arguments.metric, arguments.top, as_json=arguments.json)


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


def _predict(arguments: Namespace, here: Path) -> None:
    from retrace.commands import predict

    chosen = {"top": arguments.top, "invert": arguments.invert, "device": arguments.device}
    if code := predict.predict(arguments.model, arguments.images, here, **chosen, as_json=arguments.json):
        sys.exit(code)  # and else at once, which spares a second


def _promote(arguments: Namespace, _: Path) -> None:
    from retrace.commands import promote

    promote.promote(arguments.run, arguments.alias, force=arguments.force)


def _probe(arguments: Namespace, _: Path) -> None:
    from retrace.commands import probe

    load = probe.Load(arguments.requests, arguments.clients, arguments.seconds, arguments.images)
    if code := probe.probe(arguments.model, arguments.url, load, as_json=arguments.json):
        sys.exit(code)


def _share(arguments: Namespace, _: Path) -> None:
    from retrace.commands import share

    share.share(check=arguments.check)


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
