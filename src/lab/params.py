"""The schema of params.yaml: one frozen, strictly typed object per stage.

params.yaml is the only source of values: no field has a default. A *choice* (`model: cnn`) names
an entry of a table (`models:`) with its settings. The keyword-only arguments of the chosen
function are the schema of those settings, so a new entry needs no change here.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
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
from pydantic_core import ErrorDetails

from lab import paths
from retrace.errors import ParamsError, RetraceError
from retrace.pipeline import loading, overrides
from retrace.pipeline.params_yaml import Values, read, shorten

TABLES = {
    "dataset": "datasets",
    "model": "models",
    "loss": "losses",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "augmentation": "augmentations",
}

Table = dict[str, dict[str, Any]]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Scaling = Literal["standard", "unit", "imagenet", "pretrained"]
Sampling = Literal["shuffled", "balanced"]


class Strict(BaseModel):
    settings_unread: ClassVar[tuple[str, ...]] = ()  # choices whose settings the stage ignores
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
Alpha = Annotated[float, Field(ge=0, le=1000)]
Count = Annotated[int, Field(ge=1, le=10**9)]
AUTO = 0  # as a batch size: the train stage has yet to choose it


def _batch_size(size: object) -> object:
    if size == "auto":
        return AUTO
    if isinstance(size, str) or size == 0:
        raise ValueError("should be a number of 1 or more, or auto")
    return size


BatchSize = Annotated[int, BeforeValidator(_batch_size), Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Download(Strict):
    dataset: Chosen
    settings_unread: ClassVar = ("dataset",)  # they configure how the files are read later


class Preprocess(Strict):
    dataset: Chosen
    validation_fraction: Fraction
    test_fraction: Fraction
    class_shares: list[Share]
    folds: Annotated[int, Field(ge=1, le=100)]
    fold: Annotated[int, Field(ge=0)]
    split_seed: Seed
    shard_mb: Annotated[int, Field(ge=1, le=10**6)]
    near_duplicates: Annotated[int, Field(ge=0, le=8)]

    @field_validator("fold")
    @classmethod
    def _one_of_them(cls, fold: int, info: ValidationInfo) -> int:
        if fold >= info.data.get("folds", fold + 1):
            raise ValueError(f"should be less than folds, which is {info.data['folds']}")
        return fold


class Hardware(Strict):
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: Annotated[int, Field(ge=1, le=1024)]


class Train(Hardware):
    precision: Precision
    model: Chosen
    loss: Chosen
    optimizer: Chosen
    schedule: Chosen
    augmentation: Chosen
    mixup: Alpha
    cutmix: Alpha
    sampling: Sampling
    input_size: Annotated[int, Field(ge=0, le=2048)]
    scaling: Scaling
    pretrained: Annotated[str, Field(min_length=1)]
    freeze_backbone: bool
    lr: Annotated[float, Field(gt=0, le=1000)]
    layer_decay: Share
    batch_size: BatchSize
    accumulation: Count
    clip_norm: Annotated[float, Field(ge=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    epochs: Count
    unfreeze_epoch: Annotated[int, Field(ge=0, le=10**9)]
    patience: Annotated[int, Field(ge=0, le=10**9)]
    keep: Literal["best", "last"]
    seed: Seed
    processes: Annotated[int, Field(ge=1, le=1024)]

    @property
    def mixes(self) -> bool:
        """Whether the inputs of a batch are mixed with each other."""
        return bool(self.mixup or self.cutmix)

    @field_validator("accumulation")
    @classmethod
    def _no_empty_part(cls, accumulation: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", accumulation)
        if AUTO < batch_size < accumulation:
            raise ValueError(f"should be at most batch_size, which is {batch_size}")
        return accumulation

    @field_validator("unfreeze_epoch")
    @classmethod
    def _within_training(cls, epoch: int, info: ValidationInfo) -> int:
        if epoch and not info.data.get("freeze_backbone", True):
            raise ValueError("should be 0, because freeze_backbone is false")
        if epoch and epoch >= info.data.get("epochs", epoch + 1):
            raise ValueError(f"should be less than epochs, which is {info.data['epochs']}")
        return epoch


class Evaluate(Hardware):
    pass


class Visualize(Download, Preprocess, Train, Evaluate):
    """All parameters, with the settings of the chosen entries only: the report shows them."""

    settings_unread: ClassVar = ()
    figures: Table


class Experiment(Visualize):
    """The whole file, which every stage validates. `bind` validates the settings of a table."""

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


def load(stage: type[Stage], path: Path = paths.PARAMS) -> Stage:
    """Load the parameters of one stage and validate the whole file.

    Raises ParamsError with one line for each problem.
    """
    experiment = checked(read(path))
    return stage.model_construct(**{name: getattr(experiment, name) for name in stage.model_fields})


def checked(values: Values) -> Experiment:
    """Validate the values of params.yaml, without those that only stages of a user's own read.

    Raises ParamsError with one line for each problem.
    """
    own = _read_by_others(values.keys() - Experiment.model_fields.keys())
    values = {key: value for key, value in values.items() if key not in own}
    tables = {table: values.get(table) for table in TABLES.values()}
    tables = {name: table if isinstance(table, dict) else {} for name, table in tables.items()}
    try:
        return Experiment.model_validate(values, context=tables)
    except ValidationError as error:
        message = _message(error, f"{paths.PARAMS}: ", tuple(Experiment.model_fields))
        raise ParamsError(message) from None


def _read_by_others(keys: set[str]) -> set[str]:
    """Return those of these keys that stages in dvc.yaml read; others may be typing errors."""
    if not keys:
        return set()
    with suppress(RetraceError):  # of a dvc.yaml that DVC refuses too
        stages = loading.load(Path()).stages.values()
        read_keys = {key for stage in stages for key in stage.params.get(str(paths.PARAMS), ())}
        return keys & {key.partition(".")[0] for key in read_keys}
    return set()


def bind(
    table: Mapping[str, Callable[..., Built]], choice: Choice, kind: str
) -> Callable[..., Built]:
    """Bind the settings of `choice` to the keyword-only arguments of its function in `table`.

    `kind` is the table's name in params.yaml. Raises ParamsError if a setting is missing, unknown
    or not allowed by the argument's annotation.
    """
    prefix = f"{paths.PARAMS}: {kind}.{choice.name}"
    if choice.name not in table:
        raise ParamsError(f"{prefix} is not implemented; should be one of {', '.join(table)}")
    arguments = inspect.signature(table[choice.name], eval_str=True).parameters.values()
    settings = [argument for argument in arguments if argument.kind is argument.KEYWORD_ONLY]
    fields: dict[str, Any] = {setting.name: (setting.annotation, ...) for setting in settings}
    schema = create_model("Settings", __base__=Strict, **fields)
    try:
        values = schema.model_validate(choice.settings)
    except ValidationError as error:
        raise ParamsError(_message(error, f"{prefix}.", tuple(fields))) from None
    return partial(table[choice.name], **values.model_dump())


def bind_all(
    table: Mapping[str, Callable[..., Built]], settings: Table, kind: str
) -> dict[str, Callable[..., Built]]:
    """Bind the settings of every function in `table`. Raises ParamsError as `bind` does."""
    odd = set(table) ^ set(settings)
    if odd:
        name = min(odd)
        problem = "is missing" if name in table else "is unknown"
        expected = f"{kind} should have settings for {', '.join(table)}"
        raise ParamsError(f"{paths.PARAMS}: {kind}.{name} {problem}; {expected}")
    return {name: bind(table, Choice(name=name, settings=settings[name]), kind) for name in table}


def keys_of(stage: type[Strict]) -> list[str]:
    """List the keys that `stage` reads, as in dvc.yaml; of a table, only the chosen entry."""
    keys = [field for field in stage.model_fields if field not in TABLES.values()]
    choices = [key for key in keys if key in TABLES and key not in stage.settings_unread]
    return keys + [f"{TABLES[choice]}.${{{choice}}}" for choice in choices]


def chosen(values: Values, stage: type[Strict] = Experiment) -> dict[str, Any]:
    """Return the values that `stage` reads, flat (`models.cnn.hidden`), of chosen entries only."""
    kept = {key: values[key] for key in stage.model_fields if key not in TABLES.values()}
    for choice, table in TABLES.items():
        if choice in kept and choice not in stage.settings_unread:
            kept[table] = {values[choice]: values[table][values[choice]]}
    return overrides.flatten(kept)


def _message(error: ValidationError, prefix: str, known: tuple[str, ...]) -> str:
    """Return one line for each problem: its key, its value and what is allowed."""
    return "\n".join(f"{prefix}{_problem(details, known)}" for details in error.errors())


def _problem(details: ErrorDetails, known: tuple[str, ...]) -> str:
    key = ".".join(map(str, details["loc"]))
    if details["type"] == "missing":
        return f"{key} is missing; every key must have a value"
    if details["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=1)
        own = "name those of your own stage in its `params:` in dvc.yaml"
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}; {own}"
        return f"{key} is not a key; {hint}"
    allowed = details["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{key} is {shorten(details['input'])}; {allowed}"
