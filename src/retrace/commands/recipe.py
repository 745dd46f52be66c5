"""`retrace recipe`: a recipe as flags for `dvc exp run`, or all recipes."""

import sys

from retrace import recipes

REFUSED = "-S refused-by-retrace-recipe"


def show() -> None:
    """Print each recipe's name and what it shows."""
    titles = recipes.titles()
    width = max(map(len, titles), default=0)
    for name, title in titles.items():
        print(f"{name:{width}}  {title}")


def flags(name: str) -> None:
    """Print, in one line, the flags with which `dvc exp run $(retrace recipe <name>)` is that recipe.

    Raises ParamsError, and then has printed a flag that DVC refuses: no shell looks at how a substituted command
    ended, and without any flag DVC would run another experiment than the one asked for.
    """
    try:
        recipe = recipes.load(name)
        changes = recipes.changes(recipe.values)
    except BaseException:
        print(REFUSED)
        raise
    print(*(f"-S {key}={value}" for key, value in changes.items()))
    if back := [key for key in changes if key not in recipe.own]:
        print(f"{name}: sets back to the last commit's value: {', '.join(back)}", file=sys.stderr)
