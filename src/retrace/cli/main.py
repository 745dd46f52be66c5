"""The `retrace` command: find the command that was typed, run it, exit with its code.

Exit codes:
- 0: done
- 1: a check failed (verify, doctor), or part of the work could not be done (predict, sweep);
  or a defect of retrace, with its traceback
- 2: an error that you can fix, explained in one line on stderr
- 128 + n: ended by signal n: 130 by Ctrl-C, 141 by a closed pipe, 143 by SIGTERM or a lost terminal
"""

import os
import signal
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import cast

from retrace import errors
from retrace.cli import arguments
from retrace.cli.arguments import Command
from retrace.errors import ParamsError, RetraceError
from retrace.system import machine, mlflow_environment

# Modules of retrace.cli; in the help, each group lists its commands in this order.
BUILT_IN = (
    *("init", "dvc", "run", "sweep", "cluster", "ui", "compare", "leaderboard", "promote", "share"),
    *("trace", "verify", "doctor", "sync", "reconcile", "clean"),
)
EXTRAS = ("sweep", "cluster", "ui", "compare")  # commands that need the extra with their name
IN_PLACE = ("init", "dvc", "run")  # commands that stay in the folder in which they were typed


def main() -> None:
    """Run the typed command and exit with its code, silently with 141 if the pipe is closed."""
    try:
        try:
            errors.run(_call)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python would flush again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _call() -> None:
    words = sys.argv[1:]
    commands = _commands(words)
    parser = arguments.parser(commands)
    # What follows `dvc` is for DVC, options too.
    args = parser.parse_args(["dvc", "--", *words[1:]] if words[:1] == ["dvc"] else words)
    if args.version:
        from importlib.metadata import version  # takes time to import

        print(f"retrace {version('retrace')}")
    elif args.print_completion:
        print(arguments.completion(parser, args.print_completion))
    elif args.command is None:
        parser.print_help()
    else:
        args.here = Path.cwd()
        machine.name_user()
        machine.check_home()
        if args.command not in IN_PLACE and not getattr(args, "is_of_machine", False):
            os.chdir(_root())
            mlflow_environment.enter()
        code = _run(commands[args.command], args)
        if code:
            sys.exit(code)


def _run(command: Command, args: Namespace) -> int | None:
    """Run a command; return its exit code. Raises RetraceError if its extra is not installed."""
    try:
        return command.run(args)
    except ModuleNotFoundError as error:
        if args.command not in EXTRAS:
            raise
        remedy = f"pip install 'retrace[{args.command}]'"
        raise RetraceError(
            f"retrace {args.command}: {error.name} is not installed; type {remedy}"
        ) from None


def _commands(words: list[str]) -> dict[str, Command]:
    """Return commands by name: the typed one if it is retrace's own, else all, plug-ins too."""
    if words and words[0] in BUILT_IN:
        return {words[0]: _built_in(words[0])}
    from retrace import plugins  # takes time to import

    return {name: _built_in(name) for name in BUILT_IN} | plugins.load(
        "commands", required=arguments.ATTRIBUTES
    )


def _built_in(name: str) -> Command:
    return cast("Command", import_module(f"retrace.cli.{name}"))


def _root() -> Path:
    """Return the repository that contains the working directory: DVC's, else that of a dvc.yaml.

    Raises ParamsError if there is none.
    """
    from retrace import settings  # takes time to import

    here = Path.cwd()
    for name in (".dvc", settings.DVC_YAML):
        for folder in (here, *here.parents):
            if (folder / name).exists():
                return folder
    reason = f"no .dvc and no {settings.DVC_YAML} here or above"
    raise ParamsError(f"{here}: {reason}; run retrace in a repository that has one")
