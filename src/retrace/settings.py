"""Read retrace's settings: `[tool.retrace]` in pyproject.toml, or a file retrace.toml.

None is needed: the defaults suit any repository. Example:

    [tool.retrace]
    experiment = "${data.name}"                            # MLflow experiment
    metrics = { primary = "rmse", minimize = ["cost"] }    # to rank experiments by
    params = { repeats = ["seed"] }                        # these make no difference
    groups = { over = "fold", of = "n_folds" }             # experiments summarized as one
    predictions = { path = "eval/test.csv", actual = "y", predicted = "y_hat" }
    models = { name = "prices" }                           # in MLflow's registry
    verify = { exact = ["prepare"], ignore = ["gpu_*"] }
    sweep = { metric = "val_rmse", fixed = ["split"] }     # optimized, and never varied
"""

import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from retrace.errors import ParamsError

FILES = ("retrace.toml", "pyproject.toml")
WORDS = {str: "text"}

DVC_YAML = Path("dvc.yaml")
PARAMS = Path("params.yaml")

# Paths of the lab, for `retrace sweep`, which does not read them from dvc.yaml yet.
HISTORY = Path("reports/history.csv")
METRICS = Path("reports/metrics.json")


@dataclass(frozen=True)
class Groups:
    """Experiments that differ only in one parameter and are summarized as one run in MLflow.

    `over` is that parameter, such as `fold`; `of` the one that says how many there are, as `folds`.
    """

    over: str
    of: str


@dataclass(frozen=True)
class Metrics:
    """Which metric experiments are ranked by, and which metrics are better when lower.

    The latter are added to those whose name says so, such as `val_loss` and `rmse`.
    """

    primary: str | None = None
    minimize: tuple[str, ...] = ()


@dataclass(frozen=True)
class Params:
    """Parameters in which repetitions of the same experiment differ.

    A name without a dot also stands for the last part of longer ones: `seed` for `fit.seed`.
    """

    repeats: tuple[str, ...] = ("seed", "random_seed", "random_state")


@dataclass(frozen=True)
class PredictionsTable:
    """A table with the actual and the predicted value of each sample, by the names of its columns.

    If it has a column that identifies a sample, `id` is its name.
    """

    path: str
    actual: str = "actual"
    predicted: str = "predicted"
    id: str | None = None


@dataclass(frozen=True)
class Models:
    """The name of the model in MLflow's registry; by default that of the MLflow experiment."""

    name: str | None = None


@dataclass(frozen=True)
class Verify:
    """What `retrace verify` compares: stages and metrics, by name; `*` stands for any text.

    Files and metrics of the stages in `exact` are equal on all devices. Metrics and files in
    `ignore` are never compared.
    """

    exact: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweeps:
    """What `retrace sweep` optimizes by default, and what it never varies.

    `steps` is the parameter that counts the steps of a curve, such as `epochs`; `fixed` names
    parameters, or tables of them.
    """

    metric: str | None = None  # by default metrics.primary
    steps: str | None = None  # by default as many as the complete trials have
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The settings of a repository."""

    experiment: str | None = None  # by default the name of the repository's folder
    metrics: Metrics = field(default_factory=Metrics)
    params: Params = field(default_factory=Params)
    groups: Groups | None = None
    predictions: PredictionsTable | None = None  # by default the plot with `template: confusion`
    models: Models = field(default_factory=Models)
    verify: Verify = field(default_factory=Verify)
    sweep: Sweeps = field(default_factory=Sweeps)


def load(root: Path) -> Settings:
    """Return the settings of the repository at `root`. Raises ParamsError."""
    for name in FILES:
        file = root / name
        if not file.is_file():
            continue
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ParamsError(f"{name}: not TOML: {' '.join(str(error).split())}") from None
        is_own = name == "retrace.toml"
        table = document if is_own else document.get("tool", {}).get("retrace")
        if table is not None:
            return parse(Settings, table, f"{name}: " if is_own else f"{name}: tool.retrace.")
    return Settings()


def parse(kind: type[Any], table: Any, where: str) -> Any:
    """Return a settings dataclass from a TOML table. Raises ParamsError for the first mistake.

    `where` begins the message and is followed by the key. A text stands for a table with one key,
    if only one is needed.
    """
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    if isinstance(table, str) and len(needed) == 1:
        table = {needed[0]: table}
    if not isinstance(table, dict):
        raise ParamsError(f"{where.rstrip('. ')} is {table!r}; should be a table")
    types = get_type_hints(kind)
    unknown = next((key for key in table if key not in types), None)
    if unknown is not None:
        raise ParamsError(f"{where}{unknown} is unknown; should be one of {', '.join(types)}")
    missing = next((name for name in needed if name not in table), None)
    if missing is not None:
        raise ParamsError(f"{where}{missing} is missing")
    return kind(**{key: _value(types[key], value, f"{where}{key}") for key, value in table.items()})


def _value(expected: Any, value: Any, where: str) -> Any:
    if get_origin(expected) is tuple:
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ParamsError(f"{where} is {value!r}; should be a list of texts")
        return tuple(value)
    options = (option for option in get_args(expected) if option is not type(None))
    kind: Any = next(options, expected)
    if isinstance(kind, type) and is_dataclass(kind):
        return parse(kind, value, f"{where}.")
    if not isinstance(value, kind):
        raise ParamsError(f"{where} is {value!r}; should be {WORDS[kind]}")
    return value
