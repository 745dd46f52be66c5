"""`retrace recipe`: print a recipe as flags for `dvc exp run`, or list all recipes."""

import json
import sys
from argparse import ArgumentParser, Namespace

from retrace.cli import arguments

GROUP = "run"
SUMMARY = "print a recipe as flags for `dvc exp run`, or list all"
EXAMPLES = (
    "retrace recipe                                       all of them",
    "dvc exp run $(retrace recipe mnist_fast)             one of them",
    "dvc exp run $(retrace recipe cifar10_v3) -S lr=0.05  another learning rate",
    "retrace recipe --json | jq -r '.[].name'             their names",
)
REFUSED = "-S refused-by-retrace-recipe"


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "name of a file in recipes/, without .yaml; omit it to list all recipes"
    parser.add_argument("name", nargs="?", metavar="RECIPE", help=text)


def run(args: Namespace) -> None:
    if args.name is None:
        show(as_json=args.json)
    else:
        flags(args.name, as_json=args.json)


def show(*, as_json: bool = False) -> None:
    """Print each recipe's name and title."""
    from lab import recipes

    titles = recipes.titles()
    if as_json:
        print(
            json.dumps([{"name": name, "shows": title} for name, title in titles.items()], indent=2)
        )
        return
    width = max(map(len, titles), default=0)
    for name, title in titles.items():
        print(f"{name:{width}}  {title}")
    sys.stdout.flush()  # a closed pipe ends the command before the hint
    print(
        "`dvc exp run $(retrace recipe NAME)` runs one", file=sys.stderr
    )  # stdout has only recipes, for scripts


def flags(name: str, *, as_json: bool = False) -> None:
    """Print, in one line, the flags for `dvc exp run $(retrace recipe <name>)`.

    Raises ParamsError, after printing a flag that DVC refuses: a shell ignores the exit code of a
    substituted command, and without any flag DVC would run another experiment.
    """
    from lab import recipes

    try:
        recipe = recipes.load(name)
        changes = recipes.changes(recipe.values)
    except BaseException:
        if not as_json:
            print(REFUSED)
        raise
    back = [key for key in changes if key not in recipe.own]
    if as_json:
        document = {"name": name, "changes": changes, "set_back": back, "choice": recipe.choice}
        print(json.dumps(document, indent=2))
        return
    print(*(f"-S {key}={value}" for key, value in changes.items()))
    if recipe.choice:
        print(f"{name}: {recipe.choice}", file=sys.stderr)
    if back:
        print(f"{name}: resets to the last commit's value: {', '.join(back)}", file=sys.stderr)
