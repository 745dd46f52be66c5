"""Named experiments: recipes/<name>.yaml sets some keys of params.yaml to other values.

A recipe is a complete experiment: keys that it does not name keep the values of the last commit,
not those of the workspace, because `dvc exp run -S` edits params.yaml in place.

To add one, write the file: the first line says what the experiment shows, then come comment lines
with the source (`from:`), the training time (`takes:`) and the measured accuracy (`reached:`).

A recipe for your own images may depend on their number: `images_of_a_class` has the tables `tens`,
`hundreds` and `thousands`, and the one for the smallest class folder of data/images is added.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import params, paths
from retrace.errors import ParamsError
from retrace.pipeline import git, overrides, params_yaml
from retrace.pipeline.overrides import Flat
from retrace.pipeline.params_yaml import Values

FOLDER = Path("recipes")
BY_NUMBER = "images_of_a_class"
RANGES = {"tens": 1, "hundreds": 100, "thousands": 1000}  # from that many on


@dataclass(frozen=True)
class Recipe:
    """A complete experiment."""

    own: frozenset[str]  # keys in the recipe's file
    values: Values
    choice: str = ""  # what was chosen by the number of images


def titles() -> dict[str, str]:
    """Return the first line of each recipe, by name, in alphabetical order."""
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
        raise ParamsError(
            f"recipe {name!r} is not in {FOLDER}/; {hint}known are {', '.join(known) or 'none'}"
        )
    file = FOLDER / f"{name}.yaml"
    content = params_yaml.read(file)
    by_number = content.pop(BY_NUMBER, None)
    own = overrides.flatten(content, keep_empty=True)
    chosen, choice = ({}, "") if by_number is None else _chosen(by_number, file)
    own |= chosen
    committed = overrides.flatten(_committed(), keep_empty=True)
    for key in sorted(own.keys() - committed.keys()):
        near = difflib.get_close_matches(key, committed, n=1)
        hint = f"did you mean {near[0]}?" if near else f"see {paths.PARAMS} for the known keys"
        raise ParamsError(f"{file}: {key} is not a key of the last commit's {paths.PARAMS}; {hint}")
    values = overrides.nest(committed | own)
    try:
        params.checked(values)
    except ParamsError as error:
        raise ParamsError(str(error).replace(f"{paths.PARAMS}: ", f"{file}: ")) from None
    return Recipe(frozenset(own), values, choice)


def _chosen(by_number: Any, file: Path) -> tuple[Flat, str]:
    """Return the values for the images in data/images, and a line on them; none without images."""
    from lab.data.datasets import image_folder

    tables = by_number if isinstance(by_number, dict) else {"": by_number}
    if tables.keys() - RANGES or not all(isinstance(table, dict) for table in tables.values()):
        raise ParamsError(f"{file}: {BY_NUMBER} should have tables called {', '.join(RANGES)}")
    n_images = image_folder.smallest_class()
    fitting = [name for name, lowest in RANGES.items() if lowest <= n_images]
    if not fitting:
        return {}, f"{paths.IMAGES}: no images in class folders to choose by their number"
    values = overrides.flatten(tables.get(fitting[-1], {}), keep_empty=True)
    words = " ".join(f"{key}={overrides.literal(value)}" for key, value in values.items())
    counted = f"{n_images:,} images in the smallest class folder"
    return values, f"{counted}; for {fitting[-1]}: {words or 'the recipe as it is'}"


def changes(values: Values) -> dict[str, str]:
    """Return the keys in which the workspace's params.yaml differs, with the values for `-S`.

    Raises ParamsError if `-S` can't set a value: if a key would be added or removed, or if the
    value needs quotes, which a shell keeps in what a command printed.
    """
    target = overrides.flatten(values, keep_empty=True)
    present = overrides.flatten(params_yaml.read(), keep_empty=True)
    unmatched = sorted(target.keys() ^ present.keys())
    if unmatched:
        has = "lacks" if unmatched[0] in target else "has"
        reason = f"{has} {unmatched[0]}, unlike the last commit's"
        advice = f"-S neither adds nor removes a key: commit {paths.PARAMS} first, or restore it"
        raise ParamsError(f"{paths.PARAMS}: {reason}; {advice}")
    # repr, because 1, 1.0 and true are equal to Python and three values to YAML.
    return {
        key: overrides.word(key, value)
        for key, value in target.items()
        if repr(value) != repr(present[key])
    }


def _committed() -> Values:
    """Return params.yaml of the last commit, or the workspace's if nothing is committed."""
    content = git.read_file("HEAD", paths.PARAMS)
    return params_yaml.read() if content is None else params_yaml.parse(content)
