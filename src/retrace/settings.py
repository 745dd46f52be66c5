"""Read retrace's settings: `[tool.retrace]` in pyproject.toml, or a file retrace.toml.

None is needed: the defaults suit any repository. Example:

    [tool.retrace]
    experiment = "${dataset}"                     # MLflow experiment
    metrics = { primary = "test_accuracy" }       # by which `retrace leaderboard` sorts
    groups = { over = "fold", of = "folds" }      # experiments that are summarized as one
    sweep = { metric = "val_loss", fixed = ["dataset"] }   # what `retrace sweep` optimizes, and not
"""

import tomllib
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from retrace.errors import ParamsError

FILES = ("retrace.toml", "pyproject.toml")
WORDS = {str: "text"}

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
    """Experiments that differ only in one parameter and are summarized as one run in MLflow.

    `over` is that parameter, such as `fold`; `of` the one that says how many there are, as `folds`.
    """

    over: str
    of: str


@dataclass(frozen=True)
class Metrics:
    """Which metric experiments are ranked by, unless a command names another.

    `minimize` names the metrics of which a lower value is better, where the name does not say so.
    """

    primary: str | None = None
    minimize: tuple[str, ...] = ()


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
    metrics: Metrics | None = None
    groups: Groups | None = None
    sweep: Sweeps = Sweeps()


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

    `where` begins the message and is followed by the key.
    """
    if not isinstance(table, dict):
        raise ParamsError(f"{where.rstrip('. ')} is {table!r}; should be a table")
    types = get_type_hints(kind)
    unknown = next((key for key in table if key not in types), None)
    if unknown is not None:
        raise ParamsError(f"{where}{unknown} is unknown; should be one of {', '.join(types)}")
    missing = next(
        (f.name for f in fields(kind) if f.default is MISSING and f.name not in table), None
    )
    if missing is not None:
        raise ParamsError(f"{where}{missing} is missing")
    return kind(**{key: _value(types[key], value, f"{where}{key}") for key, value in table.items()})


def _value(expected: Any, value: Any, where: str) -> Any:
    if get_origin(expected) is tuple:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ParamsError(f"{where} is {value!r}; should be a list of texts")
        return tuple(value)
    options = (option for option in get_args(expected) if option is not type(None))
    kind: Any = next(options, expected)
    if isinstance(kind, type) and is_dataclass(kind):
        return parse(kind, value, f"{where}.")
    if not isinstance(value, kind):
        raise ParamsError(f"{where} is {value!r}; should be {WORDS[kind]}")
    return value
