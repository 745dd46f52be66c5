"""Read retrace's settings: `[tool.retrace]` in pyproject.toml, or a file retrace.toml.

None is needed: the defaults suit any repository. Example:

    [tool.retrace]
    experiment = "${dataset}"                     # MLflow experiment
    metrics = { primary = "test_accuracy" }       # by which `retrace leaderboard` sorts
    groups = { over = "fold", of = "folds" }      # experiments that are summarized as one
"""

import tomllib
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from retrace.errors import ParamsError

FILES = ("retrace.toml", "pyproject.toml")
WORDS = {str: "text", bool: "true or false", int: "an integer", float: "a number"}

# Paths of the lab, for the commands that do not read them from dvc.yaml yet.
DVC_YAML = Path("dvc.yaml")
PARAMS = Path("params.yaml")

IMAGES = Path("data/images")
TRAIN = Path("data/processed/train.safetensors")
VALIDATION = Path("data/processed/validation.safetensors")
TEST = Path("data/processed/test.safetensors")

WEIGHTS = Path("models/model.safetensors")

HISTORY = Path("reports/history.csv")
METRICS = Path("reports/metrics.json")
CONFUSION = Path("reports/confusion.csv")
FIGURES = Path("reports/figures")


@dataclass(frozen=True)
class Groups:
    """Experiments that differ in one parameter only; their means and spreads are one run more."""

    over: str  # the parameter in which they differ, such as `fold`
    of: str  # the parameter that says how many there are, such as `folds`


@dataclass(frozen=True)
class Metrics:
    """Metrics, by the names that they have on the experiment's run."""

    primary: str  # the one by which experiments are ranked, unless a command names another


@dataclass(frozen=True)
class Settings:
    """The settings of a repository. docs/settings.md is made from the comments here."""

    # name of the MLflow experiment, by default that of the repository's folder; `"${dataset}"`
    # stands for the value of a parameter
    experiment: str | None = None
    metrics: Metrics | None = None
    groups: Groups | None = None


def load(root: Path) -> Settings:
    """Return the settings of the repository at `root`. Raises ParamsError."""
    place = file(root)
    if place is None:
        return Settings()
    is_own = place.name == "retrace.toml"
    prefix = f"{place.name}: " if is_own else f"{place.name}: tool.retrace."
    return parse(Settings, _read(place), prefix)


def file(root: Path) -> Path | None:
    """Return the file that has the settings of the repository, if one has. Raises ParamsError."""
    paths = (root / name for name in FILES)
    return next((path for path in paths if path.is_file() and _read(path) is not None), None)


def _read(path: Path) -> Any:
    """Return the table of settings in a file; None if a pyproject.toml has none."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path.name}: not TOML: {' '.join(str(error).split())}") from None
    return document if path.name == "retrace.toml" else document.get("tool", {}).get("retrace")


def parse(kind: type[Any], table: Any, where: str) -> Any:
    """Return a settings dataclass from a TOML table. Raises ParamsError with one line a fault.

    `where` begins each line and is followed by the key.
    """
    faults: list[str] = []
    parsed = _table(kind, table, where, faults)
    if faults:
        raise ParamsError("\n".join(faults))
    return parsed


def inner(kind: Any) -> Any:
    """Return the type of a setting that is not None: `int` for `int | None`."""
    options = get_args(kind)
    return next(each for each in options if each is not NoneType) if NoneType in options else kind


def describe(kind: Any) -> str:
    """Return what a setting of this type should be, for a message: `a list of texts`."""
    if get_origin(kind) in (tuple, list):
        return f"a list of {'texts' if get_args(kind)[0] is str else 'numbers'}"
    if is_dataclass(kind):
        return "a table"
    return WORDS.get(kind, "a table of texts")


def _table(kind: type[Any], table: Any, where: str, faults: list[str]) -> Any:
    """Return a dataclass from a table; None if there are faults, which are added to `faults`."""
    if not isinstance(table, dict):
        faults.append(f"{where.rstrip('. ')} is {table!r}; should be a table")
        return None
    types = {name: inner(each) for name, each in get_type_hints(kind).items()}
    n_before = len(faults)
    faults += [
        f"{where}{key} is unknown; should be one of {', '.join(types)}"
        for key in table
        if key not in types
    ]
    required = [field.name for field in fields(kind) if _is_required(field)]
    faults += [f"{where}{name} is missing" for name in required if name not in table]
    values = {
        key: _value(types[key], value, f"{where}{key}", faults)
        for key, value in table.items()
        if key in types
    }
    return kind(**values) if len(faults) == n_before else None


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _value(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    """Return a setting's value in its type; add to `faults` if TOML has another type."""
    if is_dataclass(kind):
        return _table(kind, value, f"{where}.", faults)  # pyright: ignore[reportArgumentType]
    if not _is_of(kind, value):
        faults.append(f"{where} is {value!r}; should be {describe(kind)}")
        return None
    return tuple(value) if get_origin(kind) is tuple else value


def _is_of(kind: Any, value: Any) -> bool:
    """Return whether a value of TOML is of a type: a list counts as a tuple, 1 as a float."""
    options = get_args(kind)
    if get_origin(kind) in (tuple, list):
        return isinstance(value, list) and all(_is_of(options[0], each) for each in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_of(options[1], each) for each in value.values())
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
