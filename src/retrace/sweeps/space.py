"""The search space of a sweep, as it is typed: `lr=log:1e-4..1e-1 model=cnn,lenet epochs=3`.

`..` is a range, of integers if the current value is an integer. `log:` before it makes it uniform
in the logarithm, `:16` after it sets the step. Commas separate choices. A single value is the same
in all trials. Everything is checked before anything runs; keys and values have the syntax of
`dvc exp run -S`.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import Trial

from retrace.errors import ParamsError
from retrace.pipeline import overrides, params_yaml
from retrace.pipeline.overrides import Flat
from retrace.pipeline.params_yaml import Values
from retrace.sweeps import axes, parameters
from retrace.sweeps.axes import Axis
from retrace.sweeps.parameters import Parameters

NAME = re.compile(
    r"[A-Za-z][A-Za-z0-9_-]{0,50}", re.ASCII
)  # valid as a file name and, with a number appended, as a DVC experiment
LONGEST = 30  # characters of the keys in a default name
EXAMPLE = "lr=log:1e-4..1e-1 or optimizer=sgd,adam"
MAX_NAMED = 20  # parameters in a message
MAX_COMBINED = 64  # combinations of choices that are tried to see whether a parameter is read


@dataclass(frozen=True)
class Space:
    """The axes by key, the values fixed in all trials, and the other values of the params files."""

    axes: Mapping[str, Axis]
    choices: Mapping[str, Mapping[str, Any]]  # the values of an axis of choices, by their text
    fixed: Flat
    parameters: Parameters

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
            for value in axes.values(self.axes[left[0]]):
                yield from self._below(taken | {left[0]: value}, left[1:])

    def suggested(self, trial: Trial) -> Flat:
        """Let Optuna suggest a trial; return its changes to the params files.

        A parameter is suggested only if a stage reads it.
        """
        taken: dict[str, Any] = {}
        for key, axis in self.axes.items():
            if self._is_read(key, taken):
                taken[key] = axes.suggested(trial, key, axis)
        return self.changes(taken)

    def changes(self, taken: Mapping[str, Any]) -> Flat:
        """Return the changes to the params files for a trial's parameters in Optuna."""
        return self.fixed | {
            key: self.choices[key][value] if key in self.choices else value
            for key, value in taken.items()
        }

    def values(self, changes: Flat) -> Values:
        """Return params.yaml with these changes, without other params files."""
        flat = self.parameters.base | changes
        return overrides.nest({key: value for key, value in flat.items() if ":" not in key})

    def read(self) -> Flat:
        """Return the values that stages of some trial read, without those that are swept."""
        keys = {key for combined in self.combined() for key in self._resolved_keys(combined)}
        flat = self.parameters.base | self.fixed
        return {key: flat[key] for key in flat if key in keys and key not in self.axes}

    def code(self) -> dict[str, str | None]:
        """Return the hash of dvc.yaml, and of each file that trials read and no stage makes."""
        changes = [self.changes(combined) for combined in self.combined()]
        return self.parameters.code(changes)

    def combined(self, *, without: str = "") -> list[dict[str, Any]]:
        """Return combinations of the values that decide which parameters stages read."""
        templates = [key for key in self.axes if self.parameters.is_template(key)]
        keys = [key for key in templates if key != without]
        many = product(*(axes.ends(self.axes[key]) for key in keys))
        return [dict(zip(keys, each, strict=True)) for each in islice(many, MAX_COMBINED)]

    def _resolved_keys(self, taken: Mapping[str, Any]) -> set[str]:
        templates = {key for key in self.parameters.base if self.parameters.is_template(key)}
        return self.parameters.resolved(self.changes(taken)).params.keys() | templates

    def described(self) -> dict[str, str]:
        """Return each axis as text, equal for equal axes."""
        return {key: axes.text(axis) for key, axis in self.axes.items()}

    def name(self, metric: str) -> str:
        """Return the sweep's default name."""
        names = (parameters.split(key)[1].rpartition(".")[2] for key in self.axes)
        keys = re.sub(r"[^A-Za-z0-9_]+", "-", "-".join(names))[:LONGEST].strip("-")
        keys = keys if keys[:1].isalpha() else f"sweep-{keys}"
        content = json.dumps([self.described(), self.fixed, metric], sort_keys=True)
        return f"{keys}-{hashlib.sha256(content.encode()).hexdigest()[:4]}"

    def _is_read(self, key: str, taken: Mapping[str, Any]) -> bool:
        is_template = self.parameters.is_template
        if is_template(key) or not any(map(is_template, self.axes)):
            return True
        return self.parameters.is_read(key, self.changes(taken))


