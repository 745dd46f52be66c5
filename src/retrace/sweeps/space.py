"""The search space of a sweep, as it is typed: `lr=log:1e-4..1e-1 model=cnn,lenet epochs=3`.

`..` is a range, of integers if params.yaml has an integer. `log:` before it makes it uniform in the
logarithm, `:16` after it sets the step. Commas separate choices. A single value is the same in all
trials. Everything is checked against params.yaml before anything runs; values have the syntax of
`dvc exp run -S`.
"""

import difflib
import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from retrace.errors import ParamsError
from retrace.pipeline import graph, metrics, overrides, params_file
from retrace.pipeline.metrics import Direction
from retrace.pipeline.overrides import Flat
from retrace.pipeline.params_file import Values

TRAIN = "train"  # the stage whose metrics a sweep optimizes
METRICS = ("val_loss", "val_accuracy")  # measured on the validation split after each epoch
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER}?)\.\.({NUMBER})(?::({NUMBER}))?")
NAME = re.compile(
    r"[A-Za-z][A-Za-z0-9_-]{0,50}", re.ASCII
)  # valid as a file name and, with a number appended, as a DVC experiment
LONGEST = 30  # characters of the keys in a default name
OTHER_DATA = (
    "dataset", "datasets", "validation_fraction", "test_fraction", "split_seed", "folds", "fold",
)  # fmt: skip

Axis = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Space:
    """The axes by key, the values fixed in all trials, and the other values from params.yaml."""

    axes: Mapping[str, Axis]
    choices: Mapping[str, Mapping[str, Any]]  # the values of an axis of choices, by their text
    fixed: Flat
    base: Flat
    tables: Mapping[str, str]  # the table in which a parameter chooses an entry: model -> models

    def all_trials(self, most: int) -> list[dict[str, Any]] | None:
        """Return the parameters of every possible trial; None if there are more than `most`."""
        if any(
            isinstance(axis, FloatDistribution) and axis.step is None for axis in self.axes.values()
        ):
            return None
        trials = list(islice(self._below({}, list(self.axes)), most + 1))
        return trials if len(trials) <= most else None

    def _below(self, taken: dict[str, Any], left: Sequence[str]) -> Iterator[dict[str, Any]]:
        if not left:
            yield taken
        elif not self._is_read(left[0], taken):
            yield from self._below(taken, left[1:])
        else:
            for value in _values(self.axes[left[0]]):
                yield from self._below(taken | {left[0]: value}, left[1:])

    def suggested(self, trial: Trial) -> Flat:
        """Let Optuna suggest a trial; return its changes to params.yaml.

        Settings of an entry are suggested only if it is chosen.
        """
        taken: dict[str, Any] = {}
        for key, axis in self.axes.items():
            if self._is_read(key, taken):
                taken[key] = _suggested(trial, key, axis)
        return self.changes(taken)

    def changes(self, taken: Mapping[str, Any]) -> Flat:
        """Return the changes to params.yaml for a trial's parameters in Optuna."""
        return self.fixed | {
            key: self.choices[key][value] if key in self.choices else value
            for key, value in taken.items()
        }

    def values(self, changes: Flat) -> Values:
        """Return params.yaml with these changes."""
        return overrides.nest(self.base | changes)

    def described(self) -> dict[str, str]:
        """Return each axis as text, equal for equal axes."""
        return {key: _axis_text(axis) for key, axis in self.axes.items()}

    def name(self, metric: str) -> str:
        """Return the sweep's default name."""
        keys = "-".join(key.rpartition(".")[2] for key in self.axes)[:LONGEST].rstrip("-")
        content = json.dumps([self.described(), self.fixed, metric], sort_keys=True)
        return f"{keys}-{hashlib.sha256(content.encode()).hexdigest()[:4]}"

    def _is_read(self, key: str, taken: Mapping[str, Any]) -> bool:
        choice, entry = _owner(key, self.tables)
        return choice is None or {**self.base, **self.changes(taken)}[choice] == entry


def parse_space(words: Sequence[str], values: Values) -> Space:
    """Parse the space typed in `words`; `values` are those of params.yaml.

    Raises ParamsError, in one line, for anything that is not allowed.
    """
    base = overrides.flatten(values, keep_empty=True)
    tables = graph.choices()
    texts = dict(_split(word, base, tables) for word in words)
    if len(texts) < len(words):
        keys = [word.partition("=")[0] for word in words]
        raise ParamsError(f"{next(key for key in keys if keys.count(key) > 1)}: is given twice")
    read = {key: _read(key, text, base) for key, text in texts.items()}
    fixed = {
        key: many[0] for key, many in read.items() if isinstance(many, list) and len(many) == 1
    }
    swept = {key: many for key, many in read.items() if key not in fixed}
    choices = {
        key: {overrides.word(key, value): value for value in many}
        for key, many in swept.items()
        if isinstance(many, list)
    }
    axes = {
        key: CategoricalDistribution(tuple(choices[key])) if isinstance(many, list) else many
        for key, many in sorted(
            swept.items(), key=lambda item: item[0] not in tables
        )  # settings after their choice
    }
    space = Space(axes, choices, fixed, base, tables)
    _check_values(space, fixed)
    if not axes:
        raise ParamsError(
            "nothing varies: give a range (lr=log:1e-4..1e-1) or choices (model=cnn,lenet)"
        )
    _check(space)
    return space


def sweep_direction(name: str) -> Direction:
    """Return the direction in which a metric is better.

    Raises ParamsError if a sweep must not optimize it.
    """
    if name in METRICS:
        return metrics.direction(name)
    part, _, _ = name.partition("_")
    why = {
        "test": "selecting parameters on the test split would bias the test metrics",
        "train": "selecting parameters on the training split would favor overfitting",
    }.get(part, "no other metric is logged after each epoch")
    raise ParamsError(f"--metric is {name!r}; should be one of {', '.join(METRICS)}: {why}")


