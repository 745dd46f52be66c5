"""The `retrace` command: what it calls, and exit codes. A command's module is imported when it is called.

To add one: what can be typed, in arguments.py, and here a function that calls it, named in `CALLS`.

Exit codes: 0, done; 1, a check found something (verify, doctor), or not all could be done (predict, sweep); 2, what was
typed or what is there does not allow it, and a line on stderr says what to do; 128 + n, ended by signal n: 130 by
Ctrl-C, 141 by a pipe that nobody reads, 143 by SIGTERM or a lost terminal. An error of ours has a traceback, and 1.
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

from retrace import arguments, errors, paths, usage
from retrace.errors import ParamsError

Command = Callable[[Namespace, Path], None]


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
    typed = parser.parse_args()
    if typed.version:
        print(f"retrace {metadata.version('retrace')}")
    elif typed.print_completion:
        print(usage.completion(parser, typed.print_completion))
    elif typed.command is None:
        parser.print_help()
    else:
        here = Path.cwd()
        os.chdir(_root())
        CALLS[typed.command](typed, here)


def _parser() -> usage.Root:
    parser = usage.Root("retrace")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--print-completion", choices=usage.SHELLS, metavar="SHELL")
    parser.set_defaults(command=None)
    said: dict[str, str] = {}
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=usage.Parser)
    arguments.add_all(partial(_added, commands, said))
    parser.groups, parser.said = arguments.GROUPS, said
    return parser


def _added(commands: Any, told: dict[str, str], name: str, said: str, *examples: str) -> ArgumentParser:
    parser = commands.add_parser(
        name,
        help=usage.short(said),
        description=textwrap.fill(said, usage.WIDTH),
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=name)
    told[name] = said
    return parser


def _recipe(typed: Namespace, _: Path) -> None:
    from retrace.commands import recipe

    if typed.name is None:
        recipe.show(as_json=typed.json)
    else:
        recipe.flags(typed.name, as_json=typed.json)


def _sync(typed: Namespace, _: Path) -> None:
    from retrace.commands import sync

    sync.sync(as_json=typed.json)


def _trace(typed: Namespace, here: Path) -> None:
    from retrace.commands import trace

    file = os.path.join(here, typed.target)  # noqa: PTH118 - a run's id is none, however long
    target = file if os.path.exists(file) else typed.target  # noqa: PTH110
    trace.show(target, as_json=typed.json)


def _compare(typed: Namespace, here: Path) -> None:
    from retrace.commands import compare

    page = here / typed.html if typed.html else None
    compare.compare(typed.names, page, as_json=typed.json, as_markdown=typed.markdown)


def _leaderboard(typed: Namespace, _: Path) -> None:
    from retrace.commands import leaderboard

    leaderboard.lead(typed.dataset, typed.metric, typed.top, as_json=typed.json)


def _verify(typed: Namespace, _: Path) -> None:
    if typed.cache:
        from retrace.commands import cache

        sys.exit(cache.check(as_json=typed.json))
    from retrace.commands import verify

    sys.exit(verify.check(typed.run, typed.tolerance, as_json=typed.json))


def _clean(typed: Namespace, _: Path) -> None:
    from retrace.commands import clean

    clean.clean(force=typed.force, as_json=typed.json)


def _doctor(typed: Namespace, _: Path) -> None:
    from retrace.commands import doctor

    sys.exit(doctor.examine(everything=typed.all, as_json=typed.json))


def _predict(typed: Namespace, here: Path) -> None:
    from retrace.commands import predict

    chosen = {"top": typed.top, "invert": typed.invert, "device": typed.device}
    if code := predict.predict(typed.model, typed.images, here, **chosen, as_json=typed.json):
        sys.exit(code)  # and else at once, which spares a second


def _promote(typed: Namespace, _: Path) -> None:
    from retrace.commands import promote

    promote.promote(typed.run, typed.alias, force=typed.force)


def _probe(typed: Namespace, _: Path) -> None:
    from retrace.commands import probe

    load = probe.Load(typed.requests, typed.clients, typed.seconds, typed.images)
    if code := probe.probe(typed.model, typed.url, load, as_json=typed.json):
        sys.exit(code)


def _share(typed: Namespace, _: Path) -> None:
    from retrace.commands import share

    share.share(check=typed.check)


def _ui(typed: Namespace, _: Path) -> None:
    from retrace.commands import ui

    ui.serve(typed.host, typed.port)


def _reconcile(typed: Namespace, _: Path) -> None:
    from retrace.commands import reconcile

    reconcile.reconcile(as_json=typed.json)


def _sweep(typed: Namespace, _: Path) -> None:
    from retrace.commands import sweep

    sweep.sweep(
        typed.words,
        metric=typed.metric,
        trials=typed.trials,
        name=typed.name,
        storage=typed.storage,
        seed=typed.seed,
        jobs=typed.jobs,
        timeout=typed.timeout,
        prune=not typed.no_prune,
        as_json=typed.json,
    )


def _root() -> Path:
    """The repository that the working directory is in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / paths.GRAPH).is_file():
            return folder
    raise ParamsError(f"{here}: has no {paths.GRAPH}, nor has a folder above; run retrace in the repository")


CALLS: dict[str, Command] = {
    "recipe": _recipe,
    "sweep": _sweep,
    "ui": _ui,
    "compare": _compare,
    "leaderboard": _leaderboard,
    "predict": _predict,
    "promote": _promote,
    "probe": _probe,
    "share": _share,
    "trace": _trace,
    "verify": _verify,
    "doctor": _doctor,
    "sync": _sync,
    "reconcile": _reconcile,
    "clean": _clean,
}
