"""`retrace recipe`: a recipe as flags for `dvc exp run`, or all recipes."""

import json
import sys

from retrace import recipes

REFUSED = "-S refused-by-retrace-recipe"


def show(*, as_json: bool = False) -> None:
    """Print each recipe's name and what it shows."""
    titles = recipes.titles()
    if as_json:
        print(json.dumps([{"name": name, "shows": title} for name, title in titles.items()], indent=2))
        return
    width = max(map(len, titles), default=0)
    for name, title in titles.items():
        print(f"{name:{width}}  {title}")
    sys.stdout.flush()  # or a reader that has left would be noticed after more was said
    print("`dvc exp run $(retrace recipe NAME)` runs one", file=sys.stderr)  # not among the names, for a script


def flags(name: str, *, as_json: bool = False) -> None:
    """Print, in one line, the flags with which `dvc exp run $(retrace recipe <name>)` is that recipe.

    Raises ParamsError, and then has printed a flag that DVC refuses: no shell looks at how a substituted command
    ended, and without any flag DVC would run another experiment than the one asked for.
    """
    try:
        recipe = recipes.load(name)
        changes = recipes.changes(recipe.values)
    except BaseException:
        if not as_json:
            print(REFUSED)
        raise
    back = [key for key in changes if key not in recipe.own]
    if as_json:
        print(json.dumps({"name": name, "changes": changes, "set_back": back}, indent=2))
        return
    print(*(f"-S {key}={value}" for key, value in changes.items()))
    if back:
        print(f"{name}: sets back to the last commit's value: {', '.join(back)}", file=sys.stderr)