def _split(word: str, base: Flat, tables: Mapping[str, str]) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    if not equals or not text:
        raise ParamsError(
            f"{word!r}: should be KEY=VALUES, such as lr=log:1e-4..1e-1 or model=cnn,lenet"
        )
    if key not in base:
        near = [] if key in tables.values() else difflib.get_close_matches(key, base, n=1)
        settings = [other for other in base if other.startswith(f"{key}.")]
        known = settings or [
            param for param in graph.declared()[TRAIN]["params"] if "." not in param
        ]
        hint = f"did you mean {near[0]}?" if near else f"should be one of {', '.join(known)}"
        raise ParamsError(f"params.yaml: {key} is not a parameter; {hint}")
    return key, text


def _read(key: str, text: str, base: Flat) -> Axis | list[Any]:
    """Return the axis of a range, or a list of values."""
    match = RANGE.fullmatch(text)
    if match:
        return _range(key, text, match, whole=not isinstance(base[key], float))
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, QuotedString, Sweep
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(f"{key}={text}").value()
    except HydraException as error:
        raise ParamsError(
            f"{key}: {text!r} is not valid for -S: {' '.join(str(error).split())[:100]}"
        ) from None
    if isinstance(value, Sweep) and not isinstance(value, ChoiceSweep):
        ranges = "LOW..HIGH, log:LOW..HIGH or LOW..HIGH:STEP"
        raise ParamsError(f"{key}: {text!r} is DVC's range syntax; here a range is {ranges}")
    many = value.list if isinstance(value, ChoiceSweep) else [value]
    read = [each.text if isinstance(each, QuotedString) else each for each in many]
    if len(set(map(repr, read))) < len(read):
        raise ParamsError(f"{key}: {text!r} has a value twice")
    return read


def _range(key: str, text: str, match: re.Match[str], *, whole: bool) -> Axis:
    log, *ends = match.groups()
    whole = whole and all(end is None or re.fullmatch(r"[-+]?\d+", end) for end in ends)
    low, high, step = (None if end is None else int(end) if whole else float(end) for end in ends)
    assert low is not None  # noqa: S101 - the expression has both ends
    assert high is not None  # noqa: S101
    if not math.isfinite(low) or not math.isfinite(high) or low >= high:
        raise ParamsError(f"{key}: {text!r} should go from a lower number to a higher one")
    if log and (low <= 0 or step is not None):
        raise ParamsError(
            f"{key}: {text!r} should begin above 0 and have no step, because it is logarithmic"
        )
    if step is not None and not 0 < step <= high - low:
        raise ParamsError(f"{key}: {text!r} should have a step above 0 and at most {high - low:g}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns if the range is not a multiple of the step
        if whole:
            return IntDistribution(int(low), int(high), log=bool(log), step=int(step or 1))
        return FloatDistribution(low, high, log=bool(log), step=step)


def _check(space: Space) -> None:
    """Check both ends of each range and each choice, with the other values from params.yaml.

    Each must be allowed, be read by training, and leave the data as they are.
    """
    for key in space.axes:
        if key.partition(".")[0] in OTHER_DATA:
            why = "scores on different data are not comparable"
            advice = f"`dvc exp run --queue -S '{key}=...'` runs all values"
            raise ParamsError(f"{key}: cannot be swept, because {why}; {advice}")
    for key, axis in space.axes.items():
        choice, entry = _owner(key, space.tables)
        chosen = {}
        if choice and choice in space.choices and entry in space.choices[choice]:
            chosen = {choice: entry}
        for value in _ends(axis):
            changes = space.changes({**chosen, key: value})
            values = _check_values(space, changes)
            if key not in overrides.select(values, graph.stages(values)[TRAIN].params):
                why = f"{choice} is {values[choice]}" if choice else "training does not read it"
                raise ParamsError(f"{key}: has no effect, because {why}; leave it out")


def _check_values(space: Space, changes: Flat) -> Values:
    values = space.values(changes)
    params_file.check(values, changes)
    return values


def _owner(key: str, tables: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the choice and the entry that the setting `key` belongs to."""
    table, _, rest = key.partition(".")
    choice = next((choice for choice, name in tables.items() if name == table), None)
    return choice, rest.partition(".")[0]


def _ends(axis: Axis) -> list[Any]:
    return (
        list(axis.choices) if isinstance(axis, CategoricalDistribution) else [axis.low, axis.high]
    )


def _suggested(trial: Trial, key: str, axis: Axis) -> Any:
    match axis:
        case CategoricalDistribution():
            return trial.suggest_categorical(key, axis.choices)
        case IntDistribution():
            return trial.suggest_int(key, axis.low, axis.high, step=axis.step, log=axis.log)
        case FloatDistribution():
            return trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)


def _values(axis: Axis) -> Iterator[Any]:
    match axis:
        case CategoricalDistribution():
            yield from axis.choices
        case IntDistribution():
            yield from range(axis.low, axis.high + 1, axis.step)
        case FloatDistribution(step=float(step)):
            yield from (
                axis.low + number * step
                for number in range(round((axis.high - axis.low) / step) + 1)
            )


def _axis_text(axis: Axis) -> str:
    if isinstance(axis, CategoricalDistribution):
        return ",".join(map(str, axis.choices))
    step = (
        ""
        if axis.step in (None, 1) and not (isinstance(axis, FloatDistribution) and axis.step)
        else f":{axis.step}"
    )
    return f"{'log:' if axis.log else ''}{axis.low}..{axis.high}{step}"
