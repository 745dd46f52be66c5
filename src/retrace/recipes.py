"""Named experiments: recipes/<name>.yaml, a part of params.yaml with other values under a header of comments.

A recipe is a whole experiment, not a change of whatever the workspace holds: all that it does not name is as in the
last commit. So the recipe run before it leaves nothing behind, although `dvc exp run -S` edits params.yaml in place.

To add one: the file, whose first line says what the experiment shows, then `from:`, `takes:` and `reached:`.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from retrace import git, overrides, params, paths
from retrace.errors import ParamsError
from retrace.params import Values

FOLDER = Path("recipes")


@dataclass(frozen=True)
class Recipe:
    """An experiment with every value that it needs."""

    own: frozenset[str]  # the keys that its file names
    values: Values


def titles() -> dict[str, str]:
    """What each recipe shows, by name, in alphabetical order."""
    files = sorted(FOLDER.glob("*.yaml"))
    return {
        file.stem: file.read_text(encoding="utf-8", errors="replace").partition("\n")[0].lstrip("# ") for file in files
    }


def load(name: str) -> Recipe:
    """The recipe called `name`, over params.yaml as last committed. Raises ParamsError, a line a fault."""
    if name not in (known := sorted(file.stem for file in FOLDER.glob("*.yaml"))):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ParamsError(f"recipe {name!r} is not in {FOLDER}/; {hint}known are {', '.join(known) or 'none'}")
    file = FOLDER / f"{name}.yaml"
    own = overrides.flatten(params.read(file), keep_empty=True)
    committed = overrides.flatten(_committed(), keep_empty=True)
    for key in sorted(own.keys() - committed.keys()):
        near = difflib.get_close_matches(key, committed, n=1)
        hint = f"did you mean {near[0]}?" if near else "look there for those that are"
        raise ParamsError(f"{file}: {key} is not a key of the last commit's {paths.PARAMS}; {hint}")
    values = overrides.nest(committed | own)
    try:
        params.checked(values)
    except ParamsError as error:
        raise ParamsError(str(error).replace(f"{paths.PARAMS}: ", f"{file}: ")) from None
    return Recipe(frozenset(own), values)


def changes(values: Values) -> dict[str, str]:
    """What makes the workspace's params.yaml be `values`: the keys that differ, each with its value as `-S` takes it.

    Raises ParamsError where `-S` cannot do it: it neither adds nor removes a key, and the shell, which takes off no
    quotes from what a command printed, lets only plain words pass.
    """
    target = overrides.flatten(values, keep_empty=True)
    present = overrides.flatten(params.read(), keep_empty=True)
    if odd := sorted(target.keys() ^ present.keys()):
        has = "lacks" if odd[0] in target else "has"
        advice = f"-S neither adds nor removes a key: commit {paths.PARAMS} first, or restore it"
        raise ParamsError(f"{paths.PARAMS}: {has} {odd[0]}, unlike the last commit's; {advice}")
    # repr, because 1, 1.0 and true are equal to Python and three values to YAML.
    return {key: overrides.word(key, value) for key, value in target.items() if repr(value) != repr(present[key])}


def _committed() -> Values:
    """params.yaml as the last commit has it; as it is, where nothing is committed."""
    content = git.read_file("HEAD", paths.PARAMS)
    return params.read() if content is None else params.parsed(content)