def parse_space(words: Sequence[str], known: Parameters, fixed_keys: Sequence[str] = ()) -> Space:
    """Parse the space typed in `words`; `fixed_keys` are parameters or tables not to be swept.

    Raises ParamsError, in one line, for anything that is not allowed.
    """
    texts = dict(_split(word, known, fixed_keys) for word in words)
    if len(texts) < len(words):
        keys = [word.partition("=")[0] for word in words]
        raise ParamsError(f"{next(key for key in keys if keys.count(key) > 1)}: is given twice")
    read = {key: _read(key, text, known.base[key]) for key, text in texts.items()}
    fixed = {
        key: many[0] for key, many in read.items() if isinstance(many, list) and len(many) == 1
    }
    swept = {key: many for key, many in read.items() if key not in fixed}
    choices = {
        key: {overrides.literal(value): value for value in many}
        for key, many in swept.items()
        if isinstance(many, list)
    }
    by_key: dict[str, Axis] = {
        key: CategoricalDistribution(tuple(choices[key])) if isinstance(many, list) else many
        for key, many in sorted(
            swept.items(), key=lambda item: not known.is_template(item[0])
        )  # what decides which others are read comes first
    }
    space = Space(by_key, choices, fixed, known)
    _check_values(space, fixed)
    if not by_key:
        raise ParamsError(f"nothing varies: give a range or choices, such as {EXAMPLE}")
    _check(space, fixed_keys)
    return space


def _split(word: str, known: Parameters, fixed_keys: Sequence[str]) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    if not equals or not text:
        raise ParamsError(f"{word!r}: should be KEY=VALUES, such as {EXAMPLE}")
    if key not in known.base:
        file, name = parameters.split(key)
        inside = [other for other in known.base if other.startswith(f"{key}.")]
        same = [o for o in known.base if f".{parameters.split(o)[1]}".endswith(f".{name}")]
        near = same or ([] if inside else difflib.get_close_matches(key, known.base, n=1))
        hint = (
            f"did you mean {near[0]}?" if near else _should_be(inside or known.known(), fixed_keys)
        )
        raise ParamsError(f"{file}: {name} is not a parameter; {hint}")
    return key, text


def _should_be(keys: Sequence[str], fixed_keys: Sequence[str]) -> str:
    allowed = [key for key in keys if not _is_fixed(key, fixed_keys)]
    more = f" and {len(allowed) - MAX_NAMED} more" if len(allowed) > MAX_NAMED else ""
    return f"should be one of {', '.join(allowed[:MAX_NAMED])}{more}"


def _is_fixed(key: str, fixed_keys: Sequence[str]) -> bool:
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in fixed_keys)


def _read(key: str, text: str, current: Any) -> Axis | list[Any]:
    """Return the axis of a range, or a list of values; `current` is the one in the params file."""
    match = axes.RANGE.fullmatch(text)
    if match:
        if isinstance(current, bool | str | list | dict):
            problem = f"{text!r} is a range, but its value is {params_yaml.shorten(current)}"
            raise ParamsError(f"{key}: {problem}; give choices: {key}=A,B")
        return axes.parse_range(key, text, match, whole=not isinstance(current, float))
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, QuotedString, Sweep
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException as error:
        raise ParamsError(
            f"{key}: {text!r} is not valid for -S: {' '.join(str(error).split())[:100]}"
        ) from None
    if isinstance(value, Sweep) and not isinstance(value, ChoiceSweep):
        ranges = "LOW..HIGH, log:LOW..HIGH or LOW..HIGH:STEP"
        raise ParamsError(f"{key}: {text!r} is DVC's range syntax; here a range is {ranges}")
    many = value.list if isinstance(value, ChoiceSweep) else [value]
    unquoted = [each.text if isinstance(each, QuotedString) else each for each in many]
    read = [parameters.typed(key, each, current) for each in unquoted]
    if len(set(map(repr, read))) < len(read):
        raise ParamsError(f"{key}: {text!r} has a value twice")
    return read


def _check(space: Space, fixed_keys: Sequence[str]) -> None:
    """Check that each axis may be swept, and has an effect; check both ends of each range.

    Each value is checked with the others as they are, if a stage reads the parameter then.
    """
    for key in space.axes:
        if _is_fixed(key, fixed_keys):
            why = "the setting sweep.fixed names it"
            advice = f"`dvc exp run --queue -S '{key}=...'` runs all values"
            raise ParamsError(f"{key}: cannot be swept, because {why}; {advice}")
    for key, axis in space.axes.items():
        is_template = space.parameters.is_template(key)
        combined = [{}] if is_template else space.combined()
        read = (each for each in combined if space.parameters.is_read(key, space.changes(each)))
        others = {} if is_template else next(read, None)
        values = axes.ends(axis)
        for value in values:
            _check_values(space, space.changes({**(others or {}), key: value}))
        if others is None or (is_template and not _has_effect(space, key, values)):
            why = space.parameters.why_unread(key, space.fixed)
            allowed = _should_be(space.parameters.known(), fixed_keys)
            raise ParamsError(f"{key}: has no effect, because {why}; {allowed}")


def _has_effect(space: Space, key: str, values: Sequence[Any]) -> bool:
    """Return whether stages read a parameter, or change with it by `${...}`."""
    changes = [space.changes({key: value}) for value in values]
    if any(space.parameters.is_read(key, each) for each in changes):
        return True
    stages = [space.parameters.resolved(each).stages for each in changes]
    return any(each != stages[0] for each in stages)


def _check_values(space: Space, changes: Flat) -> None:
    params_yaml.check(space.values(changes), changes)
