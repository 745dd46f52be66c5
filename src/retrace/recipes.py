"""Named experiments: recipes/<name>.yaml has some keys of params.yaml with other values.

A recipe is a complete experiment: keys that it does not name have their values of the last commit,
not those of the workspace, which `dvc exp run -S` edits in place.

To add one, write the file: its first line says what the experiment shows, then come `from:`,
`takes:` and `reached:`, as comments.
"""

import difflib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrace import params, params_file, paths
from retrace.errors import ParamsError
from retrace.params_file import Values, flatten

FOLDER = Path("recipes")
# Text that a shell, Hydra's grammar and YAML all read as it is.
WORD = re.compile(r"[A-Za-z_./][\w./+-]*", re.ASCII)
NOT_WORDS = {"true", "false", "null", "nan", "inf"}  # in any case: not text for Hydra

Flat = dict[str, Any]  # models.cnn.hidden -> 128


@dataclass(frozen=True)
class Recipe:
    """A complete experiment."""

    own: frozenset[str]  # keys in the recipe's file
    values: Values


def titles() -> dict[str, str]:
    """The first line of each recipe, by name, in alphabetical order."""
    titles = {}
    for file in sorted(FOLDER.glob("*.yaml")):
        text = file.read_text(encoding="utf-8", errors="replace")
        titles[file.stem] = text.partition("\n")[0].lstrip("# ")
    return titles


def load(name: str) -> Recipe:
    """Load a recipe over the params.yaml of the last commit.

    Raises ParamsError with one line for each problem.
    """
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ParamsError(f"recipe {name!r} is not in {FOLDER}/; {hint}known are {', '.join(known) or 'none'}")
    file = FOLDER / f"{name}.yaml"
    own = flatten(params_file.read(file), keep_empty=True)
    committed = flatten(_committed(), keep_empty=True)
    for key in sorted(own.keys() - committed.keys()):
        near = difflib.get_close_matches(key, committed, n=1)
        hint = f"did you mean {near[0]}?" if near else "look there for those that are"
        raise ParamsError(f"{file}: {key} is not a key of the last commit's {paths.PARAMS}; {hint}")
    values = nested(committed | own)
    try:
        params.checked(values)
    except ParamsError as error:
        raise ParamsError(str(error).replace(f"{paths.PARAMS}: ", f"{file}: ")) from None
    return Recipe(frozenset(own), values)


def changes(values: Values) -> dict[str, str]:
    """The keys by which the workspace's params.yaml differs from `values`, as arguments of `-S`.

    Raises ParamsError if `-S` can't set a value: it neither adds nor removes a key, and takes only
    plain words, since a shell does not remove quotes from what a command printed.
    """
    target = flatten(values, keep_empty=True)
    present = flatten(params_file.read(), keep_empty=True)
    odd = sorted(target.keys() ^ present.keys())
    if odd:
        has = "lacks" if odd[0] in target else "has"
        advice = f"-S neither adds nor removes a key: commit {paths.PARAMS} first, or restore it"
        raise ParamsError(f"{paths.PARAMS}: {has} {odd[0]}, unlike the last commit's; {advice}")
    # By repr, since 1, 1.0 and true are equal in Python and different in YAML.
    different = [key for key, value in target.items() if repr(value) != repr(present[key])]
    return {key: word(key, target[key]) for key in different}


def word(key: str, value: object) -> str:
    """`value` in Hydra's grammar, of characters that are not special in a shell."""
    if isinstance(value, list):
        return f"[{','.join(word(key, item) for item in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str) and _is_word(value):
        return value
    reason = f"{key} is to be {value!r}, which -S can't express without quotes"
    raise ParamsError(f"{paths.PARAMS}: {reason}; edit the file instead")


def _is_word(text: str) -> bool:
    """Return whether Hydra reads `text` as text, not as a number or a constant."""
    if not WORD.fullmatch(text) or text.lower() in NOT_WORDS:
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _committed() -> Values:
    """params.yaml of the last commit; of the workspace if there is no commit."""
    command = ["git", "show", f"HEAD:./{paths.PARAMS}"]
    git = subprocess.run(command, capture_output=True, check=False)
    return params_file.parse(git.stdout) if git.returncode == 0 else params_file.read()


def nested(flat: Flat) -> Values:
    """Nested tables again, from dotted keys."""
    values: Values = {}
    for key, value in flat.items():
        *tables, last = key.split(".")
        table = values
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    return values
