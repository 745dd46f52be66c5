"""The `retrace` command: names, help and exit codes. A command's module is imported when it is called."""

import os
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from retrace import errors, paths
from retrace.errors import ParamsError

EXAMPLES = """\
examples:
  retrace recipe                                        what there is to reproduce
  dvc exp run $(retrace recipe cifar10_v3) -S lr=0.05   a recipe, with another learning rate
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
    os.chdir(_root())
    arguments.command(arguments)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "retrace",
        description="What one does around the pipeline; `dvc` and `mlflow` do the rest.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    said = "print a recipe as flags for `dvc exp run`, or list all recipes"
    recipe = commands.add_parser("recipe", help=said, description=said)
    recipe.add_argument("name", nargs="?", metavar="NAME", help="a file in recipes/, without .yaml; none: list them")
    recipe.set_defaults(command=_recipe)

    return parser


def _recipe(arguments: Namespace) -> None:
    from retrace.commands import recipe

    if arguments.name is None:
        recipe.show()
    else:
        recipe.flags(arguments.name)


def _root() -> Path:
    """The repository that the working directory is in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / paths.GRAPH).is_file():
            return folder
    raise ParamsError(f"{here}: has no {paths.GRAPH}, nor has a folder above; run retrace in the repository")
