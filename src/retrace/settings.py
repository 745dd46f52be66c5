"""Read retrace's settings: `[tool.retrace]` in pyproject.toml, or a file retrace.toml.

None is needed: the defaults suit any repository. Example:

    [tool.retrace]
    experiment = "${data.name}"                            # MLflow experiment
    metrics = { primary = "rmse", minimize = ["cost"] }    # to rank experiments by
    params = { repeats = ["seed"] }                        # these make no difference
    groups = { over = "fold", of = "n_folds" }             # experiments summarized as one
    predictions = { path = "eval/test.csv", actual = "y", predicted = "y_hat" }
    models = { name = "prices" }                           # in MLflow's registry
    verify = { exact = ["prepare"], ignore = ["gpu_*"] }   # how results are compared
    sweep = { metric = "val_rmse", fixed = ["split"] }     # optimized, and never varied
"""

import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from retrace.errors import ParamsError

FILES = ("retrace.toml", "pyproject.toml")
DVC_YAML = Path("dvc.yaml")
PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Groups:
    """Experiments that differ in one parameter only; one more run has their mean and spread."""

    over: str  # the parameter in which they differ, such as `fold`
    of: str  # the parameter that says how many there are, such as `folds`


@dataclass(frozen=True)
class Metrics:
    """Metrics, by the names that they have on the experiment's run."""

    primary: str | None = None  # the one to rank experiments by, unless a command names another
    # more that are better when lower; names such as `val_loss` and `rmse` are recognized
    minimize: tuple[str, ...] = ()


@dataclass(frozen=True)
class Params:
    """Parameters in which repetitions of the same experiment differ."""

    # a name without a dot also stands for the last part of longer ones: `seed` for `fit.seed`
    repeats: tuple[str, ...] = ("seed", "random_seed", "random_state")


@dataclass(frozen=True)
class PredictionsTable:
    """A table with the actual and the predicted value of each sample, by the names of its columns.

    Its path alone is enough if the columns have the default names.
    """

    path: str  # a CSV, TSV or JSON file
    actual: str = "actual"  # the column of actual values
    predicted: str = "predicted"  # the column of predicted values
    id: str | None = None  # the column that identifies a sample, if there is one


@dataclass(frozen=True)
class Models:
    """Models in MLflow's registry."""

    name: str | None = None  # name of the registered model, by default that of the experiment


@dataclass(frozen=True)
class Verify:
    """What `retrace verify` compares: stages and metrics, by name; `*` stands for any text."""

    exact: tuple[str, ...] = ()  # stages whose files and metrics are equal on all devices
    ignore: tuple[str, ...] = ()  # metrics and files that are never compared


@dataclass(frozen=True)
class Sweeps:
    """What `retrace sweep` optimizes by default, and what it never varies."""

    metric: str | None = None  # the one to optimize, by default `metrics.primary`
    # the parameter that counts the steps of a curve, such as `epochs`; by default as many steps as
    # the complete trials have
    steps: str | None = None
    fixed: tuple[str, ...] = ()  # parameters, or tables of them, that are never varied


@dataclass(frozen=True)
class Settings:
    """The settings of a repository. docs/settings.md is made from the comments here."""

    # name of the MLflow experiment, by default that of the repository's folder; `"${dataset}"`
    # stands for the value of a parameter
    experiment: str | None = None
    metrics: Metrics = field(default_factory=Metrics)
    params: Params = field(default_factory=Params)
    groups: Groups | None = None
    # a table with the actual and the predicted value of each sample, or its path; by default the
    # plot with `template: confusion`
    predictions: PredictionsTable | None = None
    models: Models = field(default_factory=Models)
    verify: Verify = field(default_factory=Verify)
    sweep: Sweeps = field(default_factory=Sweeps)


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

    `where` begins each line and is followed by the key. A text stands for a table with one key, if
    only one is needed.
    """
    faults: list[str] = []
    parsed = _table(kind, table, where, faults)
    if faults:
        raise ParamsError("\n".join(faults))
    return parsed


def inner(kind: Any) -> Any:
    """Return the type of a setting that is not None: `str` for `str | None`."""
    options = get_args(kind)
    return next(each for each in options if each is not NoneType) if NoneType in options else kind


def describe(kind: Any) -> str:
    """Return what a setting of this type should be, for a message: `a list of texts`."""
    if is_dataclass(kind):
        return "a table"
    return "a list of texts" if get_origin(kind) is tuple else "text"


def _table(kind: type[Any], table: Any, where: str, faults: list[str]) -> Any:
    """Return a dataclass from a table; None if there are faults, which are added to `faults`."""
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    if isinstance(table, str) and len(needed) == 1:
        table = {needed[0]: table}
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
    faults += [f"{where}{name} is missing" for name in needed if name not in table]
    values = {
        key: _value(types[key], value, f"{where}{key}", faults)
        for key, value in table.items()
        if key in types
    }
    return kind(**values) if len(faults) == n_before else None


def _value(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    """Return a setting's value in its type; add to `faults` if TOML has another type."""
    if is_dataclass(kind):
        return _table(kind, value, f"{where}.", faults)  # pyright: ignore[reportArgumentType]
    is_list = get_origin(kind) is tuple
    entries = value if is_list and isinstance(value, list) else [value]
    if isinstance(value, list) != is_list or not all(isinstance(entry, str) for entry in entries):
        faults.append(f"{where} is {value!r}; should be {describe(kind)}")
        return None
    return tuple(value) if is_list else value
