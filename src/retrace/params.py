"""params.yaml as one frozen, strictly typed object a stage.

Every value lives in params.yaml and nowhere else: no field here has a default. A *choice* (`model: cnn`) names an
entry of a table (`models:`) that holds its settings; what the settings may be is said by the keyword-only arguments
of the function that the choice stands for, so that a new entry touches no line of this module.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from ruamel.yaml import YAML, YAMLError

from retrace import overrides, paths
from retrace.errors import ParamsError

TABLES = {
    "dataset": "datasets",
    "model": "models",
    "loss": "losses",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "augmentation": "augmentations",
}

Table = dict[str, dict[str, Any]]
Values = dict[str, Any]


Precision = Literal["auto", "float32", "bfloat16"]
Scaling = Literal["standard", "unit", "imagenet"]


class Strict(BaseModel):
    settings_unread: ClassVar[tuple[str, ...]] = ()  # choices of which the name alone matters
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Choice(Strict):
    name: str
    settings: dict[str, Any]


def _chosen(name: object, info: ValidationInfo) -> Choice:
    entries = (info.context or {})[TABLES[str(info.field_name)]]
    if not isinstance(name, str) or name not in entries:
        raise ValueError(f"should be one of {', '.join(entries)}")
    return Choice(name=name, settings=entries[name])


Chosen = Annotated[Choice, BeforeValidator(_chosen)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Download(Strict):
    dataset: Chosen
    settings_unread: ClassVar = ("dataset",)  # they say how files are read, which changes no file


class Preprocess(Strict):
    dataset: Chosen
    validation_fraction: Fraction
    test_fraction: Fraction
    class_shares: list[Share]
    folds: Annotated[int, Field(ge=1, le=100)]
    fold: Annotated[int, Field(ge=0)]
    split_seed: Seed

    @field_validator("fold")
    @classmethod
    def _one_of_them(cls, fold: int, info: ValidationInfo) -> int:
        if fold >= info.data.get("folds", fold + 1):
            raise ValueError(f"should be less than folds, which is {info.data['folds']}")
        return fold


class Hardware(Strict):
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=1024)]


class Train(Hardware):
    precision: Precision
    model: Chosen
    loss: Chosen
    optimizer: Chosen
    schedule: Chosen
    augmentation: Chosen
    scaling: Scaling
    pretrained: Annotated[str, Field(min_length=1)]
    freeze_trunk: bool
    lr: Annotated[float, Field(gt=0, le=1000)]
    batch_size: Count
    epochs: Count
    patience: Annotated[int, Field(ge=0, le=10**9)]
    keep: Literal["best", "last"]
    seed: Seed


class Evaluate(Hardware):
    pass


class Visualize(Download, Preprocess, Train, Evaluate):
    """All that was chosen, which the page shows."""

    settings_unread: ClassVar = ()
    figures: Table


class Experiment(Visualize):
    """The whole file, which every stage checks before its work; a table's settings are checked by who uses them."""

    datasets: Table
    models: Table
    losses: Table
    optimizers: Table
    schedules: Table
    augmentations: Table


STAGES: dict[str, type[Strict]] = {
    "download": Download,
    "preprocess": Preprocess,
    "train": Train,
    "evaluate": Evaluate,
    "visualize": Visualize,
}

Stage = TypeVar("Stage", bound=Strict)
Built = TypeVar("Built")


def read(path: Path = paths.PARAMS) -> Values:
    """The values of params.yaml as DVC reads them: the same parser, hence the same YAML 1.2 scalars."""
    try:
        return parsed(path.read_bytes(), path)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run this in the repository's root") from None


def parsed(content: bytes, path: Path = paths.PARAMS) -> Values:
    """The values in what `path` holds, or once held. Raises ParamsError where it is not a table."""
    try:
        values = YAML(typ="safe").load(content.decode())
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: should be a table of keys and values")
    for key, value in values.items():
        if fault := _fault(key, value):
            raise ParamsError(f"{path}: {key} {fault}")
    return values


def _fault(key: object, value: object) -> str | None:
    """What YAML allows and parameters do not: an alias, by which a few lines can stand for billions; a key that is no
    text.
    """
    seen: set[int] = set()
    left = [{key: value}]
    while left:
        inner = left.pop()
        if id(inner) in seen:
            return "has an alias (*name) in it; write the values out, each in its own place"
        seen.add(id(inner))
        if isinstance(inner, dict) and (odd := [name for name in inner if not isinstance(name, str)]):
            return f"has the key {_short(odd[0])} in it; every key should be text, as in quotes"
        below = inner.values() if isinstance(inner, dict) else inner
        left += [each for each in below if isinstance(each, dict | list)]
    return None


def load(stage: type[Stage], path: Path = paths.PARAMS) -> Stage:
    """The parameters of one stage, after the whole file has been checked. Raises ParamsError, a line a fault."""
    experiment = checked(read(path))
    return stage.model_construct(**{name: getattr(experiment, name) for name in stage.model_fields})


def checked(values: Values) -> Experiment:
    """All of params.yaml's values, typed. Raises ParamsError, a line a fault."""
    tables = {table: values[table] if isinstance(values.get(table), dict) else {} for table in TABLES.values()}
    try:
        return Experiment.model_validate(values, context=tables)
    except ValidationError as error:
        raise ParamsError(_explained(error, str(paths.PARAMS), tuple(Experiment.model_fields))) from None


def bind(table: Mapping[str, Callable[..., Built]], choice: Choice, kind: str) -> Callable[..., Built]:
    """The function of `table` that `choice` names, its settings bound to its keyword-only arguments.

    `kind` is the table's name in params.yaml. Raises ParamsError where a setting is missing, unknown, or not what
    the argument's annotation allows.
    """
    if choice.name not in table:
        raise ParamsError(f"{paths.PARAMS}: {kind}.{choice.name} has no code; should be one of {', '.join(table)}")
    arguments = inspect.signature(table[choice.name], eval_str=True).parameters.values()
    fields: dict[str, Any] = {a.name: (a.annotation, ...) for a in arguments if a.kind is a.KEYWORD_ONLY}
    try:
        settings = create_model("Settings", __base__=Strict, **fields).model_validate(choice.settings)
    except ValidationError as error:
        prefix = f"{paths.PARAMS}: {kind}.{choice.name}"
        raise ParamsError(_explained(error, prefix, tuple(fields), joint=".")) from None
    return partial(table[choice.name], **settings.model_dump())


def bind_all(table: Mapping[str, Callable[..., Built]], settings: Table, kind: str) -> dict[str, Callable[..., Built]]:
    """Every function of `table` with its settings bound, by name. Raises ParamsError as `bind` does."""
    if faults := set(table) ^ set(settings):
        raise ParamsError(f"{paths.PARAMS}: {kind} should have settings for {', '.join(table)}; look at {min(faults)}")
    return {name: bind(table, Choice(name=name, settings=settings[name]), kind) for name in table}


def keys_of(stage: type[Strict]) -> list[str]:
    """The keys of params.yaml that `stage` reads, as dvc.yaml names them: of a table, the chosen entry alone."""
    choices = [field for field in stage.model_fields if field in TABLES and field not in stage.settings_unread]
    tables = [f"{TABLES[choice]}.${{{choice}}}" for choice in choices]
    return [*(field for field in stage.model_fields if field not in TABLES.values()), *tables]


def chosen(values: Values, stage: type[Strict] = Experiment) -> dict[str, Any]:
    """The values that matter to `stage`, flat (`models.cnn.hidden`): settings not chosen are left out."""
    kept = {key: values[key] for key in stage.model_fields if key not in TABLES.values()}
    for choice, table in TABLES.items():
        if choice in kept and choice not in stage.settings_unread:
            kept[table] = {values[choice]: values[table][values[choice]]}
    return overrides.flatten(kept)


def _explained(error: ValidationError, prefix: str, known: tuple[str, ...], joint: str = ": ") -> str:
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "missing":
            said = "is missing; every key must have a value"
        elif fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, n=1)
            said = f"is not a key; {f'did you mean {near[0]}?' if near else 'known are ' + ', '.join(known)}"
        else:
            allowed = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
            said = f"is {_short(fault['input'])}; {allowed}"
        lines.append(f"{prefix}{joint}{key} {said}")
    return "\n".join(lines)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
